//! The AST as text: one clause a line, expressions fully bracketed with the operator in front.

use headwater_sql::Span;
use headwater_sql::ast::*;
use headwater_sql::parse;
use headwater_sql::types::Interval;
use proptest::prelude::*;

pub fn statements(statements: &[Statement]) -> String {
    statements
        .iter()
        .map(|one| statement(one).join("\n"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn statement(statement: &Statement) -> Vec<String> {
    match &statement.kind {
        StatementKind::CreateStream(create) => create_stream(create),
        StatementKind::CreateConnector(create) => {
            let head = format!(
                "create connector {}{} to {}",
                create.name.text,
                flag(create.if_not_exists, " if not exists"),
                create.kind.text
            );
            vec![head]
                .into_iter()
                .chain(create.options.iter().map(option))
                .collect()
        }
        StatementKind::Insert(insert) => self::insert(insert),
        StatementKind::Select(select) => self::select(select),
        StatementKind::Show(show) => vec![
            format!("show {show:?}")
                .split(" Name")
                .next()
                .unwrap_or_default()
                .to_owned(),
        ],
        StatementKind::Describe(name) => vec![format!("describe {}", name.text)],
        StatementKind::Drop(drop) => {
            let (exists, force) = (flag(drop.if_exists, " if exists"), flag(drop.force, " force"));
            vec![format!("drop {:?} {}{exists}{force}", drop.kind, drop.name.text)]
        }
        StatementKind::Terminate(name) => {
            vec![format!(
                "terminate {}",
                name.as_ref().map_or("all", |name| name.text.as_str())
            )]
        }
        StatementKind::PauseQuery(name) => vec![format!("pause query {}", name.text)],
        StatementKind::ResumeQuery(name) => vec![format!("resume query {}", name.text)],
        StatementKind::RunConnector(name, running) => {
            vec![format!(
                "{} connector {}",
                if *running { "resume" } else { "pause" },
                name.text
            )]
        }
        StatementKind::Trim(trim) => vec![match trim.to.as_ref().map(|to| &to.kind) {
            Some(StartKind::Beginning) => format!("trim {} to beginning", trim.stream.text),
            Some(StartKind::Timestamp(text)) => format!("trim {} to timestamp {}", trim.stream.text, text.text),
            Some(StartKind::Offset(offset)) => format!("trim {} to offset {offset}", trim.stream.text),
            None => format!("trim {} to end", trim.stream.text),
        }],
        StatementKind::AdvanceWatermark { stream, to } => {
            vec![format!("advance watermark of {} to {}", stream.text, to.text)]
        }
        StatementKind::Set(set) => vec![format!("set {} = {}", set.name.text, expr(&set.value))],
        StatementKind::Explain(explain) => {
            let lines = self::statement(&explain.statement);
            let lines = lines.into_iter().map(|line| format!("  {line}"));
            let analyze = flag(explain.analyze, " analyze");
            let head = format!("explain{analyze} as {:?}", explain.format).to_lowercase();
            std::iter::once(head).chain(lines).collect()
        }
    }
}

fn flag(set: bool, text: &str) -> String {
    if set { text.to_owned() } else { String::new() }
}

fn create_stream(create: &CreateStream) -> Vec<String> {
    let mut lines = vec![format!(
        "create {} {}{}",
        format!("{:?}", create.kind).to_lowercase(),
        create.name.text,
        flag(create.if_not_exists, " if not exists")
    )];
    lines.extend(
        create
            .source
            .iter()
            .map(|source| format!("  from stream {}", source.text)),
    );
    for column in &create.columns {
        let (not_null, key) = (flag(column.not_null, " not null"), flag(column.key, " key"));
        lines.push(format!(
            "  column {} {}{not_null}{key}",
            column.name.text, column.data_type.data_type
        ));
    }
    lines.extend(create.topics.iter().map(|topic| format!("  from topic {}", topic.text)));
    lines.extend(create.options.iter().map(option));
    lines.extend(create.query.iter().flat_map(select).map(|line| format!("  {line}")));
    lines
}

fn option(option: &WithOption) -> String {
    format!("  with {} = {}", option.name.text, expr(&option.value))
}

fn insert(insert: &Insert) -> Vec<String> {
    let mut lines = vec![format!("insert into {}", insert.stream.text)];
    match &insert.values {
        InsertValues::Rows { columns, rows } => {
            if let Some(columns) = columns {
                lines[0] += &format!(" ({})", join(columns.iter().map(|name| name.text.clone())));
            }
            lines.extend(
                rows.iter()
                    .map(|row| format!("  row {}", join(row.values.iter().map(expr)))),
            );
        }
        InsertValues::Query { columns, select } => {
            if let Some(columns) = columns {
                lines[0] += &format!(" ({})", join(columns.iter().map(|name| name.text.clone())));
            }
            lines.extend(self::select(select).into_iter().map(|line| format!("  {line}")));
        }
        InsertValues::Payloads(payloads) => lines.extend(payloads.iter().map(|one| format!("  payload {}", expr(one)))),
    }
    lines
}

fn select(select: &Select) -> Vec<String> {
    let mut lines = Vec::new();
    for named in &select.with {
        lines.push(format!("with {}", named.name.text));
        lines.extend(self::select(&named.select).into_iter().map(|line| format!("  {line}")));
    }
    lines.push(format!("select{}", flag(select.distinct.is_some(), " distinct")));
    for item in &select.items {
        let item = match item {
            Item::All(_) => "item *".to_owned(),
            Item::Expr { expr, alias: None } => format!("item {}", self::expr(expr)),
            Item::Expr {
                expr,
                alias: Some(alias),
            } => format!("item {} as {}", self::expr(expr), alias.text),
        };
        lines.push(format!("  {item}"));
    }
    let alias = |alias: &Option<Name>| {
        alias
            .as_ref()
            .map_or_else(String::new, |alias| format!(" as {}", alias.text))
    };
    lines.extend(source("from", &select.from.source, &alias(&select.from.alias)));
    for join in &select.from.joins {
        let on = match &join.on {
            On::Condition(on) => format!(" on {}", expr(on)),
            On::Names(names) => format!(" using {}", self::join(names.iter().map(|name| name.text.clone()))),
            On::Nothing => String::new(),
        };
        let within = join
            .within
            .map_or_else(String::new, |within| format!(" within {}", length(within.value)));
        let kind = format!("{:?} join", join.kind).to_lowercase();
        lines.extend(source(
            &kind,
            &join.source,
            &format!("{}{on}{within}", alias(&join.alias)),
        ));
    }
    let mut line = |text: String| lines.push(format!("  {text}"));
    select
        .filter
        .iter()
        .for_each(|filter| line(format!("where {}", expr(filter))));
    select
        .group_by
        .iter()
        .for_each(|group| line(format!("group by {}", expr(group))));
    if let Some(window) = &select.window {
        let grace = window
            .grace
            .map(|grace| format!(" grace {}", length(grace.value)))
            .unwrap_or_default();
        let kind = match &window.kind {
            WindowKind::Tumbling { size } => format!("tumbling {}", length(size.value)),
            WindowKind::Hopping { size, advance } => {
                format!("hopping {} every {}", length(size.value), length(advance.value))
            }
            WindowKind::Session { gap } => format!("session {}", length(gap.value)),
        };
        line(format!("window {kind}{grace}"));
    }
    select
        .having
        .iter()
        .for_each(|having| line(format!("having {}", expr(having))));
    for item in &select.order_by {
        line(format!(
            "order by {}{}",
            expr(&item.expr),
            flag(item.descending, " desc")
        ));
    }
    select
        .limit
        .iter()
        .for_each(|limit| line(format!("limit {}", limit.count)));
    select.emit.iter().for_each(|emit| {
        line(match &emit.kind {
            EmitKind::Changes => "emit Changes".to_owned(),
            EmitKind::Final => "emit Final".to_owned(),
            EmitKind::Periodic(every) => format!("emit every {}", length(every.value)),
            EmitKind::Silence(silence) => format!("emit after silence of {}", length(silence.value)),
        });
    });
    match select.start.as_ref().map(|start| &start.kind) {
        Some(StartKind::Beginning) => line("from beginning".to_owned()),
        Some(StartKind::Timestamp(text)) => line(format!("from timestamp {}", text.text)),
        Some(StartKind::Offset(offset)) => line(format!("from offset {offset}")),
        None => {}
    }
    lines
}

/// A part of FROM; subqueries follow, indented.
fn source(before: &str, source: &Source, behind: &str) -> Vec<String> {
    let (what, inside): (_, Vec<&Select>) = match source {
        Source::Stream(name) => (name.text.clone(), Vec::new()),
        Source::Topic(topic) => (format!("topic {}", topic.text), Vec::new()),
        Source::Unnest(array) => (format!("unnest {}", expr(array)), Vec::new()),
        Source::Query(select) => ("subquery".to_owned(), vec![select]),
        Source::Union(branches) => ("union".to_owned(), branches.iter().collect()),
    };
    let inside = inside.into_iter().flat_map(select);
    let head = format!("  {before} {what}{behind}");
    std::iter::once(head)
        .chain(inside.map(|line| format!("    {line}")))
        .collect()
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn length(interval: Interval) -> String {
    interval.to_string()
}

fn expr(node: &Expr) -> String {
    let list = |items: &[Expr]| join(items.iter().map(expr));
    let not = |negated: bool| if negated { "not " } else { "" };
    match &node.kind {
        ExprKind::Null => "null".to_owned(),
        ExprKind::Bool(truth) => truth.to_string(),
        ExprKind::Number(text) => text.clone(),
        ExprKind::Text(text) => format!("'{text}'"),
        ExprKind::Interval(interval) => length(interval.value),
        ExprKind::Timestamp(text) => format!("timestamp '{text}'"),
        ExprKind::Date(text) => format!("date '{text}'"),
        ExprKind::Time(text) => format!("time '{text}'"),
        ExprKind::Array(items) => format!("[{}]", list(items)),
        ExprKind::Name(name) if name.quote == Quote::None => name.text.clone(),
        ExprKind::Name(name) => format!("\"{}\"", name.text),
        ExprKind::Member { base, name } => format!("{}.{}", expr(base), name.text),
        ExprKind::Index { base, index } => format!("{}[{}]", expr(base), expr(index)),
        ExprKind::Arrow { base, key, as_text } => {
            format!("({} {} {})", if *as_text { "->>" } else { "->" }, expr(base), expr(key))
        }
        ExprKind::PathArrow { base, path, as_text } => {
            format!(
                "({} {} {})",
                if *as_text { "#>>" } else { "#>" },
                expr(base),
                expr(path)
            )
        }
        ExprKind::Slice { base, from, to } => {
            let end = |end: &Option<Box<Expr>>| end.as_ref().map(|end| expr(end)).unwrap_or_default();
            format!("{}[{}:{}]", expr(base), end(from), end(to))
        }
        ExprKind::Unary { op, operand } => format!("({} {})", format!("{op:?}").to_lowercase(), expr(operand)),
        ExprKind::Binary { op, left, right } => {
            format!("({} {} {})", op.symbol().to_lowercase(), expr(left), expr(right))
        }
        ExprKind::IsNull { operand, negated } => format!("(is {}null {})", not(*negated), expr(operand)),
        ExprKind::Like {
            operand,
            pattern,
            escape,
            negated,
        } => {
            let escape = escape
                .as_ref()
                .map(|escape| format!(" escape '{}'", escape.text))
                .unwrap_or_default();
            format!("({}like {} {}{escape})", not(*negated), expr(operand), expr(pattern))
        }
        ExprKind::Between {
            operand,
            low,
            high,
            symmetric,
            negated,
        } => {
            let symmetric = flag(*symmetric, " symmetric");
            format!(
                "({}between{symmetric} {} {} {})",
                not(*negated),
                expr(operand),
                expr(low),
                expr(high)
            )
        }
        ExprKind::In {
            operand,
            list: items,
            negated,
        } => format!("({}in {} ({}))", not(*negated), expr(operand), list(items)),
        ExprKind::Cast { operand, to } => format!("(cast {} {})", expr(operand), to.data_type),
        ExprKind::Case {
            operand,
            branches,
            otherwise,
        } => {
            let mut parts = vec!["case".to_owned()];
            parts.extend(operand.iter().map(|operand| expr(operand)));
            parts.extend(
                branches
                    .iter()
                    .map(|(when, then)| format!("(when {} {})", expr(when), expr(then))),
            );
            parts.extend(otherwise.iter().map(|otherwise| format!("(else {})", expr(otherwise))));
            format!("({})", parts.join(" "))
        }
        ExprKind::Call {
            name,
            arguments,
            distinct,
            filter,
            over,
        } => {
            let arguments = match arguments {
                Arguments::Star => "*".to_owned(),
                Arguments::List(items) => list(items),
                Arguments::From { unit, of } => format!("{} from {}", unit.text, expr(of)),
            };
            let filter = filter
                .as_ref()
                .map(|filter| format!(" filter {}", expr(filter)))
                .unwrap_or_default();
            let distinct = flag(distinct.is_some(), "distinct ");
            let over = over.as_ref().map_or_else(String::new, |over| {
                let order = over
                    .order
                    .iter()
                    .map(|item| format!("{}{}", expr(&item.expr), flag(item.descending, " desc")));
                let partition = over.partition.iter().map(expr);
                format!(" over (by [{}] order [{}])", join(partition), join(order))
            });
            format!("{}({distinct}{arguments}){filter}{over}", name.text)
        }
    }
}

/// Each node's span lies in its parent's, and the text it covers is that node again.
pub fn check_spans(source: &str, statements: &[Statement]) -> Result<(), TestCaseError> {
    for statement in statements {
        prop_assert!(source.get(statement.span.start..statement.span.end).is_some());
        let reparsed = parse(statement.span.of(source));
        prop_assert!(
            reparsed.is_ok(),
            "a statement's own text does not parse: {}",
            statement.span.of(source)
        );
        prop_assert_eq!(
            self::statements(&reparsed.unwrap()),
            self::statements(std::slice::from_ref(statement))
        );
        if let StatementKind::Select(select) = &statement.kind {
            prop_assert_eq!(select.span, statement.span);
            let items = select.items.iter().filter_map(|item| match item {
                Item::Expr { expr, .. } => Some(expr),
                Item::All(_) => None,
            });
            for expr in items
                .chain(&select.filter)
                .chain(&select.group_by)
                .chain(&select.having)
            {
                check_expr(source, expr, select.span)?;
            }
        }
    }
    Ok(())
}

fn check_expr(source: &str, node: &Expr, parent: Span) -> Result<(), TestCaseError> {
    prop_assert!(parent.start <= node.span.start && node.span.end <= parent.end);
    let text = node.span.of(source);
    let alone = parse(&format!("SELECT {text} FROM s"));
    prop_assert!(alone.is_ok(), "an expression's own text does not parse: {text}");
    let StatementKind::Select(select) = &alone.unwrap()[0].kind else {
        return Ok(());
    };
    match &select.items[0] {
        Item::Expr { expr: again, .. } => prop_assert_eq!(expr(again), expr(node)),
        Item::All(_) => prop_assert!(false, "`*` is no expression"),
    }
    // Behind `->` a text in double quotes is a string, alone it is a name.
    let children = if matches!(node.kind, ExprKind::Arrow { .. } | ExprKind::PathArrow { .. }) {
        1
    } else {
        usize::MAX
    };
    node.kind
        .children()
        .take(children)
        .try_for_each(|child| check_expr(source, child, node.span))
}
