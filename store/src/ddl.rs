//! Changes of the catalog: each is one conditional Batch on group 0, and for captures a fence in every data group.
//!
//! A capture comes and goes in three steps: the row is written as `Creating` (or `Dropping`), which moves the route
//! revision; an empty Batch of that revision is committed in every data group, after which no group takes a message
//! that was routed without it; then the row becomes `Active` (or goes), and the statement returns. A start that finds a
//! row in between finishes what was begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{Batch, Condition, Put, TableId, Trim, tables};
use crate::catalog::{
    Ack, Catalog, CatalogMeta, ColumnRow, ConnectorRow, Placement, QueryRow, QueryState, StreamForm, StreamOptions,
    StreamRow, StreamState,
};
use crate::control;
use crate::error::{CatalogError, WriteError};
use crate::ids::{CATALOG_GROUP, RouteRevision, StreamId};
use crate::limits::{NAME_BYTES_MAX, SHARDS_MAX};
use crate::placement::{DEFAULT_STREAM, shard_groups};
use crate::store::Store;
use crate::topic::TopicFilter;

const META_KEY: &[u8] = b"meta";
/// A change that loses the race for the catalog's revision this often gives up.
const CHANGE_ATTEMPTS_MAX: usize = 64;

/// A new stream.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Unique among streams.
    pub name: String,
    /// How records find their shard; captured streams are always placed by topic.
    pub placement: Placement,
    /// Shards of a `Placement::Key` stream; a `Topic` stream has one in each data group.
    pub shards: u16,
    /// Empty: the stream is open.
    pub columns: Vec<ColumnRow>,
    /// FROM TOPIC.
    pub captures: Vec<String>,
    /// Append or upsert.
    pub form: StreamForm,
    /// The WITH options.
    pub options: StreamOptions,
    /// ACK: when MQTT messages that have their home here are acknowledged.
    pub ack: Ack,
    /// The statement.
    pub sql: String,
}

impl StreamSpec {
    /// A stream that nobody described: open, append-only, one shard in each data group, nothing captured.
    pub fn new(name: impl Into<String>) -> StreamSpec {
        StreamSpec {
            name: name.into(),
            placement: Placement::Topic,
            shards: 1,
            columns: Vec::new(),
            captures: Vec::new(),
            form: StreamForm::Append,
            options: StreamOptions::default(),
            ack: Ack::default(),
            sql: String::new(),
        }
    }
}

/// A new persistent query; it is named after the stream it writes.
#[derive(Debug, Clone)]
pub struct QuerySpec {
    /// Made together with the query, in one change.
    pub output: StreamSpec,
    /// The physical plan, as the SQL crate encodes it.
    pub plan: Vec<u8>,
    /// The streams it reads.
    pub inputs: Vec<StreamId>,
    /// The statement.
    pub sql: String,
}

/// A new query that writes into a stream that is there already.
#[derive(Debug, Clone)]
pub struct FeedSpec {
    /// The stream.
    pub output: StreamId,
    /// The physical plan, as the SQL crate encodes it.
    pub plan: Vec<u8>,
    /// The streams it reads.
    pub inputs: Vec<StreamId>,
    /// The statement.
    pub sql: String,
}

/// A new connector.
#[derive(Debug, Clone)]
pub struct ConnectorSpec {
    /// Unique among connectors.
    pub name: String,
    /// In lower case.
    pub kind: String,
    /// Out of Headwater, or into it.
    pub sink: bool,
    /// The name of the stream it reads or writes.
    pub stream: String,
    /// The WITH options, names in upper case.
    pub options: BTreeMap<String, String>,
    /// The statement.
    pub sql: String,
}

/// The rows of one change, worked out against one snapshot.
struct Change<'a> {
    catalog: &'a Catalog,
    meta: CatalogMeta,
    puts: Vec<Put>,
}

impl Change<'_> {
    fn next_id(&mut self) -> u64 {
        self.meta.next_id += 1;
        self.meta.next_id
    }

    fn reroute(&mut self) {
        self.meta.route_revision += 1;
    }

    fn put<T: bincode::Encode>(&mut self, table: TableId, name: &str, row: &T) {
        self.puts.push(Put {
            table,
            key: name.to_owned().into(),
            value: Some(control::encode(row)),
        });
    }

    fn delete(&mut self, table: TableId, name: &str) {
        self.puts.push(Put {
            table,
            key: name.to_owned().into(),
            value: None,
        });
    }
}

