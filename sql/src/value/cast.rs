//! CAST, and the same rules for declared columns.
//!
//! A TIMESTAMP reads text (see [`crate::calendar`]) and integers as milliseconds since the epoch, an INTERVAL text with
//! units or as it is printed. NULL casts to NULL.

use bytestring::ByteString;
use rust_decimal::Decimal;
use rust_decimal::RoundingStrategy::MidpointAwayFromZero;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};

use super::{Fault, Value};
use crate::calendar;
use crate::json;
use crate::types::{DataType, Interval};

/// `value` as a value of type `to`.
pub(crate) fn cast(value: &Value, to: &DataType) -> Result<Value, Fault> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let cast = match to {
        DataType::Any => return Ok(value.clone()),
        DataType::Integer => integer(value)?.map(Value::Integer),
        DataType::Float => float(value)?.map(Value::Float),
        DataType::Decimal(bounds) => decimal(value, *bounds)?.map(Value::Decimal),
        DataType::Boolean => boolean(value).map(Value::Boolean),
        DataType::String => value.to_text().map(Value::String),
        DataType::Bytea => bytes(value),
        DataType::Date => date(value).map(Value::Date),
        DataType::Time => time(value).map(Value::Time),
        DataType::Timestamp => timestamp(value).map(Value::Timestamp),
        DataType::Interval => interval(value).map(Value::Interval),
        DataType::Jsonb => jsonb(value),
        DataType::Array(of) => return array(value, of),
    };
    cast.ok_or(Fault::BadCast)
}

fn integer(value: &Value) -> Result<Option<i64>, Fault> {
    Ok(match value {
        Value::Integer(number) => Some(*number),
        Value::Float(number) => Some(float_to_integer(*number).ok_or(Fault::Overflow)?),
        Value::Decimal(number) => {
            let rounded = number.round_dp_with_strategy(0, MidpointAwayFromZero);
            Some(rounded.to_i64().ok_or(Fault::Overflow)?)
        }
        Value::Boolean(truth) => Some(i64::from(*truth)),
        Value::String(text) => {
            let text = text.trim();
            match text.parse() {
                Ok(number) => Some(number),
                Err(_) => parse_float(text)
                    .map(|number| float_to_integer(number).ok_or(Fault::Overflow))
                    .transpose()?,
            }
        }
        Value::Timestamp(us) => Some(us.div_euclid(1_000)),
        _ => None,
    })
}

/// Rounds half away from zero, as PostgreSQL does for NUMERIC. None: it does not fit.
pub(crate) fn float_to_integer(number: f64) -> Option<i64> {
    let rounded = number.round();
    // 2^63 itself is a FLOAT and no INTEGER; -2^63 is both.
    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0)
        .contains(&rounded)
        .then_some(rounded as i64)
}

fn float(value: &Value) -> Result<Option<f64>, Fault> {
    Ok(match value {
        Value::Boolean(truth) => Some(f64::from(u8::from(*truth))),
        Value::String(text) => parse_float(text.trim()),
        number => number.as_f64(),
    })
}

