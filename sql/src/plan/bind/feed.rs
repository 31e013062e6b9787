//! INSERT INTO s SELECT …: a query that writes into a stream that is there already, beside whoever else does.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_store::{Catalog, StreamForm, StreamId, StreamRow};

use crate::ast::{self, ExprKind, Item, Name, Quote, Text};
use crate::error::{SqlError, codes};
use crate::parse::{did_you_mean, parse_expression};
use crate::plan::bind::projection::output_names;
use crate::plan::bind::routing::Output;
use crate::plan::bind::{Binder, select, template};
use crate::plan::physical::Plan;
use crate::span::Span;
use crate::types::DataType;

/// A bound INSERT INTO … SELECT.
#[derive(Debug, Clone)]
pub struct BoundFeed {
    /// Where to.
    pub stream: Arc<StreamRow>,
    /// The query that writes it.
    pub plan: Plan,
    /// What looks like a slip and is none for certain.
    pub warnings: Vec<String>,
}

/// Binds it.
pub fn feed(
    binder: &Binder<'_>,
    into: &Name,
    columns: Option<&[Name]>,
    query: &ast::Select,
) -> Result<BoundFeed, SqlError> {
    let stream = binder.stream(into)?;
    check_target(stream, into)?;
    let keys = keys(stream)?;
    if !keys.is_empty() && select::groups(query) {
        return Err(
            SqlError::not_supported("INSERT of groups into a stream with a KEY", query.span)
                .detail("the key of a group's row is GROUP BY, with window_start where there is a window"),
        );
    }
    let query = fitted(stream, columns, query)?;
    refuse_topic(stream, &query)?;
    let output = Output {
        name: into,
        topic: topic(stream)?,
        keys,
        view: None,
        qos: stream.options.qos,
        retain: stream.options.retain,
    };
    let (plan, warnings) = select::plan(binder, &query, Some(&output))?;
    if plan.output_form() == StreamForm::Upsert {
        return Err(SqlError::not_supported("INSERT of rows that change", query.span)
            .detail("the rows of a group replace each other, and this stream keeps every row for itself")
            .help("write CREATE STREAM … AS, or EMIT FINAL over a window"));
    }
    if reaches(binder.catalog, stream.id, &plan.inputs()) {
        return Err(SqlError::new(
            codes::FEEDS_ITSELF,
            format!("`{}` would read, by way of other queries, what it writes", stream.name),
        )
        .at(query.span));
    }
    Ok(BoundFeed {
        stream: stream.clone(),
        plan,
        warnings,
    })
}

fn check_target(stream: &StreamRow, into: &Name) -> Result<(), SqlError> {
    if let Some(query) = &stream.query {
        let message = format!("stream `{}` is written by query `{query}`", stream.name);
        return Err(SqlError::new(codes::NOT_ALLOWED, message).at(into.span));
    }
    Ok(())
}

/// What a query writes into a stream FROM TOPIC has no topic and is not delivered, as an INSERT without `_topic`.
fn refuse_topic(stream: &StreamRow, query: &ast::Select) -> Result<(), SqlError> {
    if stream.captures.is_empty() {
        return Ok(());
    }
    let names = output_names(&query.items)?;
    let of_topic = query.items.iter().zip(&names).find(|(_, name)| *name == "_topic");
    match of_topic {
        Some((item, _)) => Err(SqlError::not_supported("INSERT … SELECT of `_topic`", item_span(item))
            .detail("it would publish")
            .help("give the query a stream of its own: CREATE STREAM … WITH (TOPIC = '…') AS SELECT …")),
        None => Ok(()),
    }
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::All(span) => *span,
        Item::Expr { expr, .. } => expr.span,
    }
}

/// The SELECT with its items called as the stream's columns, and cast to their types.
fn fitted(stream: &StreamRow, columns: Option<&[Name]>, query: &ast::Select) -> Result<ast::Select, SqlError> {
    let mut query = query.clone();
    if let Some(columns) = columns {
        let count = query.items.len();
        if columns.len() != count {
            let message = format!("{} columns are named, and {count} values selected", columns.len());
            return Err(SqlError::new(codes::WRONG_COUNT, message).at(query.span));
        }
        for (item, column) in query.items.iter_mut().zip(columns) {
            match item {
                Item::Expr { alias, .. } => *alias = Some(column.clone()),
                Item::All(span) => return Err(refuse_all(*span)),
            }
        }
    }
    if stream.columns.is_empty() {
        return Ok(query);
    }
    let names = output_names(&query.items)?;
    let declared: Vec<&str> = stream.columns.iter().map(|column| column.name.as_str()).collect();
    for (item, name) in query.items.iter_mut().zip(&names) {
        let (expr, alias) = match item {
            Item::All(span) => return Err(refuse_all(*span)),
            Item::Expr { expr, alias } => (expr, alias),
        };
        let Some(column) = stream.columns.iter().find(|column| column.name == *name) else {
            let message = format!("column `{name}` does not exist in stream `{}`", stream.name);
            let help = did_you_mean(name, declared.iter().copied());
            return Err(SqlError::new(codes::UNKNOWN_COLUMN, message)
                .at(expr.span)
                .help(help.unwrap_or_else(|| format!("the columns are {}", declared.join(", ")))));
        };
        let data_type: DataType = column
            .data_type
            .parse()
            .map_err(|error| SqlError::internal(format!("stream `{}`: {error}", stream.name)))?;
        let span = expr.span;
        alias.get_or_insert_with(|| named(name, span));
        let to = ast::TypeName { data_type, span };
        let operand = Box::new(expr.clone());
        *expr = ast::Expr::new(ExprKind::Cast { operand, to }, span);
    }
    let lacks = stream
        .columns
        .iter()
        .find(|column| column.not_null && !names.contains(&column.name));
    match lacks {
        Some(column) => Err(SqlError::new(
            codes::NOT_NULL,
            format!("column `{}` is NOT NULL and is not selected", column.name),
        )
        .at(query.span)),
        None => Ok(query),
    }
}

fn refuse_all(span: Span) -> SqlError {
    SqlError::not_supported("`*` into columns that have names", span).help("name what goes into each column")
}

fn named(name: &str, span: Span) -> Name {
    Name {
        text: name.to_owned(),
        quote: Quote::Back,
        span,
    }
}

fn topic(stream: &StreamRow) -> Result<Option<template::ParsedTemplate>, SqlError> {
    let parse = |text: &String| {
        template::parse(&Text {
            text: text.clone(),
            span: Span::default(),
        })
    };
    stream.options.topic.as_ref().map(parse).transpose()
}

/// KEY, or the KEY columns.
fn keys(stream: &StreamRow) -> Result<Vec<ast::Expr>, SqlError> {
    if let Some(text) = &stream.options.key {
        return Ok(vec![parse_expression(text)?]);
    }
    let keys = stream.columns.iter().filter(|column| column.key);
    let name = |name: &String| ast::Expr::new(ExprKind::Name(named(name, Span::default())), Span::default());
    Ok(keys.map(|column| name(&column.name)).collect())
}

/// What is written to `stream` comes, by way of queries, to one of `inputs`.
fn reaches(catalog: &Catalog, stream: StreamId, inputs: &[StreamId]) -> bool {
    let mut reached = BTreeSet::from([stream]);
    let mut waiting = vec![stream];
    while let Some(at) = waiting.pop() {
        let readers = catalog.queries.values().filter(|query| query.inputs.contains(&at));
        for query in readers {
            if reached.insert(query.output) {
                waiting.push(query.output);
            }
        }
    }
    inputs.iter().any(|input| reached.contains(input))
}
