//! From AST to plan: [`Binder`] resolves names and types against a snapshot of the catalog and makes a physical
//! [`Plan`](physical::Plan), which `optimize` makes cheaper; [`explain`] draws it, `graph` for programs. There is no
//! separate logical plan: with a fixed order of clauses the operators are decided by the statement.

mod bind;
mod explain;
pub(crate) mod graph;
mod optimize;
pub mod physical;

pub use bind::{
    Binder, BoundFeed, BoundInsert, BoundSelect, BoundStream, Settings, address_rules, system_columns, write_rules,
};
pub(crate) use bind::{EventTime, event_time_of, written};
pub use explain::explain;
pub(crate) use explain::explain_with;
