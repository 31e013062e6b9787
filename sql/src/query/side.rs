//! What a query could not use, readable: `q$late` holds the rows that came after their window had closed, `q$errors` the
//! values that could not be worked out, each with the record it comes from.
//!
//! They are streams like any other, with a shard in each group, so that a task writes them in the Batch of its step:
//! each is told once, whatever crashes. A flood of them is cut off: beyond a number per step they are only counted.

use std::sync::Arc;

use headwater_store::{
    Ack, Catalog, CatalogError, Format, GroupId, OnError, Placement, Qos, Record, ShardId, Store, StreamForm, StreamId,
    StreamOptions, StreamRow, StreamSpec,
};
use serde_json::json;

use crate::calendar;
use crate::change::RecordId;
use crate::homes;
use crate::limits::{SIDE_BYTES_PER_STEP_MAX, SIDE_DURATION, SIDE_ROWS_PER_STEP_MAX};
use crate::plan::physical::Plan;
use crate::step::LateRow;
use crate::types::TimestampUs;
use crate::value::{Fault, write_json_string};

const LATE: &str = "$late";
const ERRORS: &str = "$errors";

/// The shards of one task. None: the stream is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SideStreams {
    late: Option<ShardId>,
    errors: Option<ShardId>,
}

impl SideStreams {
    /// Those of a query in a group.
    pub(crate) fn find(catalog: &Catalog, query: &str, group: GroupId) -> SideStreams {
        let shard = |suffix| {
            let stream = catalog.stream(&format!("{query}{suffix}"))?;
            stream.shard_ids().find(|shard| shard.group == group)
        };
        SideStreams {
            late: shard(LATE),
            errors: shard(ERRORS),
        }
    }
}

/// A stream that belongs to a query, and is made and dropped with it.
pub fn is_side_stream(name: &str) -> bool {
    name.ends_with(LATE) || name.ends_with(ERRORS)
}

/// The streams of all queries on `s` that `s$late` or `s$errors` stands for, by name. None: the name is not such a one,
/// or there is a stream of that name.
pub(crate) fn of_readers<'a>(catalog: &'a Catalog, name: &str) -> Option<Vec<&'a Arc<StreamRow>>> {
    if catalog.stream(name).is_some() {
        return None;
    }
    let suffix = [LATE, ERRORS].into_iter().find(|suffix| name.ends_with(suffix))?;
    let stream = catalog.stream(name.strip_suffix(suffix)?)?;
    let readers = catalog
        .queries
        .values()
        .filter(|query| query.inputs.contains(&stream.id) || homes::of_query(catalog, query).contains(&stream.id));
    let mut streams: Vec<_> = readers
        .filter_map(|query| catalog.stream(&format!("{}{suffix}", query.name)))
        .collect();
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    Some(streams)
}

