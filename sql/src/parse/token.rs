//! Text to tokens. Each token knows its span; keywords are words until a parser asks for one, because most of them are
//! also good names (`timestamp`, `value`, `key`, `date`).

use std::borrow::Cow;

use crate::error::{SqlError, codes};
use crate::span::Span;

/// Words with a meaning somewhere in the grammar, in upper case, in order.
#[rustfmt::skip]
pub const KEYWORDS: &[&str] = &[
    "ADVANCE", "ALL", "ANALYZE", "AND", "ARRAY", "AS", "ASC", "BEGINNING", "BETWEEN", "BY", "CASE", "CAST", "CHANGES", "CLIENTS",
    "CONNECTOR", "CONNECTORS", "CREATE", "CROSS", "DATE", "DESC", "DESCRIBE", "DISTINCT", "DIV", "DOT", "DROP", "ELSE", "EMIT",
    "END", "ESCAPE", "EXIST", "EXISTS", "EXPLAIN", "FALSE", "FILTER", "FINAL", "FORCE", "FORMAT", "FROM", "FULL",
    "FUNCTION", "FUNCTIONS", "GRACE", "GROUP", "HAVING", "HOP", "HOPPING", "IF", "IN", "INNER", "INSERT", "INTERVAL",
    "INTO", "IS", "JOIN", "JSON", "KEY", "LEFT", "LIKE", "LIMIT", "MATERIALIZED", "NODES", "NOT", "NULL", "OF", "OFFSET", "ON",
    "OR", "ORDER", "OUTER", "OVER", "PARTITION", "PAUSE", "PERIODIC", "PRIMARY", "QUERIES", "QUERY", "RESUME", "RIGHT", "SCHEMA", "SCHEMAS", "SELECT",
    "SESSION", "SET", "SHOW", "SILENCE", "SINK", "SOURCE", "STREAM", "STREAMS", "SYMMETRIC", "TABLE", "TABLES",
    "TERMINATE", "TEXT", "THEN", "TIME", "TIMESTAMP", "TO", "TOPIC", "TOPICS", "TRIM", "TRUE", "TUMBLE", "TUMBLING", "UNION", "UNNEST", "USING", "VALUES",
    "VIEW", "VIEWS", "WATERMARK", "WHEN", "WHERE", "WITH", "WITHIN",
];

/// The keywords that cannot be a name without quotes: those that begin or join clauses and expressions.
#[rustfmt::skip]
pub const RESERVED: &[&str] = &[
    "AND", "AS", "BETWEEN", "BY", "CASE", "CROSS", "DISTINCT", "DIV", "ELSE", "EMIT", "END", "FALSE", "FROM", "FULL",
    "GROUP", "HAVING", "IN", "INNER", "IS", "JOIN", "LEFT", "LIKE", "LIMIT", "NOT", "NULL", "ON", "OR", "ORDER",
    "RIGHT", "SELECT", "THEN", "TRUE", "UNION", "USING", "VALUES", "WHEN", "WHERE", "WITH", "WITHIN",
];

/// Longest first, so that `->>` is not read as `->` and `>`.
const SYMBOLS: &[&str] = &[
    "->>", "#>>", "->", "#>", "::", "||", "<=", ">=", "<>", "!=", "(", ")", "[", "]", "{", "}", ",", ";", ".", "+",
    "-", "*", "/", "%", "=", "<", ">", ":",
];

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain word; with its upper-case form when it is a keyword.
    Word(Option<&'static str>),
    /// `"…"`: a name, or a string where the grammar says so.
    DoubleQuoted,
    /// `` `…` ``: a name.
    BackQuoted,
    /// `'…'`
    Text,
    /// Digits, with a fraction and an exponent perhaps. Unsigned.
    Number,
    /// One of [`SYMBOLS`].
    Symbol(&'static str),
    /// After the last token.
    End,
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As it was written, quotes included.
    pub text: &'a str,
    /// Where.
    pub span: Span,
}

impl<'a> Token<'a> {
    /// The text between the quotes, with doubled quotes made single.
    pub fn unquoted(&self) -> Cow<'a, str> {
        let quote = match self.kind {
            Kind::DoubleQuoted => "\"",
            Kind::BackQuoted => "`",
            Kind::Text => "'",
            _ => return Cow::Borrowed(self.text),
        };
        let inner = &self.text[1..self.text.len() - 1];
        if inner.contains(quote) {
            Cow::Owned(inner.replace(&quote.repeat(2), quote))
        } else {
            Cow::Borrowed(inner)
        }
    }
}

/// All tokens of `source`, then one [`Kind::End`] that stands right after the last.
pub fn tokenize(source: &str) -> Result<Vec<Token<'_>>, SqlError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(source, at)?;
        let Some(first) = source[at..].chars().next() else {
            break;
        };
        let (kind, length) = match first {
            '\'' => (Kind::Text, quoted(source, at, "string")?),
            '"' => (Kind::DoubleQuoted, quoted(source, at, "quoted text")?),
            '`' => (Kind::BackQuoted, quoted(source, at, "quoted name")?),
            c if begins_word(c) => {
                let length = source[at..].find(|c| !continues_word(c)).unwrap_or(source.len() - at);
                (Kind::Word(keyword(&source[at..at + length])), length)
            }
            c if c.is_ascii_digit() || (c == '.' && next_is_digit(source, at + 1)) => {
                (Kind::Number, number(source, at)?)
            }
            c => match SYMBOLS.iter().find(|symbol| source[at..].starts_with(**symbol)) {
                Some(symbol) => (Kind::Symbol(symbol), symbol.len()),
                None => return Err(bad_character(c, Span::new(at, at + c.len_utf8()))),
            },
        };
        tokens.push(Token {
            kind,
            text: &source[at..at + length],
            span: Span::new(at, at + length),
        });
        at += length;
    }
    let end = tokens.last().map_or(0, |token| token.span.end);
    tokens.push(Token {
        kind: Kind::End,
        text: "",
        span: Span::new(end, end),
    });
    Ok(tokens)
}

