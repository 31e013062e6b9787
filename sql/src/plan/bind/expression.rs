//! Expressions: names to columns, functions to the table of functions, types checked where they are known.
//!
//! With GROUP BY an expression of the SELECT list is over the aggregate's output, not over the source. It is bound over
//! the source all the same, and on the way up every part that equals a grouping expression becomes that group column.
//! Columns of the aggregate's output are marked meanwhile by [`AFTER`]; a column of the source that is still there in
//! the end is not grouped.

mod call;
mod literal;
mod operator;
mod over;

use crate::ast::{self, ExprKind, Name, Quote};
use crate::error::{SqlError, codes};
use crate::plan::bind::path::{self, Steps};
use crate::plan::bind::scope::{Scope, is_system_name};
use crate::plan::explain::show;
use crate::plan::physical::{AggregateCall, ColumnId, Expr, OverCall, Schema, SourceColumn, UnaryOp};
use crate::span::Span;
use crate::types::{DataType, Literal};
use call::Call;
pub use over::Ranked;

/// Added to the numbers of columns of the aggregate's output.
const AFTER: u32 = 1 << 30;

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// WHERE: before any grouping.
    Where,
    /// GROUP BY.
    GroupBy,
    /// Inside an aggregate function.
    Argument,
    /// The SELECT list.
    Item,
    /// HAVING, ORDER BY.
    Result,
    /// The KEY and TOPIC of the stream that the query writes: over its output.
    Output,
    /// The options of a stream: its columns, nothing else.
    Option,
}

impl Place {
    fn after_grouping(self) -> bool {
        matches!(self, Place::Item | Place::Result | Place::Output)
    }

    /// Whether the names that the SELECT list gives are known here.
    fn sees(self, alias: &Alias<'_>) -> bool {
        match self {
            // `tags[0]` is called `tags` in the output, but nobody has said that `tags` is to mean that elsewhere.
            Place::Where | Place::GroupBy | Place::Result => alias.explicit,
            Place::Output => true,
            Place::Argument | Place::Item | Place::Option => false,
        }
    }
}

/// A bound expression and what is known of its type.
#[derive(Debug, Clone)]
pub struct Typed {
    /// Over the source, or over the aggregate's output.
    pub expr: Expr,
    /// `Any` where only the value knows.
    pub data_type: DataType,
}

impl Typed {
    fn new(expr: Expr, data_type: DataType) -> Typed {
        Typed { expr, data_type }
    }

    fn boolean(expr: Expr) -> Typed {
        Typed {
            expr,
            data_type: DataType::Boolean,
        }
    }
}

/// What an item of the SELECT list is called.
#[derive(Debug)]
pub struct Alias<'a> {
    /// Its name in the output.
    pub name: String,
    /// What it stands for.
    pub expr: &'a ast::Expr,
    /// Given with AS.
    pub explicit: bool,
}

/// GROUP BY, once it is bound.
#[derive(Debug, Default)]
pub struct Grouping {
    /// The grouping expressions, over the source.
    pub group: Vec<Typed>,
    /// `window_start` and `window_end` follow them.
    pub windowed: bool,
    /// The aggregate functions that were asked for so far.
    pub calls: Vec<(AggregateCall, DataType)>,
    /// Columns of the source met in the expression being bound.
    pub(super) ungrouped: Vec<(ColumnId, Span)>,
}

impl Grouping {
    /// The columns of the aggregate's output, as far as functions were asked for; `input` is the source.
    pub fn schema(&self, input: &Schema) -> Schema {
        let mut schema = Schema::default();
        for group in &self.group {
            schema.push(show(&group.expr, input), group.data_type.clone());
        }
        if self.windowed {
            schema.push("window_start", DataType::Timestamp);
            schema.push("window_end", DataType::Timestamp);
        }
        for (call, data_type) in &self.calls {
            schema.push(call.function.name().to_ascii_lowercase(), data_type.clone());
        }
        schema
    }

    fn window_columns(&self) -> usize {
        if self.windowed { 2 } else { 0 }
    }
}

/// The columns by which the revisions of a source become changes.
#[derive(Debug, Clone, Copy)]
pub struct Upsert {
    /// The record's key.
    pub key: ColumnId,
    /// It is a tombstone.
    pub gone: ColumnId,
}

