//! Functions of anything.

use super::{Function, Parameter, Returns, scalar};
use crate::value::Value;

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "COALESCE",
        aliases: &[],
        parameters: &[Parameter::Any],
        optional: 0,
        variadic: true,
        returns: Returns::Common,
        sees_null: true,
        about: "the first of its arguments that is not NULL",
        eval: |arguments, _| Ok(first_known(arguments)),
    },
    Function {
        name: "IFNULL",
        aliases: &["NVL"],
        parameters: &[Parameter::Any, Parameter::Any],
        optional: 0,
        variadic: false,
        returns: Returns::Common,
        sees_null: true,
        about: "the first, or the second where that is NULL",
        eval: |arguments, _| Ok(first_known(arguments)),
    },
    Function {
        name: "NULLIF",
        aliases: &[],
        parameters: &[Parameter::Any, Parameter::Any],
        optional: 0,
        variadic: false,
        returns: Returns::Argument(0),
        sees_null: true,
        about: "the first, or NULL where both are equal",
        eval: |arguments, _| {
            let equal = arguments[0]
                .compare(&arguments[1])
                .is_some_and(std::cmp::Ordering::is_eq);
            Ok(if equal { Value::Null } else { arguments[0].clone() })
        },
    },
    Function {
        name: "GREATEST",
        aliases: &[],
        parameters: &[Parameter::Any],
        optional: 0,
        variadic: true,
        returns: Returns::Common,
        sees_null: false,
        about: "the largest of its arguments",
        eval: |arguments, _| Ok(extreme(arguments, std::cmp::Ordering::is_gt)),
    },
    Function {
        name: "LEAST",
        aliases: &[],
        parameters: &[Parameter::Any],
        optional: 0,
        variadic: true,
        returns: Returns::Common,
        sees_null: false,
        about: "the smallest of its arguments",
        eval: |arguments, _| Ok(extreme(arguments, std::cmp::Ordering::is_lt)),
    },
    Function {
        aliases: &["IIF"],
        sees_null: true,
        ..scalar(
            "IF",
            &[Parameter::Any, Parameter::Any, Parameter::Any],
            Returns::Any,
            "the second where the first is TRUE, else the third",
            |arguments, _| {
                // What is no BOOLEAN is not TRUE, as for CASE.
                let is_true = arguments[0].as_boolean() == Some(true);
                Ok(arguments[if is_true { 1 } else { 2 }].clone())
            },
        )
    },
];

fn first_known(values: &[Value]) -> Value {
    values
        .iter()
        .find(|value| !value.is_null())
        .cloned()
        .unwrap_or(Value::Null)
}

/// NULL when two do not compare.
fn extreme(values: &[Value], better: fn(std::cmp::Ordering) -> bool) -> Value {
    let Some((first, rest)) = values.split_first() else {
        return Value::Null;
    };
    let mut best = first;
    for value in rest {
        match value.compare(best) {
            None => return Value::Null,
            Some(order) if better(order) => best = value,
            Some(_) => {}
        }
    }
    best.clone()
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn nulls_are_seen_where_they_are_the_point() {
        let (one, two) = (Value::Integer(1), Value::Integer(2));
        assert_eq!(
            call("COALESCE", &[Value::Null, one.clone(), two.clone()]),
            Ok(one.clone())
        );
        assert_eq!(call("COALESCE", &[Value::Null]), Ok(Value::Null));
        assert_eq!(call("IFNULL", &[Value::Null, two.clone()]), Ok(two.clone()));
        assert_eq!(call("NULLIF", &[one.clone(), Value::Float(1.0)]), Ok(Value::Null));
        assert_eq!(
            call("NULLIF", &[one.clone(), Value::String("1".into())]),
            Ok(one.clone())
        );
        assert_eq!(
            call("GREATEST", &[one.clone(), Value::Float(1.5)]),
            Ok(Value::Float(1.5))
        );
        assert_eq!(call("LEAST", &[one.clone(), Value::Null]), Ok(Value::Null));
        assert_eq!(call("LEAST", &[two, one.clone()]), Ok(one));
    }
}
