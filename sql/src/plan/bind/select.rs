//! SELECT: clauses to operators.

use headwater_store::{Qos, StreamRow};

use crate::ast::{self, EmitKind, ExprKind, Item, Name, StartKind};
use crate::error::{SqlError, codes};
use crate::parse::parse_expression;
use crate::plan::bind::assemble::Parts;
use crate::plan::bind::expression::{Alias, Expressions, Grouping, Place, Typed, literal_moment, rewrite_columns};
use crate::plan::bind::scope::Scope;
use crate::plan::bind::template::ParsedTemplate;
use crate::plan::bind::{Binder, BoundSelect, topic};
use crate::plan::explain::show;
use crate::plan::physical::{
    AggregateFunction, BinaryOp, ColumnId, Emit, Expr, OrderBy, Plan, Routing, Schema, Sink, SinkItem, Source, Start,
    Template, TemplatePart, Window, WindowKind,
};
use crate::types::{DataType, Literal};

/// What a query's rows become, beyond what SELECT itself says.
#[derive(Debug)]
pub struct Output<'a> {
    /// The stream it writes.
    pub name: &'a Name,
    /// TOPIC
    pub topic: Option<ParsedTemplate>,
    /// KEY
    pub key: Option<ast::Expr>,
    /// QOS
    pub qos: Qos,
    /// RETAIN
    pub retain: bool,
}

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

/// A name for each item: its alias, or what it looks like, made unique by a number. `*` has none.
fn output_names(items: &[Item]) -> Result<Vec<String>, SqlError> {
    let mut taken: Vec<&str> = Vec::new();
    for item in items {
        if let Item::Expr { alias: Some(alias), .. } = item {
            if taken.contains(&alias.text.as_str()) {
                let message = format!("two items are called `{}`", alias.text);
                return Err(SqlError::new(codes::DUPLICATE_NAME, message).at(alias.span));
            }
            taken.push(&alias.text);
        }
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        names.push(match item {
            Item::All(_) => String::new(),
            Item::Expr { alias: Some(alias), .. } => alias.text.clone(),
            Item::Expr { expr, alias: None } => {
                let name = natural_name(expr);
                let free = |name: &String| !taken.contains(&name.as_str()) && !names.contains(name);
                let numbered = (2..).map(|number| format!("{name}_{number}"));
                std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or(name)
            }
        });
    }
    Ok(names)
}

