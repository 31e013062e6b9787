//! Pieces of text. HStreamDB's functions take the text last (`TAKE(2, s)`), the others first (`LEFT(s, 2)`).

use super::{Function, Parameter, Returns, scalar};
use crate::limits::TEXT_BYTES_MAX;
use crate::value::{Fault, Value};

const COUNT_TEXT: &[Parameter] = &[Parameter::Integer, Parameter::String];
const TEXT_COUNT: &[Parameter] = &[Parameter::String, Parameter::Integer];
const TWO_TEXTS: &[Parameter] = &[Parameter::String, Parameter::String];

pub(super) const FUNCTIONS: &[Function] = &[
    scalar(
        "TAKE",
        COUNT_TEXT,
        Returns::String,
        "its first so many characters",
        |a, _| head(text(&a[1])?, count(&a[0])?),
    ),
    scalar(
        "TAKEEND",
        COUNT_TEXT,
        Returns::String,
        "its last so many characters",
        |a, _| tail(text(&a[1])?, count(&a[0])?),
    ),
    scalar(
        "DROP",
        COUNT_TEXT,
        Returns::String,
        "without its first so many characters",
        |a, _| {
            let (text, count) = (text(&a[1])?, count(&a[0])?);
            tail(text, length(text).saturating_sub(count))
        },
    ),
    scalar(
        "DROPEND",
        COUNT_TEXT,
        Returns::String,
        "without its last so many characters",
        |a, _| {
            let (text, count) = (text(&a[1])?, count(&a[0])?);
            head(text, length(text).saturating_sub(count))
        },
    ),
    scalar(
        "LEFT",
        TEXT_COUNT,
        Returns::String,
        "its first so many characters",
        |a, _| head(text(&a[0])?, count(&a[1])?),
    ),
    scalar(
        "RIGHT",
        TEXT_COUNT,
        Returns::String,
        "its last so many characters",
        |a, _| tail(text(&a[0])?, count(&a[1])?),
    ),
    scalar(
        "SPLIT",
        TWO_TEXTS,
        Returns::Array,
        "the pieces of the second between occurrences of the first",
        |a, _| {
            let (by, whole) = (text(&a[0])?, text(&a[1])?);
            let pieces: Vec<Value> = match by {
                "" => vec![string(whole)],
                by => whole.split(by).map(string).collect(),
            };
            Ok(Value::Array(pieces.into()))
        },
    ),
    scalar(
        "CHUNKSOF",
        COUNT_TEXT,
        Returns::Array,
        "its pieces of so many characters",
        |a, _| {
            let (size, whole) = (count(&a[0])?, text(&a[1])?);
            if size == 0 {
                return Err(Fault::OutOfRange);
            }
            let characters: Vec<char> = whole.chars().collect();
            let chunks = characters.chunks(size);
            Ok(Value::Array(
                chunks.map(|chunk| string(&chunk.iter().collect::<String>())).collect(),
            ))
        },
    ),
    scalar(
        "SPLIT_INDEX",
        &[Parameter::String, Parameter::String, Parameter::Integer],
        Returns::String,
        "the piece of that number, from 0, as Flink counts; NULL where there is none",
        |a, _| piece(text(&a[0])?, text(&a[1])?, &a[2], 0),
    ),
    scalar(
        "SPLIT_PART",
        &[Parameter::String, Parameter::String, Parameter::Integer],
        Returns::String,
        "the piece of that number, from 1, as PostgreSQL counts; NULL where there is none",
        |a, _| piece(text(&a[0])?, text(&a[1])?, &a[2], 1),
    ),
    Function {
        aliases: &["STRPOS"],
        ..scalar(
            "INSTR",
            TWO_TEXTS,
            Returns::Integer,
            "where the second begins in the first, from 1; 0 where it does not",
            |a, _| {
                let (whole, part) = (text(&a[0])?, text(&a[1])?);
                let at = whole.find(part).map_or(0, |at| length(&whole[..at]) as i64 + 1);
                Ok(Value::Integer(at))
            },
        )
    },
    scalar(
        "CONTAINS",
        TWO_TEXTS,
        Returns::Boolean,
        "does it hold the second?",
        |a, _| Ok(Value::Boolean(text(&a[0])?.contains(text(&a[1])?))),
    ),
    scalar(
        "STARTS_WITH",
        TWO_TEXTS,
        Returns::Boolean,
        "does it begin with the second?",
        |a, _| Ok(Value::Boolean(text(&a[0])?.starts_with(text(&a[1])?))),
    ),
    scalar(
        "ENDS_WITH",
        TWO_TEXTS,
        Returns::Boolean,
        "does it end with the second?",
        |a, _| Ok(Value::Boolean(text(&a[0])?.ends_with(text(&a[1])?))),
    ),
    scalar(
        "REPEAT",
        TEXT_COUNT,
        Returns::String,
        "so many times in a row",
        |a, _| {
            let (text, count) = (text(&a[0])?, count(&a[1])?);
            match text.len().saturating_mul(count) {
                bytes if bytes > TEXT_BYTES_MAX => Err(Fault::TooLarge),
                _ => Ok(string(&text.repeat(count))),
            }
        },
    ),
    Function {
        optional: 1,
        ..scalar(
            "LPAD",
            &[Parameter::String, Parameter::Integer, Parameter::String],
            Returns::String,
            "so many characters long, filled up or cut, at its beginning with the third (a space)",
            |a, _| {
                let (text, fill) = padding(a)?;
                Ok(string(&format!("{fill}{text}")))
            },
        )
    },
    Function {
        optional: 1,
        ..scalar(
            "RPAD",
            &[Parameter::String, Parameter::Integer, Parameter::String],
            Returns::String,
            "as LPAD, at its end",
            |a, _| {
                let (text, fill) = padding(a)?;
                Ok(string(&format!("{text}{fill}")))
            },
        )
    },
    Function {
        variadic: true,
        sees_null: true,
        ..scalar(
            "CONCAT_WS",
            &[Parameter::String, Parameter::Any],
            Returns::String,
            "the texts behind the first in a row with the first between them, NULLs left out",
            |a, _| {
                if a[0].is_null() {
                    return Ok(Value::Null);
                }
                let texts: Vec<_> = a[1..].iter().filter_map(Value::to_text).collect();
                Ok(string(&texts.join(text(&a[0])?)))
            },
        )
    },
];

