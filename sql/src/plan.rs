//! From AST to plan: [`Binder`] resolves names and types against a snapshot of the catalog and makes a physical
//! [`Plan`](physical::Plan); [`explain`] draws it, [`graph`] for programs. There is no separate logical plan: with a
//! fixed order of clauses the operators are decided by the statement.

mod bind;
mod explain;
pub mod graph;
pub mod physical;

pub use bind::{Binder, BoundInsert, BoundSelect, BoundStream, address_rules, system_columns, write_rules};
pub use explain::explain;
