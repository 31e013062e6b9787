//! Headwater's HTTP face, and the webhooks.
//!
//! # A request's life
//! [`server`] accepts a connection and lets hyper read requests from it; [`routes`] finds the handler by path and
//! method; the handler reads the body within bounds ([`body`]), does its work against the store, the SQL engine or the
//! broker's publisher, and answers with JSON or with a [`problem`]. A publish is answered once it is committed
//! ([`publish`]); rows that do not end are sent as they come ([`push`]).
//!
//! # A webhook's life
//! `CREATE SINK CONNECTOR … TO WEBHOOK` is checked ([`check_connector`]) and becomes a row of the catalog. [`webhook`]
//! watches the catalog and follows each shard of the connector's stream from a cursor kept in the log.
//!
//! # Limits
//! All fixed ones are in [`limits`]; `bridge.*` in the configuration are the others. Request bodies of all connections
//! together, connections, heads, answers built in memory and every wait have one.
//!
//! # It is not
//! - a TLS server: put a proxy in front, or use loopback, until it is;
//! - authenticating anyone yet: it listens on loopback unless it is configured otherwise;
//! - a queue: it holds no record that is not in the log;
//! - parallel within one HTTP/1.1 connection: pipelined requests are answered one after the other.

mod body;
mod bridge;
mod clients;
mod connectors;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod health;
pub mod limits;
mod linger;
mod metrics;
mod payload;
mod problem;
mod publish;
mod push;
mod queries;
mod records;
mod routes;
mod server;
mod sql;
mod streams;
mod webhook;

pub use bridge::Bridge;
pub use error::BridgeError;
pub use metrics_exporter_prometheus::PrometheusHandle as MetricsHandle;
pub use webhook::check_connector;
