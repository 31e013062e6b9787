//! EXPLAIN: a plan as people read it, the sink on top, each operator under the one it feeds.

use std::fmt::Write as _;

use crate::operator::Measure;
use crate::parse::is_plain_name;
use crate::plan::physical::{
    Aggregate, BinaryOp, Emit, Expr, Form, Homes, Join, Node, Op, OperatorId, OverCall, OverFunction, Pair, PathStep,
    Plan, Rank, Routing, Schema, Side, Silence, Sink, SinkItem, Source, SourceColumn, Start, StateBound, Template,
    TemplatePart, Throttle, UnaryOp, WindowKind,
};
use crate::types::{Interval, Literal};

/// What an operator has done, where that is known.
pub(crate) type Measured<'m> = dyn Fn(OperatorId) -> Option<Measure> + 'm;

/// The lines of EXPLAIN.
pub fn explain(plan: &Plan) -> Vec<String> {
    explain_with(plan, &|_| None)
}

/// The lines of EXPLAIN ANALYZE: behind each operator, what it has done.
pub(crate) fn explain_with(plan: &Plan, measured: &Measured<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(limit) = plan.limit {
        lines.push(format!("Limit {limit}"));
    }
    if !plan.order_by.is_empty() {
        let input = plan.nodes.iter().rev().nth(1).map(|node| &node.schema);
        let item = |item: &crate::plan::physical::OrderBy| {
            let direction = if item.descending { " DESC" } else { "" };
            format!(
                "{}{direction}",
                input.map_or_else(String::new, |input| show(&item.expr, input))
            )
        };
        lines.push(format!("Sort {}", join(plan.order_by.iter().map(item))));
    }
    if plan.manner.each_input {
        lines.push("Each record's changes by themselves".to_owned());
    }
    if plan.manner.silence == Silence::Clock {
        lines.push("Silence moves event time to the clock".to_owned());
    }
    for (depth, line) in lines.iter_mut().enumerate() {
        line.insert_str(0, &"  ".repeat(depth));
    }
    if let Some(sink) = plan.nodes.last() {
        draw(plan, sink, lines.len(), measured, &mut lines);
    }
    lines
}

/// An operator, and under it those that feed it.
fn draw(plan: &Plan, node: &Node, depth: usize, measured: &Measured<'_>, lines: &mut Vec<String>) {
    let inputs = inputs(plan, node);
    let done = measured(node.id).map(|measure| format!(" ({})", measure_text(measure)));
    let line = operator(node, &inputs) + &done.unwrap_or_default();
    lines.push("  ".repeat(depth) + &line);
    for input in inputs {
        draw(plan, input, depth + 1, measured, lines);
    }
}

/// `rows in 5, out 3, took 1.204 ms`
pub(crate) fn measure_text(measure: Measure) -> String {
    let Measure {
        rows_in,
        rows_out,
        took,
    } = measure;
    format!(
        "rows in {rows_in}, out {rows_out}, took {:.3} ms",
        took.as_secs_f64() * 1e3
    )
}

/// Those that feed an operator.
pub fn inputs<'p>(plan: &'p Plan, node: &Node) -> Vec<&'p Node> {
    let inputs = node.inputs.iter();
    inputs
        .filter_map(|id| plan.nodes.iter().find(|node| node.id == *id))
        .collect()
}