/// What an item without an alias is called.
fn natural_name(expr: &ast::Expr) -> String {
    match &expr.kind {
        ExprKind::Name(name) | ExprKind::Member { name, .. } => name.text.clone(),
        ExprKind::Index { base, index: key } | ExprKind::Arrow { base, key, .. } => match &key.kind {
            ExprKind::Text(text) => text.clone(),
            _ => natural_name(base),
        },
        ExprKind::Cast { operand, .. } => natural_name(operand),
        ExprKind::Call { name, .. } => name.text.to_ascii_lowercase(),
        ExprKind::Case { .. } => "case".to_owned(),
        _ => "expr".to_owned(),
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

/// The columns of the Project operator: those people see, then those only keys, topics and ORDER BY need.
#[derive(Debug, Default)]
pub struct Projection {
    /// One for each column.
    pub exprs: Vec<Expr>,
    /// Their names and types.
    pub schema: Schema,
    /// What people see, in order.
    pub items: Vec<SinkItem>,
}

impl Projection {
    fn column(&mut self, expr: &Expr, name: &str, data_type: &DataType) -> ColumnId {
        match self.exprs.iter().position(|known| known == expr) {
            Some(at) => ColumnId(at as u32),
            None => self.push(expr.clone(), name, data_type.clone()),
        }
    }

    fn push(&mut self, expr: Expr, name: &str, data_type: DataType) -> ColumnId {
        self.exprs.push(expr);
        self.schema.push(name, data_type)
    }

    /// A column that people do not see unless an item is the same; `input` is what the projection reads.
    fn hidden(&mut self, expr: &Expr, data_type: &DataType, input: &Schema) -> ColumnId {
        self.column(expr, &show(expr, input), data_type)
    }

    fn item(&mut self, typed: Typed, name: &str) {
        let column = self.column(&typed.expr, name, &typed.data_type);
        self.items.push(SinkItem::Column {
            name: name.to_owned(),
            column,
        });
    }
}

fn project(select: &ast::Select, names: &[String], expressions: &mut Expressions<'_>) -> Result<Projection, SqlError> {
    let mut projection = Projection::default();
    for (item, name) in select.items.iter().zip(names) {
        match item {
            Item::Expr { expr, .. } => {
                let bound = expressions.bind(expr, Place::Item)?;
                projection.item(bound, name);
            }
            Item::All(span) => {
                if expressions.grouping.is_some() {
                    return Err(
                        SqlError::new(codes::NOT_GROUPED, "`*` cannot stand in a query that groups")
                            .at(*span)
                            .help("name the grouping columns and the aggregates"),
                    );
                }
                project_all(names, expressions, &mut projection);
            }
        }
    }
    Ok(projection)
}

/// `*`: the payload as it stands, or the declared columns; what another item is called is left to that item.
fn project_all(names: &[String], expressions: &mut Expressions<'_>, projection: &mut Projection) {
    let scope = &mut expressions.scope;
    if scope.is_open() {
        let star = Expr::Column(scope.star());
        let column = projection.column(&star, "*", &DataType::Jsonb);
        projection.items.push(SinkItem::Star(column));
        return;
    }
    for (name, data_type) in scope.declared().to_vec() {
        if !names.contains(&name)
            && let Some(column) = scope.declared_column(&name)
        {
            projection.item(
                Typed {
                    expr: Expr::Column(column),
                    data_type,
                },
                &name,
            );
        }
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
        let column = projection.hidden(&bound.expr, &bound.data_type, &input(expressions));
        order.push(OrderBy {
            expr: Expr::Column(column),
            descending: item.descending,
        });
    }
    Ok(order)
}

/// The columns that the projection reads.
fn input(expressions: &Expressions<'_>) -> Schema {
    let source = &expressions.scope.schema;
    match &expressions.grouping {
        Some(grouping) => grouping.schema(source),
        None => source.clone(),
    }
}

/// What places a row, for the Exchange (over the source) and for the Sink (over the projection), with the record's key.
fn routing(
    expressions: &mut Expressions<'_>,
    projection: &mut Projection,
    names: &[String],
    select: &ast::Select,
    output: Option<&Output<'_>>,
) -> Result<(Routing, Sink), SqlError> {
    let template = match output.and_then(|output| output.topic.as_ref()) {
        Some(template) => {
            check_template(template, expressions, names, select)?;
            Some(template.bind(expressions, Place::Output)?)
        }
        None => None,
    };
    let (key, window_key) = key(expressions, output)?;
    let to_source = |expr: &Expr| over_source(expr, expressions.grouping.as_ref());
    let exchange = Routing {
        topic: template.as_ref().map(|template| map_template(template, to_source)),
        key: key.iter().map(|typed| to_source(&typed.expr)).collect(),
    };
    let input = input(expressions);
    let mut placed = |typed: &Typed| match &typed.expr {
        constant @ Expr::Literal(_) => constant.clone(),
        expr => Expr::Column(projection.hidden(expr, &typed.data_type, &input)),
    };
    let routing_key: Vec<Expr> = key.iter().map(&mut placed).collect();
    let window_key = window_key.as_ref().map(&mut placed);
    let topic = template.map(|template| {
        map_template(&template, |expr| {
            Expr::Column(projection.hidden(expr, &expr.data_type(&input), &input))
        })
    });
    let key = routing_key.iter().cloned().chain(window_key).collect();
    let routing = Routing {
        topic,
        key: routing_key,
    };
    let (qos, retain) = output.map_or((Qos::AtMostOnce, false), |output| (output.qos, output.retain));
    Ok((
        exchange,
        Sink {
            items: projection.items.clone(),
            key,
            routing,
            qos,
            retain,
        },
    ))
}

/// The expressions of a row's key, and `window_start` where the row is one of a window.
fn key(
    expressions: &mut Expressions<'_>,
    output: Option<&Output<'_>>,
) -> Result<(Vec<Typed>, Option<Typed>), SqlError> {
    let own = output.and_then(|output| output.key.as_ref());
    let Some(grouping) = &expressions.grouping else {
        let key = own.map(|key| expressions.bind(key, Place::Output)).transpose()?;
        return Ok((key.into_iter().collect(), None));
    };
    if let Some(own) = own {
        return Err(
            SqlError::new(codes::BAD_OPTION, "KEY cannot be given to a query that groups")
                .at(own.span)
                .detail("its key is GROUP BY, with window_start where there is a window"),
        );
    }
    let column = |number: usize, data_type: &DataType| Typed {
        expr: Expr::Column(ColumnId(number as u32)),
        data_type: data_type.clone(),
    };
    let mut key: Vec<_> = grouping
        .group
        .iter()
        .enumerate()
        .map(|(number, group)| column(number, &group.data_type))
        .collect();
    let window = grouping
        .windowed
        .then(|| column(grouping.group.len(), &DataType::Timestamp));
    if key.is_empty() {
        // One group for all: one key for all, so that its rows stay together.
        key.push(Typed {
            expr: Expr::Literal(Literal::String(String::new())),
            data_type: DataType::String,
        });
    }
    Ok((key, window))
}

/// A template reads the output: its columns must be selected, and be grouping columns where the query groups, because
/// the state of a group lives where its results go.
fn check_template(
    template: &ParsedTemplate,
    expressions: &mut Expressions<'_>,
    names: &[String],
    select: &ast::Select,
) -> Result<(), SqlError> {
    let all = select.items.iter().any(|item| matches!(item, Item::All(_)));
    for name in template.names() {
        if !all && !names.contains(&name.text) {
            let message = format!(
                "the topic template names `{}`, which the query does not select",
                name.text
            );
            return Err(SqlError::new(codes::UNKNOWN_COLUMN, message)
                .at(template.span())
                .help(format!("add `{}` to the SELECT list", name.text)));
        }
        let place = names.iter().position(|known| *known == name.text);
        let (Some(place), Some(grouping)) = (place, &expressions.grouping) else {
            continue;
        };
        let (groups, Item::Expr { expr, .. }) = (grouping.group.len(), &select.items[place]) else {
            continue;
        };
        let bound = expressions.bind(expr, Place::Item)?;
        if !matches!(bound.expr, Expr::Column(column) if column.index() < groups) {
            let message = format!("the topic template names `{}`, which is no grouping column", name.text);
            return Err(SqlError::new(codes::BAD_TOPIC, message)
                .at(template.span())
                .detail(
                    "the state of a group lives where its results go, so the topic must be known from GROUP BY alone",
                )
                .help("use only grouping columns in TOPIC"));
        }
    }
    Ok(())
}

fn map_template(template: &Template, mut map: impl FnMut(&Expr) -> Expr) -> Template {
    let part = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => TemplatePart::Text(text.clone()),
        TemplatePart::Value { expr, slashes } => TemplatePart::Value {
            expr: map(expr),
            slashes: *slashes,
        },
    };
    Template {
        parts: template.parts.iter().map(part).collect(),
    }
}

/// An expression over group columns as one over the source.
fn over_source(expr: &Expr, grouping: Option<&Grouping>) -> Expr {
    let mut expr = expr.clone();
    if let Some(grouping) = grouping {
        rewrite_columns(&mut expr, &mut |column| {
            grouping.group.get(column.index()).map(|group| group.expr.clone())
        });
    }
    expr
}

fn start(select: &ast::Select, stream: &StreamRow, persistent: bool) -> Result<Start, SqlError> {
    let Some(start) = &select.start else {
        return Ok(if persistent || select.emit.is_some() {
            Start::Latest
        } else {
            Start::Earliest
        });
    };
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
                .help("start a stream of several shards with FROM BEGINNING or FROM TIMESTAMP '…'"))
        }
    }
}
