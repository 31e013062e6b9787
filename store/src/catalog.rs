//! The catalog: streams, captures, queries and connectors, as rows of tables in group 0.
//!
//! A change is an ordinary conditional [`Batch`]: rows, plus the catalog's revision moved by one on condition that it
//! is still the one the change was worked out against. Everyone watches the same immutable snapshot; a new one shares
//! all that did not change with the last ([`imbl::HashMap`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};

use crate::batch::{Put, TableId, tables};
use crate::captures::Captures;
use crate::control::{self, ControlError};
use crate::engine::{Engine, Family};
use crate::error::EngineError;
use crate::ids::{CATALOG_GROUP, GroupId, RouteRevision, ShardId, StreamId};
use crate::keys::table_row;
use crate::record::Qos;
use crate::retention::RetentionClass;
use crate::topic::TopicFilter;

/// Where a stream stands between CREATE and DROP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum StreamState {
    /// Its captures are not yet fenced in every group.
    Creating,
    /// In use.
    Active,
    /// Its captures are being fenced away; then the row goes.
    Dropping,
}

/// How records find their shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Placement {
    /// By the record's topic: one implicit shard in each data group. Captured streams and topic-templated results.
    Topic,
    /// By the record's key, over the stream's shards.
    Key,
}

/// How payloads are read as rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Format {
    /// One JSON value a record; an object's members are its fields.
    Json,
    /// UTF-8 text, seen as the one column `value`.
    Text,
    /// Bytes, seen as the one column `value`.
    Raw,
}

/// What to do with a record that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum OnError {
    /// A row whose fields are all NULL.
    Null,
    /// No row.
    Drop,
    /// The query stops.
    Fail,
}

/// Whether a record is a fact or the newest state of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum StreamForm {
    /// Each record stands for itself.
    Append,
    /// A record replaces the earlier one of its key; a tombstone deletes it.
    Upsert,
}

/// When a message whose home is the stream is acknowledged.
///
/// It is the last field of a stream's row, and [`Ack::Quorum`] takes no byte there: a row from before it ends one earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// When it is committed.
    #[default]
    Quorum,
    /// When the leader has it in memory, where the message is a QoS 1 PUBLISH.
    Memory,
}

const ACK_MEMORY: u8 = 1;

impl bincode::Encode for Ack {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Ack::Quorum => Ok(()),
            Ack::Memory => ACK_MEMORY.encode(encoder),
        }
    }
}

impl<C> bincode::Decode<C> for Ack {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Ack, DecodeError> {
        match u8::decode(decoder) {
            Ok(ACK_MEMORY) => Ok(Ack::Memory),
            Ok(_) => Err(DecodeError::Other("an unknown ACK")),
            Err(DecodeError::UnexpectedEnd { .. }) => Ok(Ack::Quorum),
            Err(error) => Err(error),
        }
    }
}

bincode::impl_borrow_decode!(Ack);

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ColumnRow {
    /// Its name, case-sensitive.
    pub name: String,
    /// Its type as SQL spells it, e.g. `DECIMAL(10,2)`.
    pub data_type: String,
    /// NOT NULL.
    pub not_null: bool,
    /// KEY.
    pub key: bool,
}

/// The WITH options of a stream that outlive its statement.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct StreamOptions {
    /// FORMAT
    pub format: Format,
    /// KEY, an SQL expression over the row.
    pub key: Option<String>,
    /// TIMESTAMP, an SQL expression over the row; None: append time.
    pub timestamp: Option<String>,
    /// DELAY in ms: how far the watermark stays behind the largest event time.
    pub delay_ms: Option<u64>,
    /// IDLE in ms: after how long a silent shard leaves the watermark's minimum.
    pub idle_ms: Option<u64>,
    /// DURATION in ms: how long records are kept; None: for ever.
    pub duration_ms: Option<u64>,
    /// TOPIC, the template of the MQTT topic that records go out on.
    pub topic: Option<String>,
    /// QOS of those messages.
    pub qos: Qos,
    /// RETAIN of those messages.
    pub retain: bool,
    /// ON_ERROR
    pub on_error: OnError,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            format: Format::Json,
            key: None,
            timestamp: None,
            delay_ms: None,
            idle_ms: None,
            duration_ms: None,
            topic: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            on_error: OnError::Null,
        }
    }
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct StreamRow {
    /// Never reused.
    pub id: StreamId,
    /// Unique among streams; holds none of `/ @ : + #`, and `$` only where Headwater made it.
    pub name: String,
    /// Creating, active, dropping.
    pub state: StreamState,
    /// How records find their shard.
    pub placement: Placement,
    /// The group of each shard, by shard number.
    pub shards: Vec<GroupId>,
    /// Empty: the stream is open, any name is a field.
    pub columns: Vec<ColumnRow>,
    /// FROM TOPIC: the filters by which MQTT traffic enters.
    pub captures: Vec<String>,
    /// Append or upsert.
    pub form: StreamForm,
    /// The WITH options.
    pub options: StreamOptions,
    /// The query that writes it, if one does.
    pub query: Option<String>,
    /// Creation time, ms since the epoch.
    pub created_at_ms: i64,
    /// The statement, as it was written.
    pub sql: String,
    /// ACK. The last field, see there.
    pub ack: Ack,
}

