//! KEY and TOPIC: what a stream's own options say of records that are written to it by name, whoever writes them.
//!
//! An INSERT's rows and the records of a publish over HTTP go through here, so that a record has the same key, and goes
//! out on the same topic, whichever way it came in. What the record brings itself goes before what the options say.

use headwater_store::{Offset, Record, StreamRow};

use crate::change::RecordId;
use crate::decode::Decoder;
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::plan::physical::{PlanError, WriteRules};
use crate::record_key::RecordKey;
use crate::template::CompiledTemplate;
use crate::types::TimestampUs;
use crate::value::Fault;

/// Why a record cannot be written to the stream.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Misfit {
    /// It does not fit the columns that the rules need.
    #[error("{1}")]
    Payload(usize, Fault),
    /// It does not parse at all, where ON_ERROR is fail.
    #[error("{}", Fault::BadRecord)]
    Record(usize),
    /// A column that is NOT NULL has no value.
    #[error("no value for `{1}`, which is NOT NULL")]
    Null(usize, String),
    /// KEY or TOPIC cannot be worked out.
    #[error("{1}")]
    Address(usize, Fault),
    /// The rules are not ones that this version makes.
    #[error(transparent)]
    Rules(#[from] PlanError),
}

/// Gives each record that has none the key and the topic that the stream's options say, and checks the rules' columns.
pub(crate) fn address(
    stream: &StreamRow,
    rules: &WriteRules,
    records: &mut [Record],
    now: TimestampUs,
) -> Result<(), Misfit> {
    let unwritten = |number: usize| RecordId {
        shard: stream.shard(0),
        offset: Offset(number as u64),
    };
    let numbered: Vec<(RecordId, Record)> = records
        .iter()
        .enumerate()
        .map(|(number, record)| (unwritten(number), record.clone()))
        .collect();
    let number = |id: RecordId| id.offset.0 as usize;
    let scope = Scope { now };
    let decoder = Decoder::new(&rules.source)?;
    let decoded = decoder
        .decode(&numbered, &scope)
        .map_err(|error| Misfit::Record(number(error.0)))?;
    if let Some((id, fault)) = decoded.errors.first() {
        return Err(Misfit::Payload(number(*id), *fault));
    }
    for (column, name) in &rules.not_null {
        let column = decoded.rows.column(column.index());
        if let Some(row) = (0..column.len()).find(|row| column.get(*row).is_null()) {
            return Err(Misfit::Null(number(decoded.origin[row]), name.clone()));
        }
    }
    let mut faults = Faults::default();
    let key = RecordKey::compile(&rules.key, Expression::compile)?;
    let keys = key.evaluate(&decoded.rows, &scope, &mut faults);
    let topics = match &rules.topic {
        Some(template) => {
            CompiledTemplate::compile(template, &Expression::compile)?.topics(&decoded.rows, &scope, &mut faults)
        }
        None => Vec::new(),
    };
    if let Some((row, fault)) = faults.iter().next() {
        return Err(Misfit::Address(number(decoded.origin[row]), fault));
    }
    // A tombstone is no row: it keeps what it brings.
    for (row, id) in decoded.origin.iter().enumerate() {
        let record = &mut records[number(*id)];
        if record.key.is_none() && !keys.is_empty() {
            record.key = Some(key.of(&keys, row, *id));
        }
        if record.topic.is_none() {
            record.topic = topics.get(row).cloned().flatten();
            (record.qos, record.retain) = (stream.options.qos, stream.options.retain);
        }
    }
    Ok(())
}
