//! SELECTs inside another one: subqueries, the branches of UNION ALL, and the late rows and errors of all queries on a
//! stream.
//!
//! All of a subquery stands before the Exchange: each task of the query keeps its state whole (decision 7).

use headwater_store::StreamRow;

use crate::ast;
use crate::error::{SqlError, codes};
use crate::plan::bind::Binder;
use crate::plan::bind::assemble::{Nodes, Shape};
use crate::plan::bind::context::Context;
use crate::plan::bind::expression::Expressions;
use crate::plan::bind::from::Stream;
use crate::plan::bind::projection::{Projection, output_names};
use crate::plan::bind::scope::{Columns, Scope};
use crate::plan::bind::select::{body, emit, has_window};
use crate::plan::physical::{ColumnId, Emit, Expr, Form, Op, OperatorId, Schema, SinkItem};
use crate::query::side;
use crate::types::{DataType, Literal};

/// A bound subquery.
pub struct Derived {
    pub nodes: Nodes,
    pub columns: Columns,
    /// The columns that name a row; empty: rows are never taken back.
    pub key: Vec<(ColumnId, DataType)>,
    /// That is the key of a record, alone.
    pub key_is_records: bool,
    /// Its rows come and go.
    pub changes: bool,
    /// It has one row for each key, and what was said of a key before no longer holds.
    pub table: bool,
    /// Its rows are made of many records.
    pub grouped: bool,
    /// They have the times of their windows.
    pub timed: bool,
    /// Several rows may come of one record, and nothing names them.
    pub multiplies: bool,
    pub warnings: Vec<String>,
    schema: Schema,
}

impl Derived {
    /// How its rows change.
    pub fn form(&self) -> Form {
        if self.changes { Form::Retract } else { Form::Append }
    }
}

/// Binds a subquery.
pub fn query<'a>(binder: &Binder<'a>, select: &'a ast::Select, context: &Context<'a>) -> Result<Derived, SqlError> {
    refuse_ends(select)?;
    let emit = emit_inside(select, context.emit);
    let names = output_names(&select.items)?;
    let mut inside = context.clone();
    inside.emit = emit;
    let mut body = body(binder, select, &names, emit, &inside)?;
    let grouping = body.expressions.grouping.is_some();
    let ranks = body.expressions.rank.is_some();
    let ended = emit == Emit::AtEnd;
    let changes = match (grouping, ranks) {
        (true, _) => emit == Emit::Changes,
        (_, true) => !ended,
        _ => body.from.changes,
    };
    // A read that ends has each window once too, where the query says so.
    let once = emit == Emit::Final || (ended && has_window(select) && says_final(select));
    let table = match (grouping, ranks) {
        (true, _) => !once,
        (_, true) => true,
        _ => body.from.table,
    };
    let grouped = grouping || body.from.grouped();
    let key = key(&mut body.expressions, &mut body.projection);
    let key_is_records = !grouping && body.expressions.key_is_records;
    let windowed = emit != Emit::Changes && body.expressions.windowed;
    let window_end = windowed.then(|| window_end(&body.expressions, &mut body.projection));
    let grace_us = body.window.as_ref().map_or(0, |window| window.grace_us);
    let warnings = std::mem::take(&mut body.expressions.warnings);
    let projection = std::mem::take(&mut body.projection);
    let from_timed = body.from.timed();
    let multiplies = body.from.multiplies && !grouping && !ranks;
    let mut nodes = Nodes::default();
    let (top, shape) = body.assemble(&projection, None, &mut nodes);
    if let Some(end) = window_end {
        let op = Op::Retime {
            end,
            behind_us: grace_us.saturating_add(1),
        };
        nodes.push(op, &[top], projection.schema.clone(), shape);
    }
    Ok(Derived {
        nodes,
        columns: columns(&projection),
        key,
        key_is_records,
        changes,
        table,
        grouped,
        multiplies,
        timed: window_end.is_some() || (!grouping && from_timed),
        warnings,
        schema: projection.schema,
    })
}

/// A subquery speaks as the whole does, unless it says otherwise; of a window that is asked for once, once.
fn emit_inside(select: &ast::Select, outside: Emit) -> Emit {
    match (outside, select.emit) {
        (Emit::AtEnd, _) => Emit::AtEnd,
        (Emit::Final, None) if select.window.is_some() => Emit::Final,
        (_, None) => match has_window(select) && outside == Emit::Final {
            true => Emit::Final,
            false => Emit::Changes,
        },
        (_, Some(_)) => emit(select, true),
    }
}

fn says_final(select: &ast::Select) -> bool {
    matches!(&select.emit, Some(emit) if emit.kind == ast::EmitKind::Final)
}

