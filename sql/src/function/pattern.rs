//! Regular expressions, in the syntax of the regex crate: no look-around, and time that grows with the text alone.
//!
//! A pattern is nearly always a constant, so the last few that were compiled are kept.

use std::cell::RefCell;

use regex::{Regex, RegexBuilder};

use super::{Function, Parameter, Returns, scalar};
use crate::limits::{REGEX_BYTES_MAX, REGEXES_KEPT, TEXT_BYTES_MAX};
use crate::value::{Fault, Value};

const TWO: &[Parameter] = &[Parameter::String, Parameter::String];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        aliases: &["REGEXP_MATCHES", "REGEXP"],
        ..scalar(
            "REGEXP_LIKE",
            TWO,
            Returns::Boolean,
            "does a part of it match?",
            |a, _| {
                let text = text(&a[0])?;
                with(&a[1], |regex| Ok(Value::Boolean(regex.is_match(text))))
            },
        )
    },
    Function {
        aliases: &["REGEXP_SUBSTR"],
        optional: 1,
        ..scalar(
            "REGEXP_EXTRACT",
            &[Parameter::String, Parameter::String, Parameter::Integer],
            Returns::String,
            "the first match, or its group of that number; NULL where there is none",
            |a, _| {
                let (text, group) = (text(&a[0])?, group(a.get(2))?);
                with(&a[1], |regex| {
                    let found = regex.captures(text).and_then(|found| found.get(group));
                    Ok(found.map_or(Value::Null, |found| Value::String(found.as_str().into())))
                })
            },
        )
    },
    Function {
        optional: 1,
        ..scalar(
            "REGEXP_EXTRACT_ALL",
            &[Parameter::String, Parameter::String, Parameter::Integer],
            Returns::Array,
            "all matches, or their groups of that number",
            |a, _| {
                let (text, group) = (text(&a[0])?, group(a.get(2))?);
                with(&a[1], |regex| {
                    let found = regex.captures_iter(text).filter_map(|found| found.get(group));
                    Ok(Value::Array(
                        found.map(|found| Value::String(found.as_str().into())).collect(),
                    ))
                })
            },
        )
    },
    scalar(
        "REGEXP_REPLACE",
        &[Parameter::String, Parameter::String, Parameter::String],
        Returns::String,
        "with each match replaced by the third, in which $1 is the first group",
        |a, _| {
            let (whole, by) = (text(&a[0])?, text(&a[2])?);
            with(&a[1], |regex| {
                let replaced = regex.replace_all(whole, by);
                match replaced.len() {
                    bytes if bytes > TEXT_BYTES_MAX => Err(Fault::TooLarge),
                    _ => Ok(Value::String(replaced.as_ref().into())),
                }
            })
        },
    ),
    scalar("REGEXP_COUNT", TWO, Returns::Integer, "how many matches", |a, _| {
        let text = text(&a[0])?;
        with(&a[1], |regex| Ok(Value::Integer(regex.find_iter(text).count() as i64)))
    }),
];

fn text(value: &Value) -> Result<&str, Fault> {
    value.as_str().ok_or(Fault::WrongType)
}

fn group(value: Option<&Value>) -> Result<usize, Fault> {
    match value {
        None => Ok(0),
        Some(Value::Integer(number)) => usize::try_from(*number).map_err(|_| Fault::OutOfRange),
        Some(_) => Err(Fault::WrongType),
    }
}

thread_local! {
    /// The patterns that were used last, the newest at the end.
    static COMPILED: RefCell<Vec<(String, Regex)>> = const { RefCell::new(Vec::new()) };
}

fn with(pattern: &Value, run: impl FnOnce(&Regex) -> Result<Value, Fault>) -> Result<Value, Fault> {
    let pattern = text(pattern)?;
    let known = COMPILED.with_borrow(|compiled| {
        let found = compiled.iter().rev().find(|(known, _)| known == pattern);
        found.map(|(_, regex)| regex.clone())
    });
    if let Some(regex) = known {
        return run(&regex);
    }
    let regex = RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
    let regex = regex.map_err(|_| Fault::OutOfRange)?;
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() >= REGEXES_KEPT {
            compiled.remove(0);
        }
        compiled.push((pattern.to_owned(), regex.clone()));
    });
    run(&regex)
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn patterns_find_cut_and_replace() {
        let text = |text: &str| Value::String(text.into());
        assert_eq!(
            call("REGEXP_LIKE", &[text("room-17"), text(r"\d+")]),
            Ok(Value::Boolean(true))
        );
        assert_eq!(call("REGEXP_EXTRACT", &[text("room-17"), text(r"\d+")]), Ok(text("17")));
        let group = [text("room-17"), text(r"(\w+)-(\d+)"), Value::Integer(1)];
        assert_eq!(call("REGEXP_EXTRACT", &group), Ok(text("room")));
        assert_eq!(call("REGEXP_EXTRACT", &[text("room"), text(r"\d+")]), Ok(Value::Null));
        let all = call("REGEXP_EXTRACT_ALL", &[text("1 22 3"), text(r"\d+")]);
        assert_eq!(all, Ok(Value::Array(["1", "22", "3"].map(text).into())));
        let swapped = call("REGEXP_REPLACE", &[text("a-b"), text(r"(\w)-(\w)"), text("$2-$1")]);
        assert_eq!(swapped, Ok(text("b-a")));
        assert_eq!(
            call("REGEXP_COUNT", &[text("a1b2"), text(r"\d")]),
            Ok(Value::Integer(2))
        );
        assert_eq!(call("REGEXP_LIKE", &[text("a"), text("(")]), Err(Fault::OutOfRange));
        let huge = call("REGEXP_LIKE", &[text("a"), text(r"((\w{1000}){1000}){1000}")]);
        assert_eq!(huge, Err(Fault::OutOfRange), "its size is limited");
    }

    #[test]
    fn more_patterns_than_are_kept() {
        for number in 0..3 * REGEXES_KEPT {
            let pattern = Value::String(format!("^{number}$").into());
            let found = call("REGEXP_LIKE", &[Value::String(number.to_string().into()), pattern]);
            assert_eq!(found, Ok(Value::Boolean(true)));
        }
    }
}