/// Binds the expressions of one query or stream.
#[derive(Debug)]
pub struct Expressions<'a> {
    /// The stream they are over.
    pub scope: Scope<'a>,
    /// The names of the SELECT list, with what they stand for.
    pub aliases: Vec<Alias<'a>>,
    /// The query has a window: `window_start` and `window_end` are its columns.
    pub windowed: bool,
    /// Some: the query groups.
    pub grouping: Option<Grouping>,
    /// What names a row of FROM; empty: its record's id.
    pub key: Vec<Expr>,
    /// That is the key of a record, alone.
    pub key_is_records: bool,
    /// The functions with OVER, each a column of the scope.
    pub over: Vec<OverCall>,
    /// ROW_NUMBER, the column behind those.
    pub rank: Option<Ranked>,
    /// What looks like a slip.
    pub warnings: Vec<String>,
}

impl<'a> Expressions<'a> {
    /// Over the columns of `scope`.
    pub fn new(scope: Scope<'a>) -> Expressions<'a> {
        Expressions {
            scope,
            aliases: Vec::new(),
            windowed: false,
            grouping: None,
            key: Vec::new(),
            key_is_records: false,
            over: Vec::new(),
            rank: None,
            warnings: Vec::new(),
        }
    }

    /// The columns by which a source is read as changes by key.
    pub fn changes_of(&mut self, part: usize) -> Upsert {
        Upsert {
            key: self.scope.column_of(part, SourceColumn::Key, "_key", DataType::Any),
            gone: self
                .scope
                .column_of(part, SourceColumn::Gone, "_gone", DataType::Boolean),
        }
    }

    /// Binds an expression that stands alone, to the end: its columns are those of the operator it runs in.
    pub fn bind(&mut self, ast: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        if let Some(grouping) = &mut self.grouping {
            grouping.ungrouped.clear();
        }
        let mut typed = self.part(ast, place)?;
        if place.after_grouping()
            && let Some(grouping) = &self.grouping
        {
            finish(&mut typed.expr, &mut |column| {
                let span = grouping
                    .ungrouped
                    .iter()
                    .find(|(raw, _)| *raw == column)
                    .map_or(ast.span, |(_, span)| *span);
                let name = self
                    .scope
                    .schema
                    .columns
                    .get(column.index())
                    .map_or("", |column| column.name.as_str());
                not_grouped(name, span)
            })?;
        }
        Ok(typed)
    }

    /// As [`Expressions::bind`], for what must be TRUE or FALSE.
    pub fn condition(&mut self, ast: &ast::Expr, place: Place, what: &str) -> Result<Expr, SqlError> {
        let typed = self.bind(ast, place)?;
        if typed.data_type.may_be_boolean() {
            return Ok(typed.expr);
        }
        Err(SqlError::new(
            codes::WRONG_TYPE,
            format!("{what} takes a BOOLEAN, this is {}", article(&typed.data_type)),
        )
        .at(ast.span))
    }

    /// The columns that the SELECT list is over: the aggregate's output, or the source.
    pub fn item_schema(&self) -> Schema {
        let source = &self.scope.schema;
        self.grouping
            .as_ref()
            .map_or_else(|| source.clone(), |grouping| grouping.schema(source))
    }

    fn part(&mut self, ast: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        let typed = self.part_inside(ast, place)?;
        let Some(grouping) = self.grouping.as_mut().filter(|_| place.after_grouping()) else {
            return Ok(typed);
        };
        match grouping.group.iter().position(|group| group.expr == typed.expr) {
            Some(at) => {
                grouping
                    .ungrouped
                    .retain(|(_, span)| span.start < ast.span.start || span.end > ast.span.end);
                Ok(Typed {
                    expr: Expr::Column(ColumnId(AFTER + at as u32)),
                    ..typed
                })
            }
            None => Ok(typed),
        }
    }

    fn part_inside(&mut self, ast: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        match &ast.kind {
            ExprKind::Name(_)
            | ExprKind::Member { .. }
            | ExprKind::Index { .. }
            | ExprKind::Arrow { as_text: false, .. }
            | ExprKind::PathArrow { as_text: false, .. } => self.path(ast, place),
            ExprKind::PathArrow { base, path, .. } => {
                let base = self.part(base, place)?;
                let expr = Expr::Path {
                    operand: Box::new(base.expr),
                    steps: path::several(path)?,
                    as_text: true,
                };
                Ok(Typed::new(expr, DataType::String))
            }
            ExprKind::Slice { base, from, to } => self.slice(base, from.as_deref(), to.as_deref(), place),
            ExprKind::Arrow { base, key, .. } => {
                let base = self.part(base, place)?;
                let steps = vec![path::step(key)?];
                let expr = Expr::Path {
                    operand: Box::new(base.expr),
                    steps,
                    as_text: true,
                };
                Ok(Typed::new(expr, DataType::String))
            }
            ExprKind::Call {
                name,
                arguments,
                distinct,
                filter,
                over,
            } => {
                let call = Call {
                    ast,
                    name,
                    arguments,
                    distinct: *distinct,
                    filter: filter.as_deref(),
                    over: over.as_deref(),
                };
                self.call(call, place)
            }
            ExprKind::Cast { operand, to } => {
                let operand = self.part(operand, place)?;
                let to = to.data_type.clone();
                // A JSON value is one already: its strings are no texts to be read.
                if to == DataType::Jsonb && operand.data_type == DataType::Jsonb {
                    return Ok(operand);
                }
                Ok(Typed::new(
                    Expr::Cast {
                        operand: Box::new(operand.expr),
                        to: to.clone(),
                    },
                    to,
                ))
            }
            ExprKind::Case {
                operand,
                branches,
                otherwise,
            } => self.case(operand.as_deref(), branches, otherwise.as_deref(), place),
            ExprKind::Array(items) => {
                let items = items
                    .iter()
                    .map(|item| self.part(item, place))
                    .collect::<Result<Vec<_>, _>>()?;
                let of = common_type(items.iter().map(|item| &item.data_type));
                let items = items.into_iter().map(|item| item.expr).collect();
                Ok(Typed::new(Expr::Array(items), DataType::Array(Box::new(of))))
            }
            ExprKind::Unary { .. }
            | ExprKind::Binary { .. }
            | ExprKind::IsNull { .. }
            | ExprKind::Like { .. }
            | ExprKind::Between { .. }
            | ExprKind::In { .. } => self.operator(ast, place),
            ExprKind::Null => Ok(Typed::new(Expr::Literal(Literal::Null), DataType::Any)),
            _ => literal::literal(ast),
        }
    }

    /// A name, or a path into one.
    fn path(&mut self, ast: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        let (root, mut steps) = path::path(ast)?;
        let ExprKind::Name(name) = &root.kind else {
            let base = self.part(root, place)?;
            return into(base, steps, ast.span);
        };
        let mut name = name.clone();
        let mut part = None;
        if let Some(column) = self.scope.element(&name.text) {
            return self.column(column, steps, ast.span, place);
        }
        if let Some(qualified) = self.scope.qualifier(&name.text)
            && let Some((text, span)) = steps.take_member()
        {
            part = Some(qualified);
            name = Name {
                text,
                quote: name.quote,
                span: name.span.to(span),
            };
        } else if let Some(found) = self.named_elsewhere(&name, place)? {
            return into(found, steps, ast.span);
        } else if let Some(one) = self.scope.merged(&name.text) {
            let one = one.clone();
            return self.merged(one, steps, ast.span, place);
        }
        if name.quote == Quote::Double && self.scope.is_open() {
            self.warnings.push(format!(
                "`\"{0}\"` is read as the field {0}; if a string is meant, write '{0}'",
                name.text
            ));
        }
        let column = self.scope.resolve(&name, &mut steps, part)?;
        self.column(column, steps, ast.span, place)
    }

    /// The column that USING made of two, and what is left of a path into it.
    fn merged(&mut self, one: Expr, steps: Steps, span: Span, place: Place) -> Result<Typed, SqlError> {
        let data_type = match &one {
            Expr::Call { arguments, .. } => {
                let types: Vec<_> = arguments
                    .iter()
                    .map(|side| side.data_type(&self.scope.schema))
                    .collect();
                common_type(types.iter())
            }
            column => column.data_type(&self.scope.schema),
        };
        if let Some(grouping) = self.grouping.as_mut().filter(|_| place.after_grouping()) {
            one.walk(&mut |node| {
                if let Expr::Column(column) = node {
                    grouping.ungrouped.push((*column, span));
                }
            });
        }
        into(Typed::new(one, data_type), steps, span)
    }

    /// A column of the scope, and what is left of a path into it.
    fn column(&mut self, column: ColumnId, steps: Steps, span: Span, place: Place) -> Result<Typed, SqlError> {
        if let Some(grouping) = self.grouping.as_mut().filter(|_| place.after_grouping()) {
            grouping.ungrouped.push((column, span));
        }
        let data_type = self.scope.schema.columns[column.index()].data_type.clone();
        into(Typed::new(Expr::Column(column), data_type), steps, span)
    }

    /// What is not a column of the stream: the window's columns and the names of the SELECT list.
    fn named_elsewhere(&mut self, name: &Name, place: Place) -> Result<Option<Typed>, SqlError> {
        let of_window = ["window_start", "window_end"]
            .iter()
            .position(|column| *column == name.text);
        if let (Some(position), true) = (of_window, self.windowed && place != Place::Option) {
            let Some(grouping) = self.grouping.as_ref().filter(|_| place.after_grouping()) else {
                let message = format!("`{}` is known only after grouping", name.text);
                return Err(SqlError::new(codes::MISPLACED_AGGREGATE, message)
                    .at(name.span)
                    .help("use it in the SELECT list or in HAVING"));
            };
            let column = ColumnId(AFTER + (grouping.group.len() + position) as u32);
            return Ok(Some(Typed::new(Expr::Column(column), DataType::Timestamp)));
        }
        if is_system_name(&name.text) {
            return Ok(None);
        }
        let known = |alias: &&Alias<'_>| alias.name == name.text && place.sees(alias);
        let Some(ast) = self.aliases.iter().find(known).map(|alias| alias.expr) else {
            return Ok(None);
        };
        // An item is not bound by the names of the list it stands in, so this ends.
        let inside = match place {
            Place::Result | Place::Output => Place::Item,
            _ => Place::Argument,
        };
        self.part(ast, inside).map(Some).map_err(|error| {
            if error.code != codes::MISPLACED_AGGREGATE {
                return error;
            }
            let message = format!(
                "`{}` is an aggregate, and its value is known only after grouping",
                name.text
            );
            SqlError::new(codes::MISPLACED_AGGREGATE, message)
                .at(name.span)
                .help("write the condition in HAVING")
        })
    }

    /// `a[1:3]` is a call of ARRAY_SLICE.
    fn slice(
        &mut self,
        base: &ast::Expr,
        from: Option<&ast::Expr>,
        to: Option<&ast::Expr>,
        place: Place,
    ) -> Result<Typed, SqlError> {
        let whole = self.part(base, place)?;
        if !matches!(whole.data_type, DataType::Any | DataType::Jsonb | DataType::Array(_)) {
            let message = format!("a slice is of an array, this is {}", article(&whole.data_type));
            return Err(SqlError::new(codes::WRONG_TYPE, message).at(base.span));
        }
        let mut arguments = vec![whole.expr];
        for end in [from, to] {
            arguments.push(match end {
                None => Expr::Literal(Literal::Null),
                Some(end) => {
                    let bound = self.part(end, place)?;
                    if !matches!(bound.data_type, DataType::Any | DataType::Integer) {
                        let message = format!("a slice ends at an INTEGER, this is {}", article(&bound.data_type));
                        return Err(SqlError::new(codes::WRONG_TYPE, message).at(end.span));
                    }
                    bound.expr
                }
            });
        }
        let function = "ARRAY_SLICE".to_owned();
        Ok(Typed::new(Expr::Call { function, arguments }, whole.data_type))
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        branches: &[(ast::Expr, ast::Expr)],
        otherwise: Option<&ast::Expr>,
        place: Place,
    ) -> Result<Typed, SqlError> {
        let mut bound = Vec::with_capacity(branches.len());
        let mut types = Vec::with_capacity(branches.len() + 1);
        for (when, then) in branches {
            let condition = match operand {
                Some(operand) => self.equal(operand, when, place)?,
                None => {
                    let condition = self.part(when, place)?;
                    self.boolean_operand("WHEN", when, condition)?
                }
            };
            let result = self.part(then, place)?;
            types.push(result.data_type);
            bound.push((condition.expr, result.expr));
        }
        let otherwise = otherwise.map(|otherwise| self.part(otherwise, place)).transpose()?;
        types.extend(otherwise.iter().map(|typed| typed.data_type.clone()));
        let otherwise = otherwise.map(|typed| Box::new(typed.expr));
        Ok(Typed::new(
            Expr::Case {
                branches: bound,
                otherwise,
            },
            common_type(types.iter()),
        ))
    }
}

/// Steps that are not part of a column go into its value.
fn into(base: Typed, mut steps: Steps, span: Span) -> Result<Typed, SqlError> {
    if steps.is_empty() {
        return Ok(base);
    }
    if !matches!(base.data_type, DataType::Any | DataType::Jsonb | DataType::Array(_)) {
        let message = format!("there is nothing inside {}", article(&base.data_type));
        return Err(SqlError::new(codes::WRONG_TYPE, message).at(span));
    }
    let steps = steps.take_all();
    Ok(Typed::new(
        Expr::Path {
            operand: Box::new(base.expr),
            steps,
            as_text: false,
        },
        DataType::Any,
    ))
}

/// Takes the mark off the columns of the aggregate's output; a column without one is not grouped.
fn finish(expr: &mut Expr, ungrouped: &mut dyn FnMut(ColumnId) -> SqlError) -> Result<(), SqlError> {
    let mut wrong = None;
    expr.replace_columns(&mut |column| match column.0.checked_sub(AFTER) {
        Some(number) => Some(Expr::Column(ColumnId(number))),
        None => {
            wrong.get_or_insert(column);
            None
        }
    });
    wrong.map_or(Ok(()), |column| Err(ungrouped(column)))
}

fn not_grouped(name: &str, span: Span) -> SqlError {
    SqlError::new(
        codes::NOT_GROUPED,
        format!("column `{name}` is neither grouped nor aggregated"),
    )
    .at(span)
    .detail("a group has many rows, and the column may differ among them")
    .help(format!(
        "add `{name}` to GROUP BY, or use it inside COUNT, SUM, AVG, MIN or MAX"
    ))
}

/// The one type all have, as far as they are known; `Any` where they differ.
fn common_type<'t>(types: impl Iterator<Item = &'t DataType>) -> DataType {
    let mut known = types.filter(|data_type| **data_type != DataType::Any);
    let Some(first) = known.next() else {
        return DataType::Any;
    };
    if known.all(|data_type| data_type == first) {
        first.clone()
    } else {
        DataType::Any
    }
}

