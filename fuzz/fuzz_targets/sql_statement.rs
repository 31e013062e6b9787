//! The SQL parser: no text makes it panic or recurse without end, every error can be shown, caret and all, and every span
//! lies inside the text, at the edges of its characters.
#![no_main]

use headwater_sql::Span;
use headwater_sql::ast::{Expr, Item, Select, Source, StatementKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match headwater_sql::parse(text) {
        Ok(statements) => {
            let mut before = 0;
            for statement in &statements {
                assert!(before <= statement.span.start, "statements follow each other");
                inside(text, statement.span);
                before = statement.span.end;
                if let StatementKind::Select(select) = &statement.kind {
                    in_select(text, select, statement.span);
                }
            }
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.to_json().is_object());
            if let Some(span) = error.span {
                inside(text, span);
            }
        }
    }
});

fn inside(text: &str, span: Span) {
    assert!(
        text.get(span.start..span.end).is_some(),
        "{span:?} is no place in the text"
    );
}

/// A SELECT, those inside of it, and all expressions, each inside of what it is a part of.
fn in_select(text: &str, select: &Select, parent: Span) {
    within(text, select.span, parent);
    let items = select.items.iter().filter_map(|item| match item {
        Item::Expr { expr, .. } => Some(expr),
        Item::All(_) => None,
    });
    let order = select.order_by.iter().map(|item| &item.expr);
    let all = items
        .chain(&select.filter)
        .chain(&select.group_by)
        .chain(&select.having)
        .chain(order);
    all.for_each(|expr| in_expr(text, expr, select.span));
    select
        .with
        .iter()
        .for_each(|named| in_select(text, &named.select, select.span));
    let joined = select.from.joins.iter().map(|join| &join.source);
    for source in std::iter::once(&select.from.source).chain(joined) {
        match source {
            Source::Query(inner) => in_select(text, inner, select.span),
            Source::Union(branches) => branches.iter().for_each(|branch| in_select(text, branch, select.span)),
            Source::Unnest(array) => in_expr(text, array, select.span),
            Source::Stream(_) | Source::Topic(_) => {}
        }
    }
}

fn in_expr(text: &str, expr: &Expr, parent: Span) {
    within(text, expr.span, parent);
    expr.kind.children().for_each(|child| in_expr(text, child, expr.span));
}

fn within(text: &str, span: Span, parent: Span) {
    inside(text, span);
    assert!(
        parent.start <= span.start && span.end <= parent.end,
        "{span:?} is not in {parent:?}"
    );
}
