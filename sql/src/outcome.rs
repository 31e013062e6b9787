//! What a statement answers with.

use tokio::sync::mpsc;

use crate::error::SqlError;
use crate::limits::ROWS_BUFFERED_MAX;

/// The answer to one statement.
#[derive(Debug)]
pub enum Outcome {
    /// It is done, and in place.
    Done {
        /// For people: `stream demo created`.
        message: String,
        /// What looks like a slip, a line each.
        warnings: Vec<String>,
    },
    /// Rows that end: a one-shot SELECT, SHOW, DESCRIBE, EXPLAIN.
    Rows(RowStream),
    /// Rows that go on until the query is terminated or the receiver is dropped: SELECT … EMIT. It is already
    /// listening: what is appended from now on will be seen.
    Changes(RowStream),
}

/// Rows as they come, each one compact line of JSON with its members in column order. Bounded: who does not read
/// holds the query back, never the memory. Dropping it ends the query.
#[derive(Debug)]
pub struct RowStream {
    rows: mpsc::Receiver<Result<String, SqlError>>,
    warnings: Vec<String>,
    as_of: Vec<String>,
}

/// The query's end of a [`RowStream`].
pub(crate) type RowSender = mpsc::Sender<Result<String, SqlError>>;

impl RowStream {
    /// A channel of rows.
    pub(crate) fn channel() -> (RowSender, RowStream) {
        let (sender, rows) = mpsc::channel(ROWS_BUFFERED_MAX);
        (sender, RowStream::of(rows))
    }

    /// Rows that are there already.
    pub(crate) fn ready(rows: Vec<String>) -> RowStream {
        let (sender, stream) = mpsc::channel(rows.len().max(1));
        for row in rows {
            // The channel has room for all of them and its receiver is held here.
            let _ = sender.try_send(Ok(row));
        }
        RowStream::of(stream)
    }

    fn of(rows: mpsc::Receiver<Result<String, SqlError>>) -> RowStream {
        RowStream {
            rows,
            warnings: Vec::new(),
            as_of: Vec::new(),
        }
    }

    /// With how far the views are that it reads.
    pub(crate) fn reaching(mut self, as_of: Vec<String>) -> RowStream {
        self.as_of = as_of;
        self
    }

    /// The last records, `stream:shard:offset`, that are in the rows of the views it reads; there may be later ones too.
    /// Empty where it reads none.
    pub fn as_of(&self) -> &[String] {
        &self.as_of
    }

    /// With what looks like a slip in the statement.
    pub(crate) fn warned(mut self, warnings: Vec<String>) -> RowStream {
        self.warnings = warnings;
        self
    }

    /// What looks like a slip in the statement, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The next row; None at the end. An error is the last item.
    pub async fn next(&mut self) -> Option<Result<String, SqlError>> {
        self.rows.recv().await
    }

    /// As [`RowStream::next`], for those who write their own `Stream`.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<String, SqlError>>> {
        self.rows.poll_recv(context)
    }

    /// The same rows, all of them read.
    pub(crate) async fn gathered(mut self) -> Result<RowStream, SqlError> {
        let (warnings, as_of) = (std::mem::take(&mut self.warnings), std::mem::take(&mut self.as_of));
        Ok(RowStream::ready(self.collect().await?).warned(warnings).reaching(as_of))
    }

    /// All rows to the end.
    pub async fn collect(mut self) -> Result<Vec<String>, SqlError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await {
            rows.push(row?);
        }
        Ok(rows)
    }
}
