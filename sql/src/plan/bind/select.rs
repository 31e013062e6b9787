//! SELECT: clauses to operators.

use headwater_store::{StreamForm, StreamRow};

use crate::ast::{self, EmitKind, ExprKind, Item, StartKind};
use crate::error::{SqlError, codes};
use crate::function;
use crate::limits::WINDOWS_PER_ROW_MAX;
use crate::parse::parse_expression;
use crate::plan::bind::assemble::{JoinParts, Parts};
use crate::plan::bind::expression::{Alias, Expressions, Grouping, Place, Typed, Upsert, literal_moment};
use crate::plan::bind::join::{self, BoundJoin};
use crate::plan::bind::projection::{Projection, output_names, project};
use crate::plan::bind::routing::{Output, routing};
use crate::plan::bind::scope::Scope;
use crate::plan::bind::{Binder, BoundSelect, topic};
use crate::plan::physical::{BinaryOp, Emit, Expr, OrderBy, Plan, Source, Start, Throttle, Window, WindowKind};
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
    let mut scope = Scope::new(stream, qualifier, &captures)?;
    let right = match &select.from.join {
        Some(join) => {
            refuse_own(&join.source, output)?;
            Some((join, join::right_side(binder, join, stream, &mut scope)?))
        }
        None => None,
    };
    let mut expressions = Expressions::new(scope);
    let timestamp = Scope::focused(&mut expressions, 0, |expressions| event_time(stream, expressions))?;
    let joined = match right {
        Some((ast, right)) => {
            let bound = join::join(ast, right, asks_revisions(&ast.source, right), &mut expressions)?;
            expressions.joined = bound.key_values().collect();
            Some(bound)
        }
        None => None,
    };
    let plain = asks_revisions(&select.from.source, stream);
    if stream.form == StreamForm::Upsert && emit != Emit::AtEnd && !plain {
        refuse_sessions(select)?;
        expressions.by_key();
    }
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
    let on_join = joined.as_ref().and_then(|joined| joined.rest.clone());
    let condition = and(and(on_topic, on_join), condition.transpose()?);
    let window = window(select, emit)?;
    bind_grouping(select, &mut expressions)?;
    check_final(select, emit)?;

    let mut projection = project(select, &names, &mut expressions)?;
    let having = having(select, &mut expressions)?;
    let order_by = order_by(select, &mut expressions, &mut projection)?;
    let (exchange, sink) = routing(&mut expressions, &mut projection, &names, select, output)?;
    let start = start(binder, select, stream, output)?;
    let right = match &joined {
        Some(joined) => Some(right_source(select, joined, &start, &mut expressions)?),
        None => None,
    };
    let scope = &expressions.scope;
    let left = Described {
        part: 0,
        stream,
        plain,
        captures,
        timestamp,
        start,
    };
    let source = left.source(scope);
    let joined = joined.zip(right).map(|(bound, (right, upsert))| JoinParts {
        join: bound.operator(scope),
        left: scope.source_schema(0),
        right: right.source(scope),
        right_schema: scope.source_schema(1),
        upsert: upsert.map(|upsert| Upsert {
            key: scope.local(upsert.key).1,
            gone: scope.local(upsert.gone).1,
        }),
    });
    let limit = select.limit.map(|limit| limit.count);
    let parts = Parts {
        source,
        joined,
        condition,
        exchange,
        window,
        throttle: throttle(select)?,
        having,
        projection,
        sink,
        upsert: expressions.upsert,
        keyed: output.is_some_and(|output| output.view.is_some() && !output.keys.is_empty()),
        view: output.and_then(|output| output.view),
        order_by,
        limit,
        emit,
    };
    Ok((
        parts.assemble(expressions.scope.schema, expressions.grouping),
        expressions.warnings,
    ))
}

/// One side of FROM, before all of its columns are known.
struct Described<'a> {
    part: usize,
    stream: &'a StreamRow,
    /// Its plain revisions are asked for.
    plain: bool,
    captures: Vec<String>,
    timestamp: Option<Expr>,
    start: Start,
}

