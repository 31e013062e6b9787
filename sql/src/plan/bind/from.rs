//! FROM: streams, subqueries and arrays, brought together from left to right.
//!
//! Each part of FROM adds its columns to the scope; which of them are wanted is known only when the whole SELECT is
//! bound. Then [`assemble`] makes the operators.

mod assemble;

use headwater_store::{StreamForm, StreamRow};

use crate::ast;
use crate::error::{SqlError, codes};
use crate::plan::bind::context::Context;
use crate::plan::bind::expression::{Expressions, Place, Upsert};
use crate::plan::bind::join::{self, Joined};
use crate::plan::bind::scope::Scope;
use crate::plan::bind::subquery::{self, Derived};
use crate::plan::bind::{Binder, select, topic, written};
use crate::plan::physical::{BinaryOp, ColumnId, Emit, Expr, JoinKind, Start, UnaryOp};
use crate::types::{DataType, Literal};
use crate::view;

/// FROM, bound.
pub struct From<'a> {
    inputs: Vec<Input<'a>>,
    /// What joins each input but the first with all before it.
    steps: Vec<Step>,
    /// Its rows come and go.
    pub changes: bool,
    /// It has one row for each key, and what was said of a key before no longer holds.
    pub table: bool,
    /// What names a row; empty: the source record's id.
    pub key: Vec<Expr>,
    /// That is the key of a record, alone.
    pub key_is_records: bool,
    /// A row may come several times from one record.
    pub multiplies: bool,
    emit: Emit,
}

/// One part.
enum Input<'a> {
    Stream(Stream<'a>),
    Topics(Topics),
    Query(Derived),
    Elements,
}

pub struct Stream<'a> {
    row: &'a StreamRow,
    /// Its plain revisions are asked for.
    plain: bool,
    captures: Vec<String>,
    timestamp: Option<Expr>,
    start: Start,
    /// SET idle, where the stream says nothing.
    idle_us: Option<i64>,
    /// Its revisions are read as changes by key.
    upsert: Option<Upsert>,
    /// Of these only what each key has in the end.
    latest: bool,
}

struct Topics {
    filter: String,
    start: Start,
    /// SET idle, where a stream says nothing.
    idle_us: Option<i64>,
}

enum Step {
    Join(Joined),
    Unnest { array: Expr, outer: bool },
}

/// Binds FROM and all its joins.
pub fn from<'a>(
    binder: &Binder<'a>,
    select: &'a ast::Select,
    context: &Context<'a>,
) -> Result<(Expressions<'a>, From<'a>), SqlError> {
    let mut expressions = Expressions::new(Scope::empty());
    let mut from = From {
        inputs: Vec::new(),
        steps: Vec::new(),
        changes: false,
        table: false,
        key: Vec::new(),
        key_is_records: false,
        multiplies: false,
        emit: context.emit,
    };
    from.add(
        binder,
        &select.from.source,
        select.from.alias.as_ref(),
        &mut expressions,
        context,
    )?;
    for ast in &select.from.joins {
        from.join(binder, ast, &mut expressions, context)?;
    }
    from.event_times(&mut expressions)?;
    from.keys(&mut expressions);
    expressions.scope.add_calls();
    Ok((expressions, from))
}

