//! Functions of arrays. An array of a JSON payload and an SQL array are the same here.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Function, Parameter, Returns, scalar};
use crate::json;
use crate::value::{Fault, Value};

const ONE: &[Parameter] = &[Parameter::Array];
const TWO: &[Parameter] = &[Parameter::Array, Parameter::Array];
const AND_VALUE: &[Parameter] = &[Parameter::Array, Parameter::Any];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        aliases: &["ARRAY_CONTAIN"],
        sees_null: true,
        ..scalar(
            "ARRAY_CONTAINS",
            AND_VALUE,
            Returns::Boolean,
            "is the value in it?",
            |a, _| match &a[0] {
                Value::Null => Ok(Value::Null),
                array => Ok(Value::Boolean(holds(&items(array)?, &a[1]))),
            },
        )
    },
    scalar(
        "ARRAY_DISTINCT",
        ONE,
        Returns::Argument(0),
        "each of its values once",
        |a, _| Ok(array(once(items(&a[0])?.iter()))),
    ),
    scalar(
        "ARRAY_EXCEPT",
        TWO,
        Returns::Argument(0),
        "each of its values once, but not those of the second",
        |a, _| {
            let (first, second) = (items(&a[0])?, items(&a[1])?);
            Ok(array(once(first.iter().filter(|item| !holds(&second, item)))))
        },
    ),
    scalar(
        "ARRAY_INTERSECT",
        TWO,
        Returns::Argument(0),
        "those of its values that are in the second",
        |a, _| {
            let (first, second) = (items(&a[0])?, items(&a[1])?);
            Ok(array(
                first.iter().filter(|item| holds(&second, item)).cloned().collect(),
            ))
        },
    ),
    scalar(
        "ARRAY_UNION",
        TWO,
        Returns::Argument(0),
        "its values, and those of the second that it lacks, once",
        |a, _| {
            let (first, second) = (items(&a[0])?, items(&a[1])?);
            let mut all = first.to_vec();
            all.extend(once(second.iter().filter(|item| !holds(&first, item))));
            Ok(array(all))
        },
    ),
    Function {
        optional: 1,
        ..scalar(
            "ARRAY_JOIN",
            &[Parameter::Array, Parameter::String],
            Returns::String,
            "its values as text, with the second (a comma) between them",
            |a, _| {
                let between = a.get(1).map_or(Some(","), Value::as_str).ok_or(Fault::WrongType)?;
                let texts: Vec<_> = items(&a[0])?.iter().filter_map(Value::to_text).collect();
                Ok(Value::String(texts.join(between).into()))
            },
        )
    },
    Function {
        aliases: &["CARDINALITY"],
        ..scalar(
            "ARRAY_LENGTH",
            ONE,
            Returns::Integer,
            "how many values it has",
            |a, _| Ok(Value::Integer(items(&a[0])?.len() as i64)),
        )
    },
    scalar("ARRAY_MAX", ONE, Returns::Any, "its largest value", |a, _| {
        extreme(&items(&a[0])?, Ordering::Greater)
    }),
    scalar("ARRAY_MIN", ONE, Returns::Any, "its smallest value", |a, _| {
        extreme(&items(&a[0])?, Ordering::Less)
    }),
    Function {
        sees_null: true,
        ..scalar(
            "ARRAY_REMOVE",
            AND_VALUE,
            Returns::Argument(0),
            "without the values that equal the second",
            |a, _| match &a[0] {
                Value::Null => Ok(Value::Null),
                whole => {
                    let left = items(whole)?;
                    Ok(array(left.iter().filter(|item| !same(item, &a[1])).cloned().collect()))
                }
            },
        )
    },
    scalar(
        "ARRAY_SORT",
        ONE,
        Returns::Argument(0),
        "from the smallest to the largest, NULLs last",
        |a, _| {
            let mut sorted = items(&a[0])?.to_vec();
            sorted.sort_by(Value::order_nulls_last);
            Ok(array(sorted))
        },
    ),
    Function {
        sees_null: true,
        ..scalar(
            "ARRAY_APPEND",
            AND_VALUE,
            Returns::Argument(0),
            "with the second behind its values",
            |a, _| match &a[0] {
                Value::Null => Ok(Value::Null),
                whole => {
                    let mut all = items(whole)?.to_vec();
                    all.push(a[1].clone());
                    Ok(array(all))
                }
            },
        )
    },
    Function {
        optional: 1,
        sees_null: true,
        ..scalar(
            "ARRAY_SLICE",
            &[Parameter::Array, Parameter::Integer, Parameter::Integer],
            Returns::Argument(0),
            "from a position (from 0) up to, and without, another; from the end where negative: `a[1:3]`",
            |a, _| match &a[0] {
                Value::Null => Ok(Value::Null),
                whole => slice(&items(whole)?, &a[1], a.get(2).unwrap_or(&Value::Null)),
            },
        )
    },
];

