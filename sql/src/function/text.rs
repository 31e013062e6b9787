//! Functions of text. Positions count characters, from 1.

use super::{Function, Parameter, Returns, Scope};
use crate::value::{Fault, Value};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "TO_LOWER",
        aliases: &["LOWER"],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "in lower case",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::String(text.to_lowercase().into())),
    },
    Function {
        name: "TO_UPPER",
        aliases: &["UPPER"],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "in upper case",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::String(text.to_uppercase().into())),
    },
    Function {
        name: "TRIM",
        aliases: &[],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "without white space at both ends",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::String(text.trim().into())),
    },
    Function {
        name: "LEFT_TRIM",
        aliases: &["LTRIM"],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "without white space at its beginning",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::String(text.trim_start().into())),
    },
    Function {
        name: "RIGHT_TRIM",
        aliases: &["RTRIM"],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "without white space at its end",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::String(text.trim_end().into())),
    },
    Function {
        name: "REVERSE",
        aliases: &[],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "its characters from last to first",
        eval: |arguments, _| {
            text(&arguments[0]).map(|text| Value::String(text.chars().rev().collect::<String>().into()))
        },
    },
    Function {
        name: "STRLEN",
        aliases: &["LENGTH", "CHAR_LENGTH"],
        parameters: &[Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::Integer,
        sees_null: false,
        about: "how many characters it has",
        eval: |arguments, _| text(&arguments[0]).map(|text| Value::Integer(text.chars().count() as i64)),
    },
    Function {
        name: "SUBSTRING",
        aliases: &["SUBSTR"],
        parameters: &[Parameter::String, Parameter::Integer, Parameter::Integer],
        optional: 1,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "from a character (1 is the first), at most so many",
        eval: substring,
    },
    Function {
        name: "REPLACE",
        aliases: &[],
        parameters: &[Parameter::String, Parameter::String, Parameter::String],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "with each occurrence of the second replaced by the third",
        eval: |arguments, _| {
            let (from, to) = (text(&arguments[1])?, text(&arguments[2])?);
            let replaced = if from.is_empty() {
                text(&arguments[0])?.to_owned()
            } else {
                text(&arguments[0])?.replace(from, to)
            };
            Ok(Value::String(replaced.into()))
        },
    },
    Function {
        name: "CONCAT",
        aliases: &[],
        parameters: &[Parameter::Any],
        optional: 0,
        variadic: true,
        returns: Returns::String,
        sees_null: true,
        about: "the texts of its arguments in a row, NULLs left out",
        eval: |arguments, _| {
            let mut all = String::new();
            arguments
                .iter()
                .filter_map(Value::to_text)
                .for_each(|text| all.push_str(&text));
            Ok(Value::String(all.into()))
        },
    },
    Function {
        name: "TO_STR",
        aliases: &["TO_STRING"],
        parameters: &[Parameter::Any],
        optional: 0,
        variadic: false,
        returns: Returns::String,
        sees_null: false,
        about: "as text",
        eval: |arguments, _| Ok(arguments[0].to_text().map_or(Value::Null, Value::String)),
    },
];

fn text(value: &Value) -> Result<&str, Fault> {
    value.as_str().ok_or(Fault::WrongType)
}

/// As SQL has it: a start before the first character counts into the length.
fn substring(arguments: &[Value], _: &Scope) -> Result<Value, Fault> {
    let number = |value: &Value| match value {
        Value::Integer(number) => Ok(*number),
        _ => Err(Fault::WrongType),
    };
    let text = text(&arguments[0])?;
    let start = number(&arguments[1])?;
    let end = match arguments.get(2) {
        None => i64::MAX,
        Some(length) => {
            let length = number(length)?;
            if length < 0 {
                return Err(Fault::OutOfRange);
            }
            start.saturating_add(length)
        }
    };
    let skip = usize::try_from(start.saturating_sub(1)).unwrap_or(0);
    let take = usize::try_from(end.saturating_sub(start.max(1))).unwrap_or(0);
    Ok(Value::String(
        text.chars().skip(skip).take(take).collect::<String>().into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn text_counts_characters_from_one() {
        let cut = |start, length| {
            call(
                "SUBSTRING",
                &[string("héllo"), Value::Integer(start), Value::Integer(length)],
            )
        };
        assert_eq!(cut(2, 3), Ok(string("éll")));
        assert_eq!(cut(0, 3), Ok(string("hé")));
        assert_eq!(cut(-5, 3), Ok(string("")));
        assert_eq!(cut(4, 100), Ok(string("lo")));
        assert_eq!(cut(1, -1), Err(Fault::OutOfRange));
        assert_eq!(call("SUBSTR", &[string("héllo"), Value::Integer(3)]), Ok(string("llo")));
        assert_eq!(call("LENGTH", &[string("héllo")]), Ok(Value::Integer(5)));
        assert_eq!(call("LENGTH", &[Value::Integer(5)]), Err(Fault::WrongType));
        assert_eq!(
            call("REPLACE", &[string("aaa"), string(""), string("b")]),
            Ok(string("aaa"))
        );
    }

    #[test]
    fn concat_takes_anything_and_leaves_nulls_out() {
        let all = [string("a"), Value::Null, Value::Integer(1), Value::Float(2.0)];
        assert_eq!(call("CONCAT", &all), Ok(string("a12.0")));
        assert_eq!(call("TO_STR", &[Value::Boolean(true)]), Ok(string("true")));
        assert_eq!(call("LOWER", &[Value::Null]), Ok(Value::Null));
    }
}
