//! Values as bytes whose order is the order of the values: group keys in the keys of state rows.
//!
//! ```text
//! NULL      01
//! BOOLEAN   02 | 00 or 01
//! number    03 | f64, ordered | rest, ordered      INTEGER, FLOAT and DECIMAL that are equal have the same bytes
//! STRING    04 | bytes, 00 as 00 FF | 00 01        BYTEA 05 alike
//! DATE      06 | i32, ordered                      TIME 07, TIMESTAMP 08: i64
//! INTERVAL  09 | us, months as 30 days each, i128, ordered | months, ordered
//! array     0B | elements | 00                     of SQL and of JSON
//! object    0C | name as a STRING | value | … | 00 of JSON: by name, of those with one name the last
//! beyond    0A | its spelling, as a STRING's       a number in JSON that no type holds
//! ```
//!
//! A number is its nearest FLOAT and what is left when that is taken off an INTEGER. So 22 and 22.0 are one group,
//! whichever came first, and it is shown as 22. So are `{"a":1,"b":2}` and `{"b":2.0,"a":1}`.

use std::sync::Arc;

use bytestring::ByteString;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::{Value, cast, interval_order, write_json_string};
use crate::json::{self, Found, Kind};
use crate::types::{DataType, Interval};

const NULL: u8 = 0x01;
const BOOLEAN: u8 = 0x02;
const NUMBER: u8 = 0x03;
const STRING: u8 = 0x04;
const BYTEA: u8 = 0x05;
const DATE: u8 = 0x06;
const TIME: u8 = 0x07;
const TIMESTAMP: u8 = 0x08;
const INTERVAL: u8 = 0x09;
/// Groups that were made before objects and arrays went by their values have their whole text here.
const JSON: u8 = 0x0A;
const ARRAY: u8 = 0x0B;
const OBJECT: u8 = 0x0C;
/// A DECIMAL that neither an INTEGER nor a FLOAT holds: its digits follow the nearest FLOAT.
const DECIMAL_REST: [u8; 8] = [0xFF; 8];

/// Appends `value` to `out`.
pub(crate) fn encode_key(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Boolean(truth) => out.extend([BOOLEAN, u8::from(*truth)]),
        Value::Integer(number) => encode_integer(*number, out),
        Value::Float(number) => encode_float(*number, out),
        Value::Decimal(number) => encode_decimal(*number, out),
        Value::String(text) => encode_bytes(STRING, text.as_bytes(), out),
        Value::Bytea(bytes) => encode_bytes(BYTEA, bytes, out),
        Value::Json(text) => match json::whole(text) {
            Some(found) => encode_json(text, found, out),
            None => encode_bytes(JSON, text.as_bytes(), out),
        },
        Value::Date(days) => {
            out.push(DATE);
            out.extend((*days as u32 ^ 1 << 31).to_be_bytes());
        }
        Value::Time(us) => encode_i64(TIME, *us, out),
        Value::Timestamp(us) => encode_i64(TIMESTAMP, *us, out),
        Value::Interval(interval) => {
            out.push(INTERVAL);
            out.extend((interval_order(*interval) as u128 ^ 1 << 127).to_be_bytes());
            out.extend((interval.months as u32 ^ 1 << 31).to_be_bytes());
        }
        Value::Array(items) => {
            out.push(ARRAY);
            items.iter().for_each(|item| encode_key(item, out));
            out.push(0);
        }
    }
}

/// Appends the value that is at a place of a JSON text.
fn encode_json(text: &str, found: Found, out: &mut Vec<u8>) {
    match found.kind {
        Kind::Object => {
            out.push(OBJECT);
            for (name, value) in json::members_by_name(text, found) {
                encode_text_key(&name, out);
                encode_json(text, value, out);
            }
            out.push(0);
        }
        Kind::Array => {
            out.push(ARRAY);
            for element in json::elements_at(text, found) {
                encode_json(text, element, out);
            }
            out.push(0);
        }
        _ => match json::in_range(found, json::read(text, found)) {
            Ok(value) => encode_key(&value, out),
            Err(_) => encode_bytes(JSON, &text.as_bytes()[found.start..found.end], out),
        },
    }
}

/// As [`encode_key`] of a STRING.
pub(crate) fn encode_text_key(text: &str, out: &mut Vec<u8>) {
    encode_bytes(STRING, text.as_bytes(), out);
}

/// A value as its group shows it: read back from the group's key; a FLOAT stays one where the type says so.
pub(crate) fn group_value(value: &Value, data_type: &DataType) -> Value {
    let mut bytes = Vec::new();
    encode_key(value, &mut bytes);
    decode_group_key(&mut &bytes[..], data_type)
}

