//! The bridge over a real store, broker and SQL engine, on loopback ports of the system's choice.

mod node;
mod publish;
mod requests;
mod resume;
mod sql;
mod target;
mod webhook;