/// What stands at the end of the whole statement.
fn refuse_ends(select: &ast::Select) -> Result<(), SqlError> {
    if let Some(item) = select.order_by.first() {
        return Err(SqlError::not_supported("ORDER BY in a subquery", item.expr.span).help(
            "for the first rows of each group, ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) AS n and WHERE n <= 3",
        ));
    }
    let (what, span) = match (&select.limit, &select.start) {
        (Some(limit), _) => ("LIMIT in a subquery", limit.span),
        (None, Some(start)) => ("a start position in a subquery", start.span),
        (None, None) => return Ok(()),
    };
    Err(SqlError::not_supported(what, span).help("write it at the end of the whole statement"))
}

/// The columns that name a row of the output.
fn key(expressions: &mut Expressions<'_>, projection: &mut Projection) -> Vec<(ColumnId, DataType)> {
    let input = expressions.item_schema();
    let exprs: Vec<Expr> = match &expressions.grouping {
        Some(grouping) => {
            let windowed = u32::from(grouping.windowed);
            let columns = 0..grouping.group.len() as u32 + windowed;
            columns.map(|number| Expr::Column(ColumnId(number))).collect()
        }
        None => expressions.key.clone(),
    };
    let hidden = |expr: &Expr| {
        let data_type = expr.data_type(&input);
        (projection.hidden(expr, &data_type, &input), data_type)
    };
    let mut key: Vec<_> = exprs.iter().map(hidden).collect();
    if key.is_empty() && expressions.grouping.is_some() {
        // One row for all.
        let one = Expr::Literal(Literal::String(String::new()));
        key.push((projection.hidden(&one, &DataType::String, &input), DataType::String));
    }
    key
}

fn window_end(expressions: &Expressions<'_>, projection: &mut Projection) -> ColumnId {
    let groups = expressions.grouping.as_ref().map_or(0, |grouping| grouping.group.len());
    let end = Expr::Column(ColumnId(groups as u32 + 1));
    projection.hidden(&end, &DataType::Timestamp, &expressions.item_schema())
}

/// What FROM sees of a projection.
fn columns(projection: &Projection) -> Columns {
    let mut columns = Columns::default();
    for item in &projection.items {
        match item {
            SinkItem::Column { name, column } => {
                let data_type = projection.schema.columns[column.index()].data_type.clone();
                columns.named.push((name.clone(), data_type, *column));
            }
            SinkItem::Star(column) => columns.star = Some((columns.named.len(), *column)),
        }
    }
    columns
}

/// Binds UNION ALL: all have as many columns, and the names of the first.
pub fn union<'a>(binder: &Binder<'a>, branches: &'a [ast::Select], context: &Context<'a>) -> Result<Derived, SqlError> {
    let mut bound = Vec::with_capacity(branches.len());
    for branch in branches {
        bound.push((query(binder, branch, context)?, branch.span));
    }
    put_together(bound)
}

fn put_together(bound: Vec<(Derived, crate::span::Span)>) -> Result<Derived, SqlError> {
    let mut branches = bound.into_iter();
    let Some((first, _)) = branches.next() else {
        return Err(SqlError::internal("a union of nothing"));
    };
    let mut schema = Schema::default();
    let shown = |derived: &Derived| -> Vec<ColumnId> {
        let named = derived.columns.named.iter().map(|(_, _, column)| *column);
        named.chain(derived.columns.star.map(|(_, column)| column)).collect()
    };
    for column in shown(&first) {
        let column = &first.schema.columns[column.index()];
        schema.push(column.name.clone(), column.data_type.clone());
    }
    let mut all = vec![first];
    for (branch, span) in branches {
        let (first, columns) = (&all[0], shown(&branch));
        let as_many = columns.len() == schema.columns.len();
        if !as_many || branch.columns.star.is_some() != first.columns.star.is_some() {
            return Err(
                SqlError::new(codes::WRONG_COUNT, "the SELECTs of a UNION ALL give different columns")
                    .at(span)
                    .detail(format!(
                        "the first one gives {}, this one {}",
                        listed(first),
                        listed(&branch)
                    ))
                    .help("name as many columns in each, in the same order"),
            );
        }
        if branch.key.len() != first.key.len() && (branch.changes || first.changes || branch.grouped || first.grouped) {
            return Err(
                SqlError::not_supported("UNION ALL of rows that change with others", span)
                    .help("make streams of the parts with CREATE STREAM … AS, and read those"),
            );
        }
        for (known, column) in schema.columns.iter_mut().zip(columns) {
            if known.data_type != branch.schema.columns[column.index()].data_type {
                known.data_type = DataType::Any;
            }
        }
        all.push(branch);
    }
    Ok(joined(all, schema, shown))
}