/// An operator in one line; `inputs` are those that feed it.
pub fn operator(node: &Node, inputs: &[&Node]) -> String {
    let empty = Schema::default();
    let input = inputs.first().map_or(&empty, |input| &input.schema);
    let mut line = match &node.op {
        Op::Source(source) => self::source(source, &node.schema),
        Op::Homes(homes) => self::homes(homes, &node.schema),
        Op::Filter(predicate) => format!("Filter {}", show(predicate, input)),
        Op::Project(columns) => format!("Project {}", list(columns, input)),
        Op::Exchange(to) => format!("Exchange {}", routing(to, input)),
        Op::Window(window) => {
            format!(
                "Window {}, grace {}",
                window_kind(&window.kind),
                length(window.grace_us)
            )
        }
        Op::Aggregate(aggregate) => self::aggregate(aggregate, input),
        Op::WindowAggregate { aggregate, kind } => {
            let how = match kind {
                WindowKind::Session { .. } => "sessions are merged",
                _ => "by panes",
            };
            format!("{}, {how}", self::aggregate(aggregate, input))
        }
        Op::Throttle(Throttle::Every { us }) => format!("Throttle once in {}", length(*us)),
        Op::Throttle(Throttle::Silence { us }) => format!("Throttle until {} of silence", length(*us)),
        Op::Sink(sink) => self::sink(sink, input),
        Op::View { sink, retention_us } => {
            let view = self::sink(sink, input).replacen("Sink", "View", 1);
            match retention_us {
                Some(us) => format!("{view}, windows dropped after {}", length(*us)),
                None => view,
            }
        }
        Op::Join(join) => self::join_line(join, None, inputs),
        Op::JoinTables { join, .. } => of_tables(&join_line(join, None, inputs)),
        Op::JoinIf { join, tables, pair } => match (tables, join_line(join, Some(pair), inputs)) {
            (Some(_), line) => of_tables(&line),
            (None, line) => line,
        },
        Op::Union => "Union".to_owned(),
        Op::Unnest(unnest) => {
            let outer = if unnest.outer { ", or NULL" } else { "" };
            format!("Unnest {}{outer}", show(&unnest.array, input))
        }
        Op::Over(over) => format!(
            "Over {}",
            self::join(over.calls.iter().map(|call| over_call(call, input)))
        ),
        Op::Rank(rank) => self::rank(rank, input),
        Op::Newest { key } => format!("Newest by {}", self::join(key.iter().map(|expr| show(expr, input)))),
        Op::Retime { end, .. } => format!("Retime to {}", name(input, end.index())),
        Op::FromUpsert { key, .. } => format!("Changes by {}", name(input, key.index())),
        Op::Latest { key, .. } => format!("Latest by {}", name(input, key.index())),
    };
    let form = match node.form {
        Form::Append => "append",
        Form::Upsert => "upsert",
        Form::Retract => "retract",
    };
    write!(line, " [{form}").unwrap_or_default();
    if !node.key.is_empty() {
        let key = join(node.key.iter().map(|column| name(&node.schema, column.index())));
        write!(line, " by {key}").unwrap_or_default();
    }
    line.push(']');
    match node.bound {
        StateBound::Stateless => {}
        StateBound::Windows { retention_us } => {
            let (row, from) = match node.op {
                Op::Join(_) | Op::JoinIf { .. } => ("each row", "its time"),
                Op::View { .. } => ("a row per key and window", "its start"),
                _ => ("a row per key and window", "its end"),
            };
            write!(line, ", keeps {row} until {} after {from}", length(retention_us)).unwrap_or_default();
        }
        StateBound::Waiting => line.push_str(", keeps the changes that wait"),
        StateBound::Keys => line.push_str(", keeps a row per key for ever (warning: unbounded)"),
    }
    line
}

fn of_tables(lookup: &str) -> String {
    lookup.replacen("Lookup", "Join of tables,", 1)
}

fn join_line(join: &Join, pair: Option<&Pair>, inputs: &[&Node]) -> String {
    let kind = format!("{:?}", join.kind).to_lowercase();
    let [left, right] = inputs else {
        return format!("Join {kind}");
    };
    let equal = |(of_left, of_right): &(Expr, Expr)| {
        format!("{} = {}", show(of_left, &left.schema), show(of_right, &right.schema))
    };
    let mut on = self::join(join.keys.iter().map(equal));
    if let Some(pair) = pair {
        let columns = pair.columns.iter().map(|(side, column)| match side {
            Side::Left => left.schema.columns[column.index()].clone(),
            Side::Right => right.schema.columns[column.index()].clone(),
        });
        let both = Schema {
            columns: columns.collect(),
        };
        write!(on, " and {}", show(&pair.condition, &both)).unwrap_or_default();
    }
    match join.within_us {
        Some(us) => format!("Join {kind} on {on} within {}", length(us)),
        None => format!("Lookup {kind} on {on}"),
    }
}

fn over_call(call: &OverCall, input: &Schema) -> String {
    let text = match &call.function {
        OverFunction::Lag { value, rows, default } => {
            let default = default.iter().map(|default| format!(", {}", show(default, input)));
            format!("LAG({}, {rows}{})", show(value, input), default.collect::<String>())
        }
        OverFunction::HadChanged(values) => format!("HAD_CHANGED({})", list(values, input)),
    };
    match call.partition.as_slice() {
        [] => text,
        partition => format!("{text} by {}", list(partition, input)),
    }
}

fn rank(rank: &Rank, input: &Schema) -> String {
    let order = rank.order.iter().map(|item| {
        let direction = if item.descending { " DESC" } else { "" };
        format!("{}{direction}", show(&item.expr, input))
    });
    let first = rank.limit.map(|limit| format!("first {limit} ")).unwrap_or_default();
    let mut line = format!("Rank {first}in the order of {}", self::join(order));
    if !rank.partition.is_empty() {
        write!(line, " by {}", list(&rank.partition, input)).unwrap_or_default();
    }
    line
}

