//! What the columns of FROM are called, of a stream, a subquery or all sides of a join, and which of them a query takes.

mod part;

use headwater_store::StreamRow;

use crate::ast::{Name, Quote};
use crate::error::{SqlError, codes};
use crate::parse::did_you_mean;
use crate::plan::bind::expression::Expressions;
use crate::plan::bind::path::Steps;
use crate::plan::physical::{ColumnId, Expr, PathStep, Schema, SourceColumn};
use crate::span::Span;
use crate::types::DataType;
use crate::view::kind_of;
use part::{Kind, Part, level_names};

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
    columns: Vec<(usize, Wanted)>,
    /// Their names and types.
    pub schema: Schema,
    /// Names without a qualifier are of this part.
    focus: Option<usize>,
    /// What USING made one column of.
    merged: Vec<(String, Expr)>,
    /// A stream says something of itself: what its query selects is not asked, for it is stored already.
    of_itself: bool,
}

/// A column of a part.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Of a stream's records.
    Taken(SourceColumn),
    /// Over the output of a subquery.
    Output(Expr),
    /// The element of UNNEST.
    Element,
    /// What a function with OVER gives, by its number.
    Call(u32),
}

/// What a subquery's rows are made of, as FROM sees them.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// In order.
    pub named: Vec<(String, DataType, ColumnId)>,
    /// `*` of an open stream, and before which of the others it stands.
    pub star: Option<(usize, ColumnId)>,
}

