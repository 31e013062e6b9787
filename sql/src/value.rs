//! One value of SQL, and what can be said of it: order, text, JSON. Casts and arithmetic are beside it.
//!
//! Columns hold values in typed vectors where they can ([`crate::column`]); a [`Value`] is what a row-at-a-time
//! function, a literal or a column of mixed types works with.

mod arithmetic;
mod cast;
mod key;
mod stored;

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use bytestring::ByteString;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use crate::calendar;
use crate::json;
use crate::types::{DataType, Interval, Literal};

pub(crate) use arithmetic::{binary, float_result, negate};
pub(crate) use cast::{cast, parse_decimal};
pub(crate) use key::{decode_group_key, decode_key, encode_key, encode_text_key, group_value};
pub(crate) use stored::StoredValue;

/// One value. It owns its data, or shares the buffer of the record it came from.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// TRUE or FALSE.
    Boolean(bool),
    /// 64-bit integer.
    Integer(i64),
    /// Finite: a result that is not becomes a [`Fault`].
    Float(f64),
    /// Up to 28 digits.
    Decimal(Decimal),
    /// Text.
    String(ByteString),
    /// Bytes.
    Bytea(Bytes),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since the epoch.
    Timestamp(i64),
    /// A span.
    Interval(Interval),
    /// A JSON object or array, as compact text.
    Json(ByteString),
    /// An SQL array.
    Array(Arc<[Value]>),
}

/// Why an expression has no value for a row: the result is NULL, and the row is counted and told in `q$errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// The result does not fit its type.
    #[error("numeric overflow")]
    Overflow,
    /// `/`, DIV or `%` by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// SQRT of a negative number and the like.
    #[error("argument out of the function's range")]
    OutOfRange,
    /// A value that CAST or a declared type cannot take.
    #[error("value cannot be cast to the wanted type")]
    BadCast,
    /// An operator or function that does not take such a value.
    #[error("value of the wrong type")]
    WrongType,
    /// A record that does not parse.
    #[error("payload does not parse")]
    BadRecord,
    /// A TOPIC template that gives no valid topic for the row.
    #[error("the row gives no valid topic")]
    BadTopic,
    /// A result that no write can hold, even alone: it is left out.
    #[error("the result is larger than a write may be")]
    TooLarge,
}

impl Fault {
    /// As a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Fault::Overflow => "overflow",
            Fault::DivisionByZero => "division_by_zero",
            Fault::OutOfRange => "out_of_range",
            Fault::BadCast => "bad_cast",
            Fault::WrongType => "wrong_type",
            Fault::BadRecord => "bad_record",
            Fault::BadTopic => "bad_topic",
            Fault::TooLarge => "too_large",
        }
    }
}

impl Value {
    /// Is it NULL?
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// About how many bytes it is when it is written out.
    pub fn size_bytes(&self) -> usize {
        match self {
            Value::String(text) | Value::Json(text) => text.len(),
            Value::Bytea(bytes) => bytes.len(),
            _ => 16,
        }
    }

    /// Text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// TRUE or FALSE; None for NULL and for what is no BOOLEAN.
    pub fn as_boolean(&self) -> Option<bool> {
        match self {
            Value::Boolean(truth) => Some(*truth),
            _ => None,
        }
    }

