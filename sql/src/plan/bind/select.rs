//! SELECT: clauses to operators.

use headwater_store::StreamRow;

use crate::ast::{self, EmitKind, ExprKind, Item, StartKind};
use crate::error::{SqlError, codes};
use crate::function;
use crate::limits::WINDOWS_PER_ROW_MAX;
use crate::parse::parse_expression;
use crate::plan::bind::assemble::{Body, Ending};
use crate::plan::bind::context::{Context, Shared};
use crate::plan::bind::expression::{Alias, Expressions, Grouping, Place, Typed, literal_moment};
use crate::plan::bind::from::from;
use crate::plan::bind::projection::{Projection, output_names, project};
use crate::plan::bind::routing::{Output, routing};
use crate::plan::bind::scope::Scope;
use crate::plan::bind::{Binder, BoundSelect};
use crate::plan::optimize::optimize;
use crate::plan::physical::{ColumnId, Emit, Expr, OrderBy, Plan, SourceColumn, Start, Throttle, Window, WindowKind};
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
    let shared = Shared::default();
    let context = Context::new(select, emit, output, &shared);
    let names = output_names(&select.items)?;
    let mut body = body(binder, select, &names, emit, &context)?;
    let Body {
        expressions,
        projection,
        from,
        ..
    } = &mut body;
    let order_by = order_by(select, expressions, projection)?;
    let keyed = output.is_some_and(|output| output.view.is_some() && !output.keys.is_empty());
    let multiplies = from.multiplies && expressions.grouping.is_none() && expressions.rank.is_none();
    let may_share_key = output.is_some_and(|output| multiplies || !output.keys.is_empty());
    if multiplies && !keyed && output.is_some_and(|output| output.view.is_some()) {
        return Err(SqlError::new(codes::BAD_OPTION, "this view needs a KEY")
            .at(select.span)
            .detail("UNNEST, UNION ALL and JOIN make several rows of one record, and a view has one for each key")
            .help("give the option KEY: WITH (KEY = …)"));
    }
    let (exchange, sink) = routing(expressions, projection, &names, select, output)?;
    let warnings = std::mem::take(&mut expressions.warnings);
    let ending = Ending {
        exchange,
        sink,
        keyed,
        may_share_key,
        view: output.and_then(|output| output.view),
        order_by,
        limit: select.limit.map(|limit| limit.count),
        manner: binder.settings.manner,
    };
    let plan = optimize(body.plan(ending));
    match shared.ranked.get() {
        Some(span) if emit != Emit::AtEnd && plan.ranks_all() => Err(SqlError::new(
            codes::BAD_WINDOW,
            "ROW_NUMBER in a query that goes on needs to know how many rows to keep",
        )
        .at(span)
        .detail("with each new row the number of every row behind it would change")
        .help("write WHERE with its name: … AS n … WHERE n <= 10")),
        _ => Ok((plan, warnings)),
    }
}

/// A SELECT up to its items, wherever it stands.
pub fn body<'a>(
    binder: &Binder<'a>,
    select: &'a ast::Select,
    names: &[String],
    emit: Emit,
    context: &Context<'a>,
) -> Result<Body<'a>, SqlError> {
    let inside = context.with(select);
    let (mut expressions, from) = from(binder, select, &inside)?;
    expressions.key = from.key.clone();
    expressions.key_is_records = from.key_is_records;
    if from.changes {
        refuse_sessions(select)?;
    }
    expressions.aliases = select
        .items
        .iter()
        .zip(names)
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
    let condition = condition.transpose()?;
    let window = window(select, emit)?;
    if let Some(window) = &select.window {
        from.check_times(window)?;
    }
    bind_grouping(select, &mut expressions)?;
    check_final(select, emit)?;
    let mut projection = project(select, names, &mut expressions)?;
    if let Some(distinct) = select.distinct {
        group_by_all(select, distinct, &mut expressions, &mut projection)?;
    }
    let having = having(select, &mut expressions)?;
    if let Some(rank) = &expressions.rank {
        context.ranked(rank.span);
        name_by_rank(&mut expressions);
    } else if let (true, Some(first)) = (from.changes, expressions.over.first()) {
        return Err(refuse_changes(first, select));
    }
    Ok(Body {
        expressions,
        from,
        condition,
        window,
        throttle: throttle(select)?,
        having,
        projection,
        emit,
    })
}

fn refuse_changes(call: &crate::plan::physical::OverCall, select: &ast::Select) -> SqlError {
    let name = match call.function {
        crate::plan::physical::OverFunction::Lag { .. } => "LAG",
        crate::plan::physical::OverFunction::HadChanged(_) => "HAD_CHANGED",
    };
    SqlError::not_supported(format!("{name} over rows that change"), select.span)
        .help("read the plain revisions, FROM \"name$log\"")
}

/// A row among the first ones is named by its partition and its number: the next one in its place replaces it.
fn name_by_rank(expressions: &mut Expressions<'_>) {
    let number = expressions.scope.call(0, "row_number", DataType::Integer);
    let partition = expressions.rank.iter().flat_map(|rank| rank.partition.clone());
    expressions.key = partition.chain([Expr::Column(number)]).collect();
    expressions.key_is_records = false;
}

