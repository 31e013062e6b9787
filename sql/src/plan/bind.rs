//! The binder: from the AST to what the store and the operators understand, against one snapshot of the catalog.
//!
//! Names become column numbers, texts become topics and times, types are checked as far as they are known: declared
//! columns, literals and the results of functions have types, the fields of an open stream show theirs only at run time.
//!
//! What a name means, first match wins:
//! 1. `_topic` and the other system columns; `window_start` and `window_end` where there is a window;
//! 2. in WHERE, GROUP BY, HAVING and ORDER BY, a name given with AS; in KEY and TOPIC, any name of the output;
//! 3. a declared column or a `{name}` level of the stream's topic filters;
//! 4. in an open stream, a field of the payload, NULL where a record lacks it.

mod assemble;
mod context;
mod create;
mod expression;
mod feed;
mod from;
mod insert;
mod join;
mod option;
mod path;
mod projection;
mod routing;
mod scope;
mod select;
mod setting;
mod subquery;
mod template;
mod topic;
pub(crate) mod written;

use std::sync::Arc;

use headwater_store::{Catalog, ConnectorSpec, StreamRow, StreamSpec};

use crate::ast;
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;
use crate::plan::physical::{Plan, Start, WriteRules};
use crate::types::{DataType, TimestampUs};

pub use feed::BoundFeed;
pub use insert::BoundInsert;
pub(crate) use select::{EventTime, event_time_of};
pub use setting::Settings;

/// Binds statements of one text against one snapshot of the catalog.
#[derive(Debug, Clone, Copy)]
pub struct Binder<'a> {
    catalog: &'a Catalog,
    source: &'a str,
    settings: Settings,
}

/// A bound SELECT.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundSelect {
    /// What to run.
    pub plan: Plan,
    /// True: EMIT, it goes on; false: it reads what is stored and ends.
    pub push: bool,
    /// What looks like a slip and is none for certain.
    pub warnings: Vec<String>,
}

/// A bound CREATE STREAM.
#[derive(Debug, Clone)]
pub struct BoundStream {
    /// The stream.
    pub spec: StreamSpec,
    /// AS SELECT: the query that writes it.
    pub plan: Option<Plan>,
    /// What looks like a slip and is none for certain.
    pub warnings: Vec<String>,
}

impl<'a> Binder<'a> {
    /// `source` is the text that the statements' spans count in.
    pub fn new(catalog: &'a Catalog, source: &'a str) -> Binder<'a> {
        let settings = Settings::default();
        Binder {
            catalog,
            source,
            settings,
        }
    }

    /// With what was SET before.
    pub fn with(self, settings: Settings) -> Binder<'a> {
        Binder { settings, ..self }
    }

    /// A SELECT by itself: one-shot without EMIT, else a push query.
    pub fn select(&self, select: &ast::Select) -> Result<BoundSelect, SqlError> {
        select::alone(self, select)
    }

    /// The snapshot that names are looked up in.
    pub fn catalog(&self) -> &'a Catalog {
        self.catalog
    }

    /// CREATE STREAM, with or without AS SELECT. `sql` is kept in the catalog.
    pub fn create_stream(&self, create: &ast::CreateStream, sql: &str) -> Result<BoundStream, SqlError> {
        create::stream(self, create, sql)
    }

    /// CREATE SINK CONNECTOR. `sql` is kept in the catalog.
    pub fn create_connector(&self, create: &ast::CreateConnector, sql: &str) -> Result<ConnectorSpec, SqlError> {
        create::connector(self, create, sql)
    }

    /// INSERT; `now` is what NOW() gives.
    pub fn insert(&self, insert: &ast::Insert, now: TimestampUs) -> Result<BoundInsert, SqlError> {
        insert::insert(self, insert, now)
    }

    /// INSERT INTO `stream` SELECT …; `columns` are those that it names.
    pub fn feed(
        &self,
        stream: &ast::Name,
        columns: Option<&[ast::Name]>,
        select: &ast::Select,
    ) -> Result<BoundFeed, SqlError> {
        feed::feed(self, stream, columns, select)
    }

    /// TRIM STREAM: the stream, and where what stays begins.
    pub fn trim(&self, trim: &ast::Trim) -> Result<(&'a Arc<StreamRow>, Start), SqlError> {
        let stream = self.stream(&trim.stream)?;
        let to = trim.to.as_ref().map(|to| select::place(to, stream)).transpose()?;
        Ok((stream, to.unwrap_or(Start::Latest)))
    }

    /// What FROM names: a stream, or the plain revisions of one, `name$log`.
    fn source(&self, name: &ast::Name) -> Result<&'a Arc<StreamRow>, SqlError> {
        let revisions = name
            .text
            .strip_suffix("$log")
            .filter(|_| self.catalog.stream(&name.text).is_none());
        match revisions.and_then(|stream| self.catalog.stream(stream)) {
            Some(stream) => Ok(stream),
            None => self.stream(name),
        }
    }

    /// Whether the rows that a stream has now are kept.
    fn is_view(&self, stream: &StreamRow) -> bool {
        crate::view::is_view(stream)
    }

    /// A moment as a statement writes it.
    pub fn moment(&self, text: &ast::Text) -> Result<TimestampUs, SqlError> {
        expression::literal_moment(&text.text, text.span).map(TimestampUs)
    }

    /// The active stream of that name.
    pub fn stream(&self, name: &ast::Name) -> Result<&'a Arc<StreamRow>, SqlError> {
        self.catalog.stream(&name.text).ok_or_else(|| {
            let names = self.catalog.streams.keys().map(String::as_str);
            SqlError::new(codes::UNKNOWN_STREAM, format!("stream `{}` does not exist", name.text))
                .at(name.span)
                .help(did_you_mean(&name.text, names).unwrap_or_else(|| {
                    format!("create it with `CREATE STREAM {};`, or see `SHOW STREAMS;`", name.text)
                }))
        })
    }
}

/// How records written to `stream` by name are keyed, checked and addressed.
pub fn write_rules(stream: &StreamRow) -> Result<WriteRules, SqlError> {
    create::write_rules(stream, true)
}

/// As above without the check for NULL, for records that are not bound to the declared columns. None: the stream says
/// nothing of keys and topics.
pub fn address_rules(stream: &StreamRow) -> Result<Option<WriteRules>, SqlError> {
    let options = &stream.options;
    let says = options.key.is_some() || options.topic.is_some() || stream.columns.iter().any(|column| column.key);
    says.then(|| create::write_rules(stream, false)).transpose()
}

/// The columns that every record has, with their types.
pub fn system_columns() -> impl Iterator<Item = (&'static str, DataType)> {
    scope::SYSTEM
        .iter()
        .map(|(name, _, data_type)| (*name, data_type.clone()))
}