/// Takes one value off the front of a group's key, as a column of that type shows it.
pub(crate) fn decode_group_key(bytes: &mut &[u8], data_type: &DataType) -> Value {
    // encode_key made these bytes, under the same plan.
    let value = decode_key(bytes).unwrap_or(Value::Null);
    match data_type {
        DataType::Float => cast(&value, data_type).unwrap_or(value),
        _ => value,
    }
}

/// Takes one value off the front of `bytes`. None: they were not made by [`encode_key`].
pub(crate) fn decode_key(bytes: &mut &[u8]) -> Option<Value> {
    let (tag, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(match *tag {
        NULL => Value::Null,
        BOOLEAN => Value::Boolean(take::<1>(bytes)?[0] == 1),
        NUMBER => decode_number(bytes)?,
        STRING => Value::String(ByteString::try_from(decode_bytes(bytes)?).ok()?),
        BYTEA => Value::Bytea(decode_bytes(bytes)?.into()),
        JSON => Value::Json(ByteString::try_from(decode_bytes(bytes)?).ok()?),
        DATE => Value::Date((u32::from_be_bytes(take(bytes)?) ^ 1 << 31) as i32),
        TIME => Value::Time(take_i64(bytes)?),
        TIMESTAMP => Value::Timestamp(take_i64(bytes)?),
        INTERVAL => {
            let length = (u128::from_be_bytes(take(bytes)?) ^ 1 << 127) as i128;
            let months = (u32::from_be_bytes(take(bytes)?) ^ 1 << 31) as i32;
            let of_months = interval_order(Interval { months, us: 0 });
            let us = i64::try_from(length.checked_sub(of_months)?).ok()?;
            Value::Interval(Interval { months, us })
        }
        ARRAY => {
            let mut items = Vec::new();
            while *bytes.first()? != 0 {
                items.push(decode_key(bytes)?);
            }
            *bytes = &bytes[1..];
            Value::Array(Arc::from(items))
        }
        OBJECT => Value::Json(decode_object(bytes)?.into()),
        _ => return None,
    })
}

/// As JSON, its members in the order of their names.
fn decode_object(bytes: &mut &[u8]) -> Option<String> {
    let mut text = String::from("{");
    while *bytes.first()? != 0 {
        let (Value::String(name), value) = (decode_key(bytes)?, decode_key(bytes)?) else {
            return None;
        };
        if text.len() > 1 {
            text.push(',');
        }
        write_json_string(&name, &mut text);
        text.push(':');
        value.write_json(&mut text);
    }
    *bytes = &bytes[1..];
    text.push('}');
    Some(text)
}

fn ordered_i64(number: i64) -> [u8; 8] {
    (number as u64 ^ 1 << 63).to_be_bytes()
}

/// Negative floats have all bits turned, others the sign bit: then bytes order as numbers do.
fn ordered_f64(number: f64) -> [u8; 8] {
    let bits = number.to_bits();
    (if bits >> 63 == 1 { !bits } else { bits ^ 1 << 63 }).to_be_bytes()
}

fn encode_i64(tag: u8, number: i64, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend(ordered_i64(number));
}

fn encode_integer(number: i64, out: &mut Vec<u8>) {
    let nearest = number as f64;
    // In i128, because the nearest float of i64::MAX is 2^63.
    let rest = i128::from(number) - nearest as i128;
    out.push(NUMBER);
    out.extend(ordered_f64(nearest));
    out.extend(ordered_i64(rest as i64));
}

fn encode_float(number: f64, out: &mut Vec<u8>) {
    // -0.0 equals 0.0.
    let number = if number == 0.0 { 0.0 } else { number };
    out.push(NUMBER);
    out.extend(ordered_f64(number));
    out.extend(ordered_i64(0));
}

fn encode_decimal(number: Decimal, out: &mut Vec<u8>) {
    let number = number.normalize();
    if let Some(integer) = number.is_integer().then(|| number.to_i64()).flatten() {
        return encode_integer(integer, out);
    }
    let nearest = number.to_f64().unwrap_or_default();
    // The float's own shortest digits decide whether both are the same number.
    if format!("{nearest}").parse() == Ok(number) {
        return encode_float(nearest, out);
    }
    out.push(NUMBER);
    out.extend(ordered_f64(nearest));
    out.extend(DECIMAL_REST);
    out.extend(number.serialize());
}

fn decode_number(bytes: &mut &[u8]) -> Option<Value> {
    let bits = u64::from_be_bytes(take(bytes)?);
    let nearest = f64::from_bits(if bits >> 63 == 1 { bits ^ 1 << 63 } else { !bits });
    let rest: [u8; 8] = take(bytes)?;
    if rest == DECIMAL_REST {
        return Some(Value::Decimal(Decimal::deserialize(take(bytes)?)));
    }
    let rest = (u64::from_be_bytes(rest) ^ 1 << 63) as i64;
    let whole = nearest.fract() == 0.0 && nearest.abs() <= 9_223_372_036_854_775_808.0;
    match i64::try_from(nearest as i128 + i128::from(rest)) {
        Ok(integer) if whole => Some(Value::Integer(integer)),
        _ => Some(Value::Float(nearest)),
    }
}

fn encode_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 3);
    out.push(tag);
    if !bytes.contains(&0) {
        out.extend_from_slice(bytes);
        return out.extend_from_slice(&[0x00, 0x01]);
    }
    let mut pieces = bytes.split(|byte| *byte == 0);
    out.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.extend_from_slice(&[0x00, 0xFF]);
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&[0x00, 0x01]);
}

