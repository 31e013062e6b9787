//! CREATE STREAM and CREATE SINK CONNECTOR: what the catalog is to hold, checked as far as it can be.

use std::collections::BTreeMap;

use headwater_store::limits::{NAME_BYTES_MAX, SHARDS_MAX};
use headwater_store::{
    Ack, ColumnRow, ConnectorSpec, Format, OnError, Placement, Qos, StreamForm, StreamId, StreamOptions, StreamRow,
    StreamSpec, StreamState, TopicFilter,
};

use crate::ast::{self, ExprKind, Name, ObjectKind, Text};
use crate::error::{SqlError, codes};
use crate::parse::parse_expression;
use crate::plan::bind::expression::{Expressions, Place};
use crate::plan::bind::option::{Given, Options};
use crate::plan::bind::scope::{Scope, is_system_name};
use crate::plan::bind::template::{self, ParsedTemplate};
use crate::plan::bind::{Binder, BoundStream, routing, select, written};
use crate::plan::physical::{Source, Start, WriteRules};
use crate::span::Span;

/// Of views and tables: as of a stream, but for what a query decides.
const VIEW_OPTIONS: &[&str] = &[
    "SHARDS",
    "REPLICATE",
    "DURATION",
    "KEY",
    "TIMESTAMP",
    "DELAY",
    "IDLE",
    "TOPIC",
    "QOS",
    "RETAIN",
    "ACK",
    "RETENTION",
];

const STREAM_OPTIONS: &[&str] = &[
    "FORMAT",
    "SHARDS",
    "REPLICATE",
    "DURATION",
    "KEY",
    "TIMESTAMP",
    "DELAY",
    "IDLE",
    "TOPIC",
    "QOS",
    "RETAIN",
    "ACK",
    "ON_ERROR",
    "SCHEMA",
];

/// CREATE STREAM.
pub fn stream(binder: &Binder<'_>, create: &ast::CreateStream, sql: &str) -> Result<BoundStream, SqlError> {
    let kind = create.kind.name();
    check_name(&create.name, kind)?;
    let captures = captures(create)?;
    if let (Some(query), Some(first)) = (&create.query, create.topics.first()) {
        let message = "a stream takes its records from topics or from a query, not from both";
        return Err(SqlError::new(codes::BAD_OPTION, message)
            .at(first.span.to(query.span))
            .help(format!(
                "make one stream FROM TOPIC '{}' and another one AS SELECT from it",
                first.text
            )));
    }
    if let (Some(_), Some(first)) = (&create.query, create.columns.first()) {
        return Err(SqlError::not_supported(
            "declaring the columns of a query's stream",
            first.span,
        ));
    }
    let is_view = create.kind != ObjectKind::Stream;
    let known = if is_view { VIEW_OPTIONS } else { STREAM_OPTIONS };
    let mut options = Options::new(&create.options, known, &format!("a {kind}"), binder.source)?;
    let of_table = table_query(create);
    let query = create.query.as_ref().or(of_table.as_ref());
    let mut row = StreamRow {
        id: StreamId(0),
        name: create.name.text.clone(),
        state: StreamState::Creating,
        placement: Placement::Key,
        shards: Vec::new(),
        columns: columns(create, &captures)?,
        captures,
        form: StreamForm::Append,
        options: StreamOptions::default(),
        query: None,
        created_at_ms: 0,
        sql: sql.to_owned(),
        ack: Ack::default(),
    };
    let shards = plain_options(&mut options, &mut row)?;
    let RowOptions { key, timestamp, topic } = record_options(&mut options, &mut row, query.is_some())?;
    let view = match is_view {
        true => Some(routing::View {
            retention_us: retention(&mut options, query)?,
        }),
        false => None,
    };
    if !row.captures.is_empty() || row.options.topic.is_some() {
        row.placement = Placement::Topic;
    }
    let (plan, warnings) = match query {
        Some(query) => {
            let (qos, retain) = (row.options.qos, row.options.retain);
            let output = routing::Output {
                name: &create.name,
                topic,
                keys: keys(create, key)?,
                view,
                qos,
                retain,
            };
            let (plan, warnings) = select::plan(binder, query, Some(&output))?;
            row.form = plan.output_form();
            if let Some(timestamp) = &timestamp {
                check(timestamp, &row, written::columns(&plan))?;
            }
            (Some(plan), warnings)
        }
        None => (None, Vec::new()),
    };
    let StreamRow {
        name,
        placement,
        columns,
        captures,
        form,
        options,
        ack,
        sql,
        ..
    } = row;
    let spec = StreamSpec {
        name,
        placement,
        shards,
        columns,
        captures,
        form,
        options,
        ack,
        sql,
    };
    Ok(BoundStream { spec, plan, warnings })
}

