//! Functions of JSON documents. A field of an open stream, a JSONB column and a text that holds JSON are the same here.

use bytestring::ByteString;

use super::{Function, Parameter, Returns, scalar};
use crate::json;
use crate::plan::physical::PathStep;
use crate::value::{Fault, Value, write_json_string};

const AT_PATH: &[Parameter] = &[Parameter::Any, Parameter::String];

pub(super) const FUNCTIONS: &[Function] = &[
    scalar(
        "JSON_VALUE",
        AT_PATH,
        Returns::String,
        "the scalar at a path such as '$.a.b[0]', as text",
        |a, _| {
            Ok(match at(&a[0], &a[1])? {
                Value::Json(_) => Value::Null,
                found => found.to_text().map_or(Value::Null, Value::String),
            })
        },
    ),
    scalar(
        "JSON_QUERY",
        AT_PATH,
        Returns::Any,
        "the object or array at a path",
        |a, _| {
            Ok(match at(&a[0], &a[1])? {
                found @ Value::Json(_) => found,
                _ => Value::Null,
            })
        },
    ),
    scalar(
        "JSON_EXISTS",
        AT_PATH,
        Returns::Boolean,
        "is there something at a path?",
        |a, _| Ok(Value::Boolean(json::leads_somewhere(&document(&a[0])?, &way(&a[1])?))),
    ),
    Function {
        variadic: true,
        sees_null: true,
        ..scalar(
            "JSON_OBJECT",
            &[Parameter::String, Parameter::Any],
            Returns::Jsonb,
            "an object of names and values in turn; NULL where a name is",
            |a, _| {
                if !a.len().is_multiple_of(2) {
                    return Err(Fault::OutOfRange);
                }
                if a.chunks_exact(2).any(|pair| pair[0].is_null()) {
                    return Ok(Value::Null);
                }
                let mut out = String::from("{");
                for pair in a.chunks_exact(2) {
                    if out.len() > 1 {
                        out.push(',');
                    }
                    write_json_string(pair[0].as_str().ok_or(Fault::WrongType)?, &mut out);
                    out.push(':');
                    pair[1].write_json(&mut out);
                }
                out.push('}');
                Ok(Value::Json(out.into()))
            },
        )
    },
    Function {
        variadic: true,
        sees_null: true,
        ..scalar(
            "JSON_ARRAY",
            &[Parameter::Any],
            Returns::Jsonb,
            "an array of its arguments",
            |a, _| {
                let mut out = String::new();
                Value::Array(a.into()).write_json(&mut out);
                Ok(Value::Json(out.into()))
            },
        )
    },
    scalar(
        "JSON_KEYS",
        &[Parameter::Any],
        Returns::Array,
        "the names of an object's members",
        |a, _| {
            let text = document(&a[0])?;
            let members = json::members(&text).ok_or(Fault::WrongType)?;
            Ok(Value::Array(
                members
                    .iter()
                    .map(|(name, _)| Value::String(name.as_ref().into()))
                    .collect(),
            ))
        },
    ),
    scalar(
        "JSON_LENGTH",
        &[Parameter::Any],
        Returns::Integer,
        "how many members or elements",
        |a, _| {
            let text = document(&a[0])?;
            let members = json::members(&text).map(|members| members.len());
            let count = members.or_else(|| json::elements(&text).map(|elements| elements.len()));
            count.map(|count| Value::Integer(count as i64)).ok_or(Fault::WrongType)
        },
    ),
    scalar(
        "PARSE_JSON",
        &[Parameter::String],
        Returns::Any,
        "the value of a JSON text",
        |a, _| json::parse(a[0].as_str().ok_or(Fault::WrongType)?).ok_or(Fault::BadCast),
    ),
    Function {
        sees_null: true,
        ..scalar("TO_JSON", &[Parameter::Any], Returns::String, "as JSON text", |a, _| {
            let mut out = String::new();
            a[0].write_json(&mut out);
            Ok(Value::String(out.into()))
        })
    },
];

