//! What a plan reads: streams and topic filters, and what of each record.

use headwater_store::{Format, OnError, StreamForm, StreamId};

use super::Expr;
use crate::types::DataType;

/// Reads a stream. Its schema has one column per entry of `columns`.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Source {
    /// The stream.
    pub stream: StreamId,
    /// Its name, for people.
    pub name: String,
    /// The stream's FORMAT.
    pub format: Format,
    /// The stream's ON_ERROR.
    pub on_error: OnError,
    /// The stream's form. Of an upsert stream every revision is a row; tombstones are none.
    pub form: StreamForm,
    /// What to take out of each record: only what the plan needs.
    pub columns: Vec<SourceColumn>,
    /// The stream's FROM TOPIC filters, as written; they give the `Capture` columns their values.
    pub captures: Vec<String>,
    /// The event time, over `columns`; None: append time. A row for which it is NULL has its append time.
    pub timestamp: Option<Expr>,
    /// How far the watermark stays behind the largest event time.
    pub delay_us: i64,
    /// After how long a silent shard leaves the watermark's minimum; None: as configured (`sql.idle`).
    pub idle_us: Option<i64>,
    /// Where to begin.
    pub start: Start,
}

/// What a source takes out of each record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum SourceColumn {
    /// A field of the payload: member names and array positions from the top; a value of another type than
    /// `data_type` is cast, and NULL where it cannot be. `Any`: as it is.
    ///
    /// A JSON payload that is not an object, and a TEXT or RAW one, has the one field `value`.
    Field { path: Vec<PathStep>, data_type: DataType },
    /// The whole JSON payload, as compact text in its own order and spelling: `SELECT *`.
    Star,
    /// `_payload`, BYTEA
    Payload,
    /// A `{name}` level of the captures, STRING.
    Capture(String),
    /// `_topic`, STRING
    Topic,
    /// `_topic[n]`, STRING: levels from 0, from the end when negative.
    TopicLevel(i32),
    /// `_key`: STRING where it is UTF-8, else BYTEA.
    Key,
    /// `_clientid`, STRING
    ClientId,
    /// `_username`, STRING
    Username,
    /// `_qos`, INTEGER
    Qos,
    /// `_retain`, BOOLEAN
    Retain,
    /// `_timestamp`, TIMESTAMP: the append time.
    AppendTime,
    /// `_offset`, INTEGER
    Offset,
    /// `_shard`, INTEGER
    Shard,
    /// `_properties`, JSONB: the MQTT user properties, the last one of a name.
    Properties,
    /// BOOLEAN: the record is a tombstone. Where a plan asks for it, tombstones are rows; else they are none.
    Gone,
}

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum PathStep {
    /// `.name`, `['name']`
    Member(String),
    /// `[n]`: from 0, from the end when negative.
    Index(i64),
}

/// Where a source begins. The statement's execution resolves all but `At` for a persistent query, once
/// (see [`Plan::resolve_start`]), so that each of its tasks begins at the same records, and those appended between
/// CREATE and the first step are in.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Start {
    /// After the newest record there is.
    Latest,
    /// FROM BEGINNING
    Earliest,
    /// FROM TIMESTAMP: the first record appended at that time (ms since the epoch) or after.
    Timestamp(i64),
    /// FROM OFFSET, in every shard.
    Offset(u64),
    /// The first offset to read, by shard number.
    At(Vec<u64>),
}

/// Reads what clients published to the topics of a filter, from all streams that are home to some of it, those too that
/// are made later (decision 14). Its schema has one column per entry of `columns`.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Homes {
    /// The filter, as written; its `{name}` levels give the `Capture` columns their values.
    pub filter: String,
    /// What to take out of each record.
    pub columns: Vec<SourceColumn>,
    /// After how long a silent shard leaves the watermark's minimum, where its stream has no IDLE.
    pub idle_us: Option<i64>,
    /// Where to begin in the streams that there are.
    pub start: Start,
    /// Of a persistent query: which those are, and the first offset to read by shard number. A stream that is not among
    /// them was made later, and is read from its first record.
    pub begins: Vec<(StreamId, Vec<u64>)>,
}

/// What a plan reads.
#[derive(Debug, Clone, Copy)]
pub enum Read<'p> {
    /// A stream.
    Stream(&'p Source),
    /// The streams of a topic filter.
    Homes(&'p Homes),
}
