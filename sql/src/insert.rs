//! INSERT: rows become records of a stream, keyed and addressed by the stream's own rules.

use bytes::Bytes;
use headwater_store::{
    Append, Batch, Offset, Placement, Record, Store, StreamRow, TopicName, WriteError, retained_put, shard_for,
};

use crate::change::RecordId;
use crate::column::Column;
use crate::decode::Decoder;
use crate::error::{SqlError, codes};
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::limits::ROUTE_RETRIES_MAX;
use crate::operator::key_of;
use crate::plan::physical::WriteRules;
use crate::template::CompiledTemplate;
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
    let records = records(stream, rules, rows, TimestampUs::from_ms(store.now()))?;
    let count = records.len() as u64;
    let mut batches: Vec<Batch> = Vec::new();
    for (record, published) in records {
        if published {
            publish(store, stream, record).await?;
            continue;
        }
        let shard = shard_for(stream, &record);
        let at = batches
            .iter()
            .position(|batch| batch.group == shard.group)
            .unwrap_or_else(|| {
                batches.push(Batch::new(shard.group));
                batches.len() - 1
            });
        // A retained row is of the topic's group, which is the shard's where records are placed by topic.
        if record.retain && stream.placement == Placement::Topic {
            batches[at].puts.extend(retained_put(&record, &[], store.now()));
        }
        let appends = &mut batches[at].appends;
        match appends.iter_mut().find(|append| append.shard == shard) {
            Some(append) => append.records.push(record),
            None => appends.push(Append {
                shard,
                records: vec![record],
            }),
        }
    }
    for batch in batches {
        store.write(batch).await?;
    }
    Ok(count)
}

/// The records, and whether each is to go the way of a publish.
fn records(
    stream: &StreamRow,
    rules: &WriteRules,
    rows: Vec<InsertRow>,
    now: TimestampUs,
) -> Result<Vec<(Record, bool)>, SqlError> {
    let internal = |error: crate::plan::physical::PlanError| SqlError::internal(error.to_string());
    let decoder = Decoder::new(&rules.source).map_err(internal)?;
    let unwritten = |number: usize| RecordId {
        shard: stream.shard(0),
        offset: Offset(number as u64),
    };
    let which = |row: usize, rows: usize| {
        if rows == 1 {
            "the row".to_owned()
        } else {
            format!("row {}", row + 1)
        }
    };
    let count = rows.len();
    let mut records: Vec<(RecordId, Record)> = rows
        .into_iter()
        .enumerate()
        .map(|(number, row)| {
            (
                unwritten(number),
                Record {
                    topic: row.topic,
                    ..Record::new(row.payload)
                },
            )
        })
        .collect();
    let scope = Scope { now };
    let misfit = |id: RecordId| {
        let row = which(id.offset.0 as usize, count);
        SqlError::new(
            codes::WRONG_TYPE,
            format!("{row} does not fit the stream's format and column types"),
        )
    };
    let decoded = decoder.decode(&records, &scope).map_err(|error| misfit(error.0))?;
    if let Some((id, fault)) = decoded.errors.first() {
        return Err(misfit(*id).detail(fault.to_string()));
    }
    for (column, name) in &rules.not_null {
        let column: &Column = decoded.rows.column(column.index());
        if let Some(row) = (0..column.len()).find(|row| column.get(*row).is_null()) {
            let message = format!("{} has no value for `{name}`, which is NOT NULL", which(row, count));
            return Err(SqlError::new(codes::NOT_NULL, message));
        }
    }
    let mut faults = Faults::default();
    let keys = rules
        .key
        .iter()
        .map(|key| Ok(Expression::compile(key)?.evaluate(&decoded.rows, &scope, &mut faults)));
    let keys: Vec<_> = keys.collect::<Result<_, _>>().map_err(internal)?;
    let topics = match &rules.topic {
        Some(template) => CompiledTemplate::compile(template, &Expression::compile)
            .map_err(internal)?
            .topics(&decoded.rows, &scope, &mut faults),
        None => Vec::new(),
    };
    if let Some((row, fault)) = faults.iter().next() {
        let message = format!("the key or topic of {} cannot be worked out", which(row, count));
        return Err(SqlError::new(codes::WRONG_TYPE, message).detail(fault.to_string()));
    }
    let finish = |(row, (id, mut record)): (usize, (RecordId, Record))| {
        let published = record.topic.is_some();
        if !keys.is_empty() {
            record.key = Some(key_of(&keys, row, id));
        }
        if let (false, Some(topic)) = (published, topics.get(row)) {
            record.topic.clone_from(topic);
        }
        (record.qos, record.retain) = (stream.options.qos, stream.options.retain);
        (record, published)
    };
    Ok(records.drain(..).enumerate().map(finish).collect())
}

/// As if it had been published on its topic: with the topic's home, copies and routing.
async fn publish(store: &Store, stream: &StreamRow, record: Record) -> Result<(), SqlError> {
    let Some(topic) = record.topic.clone() else {
        return Ok(());
    };
    for _ in 0..ROUTE_RETRIES_MAX {
        let route = store.route(&topic);
        let leads_here = route.home.stream == stream.id || route.copies.iter().any(|copy| copy.stream == stream.id);
        if !leads_here {
            let message = format!("messages on topic `{topic}` do not enter stream `{}`", stream.name);
            return Err(
                SqlError::new(codes::BAD_TOPIC, message).help("give a `_topic` that the stream captures, or none")
            );
        }
        match store.write(route.batch(record.clone())).await {
            Ok(_) => return Ok(()),
            Err(WriteError::StaleRoute { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SqlError::new(
        codes::UNAVAILABLE,
        "the routing of topics keeps changing; try again",
    ))
}