/// Makes a query's streams, where they are not there yet.
pub(crate) async fn ensure(store: &Store, query: &str) -> Result<(), CatalogError> {
    for name in names(query) {
        if store.catalog().borrow().streams.contains_key(&name) {
            continue;
        }
        match store.create_stream(spec(name)).await {
            // Another task of the query was faster.
            Ok(_) | Err(CatalogError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Drops a query's streams. One that somebody reads stays.
pub(crate) async fn drop(store: &Store, query: &str) -> Result<(), CatalogError> {
    for name in names(query) {
        match store.drop_stream(&name).await {
            Ok(()) | Err(CatalogError::Missing { .. } | CatalogError::Used { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn names(query: &str) -> [String; 2] {
    [LATE, ERRORS].map(|suffix| format!("{query}{suffix}"))
}

fn spec(name: String) -> StreamSpec {
    StreamSpec {
        sql: String::new(),
        name,
        // One shard in each group, wherever a task may be.
        placement: Placement::Topic,
        shards: 1,
        columns: Vec::new(),
        captures: Vec::new(),
        form: StreamForm::Append,
        options: StreamOptions {
            format: Format::Json,
            on_error: OnError::Null,
            duration_ms: Some(SIDE_DURATION.as_millis() as u64),
            qos: Qos::AtMostOnce,
            ..StreamOptions::default()
        },
        ack: Ack::default(),
    }
}

/// Turns what went wrong into records.
#[derive(Debug)]
pub(crate) struct Side {
    streams: SideStreams,
    inputs: SourceNames,
}

/// The names of a plan's inputs, for telling people of records.
#[derive(Debug)]
pub(crate) struct SourceNames(Vec<(StreamId, String)>);

impl SourceNames {
    /// `homes` are those of the streams that its topic filters read.
    pub fn of(plan: &Plan, homes: Vec<(StreamId, String)>) -> SourceNames {
        let names = plan.sources().map(|(_, source)| (source.stream, source.name.clone()));
        SourceNames(names.chain(homes).collect())
    }

    /// `stream:shard:offset`, by the stream's name.
    pub fn id(&self, record: RecordId) -> String {
        let RecordId { shard, offset } = record;
        match self.0.iter().find(|(stream, _)| *stream == shard.stream) {
            Some((_, name)) => format!("{name}:{}:{offset}", shard.number),
            None => record.to_string(),
        }
    }

    /// Why a query ended whose stream has ON_ERROR = 'fail'.
    pub fn does_not_parse(&self, record: RecordId) -> String {
        format!(
            "record {} does not parse, and the stream's ON_ERROR is 'fail'",
            self.id(record)
        )
    }
}

impl Side {
    /// For the task of a plan.
    pub fn new(streams: SideStreams, plan: &Plan, homes: Vec<(StreamId, String)>) -> Side {
        Side {
            streams,
            inputs: SourceNames::of(plan, homes),
        }
    }

    /// The records of a step, for the shards that there are.
    pub fn records(&self, late: &[LateRow], errors: &[(RecordId, Fault)]) -> Vec<(ShardId, Vec<Record>)> {
        let late = late.iter().map(|row| self.late(row));
        let errors = errors.iter().map(|(record, fault)| self.error(*record, *fault));
        let all = [
            (self.streams.late, bounded(late)),
            (self.streams.errors, bounded(errors)),
        ];
        let there = all.into_iter().filter_map(|(shard, records)| Some((shard?, records)));
        there.filter(|(_, records)| !records.is_empty()).collect()
    }

    fn late(&self, late: &LateRow) -> String {
        let time = |at: TimestampUs| calendar::format_timestamp(at.0);
        let mut out = String::from("{\"record\":");
        write_json_string(&self.inputs.id(late.origin), &mut out);
        out.push_str(&format!(
            ",\"time\":\"{}\",\"watermark\":\"{}\",\"row\":{}}}",
            time(late.time),
            time(late.watermark),
            late.row
        ));
        out
    }

    fn error(&self, record: RecordId, fault: Fault) -> String {
        json!({ "record": self.inputs.id(record), "fault": fault.label(), "reason": fault.to_string() }).to_string()
    }

    /// The names of the inputs.
    pub fn inputs(&self) -> &SourceNames {
        &self.inputs
    }
}

fn bounded(payloads: impl Iterator<Item = String>) -> Vec<Record> {
    let mut bytes = 0;
    let fits = |payload: &String| {
        bytes += payload.len();
        bytes <= SIDE_BYTES_PER_STEP_MAX
    };
    let payloads = payloads.take(SIDE_ROWS_PER_STEP_MAX).take_while(fits);
    payloads.map(Record::new).collect()
}

#[cfg(test)]
mod tests {
    use headwater_store::Offset;

    use super::*;

    #[test]
    fn a_record_is_told_by_the_name_of_its_stream() {
        let inputs = SourceNames(vec![(StreamId(7), "strict".to_owned())]);
        let record = |stream| RecordId {
            shard: ShardId {
                stream: StreamId(stream),
                number: 2,
                group: GroupId(3),
            },
            offset: Offset(41),
        };
        assert_eq!(inputs.id(record(7)), "strict:2:41");
        assert_eq!(inputs.id(record(8)), record(8).to_string(), "one that it does not read");
        let told = "record strict:2:41 does not parse, and the stream's ON_ERROR is 'fail'";
        assert_eq!(inputs.does_not_parse(record(7)), told);
    }
}