impl<'a> Scope<'a> {
    /// Of nothing: what FROM names is added part by part.
    pub fn empty() -> Scope<'a> {
        Scope {
            parts: Vec::new(),
            columns: Vec::new(),
            schema: Schema::default(),
            focus: None,
            merged: Vec::new(),
            of_itself: false,
        }
    }

    /// `captures` are the topic filters whose `{name}` levels are columns: the stream's own, or FROM's.
    pub fn new(stream: &'a StreamRow, qualifier: &str, captures: &[String]) -> Result<Scope<'a>, SqlError> {
        let mut scope = Scope::empty();
        scope.add(Part::of_stream(stream, qualifier, captures)?, Span::default())?;
        Ok(scope)
    }

    /// Adds a stream; `selected` are the fields of its rows, where a query writes it and all of them are known.
    pub fn add_stream(
        &mut self,
        stream: &'a StreamRow,
        qualifier: &str,
        captures: &[String],
        selected: Option<Vec<String>>,
        span: Span,
    ) -> Result<(), SqlError> {
        let part = Part::of_stream(stream, qualifier, captures)?;
        self.add(Part { selected, ..part }, span)
    }

    /// Adds the messages of a topic filter.
    pub fn add_topics(&mut self, filter: &str, qualifier: &str, span: Span) -> Result<(), SqlError> {
        let part = Part::made(Kind::Topics, qualifier, Vec::new());
        let captures = level_names([filter]);
        self.add(Part { captures, ..part }, span)
    }

    /// Adds a subquery.
    pub fn add_query(&mut self, columns: &Columns, qualifier: &str, span: Span) -> Result<(), SqlError> {
        let kind = Kind::Query {
            columns: columns.named.iter().map(|(_, _, column)| *column).collect(),
            star: columns.star,
        };
        let declared = columns.named.iter().map(|(name, of, _)| (name.clone(), of.clone()));
        self.add(Part::made(kind, qualifier, declared.collect()), span)
    }

    /// Adds the elements of an array, of that type, each called `name`.
    pub fn add_elements(&mut self, name: &str, of: DataType, span: Span) -> Result<(), SqlError> {
        let focus = self.focus;
        self.add(Part::made(Kind::Element, name, vec![(name.to_owned(), of)]), span)?;
        self.focus = focus;
        Ok(())
    }

    /// Adds what functions with OVER give. Nothing can be added behind it.
    pub fn add_calls(&mut self) {
        self.parts.push(Part::made(Kind::Calls, "", Vec::new()));
    }

    /// From the second one on, a name needs a qualifier, unless one part alone declares it.
    fn add(&mut self, part: Part<'a>, span: Span) -> Result<(), SqlError> {
        if self.qualifier(&part.qualifier).is_some() {
            let message = format!("both sides of the join are called `{}`", part.qualifier);
            return Err(SqlError::new(codes::DUPLICATE_NAME, message)
                .at(span)
                .help("give them names with AS"));
        }
        self.parts.push(part);
        self.focus = (self.parts.len() == 1).then_some(0);
        Ok(())
    }

    /// Names without a qualifier are of this part while `run` goes on: in what a stream says of itself.
    pub fn focused<T>(
        expressions: &mut Expressions<'a>,
        part: usize,
        run: impl FnOnce(&mut Expressions<'a>) -> T,
    ) -> T {
        let before = expressions.scope.focus.replace(part);
        expressions.scope.of_itself = true;
        let result = run(expressions);
        expressions.scope.of_itself = false;
        expressions.scope.focus = before;
        result
    }

    /// From now on the name without a qualifier is that: USING has made one column of two.
    pub fn merge(&mut self, name: &Name, one: Expr) {
        self.merged.retain(|(known, _)| *known != name.text);
        self.merged.push((name.text.clone(), one));
    }

    /// What USING made one column of, where names may be of several sides.
    pub fn merged(&self, name: &str) -> Option<&Expr> {
        let (_, one) = self.merged.iter().find(|(known, _)| known == name)?;
        self.focus.is_none().then_some(one)
    }

    /// How many streams, subqueries and arrays.
    pub fn parts(&self) -> usize {
        let named = |part: &&Part<'_>| !matches!(part.kind, Kind::Calls);
        self.parts.iter().filter(named).count()
    }

    /// What a part is called.
    pub fn name(&self, part: usize) -> &str {
        &self.parts[part].qualifier
    }

    /// How the plain revisions of a part are read. None: it is a subquery, which has no name to read them by.
    pub fn revisions(&self, part: usize) -> Option<String> {
        match &self.parts[part].kind {
            Kind::Stream(stream) => Some(format!("{}$log", stream.name)),
            _ => None,
        }
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

    /// Before which of the declared columns the fields stand that nobody has named.
    pub fn star_at(&self, part: usize) -> Option<usize> {
        match &self.parts[part].kind {
            Kind::Query { star, .. } => star.map(|(at, _)| at),
            _ => self.parts[part].open.then_some(0),
        }
    }

    /// The part whose column `x` is `name.x`.
    pub fn qualifier(&self, name: &str) -> Option<usize> {
        let named = |part: &Part<'_>| part.qualifier == name && !matches!(part.kind, Kind::Calls);
        self.parts.iter().position(named)
    }

    /// The element of the array that has that name.
    pub fn element(&mut self, name: &str) -> Option<ColumnId> {
        let part = self.qualifier(name)?;
        self.element_of(part)
    }

    fn element_of(&mut self, part: usize) -> Option<ColumnId> {
        if !matches!(self.parts[part].kind, Kind::Element) {
            return None;
        }
        let (name, of) = self.parts[part].declared.first()?.clone();
        Some(self.wanted(part, Wanted::Element, &name, of))
    }

    /// What the function with OVER of that number gives.
    pub fn call(&mut self, number: u32, name: &str, data_type: DataType) -> ColumnId {
        let part = self.parts.len() - 1;
        self.wanted(part, Wanted::Call(number), name, data_type)
    }

    /// The number of the function with OVER whose column it is.
    pub fn call_number(&self, column: ColumnId) -> Option<u32> {
        match self.columns.get(column.index()) {
            Some((_, Wanted::Call(number))) => Some(*number),
            _ => None,
        }
    }

    /// The number of a stream's column; the same one for the same column.
    pub fn column_of(&mut self, part: usize, column: SourceColumn, name: &str, data_type: DataType) -> ColumnId {
        self.wanted(part, Wanted::Taken(column), name, data_type)
    }

    /// The number of a column that is worked out from the output of a subquery.
    pub fn output_of(&mut self, part: usize, expr: Expr, name: &str, data_type: DataType) -> ColumnId {
        self.wanted(part, Wanted::Output(expr), name, data_type)
    }

    fn wanted(&mut self, part: usize, column: Wanted, name: &str, data_type: DataType) -> ColumnId {
        let wanted = (part, column);
        match self.columns.iter().position(|known| *known == wanted) {
            Some(at) => ColumnId(at as u32),
            None => {
                let qualified = self.parts() > 1 && matches!(wanted.1, Wanted::Taken(_) | Wanted::Output(_));
                self.columns.push(wanted);
                match qualified {
                    true => self
                        .schema
                        .push(format!("{}.{name}", self.parts[part].qualifier), data_type),
                    false => self.schema.push(name, data_type),
                }
            }
        }
    }

    /// The columns that were asked for of one part, in the order of its own numbers.
    pub fn wanted_of(&self, part: usize) -> impl Iterator<Item = &Wanted> {
        let own = self.columns.iter().filter(move |(of, _)| *of == part);
        own.map(|(_, column)| column)
    }

    /// As above, of a stream.
    pub fn source_columns(&self, part: usize) -> Vec<SourceColumn> {
        let own = self.wanted_of(part).filter_map(|wanted| match wanted {
            Wanted::Taken(column) => Some(column.clone()),
            _ => None,
        });
        own.collect()
    }

    /// The name of the field that a column is, where it is one of a stream's.
    pub fn field_name(&self, column: ColumnId) -> Option<&str> {
        match self.columns.get(column.index()) {
            Some((_, Wanted::Taken(SourceColumn::Field { path, .. }))) => match path.as_slice() {
                [PathStep::Member(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// The names and types of the columns of the parts before one.
    pub fn schema_before(&self, part: usize) -> Schema {
        self.schema_where(|of| of < part)
    }

    /// The names and types of the columns of one part.
    pub fn source_schema(&self, part: usize) -> Schema {
        self.schema_where(|of| of == part)
    }

    fn schema_where(&self, test: impl Fn(usize) -> bool) -> Schema {
        let mut schema = Schema::default();
        for ((of, _), column) in self.columns.iter().zip(&self.schema.columns) {
            if test(*of) {
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

    /// The number of a column among those of the parts before one.
    pub fn among(&self, column: ColumnId, parts: usize) -> ColumnId {
        let before = self.columns.iter().take(column.index());
        ColumnId(before.filter(|(of, _)| *of < parts).count() as u32)
    }

    /// The columns of the parts up to one, with the part of each, in order.
    pub fn up_to(&self, part: usize) -> impl Iterator<Item = (usize, ColumnId)> + '_ {
        let columns = self.columns.iter().enumerate();
        let own = columns.filter(move |(_, (of, _))| *of <= part);
        own.map(|(number, (of, _))| (*of, ColumnId(number as u32)))
    }

    /// The whole payload: `*` of an open part.
    pub fn star(&mut self, part: usize) -> ColumnId {
        match self.parts[part].kind {
            Kind::Query {
                star: Some((_, column)),
                ..
            } => self.output_of(part, Expr::Column(column), "*", DataType::Jsonb),
            _ => self.column_of(part, SourceColumn::Star, "*", DataType::Jsonb),
        }
    }

    /// The declared column of that name.
    pub fn declared_column(&mut self, part: usize, name: &str) -> Option<ColumnId> {
        let of = &self.parts[part];
        let number = of.declared.iter().position(|(declared, _)| declared == name)?;
        let data_type = of.declared[number].1.clone();
        match &of.kind {
            Kind::Query { columns, .. } => {
                let column = Expr::Column(columns[number]);
                Some(self.output_of(part, column, name, data_type))
            }
            Kind::Element => self.element_of(part),
            _ => {
                let path = vec![PathStep::Member(name.to_owned())];
                let field = SourceColumn::Field {
                    path,
                    data_type: data_type.clone(),
                };
                Some(self.column_of(part, field, name, data_type))
            }
        }
    }

    /// The column that `name`, followed by `steps`, stands for. The steps that are part of the column are taken away.
    /// `part` is what a qualifier said.
    pub fn resolve(&mut self, name: &Name, steps: &mut Steps, part: Option<usize>) -> Result<ColumnId, SqlError> {
        let at = match part.or(self.focus) {
            Some(part) => part,
            None => self.only_part(name)?,
        };
        match &self.parts[at].kind {
            Kind::Stream(_) | Kind::Topics => self.of_stream(at, name, steps),
            _ => match (self.declared_column(at, &name.text), self.star_of(at)) {
                (Some(column), _) => Ok(column),
                (None, Some(star)) => {
                    let label = steps.label(&name.text);
                    let mut path = vec![PathStep::Member(name.text.clone())];
                    path.extend(steps.take_all());
                    let field = Expr::Path {
                        operand: Box::new(Expr::Column(star)),
                        steps: path,
                        as_text: false,
                    };
                    Ok(self.output_of(at, field, &label, DataType::Any))
                }
                (None, None) => Err(self.unknown(at, name)),
            },
        }
    }

    /// Where a subquery's output has the fields that nobody has named.
    fn star_of(&self, part: usize) -> Option<ColumnId> {
        match self.parts[part].kind {
            Kind::Query { star, .. } => star.map(|(_, column)| column),
            _ => None,
        }
    }

    fn of_stream(&mut self, at: usize, name: &Name, steps: &mut Steps) -> Result<ColumnId, SqlError> {
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
        if of.lacks(&name.text) && !(of.open && self.of_itself) {
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
        let system = self.parts.iter().any(|part| part.has_system(&name.text));
        if let ([part], false) = (with.as_slice(), self.is_open() || system) {
            return Ok(*part);
        }
        if with.is_empty() && !self.is_open() && !system {
            return Err(self.unknown(0, name));
        }
        let named = self
            .parts
            .iter()
            .filter(|part| !matches!(part.kind, Kind::Calls | Kind::Element));
        let written: Vec<_> = named
            .map(|part| format!("`{}.{}`", part.qualifier, name.text))
            .collect();
        let (side, written) = match written.as_slice() {
            [_, _] => ("either side", written.join(" or ")),
            _ => ("several sides", written.join(", ")),
        };
        let message = format!("`{}` may be of {side} of the join", name.text);
        Err(SqlError::new(codes::UNKNOWN_COLUMN, message)
            .at(name.span)
            .help(format!("write {written}")))
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
            kind,
            qualifier,
            declared,
            selected,
            captures,
            ..
        } = &self.parts[part];
        let names: Vec<&str> = declared
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(captures.iter().chain(selected.iter().flatten()).map(String::as_str))
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
        let owner = match kind {
            Kind::Stream(stream) => format!("{} `{}`", kind_of(stream).name(), stream.name),
            _ => format!("`{qualifier}`"),
        };
        let message = format!("column `{}` does not exist in {owner}", name.text);
        SqlError::new(codes::UNKNOWN_COLUMN, message).at(name.span).help(help)
    }
}