fn bad_character(c: char, span: Span) -> SqlError {
    let help = match c {
        '‘' | '’' | '“' | '”' => Some("write strings with straight quotes: 'text'"),
        '&' => Some("write AND"),
        '|' => Some("write OR; `||` joins strings"),
        '!' => Some("write NOT, or `<>` for \"not equal\""),
        _ => None,
    };
    SqlError::new(
        codes::BAD_CHARACTER,
        format!("the character `{}` has no meaning here", c.escape_debug()),
    )
    .at(span)
    .help_if(help)
}

/// Whether `name` can stand without quotes.
pub fn is_plain_name(name: &str) -> bool {
    name.chars().next().is_some_and(begins_word)
        && name.chars().all(continues_word)
        && keyword(name).is_none_or(|keyword| !RESERVED.contains(&keyword))
}

fn begins_word(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

/// `$` continues a word for the names that Headwater gives itself, as in `q$errors`.
fn continues_word(c: char) -> bool {
    c == '_' || c == '$' || c.is_alphanumeric()
}

fn next_is_digit(source: &str, at: usize) -> bool {
    source.as_bytes().get(at).is_some_and(u8::is_ascii_digit)
}

fn keyword(word: &str) -> Option<&'static str> {
    let upper = word.to_ascii_uppercase();
    KEYWORDS.binary_search(&upper.as_str()).ok().map(|at| KEYWORDS[at])
}

/// The first byte at or after `at` that is neither white space nor inside a comment.
fn skip_blank(source: &str, mut at: usize) -> Result<usize, SqlError> {
    loop {
        let rest = &source[at..];
        let length = if rest.starts_with("--") || rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2).ok_or_else(|| {
                SqlError::new(codes::UNTERMINATED, "this comment is not closed")
                    .at(Span::new(at, at + 2))
                    .help("close it with `*/`")
            })?
        } else {
            // A byte order mark in front of a file is blank too.
            rest.find(|c: char| !c.is_whitespace() && c != '\u{feff}')
                .unwrap_or(rest.len())
        };
        if length == 0 {
            return Ok(at);
        }
        at += length;
    }
}

/// The length of the quoted text at `at`; a doubled quote stands for one.
fn quoted(source: &str, at: usize, what: &str) -> Result<usize, SqlError> {
    let bytes = source.as_bytes();
    let quote = bytes[at];
    let mut end = at + 1;
    loop {
        match bytes.get(end) {
            Some(byte) if *byte == quote && bytes.get(end + 1) == Some(&quote) => end += 2,
            Some(byte) if *byte == quote => return Ok(end + 1 - at),
            Some(_) => end += 1,
            None => {
                let line_end = source[at..].find('\n').map_or(source.len(), |length| at + length);
                return Err(SqlError::new(codes::UNTERMINATED, format!("this {what} is not closed"))
                    .at(Span::new(at, line_end))
                    .help(format!(
                        "close it with `{0}`; a `{0}` inside it is written twice",
                        char::from(quote)
                    )));
            }
        }
    }
}

/// The length of the number at `at`. Its spelling is kept: what `9001.0` says is decided later.
fn number(source: &str, at: usize) -> Result<usize, SqlError> {
    let bytes = source.as_bytes();
    let digits = |mut end: usize| {
        while bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        end
    };
    let mut end = digits(at);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if next_is_digit(source, end + 1 + sign) {
            end = digits(end + 1 + sign);
        }
    }
    let word = source[end..].find(|c| !continues_word(c)).unwrap_or(source.len() - end);
    if word > 0 {
        let text = &source[at..end + word];
        return Err(SqlError::new(codes::BAD_LITERAL, format!("`{text}` is not a number"))
            .at(Span::new(at, end + word))
            .help("a name that begins with a digit needs quotes, as in `\"1st\"`; a number and a word need a space between them"));
    }
    Ok(end - at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tables_are_sorted_and_consistent() {
        assert!(KEYWORDS.is_sorted());
        assert!(RESERVED.iter().all(|word| KEYWORDS.contains(word)));
        assert!(SYMBOLS.is_sorted_by_key(|symbol| std::cmp::Reverse(symbol.len())));
    }

    #[test]
    fn quotes_inside_quotes_are_doubled() {
        let tokens = tokenize(r#"'it''s' "a""b" `c``d`"#).unwrap();
        let texts: Vec<_> = tokens.iter().map(|token| token.unquoted().into_owned()).collect();
        assert_eq!(texts, ["it's", "a\"b", "c`d", ""]);
    }

    #[test]
    fn numbers_keep_their_spelling() {
        let tokens = tokenize("9001.0 .5 1e3 2.50E-7 7.").unwrap();
        let texts: Vec<_> = tokens
            .iter()
            .filter(|token| token.kind == Kind::Number)
            .map(|token| token.text)
            .collect();
        assert_eq!(texts, ["9001.0", ".5", "1e3", "2.50E-7", "7."]);
    }

    proptest! {
        #[test]
        fn spans_lie_in_the_text_and_in_order(source in ".{0,200}") {
            match tokenize(&source) {
                Ok(tokens) => {
                    let mut end = 0;
                    for token in &tokens {
                        prop_assert!(token.span.start >= end);
                        prop_assert_eq!(token.span.of(&source), token.text);
                        end = token.span.end;
                    }
                }
                Err(error) => {
                    let span = error.span.unwrap();
                    prop_assert!(source.get(span.start..span.end).is_some());
                }
            }
        }
    }
}