/// RETENTION: how long a view keeps the rows of windows.
fn retention(options: &mut Options<'_>, query: Option<&ast::Select>) -> Result<Option<i64>, SqlError> {
    let Some(given) = options.take("RETENTION") else {
        return Ok(None);
    };
    if query.is_none_or(|query| query.window.is_none()) {
        return Err(
            SqlError::new(codes::BAD_OPTION, "RETENTION without a window has no meaning")
                .at(given.name.span)
                .help("a row without a window stays until its key is gone"),
        );
    }
    let us = i64::try_from(given.millis()?).unwrap_or(i64::MAX).saturating_mul(1_000);
    Ok(Some(us))
}

/// KEY, or a table's PRIMARY KEY columns.
fn keys(create: &ast::CreateStream, option: Option<ast::Expr>) -> Result<Vec<ast::Expr>, SqlError> {
    let named = create.columns.iter().filter(|column| column.key);
    let mut keys: Vec<ast::Expr> = named
        .map(|column| ast::Expr::new(ExprKind::Name(column.name.clone()), column.name.span))
        .collect();
    match option {
        Some(key) if keys.is_empty() => keys.push(key),
        Some(key) => {
            return Err(SqlError::new(codes::WRITTEN_TWICE, "the key is given twice").at(key.span));
        }
        None if create.kind == ObjectKind::Table && keys.is_empty() => {
            return Err(SqlError::new(codes::BAD_OPTION, "a table needs a key")
                .at(create.name.span)
                .detail("it holds the latest row of each key")
                .help("write PRIMARY KEY behind a column, or give the option KEY"));
        }
        None => {}
    }
    Ok(keys)
}

/// The query that makes a table of a stream: its columns, cast to their types, or the whole payload.
fn table_query(create: &ast::CreateStream) -> Option<ast::Select> {
    let source = create.source.as_ref()?;
    let item = |column: &ast::ColumnDef| {
        let name = ast::Expr::new(ExprKind::Name(column.name.clone()), column.name.span);
        let cast = ExprKind::Cast {
            operand: Box::new(name),
            to: column.data_type.clone(),
        };
        ast::Item::Expr {
            expr: ast::Expr::new(cast, column.span),
            alias: Some(column.name.clone()),
        }
    };
    let items = match create.columns.as_slice() {
        [] => vec![ast::Item::All(source.span)],
        columns => columns.iter().map(item).collect(),
    };
    let from = ast::From {
        source: ast::Source::Stream(source.clone()),
        alias: None,
        joins: Vec::new(),
    };
    Some(ast::Select::new(items, from, source.span))
}

/// What a stream, query or connector may be called.
fn check_name(name: &Name, kind: &str) -> Result<(), SqlError> {
    const REFUSED: &[char] = &['/', '@', ':', '+', '#', '$'];
    let wrong = |message: String| Err(SqlError::new(codes::BAD_NAME, message).at(name.span));
    match name.text.chars().find(|c| REFUSED.contains(c) || c.is_control()) {
        Some(c) => wrong(format!("the name of a {kind} cannot hold `{}`", c.escape_default())),
        None if name.text.is_empty() => wrong(format!("the name of a {kind} cannot be empty")),
        None if name.text.len() > NAME_BYTES_MAX => {
            wrong(format!("the name of a {kind} has at most {NAME_BYTES_MAX} bytes"))
        }
        None => Ok(()),
    }
}