/// A finite number in Rust's and JSON's spelling.
fn parse_float(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn decimal(value: &Value, bounds: Option<(u8, u8)>) -> Result<Option<Decimal>, Fault> {
    let exact = match value {
        Value::Integer(number) => Some(Decimal::from(*number)),
        Value::Float(number) => Some(Decimal::from_f64(*number).ok_or(Fault::Overflow)?),
        Value::Decimal(number) => Some(*number),
        Value::String(text) => parse_decimal(text.trim()),
        _ => None,
    };
    let (Some(exact), Some((precision, scale))) = (exact, bounds) else {
        return Ok(exact);
    };
    let mut rounded = exact.round_dp_with_strategy(scale.into(), MidpointAwayFromZero);
    rounded.rescale(scale.into());
    let limit = 10_i128.pow(precision.into());
    if rounded.mantissa().abs() < limit {
        Ok(Some(rounded))
    } else {
        Err(Fault::Overflow)
    }
}

/// Digits with or without a fraction or an exponent, when 28 digits hold it exactly.
pub(crate) fn parse_decimal(text: &str) -> Option<Decimal> {
    Decimal::from_str_exact(text)
        .or_else(|_| Decimal::from_scientific(text))
        .ok()
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(truth) => Some(*truth),
        Value::Integer(number) => Some(*number != 0),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<Value> {
    match value {
        Value::Bytea(_) => Some(value.clone()),
        Value::String(text) | Value::Json(text) => Some(Value::Bytea(text.clone().into_bytes())),
        _ => None,
    }
}

fn date(value: &Value) -> Option<i32> {
    match value {
        Value::Date(days) => Some(*days),
        Value::Timestamp(us) => i32::try_from(us.div_euclid(calendar::DAY_US)).ok(),
        Value::String(text) => calendar::parse_date(text)
            .or_else(|| i32::try_from(calendar::parse_timestamp(text)?.div_euclid(calendar::DAY_US)).ok()),
        _ => None,
    }
}

fn time(value: &Value) -> Option<i64> {
    match value {
        Value::Time(us) => Some(*us),
        Value::Timestamp(us) => Some(us.rem_euclid(calendar::DAY_US)),
        Value::String(text) => calendar::parse_time(text),
        _ => None,
    }
}

fn timestamp(value: &Value) -> Option<i64> {
    match value {
        Value::Timestamp(us) => Some(*us),
        Value::Date(days) => Some(i64::from(*days).saturating_mul(calendar::DAY_US)),
        Value::Integer(ms) => ms.checked_mul(1_000),
        Value::Float(ms) => float_to_integer(ms * 1_000.0),
        Value::String(text) => calendar::parse_timestamp(text),
        _ => None,
    }
}

fn interval(value: &Value) -> Option<Interval> {
    match value {
        Value::Interval(interval) => Some(*interval),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Text is read as JSON; what stands for a plain SQL value becomes that value.
fn jsonb(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => json::parse(text),
        Value::Bytea(bytes) => json::parse(&ByteString::try_from(bytes.clone()).ok()?),
        Value::Array(_) => {
            let mut text = String::new();
            value.write_json(&mut text);
            Some(Value::Json(text.into()))
        }
        _ => Some(value.clone()),
    }
}

fn array(value: &Value, of: &DataType) -> Result<Value, Fault> {
    let items = match value {
        Value::Array(items) => items.clone(),
        Value::Json(text) => json::elements(text).ok_or(Fault::BadCast)?.into(),
        Value::String(text) => match json::parse(text) {
            Some(Value::Json(text)) => json::elements(&text).ok_or(Fault::BadCast)?.into(),
            _ => return Err(Fault::BadCast),
        },
        _ => return Err(Fault::BadCast),
    };
    let cast: Result<Vec<Value>, Fault> = items.iter().map(|item| cast(item, of)).collect();
    Ok(Value::Array(cast?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(value: Value, data_type: &str) -> Result<String, Fault> {
        let mut out = String::new();
        cast(&value, &data_type.parse().unwrap())?.write_json(&mut out);
        Ok(out)
    }

    #[test]
    fn casts_follow_the_types_and_say_when_they_cannot() {
        assert_eq!(to(Value::String(" 42 ".into()), "INTEGER"), Ok("42".into()));
        assert_eq!(to(Value::String("41.5".into()), "INTEGER"), Ok("42".into()));
        assert_eq!(to(Value::String("x".into()), "INTEGER"), Err(Fault::BadCast));
        assert_eq!(to(Value::Float(1e30), "INTEGER"), Err(Fault::Overflow));
        assert_eq!(
            to(Value::Float(9_223_372_036_854_775_808.0), "INTEGER"),
            Err(Fault::Overflow)
        );
        assert_eq!(to(Value::Integer(3), "FLOAT"), Ok("3.0".into()));
        assert_eq!(to(Value::String("1e999".into()), "FLOAT"), Err(Fault::BadCast));
        assert_eq!(to(Value::String("12.345".into()), "DECIMAL(4,2)"), Ok("12.35".into()));
        assert_eq!(to(Value::Integer(1), "DECIMAL(4,2)"), Ok("1.00".into()));
        assert_eq!(to(Value::Integer(100), "DECIMAL(4,2)"), Err(Fault::Overflow));
        assert_eq!(
            to(Value::Integer(1_262_304_000_000), "TIMESTAMP"),
            Ok("\"2010-01-01T00:00:00Z\"".into())
        );
        assert_eq!(to(Value::Float(9001.0), "STRING"), Ok("\"9001.0\"".into()));
        assert_eq!(
            to(Value::String("{\"a\": [1, 2]}".into()), "JSONB"),
            Ok("{\"a\":[1,2]}".into())
        );
        assert_eq!(to(Value::String("[1, \"2\"]".into()), "INTEGER[]"), Ok("[1,2]".into()));
        assert_eq!(to(Value::String("3 days".into()), "INTERVAL"), Ok("\"P3D\"".into()));
        assert_eq!(to(Value::String("PT1H5M".into()), "INTERVAL"), Ok("\"PT1H5M\"".into()));
        assert_eq!(to(Value::Integer(3), "INTERVAL"), Err(Fault::BadCast));
        assert_eq!(to(Value::Null, "INTEGER"), Ok("null".into()));
    }
}
