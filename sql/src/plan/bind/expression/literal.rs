//! Literals: their spelling becomes a value.

use crate::ast::{self, ExprKind};
use crate::calendar;
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::Typed;
use crate::plan::physical::Expr;
use crate::span::Span;
use crate::types::{DataType, Literal};
use crate::value;

/// A number, text, moment, interval or truth.
pub fn literal(ast: &ast::Expr) -> Result<Typed, SqlError> {
    let literal = match &ast.kind {
        ExprKind::Bool(truth) => Literal::Boolean(*truth),
        ExprKind::Text(text) => Literal::String(text.clone()),
        ExprKind::Number(text) => number(text, ast.span)?,
        ExprKind::Interval(interval) => Literal::Interval(interval.value),
        ExprKind::Timestamp(text) => moment(text, &DataType::Timestamp, ast.span)?,
        ExprKind::Date(text) => moment(text, &DataType::Date, ast.span)?,
        ExprKind::Time(text) => moment(text, &DataType::Time, ast.span)?,
        _ => return Err(SqlError::internal("this expression is not a literal").at(ast.span)),
    };
    let data_type = literal.data_type();
    Ok(Typed::new(Expr::Literal(literal), data_type))
}

/// As in JSON: INTEGER when it is whole and fits, DECIMAL when it is whole and does not, FLOAT otherwise.
fn number(text: &str, span: Span) -> Result<Literal, SqlError> {
    if let Ok(integer) = text.parse() {
        return Ok(Literal::Integer(integer));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match value::parse_decimal(text) {
            Some(_) => Ok(Literal::Decimal(text.to_owned())),
            None => Err(too_large(text, span)),
        };
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(Literal::Float(float)),
        _ => Err(too_large(text, span)),
    }
}

fn too_large(text: &str, span: Span) -> SqlError {
    SqlError::new(codes::BAD_LITERAL, format!("the number {text} is too large")).at(span)
}

/// A text as a TIMESTAMP, DATE or TIME.
pub fn moment(text: &str, data_type: &DataType, span: Span) -> Result<Literal, SqlError> {
    let (literal, example) = match data_type {
        DataType::Date => (calendar::parse_date(text).map(Literal::Date), "'2026-01-31'"),
        DataType::Time => (calendar::parse_time(text).map(Literal::Time), "'12:30:00'"),
        _ => (
            calendar::parse_timestamp(text).map(Literal::Timestamp),
            "'2026-01-31 12:30:00' or '2026-01-31T12:30:00Z'",
        ),
    };
    literal.ok_or_else(|| {
        SqlError::new(codes::BAD_LITERAL, format!("'{text}' is not a {data_type}"))
            .at(span)
            .help(format!("write it as {example}; times are UTC"))
    })
}
