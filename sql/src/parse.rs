//! Text to statements: [`token`] makes tokens with spans, the parsers below it (nom, over tokens) make the AST.
//!
//! # How an error is found
//! nom tries alternatives and forgets why the others failed. So every parser that refuses a token notes what it wanted
//! there, and only the notes at the furthest token are kept: that is the place people look at, and the notes are the set
//! of what could have stood there. `cut` after the keyword that decides a statement keeps nom from trying the rest.
//! A whole expression, name or operator counts as one thing expected, not as each of its possible beginnings.

mod expression;
mod input;
mod literal;
mod select;
mod statement;
mod suggest;
mod token;

pub use suggest::{closest, did_you_mean};
pub use token::{KEYWORDS, RESERVED, is_plain_name};

use nom::Input;

use crate::ast::{Expr, Statement};
use crate::error::{SqlError, codes};
use crate::limits::SQL_BYTES_MAX;
use input::{Expected, Fault, Furthest, Parsed, State, Tokens};
use token::{Kind, Token, tokenize};

/// Parses several statements, each ended by `;`; the last one may lack it.
///
/// ```
/// let statements = headwater_sql::parse("CREATE STREAM demo WITH (FORMAT = \"JSON\"); SHOW STREAMS;")?;
/// assert_eq!(statements.len(), 2);
/// # Ok::<(), headwater_sql::SqlError>(())
/// ```
pub fn parse(source: &str) -> Result<Vec<Statement>, SqlError> {
    parse_all(source, statements)
}

/// Parses one expression, as it stands in the WITH options of a stored stream.
pub fn parse_expression(source: &str) -> Result<Expr, SqlError> {
    parse_all(source, expression::expression)
}

fn parse_all<T>(source: &str, parser: impl for<'a> Fn(Tokens<'a>) -> Parsed<'a, T>) -> Result<T, SqlError> {
    if source.len() > SQL_BYTES_MAX {
        let message = format!(
            "the text has {} bytes, at most {SQL_BYTES_MAX} are allowed",
            source.len()
        );
        return Err(SqlError::new(codes::TOO_LONG, message));
    }
    let tokens = tokenize(source).map_err(|error| error.locate(source))?;
    let state = State::default();
    match parser(Tokens::new(&tokens, &state)) {
        Ok((rest, parsed)) if rest.first().kind == Kind::End => Ok(parsed),
        Err(nom::Err::Error(Fault::Said(error)) | nom::Err::Failure(Fault::Said(error))) => Err(error.locate(source)),
        Ok(_) | Err(_) => Err(unexpected(&tokens, state.furthest()).locate(source)),
    }
}