fn items(value: &Value) -> Result<Arc<[Value]>, Fault> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        Value::Json(text) => json::elements(text).map(Into::into).ok_or(Fault::WrongType),
        _ => Err(Fault::WrongType),
    }
}

fn array(items: Vec<Value>) -> Value {
    Value::Array(items.into())
}

/// NULL is NULL here: HStreamDB keeps one of several.
fn same(a: &Value, b: &Value) -> bool {
    (a.is_null() && b.is_null()) || a.compare(b).is_some_and(Ordering::is_eq)
}

fn holds(items: &[Value], wanted: &Value) -> bool {
    items.iter().any(|item| same(item, wanted))
}

fn once<'a>(items: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for item in items {
        if !holds(&kept, item) {
            kept.push(item.clone());
        }
    }
    kept
}

fn extreme(items: &[Value], better: Ordering) -> Result<Value, Fault> {
    let mut known = items.iter().filter(|item| !item.is_null());
    let Some(mut best) = known.next() else {
        return Ok(Value::Null);
    };
    for item in known {
        if item.order(best) == better {
            best = item;
        }
    }
    Ok(best.clone())
}

fn slice(items: &[Value], from: &Value, to: &Value) -> Result<Value, Fault> {
    let count = items.len() as i64;
    let place = |value: &Value, otherwise: i64| match value {
        Value::Null => Ok(otherwise),
        Value::Integer(at) if *at < 0 => Ok((at + count).max(0)),
        Value::Integer(at) => Ok((*at).min(count)),
        _ => Err(Fault::WrongType),
    };
    let (from, to) = (place(from, 0)?, place(to, count)?);
    let taken = items.get(from as usize..to as usize).unwrap_or_default();
    Ok(Value::Array(taken.into()))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    fn shown(name: &str, arguments: &[Value]) -> String {
        let mut out = String::new();
        call(name, arguments).unwrap().write_json(&mut out);
        out
    }

    #[test]
    fn arrays_of_both_sorts() {
        let json = |text: &str| Value::Json(text.into());
        let (int, some) = (Value::Integer, json("[3,1,null,3,2.0]"));
        assert_eq!(shown("ARRAY_CONTAINS", &[some.clone(), int(2)]), "true");
        assert_eq!(shown("ARRAY_CONTAIN", &[some.clone(), Value::Null]), "true");
        assert_eq!(
            shown("ARRAY_CONTAIN", &[Value::Array([int(1)].into()), int(2)]),
            "false"
        );
        assert_eq!(shown("ARRAY_DISTINCT", std::slice::from_ref(&some)), "[3,1,null,2.0]");
        assert_eq!(shown("ARRAY_EXCEPT", &[some.clone(), json("[1,null]")]), "[3,2.0]");
        assert_eq!(shown("ARRAY_INTERSECT", &[some.clone(), json("[3,2]")]), "[3,3,2.0]");
        assert_eq!(shown("ARRAY_UNION", &[json("[1,1]"), json("[2,1,2]")]), "[1,1,2]");
        assert_eq!(shown("ARRAY_JOIN", std::slice::from_ref(&some)), "\"3,1,3,2.0\"");
        assert_eq!(
            shown("ARRAY_JOIN", &[json("[1,2]"), Value::String("; ".into())]),
            "\"1; 2\""
        );
        assert_eq!(shown("ARRAY_LENGTH", std::slice::from_ref(&some)), "5");
        assert_eq!(shown("ARRAY_MAX", std::slice::from_ref(&some)), "3");
        assert_eq!(shown("ARRAY_MIN", std::slice::from_ref(&some)), "1");
        assert_eq!(shown("ARRAY_MAX", &[json("[]")]), "null");
        assert_eq!(shown("ARRAY_REMOVE", &[some.clone(), int(3)]), "[1,null,2.0]");
        assert_eq!(shown("ARRAY_SORT", std::slice::from_ref(&some)), "[1,2.0,3,3,null]");
        assert_eq!(shown("ARRAY_APPEND", &[json("[1]"), Value::Null]), "[1,null]");
        assert_eq!(shown("ARRAY_SLICE", &[some.clone(), int(1), int(3)]), "[1,null]");
        assert_eq!(shown("ARRAY_SLICE", &[some.clone(), int(-2)]), "[3,2.0]");
        assert_eq!(shown("ARRAY_SLICE", &[some, int(4), int(2)]), "[]");
        assert_eq!(call("ARRAY_LENGTH", &[json("{}")]), Err(Fault::WrongType));
        assert_eq!(call("ARRAY_MAX", &[json("[1,\"a\"]")]), Ok(Value::String("a".into())));
    }
}
