//! SELECT: clauses to operators.

use headwater_store::StreamRow;

use crate::ast::{self, EmitKind, ExprKind, Item, StartKind};
use crate::error::{SqlError, codes};
use crate::parse::parse_expression;
use crate::plan::bind::assemble::Parts;
use crate::plan::bind::expression::{Alias, Expressions, Grouping, Place, Typed, literal_moment};
use crate::plan::bind::projection::{Projection, output_names, project};
use crate::plan::bind::routing::{Output, routing};
use crate::plan::bind::scope::Scope;
use crate::plan::bind::{Binder, BoundSelect, topic};
use crate::plan::physical::{
    AggregateFunction, BinaryOp, Emit, Expr, OrderBy, Plan, Source, Start, Window, WindowKind,
};
use crate::types::DataType;

/// The delay of the watermark behind event times that records carry, unless DELAY says another.
const DELAY_US: i64 = 5_000_000;

/// A SELECT by itself.
pub fn alone(binder: &Binder<'_>, select: &ast::Select) -> Result<BoundSelect, SqlError> {
    let (plan, warnings) = plan(binder, select, None)?;
    Ok(BoundSelect {
        plan,
        push: select.emit.is_some(),
        warnings,
    })
}

/// The plan of a SELECT; with `output`, of the query that writes that stream.
pub fn plan(
    binder: &Binder<'_>,
    select: &ast::Select,
    output: Option<&Output<'_>>,
) -> Result<(Plan, Vec<String>), SqlError> {
    let emit = emit(select, output.is_some());
    refuse_endless(select, emit, output.is_some())?;
    let (stream, filter) = source(binder, select, output)?;
    let captures = match &filter {
        Some(filter) => vec![filter.as_str().to_owned()],
        None => stream.captures.clone(),
    };
    let qualifier = select
        .from
        .alias
        .as_ref()
        .map_or(stream.name.as_str(), |alias| &alias.text);
    let mut expressions = Expressions::new(Scope::new(stream, qualifier, &captures)?);
    let timestamp = event_time(stream, &mut expressions)?;
    let on_topic = filter
        .as_ref()
        .and_then(|filter| topic::condition(&mut expressions.scope, filter));

    let names = output_names(&select.items)?;
    expressions.aliases = select
        .items
        .iter()
        .zip(&names)
        .filter_map(|(item, name)| match item {
            Item::Expr { expr, alias } => Some(Alias {
                name: name.clone(),
                expr,
                explicit: alias.is_some(),
            }),
            Item::All(_) => None,
        })
        .collect();
    expressions.windowed = select.window.is_some();
    let condition = select
        .filter
        .as_ref()
        .map(|filter| expressions.condition(filter, Place::Where, "WHERE"));
    let condition = match (on_topic, condition.transpose()?) {
        (Some(a), Some(b)) => Some(Expr::Binary {
            op: BinaryOp::And,
            left: Box::new(a),
            right: Box::new(b),
        }),
        (a, b) => a.or(b),
    };
    let window = window(select, emit)?;
    bind_grouping(select, &mut expressions)?;
    check_final(select, emit)?;

    let mut projection = project(select, &names, &mut expressions)?;
    let having = having(select, &mut expressions)?;
    let order_by = order_by(select, &mut expressions, &mut projection)?;
    let (exchange, sink) = routing(&mut expressions, &mut projection, &names, select, output)?;
    let start = start(select, stream, output.is_some())?;
    let source = Source {
        stream: stream.id,
        name: stream.name.clone(),
        format: stream.options.format,
        on_error: stream.options.on_error,
        form: stream.form,
        columns: expressions.scope.columns.clone(),
        captures,
        delay_us: stream
            .options
            .delay_ms
            .map_or(if timestamp.is_some() { DELAY_US } else { 0 }, micros),
        idle_us: stream.options.idle_ms.map(micros),
        timestamp,
        start,
    };
    let limit = select.limit.map(|limit| limit.count);
    let parts = Parts {
        source,
        condition,
        exchange,
        window,
        having,
        projection,
        sink,
        order_by,
        limit,
        emit,
    };
    Ok((
        parts.assemble(expressions.scope.schema, expressions.grouping),
        expressions.warnings,
    ))
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000)
}