fn window_kind(kind: &WindowKind) -> String {
    match kind {
        WindowKind::Tumbling { size_us } => format!("tumbling {}", length(*size_us)),
        WindowKind::Hopping { size_us, advance_us } => {
            format!("hopping {} every {}", length(*size_us), length(*advance_us))
        }
        WindowKind::Session { gap_us } => format!("session with a gap of {}", length(*gap_us)),
    }
}

fn source(source: &Source, schema: &Schema) -> String {
    let mut line = format!("Source {}", source.name);
    from(&source.start, &mut line);
    match &source.timestamp {
        Some(time) => {
            let (time, delay) = (show(time, schema), length(source.delay_us));
            write!(line, ", event time {time}, watermark {delay} behind").unwrap_or_default();
        }
        None => line.push_str(", event time = append time"),
    }
    reads(&source.columns, schema, &mut line);
    line
}

fn homes(homes: &Homes, schema: &Schema) -> String {
    let mut line = format!("Homes of '{}'", homes.filter);
    from(&homes.start, &mut line);
    line.push_str(", event time as each stream has it");
    reads(&homes.columns, schema, &mut line);
    line
}

fn from(start: &Start, line: &mut String) {
    match start {
        Start::Latest => line.push_str(" from now on"),
        Start::Earliest => line.push_str(" from the beginning"),
        Start::Timestamp(ms) => {
            let time = crate::calendar::format_timestamp(ms.saturating_mul(1_000));
            write!(line, " from {time}").unwrap_or_default();
        }
        Start::Offset(offset) => write!(line, " from offset {offset}").unwrap_or_default(),
        Start::At(offsets) => {
            write!(line, " from offsets {}", join(offsets.iter().map(u64::to_string))).unwrap_or_default()
        }
    }
}

fn reads(columns: &[SourceColumn], schema: &Schema, line: &mut String) {
    if !columns.is_empty() {
        let kind = |(column, number): (&SourceColumn, usize)| match column {
            SourceColumn::Capture(_) => format!("{} (topic level)", name(schema, number)),
            _ => name(schema, number),
        };
        write!(line, ", reads {}", join(columns.iter().zip(0..).map(kind))).unwrap_or_default();
    }
}

fn aggregate(aggregate: &Aggregate, input: &Schema) -> String {
    let calls = aggregate.calls.iter().map(|call| {
        let argument = call
            .argument
            .as_ref()
            .map_or_else(|| "*".to_owned(), |argument| show(argument, input));
        let filter = call
            .filter
            .as_ref()
            .map(|filter| format!(" FILTER (WHERE {})", show(filter, input)));
        format!("{}{}", call.function.call(&argument), filter.unwrap_or_default())
    });
    let mut line = format!("Aggregate {}", join(calls)).trim_end().to_owned();
    let window = aggregate.window.map(|_| "window".to_owned());
    let groups = join(aggregate.group.iter().map(|group| show(group, input)).chain(window));
    if !groups.is_empty() {
        write!(line, " by {groups}").unwrap_or_default();
    }
    line.push_str(match aggregate.emit {
        Emit::AtEnd => ", at the end",
        Emit::Changes => ", each change",
        Emit::Final => ", once per window",
    });
    line
}

fn sink(sink: &Sink, input: &Schema) -> String {
    let items = sink.items.iter().map(|item| match item {
        SinkItem::Column { name, column } if input.columns[column.index()].name == *name => quoted(name),
        SinkItem::Column { name, column } => format!("{} AS {}", self::name(input, column.index()), quoted(name)),
        SinkItem::Star(_) => "*".to_owned(),
    });
    let mut line = format!("Sink {}", join(items));
    if !sink.key.is_empty() {
        write!(line, ", key {}", list(&sink.key, input)).unwrap_or_default();
    }
    if let Some(topic) = &sink.routing.topic {
        write!(line, ", topic {}, qos {}", template(topic, input), sink.qos.bits()).unwrap_or_default();
        if sink.retain {
            line.push_str(", retained");
        }
    }
    line
}

fn routing(routing: &Routing, input: &Schema) -> String {
    match &routing.topic {
        Some(topic) => format!("by topic {}", template(topic, input)),
        None if routing.key.is_empty() => "by record".to_owned(),
        None if routing.key.iter().all(|key| matches!(key, Expr::Literal(_))) => "to one place".to_owned(),
        None => format!("by {}", list(&routing.key, input)),
    }
}

fn template(template: &Template, input: &Schema) -> String {
    let part = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => text.clone(),
        TemplatePart::Value { expr, slashes } => {
            format!("{{{}{}}}", if *slashes { "+" } else { "" }, show(expr, input))
        }
    };
    template.parts.iter().map(part).collect()
}

fn length(us: i64) -> String {
    Interval::from_us(us).to_string()
}