fn text(value: &Value) -> Result<&str, Fault> {
    value.as_str().ok_or(Fault::WrongType)
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Less than none is none, as HStreamDB has it.
fn count(value: &Value) -> Result<usize, Fault> {
    match value {
        Value::Integer(number) => Ok(usize::try_from(*number).unwrap_or(0)),
        _ => Err(Fault::WrongType),
    }
}

fn head(text: &str, count: usize) -> Result<Value, Fault> {
    let end = text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    Ok(string(&text[..end]))
}

fn tail(text: &str, count: usize) -> Result<Value, Fault> {
    let begin = match count.checked_sub(1) {
        Some(last) => text.char_indices().rev().nth(last).map_or(0, |(at, _)| at),
        None => text.len(),
    };
    Ok(string(&text[begin..]))
}

fn piece(whole: &str, by: &str, number: &Value, first: i64) -> Result<Value, Fault> {
    let Value::Integer(number) = number else {
        return Err(Fault::WrongType);
    };
    let Some(at) = number.checked_sub(first).and_then(|at| usize::try_from(at).ok()) else {
        return Ok(Value::Null);
    };
    let found = if by.is_empty() {
        Some(whole).filter(|_| at == 0)
    } else {
        whole.split(by).nth(at)
    };
    Ok(found.map_or(Value::Null, string))
}

/// The text, cut if it is too long, and what fills it up.
fn padding(arguments: &[Value]) -> Result<(&str, String), Fault> {
    let (whole, wanted) = (text(&arguments[0])?, count(&arguments[1])?);
    if wanted > TEXT_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    let with = arguments.get(2).map_or(Ok(" "), text)?;
    let end = whole.char_indices().nth(wanted).map_or(whole.len(), |(at, _)| at);
    let fill = with.chars().cycle().take(wanted.saturating_sub(length(whole)));
    Ok((
        &whole[..end],
        if with.is_empty() { String::new() } else { fill.collect() },
    ))
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
    fn pieces_count_characters() {
        let (text, int) = (|text: &str| Value::String(text.into()), Value::Integer);
        assert_eq!(shown("TAKE", &[int(2), text("héllo")]), "\"hé\"");
        assert_eq!(shown("TAKEEND", &[int(2), text("héllo")]), "\"lo\"");
        assert_eq!(shown("TAKEEND", &[int(0), text("héllo")]), "\"\"");
        assert_eq!(shown("DROP", &[int(2), text("héllo")]), "\"llo\"");
        assert_eq!(shown("DROP", &[int(9), text("héllo")]), "\"\"");
        assert_eq!(shown("DROPEND", &[int(4), text("héllo")]), "\"h\"");
        assert_eq!(shown("TAKE", &[int(-1), text("héllo")]), "\"\"");
        assert_eq!(shown("LEFT", &[text("héllo"), int(2)]), "\"hé\"");
        assert_eq!(shown("RIGHT", &[text("héllo"), int(9)]), "\"héllo\"");
        assert_eq!(shown("SPLIT", &[text("/"), text("a/b//c")]), r#"["a","b","","c"]"#);
        assert_eq!(shown("CHUNKSOF", &[int(2), text("héllo")]), r#"["hé","ll","o"]"#);
        assert_eq!(call("CHUNKSOF", &[int(0), text("a")]), Err(Fault::OutOfRange));
        assert_eq!(shown("SPLIT_INDEX", &[text("a,b"), text(","), int(1)]), "\"b\"");
        assert_eq!(shown("SPLIT_PART", &[text("a,b"), text(","), int(1)]), "\"a\"");
        assert_eq!(shown("SPLIT_INDEX", &[text("a,b"), text(","), int(-1)]), "null");
        assert_eq!(shown("INSTR", &[text("héllo"), text("l")]), "3");
        assert_eq!(shown("LPAD", &[text("7"), int(3), text("0")]), "\"007\"");
        assert_eq!(shown("RPAD", &[text("abc"), int(2)]), "\"ab\"");
        assert_eq!(
            shown("CONCAT_WS", &[text("-"), int(1), Value::Null, text("b")]),
            "\"1-b\""
        );
        assert_eq!(call("REPEAT", &[text("ab"), int(i64::MAX)]), Err(Fault::TooLarge));
    }
}