impl StreamRow {
    /// The id of shard `number`.
    pub fn shard(&self, number: u16) -> ShardId {
        ShardId {
            group: self.shards[usize::from(number)],
            stream: self.id,
            number,
        }
    }

    /// All shards, by number.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shards.len()).map(|number| self.shard(number as u16))
    }

    /// The parsed captures. They were checked when the stream was made.
    pub fn capture_filters(&self) -> impl Iterator<Item = TopicFilter> + '_ {
        self.captures
            .iter()
            .filter_map(|text| TopicFilter::capture(text.as_str()).ok())
    }
}

/// What a persistent query is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum QueryState {
    /// It runs wherever its output groups are led.
    Running,
    /// TERMINATE stopped it; its cursors and state are kept.
    Terminated,
    /// PAUSE stopped it for a while; its cursors and state are kept.
    Paused,
}

/// A persistent query. It is named after the stream it writes.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct QueryRow {
    /// Unique among queries.
    pub name: String,
    /// Distinguishes this query's state from that of an earlier one of the same name.
    pub id: u64,
    /// The statement, as it was written.
    pub sql: String,
    /// The physical plan, encoded by the SQL crate, with its version inside.
    pub plan: Vec<u8>,
    /// The streams it reads, by id.
    pub inputs: Vec<StreamId>,
    /// The stream it writes, by id.
    pub output: StreamId,
    /// Running or terminated.
    pub state: QueryState,
    /// Creation time, ms since the epoch.
    pub created_at_ms: i64,
}

/// A sink or source connector.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ConnectorRow {
    /// Unique among connectors.
    pub name: String,
    /// Distinguishes this connector's cursors from those of an earlier one of the same name.
    pub id: u64,
    /// `webhook`, in lower case.
    pub kind: String,
    /// True: out of Headwater; false: into it.
    pub sink: bool,
    /// The stream it reads or writes.
    pub stream: StreamId,
    /// The WITH options, names in upper case.
    pub options: BTreeMap<String, String>,
    /// False while paused, or after the far side said it is gone.
    pub running: bool,
    /// Creation time, ms since the epoch.
    pub created_at_ms: i64,
    /// The statement, as it was written.
    pub sql: String,
}

/// An immutable snapshot of group 0.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Moves by one with each change.
    pub revision: u64,
    /// Moves with each change of the routing: captures made, streams dropped.
    pub route_revision: RouteRevision,
    /// The next id for a stream, query or connector.
    pub next_id: u64,
    /// By name.
    pub streams: imbl::HashMap<String, Arc<StreamRow>>,
    /// Names by id.
    pub stream_names: imbl::HashMap<StreamId, String>,
    /// The captures of all streams that are not being dropped.
    pub(crate) captures: Captures,
    /// Streams whose records are not kept for ever.
    retention: imbl::HashMap<StreamId, RetentionClass>,
    /// By name.
    pub queries: imbl::HashMap<String, Arc<QueryRow>>,
    /// By name.
    pub connectors: imbl::HashMap<String, Arc<ConnectorRow>>,
}

impl Catalog {
    /// The active stream of that name.
    pub fn stream(&self, name: &str) -> Option<&Arc<StreamRow>> {
        self.streams
            .get(name)
            .filter(|stream| stream.state == StreamState::Active)
    }

    /// Reads the catalog as it stands in group 0.
    pub(crate) fn load(engine: &dyn Engine) -> Result<Catalog, CatalogDamage> {
        let mut catalog = Catalog::default();
        for table in [
            tables::CATALOG_META,
            tables::STREAMS,
            tables::QUERIES,
            tables::CONNECTORS,
        ] {
            let mut puts = Vec::new();
            let prefix = table_row::key(CATALOG_GROUP, table, b"");
            engine.scan(Family::State, &prefix, &prefix, &mut |key, value| {
                let (key, value) = (key[prefix.len()..].to_vec(), Some(value.to_vec().into()));
                puts.push(Put {
                    table,
                    key: key.into(),
                    value,
                });
                true
            })?;
            catalog.apply(&puts)?;
        }
        Ok(catalog)
    }

