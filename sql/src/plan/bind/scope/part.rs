//! What stands between the commas and JOINs of FROM, and the columns that it declares.

use headwater_store::{Format, StreamRow, TopicFilter};

use super::is_system_name;
use crate::error::SqlError;
use crate::plan::physical::ColumnId;
use crate::types::DataType;

/// A stream, a subquery, …: what stands between the commas and JOINs of FROM.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub kind: Kind<'a>,
    /// What `x` in `x.column` may be.
    pub qualifier: String,
    pub declared: Vec<(String, DataType)>,
    pub open: bool,
    /// Of an open stream that a query writes: the fields that its rows have, where that is known.
    pub selected: Option<Vec<String>>,
    pub captures: Vec<String>,
}

/// What a part is.
#[derive(Debug)]
pub(super) enum Kind<'a> {
    Stream(&'a StreamRow),
    /// Its output's columns, as `declared` names them; those of `*`, and before which of the others it stands.
    Query {
        columns: Vec<ColumnId>,
        star: Option<(usize, ColumnId)>,
    },
    Element,
    /// The messages of a topic filter.
    Topics,
    /// The functions with OVER, which nobody names.
    Calls,
}

impl<'a> Part<'a> {
    pub fn of_stream(stream: &'a StreamRow, qualifier: &str, captures: &[String]) -> Result<Part<'a>, SqlError> {
        let declared = match stream.options.format {
            Format::Json => declared_columns(stream)?,
            Format::Text => vec![("value".to_owned(), DataType::String)],
            Format::Raw => vec![("value".to_owned(), DataType::Bytea)],
        };
        Ok(Part {
            kind: Kind::Stream(stream),
            qualifier: qualifier.to_owned(),
            open: declared.is_empty(),
            declared,
            selected: None,
            captures: level_names(captures.iter().map(String::as_str)),
        })
    }

    pub fn made(kind: Kind<'a>, qualifier: &str, declared: Vec<(String, DataType)>) -> Part<'a> {
        Part {
            open: matches!(kind, Kind::Query { star: Some(_), .. } | Kind::Topics),
            kind,
            qualifier: qualifier.to_owned(),
            declared,
            selected: None,
            captures: Vec::new(),
        }
    }

    /// No row of it has a field of that name.
    pub fn lacks(&self, name: &str) -> bool {
        let lacks = |selected: &Vec<String>| !selected.iter().any(|known| known == name);
        !self.open || self.selected.as_ref().is_some_and(lacks)
    }

    /// It certainly has a column of that name.
    pub fn has(&self, name: &str) -> bool {
        self.declared.iter().any(|(declared, _)| declared == name) || self.captures.iter().any(|known| known == name)
    }

    /// Its rows have the columns that every record has.
    pub fn has_system(&self, name: &str) -> bool {
        matches!(self.kind, Kind::Stream(_) | Kind::Topics) && is_system_name(name)
    }
}

/// What topic filters call their levels, each name once.
pub(super) fn level_names<'t>(filters: impl IntoIterator<Item = &'t str>) -> Vec<String> {
    let mut names = Vec::new();
    for filter in filters.into_iter().filter_map(|text| TopicFilter::capture(text).ok()) {
        for name in filter.capture_names() {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn declared_columns(stream: &StreamRow) -> Result<Vec<(String, DataType)>, SqlError> {
    stream
        .columns
        .iter()
        .map(|column| match column.data_type.parse() {
            Ok(data_type) => Ok((column.name.clone(), data_type)),
            Err(error) => Err(SqlError::internal(format!("stream `{}`: {error}", stream.name))),
        })
        .collect()
}