fn document(value: &Value) -> Result<ByteString, Fault> {
    match value {
        Value::Json(text) | Value::String(text) => Ok(text.clone()),
        Value::Array(_) => {
            let mut out = String::new();
            value.write_json(&mut out);
            Ok(out.into())
        }
        _ => Err(Fault::WrongType),
    }
}

fn at(value: &Value, path: &Value) -> Result<Value, Fault> {
    let steps = way(path)?;
    Ok(json::step_into(&document(value)?, &steps))
}

fn way(path: &Value) -> Result<Vec<PathStep>, Fault> {
    steps(path.as_str().ok_or(Fault::WrongType)?).ok_or(Fault::OutOfRange)
}

/// `$.a['b'][0]`, in which `$` and the first point may be left out.
fn steps(way: &str) -> Option<Vec<PathStep>> {
    let mut rest = way.trim();
    rest = rest.strip_prefix('$').unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (step, behind) = inside.split_once(']')?;
            let quoted = |quote| step.strip_prefix(quote).and_then(|step| step.strip_suffix(quote));
            steps.push(match quoted('\'').or_else(|| quoted('"')) {
                Some(name) => PathStep::Member(name.to_owned()),
                None => PathStep::Index(step.trim().parse().ok()?),
            });
            rest = behind;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end == 0 {
            return None;
        }
        steps.push(PathStep::Member(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn paths_lead_into_documents() {
        let json = Value::Json(r#"{"a":{"b c":[1,{"d":"x"}]},"e":null}"#.into());
        let text = |text: &str| Value::String(text.into());
        let shown = |name: &str, path: &str| {
            let mut out = String::new();
            call(name, &[json.clone(), text(path)]).unwrap().write_json(&mut out);
            out
        };
        assert_eq!(shown("JSON_VALUE", "$.a['b c'][1].d"), "\"x\"");
        assert_eq!(shown("JSON_VALUE", "a[\"b c\"][0]"), "\"1\"");
        assert_eq!(shown("JSON_VALUE", "$.a"), "null");
        assert_eq!(shown("JSON_QUERY", "$.a['b c'][-1]"), r#"{"d":"x"}"#);
        assert_eq!(shown("JSON_QUERY", "$.e"), "null");
        assert_eq!(shown("JSON_EXISTS", "$.a"), "true");
        assert_eq!(shown("JSON_EXISTS", "$.a.z"), "false");
        let null = call("JSON_EXISTS", &[text(r#"{"a":null}"#), text("$.a")]);
        assert_eq!(null, Ok(Value::Boolean(true)), "null is something");
        assert_eq!(call("JSON_VALUE", &[json.clone(), text("$..")]), Err(Fault::OutOfRange));
        assert_eq!(call("JSON_VALUE", &[json, text("$[x]")]), Err(Fault::OutOfRange));
    }

    #[test]
    fn documents_are_made_and_taken_apart() {
        let (text, int) = (|text: &str| Value::String(text.into()), Value::Integer);
        let made = call("JSON_OBJECT", &[text("a"), int(1), text("b\""), Value::Null]).unwrap();
        assert_eq!(made, Value::Json(r#"{"a":1,"b\"":null}"#.into()));
        assert_eq!(
            call("JSON_OBJECT", &[text("a"), int(1), text("b")]),
            Err(Fault::OutOfRange)
        );
        assert_eq!(call("JSON_LENGTH", std::slice::from_ref(&made)), Ok(int(2)));
        assert_eq!(
            call("JSON_KEYS", &[made]),
            Ok(Value::Array([text("a"), text("b\"")].into()))
        );
        assert_eq!(
            call("JSON_ARRAY", &[int(1), text("x")]),
            Ok(Value::Json(r#"[1,"x"]"#.into()))
        );
        assert_eq!(call("PARSE_JSON", &[text("[1]")]), Ok(Value::Json("[1]".into())));
        assert_eq!(call("PARSE_JSON", &[text("[")]), Err(Fault::BadCast));
        assert_eq!(call("TO_JSON", &[text("a")]), Ok(text("\"a\"")));
    }
}