fn decode_bytes(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let zero = bytes.iter().position(|byte| *byte == 0)?;
        let (piece, rest) = bytes.split_at(zero);
        let (after, rest) = rest[1..].split_first()?;
        *bytes = rest;
        out.extend_from_slice(piece);
        match after {
            0xFF => out.push(0),
            0x01 => return Some(out),
            _ => return None,
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(take(bytes)?) ^ 1 << 63) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    fn encoded(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        encode_key(value, &mut out);
        out
    }

    fn decoded(mut bytes: &[u8]) -> Value {
        let value = decode_key(&mut bytes).unwrap();
        assert!(bytes.is_empty());
        value
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            (-1000_i64..1000).prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(Value::Float),
            (-1000_i32..1000).prop_map(|n| Value::Float(f64::from(n) / 4.0)),
            (any::<i64>(), 0_u32..20).prop_map(|(n, scale)| Value::Decimal(Decimal::new(n, scale))),
            "\\PC{0,8}|a\0b".prop_map(|text| Value::String(text.into())),
            (-3_000_000..3_000_000_i32).prop_map(Value::Date),
            any::<i64>().prop_map(Value::Timestamp),
            (any::<i32>(), any::<i64>()).prop_map(|(months, us)| Value::Interval(Interval { months, us })),
        ]
    }

    #[test]
    fn equal_numbers_are_one_key() {
        let integer = encoded(&Value::Integer(22));
        assert_eq!(integer, encoded(&Value::Float(22.0)));
        assert_eq!(integer, encoded(&Value::Decimal(Decimal::new(2200, 2))));
        assert_eq!(decoded(&integer), Value::Integer(22));
        assert_eq!(encoded(&Value::Float(0.0)), encoded(&Value::Float(-0.0)));
        assert_eq!(
            encoded(&Value::Float(0.5)),
            encoded(&Value::Decimal(Decimal::new(5, 1)))
        );
        assert_eq!(decoded(&encoded(&Value::Integer(i64::MAX))), Value::Integer(i64::MAX));
        assert_eq!(
            decoded(&encoded(&Value::Float(9_223_372_036_854_775_808.0))),
            Value::Float(9_223_372_036_854_775_808.0)
        );
    }

    /// JSON, and another spelling of the same value.
    fn spelled_twice() -> impl Strategy<Value = (String, String)> {
        let same = |text: &str| (text.to_owned(), text.to_owned());
        let scalar = prop_oneof![
            prop::sample::select(vec![
                "null",
                "true",
                "7",
                "-2.5",
                "1e999",
                "\"é\"",
                "\"\"",
                "99999999999999999999"
            ])
            .prop_map(same),
            (-3_i32..3).prop_map(|n| (format!("{n}"), format!("{n}.0"))),
            Just(("\"é\"".to_owned(), "\"\\u00e9\"".to_owned())),
        ];
        scalar.prop_recursive(3, 12, 3, |inner| {
            let joined = |open: char, items: Vec<String>, close: char| format!("{open}{}{close}", items.join(","));
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(move |items| {
                    let (a, b) = items.into_iter().unzip();
                    (joined('[', a, ']'), joined('[', b, ']'))
                }),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(move |members| {
                    let member = |name: &str, value: &str| format!("\"{name}\":{value}");
                    let a = members.iter().map(|(name, (value, _))| member(name, value)).collect();
                    // The other way round, and one of that name before each, which does not count.
                    let b = members
                        .iter()
                        .rev()
                        .map(|(name, (_, value))| format!("{},{}", member(name, "0"), member(name, value)));
                    (joined('{', a, '}'), joined('{', b.collect(), '}'))
                }),
            ]
        })
    }

    fn json(text: &str) -> Value {
        crate::json::parse(text).unwrap()
    }

    #[test]
    fn json_goes_by_its_value() {
        for (a, b) in [
            (r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#),
            (r#"{"n":"é"}"#, r#"{"n":"\u00e9"}"#),
            (r#"{"a":0,"a":[{"b":1}]}"#, r#"{"a":[{"b":1.00}]}"#),
        ] {
            assert_eq!(encoded(&json(a)), encoded(&json(b)), "{a} {b}");
            assert_eq!(json(a).compare(&json(b)), Some(Ordering::Equal));
        }
        let array = Value::Array([Value::Integer(1), Value::String("x".into())].into());
        assert_eq!(encoded(&json(r#"[1,"x"]"#)), encoded(&array));
        assert_eq!(json(r#"[1.0,"x"]"#).compare(&array), Some(Ordering::Equal));
        assert_eq!(array.compare(&json(r#"[1,"y"]"#)), Some(Ordering::Less));
        for (a, b) in [
            (r#"{"n":1e999}"#, r#"{"n":null}"#),
            (r#"{"n":1e999}"#, r#"{"n":1e998}"#),
            (r#"{"n":1}"#, r#"{"n":"1"}"#),
            (r#"{}"#, r#"[]"#),
        ] {
            assert_ne!(encoded(&json(a)), encoded(&json(b)), "{a} {b}");
        }
        assert_eq!(
            decoded(&encoded(&json(r#"{"b":[1.0,{"é":null}],"a":"\"","n":1e999}"#))),
            Value::Json(r#"{"a":"\"","b":[1,{"é":null}],"n":1e999}"#.into())
        );
    }

    proptest! {
        #[test]
        fn equal_json_has_equal_keys((a, b) in spelled_twice(), (c, _) in spelled_twice()) {
            let key = |text: &str| encoded(&json(&format!("[{text}]")));
            prop_assert_eq!(key(&a), key(&b), "{} {}", a, b);
            let back = decoded(&key(&a));
            prop_assert_eq!(encoded(&back), key(&b), "{:?}", back);
            let (a, c) = (json(&format!("[{a}]")), json(&format!("[{c}]")));
            prop_assert_eq!(a.order(&c), encoded(&a).cmp(&encoded(&c)));
            prop_assert_eq!(a.compare(&c), Some(a.order(&c)));
        }

        #[test]
        fn a_key_reads_back_as_an_equal_value(values in prop::collection::vec(scalar(), 0..4)) {
            let array = Value::Array(values.clone().into());
            let mut bytes = &encoded(&array)[..];
            let Some(Value::Array(back)) = decode_key(&mut bytes) else { panic!("no array") };
            prop_assert!(bytes.is_empty());
            for (value, back) in values.iter().zip(back.iter()) {
                prop_assert!(value.is_null() == back.is_null());
                if !value.is_null() {
                    prop_assert_eq!(value.compare(back), Some(Ordering::Equal), "{:?} {:?}", value, back);
                }
            }
        }

        #[test]
        fn keys_order_as_their_values(a in scalar(), b in scalar()) {
            // Left out: a DECIMAL beside the FLOAT that is nearest to it, which compare rounds; a DATE beside a
            // TIMESTAMP, which are two keys; a month beside 30 days, which are two keys as well.
            let is_left_out = |value: &Value| matches!(value, Value::Decimal(_) | Value::Date(_));
            let intervals = matches!((&a, &b), (Value::Interval(_), Value::Interval(_)));
            if let (Some(order), false) = (a.compare(&b), is_left_out(&a) || is_left_out(&b))
                && !(intervals && order == Ordering::Equal)
            {
                prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), order);
            }
        }

        #[test]
        fn values_order_as_their_keys(a in scalar(), b in scalar()) {
            prop_assert_eq!(a.order(&b), encoded(&a).cmp(&encoded(&b)), "{:?} {:?}", a, b);
        }
    }

    #[test]
    fn the_ends_of_floats_order_as_their_keys() {
        let ends = [
            f64::NEG_INFINITY,
            f64::MIN,
            -0.0,
            0.0,
            f64::MIN_POSITIVE,
            f64::INFINITY,
            f64::NAN,
            -f64::NAN,
        ];
        for a in ends.map(Value::Float) {
            for b in ends.map(Value::Float) {
                assert_eq!(a.order(&b), encoded(&a).cmp(&encoded(&b)), "{a:?} {b:?}");
            }
        }
    }
}