fn captures(create: &ast::CreateStream) -> Result<Vec<String>, SqlError> {
    let mut captures: Vec<String> = Vec::new();
    for topic in &create.topics {
        let filter = TopicFilter::capture(topic.text.as_str())
            .map_err(|error| SqlError::new(codes::BAD_TOPIC, error.to_string()).at(topic.span))?;
        if let Some(name) = filter.capture_names().find(|name| is_system_name(name)) {
            let message = format!("`{name}` is a column that every stream has");
            return Err(SqlError::new(codes::DUPLICATE_NAME, message).at(topic.span));
        }
        if captures.contains(&topic.text) {
            return Err(SqlError::new(codes::WRITTEN_TWICE, "this topic filter is given twice").at(topic.span));
        }
        captures.push(topic.text.clone());
    }
    Ok(captures)
}

fn columns(create: &ast::CreateStream, captures: &[String]) -> Result<Vec<ColumnRow>, SqlError> {
    let filters: Vec<_> = captures
        .iter()
        .filter_map(|text| TopicFilter::capture(text.as_str()).ok())
        .collect();
    let mut rows: Vec<ColumnRow> = Vec::new();
    for column in &create.columns {
        let name = &column.name.text;
        if column.key && !captures.is_empty() {
            let message = "a stream FROM TOPIC has no KEY columns: its records are placed by their topics";
            return Err(SqlError::new(codes::BAD_OPTION, message).at(column.span));
        }
        let taken = if is_system_name(name) {
            Some("a column that every stream has")
        } else if rows.iter().any(|row| row.name == *name) {
            Some("declared twice")
        } else if filters
            .iter()
            .any(|filter| filter.capture_names().any(|captured| captured == name))
        {
            Some("a level of the topic filter already")
        } else {
            None
        };
        if let Some(taken) = taken {
            return Err(SqlError::new(codes::DUPLICATE_NAME, format!("`{name}` is {taken}")).at(column.name.span));
        }
        rows.push(ColumnRow {
            name: name.clone(),
            data_type: column.data_type.data_type.to_string(),
            not_null: column.not_null,
            key: column.key,
        });
    }
    Ok(rows)
}

/// The options that are plain values. Gives the number of shards.
fn plain_options(options: &mut Options<'_>, row: &mut StreamRow) -> Result<u16, SqlError> {
    if let Some(given) = options.take("FORMAT") {
        row.options.format = match given.word(&["JSON", "TEXT", "RAW", "AVRO", "PROTOBUF"])? {
            "JSON" => Format::Json,
            "TEXT" => Format::Text,
            "RAW" => Format::Raw,
            other => return Err(SqlError::not_supported(format!("FORMAT = '{other}'"), given.value.span)),
        };
        if row.options.format != Format::Json && !row.columns.is_empty() {
            return Err(given
                .wrong("'JSON' where columns are declared")
                .help("TEXT and RAW have the one column `value`"));
        }
    }
    let shards = match options.take("SHARDS") {
        Some(given) if !row.captures.is_empty() => {
            return Err(captured(
                &given,
                "it has a shard in each group, so that one message is written once",
            ));
        }
        Some(given) => given.count(1..=SHARDS_MAX.into())? as u16,
        None => 1,
    };
    if let Some(given) = options.take("REPLICATE")
        && given.count(1..=u64::from(u16::MAX))? != 1
    {
        return Err(SqlError::not_supported("REPLICATE other than 1", given.value.span)
            .help("leave REPLICATE out: there is one node"));
    }
    if let Some(given) = options.take("ACK")
        && given.word(&["quorum", "memory"])? == "memory"
    {
        if row.captures.is_empty() {
            let message = "ACK = 'memory' without FROM TOPIC has no meaning";
            return Err(SqlError::new(codes::BAD_OPTION, message).at(given.value.span).help(
                "it is about the PUBACK of MQTT messages; INSERT and HTTP always wait until a record is committed",
            ));
        }
        row.ack = Ack::Memory;
    }
    if let Some(given) = options.take("SCHEMA") {
        return Err(SqlError::not_supported("the option SCHEMA", given.name.span));
    }
    row.options.duration_ms = options.take("DURATION").map(|given| given.millis()).transpose()?;
    row.options.delay_ms = options.take("DELAY").map(|given| given.millis()).transpose()?;
    row.options.idle_ms = options.take("IDLE").map(|given| given.millis()).transpose()?;
    if let Some(given) = options.take("ON_ERROR") {
        row.options.on_error = match given.word(&["null", "drop", "fail"])? {
            "drop" => OnError::Drop,
            "fail" => OnError::Fail,
            _ => OnError::Null,
        };
    }
    Ok(shards)
}