/// The time that a text tells, in microseconds since the epoch.
pub fn literal_moment(text: &str, span: Span) -> Result<i64, SqlError> {
    match literal::moment(text, &DataType::Timestamp, span)? {
        Literal::Timestamp(us) => Ok(us),
        _ => Err(SqlError::internal("a moment is not a TIMESTAMP").at(span)),
    }
}

/// `an INTEGER`, `a STRING`
pub fn article(data_type: &DataType) -> String {
    let name = data_type.to_string();
    let article = if name.starts_with(['A', 'I']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// `-x` of a number literal is a literal.
fn negated(literal: &Expr) -> Option<Expr> {
    match literal {
        Expr::Literal(Literal::Integer(number)) => Some(Expr::Literal(Literal::Integer(number.checked_neg()?))),
        Expr::Literal(Literal::Float(number)) => Some(Expr::Literal(Literal::Float(-number))),
        Expr::Literal(Literal::Decimal(text)) => {
            let text = format!("-{text}");
            // -2^63 is an INTEGER although 2^63 is not.
            Some(Expr::Literal(
                text.parse().map_or(Literal::Decimal(text), Literal::Integer),
            ))
        }
        _ => None,
    }
}

fn negate(operand: Expr) -> Expr {
    negated(&operand).unwrap_or_else(|| Expr::Unary {
        op: UnaryOp::Negate,
        operand: Box::new(operand),
    })
}