/// One after the other, the same columns of all; behind them which SELECT a row is of, and what names it there.
fn joined(all: Vec<Derived>, mut schema: Schema, shown: impl Fn(&Derived) -> Vec<ColumnId>) -> Derived {
    let width = schema.columns.len();
    let keyed = all.iter().any(|derived| !derived.key.is_empty());
    let mut key = Vec::new();
    if keyed {
        key.push((schema.push("union", DataType::Integer), DataType::Integer));
        for number in 0..all[0].key.len() {
            let name = format!("key {}", number + 1);
            key.push((schema.push(name, DataType::Any), DataType::Any));
        }
    }
    let columns = Columns {
        named: all[0]
            .columns
            .named
            .iter()
            .zip(&schema.columns)
            .enumerate()
            .map(|(number, ((name, ..), column))| (name.clone(), column.data_type.clone(), ColumnId(number as u32)))
            .collect(),
        star: all[0].columns.star.map(|(at, _)| (at, ColumnId(width as u32 - 1))),
    };
    let any = |test: fn(&Derived) -> bool| all.iter().any(test);
    let (changes, table, grouped) = (
        any(|derived| derived.changes),
        any(|derived| derived.table),
        any(|derived| derived.grouped),
    );
    let timed = all.iter().all(|derived| derived.timed);
    let multiplies = !keyed || any(|derived| derived.multiplies);
    let form = if changes { Form::Retract } else { Form::Append };
    let mut nodes = Nodes::default();
    let mut warnings = Vec::new();
    let mut tops: Vec<OperatorId> = Vec::new();
    for (number, mut derived) in all.into_iter().enumerate() {
        let mut exprs: Vec<Expr> = shown(&derived).into_iter().map(Expr::Column).collect();
        if keyed {
            exprs.push(Expr::Literal(Literal::Integer(number as i64)));
            exprs.extend(derived.key.iter().map(|(column, _)| Expr::Column(*column)));
        }
        warnings.append(&mut derived.warnings);
        let shape = Shape::plain(derived.form());
        let top = nodes.splice(derived.nodes);
        tops.push(nodes.push(Op::Project(exprs), &[top], schema.clone(), shape));
    }
    nodes.push(Op::Union, &tops, schema.clone(), Shape::plain(form));
    Derived {
        nodes,
        columns,
        key,
        key_is_records: false,
        changes,
        table,
        grouped,
        timed,
        multiplies,
        warnings,
        schema,
    }
}

fn listed(derived: &Derived) -> String {
    let named = derived.columns.named.iter().map(|(name, ..)| name.as_str());
    let all: Vec<&str> = named.chain(derived.columns.star.map(|_| "*")).collect();
    all.join(", ")
}

/// `s$late`, `s$errors`: those of all queries on s, where there is no stream of that name.
pub fn side_streams<'a>(
    binder: &Binder<'a>,
    name: &'a ast::Name,
    context: &Context<'a>,
) -> Result<Option<Derived>, SqlError> {
    let Some(streams) = side::of_readers(binder.catalog, &name.text) else {
        return Ok(None);
    };
    let mut bound = Vec::with_capacity(streams.len());
    for stream in streams {
        context.count(name.span)?;
        bound.push((records(binder, stream, context)?, name.span));
    }
    if bound.is_empty() {
        return Err(
            SqlError::new(codes::UNKNOWN_STREAM, format!("stream `{}` does not exist", name.text))
                .at(name.span)
                .detail("it would hold what the queries on a stream could not use, and no query reads this one"),
        );
    }
    match bound.len() {
        1 => Ok(bound.pop().map(|(derived, _)| derived)),
        _ => put_together(bound).map(Some),
    }
}

/// `SELECT * FROM stream`
fn records<'a>(binder: &Binder<'a>, stream: &'a StreamRow, context: &Context<'a>) -> Result<Derived, SqlError> {
    let mut scope = Scope::new(stream, &stream.name, &[])?;
    let star = scope.star(0);
    let mut nodes = Nodes::default();
    let start = context.start(binder, stream)?;
    Stream::new(binder, stream, false, Vec::new(), start).assemble(0, &scope, &mut nodes);
    Ok(Derived {
        nodes,
        columns: Columns {
            named: Vec::new(),
            star: Some((0, star)),
        },
        key: Vec::new(),
        key_is_records: false,
        changes: false,
        table: false,
        grouped: false,
        timed: true,
        multiplies: false,
        warnings: Vec::new(),
        schema: scope.schema,
    })
}