impl Described<'_> {
    fn source(self, scope: &Scope<'_>) -> Source {
        let options = &self.stream.options;
        let delay_us = if self.timestamp.is_some() { DELAY_US } else { 0 };
        let log = if self.plain { "$log" } else { "" };
        Source {
            stream: self.stream.id,
            name: format!("{}{log}", self.stream.name),
            format: options.format,
            on_error: options.on_error,
            form: self.stream.form,
            columns: scope.source_columns(self.part),
            captures: self.captures,
            delay_us: options.delay_ms.map_or(delay_us, micros),
            idle_us: options.idle_ms.map(micros),
            timestamp: self.timestamp.map(|expr| join::local(&expr, scope)),
            start: self.start,
        }
    }
}

/// The right side of a join; with the columns by which a table's revisions become its rows.
fn right_source<'a>(
    select: &ast::Select,
    joined: &BoundJoin<'a>,
    left_start: &Start,
    expressions: &mut Expressions<'a>,
) -> Result<(Described<'a>, Option<Upsert>), SqlError> {
    let stream = joined.right;
    let timestamp = Scope::focused(expressions, 1, |expressions| event_time(stream, expressions))?;
    let upsert = joined.lookup.then(|| expressions.changes_of(1));
    if let (Start::Offset(_), Some(start)) = (left_start, &select.start) {
        return Err(
            SqlError::new(codes::BAD_START, "an offset is of one stream, and a join has two")
                .at(start.span)
                .help("name a time: FROM TIMESTAMP '…'"),
        );
    }
    // A table is what it is, whatever was said of the stream.
    let start = if joined.lookup {
        Start::Earliest
    } else {
        left_start.clone()
    };
    let plain = select
        .from
        .join
        .as_ref()
        .is_some_and(|join| asks_revisions(&join.source, stream));
    let described = Described {
        part: 1,
        stream,
        plain,
        captures: stream.captures.clone(),
        timestamp,
        start,
    };
    Ok((described, upsert))
}

/// `name$log`
fn asks_revisions(source: &ast::Source, stream: &StreamRow) -> bool {
    matches!(source, ast::Source::Stream(name) if name.text != stream.name)
}

fn and(a: Option<Expr>, b: Option<Expr>) -> Option<Expr> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Expr::Binary {
            op: BinaryOp::And,
            left: Box::new(a),
            right: Box::new(b),
        }),
        (a, b) => a.or(b),
    }
}

fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000)
}

