//! TOPIC templates: `alerts/{device}`, `{+path}`.

use headwater_store::TopicName;

use crate::ast::{self, ExprKind, Name, Text};
use crate::error::{SqlError, codes};
use crate::parse::parse_expression;
use crate::plan::bind::expression::{Expressions, Place};
use crate::plan::bind::path;
use crate::plan::physical::{Template, TemplatePart};
use crate::span::Span;

/// A template as it was written.
#[derive(Debug)]
pub struct ParsedTemplate {
    parts: Vec<Part>,
    span: Span,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Value { column: ast::Expr, slashes: bool },
}

/// Reads and checks the text of a TOPIC option.
pub fn parse(text: &Text) -> Result<ParsedTemplate, SqlError> {
    let wrong = |message: String| {
        SqlError::new(codes::BAD_TOPIC, message)
            .at(text.span)
            .help("a template is a topic with columns in braces, as in 'alerts/{device}'")
    };
    let mut parts = Vec::new();
    let mut rest = text.text.as_str();
    while let Some(open) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at(open);
        let Some((inside, after)) = from_brace.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            return Err(wrong(format!(
                "the braces of the template '{}' do not match",
                text.text
            )));
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let (name, slashes) = match inside.strip_prefix('+') {
            Some(name) => (name, true),
            None => (inside, false),
        };
        let column = parse_expression(name).ok().filter(is_column);
        let column = column.ok_or_else(|| wrong(format!("`{{{inside}}}` does not name a column")))?;
        parts.push(Part::Value { column, slashes });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    let example: String = parts
        .iter()
        .map(|part| if let Part::Text(text) = part { text } else { "x" })
        .collect();
    TopicName::new(example.as_str()).map_err(|error| wrong(error.to_string()))?;
    if example.starts_with('$') {
        return Err(wrong("topics that begin with `$` belong to the server".to_owned()));
    }
    Ok(ParsedTemplate { parts, span: text.span })
}

fn is_column(expr: &ast::Expr) -> bool {
    path::path(expr).is_ok_and(|(root, _)| matches!(root.kind, ExprKind::Name(_)))
}

impl ParsedTemplate {
    /// The columns it names, before any path into them.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value { column, .. } => match path::path(column) {
                Ok((
                    ast::Expr {
                        kind: ExprKind::Name(name),
                        ..
                    },
                    _,
                )) => Some(name),
                _ => None,
            },
            Part::Text(_) => None,
        })
    }

    /// Where it stands.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Binds its columns.
    pub fn bind(&self, expressions: &mut Expressions<'_>, place: Place) -> Result<Template, SqlError> {
        let part = |part: &Part| {
            Ok(match part {
                Part::Text(text) => TemplatePart::Text(text.clone()),
                Part::Value { column, slashes } => {
                    let bound = expressions
                        .bind(column, place)
                        .map_err(|error| error.moved_to(self.span))?;
                    TemplatePart::Value {
                        expr: bound.expr,
                        slashes: *slashes,
                    }
                }
            })
        };
        Ok(Template {
            parts: self.parts.iter().map(part).collect::<Result<_, SqlError>>()?,
        })
    }
}