fn statements(input: Tokens<'_>) -> Parsed<'_, Vec<Statement>> {
    let mut rest = input;
    let mut statements = Vec::new();
    loop {
        while rest.first().kind == Kind::Symbol(";") {
            rest = rest.take_from(1);
        }
        if rest.first().kind == Kind::End {
            return Ok((rest, statements));
        }
        let statement;
        (rest, statement) = statement::statement(rest)?;
        statements.push(statement);
        if rest.first().kind != Kind::End {
            (rest, _) = input::symbol(";")(rest)?;
        }
    }
}

/// Says what was expected at the furthest place, and what was found there.
fn unexpected(tokens: &[Token<'_>], furthest: Furthest) -> SqlError {
    let at = tokens
        .iter()
        .position(|token| token.span.start >= furthest.at)
        .unwrap_or(tokens.len() - 1);
    let found = &tokens[at];
    let expected = list(&furthest.expected);
    let message = match found.kind {
        Kind::End => format!("expected {expected}, found the end of the text"),
        Kind::Text | Kind::DoubleQuoted => format!("expected {expected}, found {}", shortened(found.text)),
        _ => format!("expected {expected}, found `{}`", shortened(found.text)),
    };
    SqlError::new(codes::UNEXPECTED, message)
        .at(found.span)
        .help_if(help(tokens, at, &furthest.expected))
}

fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    if text.chars().count() <= CHARS_MAX {
        text.to_owned()
    } else {
        text.chars().take(CHARS_MAX).chain(['…']).collect()
    }
}

fn list(expected: &[Expected]) -> String {
    let words: Vec<String> = expected
        .iter()
        .map(|expected| match expected {
            Expected::Keyword(word) => (*word).to_owned(),
            Expected::Symbol(symbol) => format!("`{symbol}`"),
            Expected::Class(class) => (*class).to_owned(),
        })
        .collect();
    match words.as_slice() {
        [] => "something else".to_owned(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

/// What other databases have, and is said otherwise here.
fn otherwise(tokens: &[Token<'_>], at: usize, expected: &[Expected]) -> Option<String> {
    let found = &tokens[at];
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    let could_be = |word| expected.contains(&Expected::Keyword(word));
    let word = match found.kind {
        Kind::Word(_) => found.text.to_ascii_uppercase(),
        _ => String::new(),
    };
    if could_be("DESCRIBE") {
        let help = match word.as_str() {
            "DELETE" | "TRUNCATE" => {
                "records are not deleted one by one: `TRIM STREAM s TO TIMESTAMP '…'` or `TO END` hides the older ones for \
                 good, and the option DURATION says how long they are kept"
            }
            "UPDATE" | "UPSERT" | "MERGE" => {
                "records do not change: INSERT a new one; `CREATE TABLE t FROM STREAM s WITH (KEY = id)` has the latest of \
                 each key"
            }
            "ALTER" => "nothing is altered: `SHOW CREATE s` gives its statement; drop it and make it anew",
            _ => return None,
        };
        return Some(help.to_owned());
    }
    let ends = matches!(found.kind, Kind::End | Kind::Symbol(";" | ")"));
    if ends && could_be("FROM") && expected.contains(&Expected::Symbol(",")) {
        return Some(
            "a SELECT says what it reads: SELECT … FROM s; `SHOW STREAMS;` gives what there is, and `SHOW NODES;` answers \
             without any"
                .to_owned(),
        );
    }
    // Without a LIMIT it was taken for an alias.
    let offset = |token: &Token<'_>| token.kind == Kind::Word(Some("OFFSET"));
    if could_be("EMIT") && (offset(found) || before.is_some_and(offset)) {
        return Some(
            "rows are not skipped by number: say in WHERE behind which row to go on, or begin a stream of one shard with \
             FROM OFFSET n"
                .to_owned(),
        );
    }
    // SHOW QUERY
    let plural = word.strip_suffix('Y').map(|stem| format!("{stem}IES"))?;
    let of_many = |expected: &Expected| matches!(expected, Expected::Keyword(word) if *word == plural);
    expected
        .iter()
        .any(of_many)
        .then(|| format!("did you mean `{plural}`?"))
}

fn help(tokens: &[Token<'_>], at: usize, expected: &[Expected]) -> Option<String> {
    let found = &tokens[at];
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    let wants_name = expected
        .iter()
        .any(|expected| matches!(expected, Expected::Class(class) if class.contains("name")));
    let wants = |what| expected.contains(&Expected::Class(what));
    if let Some(help) = otherwise(tokens, at, expected) {
        return Some(help);
    }
    if let Kind::Word(keyword) = found.kind {
        let keywords = expected.iter().filter_map(|expected| match expected {
            Expected::Keyword(word) => Some(*word),
            _ => None,
        });
        if let Some(help) = did_you_mean(found.text, keywords) {
            return Some(help);
        }
        if wants_name && keyword.is_some_and(|word| RESERVED.contains(&word)) {
            return Some(format!(
                "`{0}` is a keyword; to use it as a name, quote it: `\"{0}\"`",
                found.text
            ));
        }
    }
    if found.kind == Kind::Symbol("=") && before.is_some_and(|token| token.kind == Kind::Symbol("=")) {
        return Some("equality is written with one `=`".to_owned());
    }
    if found.kind == Kind::DoubleQuoted && wants("a string") {
        return Some(format!("strings are written in single quotes: '{}'", found.unquoted()));
    }
    // `FROM s WERE x > 1`: the misspelt keyword was taken for an alias, and the word behind it is what does not fit.
    let before = before.filter(|token| token.kind == Kind::Word(None))?;
    did_you_mean(before.text, RESERVED.iter().copied())
}
