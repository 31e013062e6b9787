//! Runs one statement after the other and prints what comes.

use std::time::Duration;

use anyhow::Result;

use crate::client::{Client, Item};
use crate::sql::output::{PrintError, Printer};

/// A client, how it prints and when it stops.
pub struct Session {
    client: Client,
    printer: Printer,
    limit: Option<u64>,
    timeout: Option<Duration>,
}

impl Session {
    /// `limit` rows of one statement; `timeout` for rows that do not end.
    pub fn new(client: Client, printer: Printer, limit: Option<u64>, timeout: Option<Duration>) -> Session {
        Session {
            client,
            printer,
            limit,
            timeout,
        }
    }

    /// The server it talks to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs one statement to its end, to the limit or to the timeout. Standard output that nobody reads any more is an
    /// end as well.
    pub async fn run(&mut self, statement: &str) -> Result<()> {
        let outcome = self.run_to_end(statement).await;
        let finished = self.printer.finish();
        match outcome.and(finished.map_err(Into::into)) {
            Err(error) if matches!(error.downcast_ref(), Some(PrintError::Closed)) => std::process::exit(0),
            outcome => outcome,
        }
    }

    async fn run_to_end(&mut self, statement: &str) -> Result<()> {
        if self.limit == Some(0) {
            return Ok(());
        }
        let mut results = self.client.run(statement).await?;
        let mut rows = 0;
        let mut deadline = None;
        loop {
            let next = async {
                match deadline {
                    Some(deadline) => tokio::time::timeout_at(deadline, results.next())
                        .await
                        .unwrap_or(Ok(None)),
                    None => results.next().await,
                }
            };
            match next.await? {
                None => return Ok(()),
                Some(Item::Warning(warning)) => eprintln!("warning: {warning}"),
                Some(Item::Done(message)) => eprintln!("{message}"),
                Some(Item::Rows) => self.printer.begin(false)?,
                Some(Item::Changes) => {
                    self.printer.begin(true)?;
                    deadline = self.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
                }
                Some(Item::Row(row)) => {
                    self.printer.row(&row)?;
                    rows += 1;
                    if self.limit == Some(rows) {
                        return Ok(());
                    }
                }
            }
        }
    }
}
