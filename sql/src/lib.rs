//! Headwater SQL: statements become plans, plans become queries that never forget and never count twice.
//!
//! What happens to `CREATE STREAM hot WITH (TOPIC = 'alerts/{device}') AS SELECT device, temp FROM readings WHERE
//! temp > 50 EMIT CHANGES`:
//!
//! 1. [`parse`] makes tokens with spans and an [`ast`]; what is wrong is drawn with a caret ([`SqlError`]).
//! 2. The binder ([`plan`]) resolves names and types against a snapshot of the catalog and makes a physical
//!    [`plan::physical::Plan`]: `Source -> Filter -> Exchange -> Project -> Sink`. EXPLAIN draws it.
//! 3. `statement.rs` asks the [`Engine`] where `readings` ends now, writes that into the plan, and puts stream and query
//!    into the catalog in one change.
//! 4. The engine's supervisor sees the catalog change and starts a task for each group that has shards of `hot`.
//! 5. A task (`query.rs`) follows all shards of `readings`. `decode.rs` takes the two fields out of each payload, once,
//!    into columns ([`column`]); [`expression`]s run over them; the Exchange keeps the rows whose topic is its group's.
//! 6. At the end of the step the Sink has made records. They are committed together with the changed state and the new
//!    cursors as one Batch, on condition that the cursors are still those that the step began with. So a process may be
//!    killed at any point: a step has happened once or not at all.
//! 7. The records carry topics: the broker delivers them to MQTT subscribers like any other.
//!
//! A SELECT is the same pipeline with its state in memory and its rows going to whoever asked (`read.rs`).
//!
//! # Where things are
//! - words: `parse`, [`ast`], `error`; meaning: `plan/bind`, [`types`], [`mod@function`]; what is stored:
//!   [`plan::physical`];
//! - values: [`value`], `json`, `calendar`; micro-batches: [`column`], [`change`];
//! - operators: `operator`, with `step` (what they may do) and `watermark` (how far event time has come);
//! - running: `pipeline` (no I/O), `query` (one task), `engine` (all of them), `read`, `view` (the rows of now);
//! - writing by name: `insert`, with `address` (KEY and TOPIC) and `append` (which HTTP's publish shares).
//!
//! # Limits
//! In [`limits`]: an expression 128 levels deep, a statement of 4 MiB, a million groups in a SELECT without a name.
//! A persistent query's state is bounded by its windows or its keys, and lies in the store.
//!
//! # It is not
//! - a place for sessions or users: who may run a statement is the bridge's question;
//! - a reader of clocks: `now()` is the step's time, which is saved with it;
//! - a transaction across groups: each step is one Batch of one group;
//! - complete: user functions, schemas and a few forms of joins and windows are refused by name (`docs/sql.md`).

mod address;
mod append;
pub mod ast;
mod calendar;
pub mod change;
pub mod column;
mod connector;
mod decode;
mod engine;
mod error;
pub mod expression;
pub mod function;
mod homes;
mod insert;
mod json;
pub mod limits;
mod metrics;
mod node;
mod operator;
mod outcome;
mod parse;
mod pipeline;
pub mod plan;
mod query;
mod read;
mod record_key;
mod script;
mod share;
mod span;
mod statement;
mod step;
mod template;
pub mod types;
pub mod value;
mod view;
mod watermark;

pub use append::{AppendError, Appended, Fate, Outgoing, Patience, Place};
pub use connector::{ConnectorCheck, ConnectorError, ConnectorStatus, ConnectorWatch};
pub use engine::{Engine, QueryStatus, StartError};
pub use error::{Code, ErrorKind, Location, Report, SqlError, codes};
pub use node::{ClientStatus, NodeWatch};
pub use outcome::{Outcome, RowStream};
pub use parse::{KEYWORDS, RESERVED, closest, did_you_mean, is_plain_name, parse};
pub use query::side::is_side_stream;
pub use query::{LoadError, Progress, begins};
pub use script::Script;
pub use span::Span;