fn emit(select: &ast::Select, persistent: bool) -> Emit {
    match select.emit.map(|emit| emit.kind) {
        Some(EmitKind::Changes) => Emit::Changes,
        Some(EmitKind::Final) => Emit::Final,
        None if persistent => Emit::Changes,
        None => Emit::AtEnd,
    }
}

/// LIMIT and ORDER BY need an end.
fn refuse_endless(select: &ast::Select, emit: Emit, persistent: bool) -> Result<(), SqlError> {
    if let (Some(limit), true) = (select.limit, persistent) {
        return Err(SqlError::not_supported(
            "LIMIT in a query that writes a stream",
            limit.span,
        ));
    }
    match select.order_by.first() {
        Some(first) if emit != Emit::AtEnd => Err(SqlError::not_supported(
            "ORDER BY in a query that goes on",
            first.expr.span,
        )
        .help("a SELECT without EMIT ends, and can be ordered")),
        _ => Ok(()),
    }
}

fn source<'a>(
    binder: &Binder<'a>,
    select: &ast::Select,
    output: Option<&Output<'_>>,
) -> Result<(&'a StreamRow, Option<headwater_store::TopicFilter>), SqlError> {
    match &select.from.source {
        ast::Source::Stream(name) => {
            if let Some(output) = output.filter(|output| output.name.text == name.text) {
                return Err(SqlError::new(
                    codes::FEEDS_ITSELF,
                    format!("`{}` would read what it writes", output.name.text),
                )
                .at(name.span)
                .help("give the new stream another name"));
            }
            Ok((binder.stream(name)?, None))
        }
        ast::Source::Topic(text) if output.is_some() => {
            Err(
                SqlError::not_supported("a topic filter in a query that writes a stream", text.span).help(format!(
                    "make a stream of these topics first, CREATE STREAM s FROM TOPIC '{}', and select from it",
                    text.text
                )),
            )
        }
        ast::Source::Topic(text) => {
            let (stream, filter) = topic::source(binder.catalog, text)?;
            Ok((stream, Some(filter)))
        }
    }
}

/// The stream's TIMESTAMP as a column expression.
pub fn event_time(stream: &StreamRow, expressions: &mut Expressions<'_>) -> Result<Option<Expr>, SqlError> {
    let Some(text) = &stream.options.timestamp else {
        return Ok(None);
    };
    let bound = parse_expression(text).and_then(|ast| expressions.bind(&ast, Place::Option));
    let bound = bound.map_err(|error| {
        SqlError::internal(format!(
            "the TIMESTAMP of stream `{}` cannot be read: {}",
            stream.name, error.message
        ))
    })?;
    Ok(Some(as_timestamp(bound)))
}

/// Numbers are milliseconds, texts are read: what CAST does.
pub fn as_timestamp(typed: Typed) -> Expr {
    match typed.data_type {
        DataType::Timestamp => typed.expr,
        _ => Expr::Cast {
            operand: Box::new(typed.expr),
            to: DataType::Timestamp,
        },
    }
}

fn window(select: &ast::Select, emit: Emit) -> Result<Option<Window>, SqlError> {
    let Some(window) = &select.window else { return Ok(None) };
    let fixed = |interval: &ast::Interval, least: i64| {
        interval.value.fixed_us().filter(|us| *us >= least).ok_or_else(|| {
            SqlError::new(
                codes::BAD_WINDOW,
                "a window needs a length of at least 1 millisecond that does not depend on the calendar",
            )
            .at(interval.span)
            .help("units up to WEEK have a fixed length")
        })
    };
    let size_us = fixed(&window.size, 1_000)?;
    let grace_us = match &window.grace {
        Some(grace) => fixed(grace, 0)?,
        None => Window::default_grace_us(size_us, emit),
    };
    Ok(Some(Window {
        kind: WindowKind::Tumbling { size_us },
        grace_us,
    }))
}

