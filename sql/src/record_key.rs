//! Keys of records: values as text, such that two texts are the same exactly when the values are equal
//! ([decision 12](../../docs/decisions/0012-record-keys-tell-values-apart.md)).
//!
//! ```text
//! one STRING        d7          as JSON where its text is JSON itself: "7", "null", "\"x\"", "[1"
//! one other value   7           as in a list; an array as a list of one: [[1,2]]
//! several           ["d7",7,"2026-01-31T12:00:00Z"]
//! none              12:0:42     the id of the source record
//!
//! in a list         null  true  7  0.5  "d7"  "2026-01-31T12:00:00Z" (a TIMESTAMP)  [1,"a"]
//!                   {"string":"2026-01-31T12:00:00Z"}   a STRING that reads as a TIMESTAMP is written
//!                   {"date":"2026-01-31"}               DATE, TIME, INTERVAL, BYTEA, JSON objects: named
//! ```
//!
//! Whoever writes a record by its values goes through here: queries ([`crate::operator`]), what places their rows, and
//! INSERT and publishes by name ([`crate::address`]).

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::calendar;
use crate::change::RecordId;
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::plan::physical::{Expr, PlanError};
use crate::value::{Value, decode_key, encode_key, write_json_string};

/// What a plan calls a key that is passed on as it is. It is no function: only a key can be this.
const AS_IT_IS: &str = "RECORD_KEY";

/// The key of a record that is another record's key already: `expr` is its column.
pub(crate) fn as_it_is(expr: Expr) -> Expr {
    Expr::Call {
        function: AS_IT_IS.to_owned(),
        arguments: vec![expr],
    }
}

/// The expressions of a key.
#[derive(Debug)]
pub(crate) struct RecordKey {
    parts: Vec<Expression>,
    as_it_is: bool,
}

impl RecordKey {
    /// Compiles a key's expressions.
    pub fn compile(
        exprs: &[Expr],
        compile: impl Fn(&Expr) -> Result<Expression, PlanError>,
    ) -> Result<RecordKey, PlanError> {
        let passed_on = match exprs {
            [Expr::Call { function, arguments }] if function == AS_IT_IS => Some(&arguments[..]),
            _ => None,
        };
        let parts = passed_on
            .unwrap_or(exprs)
            .iter()
            .map(compile)
            .collect::<Result<_, _>>()?;
        Ok(RecordKey {
            parts,
            as_it_is: passed_on.is_some(),
        })
    }

    /// Its values.
    pub fn evaluate(&self, rows: &Columns, scope: &Scope, faults: &mut Faults) -> Vec<Arc<Column>> {
        self.parts
            .iter()
            .map(|part| part.evaluate(rows, scope, faults))
            .collect()
    }

    /// The key of a row, of its values or the first few of them.
    pub fn of(&self, values: &[Arc<Column>], row: usize, origin: RecordId) -> Bytes {
        let mut out = String::new();
        self.write(values, row, origin, &mut out);
        out.into()
    }

    /// Appends what [`RecordKey::of`] gives.
    pub fn write(&self, values: &[Arc<Column>], row: usize, origin: RecordId, out: &mut String) {
        match values {
            [] => origin.write_key(out),
            [one] => match one.text(row) {
                Some(text) if self.as_it_is || !is_json(text) => out.push_str(text),
                Some(text) => write_json_string(text, out),
                None => write_alone(&one.get(row), out),
            },
            several => {
                for (at, column) in several.iter().enumerate() {
                    out.push(if at == 0 { '[' } else { ',' });
                    match column.text(row) {
                        Some(text) => write_text(text, out),
                        None => write_value(&column.get(row), out),
                    }
                }
                out.push(']');
            }
        }
    }
}

/// A value that is no STRING, as the whole key.
fn write_alone(value: &Value, out: &mut String) {
    match value {
        Value::Array(_) => {
            out.push('[');
            write_value(value, out);
            out.push(']');
        }
        Value::Json(_) => match by_value(value) {
            array @ Value::Array(_) => write_alone(&array, out),
            object => write_value(&object, out),
        },
        _ => write_value(value, out),
    }
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Boolean(_) | Value::Integer(_) => value.write_json(out),
        Value::Float(_) | Value::Decimal(_) => write_number(value, out),
        Value::String(text) => write_text(text, out),
        Value::Timestamp(us) if calendar::has_plain_year(*us) => value.write_json(out),
        Value::Timestamp(us) => match calendar::format_timestamp(*us) {
            shown if reads_as_timestamp(&shown) => value.write_json(out),
            // Before or after all years that have a name.
            _ => named("timestamp", value, out),
        },
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Date(_) => named("date", value, out),
        Value::Time(_) => named("time", value, out),
        Value::Interval(interval) => {
            // As text an hour may be so many minutes; as it is stored it is one thing.
            let _ = write!(out, "{{\"interval\":[{},{}]}}", interval.months, interval.us);
        }
        Value::Bytea(_) => named("bytea", value, out),
        Value::Json(_) => match by_value(value) {
            array @ Value::Array(_) => write_value(&array, out),
            object => named("jsonb", &object, out),
        },
    }
}