/// The options that read the row, as far as they are more than the text that [`StreamRow`] keeps.
struct RowOptions {
    key: Option<ast::Expr>,
    timestamp: Option<Read>,
    topic: Option<ParsedTemplate>,
}

/// KEY, TIMESTAMP and TOPIC, and how the messages of TOPIC go out.
fn record_options(
    options: &mut Options<'_>,
    row: &mut StreamRow,
    written_by_query: bool,
) -> Result<RowOptions, SqlError> {
    let mut key = None;
    if let Some(given) = options.take("KEY") {
        if !row.captures.is_empty() {
            return Err(captured(&given, "its records are placed by their topics"));
        }
        if let Some(column) = row.columns.iter().find(|column| column.key) {
            let message = format!("the key is given twice: column `{}` is KEY already", column.name);
            return Err(SqlError::new(codes::WRITTEN_TWICE, message).at(given.value.span));
        }
        let (read, text) = column_expression(&given, row, written_by_query)?;
        row.options.key = Some(text);
        key = Some(read.expr);
    }
    let mut timestamp = None;
    if let Some(given) = options.take("TIMESTAMP") {
        let (read, text) = column_expression(&given, row, written_by_query)?;
        row.options.timestamp = Some(text);
        timestamp = Some(read);
    }
    let mut topic = None;
    if let Some(given) = options.take("TOPIC") {
        if !row.captures.is_empty() {
            return Err(captured(&given, "its records have the topics they were published to"));
        }
        let text = given.text()?;
        let parsed = template::parse(&text)?;
        if !written_by_query {
            let scope = Scope::new(row, &row.name, &row.captures)?;
            parsed.bind(&mut Expressions::new(scope), Place::Option)?;
        }
        row.options.topic = Some(text.text);
        topic = Some(parsed);
    }
    let qos = options.take("QOS");
    if let Some(given) = &qos {
        let bits = given.count(0..=2)? as u8;
        row.options.qos = Qos::from_bits(bits).unwrap_or_default();
    }
    let retain = options.take("RETAIN");
    if let Some(given) = &retain {
        row.options.retain = given.boolean()?;
    }
    if let (Some(given), None) = (qos.or(retain), &topic) {
        let name = given.name.text.to_ascii_uppercase();
        return Err(
            SqlError::new(codes::BAD_OPTION, format!("{name} without TOPIC has no meaning"))
                .at(given.name.span)
                .help("add TOPIC = '…', on which the records go out over MQTT"),
        );
    }
    Ok(RowOptions { key, timestamp, topic })
}

fn captured(given: &Given<'_>, why: &str) -> SqlError {
    let name = given.name.text.to_ascii_uppercase();
    SqlError::new(
        codes::BAD_OPTION,
        format!("{name} cannot be given to a stream FROM TOPIC: {why}"),
    )
    .at(given.name.span)
}

/// What an option reads, and where it stands if that is inside of a string.
struct Read {
    expr: ast::Expr,
    elsewhere: Option<Span>,
}

/// An option's expression, checked over the stream's own columns unless a query makes them.
fn column_expression(given: &Given<'_>, row: &StreamRow, written_by_query: bool) -> Result<(Read, String), SqlError> {
    let (expr, text, elsewhere) = given.expression()?;
    let read = Read { expr, elsewhere };
    if !written_by_query {
        check(&read, row, None)?;
    }
    Ok((read, text))
}

/// The columns that an option reads are there; `selected` are those that a query makes, where all of them are known.
fn check(read: &Read, row: &StreamRow, selected: Option<Vec<String>>) -> Result<(), SqlError> {
    let mut scope = Scope::empty();
    scope.add_stream(row, &row.name, &row.captures, selected, Span::default())?;
    let bound = Expressions::new(scope).bind(&read.expr, Place::Option);
    bound.map(|_| ()).map_err(|error| match read.elsewhere {
        Some(span) => error.moved_to(span),
        None => error,
    })
}