/// Binds GROUP BY, where the query groups at all.
fn bind_grouping(select: &ast::Select, expressions: &mut Expressions<'_>) -> Result<(), SqlError> {
    let windowed = select.window.is_some();
    let items = select.items.iter().filter_map(|item| match item {
        Item::Expr { expr, .. } => Some(expr),
        Item::All(_) => None,
    });
    let order = select.order_by.iter().map(|item| &item.expr);
    let aggregates = items.chain(&select.having).chain(order).any(has_aggregate);
    if let (Some(window), true, false) = (&select.window, select.group_by.is_empty(), aggregates) {
        return Err(
            SqlError::new(codes::BAD_WINDOW, "a window without GROUP BY or an aggregate function")
                .at(window.span)
                .help("a window collects rows: SELECT COUNT(*) … GROUP BY TUMBLING (…)"),
        );
    }
    if !windowed && !aggregates && select.group_by.is_empty() {
        return Ok(());
    }
    let mut group: Vec<Typed> = Vec::new();
    for ast in &select.group_by {
        // Grouping by a window's columns is what the window itself does.
        if windowed
            && matches!(&ast.kind, ExprKind::Name(name) if matches!(name.text.as_str(), "window_start" | "window_end"))
        {
            continue;
        }
        let bound = expressions.bind(ast, Place::GroupBy)?;
        let mut columns = 0;
        bound
            .expr
            .walk(&mut |part| columns += usize::from(matches!(part, Expr::Column(_))));
        if columns == 0 {
            return Err(SqlError::new(codes::WRONG_TYPE, "GROUP BY takes columns, this is a constant").at(ast.span));
        }
        if !group.iter().any(|known| known.expr == bound.expr) {
            group.push(bound);
        }
    }
    expressions.grouping = Some(Grouping {
        group,
        windowed,
        ..Grouping::default()
    });
    Ok(())
}

fn has_aggregate(expr: &ast::Expr) -> bool {
    let own = matches!(&expr.kind, ExprKind::Call { name, .. } if AggregateFunction::from_name(&name.text).is_some());
    own || expr.kind.children().any(has_aggregate)
}

fn check_final(select: &ast::Select, emit: Emit) -> Result<(), SqlError> {
    match select.emit {
        Some(written) if emit == Emit::Final && select.window.is_none() => {
            Err(SqlError::new(codes::FINAL_WITHOUT_WINDOW, "EMIT FINAL needs a window")
                .at(written.span)
                .detail("a row is final when its window is over; without a window it never is")
                .help("add a window, GROUP BY …, TUMBLING (INTERVAL '1' MINUTE), or write EMIT CHANGES"))
        }
        _ => Ok(()),
    }
}

fn having(select: &ast::Select, expressions: &mut Expressions<'_>) -> Result<Option<Expr>, SqlError> {
    let Some(having) = &select.having else { return Ok(None) };
    if expressions.grouping.is_none() {
        return Err(SqlError::new(
            codes::MISPLACED_AGGREGATE,
            "HAVING without GROUP BY or an aggregate function",
        )
        .at(having.span)
        .help("write the condition in WHERE"));
    }
    expressions.condition(having, Place::Result, "HAVING").map(Some)
}

fn order_by(
    select: &ast::Select,
    expressions: &mut Expressions<'_>,
    projection: &mut Projection,
) -> Result<Vec<OrderBy>, SqlError> {
    let mut order = Vec::with_capacity(select.order_by.len());
    for item in &select.order_by {
        let bound = expressions.bind(&item.expr, Place::Result)?;
        let column = projection.hidden(&bound.expr, &bound.data_type, &expressions.item_schema());
        order.push(OrderBy {
            expr: Expr::Column(column),
            descending: item.descending,
        });
    }
    Ok(order)
}

fn start(select: &ast::Select, stream: &StreamRow, persistent: bool) -> Result<Start, SqlError> {
    let Some(start) = &select.start else {
        return Ok(if persistent || select.emit.is_some() {
            Start::Latest
        } else {
            Start::Earliest
        });
    };
    place(start, stream)
}

/// A place in a stream that a statement names.
pub fn place(start: &ast::Start, stream: &StreamRow) -> Result<Start, SqlError> {
    match &start.kind {
        StartKind::Beginning => Ok(Start::Earliest),
        StartKind::Timestamp(text) => Ok(Start::Timestamp(
            literal_moment(&text.text, text.span)?.div_euclid(1_000),
        )),
        StartKind::Offset(offset) if stream.shards.len() == 1 => Ok(Start::Offset(*offset)),
        StartKind::Offset(_) => {
            let message = format!(
                "stream `{}` has {} shards, each with its own offsets",
                stream.name,
                stream.shards.len()
            );
            Err(SqlError::new(codes::BAD_START, message)
                .at(start.span)
                .help("name a place in a stream of several shards with TIMESTAMP '…'"))
        }
    }
}