/// DISTINCT: each row that is selected is a group of its own.
fn group_by_all(
    select: &ast::Select,
    distinct: crate::span::Span,
    expressions: &mut Expressions<'_>,
    projection: &mut Projection,
) -> Result<(), SqlError> {
    if groups(select) {
        return Err(
            SqlError::not_supported("SELECT DISTINCT in a query that groups", distinct)
                .help("put what groups into a subquery: SELECT DISTINCT n FROM (SELECT … GROUP BY …)"),
        );
    }
    let exprs = std::mem::take(&mut projection.exprs);
    let types = projection.schema.columns.iter().map(|column| column.data_type.clone());
    let group: Vec<Typed> = exprs
        .into_iter()
        .zip(types)
        .map(|(expr, data_type)| Typed { expr, data_type })
        .collect();
    projection.exprs = (0..group.len() as u32)
        .map(|number| Expr::Column(ColumnId(number)))
        .collect();
    expressions.grouping = Some(Grouping {
        group,
        ..Grouping::default()
    });
    Ok(())
}

/// Milliseconds as microseconds.
pub fn micros(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000)
}

/// When a SELECT speaks.
pub fn emit(select: &ast::Select, persistent: bool) -> Emit {
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

/// What a stream says of event times, and the columns that its TIMESTAMP reads.
#[derive(Debug)]
pub struct EventTime {
    pub columns: Vec<SourceColumn>,
    /// Over `columns`.
    pub timestamp: Option<Expr>,
    /// DELAY
    pub delay_us: i64,
    /// IDLE
    pub idle_us: Option<i64>,
}

/// See above.
pub fn event_time_of(stream: &StreamRow) -> Result<EventTime, SqlError> {
    let scope = Scope::new(stream, &stream.name, &stream.captures)?;
    let mut expressions = Expressions::new(scope);
    let timestamp = event_time(stream, &mut expressions)?;
    let (delay_us, idle_us) = delays(stream);
    Ok(EventTime {
        columns: expressions.scope.source_columns(0),
        timestamp,
        delay_us,
        idle_us,
    })
}

/// DELAY and IDLE of a stream.
pub fn delays(stream: &StreamRow) -> (i64, Option<i64>) {
    let options = &stream.options;
    let usual = if options.timestamp.is_some() { DELAY_US } else { 0 };
    (options.delay_ms.map_or(usual, micros), options.idle_ms.map(micros))
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
pub fn groups(select: &ast::Select) -> bool {
    select.window.is_some() || !select.group_by.is_empty() || aggregates(select)
}

fn has_aggregate(expr: &ast::Expr) -> bool {
    let own = matches!(&expr.kind, ExprKind::Call { name, .. } if function::aggregate(&name.text).is_some());
    own || expr.kind.children().any(has_aggregate)
}

fn check_final(select: &ast::Select, emit: Emit) -> Result<(), SqlError> {
    match select.emit {
        Some(written) if emit == Emit::Final && !has_window(select) => {
            Err(SqlError::new(codes::FINAL_WITHOUT_WINDOW, "EMIT FINAL needs a window")
                .at(written.span)
                .detail("a row is final when its window is over; without a window it never is")
                .help("add a window, GROUP BY …, TUMBLING (INTERVAL '1' MINUTE), or write EMIT CHANGES"))
        }
        _ => Ok(()),
    }
}

/// It has a window, or a subquery in its FROM has one.
pub fn has_window(select: &ast::Select) -> bool {
    let of = |source: &ast::Source| match source {
        ast::Source::Query(select) => has_window(select),
        ast::Source::Union(branches) => branches.iter().any(has_window),
        _ => false,
    };
    let sources = select.from.joins.iter().map(|join| &join.source);
    let named = select.with.iter().any(|named| has_window(&named.select));
    select.window.is_some() || named || std::iter::once(&select.from.source).chain(sources).any(of)
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
        refuse_constant(&item.expr, "ORDER BY")?;
        let bound = expressions.bind(&item.expr, Place::Result)?;
        let column = projection.hidden(&bound.expr, &bound.data_type, &expressions.item_schema());
        order.push(OrderBy {
            expr: Expr::Column(column),
            descending: item.descending,
        });
    }
    Ok(order)
}

/// A number is no number of a column: `ORDER BY 1` would order by nothing.
pub fn refuse_constant(expr: &ast::Expr, clause: &str) -> Result<(), SqlError> {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Text(_) | ExprKind::Null | ExprKind::Bool(_) => Err(SqlError::new(
            codes::WRONG_TYPE,
            format!("{clause} takes columns, this is a constant"),
        )
        .at(expr.span)
        .help("write the name of a column, or one given with AS")),
        _ => Ok(()),
    }
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

/// As `place`, where that is a time.
pub fn place_of_time(start: &ast::Start) -> Result<Start, SqlError> {
    match &start.kind {
        StartKind::Timestamp(text) => Ok(Start::Timestamp(
            literal_moment(&text.text, text.span)?.div_euclid(1_000),
        )),
        StartKind::Beginning | StartKind::Offset(_) => Ok(Start::Earliest),
    }
}

/// A place in a stream that a statement names.
pub fn place(start: &ast::Start, stream: &StreamRow) -> Result<Start, SqlError> {
    match &start.kind {
        StartKind::Beginning | StartKind::Timestamp(_) => place_of_time(start),
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