impl<'a> From<'a> {
    /// Adds a stream or subquery to the scope.
    fn add(
        &mut self,
        binder: &Binder<'a>,
        source: &'a ast::Source,
        alias: Option<&ast::Name>,
        expressions: &mut Expressions<'a>,
        context: &Context<'a>,
    ) -> Result<(), SqlError> {
        let alias_span = alias.map(|alias| alias.span);
        let called = |name: &str| alias.map_or_else(|| name.to_owned(), |alias| alias.text.clone());
        let scope = &mut expressions.scope;
        let derived = match source {
            ast::Source::Stream(name) => match context.named(&name.text) {
                Some((select, inside)) => {
                    Some((subquery::query(binder, select, &inside)?, called(&name.text), name.span))
                }
                None => match subquery::side_streams(binder, name, context)? {
                    Some(derived) => Some((derived, called(&name.text), name.span)),
                    None => {
                        context.refuse_own(name)?;
                        context.count(name.span)?;
                        let row = binder.source(name)?;
                        let plain = name.text != row.name;
                        let selected = written::plan(binder.catalog, row).and_then(|plan| written::columns(&plan));
                        let span = alias_span.unwrap_or(name.span);
                        scope.add_stream(row, &called(&row.name), &row.captures, selected, span)?;
                        let start = context.start(binder, row)?;
                        self.inputs.push(Input::Stream(Stream::new(
                            binder,
                            row,
                            plain,
                            row.captures.clone(),
                            start,
                        )));
                        None
                    }
                },
            },
            ast::Source::Topic(text) => {
                context.count(text.span)?;
                let filter = topic::filter(text)?;
                scope.add_topics(&filter, &called("topics"), alias_span.unwrap_or(text.span))?;
                self.inputs.push(Input::Topics(Topics {
                    filter,
                    start: context.start_of_topics()?,
                    idle_us: binder.settings.idle_us,
                }));
                None
            }
            ast::Source::Query(select) => Some((
                subquery::query(binder, select, context)?,
                called("subquery"),
                select.span,
            )),
            ast::Source::Union(branches) => {
                let span = branches.first().map_or(Default::default(), |first| first.span);
                Some((subquery::union(binder, branches, context)?, called("union"), span))
            }
            ast::Source::Unnest(array) => {
                return Err(SqlError::internal("an array stands alone in FROM").at(array.span));
            }
        };
        if let Some((mut derived, name, span)) = derived {
            scope.add_query(&derived.columns, &name, alias_span.unwrap_or(span))?;
            expressions.warnings.append(&mut derived.warnings);
            self.multiplies |= derived.multiplies;
            self.inputs.push(Input::Query(derived));
        }
        let last = self.inputs.len() - 1;
        if last == 0 {
            self.table = self.is_table(0);
            // A read that ends takes the rows of now.
            self.changes = match &self.inputs[0] {
                Input::Query(derived) => derived.changes,
                _ => self.table && context.emit != Emit::AtEnd,
            };
        }
        Ok(())
    }

    /// Its rows are those that each key has now.
    fn is_table(&self, part: usize) -> bool {
        match &self.inputs[part] {
            Input::Stream(stream) => stream.row.form == StreamForm::Upsert && !stream.plain,
            Input::Query(derived) => derived.table,
            Input::Topics(_) | Input::Elements => false,
        }
    }

    fn join(
        &mut self,
        binder: &Binder<'a>,
        ast: &'a ast::Join,
        expressions: &mut Expressions<'a>,
        context: &Context<'a>,
    ) -> Result<(), SqlError> {
        if let ast::Source::Unnest(array) = &ast.source {
            return self.unnest(ast, array, expressions);
        }
        self.add(binder, &ast.source, ast.alias.as_ref(), expressions, context)?;
        let right = self.inputs.len() - 1;
        let (left_table, right_table) = (self.table, self.is_table(right));
        let times = (0..=right).find(|part| matches!(&self.inputs[*part], Input::Query(derived) if !derived.timed));
        let sides = join::Sides {
            left_table,
            right_table,
            untimed: times.map(|part| expressions.scope.name(part).to_owned()),
        };
        let joined = join::join(ast, right, &sides, expressions)?;
        match &mut self.inputs[right] {
            // A table is what it is, whatever was said of the stream.
            Input::Stream(stream) if right_table => stream.start = Start::Earliest,
            _ => {}
        }
        if let (true, Input::Stream(stream), 1) = (joined.tables, &mut self.inputs[0], right) {
            stream.start = Start::Earliest;
        }
        self.changes = joined.tables;
        self.table = joined.tables;
        self.multiplies |= !joined.tables;
        self.steps.push(Step::Join(joined));
        Ok(())
    }

    fn unnest(
        &mut self,
        ast: &'a ast::Join,
        array: &'a ast::Expr,
        expressions: &mut Expressions<'a>,
    ) -> Result<(), SqlError> {
        let outer = match ast.kind {
            JoinKind::Inner => false,
            JoinKind::Left => true,
            JoinKind::Right | JoinKind::Full => {
                return Err(SqlError::not_supported("a RIGHT or FULL join with UNNEST", ast.span));
            }
        };
        if self.changes {
            return Err(SqlError::not_supported("UNNEST of rows that change", ast.span)
                .help("unnest before grouping, or read the plain revisions with `$log`"));
        }
        let bound = expressions.bind(array, Place::Argument)?;
        let of = match &bound.data_type {
            DataType::Array(of) => (**of).clone(),
            DataType::Any | DataType::Jsonb => DataType::Any,
            other => {
                let message = format!("UNNEST takes an array, this is {}", super::expression::article(other));
                return Err(SqlError::new(codes::WRONG_TYPE, message).at(array.span));
            }
        };
        let name = ast.alias.as_ref().map_or("unnest", |alias| &alias.text);
        expressions.scope.add_elements(name, of, ast.span)?;
        self.inputs.push(Input::Elements);
        (self.multiplies, self.table) = (true, false);
        let array = bound.expr;
        self.steps.push(Step::Unnest { array, outer });
        Ok(())
    }