    /// Takes the rows that an entry of group 0 changed; true when there were any.
    pub(crate) fn apply(&mut self, puts: &[Put]) -> Result<bool, CatalogDamage> {
        let mut changed = false;
        for put in puts {
            let damage = |error| CatalogDamage::Row {
                table: put.table,
                error,
            };
            let name = || String::from_utf8_lossy(&put.key).into_owned();
            match (put.table, &put.value) {
                (tables::CATALOG_META, Some(value)) => {
                    let meta: CatalogMeta = control::decode(value).map_err(damage)?;
                    (self.revision, self.route_revision, self.next_id) =
                        (meta.revision, RouteRevision(meta.route_revision), meta.next_id);
                }
                (tables::STREAMS, Some(value)) => {
                    let row: StreamRow = control::decode(value).map_err(damage)?;
                    self.take_stream(Arc::new(row));
                }
                (tables::STREAMS, None) => {
                    if let Some(row) = self.streams.remove(&name()) {
                        self.captures.remove(&row);
                        self.stream_names.remove(&row.id);
                        self.retention.remove(&row.id);
                    }
                }
                (tables::QUERIES, Some(value)) => {
                    let row: QueryRow = control::decode(value).map_err(damage)?;
                    self.queries.insert(row.name.clone(), Arc::new(row));
                }
                (tables::QUERIES, None) => drop(self.queries.remove(&name())),
                (tables::CONNECTORS, Some(value)) => {
                    let row: ConnectorRow = control::decode(value).map_err(damage)?;
                    self.connectors.insert(row.name.clone(), Arc::new(row));
                }
                (tables::CONNECTORS, None) => drop(self.connectors.remove(&name())),
                _ => continue,
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Takes a new or changed stream.
    pub(crate) fn take_stream(&mut self, row: Arc<StreamRow>) {
        if let Some(old) = self.streams.get(&row.name).cloned() {
            self.captures.remove(&old);
        }
        if row.state != StreamState::Dropping {
            self.captures.insert(&row);
        }
        match RetentionClass::of(row.options.duration_ms) {
            RetentionClass::FOREVER => drop(self.retention.remove(&row.id)),
            class => drop(self.retention.insert(row.id, class)),
        }
        self.stream_names.insert(row.id, row.name.clone());
        self.streams.insert(row.name.clone(), row);
    }

    pub(crate) fn meta(&self) -> CatalogMeta {
        CatalogMeta {
            revision: self.revision,
            route_revision: self.route_revision.0,
            next_id: self.next_id,
        }
    }

    /// How long the records of a stream are kept.
    pub(crate) fn retention(&self, id: StreamId) -> RetentionClass {
        self.retention.get(&id).copied().unwrap_or_default()
    }

    /// The stream with that id, in whatever state.
    pub fn stream_by_id(&self, id: StreamId) -> Option<&Arc<StreamRow>> {
        self.stream_names.get(&id).and_then(|name| self.streams.get(name))
    }
}

/// The catalog's one counter row. Its exact bytes are what a change is conditional on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(crate) struct CatalogMeta {
    pub revision: u64,
    pub route_revision: u64,
    pub next_id: u64,
}

/// Why the catalog's rows could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogDamage {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("a catalog row of table {}: {error}", .table.0)]
    Row { table: TableId, error: ControlError },
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::placement::shard_groups;

    /// A captured stream over four data groups.
    pub fn stream(id: u64, name: &str, captures: &[&str]) -> Arc<StreamRow> {
        Arc::new(StreamRow {
            id: StreamId(id),
            name: name.into(),
            state: StreamState::Active,
            placement: Placement::Topic,
            shards: shard_groups(StreamId(id), Placement::Topic, 1, 4),
            columns: Vec::new(),
            captures: captures.iter().map(|text| text.to_string()).collect(),
            form: StreamForm::Append,
            options: StreamOptions::default(),
            query: None,
            created_at_ms: 0,
            sql: String::new(),
            ack: Ack::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::stream;
    use super::*;

    #[test]
    fn a_row_without_ack_is_as_it_was_before_there_was_one() {
        let quorum = (*stream(7, "plant", &["plant/#"])).clone();
        let memory = StreamRow {
            ack: Ack::Memory,
            ..quorum.clone()
        };
        let (short, long) = (control::encode(&quorum), control::encode(&memory));
        assert_eq!(long[..], [&short[..], &[ACK_MEMORY]].concat());
        assert_eq!(control::decode::<StreamRow>(&short), Ok(quorum));
        assert_eq!(control::decode::<StreamRow>(&long), Ok(memory));
        let unknown = [&short[..], &[2]].concat();
        assert!(control::decode::<StreamRow>(&unknown).is_err());
    }
}