/// How records written to a stream by name are keyed, addressed and, with `checks`, looked through for NULLs.
pub fn write_rules(stream: &StreamRow, checks: bool) -> Result<WriteRules, SqlError> {
    let damaged = |what: &str, error: SqlError| {
        SqlError::internal(format!(
            "the {what} of stream `{}` cannot be read: {}",
            stream.name, error.message
        ))
    };
    let mut expressions = Expressions::new(Scope::new(stream, &stream.name, &stream.captures)?);
    let mut key = Vec::new();
    if let Some(text) = &stream.options.key {
        let bound = parse_expression(text).and_then(|ast| expressions.bind(&ast, Place::Option));
        key.push(bound.map_err(|error| damaged("KEY", error))?.expr);
    }
    let mut not_null = Vec::new();
    for column in &stream.columns {
        let Some(id) = (column.key || (checks && column.not_null))
            .then(|| expressions.scope.declared_column(0, &column.name))
            .flatten()
        else {
            continue;
        };
        if column.key {
            key.push(crate::plan::physical::Expr::Column(id));
        }
        if checks && column.not_null {
            not_null.push((id, column.name.clone()));
        }
    }
    let topic = match &stream.options.topic {
        Some(text) => {
            let text = Text {
                text: text.clone(),
                span: Span::default(),
            };
            let bound = template::parse(&text).and_then(|parsed| parsed.bind(&mut expressions, Place::Option));
            Some(bound.map_err(|error| damaged("TOPIC", error))?)
        }
        None => None,
    };
    let source = Source {
        stream: stream.id,
        name: stream.name.clone(),
        format: stream.options.format,
        on_error: stream.options.on_error,
        form: stream.form,
        columns: expressions.scope.source_columns(0),
        captures: stream.captures.clone(),
        timestamp: None,
        delay_us: 0,
        idle_us: None,
        start: Start::Latest,
    };
    Ok(WriteRules {
        source,
        key,
        topic,
        not_null,
    })
}

/// CREATE SINK CONNECTOR. What the options of its kind are is the bridge's to check.
pub fn connector(binder: &Binder<'_>, create: &ast::CreateConnector, sql: &str) -> Result<ConnectorSpec, SqlError> {
    check_name(&create.name, "connector")?;
    let mut options = BTreeMap::new();
    let mut stream = None;
    for option in &create.options {
        let name = option.name.text.to_ascii_uppercase();
        let value = option_text(option)?;
        if name == "STREAM" {
            let named = Name {
                text: value.clone(),
                quote: ast::Quote::Back,
                span: option.value.span,
            };
            stream = Some(binder.stream(&named)?.name.clone());
        }
        if options.insert(name.clone(), value).is_some() {
            return Err(SqlError::new(codes::WRITTEN_TWICE, format!("{name} is given twice")).at(option.name.span));
        }
    }
    let Some(stream) = stream else {
        return Err(
            SqlError::new(codes::BAD_OPTION, "a sink connector needs the option STREAM")
                .at(create.name.span)
                .help("write WITH (STREAM = 'name', …): the stream whose records it sends"),
        );
    };
    let kind = create.kind.text.to_ascii_lowercase();
    Ok(ConnectorSpec {
        name: create.name.text.clone(),
        kind,
        sink: true,
        stream,
        options,
        sql: sql.to_owned(),
    })
}

/// An option of a connector as text; an interval in milliseconds with its unit.
fn option_text(option: &ast::WithOption) -> Result<String, SqlError> {
    let wrong = || {
        let message = format!(
            "{} takes a string, a number, TRUE, FALSE or an INTERVAL",
            option.name.text.to_ascii_uppercase()
        );
        SqlError::new(codes::BAD_OPTION, message).at(option.value.span)
    };
    Ok(match &option.value.kind {
        ExprKind::Text(text) | ExprKind::Number(text) => text.clone(),
        ExprKind::Bool(truth) => truth.to_string(),
        ExprKind::Name(name) => name.text.clone(),
        ExprKind::Interval(interval) => match interval.value.fixed_us() {
            Some(us) if us >= 0 => format!("{}ms", us / 1_000),
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    })
}