    /// Binds what the streams say of their event times.
    fn event_times(&mut self, expressions: &mut Expressions<'a>) -> Result<(), SqlError> {
        for (part, input) in self.inputs.iter_mut().enumerate() {
            if let Input::Stream(stream) = input {
                let time = Scope::focused(expressions, part, |expressions| {
                    select::event_time(stream.row, expressions)
                })?;
                stream.timestamp = time;
            }
        }
        Ok(())
    }

    /// Which streams are read as changes by key, and what names a row of all.
    fn keys(&mut self, expressions: &mut Expressions<'a>) {
        let joins = self.steps.iter().any(|step| matches!(step, Step::Join(_)));
        for part in 0..self.inputs.len() {
            let (table, changes) = (self.is_table(part), self.changes);
            let Input::Stream(stream) = &mut self.inputs[part] else {
                continue;
            };
            // A view that is read to its end has the rows of now already.
            stream.latest = !(part > 0 || changes || joins || view::is_view(stream.row));
            if table && (stream.latest || part > 0 || changes || joins) {
                stream.upsert = Some(expressions.changes_of(part));
            }
        }
        let mut key = self.key_of(0, expressions);
        for number in 0..self.steps.len() {
            let Step::Join(joined) = &self.steps[number] else {
                continue;
            };
            let lone_right = matches!(joined.kind, JoinKind::Right | JoinKind::Full);
            if joined.tables && joined.kind == JoinKind::Full {
                // Under one key both sides stand alone where the rest of ON does not hold of them.
                let of_pair = joined.rest.is_none() && self.is_one_to_one(number, joined, expressions);
                key = match of_pair {
                    true => joined.values.clone(),
                    false => key,
                };
                self.tell_sides_apart(number + 1, of_pair, &mut key, expressions);
            } else if joined.tables && !self.is_one_to_one(number, joined, expressions) {
                key.extend(self.key_of(number + 1, expressions));
            } else if key.is_empty() || joined.tables || lone_right {
                key = joined.values.clone();
            }
        }
        self.key = key;
        self.key_is_records = !joins
            && match &self.inputs[0] {
                Input::Stream(stream) => stream.upsert.is_some() && !stream.latest,
                Input::Query(derived) => derived.key_is_records,
                Input::Topics(_) | Input::Elements => false,
            };
    }

    /// The key of a row of a FULL join of tables, where either side may stand alone. NULL matches nothing, so that both
    /// sides may have a row under it: that of the right side is called `[NULL]`, and an array `[array]`, so that no other
    /// row is called so. `of_pair`: `key` is that of both sides already, so an array is called so whichever it is of.
    fn tell_sides_apart(
        &mut self,
        right: usize,
        of_pair: bool,
        key: &mut Vec<Expr>,
        expressions: &mut Expressions<'a>,
    ) {
        let there = Expr::Unary {
            op: UnaryOp::IsNotNull,
            operand: Box::new(self.presence(right, expressions)),
        };
        let marked = |expr: &Expr, mark: Expr| Expr::Case {
            branches: vec![(mark, Expr::Array(vec![expr.clone()]))],
            otherwise: Some(Box::new(expr.clone())),
        };
        let is_null = |expr: &Expr| Expr::Unary {
            op: UnaryOp::IsNull,
            operand: Box::new(expr.clone()),
        };
        let is_array = |expr: &Expr| Expr::Call {
            function: "IS_ARRAY".to_owned(),
            arguments: vec![expr.clone()],
        };
        let either = |left: Expr, right: Expr| Expr::Binary {
            op: BinaryOp::Or,
            left: Box::new(left),
            right: Box::new(right),
        };
        if of_pair {
            for part in key {
                *part = marked(part, either(both(there.clone(), is_null(part)), is_array(part)));
            }
            return;
        }
        let mut own = self.key_of(right, expressions);
        if let Some(first) = own.first_mut() {
            *first = marked(first, both(there, either(is_null(first), is_array(first))));
        }
        key.extend(own);
    }