    /// A number as FLOAT.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Decimal(number) => number.to_f64(),
            _ => None,
        }
    }

    /// Its type; `Any` for NULL.
    pub fn data_type(&self) -> DataType {
        match self {
            Value::Null => DataType::Any,
            Value::Boolean(_) => DataType::Boolean,
            Value::Integer(_) => DataType::Integer,
            Value::Float(_) => DataType::Float,
            Value::Decimal(_) => DataType::Decimal(None),
            Value::String(_) => DataType::String,
            Value::Bytea(_) => DataType::Bytea,
            Value::Date(_) => DataType::Date,
            Value::Time(_) => DataType::Time,
            Value::Timestamp(_) => DataType::Timestamp,
            Value::Interval(_) => DataType::Interval,
            Value::Json(_) => DataType::Jsonb,
            Value::Array(_) => DataType::Array(Box::new(DataType::Any)),
        }
    }

    /// SQL's order. None where SQL says NULL: a side is NULL, or the types do not compare (a string and a number).
    /// A string compares with a time as the time that it reads as.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
            (Value::String(a), Value::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Value::Boolean(a), Value::Boolean(b)) => Some(a.cmp(b)),
            (Value::Bytea(a), Value::Bytea(b)) => Some(a.cmp(b)),
            (Value::Json(a), Value::Json(b)) if a == b => Some(Ordering::Equal),
            (Value::Json(_), Value::Json(_)) => Some(self.order(other)),
            (Value::Json(a), Value::Array(b)) => compare_arrays(&json::elements(a)?, b),
            (Value::Array(a), Value::Json(b)) => compare_arrays(a, &json::elements(b)?),
            (Value::Array(a), Value::Array(b)) => compare_arrays(a, b),
            (Value::Interval(a), Value::Interval(b)) => Some(interval_order(*a).cmp(&interval_order(*b))),
            (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Value::Time(a), Value::String(b)) => Some(a.cmp(&calendar::parse_time(b)?)),
            (Value::String(_), Value::Time(_)) => other.compare(self).map(Ordering::reverse),
            (Value::Integer(_) | Value::Float(_) | Value::Decimal(_), _) => compare_numbers(self, other),
            (Value::Timestamp(_) | Value::Date(_), _) | (_, Value::Timestamp(_) | Value::Date(_)) => {
                Some(moment(self)?.cmp(&moment(other)?))
            }
            _ => None,
        }
    }

    /// The one order of all values, whatever their types: what ORDER BY, ARRAY_SORT, MIN, MAX and TOPK go by. It is that
    /// of their keys, so that it is the same wherever values are kept in order; NULL is first.
    pub fn order(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            // -0.0 equals 0.0.
            (Value::Float(a), Value::Float(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
            (Value::Null, _) | (_, Value::Null) => other.is_null().cmp(&self.is_null()),
            _ => {
                let key = |value: &Value| {
                    let mut bytes = Vec::new();
                    encode_key(value, &mut bytes);
                    bytes
                };
                key(self).cmp(&key(other))
            }
        }
    }

    /// As [`Value::order`], with NULL last.
    pub fn order_nulls_last(&self, other: &Value) -> Ordering {
        let nulls = self.is_null().cmp(&other.is_null());
        nulls.then_with(|| self.order(other))
    }

    /// As text: what CAST to STRING, `||`, TOPIC templates and keys show. None for NULL.
    pub fn to_text(&self) -> Option<ByteString> {
        match self {
            Value::Null => None,
            Value::String(text) | Value::Json(text) => Some(text.clone()),
            Value::Bytea(bytes) => Some(
                String::from_utf8(bytes.to_vec())
                    .unwrap_or_else(|_| BASE64.encode(bytes))
                    .into(),
            ),
            Value::Date(days) => Some(calendar::format_date(*days).into()),
            Value::Time(us) => Some(calendar::format_time(*us).into()),
            Value::Timestamp(us) => Some(calendar::format_timestamp(*us).into()),
            Value::Interval(interval) => Some(interval.to_string().into()),
            Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Decimal(_) | Value::Array(_) => {
                let mut text = String::new();
                self.write_json(&mut text);
                Some(text.into())
            }
        }
    }

    /// Appends it as JSON. Times are ISO 8601 strings, BYTEA is base64, a DECIMAL is a number with its digits.
    pub fn write_json(&self, out: &mut String) {
        // Writing into a String cannot fail.
        let _ = match self {
            Value::Null => out.write_str("null"),
            Value::Boolean(truth) => write!(out, "{truth}"),
            Value::Integer(number) => write!(out, "{number}"),
            // The shortest digits that read back as the same number, always with a fraction or an exponent.
            Value::Float(number) if number.is_finite() => write!(out, "{number:?}"),
            Value::Float(_) => out.write_str("null"),
            Value::Decimal(number) => write!(out, "{number}"),
            Value::Json(text) => out.write_str(text),
            Value::String(text) => {
                write_json_string(text, out);
                Ok(())
            }
            Value::Bytea(bytes) => write!(out, "\"{}\"", BASE64.encode(bytes)),
            Value::Date(days) => write!(out, "\"{}\"", calendar::format_date(*days)),
            Value::Time(us) => write!(out, "\"{}\"", calendar::format_time(*us)),
            Value::Timestamp(us) => {
                out.push('"');
                calendar::write_timestamp(*us, out);
                out.push('"');
                Ok(())
            }
            Value::Interval(interval) => write!(out, "\"{interval}\""),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.push(if at == 0 { '[' } else { ',' });
                    item.write_json(out);
                }
                out.write_str(if items.is_empty() { "[]" } else { "]" })
            }
        };
    }
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    let mut clean_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[clean_from..at]);
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(escape);
        }
        clean_from = at + 1;
    }
    out.push_str(&text[clean_from..]);
    out.push('"');
}

fn compare_arrays(a: &[Value], b: &[Value]) -> Option<Ordering> {
    for (left, right) in a.iter().zip(b) {
        match left.compare(right)? {
            Ordering::Equal => {}
            order => return Some(order),
        }
    }
    Some(a.len().cmp(&b.len()))
}

/// Months count 30 days, as PostgreSQL compares intervals.
fn interval_order(interval: Interval) -> i128 {
    i128::from(interval.months) * 30 * 86_400_000_000 + i128::from(interval.us)
}

fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Some(a.cmp(b)),
        (Value::Integer(a), Value::Float(b)) => compare_integer_float(*a, *b),
        (Value::Float(a), Value::Integer(b)) => compare_integer_float(*b, *a).map(Ordering::reverse),
        (Value::Integer(a), Value::Decimal(b)) => Some(Decimal::from(*a).cmp(b)),
        (Value::Decimal(a), Value::Integer(b)) => Some(a.cmp(&Decimal::from(*b))),
        (Value::Decimal(a), Value::Decimal(b)) => Some(a.cmp(b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// Exact, where turning the integer into a float would round it.
pub(crate) fn compare_integer_float(integer: i64, float: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= LIMIT {
        return Some(Ordering::Less);
    }
    if float < -LIMIT {
        return Some(Ordering::Greater);
    }
    // In range, so the cast truncates exactly; the fraction decides a tie.
    let whole = float.trunc();
    Some(
        integer
            .cmp(&(whole as i64))
            .then_with(|| 0.0_f64.total_cmp(&(float - whole + 0.0))),
    )
}

/// A DATE, TIMESTAMP or text as microseconds since the epoch. Numbers are no moments here.
fn moment(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(us) => Some(*us),
        Value::Date(days) => Some(i64::from(*days).saturating_mul(calendar::DAY_US)),
        Value::String(text) => calendar::parse_timestamp(text),
        _ => None,
    }
}

impl From<&Literal> for Value {
    fn from(literal: &Literal) -> Value {
        match literal {
            Literal::Null => Value::Null,
            Literal::Boolean(truth) => Value::Boolean(*truth),
            Literal::Integer(number) => Value::Integer(*number),
            Literal::Float(number) => Value::Float(*number),
            Literal::Decimal(text) => parse_decimal(text).map_or(Value::Null, Value::Decimal),
            Literal::String(text) => Value::String(text.as_str().into()),
            Literal::Bytea(bytes) => Value::Bytea(bytes.clone().into()),
            Literal::Date(days) => Value::Date(*days),
            Literal::Time(us) => Value::Time(*us),
            Literal::Timestamp(us) => Value::Timestamp(*us),
            Literal::Interval(interval) => Value::Interval(*interval),
            Literal::Jsonb(text) => Value::Json(text.as_str().into()),
            Literal::Array(items) => Value::Array(items.iter().map(Value::from).collect()),
        }
    }
}

impl From<&Value> for Literal {
    fn from(value: &Value) -> Literal {
        match value {
            Value::Null => Literal::Null,
            Value::Boolean(truth) => Literal::Boolean(*truth),
            Value::Integer(number) => Literal::Integer(*number),
            Value::Float(number) => Literal::Float(*number),
            Value::Decimal(number) => Literal::Decimal(number.to_string()),
            Value::String(text) => Literal::String(text.to_string()),
            Value::Bytea(bytes) => Literal::Bytea(bytes.to_vec()),
            Value::Date(days) => Literal::Date(*days),
            Value::Time(us) => Literal::Time(*us),
            Value::Timestamp(us) => Literal::Timestamp(*us),
            Value::Interval(interval) => Literal::Interval(*interval),
            Value::Json(text) => Literal::Jsonb(text.to_string()),
            Value::Array(items) => Literal::Array(items.iter().map(Literal::from).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Value) -> String {
        let mut out = String::new();
        value.write_json(&mut out);
        out
    }

    #[test]
    fn numbers_compare_across_types_exactly() {
        let big = 9_007_199_254_740_993; // 2^53 + 1 is no FLOAT
        assert_eq!(
            Value::Integer(big).compare(&Value::Float(9_007_199_254_740_992.0)),
            Some(Ordering::Greater)
        );
        assert_eq!(Value::Integer(2).compare(&Value::Float(2.5)), Some(Ordering::Less));
        assert_eq!(Value::Integer(-2).compare(&Value::Float(-2.5)), Some(Ordering::Greater));
        assert_eq!(Value::Float(2.0).compare(&Value::Integer(2)), Some(Ordering::Equal));
        assert_eq!(Value::Integer(0).compare(&Value::Float(-0.0)), Some(Ordering::Equal));
        assert_eq!(
            Value::Integer(i64::MAX).compare(&Value::Float(1e300)),
            Some(Ordering::Less)
        );
        assert_eq!(
            Value::Decimal(Decimal::new(25, 1)).compare(&Value::Integer(2)),
            Some(Ordering::Greater)
        );
    }

    #[test]
    fn a_string_and_a_number_do_not_compare_and_null_never_does() {
        assert_eq!(Value::String("1".into()).compare(&Value::Integer(1)), None);
        assert_eq!(Value::Float(1.0).compare(&Value::String("1".into())), None);
        assert_eq!(Value::Null.compare(&Value::Null), None);
        assert_eq!(Value::Boolean(true).compare(&Value::Integer(1)), None);
        let noon = Value::Timestamp(calendar::parse_timestamp("2010-01-01 12:00").unwrap());
        assert_eq!(
            noon.compare(&Value::String("2010-01-01".into())),
            Some(Ordering::Greater)
        );
    }

    #[test]
    fn json_is_compact_and_keeps_numbers_apart() {
        assert_eq!(json(Value::Float(9001.0)), "9001.0");
        assert_eq!(json(Value::Float(1e300)), "1e300");
        assert_eq!(json(Value::Integer(9001)), "9001");
        assert_eq!(json(Value::String("a\"\\\n\u{1}é".into())), "\"a\\\"\\\\\\n\\u0001é\"");
        assert_eq!(json(Value::Array([Value::Integer(1), Value::Null].into())), "[1,null]");
        assert_eq!(json(Value::Array([].into())), "[]");
    }
}
