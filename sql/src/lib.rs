//! Headwater SQL.

pub mod ast;
mod calendar;
pub mod change;
pub mod column;
mod decode;
mod engine;
mod error;
pub mod expression;
pub mod function;
mod insert;
mod json;
pub mod limits;
mod metrics;
mod operator;
mod outcome;
mod parse;
mod pipeline;
pub mod plan;
mod query;
mod read;
mod span;
mod statement;
mod step;
mod template;
pub mod types;
pub mod value;
mod watermark;

pub use engine::{ConnectorCheck, Engine, QueryStatus, StartError};
pub use error::{Code, ErrorKind, Location, Report, SqlError, codes};
pub use outcome::{Outcome, RowStream};
pub use parse::{KEYWORDS, RESERVED, closest, did_you_mean, is_plain_name, parse};
pub use query::Progress;
pub use span::Span;