fn quoted(name: &str) -> String {
    if is_plain_name(name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Labels such as `a.b` and `_topic[1]` are shown as they are.
fn name(schema: &Schema, number: usize) -> String {
    schema
        .columns
        .get(number)
        .map_or_else(|| format!("column {number}"), |column| column.name.clone())
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn list(exprs: &[Expr], input: &Schema) -> String {
    join(exprs.iter().map(|expr| show(expr, input)))
}

/// An expression as SQL, every operator in brackets but the outermost.
pub fn show(expr: &Expr, input: &Schema) -> String {
    let text = inner(expr, input);
    match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        Some(bare)
            if matches!(
                expr,
                Expr::Binary { .. } | Expr::Unary { .. } | Expr::In { .. } | Expr::Like { .. }
            ) =>
        {
            bare.to_owned()
        }
        _ => text,
    }
}

fn inner(expr: &Expr, input: &Schema) -> String {
    let part = |expr: &Expr| inner(expr, input);
    let not = |negated: bool| if negated { "NOT " } else { "" };
    match expr {
        Expr::Column(column) => name(input, column.index()),
        Expr::Literal(literal) => self::literal(literal),
        Expr::Unary {
            op: UnaryOp::Not,
            operand,
        } => format!("(NOT {})", part(operand)),
        Expr::Unary {
            op: UnaryOp::Negate,
            operand,
        } => format!("(-{})", part(operand)),
        Expr::Unary {
            op: UnaryOp::IsNull,
            operand,
        } => format!("({} IS NULL)", part(operand)),
        Expr::Unary {
            op: UnaryOp::IsNotNull,
            operand,
        } => format!("({} IS NOT NULL)", part(operand)),
        Expr::Binary { op, left, right } => format!("({} {} {})", part(left), op.symbol(), part(right)),
        Expr::Call { function, arguments } => format!("{function}({})", list(arguments, input)),
        Expr::Cast { operand, to } => format!("CAST({} AS {to})", show(operand, input)),
        Expr::Path {
            operand,
            steps,
            as_text,
        } => {
            let mut text = part(operand);
            for step in steps {
                match step {
                    PathStep::Member(name) => write!(text, ".{}", quoted(name)).unwrap_or_default(),
                    PathStep::Index(index) => write!(text, "[{index}]").unwrap_or_default(),
                }
            }
            if *as_text {
                format!("CAST({text} AS STRING)")
            } else {
                text
            }
        }
        Expr::Case { branches, otherwise } => {
            let mut text = "CASE".to_owned();
            for (condition, result) in branches {
                write!(text, " WHEN {} THEN {}", show(condition, input), show(result, input)).unwrap_or_default();
            }
            if let Some(otherwise) = otherwise {
                write!(text, " ELSE {}", show(otherwise, input)).unwrap_or_default();
            }
            text + " END"
        }
        Expr::In {
            operand,
            list: items,
            negated,
        } => {
            format!("({} {}IN ({}))", part(operand), not(*negated), list(items, input))
        }
        Expr::Like {
            operand,
            pattern,
            escape,
            negated,
        } => {
            let escape = escape.map(|escape| format!(" ESCAPE '{escape}'")).unwrap_or_default();
            format!("({} {}LIKE {}{escape})", part(operand), not(*negated), part(pattern))
        }
        Expr::Array(items) => format!("[{}]", list(items, input)),
    }
}

fn literal(literal: &Literal) -> String {
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match literal {
        Literal::Null => "NULL".to_owned(),
        Literal::Boolean(truth) => truth.to_string().to_uppercase(),
        Literal::Integer(number) => number.to_string(),
        Literal::Float(number) => format!("{number:?}"),
        Literal::Decimal(number) => number.clone(),
        Literal::String(string) | Literal::Jsonb(string) => text(string),
        Literal::Bytea(bytes) => format!("{} bytes", bytes.len()),
        Literal::Date(days) => format!("DATE {}", text(&crate::calendar::format_date(*days))),
        Literal::Time(us) => format!("TIME {}", text(&crate::calendar::format_time(*us))),
        Literal::Timestamp(us) => format!("TIMESTAMP {}", text(&crate::calendar::format_timestamp(*us))),
        Literal::Interval(interval) => format!("INTERVAL {}", text(&interval.to_string())),
        Literal::Array(items) => format!("[{}]", join(items.iter().map(self::literal))),
    }
}

impl BinaryOp {
    /// As it is written.
    pub fn symbol(self) -> &'static str {
        match self {
            BinaryOp::Or => "OR",
            BinaryOp::And => "AND",
            BinaryOp::Equal => "=",
            BinaryOp::NotEqual => "<>",
            BinaryOp::Less => "<",
            BinaryOp::LessOrEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterOrEqual => ">=",
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::IntegerDivide => "DIV",
            BinaryOp::Modulo => "%",
            BinaryOp::Concat => "||",
        }
    }
}