impl Store {
    /// CREATE STREAM. Returns once every data group routes by its captures.
    pub async fn create_stream(&self, spec: StreamSpec) -> Result<Arc<StreamRow>, CatalogError> {
        let name = spec.name.clone();
        let revision = self
            .change(|change| self.add_stream(change, &spec, None).map(|_| ()))
            .await?;
        if !spec.captures.is_empty() {
            self.fence(revision).await?;
            self.change(|change| set_state(change, &name, StreamState::Active))
                .await?;
        }
        self.stream_row(&name)
    }

    /// DROP STREAM. Refused while a query or a connector reads it, or a query writes it.
    pub async fn drop_stream(&self, name: &str) -> Result<(), CatalogError> {
        if name == DEFAULT_STREAM {
            let reason = format!("the stream `{name}` takes what no other capture matches, so it cannot be dropped");
            return Err(CatalogError::NotAllowed(reason));
        }
        let revision = self
            .change(|change| {
                // One that a failed statement left half made, or half dropped, may be dropped too.
                let stream = found(change.catalog.streams.get(name), "stream", name)?;
                unused(change.catalog, stream)?;
                set_state(change, name, StreamState::Dropping)?;
                change.reroute();
                Ok(())
            })
            .await?;
        self.fence(revision).await?;
        let stream = found(self.catalog().borrow().streams.get(name), "stream", name)?.clone();
        self.forget_shards(&stream).await?;
        self.change(|change| {
            change.delete(tables::STREAMS, name);
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// The records of a dropped stream: hidden now, gone from disk when their slices are merged or dropped.
    async fn forget_shards(&self, stream: &StreamRow) -> Result<(), CatalogError> {
        for shard in stream.shard_ids() {
            self.write(Batch::new(shard.group).trim(shard, Trim::ALL)).await?;
        }
        Ok(())
    }

    /// Makes a query and the stream it writes, in one change.
    pub async fn create_query(&self, spec: QuerySpec) -> Result<Arc<QueryRow>, CatalogError> {
        let name = spec.output.name.clone();
        self.change(|change| {
            if change.catalog.queries.contains_key(&name) {
                return Err(CatalogError::Exists {
                    kind: "query",
                    name: name.clone(),
                });
            }
            for input in &spec.inputs {
                active_by_id(change.catalog, *input)?;
            }
            let output = self.add_stream(change, &spec.output, Some(name.clone()))?;
            let row = QueryRow {
                name: name.clone(),
                id: change.next_id(),
                sql: spec.sql.clone(),
                plan: spec.plan.clone(),
                inputs: spec.inputs.clone(),
                output,
                state: QueryState::Running,
                created_at_ms: self.now().0,
            };
            change.put(tables::QUERIES, &name, &row);
            Ok(())
        })
        .await?;
        let missing = || CatalogError::Missing {
            kind: "query",
            name: name.clone(),
        };
        self.catalog().borrow().queries.get(&name).cloned().ok_or_else(missing)
    }

    /// Makes a query that writes into a stream beside whoever else does. It is called as the stream, with a number behind
    /// the name where there is a query of that name.
    pub async fn create_feed(&self, spec: FeedSpec) -> Result<Arc<QueryRow>, CatalogError> {
        let mut made = String::new();
        self.change(|change| {
            for input in &spec.inputs {
                active_by_id(change.catalog, *input)?;
            }
            let stream = active_by_id(change.catalog, spec.output)?;
            let numbered = (2..).map(|number: u64| format!("{}_{number}", stream.name));
            let mut names = std::iter::once(stream.name.clone()).chain(numbered);
            let free = |name: &String| !change.catalog.queries.contains_key(name);
            let name = names.find(free).unwrap_or_default();
            let row = QueryRow {
                name: name.clone(),
                id: change.next_id(),
                sql: spec.sql.clone(),
                plan: spec.plan.clone(),
                inputs: spec.inputs.clone(),
                output: spec.output,
                state: QueryState::Running,
                created_at_ms: self.now().0,
            };
            change.put(tables::QUERIES, &name, &row);
            made = name;
            Ok(())
        })
        .await?;
        let missing = || CatalogError::Missing {
            kind: "query",
            name: made.clone(),
        };
        self.catalog().borrow().queries.get(&made).cloned().ok_or_else(missing)
    }

    /// Runs or terminates a query. Its cursors and state stay.
    pub async fn set_query_state(&self, name: &str, state: QueryState) -> Result<(), CatalogError> {
        self.change(|change| {
            let row = found(change.catalog.queries.get(name), "query", name)?;
            change.put(
                tables::QUERIES,
                name,
                &QueryRow {
                    state,
                    ..(**row).clone()
                },
            );
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Forgets a query; the stream it wrote stays, and from now on belongs to nobody.
    pub async fn drop_query(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|change| {
            let query = found(change.catalog.queries.get(name), "query", name)?;
            let output = change.catalog.stream_by_id(query.output);
            // One that others write too belongs to nobody already.
            if let Some(output) = output.filter(|output| output.query.as_deref() == Some(name)) {
                change.put(
                    tables::STREAMS,
                    &output.name,
                    &StreamRow {
                        query: None,
                        ..(**output).clone()
                    },
                );
            }
            change.delete(tables::QUERIES, name);
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// CREATE CONNECTOR. Its options were checked by who asks.
    pub async fn create_connector(&self, spec: ConnectorSpec) -> Result<Arc<ConnectorRow>, CatalogError> {
        self.change(|change| {
            check_name("connector", &spec.name)?;
            if change.catalog.connectors.contains_key(&spec.name) {
                return Err(CatalogError::Exists {
                    kind: "connector",
                    name: spec.name.clone(),
                });
            }
            let row = ConnectorRow {
                name: spec.name.clone(),
                id: change.next_id(),
                kind: spec.kind.clone(),
                sink: spec.sink,
                stream: active(change.catalog, &spec.stream)?.id,
                options: spec.options.clone(),
                running: true,
                created_at_ms: self.now().0,
                sql: spec.sql.clone(),
            };
            change.put(tables::CONNECTORS, &spec.name, &row);
            Ok(())
        })
        .await?;
        let missing = || CatalogError::Missing {
            kind: "connector",
            name: spec.name.clone(),
        };
        self.catalog()
            .borrow()
            .connectors
            .get(&spec.name)
            .cloned()
            .ok_or_else(missing)
    }

    /// Pauses or resumes a connector.
    pub async fn set_connector_running(&self, name: &str, running: bool) -> Result<(), CatalogError> {
        self.change(|change| {
            let row = found(change.catalog.connectors.get(name), "connector", name)?;
            change.put(
                tables::CONNECTORS,
                name,
                &ConnectorRow {
                    running,
                    ..(**row).clone()
                },
            );
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Forgets a connector.
    pub async fn drop_connector(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|change| {
            found(change.catalog.connectors.get(name), "connector", name)?;
            change.delete(tables::CONNECTORS, name);
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Makes the default stream on the first start, and finishes captures that a crash left half made or half dropped.
    pub(crate) async fn ensure_default_stream(&self) -> Result<(), CatalogError> {
        let catalog = self.catalog().borrow().clone();
        if !catalog.streams.contains_key(DEFAULT_STREAM) {
            let spec = StreamSpec {
                captures: vec!["#".to_owned()],
                sql: format!("CREATE STREAM {DEFAULT_STREAM} FROM TOPIC '#'"),
                ..StreamSpec::new(DEFAULT_STREAM)
            };
            self.create_stream(spec).await?;
        }
        for stream in catalog
            .streams
            .values()
            .filter(|stream| stream.state != StreamState::Active)
        {
            self.fence(catalog.route_revision).await?;
            if stream.state == StreamState::Dropping {
                self.forget_shards(stream).await?;
            }
            self.change(|change| {
                if stream.state == StreamState::Dropping {
                    change.delete(tables::STREAMS, &stream.name);
                    return Ok(());
                }
                set_state(change, &stream.name, StreamState::Active)
            })
            .await?;
        }
        Ok(())
    }

    fn add_stream(
        &self,
        change: &mut Change<'_>,
        spec: &StreamSpec,
        query: Option<String>,
    ) -> Result<StreamId, CatalogError> {
        check_name("stream", &spec.name)?;
        if change.catalog.streams.contains_key(&spec.name) {
            return Err(CatalogError::Exists {
                kind: "stream",
                name: spec.name.clone(),
            });
        }
        if !(1..=SHARDS_MAX).contains(&spec.shards) {
            return Err(CatalogError::NotAllowed(format!("SHARDS must be 1 to {SHARDS_MAX}")));
        }
        for capture in &spec.captures {
            let wrong = |error| CatalogError::NotAllowed(format!("the topic filter `{capture}` is wrong: {error}"));
            TopicFilter::capture(capture.as_str()).map_err(wrong)?;
        }
        let captured = !spec.captures.is_empty();
        let placement = if captured { Placement::Topic } else { spec.placement };
        let id = StreamId(change.next_id());
        let row = StreamRow {
            id,
            name: spec.name.clone(),
            state: if captured {
                StreamState::Creating
            } else {
                StreamState::Active
            },
            placement,
            shards: shard_groups(id, placement, spec.shards, self.data_groups().count() as u16),
            columns: spec.columns.clone(),
            captures: spec.captures.clone(),
            form: spec.form,
            options: spec.options.clone(),
            query,
            created_at_ms: self.now().0,
            sql: spec.sql.clone(),
            ack: spec.ack,
        };
        change.put(tables::STREAMS, &row.name, &row);
        if captured {
            change.reroute();
        }
        Ok(id)
    }

    /// Works a change out against the newest snapshot, and again when another change came first. Gives the route
    /// revision it is committed with.
    async fn change(
        &self,
        mut work: impl FnMut(&mut Change<'_>) -> Result<(), CatalogError>,
    ) -> Result<RouteRevision, CatalogError> {
        let _one_at_a_time = self.inner.catalog_changes.lock().await;
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let catalog = self.catalog().borrow().clone();
            let known = catalog.meta();
            let mut change = Change {
                catalog: &catalog,
                meta: known,
                puts: Vec::new(),
            };
            work(&mut change)?;
            let meta = CatalogMeta {
                revision: known.revision + 1,
                ..change.meta
            };
            let expected = (known.revision > 0).then(|| control::encode(&known));
            let mut batch = Batch::new(CATALOG_GROUP)
                .when(Condition::Row {
                    table: tables::CATALOG_META,
                    key: META_KEY.into(),
                    value: expected,
                })
                .put(tables::CATALOG_META, META_KEY, control::encode(&meta));
            batch.puts.extend(change.puts);
            match self.write(batch).await {
                Ok(_) => return Ok(RouteRevision(meta.route_revision)),
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Conflict.into())
    }

    /// After this, no data group takes a message that was routed before `revision`.
    async fn fence(&self, revision: RouteRevision) -> Result<(), CatalogError> {
        for group in self.data_groups() {
            match self.write(Batch::new(group).routed(revision)).await {
                // A group that is fenced by a newer routing is fenced by this one too.
                Ok(_) | Err(WriteError::StaleRoute { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn stream_row(&self, name: &str) -> Result<Arc<StreamRow>, CatalogError> {
        active(&self.catalog().borrow(), name)
    }
}

fn active(catalog: &Catalog, name: &str) -> Result<Arc<StreamRow>, CatalogError> {
    found(catalog.stream(name), "stream", name).cloned()
}

fn active_by_id(catalog: &Catalog, id: StreamId) -> Result<&Arc<StreamRow>, CatalogError> {
    let row = catalog.stream_by_id(id).filter(|row| row.state == StreamState::Active);
    row.ok_or_else(|| CatalogError::Missing {
        kind: "stream",
        name: format!("number {id}"),
    })
}

fn found<'a, T>(row: Option<&'a T>, kind: &'static str, name: &str) -> Result<&'a T, CatalogError> {
    row.ok_or_else(|| CatalogError::Missing {
        kind,
        name: name.to_owned(),
    })
}

fn set_state(change: &mut Change<'_>, name: &str, state: StreamState) -> Result<(), CatalogError> {
    let row = found(change.catalog.streams.get(name), "stream", name)?;
    change.put(
        tables::STREAMS,
        name,
        &StreamRow {
            state,
            ..(**row).clone()
        },
    );
    Ok(())
}

/// Nobody reads or writes it.
fn unused(catalog: &Catalog, stream: &StreamRow) -> Result<(), CatalogError> {
    // The first by name, so that the answer is the same each time.
    let queries = catalog.queries.values();
    let query = queries
        .filter(|query| query.output == stream.id || query.inputs.contains(&stream.id))
        .min_by_key(|query| &query.name);
    let connectors = catalog.connectors.values();
    let connector = connectors
        .filter(|connector| connector.stream == stream.id)
        .min_by_key(|connector| &connector.name);
    let user = query
        .map(|query| format!("the query `{}`: drop that first", query.name))
        .or_else(|| connector.map(|connector| format!("the connector `{}`: drop that first", connector.name)));
    match user {
        Some(user) => Err(CatalogError::Used {
            kind: "stream",
            name: stream.name.clone(),
            user,
        }),
        None => Ok(()),
    }
}

/// Names stand in topics, record ids and paths, so the characters that mean something there are kept out. `$` marks
/// the streams that Headwater makes itself.
fn check_name(kind: &'static str, name: &str) -> Result<(), CatalogError> {
    let wrong = |reason: &str| {
        Err(CatalogError::NotAllowed(format!(
            "`{name}` cannot name a {kind}: {reason}"
        )))
    };
    if name.is_empty() {
        return wrong("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return wrong("it is longer than 255 bytes");
    }
    if name.contains(['/', '@', ':', '+', '#']) || name.chars().any(char::is_control) {
        return wrong("it holds one of / @ : + # or a control character");
    }
    Ok(())
}