fn named(data_type: &str, value: &Value, out: &mut String) {
    // Writing into a String cannot fail.
    let _ = write!(out, "{{\"{data_type}\":");
    value.write_json(out);
    out.push('}');
}

/// Equal numbers of all types are written alike.
fn write_number(value: &Value, out: &mut String) {
    match by_value(value) {
        Value::Decimal(number) => Value::Decimal(number.normalize()).write_json(out),
        number => number.write_json(out),
    }
}

/// What stands for all values that are equal: what their group's key reads back as.
fn by_value(value: &Value) -> Value {
    let mut bytes = Vec::new();
    encode_key(value, &mut bytes);
    // encode_key made these bytes.
    decode_key(&mut &bytes[..]).unwrap_or_else(|| value.clone())
}

fn write_text(text: &str, out: &mut String) {
    if reads_as_timestamp(text) {
        out.push_str("{\"string\":");
        write_json_string(text, out);
        out.push('}');
    } else {
        write_json_string(text, out);
    }
}

/// A TIMESTAMP is written just so.
fn reads_as_timestamp(text: &str) -> bool {
    text.ends_with('Z') && calendar::parse_timestamp(text).is_some_and(|us| calendar::format_timestamp(us) == text)
}

/// A text that could be another value's: a JSON number, `true`, `false`, `null`, or the beginning of something in quotes,
/// brackets or braces.
fn is_json(text: &str) -> bool {
    match text.as_bytes() {
        [b'"' | b'[' | b'{', ..] | b"true" | b"false" | b"null" => true,
        [b'-', rest @ ..] => is_number(rest),
        all => is_number(all),
    }
}