    /// A column of a part that is NULL only where a join has no row of it.
    fn presence(&self, part: usize, expressions: &mut Expressions<'a>) -> Expr {
        Expr::Column(match &self.inputs[part] {
            Input::Stream(Stream {
                upsert: Some(upsert), ..
            }) => upsert.gone,
            _ => {
                let one = Expr::Literal(Literal::Boolean(true));
                expressions.scope.output_of(part, one, "there", DataType::Boolean)
            }
        })
    }

    /// What names a row of one part; empty: its record's id.
    fn key_of(&self, part: usize, expressions: &mut Expressions<'a>) -> Vec<Expr> {
        match &self.inputs[part] {
            // Nothing takes them back.
            Input::Stream(stream) if stream.latest => Vec::new(),
            Input::Stream(stream) => stream.upsert.iter().map(|upsert| Expr::Column(upsert.key)).collect(),
            Input::Query(derived) => {
                let columns = derived.key.iter().enumerate();
                let wanted = |(number, (column, data_type)): (usize, &(ColumnId, DataType))| {
                    let name = format!("key {}", number + 1);
                    let column = expressions
                        .scope
                        .output_of(part, Expr::Column(*column), &name, data_type.clone());
                    Expr::Column(column)
                };
                columns.map(wanted).collect()
            }
            Input::Topics(_) | Input::Elements => Vec::new(),
        }
    }

    /// Two tables are joined by the keys of both, so that the key names the pair.
    fn is_one_to_one(&self, step: usize, joined: &Joined, expressions: &Expressions<'a>) -> bool {
        let is_key = |part: usize, exprs: Vec<&Expr>| {
            let Input::Stream(stream) = &self.inputs[part] else {
                return false;
            };
            let keys: Vec<&str> = stream
                .row
                .columns
                .iter()
                .filter(|column| column.key)
                .map(|column| column.name.as_str())
                .collect();
            let name = |expr: &&Expr| match expr {
                Expr::Column(column) => expressions.scope.field_name(*column),
                _ => None,
            };
            let names: Option<Vec<&str>> = exprs.iter().map(name).collect();
            !keys.is_empty()
                && names.is_some_and(|names| names.len() == keys.len() && keys.iter().all(|key| names.contains(key)))
        };
        let (left, right): (Vec<_>, Vec<_>) = joined.keys.iter().map(|(left, right)| (left, right)).unzip();
        step == 0 && is_key(0, left) && is_key(1, right)
    }

    /// Its rows are made of many records.
    pub fn grouped(&self) -> bool {
        let grouped = |input: &Input<'_>| matches!(input, Input::Query(derived) if derived.grouped);
        self.inputs.iter().any(grouped)
    }

    /// Its rows have times of their own.
    pub fn timed(&self) -> bool {
        let untimed = |input: &Input<'_>| matches!(input, Input::Query(derived) if !derived.timed);
        !self.inputs.iter().any(untimed)
    }

    /// A window needs them.
    pub fn check_times(&self, window: &ast::Window) -> Result<(), SqlError> {
        if self.timed() {
            return Ok(());
        }
        Err(
            SqlError::not_supported("a window over a subquery that groups", window.span)
                .detail("its rows change, and have no time of their own")
                .help("let the subquery have a window, and speak when that is over: … EMIT FINAL"),
        )
    }
}

fn both(left: Expr, right: Expr) -> Expr {
    Expr::Binary {
        op: BinaryOp::And,
        left: Box::new(left),
        right: Box::new(right),
    }
}

/// An expression over the columns of the parts before one.
pub fn among(expr: &Expr, scope: &Scope<'_>, parts: usize) -> Expr {
    let mut expr = expr.clone();
    expr.replace_columns(&mut |column| Some(Expr::Column(scope.among(column, parts))));
    expr
}

impl<'a> Stream<'a> {
    pub fn new(
        binder: &Binder<'a>,
        row: &'a StreamRow,
        plain: bool,
        captures: Vec<String>,
        start: Start,
    ) -> Stream<'a> {
        Stream {
            idle_us: binder.settings.idle_us,
            row,
            plain,
            captures,
            timestamp: None,
            start,
            upsert: None,
            latest: false,
        }
    }
}
