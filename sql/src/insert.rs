//! INSERT: rows become records of a stream, keyed and addressed by the stream's own rules.

use bytes::Bytes;
use headwater_store::{Record, Store, StreamRow, TopicName};

use crate::address::{Misfit, address};
use crate::append::{Appended, Fate, Outgoing, append};
use crate::error::{SqlError, codes};
use crate::plan::physical::WriteRules;
use crate::types::TimestampUs;

/// A row on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertRow {
    /// The record's payload as it will be stored.
    pub payload: Bytes,
    /// `_topic`: where it would have been published. It then takes that topic's route, which must lead to the stream.
    pub topic: Option<TopicName>,
}

/// Writes rows; those of one group are one Batch. Gives how many.
pub(crate) async fn insert(
    store: &Store,
    stream: &StreamRow,
    rules: &WriteRules,
    rows: Vec<InsertRow>,
) -> Result<u64, SqlError> {
    let count = rows.len();
    let mut records: Vec<Record> = rows.into_iter().map(|row| record(stream, row)).collect();
    let published: Vec<bool> = records.iter().map(|record| record.topic.is_some()).collect();
    let now = TimestampUs::from_ms(store.now());
    address(stream, rules, &mut records, now).map_err(|misfit| refusal(misfit, count))?;
    let outgoing = |(record, published)| Outgoing { record, published };
    let outgoing: Vec<_> = records.into_iter().zip(published).map(outgoing).collect();
    finish(append(store, stream, &outgoing, None, None).await)
}

fn record(stream: &StreamRow, row: InsertRow) -> Record {
    Record {
        topic: row.topic,
        qos: stream.options.qos,
        retain: stream.options.retain,
        ..Record::new(row.payload)
    }
}

fn refusal(misfit: Misfit, rows: usize) -> SqlError {
    let which = |row: usize| match rows {
        1 => "the row".to_owned(),
        _ => format!("row {}", row + 1),
    };
    match misfit {
        Misfit::Payload(row, _) | Misfit::Record(row) => {
            let message = format!("{} does not fit the stream's format and column types", which(row));
            SqlError::new(codes::WRONG_TYPE, message).detail(misfit.to_string())
        }
        Misfit::Null(row, name) => {
            let message = format!("{} has no value for `{name}`, which is NOT NULL", which(row));
            SqlError::new(codes::NOT_NULL, message)
        }
        Misfit::Address(row, fault) => {
            let message = format!("the key or topic of {} cannot be worked out", which(row));
            SqlError::new(codes::WRONG_TYPE, message).detail(fault.to_string())
        }
        Misfit::Rules(error) => SqlError::internal(error.to_string()),
    }
}

/// How many are in, or the error; where some are and some are not, which.
fn finish(appended: Appended) -> Result<u64, SqlError> {
    let Appended { fates, error } = appended;
    let rows = |wanted: fn(&Fate) -> bool| -> Vec<usize> {
        let numbers = fates.iter().enumerate().filter(|(_, fate)| wanted(fate));
        numbers.map(|(row, _)| row + 1).collect()
    };
    let committed = rows(|fate| matches!(fate, Fate::Committed(_)));
    let Some(error) = error else {
        return Ok(committed.len() as u64);
    };
    let cause = SqlError::from(error);
    let (missing, unknown) = (
        rows(|fate| *fate == Fate::NotWritten),
        rows(|fate| *fate == Fate::Unknown),
    );
    if committed.is_empty() && (missing.is_empty() || unknown.is_empty()) {
        return Err(cause);
    }
    let mut detail = format!("{} of {} rows were inserted", committed.len(), fates.len());
    if !missing.is_empty() {
        detail.push_str(&format!("; not inserted: {}", ranges(&missing)));
    }
    if !unknown.is_empty() {
        detail.push_str(&format!("; perhaps inserted: {}", ranges(&unknown)));
    }
    if committed.is_empty() {
        return Err(cause.detail(detail));
    }
    let message = format!("only a part of the rows was inserted: {}", cause.message);
    let error = SqlError::new(codes::PARTLY_WRITTEN, message).detail(detail);
    Err(error.help("insert those that are not in; the whole statement would insert the others again"))
}

/// `row 2, rows 5 to 7`, of ascending numbers.
fn ranges(rows: &[usize]) -> String {
    let runs = rows.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => format!("row {one}"),
        [first, .., last] => format!("rows {first} to {last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::{AppendError, Place};
    use headwater_store::{GroupId, Offset, ShardId, StreamId, WriteError};

    fn fate(letter: char) -> Fate {
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(1),
            number: 0,
        };
        match letter {
            'c' => Fate::Committed(Place {
                shard,
                base: Offset(0),
                position: 0,
            }),
            'u' => Fate::Unknown,
            _ => Fate::NotWritten,
        }
    }

    fn finished(fates: &str, error: Option<WriteError>) -> Result<u64, SqlError> {
        finish(Appended {
            fates: fates.chars().map(fate).collect(),
            error: error.map(AppendError::Write),
        })
    }

    #[test]
    fn what_is_in_is_told_exactly() {
        assert_eq!(finished("ccc", None).unwrap(), 3);
        let full = WriteError::DiskFull { free: 1, mark: 2 };
        let error = finished("cnncuncn", Some(full.clone())).unwrap_err();
        assert_eq!((error.code, error.kind().http_status()), (codes::PARTLY_WRITTEN, 409));
        assert_eq!(
            error.detail.as_deref(),
            Some("3 of 8 rows were inserted; not inserted: rows 2 to 3, row 6, row 8; perhaps inserted: row 5")
        );
        let error = finished("nn", Some(full)).unwrap_err();
        assert_eq!(
            (error.code, &error.detail),
            (codes::DISK_FULL, &None),
            "it can be repeated"
        );
        let lost = || Some(WriteError::Indefinite("leader lost"));
        let error = finished("uu", lost()).unwrap_err();
        assert_eq!((error.code, &error.detail), (codes::INDEFINITE, &None));
        let error = finished("un", lost()).unwrap_err();
        assert_eq!(error.code, codes::INDEFINITE);
        assert_eq!(
            error.detail.as_deref(),
            Some("0 of 2 rows were inserted; not inserted: row 2; perhaps inserted: row 1")
        );
    }
}
