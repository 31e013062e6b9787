//! What the columns of a stream, or of both sides of a join, are called, and which of them a query takes.

use headwater_store::{Format, StreamRow, TopicFilter};

use crate::ast::{Name, Quote};
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;
use crate::plan::bind::expression::Expressions;
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

/// What FROM names, and the columns of it that were asked for so far.
#[derive(Debug)]
pub struct Scope<'a> {
    parts: Vec<Part<'a>>,
    /// Those asked for, of which part each.
    columns: Vec<(usize, SourceColumn)>,
    /// Their names and types.
    pub schema: Schema,
    /// Names without a qualifier are of this part.
    focus: Option<usize>,
}

/// One stream.
#[derive(Debug)]
struct Part<'a> {
    stream: &'a StreamRow,
    /// What `x` in `x.column` may be.
    qualifier: String,
    declared: Vec<(String, DataType)>,
    open: bool,
    captures: Vec<String>,
}

impl<'a> Part<'a> {
    fn new(stream: &'a StreamRow, qualifier: &str, captures: &[String]) -> Result<Part<'a>, SqlError> {
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
        Ok(Part {
            stream,
            qualifier: qualifier.to_owned(),
            open: declared.is_empty(),
            declared,
            captures: names,
        })
    }

    /// It certainly has a column of that name.
    fn has(&self, name: &str) -> bool {
        self.declared.iter().any(|(declared, _)| declared == name) || self.captures.iter().any(|known| known == name)
    }
}

impl<'a> Scope<'a> {
    /// `captures` are the topic filters whose `{name}` levels are columns: the stream's own, or FROM's.
    pub fn new(stream: &'a StreamRow, qualifier: &str, captures: &[String]) -> Result<Scope<'a>, SqlError> {
        Ok(Scope {
            parts: vec![Part::new(stream, qualifier, captures)?],
            columns: Vec::new(),
            schema: Schema::default(),
            focus: Some(0),
        })
    }

    /// Adds the right side of a join. From here on a name needs a qualifier, unless one side alone declares it.
    pub fn join(&mut self, stream: &'a StreamRow, qualifier: &str, span: Span) -> Result<(), SqlError> {
        if self.qualifier(qualifier).is_some() {
            let message = format!("both sides of the join are called `{qualifier}`");
            return Err(SqlError::new(codes::DUPLICATE_NAME, message)
                .at(span)
                .help("give them names with AS"));
        }
        self.parts.push(Part::new(stream, qualifier, &stream.captures)?);
        self.focus = None;
        Ok(())
    }

    /// Names without a qualifier are of this part while `run` goes on: in what a stream says of itself.
    pub fn focused<T>(
        expressions: &mut Expressions<'a>,
        part: usize,
        run: impl FnOnce(&mut Expressions<'a>) -> T,
    ) -> T {
        let before = expressions.scope.focus.replace(part);
        let result = run(expressions);
        expressions.scope.focus = before;
        result
    }

    /// How many streams.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// What a part is called.
    pub fn name(&self, part: usize) -> &str {
        &self.parts[part].qualifier
    }

    /// Any name is a field, in one of them at least.
    pub fn is_open(&self) -> bool {
        self.parts.iter().any(|part| part.open)
    }

    /// Any name is a field of that one.
    pub fn is_part_open(&self, part: usize) -> bool {
        self.parts[part].open
    }

    /// The declared columns, in order; the one column `value` of TEXT and RAW.
    pub fn declared(&self, part: usize) -> &[(String, DataType)] {
        &self.parts[part].declared
    }

    /// The part whose column `x` is `name.x`.
    pub fn qualifier(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|part| part.qualifier == name)
    }

    /// The number of a column of the first part; the same one for the same column.
    pub fn column(&mut self, column: SourceColumn, name: &str, data_type: DataType) -> ColumnId {
        self.column_of(0, column, name, data_type)
    }

    /// The number of a column; the same one for the same column.
    pub fn column_of(&mut self, part: usize, column: SourceColumn, name: &str, data_type: DataType) -> ColumnId {
        let wanted = (part, column);
        match self.columns.iter().position(|known| *known == wanted) {
            Some(at) => ColumnId(at as u32),
            None => {
                self.columns.push(wanted);
                match self.parts.as_slice() {
                    [_] => self.schema.push(name, data_type),
                    parts => self.schema.push(format!("{}.{name}", parts[part].qualifier), data_type),
                }
            }
        }
    }

    /// The columns that were asked for of one part, in the order of its own numbers.
    pub fn source_columns(&self, part: usize) -> Vec<SourceColumn> {
        let own = self.columns.iter().filter(|(of, _)| *of == part);
        own.map(|(_, column)| column.clone()).collect()
    }

    /// Their names and types.
    pub fn source_schema(&self, part: usize) -> Schema {
        let mut schema = Schema::default();
        for ((of, _), column) in self.columns.iter().zip(&self.schema.columns) {
            if *of == part {
                schema.push(column.name.clone(), column.data_type.clone());
            }
        }
        schema
    }

    /// The part of a column, and its number among the columns of that part.
    pub fn local(&self, column: ColumnId) -> (usize, ColumnId) {
        let Some((part, _)) = self.columns.get(column.index()) else {
            return (0, column);
        };
        let before = self.columns[..column.index()].iter().filter(|(of, _)| of == part);
        (*part, ColumnId(before.count() as u32))
    }

    /// The whole payload: `*` of an open stream.
    pub fn star(&mut self, part: usize) -> ColumnId {
        self.column_of(part, SourceColumn::Star, "*", DataType::Jsonb)
    }

    /// The declared column of that name.
    pub fn declared_column(&mut self, part: usize, name: &str) -> Option<ColumnId> {
        let declared = &self.parts[part].declared;
        let data_type = declared.iter().find(|(declared, _)| declared == name)?.1.clone();
        let path = vec![PathStep::Member(name.to_owned())];
        let field = SourceColumn::Field {
            path,
            data_type: data_type.clone(),
        };
        Some(self.column_of(part, field, name, data_type))
    }

    /// The column that `name`, followed by `steps`, stands for. The steps that are part of the column are taken away.
    /// `part` is what a qualifier said.
    pub fn resolve(&mut self, name: &Name, steps: &mut Steps, part: Option<usize>) -> Result<ColumnId, SqlError> {
        let at = match part.or(self.focus) {
            Some(part) => part,
            None => self.only_part(name)?,
        };
        if let Some((text, column, data_type)) = SYSTEM.iter().find(|(system, ..)| *system == name.text) {
            let level = if *column == SourceColumn::Topic {
                steps.take_index()
            } else {
                None
            };
            return match level {
                Some(level) => self.topic_level(at, level, name.span),
                None => Ok(self.column_of(at, column.clone(), text, data_type.clone())),
            };
        }
        let of = &self.parts[at];
        if let Some((_, data_type)) = of.declared.iter().find(|(declared, _)| *declared == name.text) {
            let data_type = data_type.clone();
            return self.declared_path(at, name, data_type, steps);
        }
        if of.captures.contains(&name.text) {
            let capture = SourceColumn::Capture(name.text.clone());
            return Ok(self.column_of(at, capture, &name.text, DataType::String));
        }
        if !of.open {
            return Err(self.unknown(at, name));
        }
        let mut path = vec![PathStep::Member(name.text.clone())];
        let label = steps.label(&name.text);
        path.extend(steps.take_all());
        let field = SourceColumn::Field {
            path,
            data_type: DataType::Any,
        };
        Ok(self.column_of(at, field, &label, DataType::Any))
    }

    /// The one side of a join that a name without a qualifier can be of.
    fn only_part(&self, name: &Name) -> Result<usize, SqlError> {
        let with: Vec<usize> = (0..self.parts.len())
            .filter(|part| self.parts[*part].has(&name.text))
            .collect();
        if let ([part], false) = (with.as_slice(), self.is_open() || is_system_name(&name.text)) {
            return Ok(*part);
        }
        let names: Vec<&str> = self.parts.iter().map(|part| part.qualifier.as_str()).collect();
        if with.is_empty() && !self.is_open() && !is_system_name(&name.text) {
            return Err(self.unknown(0, name));
        }
        let written = names.iter().map(|qualifier| format!("`{qualifier}.{}`", name.text));
        let message = format!("`{}` may be of either side of the join", name.text);
        Err(SqlError::new(codes::UNKNOWN_COLUMN, message)
            .at(name.span)
            .help(format!("write {}", written.collect::<Vec<_>>().join(" or "))))
    }

    fn topic_level(&mut self, part: usize, level: i64, span: Span) -> Result<ColumnId, SqlError> {
        let Ok(level) = i32::try_from(level) else {
            return Err(SqlError::new(codes::BAD_TOPIC, "no topic has that many levels").at(span));
        };
        let label = format!("_topic[{level}]");
        Ok(self.column_of(part, SourceColumn::TopicLevel(level), &label, DataType::String))
    }

    fn declared_path(
        &mut self,
        part: usize,
        name: &Name,
        mut data_type: DataType,
        steps: &mut Steps,
    ) -> Result<ColumnId, SqlError> {
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
        let field = SourceColumn::Field {
            path,
            data_type: data_type.clone(),
        };
        Ok(self.column_of(part, field, &label, data_type))
    }

    fn unknown(&self, part: usize, name: &Name) -> SqlError {
        let Part {
            stream,
            declared,
            captures,
            ..
        } = &self.parts[part];
        let names: Vec<&str> = declared
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(captures.iter().map(String::as_str))
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
        let message = format!("column `{}` does not exist in stream `{}`", name.text, stream.name);
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