/// A JSON number, without its sign.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let [b'.', fraction @ ..] = rest {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', unsigned @ ..] => unsigned,
            _ => exponent,
        };
        let count = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = &exponent[count..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Interval;
    use headwater_store::{GroupId, Offset, ShardId, StreamId};
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    fn key(values: &[Value]) -> String {
        let whole = RecordKey {
            parts: Vec::new(),
            as_it_is: false,
        };
        let columns: Vec<_> = values
            .iter()
            .map(|value| Arc::new(Column::constant(value.clone(), 1)))
            .collect();
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(12),
            number: 0,
        };
        let mut out = String::new();
        whole.write(
            &columns,
            0,
            RecordId {
                shard,
                offset: Offset(42),
            },
            &mut out,
        );
        out
    }

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn the_usual_keys_are_what_people_write() {
        let noon = Value::Timestamp(calendar::parse_timestamp("2026-01-31 12:00").unwrap());
        for (values, wanted) in [
            (vec![], "12:0:42"),
            (vec![string("d7")], "d7"),
            (vec![string("")], ""),
            (vec![string("007")], "007"),
            (vec![string("2026-01-31T12:00:00Z")], "2026-01-31T12:00:00Z"),
            (vec![Value::Integer(-7)], "-7"),
            (vec![Value::Float(22.0)], "22"),
            (vec![Value::Float(-0.0)], "0"),
            (vec![Value::Decimal(Decimal::new(150, 2))], "1.5"),
            (vec![string("d7"), noon.clone()], r#"["d7","2026-01-31T12:00:00Z"]"#),
            // Read as times, and not written as times are.
            (
                vec![string("a"), string("2026-01-31 12:00:00Z")],
                r#"["a","2026-01-31 12:00:00Z"]"#,
            ),
            (
                vec![string("a"), string("2026-01-31T12:00:00")],
                r#"["a","2026-01-31T12:00:00"]"#,
            ),
            (vec![noon], r#""2026-01-31T12:00:00Z""#),
        ] {
            assert_eq!(key(&values), wanted);
        }
    }

    #[test]
    fn what_reads_alike_is_told_apart() {
        for (values, wanted) in [
            (vec![Value::Null], "null"),
            (vec![string("null")], r#""null""#),
            (vec![string("true")], r#""true""#),
            (vec![string("false")], r#""false""#),
            (vec![string("{")], r#""{""#),
            (vec![string("1")], r#""1""#),
            (vec![string("01.5")], "01.5"),
            (vec![string("1e")], "1e"),
            (vec![string("-1.50e+3")], r#""-1.50e+3""#),
            (vec![string("-")], "-"),
            (vec![string("1.")], "1."),
            (vec![string("\"1\"")], r#""\"1\"""#),
            (vec![string("[1]")], r#""[1]""#),
            (vec![Value::Array([Value::Integer(1)].into())], "[[1]]"),
            (vec![Value::Json("[1.0]".into())], "[[1]]"),
            (
                vec![Value::Json(r#"{"b":1.0,"a":"\u00e9"}"#.into())],
                r#"{"jsonb":{"a":"é","b":1}}"#,
            ),
            (
                vec![string("a"), Value::Json(r#"[{"a":1,"a":2}]"#.into())],
                r#"["a",[{"jsonb":{"a":2}}]]"#,
            ),
            (vec![Value::Date(0)], r#"{"date":"1970-01-01"}"#),
            (vec![Value::Time(0)], r#"{"time":"00:00:00"}"#),
            (vec![Value::Bytea(vec![1, 2].into())], r#"{"bytea":"AQI="}"#),
            // Behind all years that have a name.
            (
                vec![Value::Timestamp(i64::MAX)],
                r#"{"timestamp":"9223372036854775807"}"#,
            ),
            (
                vec![Value::Interval(Interval {
                    months: 1,
                    us: 3_600_000_000,
                })],
                r#"{"interval":[1,3600000000]}"#,
            ),
            (
                vec![string("a"), string("1970-01-01T00:00:00Z")],
                r#"["a",{"string":"1970-01-01T00:00:00Z"}]"#,
            ),
        ] {
            assert_eq!(key(&values), wanted);
        }
    }

    #[test]
    fn a_key_that_is_passed_on_stays_as_it_is() {
        let passed_on = RecordKey::compile(&[as_it_is(Expr::Column(crate::plan::physical::ColumnId(0)))], |expr| {
            Expression::compile(expr)
        })
        .unwrap();
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(12),
            number: 0,
        };
        let column = Arc::new(Column::constant(string(r#"["d7",1]"#), 1));
        let origin = RecordId {
            shard,
            offset: Offset(0),
        };
        assert_eq!(passed_on.of(&[column], 0, origin), r#"["d7",1]"#);
    }

    /// Values, many of which look like others.
    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            (-3_i64..3).prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("finite", |n| n.is_finite())
                .prop_map(Value::Float),
            (-9_i32..9).prop_map(|n| Value::Float(f64::from(n) / 4.0)),
            (any::<i64>(), 0_u32..20).prop_map(|(n, scale)| Value::Decimal(Decimal::new(n, scale))),
            (-900_i64..900, 0_u32..4).prop_map(|(n, scale)| Value::Decimal(Decimal::new(n, scale))),
            "\\PC{0,4}|[\"\\[{]?(null|true|[0-3](\\.[05])?|1970-01-01(T00:00:00Z)?)[\"\\]}]?"
                .prop_map(|text| string(&text)),
            prop::collection::vec(any::<u8>(), 0..4).prop_map(|bytes| Value::Bytea(bytes.into())),
            (-2..2_i32).prop_map(Value::Date),
            (0..2_i64).prop_map(|n| Value::Time(n * 3_600_000_000)),
            prop_oneof![any::<i64>(), (-2_i64..2).prop_map(|n| n * 86_400_000_000)].prop_map(Value::Timestamp),
            (-13..13_i32, -2_i64..2).prop_map(|(months, us)| Value::Interval(Interval { months, us })),
            "\\{\"a\":(1|1\\.0|null|\"1970-01-01\"|\\[1\\])\\}|\\[(1|1e0|\\{\\}|null|\"1970-01-01\")\\]"
                .prop_map(|text| Value::Json(text.into())),
        ];
        scalar.prop_recursive(2, 6, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(|items| Value::Array(items.into()))
        })
    }

    fn encoded(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|value| encode_key(value, &mut out));
        out
    }

    /// As another type, or a text, that may be equal or only look so.
    fn lookalike(value: &Value) -> Vec<Value> {
        let mut shown = String::new();
        value.write_json(&mut shown);
        let mut all = vec![string(&shown), string(&key(std::slice::from_ref(value)))];
        all.extend(value.to_text().map(Value::String));
        all.extend(value.as_f64().map(Value::Float));
        all.push(Value::Array([value.clone()].into()));
        if shown.starts_with('[') || shown.starts_with('{') {
            all.push(Value::Json(shown.into()));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn keys_are_the_same_exactly_when_the_values_are(
            a in prop::collection::vec(value(), 1..3),
            b in prop::collection::vec(value(), 1..3),
        ) {
            prop_assert_eq!(key(&a) == key(&b), encoded(&a) == encoded(&b), "{:?} {:?}", a, b);
            for at in 0..a.len() {
                for other in lookalike(&a[at]) {
                    let mut c = a.clone();
                    c[at] = other;
                    prop_assert_eq!(key(&a) == key(&c), encoded(&a) == encoded(&c), "{:?} {:?}", a, c);
                }
            }
        }
    }
}