fn emit(select: &ast::Select, persistent: bool) -> Emit {
    match select.emit.map(|emit| emit.kind) {
        // The two that hold changes back work on what EMIT CHANGES says.
        Some(EmitKind::Changes | EmitKind::Periodic(_) | EmitKind::Silence(_)) => Emit::Changes,
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
            refuse_own(&select.from.source, output)?;
            Ok((binder.source(name)?, None))
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

/// A query cannot read what it writes.
fn refuse_own(source: &ast::Source, output: Option<&Output<'_>>) -> Result<(), SqlError> {
    match (source, output) {
        (ast::Source::Stream(name), Some(output)) if output.name.text == name.text => Err(SqlError::new(
            codes::FEEDS_ITSELF,
            format!("`{}` would read what it writes", output.name.text),
        )
        .at(name.span)
        .help("give the new stream another name")),
        _ => Ok(()),
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
    let kind = match &window.kind {
        ast::WindowKind::Tumbling { size } => WindowKind::Tumbling {
            size_us: length(size, 1_000)?,
        },
        ast::WindowKind::Session { gap } => WindowKind::Session {
            gap_us: length(gap, 1_000)?,
        },
        ast::WindowKind::Hopping { size, advance } => hopping(size, advance)?,
    };
    let grace_us = match &window.grace {
        Some(grace) => length(grace, 0)?,
        None => Window::default_grace_us(kind.size_us(), emit),
    };
    Ok(Some(Window { kind, grace_us }))
}

/// A length of time that does not depend on the calendar.
fn length(interval: &ast::Interval, least_us: i64) -> Result<i64, SqlError> {
    interval.value.fixed_us().filter(|us| *us >= least_us).ok_or_else(|| {
        SqlError::new(
            codes::BAD_WINDOW,
            "a window needs a length of at least 1 millisecond that does not depend on the calendar",
        )
        .at(interval.span)
        .help("units up to WEEK have a fixed length")
    })
}

fn hopping(size: &ast::Interval, advance: &ast::Interval) -> Result<WindowKind, SqlError> {
    let (size_us, advance_us) = (length(size, 1_000)?, length(advance, 1_000)?);
    if size_us / advance_us >= WINDOWS_PER_ROW_MAX {
        let message = format!("each row would be in more than {WINDOWS_PER_ROW_MAX} windows");
        return Err(SqlError::new(codes::BAD_WINDOW, message)
            .at(size.span.to(advance.span))
            .help("let windows begin less often: HOPPING (size, advance)"));
    }
    Ok(match size_us == advance_us {
        true => WindowKind::Tumbling { size_us },
        false => WindowKind::Hopping { size_us, advance_us },
    })
}

/// What holds the changes of a query back, if something does.
fn throttle(select: &ast::Select) -> Result<Option<Throttle>, SqlError> {
    let Some(emit) = select.emit else { return Ok(None) };
    let (throttle, what) = match &emit.kind {
        EmitKind::Changes | EmitKind::Final => return Ok(None),
        EmitKind::Periodic(every) => (
            Throttle::Every {
                us: length(every, 1_000)?,
            },
            "EMIT PERIODIC",
        ),
        EmitKind::Silence(silence) => (
            Throttle::Silence {
                us: length(silence, 1_000)?,
            },
            "EMIT ON SILENCE",
        ),
    };
    if groups(select) {
        return Ok(Some(throttle));
    }
    Err(
        SqlError::new(codes::FINAL_WITHOUT_WINDOW, format!("{what} needs GROUP BY"))
            .at(emit.span)
            .detail("it holds back the changes of a key, and the rows of this query have none")
            .help("add GROUP BY, or write EMIT CHANGES"),
    )
}

/// Binds GROUP BY, where the query groups at all.
fn bind_grouping(select: &ast::Select, expressions: &mut Expressions<'_>) -> Result<(), SqlError> {
    let windowed = select.window.is_some();
    let aggregates = aggregates(select);
    if let (Some(window), true, false) = (&select.window, select.group_by.is_empty(), aggregates) {
        return Err(
            SqlError::new(codes::BAD_WINDOW, "a window without GROUP BY or an aggregate function")
                .at(window.span)
                .help("a window collects rows: SELECT COUNT(*) … GROUP BY TUMBLING (…)"),
        );
    }
    if !groups(select) {
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

/// It asks for an aggregate function somewhere.
fn aggregates(select: &ast::Select) -> bool {
    let items = select.items.iter().filter_map(|item| match item {
        Item::Expr { expr, .. } => Some(expr),
        Item::All(_) => None,
    });
    let order = select.order_by.iter().map(|item| &item.expr);
    items.chain(&select.having).chain(order).any(has_aggregate)
}

/// Its rows are those of groups.
fn groups(select: &ast::Select) -> bool {
    select.window.is_some() || !select.group_by.is_empty() || aggregates(select)
}

fn has_aggregate(expr: &ast::Expr) -> bool {
    let own = matches!(&expr.kind, ExprKind::Call { name, .. } if function::aggregate(&name.text).is_some());
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

fn start(
    binder: &Binder<'_>,
    select: &ast::Select,
    stream: &StreamRow,
    output: Option<&Output<'_>>,
) -> Result<Start, SqlError> {
    let of_view = binder.is_view(stream);
    if let Some(start) = &select.start {
        if of_view && output.is_none() {
            return Err(
                SqlError::not_supported("reading a view from another time than now", start.span)
                    .help(format!("its changes are a stream: SELECT … FROM {}$log", stream.name)),
            );
        }
        return place(start, stream);
    }
    // Views and tables hold all there is, and are made of all there is.
    let all = of_view || output.is_some_and(|output| output.view.is_some());
    let goes_on = output.is_some() || select.emit.is_some();
    Ok(if goes_on && !all {
        Start::Latest
    } else {
        Start::Earliest
    })
}

/// A session cannot be taken apart again.
fn refuse_sessions(select: &ast::Select) -> Result<(), SqlError> {
    match &select.window {
        Some(ast::Window {
            kind: ast::WindowKind::Session { .. },
            span,
            ..
        }) => Err(SqlError::not_supported("a session window over rows that change", *span)
            .help("read the plain revisions, FROM \"name$log\", or use a tumbling or hopping window")),
        _ => Ok(()),
    }
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
