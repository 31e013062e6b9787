//! What the columns of one stream are called, and which of them a query takes.

use headwater_store::{Format, StreamRow, TopicFilter};

use crate::ast::{Name, Quote};
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;
use crate::plan::bind::path::Steps;
use crate::plan::physical::{ColumnId, PathStep, Schema, SourceColumn};
use crate::span::Span;
use crate::types::DataType;

/// The system columns, with their types. `_topic[n]` is beside them.
pub const SYSTEM: &[(&str, SourceColumn, DataType)] = &[
    ("_topic", SourceColumn::Topic, DataType::String),
    ("_key", SourceColumn::Key, DataType::Any),
    ("_clientid", SourceColumn::ClientId, DataType::String),
    ("_username", SourceColumn::Username, DataType::String),
    ("_qos", SourceColumn::Qos, DataType::Integer),
    ("_retain", SourceColumn::Retain, DataType::Boolean),
    ("_timestamp", SourceColumn::AppendTime, DataType::Timestamp),
    ("_offset", SourceColumn::Offset, DataType::Integer),
    ("_shard", SourceColumn::Shard, DataType::Integer),
    ("_payload", SourceColumn::Payload, DataType::Bytea),
    ("_properties", SourceColumn::Properties, DataType::Jsonb),
];

/// Whether a declared column may not have this name.
pub fn is_system_name(name: &str) -> bool {
    SYSTEM.iter().any(|(system, ..)| *system == name)
}

/// One stream as FROM sees it, and the columns that were asked for so far.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The stream.
    pub stream: &'a StreamRow,
    /// What `x` in `x.column` may be.
    qualifier: String,
    declared: Vec<(String, DataType)>,
    open: bool,
    captures: Vec<String>,
    /// Those asked for.
    pub columns: Vec<SourceColumn>,
    /// Their names and types.
    pub schema: Schema,
}

impl<'a> Scope<'a> {
    /// `captures` are the topic filters whose `{name}` levels are columns: the stream's own, or FROM's.
    pub fn new(stream: &'a StreamRow, qualifier: &str, captures: &[String]) -> Result<Scope<'a>, SqlError> {
        let declared = match stream.options.format {
            Format::Json => declared_columns(stream)?,
            Format::Text => vec![("value".to_owned(), DataType::String)],
            Format::Raw => vec![("value".to_owned(), DataType::Bytea)],
        };
        let mut names = Vec::new();
        for filter in captures
            .iter()
            .filter_map(|text| TopicFilter::capture(text.as_str()).ok())
        {
            for name in filter.capture_names() {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        Ok(Scope {
            stream,
            qualifier: qualifier.to_owned(),
            open: declared.is_empty(),
            declared,
            captures: names,
            columns: Vec::new(),
            schema: Schema::default(),
        })
    }

    /// Any name is a field.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The declared columns, in order; the one column `value` of TEXT and RAW.
    pub fn declared(&self) -> &[(String, DataType)] {
        &self.declared
    }

    /// Whether `name.x` is the column `x`.
    pub fn is_qualifier(&self, name: &str) -> bool {
        self.qualifier == name
    }

    /// The number of a column; the same one for the same column.
    pub fn column(&mut self, column: SourceColumn, name: &str, data_type: DataType) -> ColumnId {
        match self.columns.iter().position(|known| *known == column) {
            Some(at) => ColumnId(at as u32),
            None => {
                self.columns.push(column);
                self.schema.push(name, data_type)
            }
        }
    }

    /// The whole payload: `*` of an open stream.
    pub fn star(&mut self) -> ColumnId {
        self.column(SourceColumn::Star, "*", DataType::Jsonb)
    }

    /// The declared column of that name.
    pub fn declared_column(&mut self, name: &str) -> Option<ColumnId> {
        let data_type = self.declared.iter().find(|(declared, _)| declared == name)?.1.clone();
        let path = vec![PathStep::Member(name.to_owned())];
        Some(self.column(
            SourceColumn::Field {
                path,
                data_type: data_type.clone(),
            },
            name,
            data_type,
        ))
    }

    /// The column that `name`, followed by `steps`, stands for. The steps that are part of the column are taken away.
    pub fn resolve(&mut self, name: &Name, steps: &mut Steps) -> Result<ColumnId, SqlError> {
        if let Some((text, column, data_type)) = SYSTEM.iter().find(|(system, ..)| *system == name.text) {
            let level = if *column == SourceColumn::Topic {
                steps.take_index()
            } else {
                None
            };
            return match level {
                Some(level) => self.topic_level(level, name.span),
                None => Ok(self.column(column.clone(), text, data_type.clone())),
            };
        }
        if let Some((_, data_type)) = self.declared.iter().find(|(declared, _)| *declared == name.text) {
            let data_type = data_type.clone();
            return self.declared_path(name, data_type, steps);
        }
        if self.captures.contains(&name.text) {
            return Ok(self.column(SourceColumn::Capture(name.text.clone()), &name.text, DataType::String));
        }
        if !self.open {
            return Err(self.unknown(name));
        }
        let mut path = vec![PathStep::Member(name.text.clone())];
        let label = steps.label(&name.text);
        path.extend(steps.take_all());
        Ok(self.column(
            SourceColumn::Field {
                path,
                data_type: DataType::Any,
            },
            &label,
            DataType::Any,
        ))
    }

    fn topic_level(&mut self, level: i64, span: Span) -> Result<ColumnId, SqlError> {
        let Ok(level) = i32::try_from(level) else {
            return Err(SqlError::new(codes::BAD_TOPIC, "no topic has that many levels").at(span));
        };
        Ok(self.column(
            SourceColumn::TopicLevel(level),
            &format!("_topic[{level}]"),
            DataType::String,
        ))
    }

    fn declared_path(&mut self, name: &Name, mut data_type: DataType, steps: &mut Steps) -> Result<ColumnId, SqlError> {
        let mut path = vec![PathStep::Member(name.text.clone())];
        let label = steps.label(&name.text);
        while let Some((step, span)) = steps.peek() {
            data_type = match (data_type, step) {
                (DataType::Array(of), PathStep::Index(_)) => *of,
                (DataType::Jsonb | DataType::Any, _) => DataType::Any,
                (other, _) => {
                    let message = format!(
                        "column `{}` has the type {other}: there is nothing inside it",
                        name.text
                    );
                    return Err(SqlError::new(codes::WRONG_TYPE, message).at(name.span.to(span)));
                }
            };
            path.extend(steps.take());
        }
        Ok(self.column(
            SourceColumn::Field {
                path,
                data_type: data_type.clone(),
            },
            &label,
            data_type,
        ))
    }

    fn unknown(&self, name: &Name) -> SqlError {
        let names: Vec<&str> = self
            .declared
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(self.captures.iter().map(String::as_str))
            .collect();
        let system = SYSTEM.iter().map(|(name, ..)| *name);
        let help = if name.quote == Quote::Double && did_you_mean(&name.text, names.iter().copied()).is_none() {
            Some(format!(
                "strings are written in single quotes: '{}'",
                name.text.replace('\'', "''")
            ))
        } else {
            did_you_mean(&name.text, names.iter().copied().chain(system))
        };
        let help = help.unwrap_or_else(|| format!("the columns are {}", names.join(", ")));
        let message = format!("column `{}` does not exist in stream `{}`", name.text, self.stream.name);
        SqlError::new(codes::UNKNOWN_COLUMN, message).at(name.span).help(help)
    }
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
