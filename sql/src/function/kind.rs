//! What a value is: the fields of open streams show their types only here.

use super::{Function, Parameter, Returns, Scope, scalar};
use crate::value::{Fault, Value};

/// `IS_…(x)`; NULL is nothing of it.
const fn is(name: &'static str, about: &'static str, eval: fn(&[Value], &Scope) -> Result<Value, Fault>) -> Function {
    Function {
        sees_null: true,
        ..scalar(name, &[Parameter::Any], Returns::Boolean, about, eval)
    }
}

fn truth(truth: bool) -> Result<Value, Fault> {
    Ok(Value::Boolean(truth))
}

pub(super) const FUNCTIONS: &[Function] = &[
    is("IS_INT", "is it an INTEGER?", |a, _| {
        truth(matches!(a[0], Value::Integer(_)))
    }),
    is("IS_FLOAT", "is it a FLOAT?", |a, _| {
        truth(matches!(a[0], Value::Float(_)))
    }),
    is("IS_NUM", "is it a number?", |a, _| truth(a[0].as_f64().is_some())),
    is("IS_BOOL", "is it TRUE or FALSE?", |a, _| {
        truth(matches!(a[0], Value::Boolean(_)))
    }),
    is("IS_STR", "is it text?", |a, _| truth(matches!(a[0], Value::String(_)))),
    is("IS_MAP", "is it a JSON object?", |a, _| {
        truth(matches!(&a[0], Value::Json(text) if text.starts_with('{')))
    }),
    Function {
        aliases: &["IS_ARR"],
        ..is("IS_ARRAY", "is it an array?", |a, _| {
            truth(match &a[0] {
                Value::Array(_) => true,
                Value::Json(text) => text.starts_with('['),
                _ => false,
            })
        })
    },
    is("IS_DATE", "is it a DATE?", |a, _| truth(matches!(a[0], Value::Date(_)))),
    is("IS_TIME", "is it a TIME or TIMESTAMP?", |a, _| {
        truth(matches!(a[0], Value::Time(_) | Value::Timestamp(_)))
    }),
    Function {
        sees_null: true,
        ..scalar(
            "TYPEOF",
            &[Parameter::Any],
            Returns::String,
            "the name of its type",
            |arguments, _| {
                Ok(Value::String(match &arguments[0] {
                    Value::Null => "NULL".into(),
                    Value::Array(_) => "ARRAY".into(),
                    value => value.data_type().to_string().into(),
                }))
            },
        )
    },
];

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn each_value_is_of_its_kind_and_null_of_none() {
        let is = |name, value| call(name, &[value]) == Ok(Value::Boolean(true));
        assert!(is("IS_INT", Value::Integer(1)) && !is("IS_INT", Value::Float(1.0)));
        assert!(is("IS_NUM", Value::Float(1.0)) && !is("IS_NUM", Value::Null));
        assert!(is("IS_MAP", Value::Json("{}".into())) && !is("IS_MAP", Value::Json("[]".into())));
        assert!(is("IS_ARR", Value::Json("[]".into())) && is("IS_ARRAY", Value::Array([].into())));
        assert!(is("IS_TIME", Value::Timestamp(0)) && is("IS_DATE", Value::Date(0)));
        assert_eq!(call("TYPEOF", &[Value::Float(1.0)]), Ok(Value::String("FLOAT".into())));
        assert_eq!(call("TYPEOF", &[Value::Null]), Ok(Value::String("NULL".into())));
    }
}
