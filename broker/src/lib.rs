//! Headwater's MQTT broker: devices publish, the log keeps, subscribers receive.
//!
//! # A message's way
//!
//! 1. `listener` accepts a socket, of whatever `transport`, and gives it a task: `connection`.
//! 2. The connection reads a large piece and takes `packet`s off it, for MQTT 3.1, 3.1.1 or 5.0 alike.
//! 3. `session` is the protocol's state: it takes a packet and says what to do. It does no input or output.
//! 4. `pipeline` turns the messages of one read into one Batch per group (`publish` knows how), submits them in
//!    order, and reports each outcome in order. A PUBACK means that the message is committed: fsynced and readable.
//! 5. `dispatch` follows the committed entries of each group, asks `subscriptions` who wants each topic, and fills
//!    the `outbox` of each of those `clients`. QoS 0 does not wait for the log: subscribers of this node get it
//!    at once, and the dispatcher leaves it out.
//! 6. The receiver's connection makes packets of what is in its outbox, as far as its window goes, and writes them
//!    together with everything else that is ready.
//!
//! `retained` messages are rows written in the message's own Batch. `sessions` keeps what outlives a connection: rows of
//! a session and its will. A session that was away, or whose outbox was full, reads the log (`catch_up`) from its
//! `cursor`s, together with others (`scan`), until it can be served live again; what was in flight is sent again first
//! (`resend`). A `share` does the same for many clients at once, and a `queue` for the consumers of a stream. `replay`
//! reads a stream from any place for a subscription to `$stream/<name>`.
//!
//! # Limits
//!
//! `[broker]` in the configuration sets what an operator may choose: packet size, connections, receive maximum,
//! in-flight window, outbox bytes, subscriptions, aliases, connect timeout. `limits.rs` holds the rest. Memory for one
//! client is at most its outbox, one packet, its in-flight messages (which the store's admission bounds in total) and
//! a few buffers of 64 to 128 KiB; of an idle one some 3 KiB.
//!
//! # It is not
//!
//! - a store: nothing is kept here; what survives a restart is in the log and its tables.
//! - a queue for those who are away: their messages are in the log, and they have a place in it.
//! - a home for users, yet: a file says who may prove a password ([`scram`]), and a user name is kept with what its client
//!   publishes, and opens nothing.
//! - related to SQL: queries read the log, and their results are delivered like any other record with a topic.

mod authentication;
mod broker;
mod catch_up;
mod change;
mod clients;
mod connection;
mod cursor;
mod dispatch;
mod error;
mod events;
mod giver;
pub mod limits;
mod listener;
mod metrics;
mod outbox;
pub mod packet;
mod pipeline;
mod publish;
mod queue;
mod refusals;
mod replay;
mod resend;
mod retained;
mod scan;
pub mod scram;
mod session;
mod sessions;
mod share;
mod subscriptions;
mod sys;
mod transport;
mod views;

pub use broker::Broker;
pub use clients::ClientInfo;
pub use error::{BrokerError, PublishError};
pub use publish::{Published, Publisher};
pub use transport::Transport;
pub use views::{RowsFuture, ViewRows};
