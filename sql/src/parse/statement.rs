//! Every statement but SELECT.

use nom::Parser;
use nom::branch::alt;
use nom::combinator::{cut, map, opt};
use nom::multi::separated_list1;
use nom::sequence::{delimited, preceded};

use crate::ast::{
    ColumnDef, CreateConnector, CreateStream, Drop, Explain, ExplainFormat, Expr, ExprKind, Insert, InsertValues, Name,
    ObjectKind, Quote, Row, Set, Show, Start, Statement, StatementKind, Text, Trim, WithOption,
};
use crate::error::{SqlError, codes};
use crate::parse::expression::expression;
use crate::parse::input::{
    Expected, Parsed, Tokens, any_name, double_quotes_are_text, keyword, keywords, name, say, symbol, text, token,
};
use crate::parse::literal::data_type;
use crate::parse::select::{place, refuse, select};
use crate::parse::token::Kind;

/// One statement, without its `;`.
pub fn statement(input: Tokens<'_>) -> Parsed<'_, Statement> {
    let (rest, kind) = alt((
        map(select, StatementKind::Select),
        map(insert, StatementKind::Insert),
        create,
        show,
        map(preceded(keyword("DESCRIBE"), cut(object_name)), StatementKind::Describe),
        drop,
        terminate,
        pause_or_resume,
        trim,
        advance_watermark,
        map(set, StatementKind::Set),
        map(explain, StatementKind::Explain),
    ))
    .parse(input)?;
    Ok((
        rest,
        Statement {
            kind,
            span: input.span_to(rest),
        },
    ))
}

fn object_name(input: Tokens<'_>) -> Parsed<'_, Name> {
    name("a name")(input)
}

/// `IF NOT EXISTS`; HStreamDB's `IF NOT EXIST` too.
fn if_not_exists(input: Tokens<'_>) -> Parsed<'_, bool> {
    let clause = (
        keywords(&["IF", "NOT"]),
        cut(alt((keyword("EXISTS"), keyword("EXIST")))),
    );
    map(opt(clause), |found| found.is_some()).parse(input)
}

fn if_exists(input: Tokens<'_>) -> Parsed<'_, bool> {
    let clause = (keyword("IF"), cut(alt((keyword("EXISTS"), keyword("EXIST")))));
    map(opt(clause), |found| found.is_some()).parse(input)
}

fn create(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("CREATE")(input)?;
    refuse(rest, "CREATE SCHEMA", &["SCHEMA"])?;
    refuse(rest, "CREATE FUNCTION", &["FUNCTION"])?;
    refuse(rest, "CREATE SOURCE CONNECTOR", &["SOURCE"])?;
    cut(alt((
        map(
            preceded(keyword("STREAM"), cut(create_stream)),
            StatementKind::CreateStream,
        ),
        map(
            preceded((opt(keyword("MATERIALIZED")), keyword("VIEW")), cut(create_view)),
            StatementKind::CreateStream,
        ),
        map(
            preceded(keyword("TABLE"), cut(create_table)),
            StatementKind::CreateStream,
        ),
        map(
            preceded(keywords(&["SINK", "CONNECTOR"]), cut(create_connector)),
            StatementKind::CreateConnector,
        ),
    )))
    .parse(rest)
}

fn create_stream(input: Tokens<'_>) -> Parsed<'_, CreateStream> {
    let (rest, if_not_exists) = if_not_exists(input)?;
    let (rest, name) = object_name(rest)?;
    let (rest, columns) = opt(columns).parse(rest)?;
    let topic = double_quotes_are_text(true, text("a topic filter in quotes"));
    let topics = preceded(
        keyword("FROM"),
        cut(preceded(keyword("TOPIC"), separated_list1(symbol(","), topic))),
    );
    let (rest, topics): (_, Option<Vec<Text>>) = opt(topics).parse(rest)?;
    let (rest, options) = opt(with_options).parse(rest)?;
    let (rest, query) = opt(preceded(keyword("AS"), cut(select))).parse(rest)?;
    let (rest, options) = match query {
        Some(_) => with_once(rest, options)?,
        None => (rest, options.unwrap_or_default()),
    };
    let stream = CreateStream {
        kind: ObjectKind::Stream,
        name,
        if_not_exists,
        columns: columns.unwrap_or_default(),
        topics: topics.unwrap_or_default(),
        options,
        query,
        source: None,
    };
    Ok((rest, stream))
}

/// WITH behind AS SELECT, unless it stood before it.
fn with_once(input: Tokens<'_>, early: Option<Vec<WithOption>>) -> Parsed<'_, Vec<WithOption>> {
    let (rest, late) = opt(with_options).parse(input)?;
    if early.is_some() && late.is_some() {
        return say(SqlError::new(codes::WRITTEN_TWICE, "WITH is given twice")
            .at(input.span_to(rest))
            .help("put all options into one WITH, before AS or at the end"));
    }
    Ok((rest, early.or(late).unwrap_or_default()))
}

/// `(name type, …)`
fn columns(input: Tokens<'_>) -> Parsed<'_, Vec<ColumnDef>> {
    delimited(symbol("("), cut(separated_list1(symbol(","), column)), cut(symbol(")"))).parse(input)
}

/// `name [WITH (…)] AS SELECT … [WITH (…)]`
fn create_view(input: Tokens<'_>) -> Parsed<'_, CreateStream> {
    let (rest, if_not_exists) = if_not_exists(input)?;
    let (rest, name) = object_name(rest)?;
    let (rest, options) = opt(with_options).parse(rest)?;
    let (rest, query) = preceded(keyword("AS"), cut(select)).parse(rest)?;
    let (rest, options) = with_once(rest, options)?;
    let view = CreateStream {
        kind: ObjectKind::View,
        name,
        if_not_exists,
        columns: Vec::new(),
        topics: Vec::new(),
        options,
        query: Some(query),
        source: None,
    };
    Ok((rest, view))
}

/// `name [(columns)] FROM STREAM s [WITH (…)]`
fn create_table(input: Tokens<'_>) -> Parsed<'_, CreateStream> {
    let (rest, if_not_exists) = if_not_exists(input)?;
    let (rest, name) = object_name(rest)?;
    let (rest, columns) = opt(columns).parse(rest)?;
    let (rest, source) = preceded(keywords(&["FROM", "STREAM"]), crate::parse::input::name("a stream")).parse(rest)?;
    let (rest, options) = opt(with_options).parse(rest)?;
    let table = CreateStream {
        kind: ObjectKind::Table,
        name,
        if_not_exists,
        columns: columns.unwrap_or_default(),
        topics: Vec::new(),
        options: options.unwrap_or_default(),
        query: None,
        source: Some(source),
    };
    Ok((rest, table))
}

fn column(input: Tokens<'_>) -> Parsed<'_, ColumnDef> {
    let (mut rest, (name, data_type)) = (name("a column name"), cut(data_type)).parse(input)?;
    let (mut not_null, mut key) = (false, false);
    loop {
        if let Ok((after, _)) = keywords(&["NOT", "NULL"])(rest) {
            (rest, not_null) = (after, true);
        } else if let Ok((after, _)) = (opt(keyword("PRIMARY")), keyword("KEY")).parse(rest) {
            (rest, key) = (after, true);
        } else {
            return Ok((
                rest,
                ColumnDef {
                    name,
                    data_type,
                    not_null,
                    key,
                    span: input.span_to(rest),
                },
            ));
        }
    }
}

/// `WITH (NAME = value, …)`
fn with_options(input: Tokens<'_>) -> Parsed<'_, Vec<WithOption>> {
    let option = map(
        (any_name("an option"), preceded(symbol("="), cut(expression))),
        |(name, value)| WithOption { name, value },
    );
    let list = delimited(symbol("("), separated_list1(symbol(","), option), symbol(")"));
    preceded(keyword("WITH"), cut(double_quotes_are_text(true, list))).parse(input)
}

fn create_connector(input: Tokens<'_>) -> Parsed<'_, CreateConnector> {
    let (rest, early) = if_not_exists(input)?;
    let (rest, name) = object_name(rest)?;
    let (rest, _) = keyword("TO")(rest)?;
    let (rest, kind) = name_of_kind(rest)?;
    let (rest, late) = if_not_exists(rest)?;
    let (rest, options) = with_options(rest)?;
    Ok((
        rest,
        CreateConnector {
            name,
            if_not_exists: early || late,
            kind,
            options,
        },
    ))
}

fn name_of_kind(input: Tokens<'_>) -> Parsed<'_, Name> {
    any_name("a kind of connector")(input)
}

fn insert(input: Tokens<'_>) -> Parsed<'_, Insert> {
    let (rest, _) = keyword("INSERT")(input)?;
    let (rest, _) = cut(keyword("INTO")).parse(rest)?;
    let (rest, stream) = cut(name("a stream")).parse(rest)?;
    let names = delimited(
        symbol("("),
        cut(separated_list1(symbol(","), any_name("a column name"))),
        cut(symbol(")")),
    );
    let (rest, columns) = opt(names).parse(rest)?;
    if matches!(rest.first().kind, Kind::Word(Some("SELECT" | "WITH"))) {
        let (rest, select) = cut(select).parse(rest)?;
        let select = Box::new(select);
        let values = InsertValues::Query { columns, select };
        return Ok((rest, Insert { stream, values }));
    }
    rest.note(Expected::Keyword("SELECT"));
    let (rest, _) = cut(keyword("VALUES")).parse(rest)?;
    let rows = double_quotes_are_text(true, separated_list1(symbol(","), row));
    if rest.first().kind == Kind::Symbol("(") || columns.is_some() {
        let (rest, rows) = cut(rows).parse(rest)?;
        return Ok((
            rest,
            Insert {
                stream,
                values: InsertValues::Rows { columns, rows },
            },
        ));
    }
    let payloads = double_quotes_are_text(true, separated_list1(symbol(","), expression));
    let (rest, payloads) = cut(payloads).parse(rest)?;
    Ok((
        rest,
        Insert {
            stream,
            values: InsertValues::Payloads(payloads),
        },
    ))
}

fn row(input: Tokens<'_>) -> Parsed<'_, Row> {
    let inside = cut(separated_list1(symbol(","), expression));
    let (rest, values): (_, Vec<Expr>) = delimited(symbol("("), inside, cut(symbol(")"))).parse(input)?;
    Ok((
        rest,
        Row {
            values,
            span: input.span_to(rest),
        },
    ))
}

fn object_kind(input: Tokens<'_>) -> Parsed<'_, ObjectKind> {
    alt((
        map(keyword("STREAM"), |_| ObjectKind::Stream),
        map(keyword("QUERY"), |_| ObjectKind::Query),
        map(keyword("CONNECTOR"), |_| ObjectKind::Connector),
        map(keyword("VIEW"), |_| ObjectKind::View),
        map(keyword("TABLE"), |_| ObjectKind::Table),
    ))
    .parse(input)
}

fn show(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("SHOW")(input)?;
    for word in ["SCHEMAS", "FUNCTIONS"] {
        refuse(rest, &format!("SHOW {word}"), &[word])?;
    }
    let create = (opt(object_kind), object_name);
    let (rest, show) = cut(alt((
        map(keyword("STREAMS"), |_| Show::Streams),
        map(keyword("QUERIES"), |_| Show::Queries),
        map(keyword("CONNECTORS"), |_| Show::Connectors),
        map(keyword("VIEWS"), |_| Show::Views),
        map(keyword("TABLES"), |_| Show::Tables),
        map(keyword("TOPICS"), |_| Show::Topics),
        map(keyword("CLIENTS"), |_| Show::Clients),
        map(keyword("NODES"), |_| Show::Nodes),
        map(preceded(keyword("CREATE"), cut(create)), |(kind, name)| {
            Show::Create(kind, name)
        }),
    )))
    .parse(rest)?;
    Ok((rest, StatementKind::Show(show)))
}

fn drop(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("DROP")(input)?;
    for word in ["SCHEMA", "FUNCTION"] {
        refuse(rest, &format!("DROP {word}"), &[word])?;
    }
    let (rest, (kind, early, name, late, force)) =
        cut((object_kind, if_exists, id, if_exists, opt(keyword("FORCE")))).parse(rest)?;
    Ok((
        rest,
        StatementKind::Drop(Drop {
            kind,
            name,
            if_exists: early || late,
            force: force.is_some(),
        }),
    ))
}

/// The name of a query: HStreamDB gave them numbers and printed them in quotes, so both are taken.
fn id(input: Tokens<'_>) -> Parsed<'_, Name> {
    let other = |input| {
        let (rest, token) = token(input, Expected::Class("a name"), |token| {
            matches!(token.kind, Kind::Number | Kind::Text)
        })?;
        Ok((
            rest,
            Name {
                text: token.unquoted().into_owned(),
                quote: Quote::Back,
                span: token.span,
            },
        ))
    };
    alt((object_name, other)).parse(input)
}

fn terminate(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("TERMINATE")(input)?;
    let which = alt((map(keyword("ALL"), |_| None), map(id, Some)));
    let (rest, which) = cut(alt((map(keyword("ALL"), |_| None), preceded(keyword("QUERY"), which)))).parse(rest)?;
    Ok((rest, StatementKind::Terminate(which)))
}

fn pause_or_resume(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, verb) = alt((keyword("PAUSE"), keyword("RESUME"))).parse(input)?;
    let resume = verb.kind == Kind::Word(Some("RESUME"));
    let (rest, what) = cut(alt((keyword("QUERY"), keyword("CONNECTOR")))).parse(rest)?;
    let (rest, name) = cut(id).parse(rest)?;
    let kind = match (what.kind, resume) {
        (Kind::Word(Some("CONNECTOR")), _) => StatementKind::RunConnector(name, resume),
        (_, true) => StatementKind::ResumeQuery(name),
        (_, false) => StatementKind::PauseQuery(name),
    };
    Ok((rest, kind))
}

fn trim(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("TRIM")(input)?;
    let (rest, _) = cut(keyword("STREAM")).parse(rest)?;
    let (rest, stream) = cut(name("a stream")).parse(rest)?;
    let (before, _) = cut(keyword("TO")).parse(rest)?;
    let (rest, kind) = cut(alt((map(keyword("END"), |_| None), map(place, Some)))).parse(before)?;
    let span = before.span_to(rest);
    let to = kind.map(|kind| Start { kind, span });
    Ok((rest, StatementKind::Trim(Trim { stream, to })))
}

fn advance_watermark(input: Tokens<'_>) -> Parsed<'_, StatementKind> {
    let (rest, _) = keyword("ADVANCE")(input)?;
    let (rest, _) = cut(keywords(&["WATERMARK", "OF"])).parse(rest)?;
    let (rest, stream) = cut(name("a stream")).parse(rest)?;
    let time = double_quotes_are_text(true, text("a time, as in '2026-01-31 12:00:00'"));
    let (rest, to) = cut(preceded(keywords(&["TO", "TIMESTAMP"]), time)).parse(rest)?;
    Ok((rest, StatementKind::AdvanceWatermark { stream, to }))
}

/// `SET emit.coalesce = off`
fn set(input: Tokens<'_>) -> Parsed<'_, Set> {
    let (rest, _) = keyword("SET")(input)?;
    let (mut rest, mut setting) = cut(any_name("a setting")).parse(rest)?;
    while let (after, Some((_, part))) = opt((symbol("."), cut(any_name("a setting")))).parse(rest)? {
        setting.text = format!("{}.{}", setting.text, part.text);
        setting.span = setting.span.to(part.span);
        rest = after;
    }
    let (rest, _) = cut(symbol("=")).parse(rest)?;
    // `off` and `on`: the latter is a keyword.
    let word = map(keyword("ON"), |token| {
        let (text, span) = (token.text.to_owned(), token.span);
        let quote = Quote::None;
        Expr::new(ExprKind::Name(Name { text, quote, span }), span)
    });
    let (rest, value) = cut(double_quotes_are_text(true, alt((word, expression)))).parse(rest)?;
    Ok((rest, Set { name: setting, value }))
}

/// `EXPLAIN [ANALYZE] [FORMAT TEXT | JSON | DOT] statement`
fn explain(input: Tokens<'_>) -> Parsed<'_, Explain> {
    let (rest, _) = keyword("EXPLAIN")(input)?;
    let (rest, analyze) = opt(keyword("ANALYZE")).parse(rest)?;
    let format = alt((
        map(keyword("TEXT"), |_| ExplainFormat::Text),
        map(keyword("JSON"), |_| ExplainFormat::Json),
        map(keyword("DOT"), |_| ExplainFormat::Dot),
    ));
    let (rest, format) = opt(preceded(keyword("FORMAT"), cut(format))).parse(rest)?;
    let explained = alt((
        map(select, StatementKind::Select),
        create,
        map(insert, StatementKind::Insert),
    ));
    let (after, kind) = cut(explained).parse(rest)?;
    let span = rest.span_to(after);
    let statement = Box::new(Statement { kind, span });
    let (analyze, format) = (analyze.is_some(), format.unwrap_or_default());
    Ok((
        after,
        Explain {
            statement,
            analyze,
            format,
        },
    ))
}
