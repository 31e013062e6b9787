//! WITH (NAME = value, …): each option is taken once, by name, and what is left over is unknown.

use crate::ast::{Expr, ExprKind, Name, Text, WithOption};
use crate::error::{SqlError, codes};
use crate::parse::{closest, parse_expression};
use crate::span::Span;

/// The options of one statement that were not taken yet.
#[derive(Debug)]
pub struct Options<'a> {
    rest: Vec<&'a WithOption>,
    source: &'a str,
}

/// One option, taken.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// As the user wrote it.
    pub name: &'a Name,
    /// Its value.
    pub value: &'a Expr,
    source: &'a str,
}

impl<'a> Options<'a> {
    /// Checks that each option is among `known` and is given once. `owner` is for people: `a stream`.
    pub fn new(
        options: &'a [WithOption],
        known: &'static [&'static str],
        owner: &str,
        source: &'a str,
    ) -> Result<Options<'a>, SqlError> {
        for (at, option) in options.iter().enumerate() {
            let name = option.name.text.to_ascii_uppercase();
            if !known.contains(&name.as_str()) {
                return Err(SqlError::new(
                    codes::UNKNOWN_OPTION,
                    format!("{owner} has no option `{}`", option.name.text),
                )
                .at(option.name.span)
                .help(match closest(&name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the options are {}", known.join(", ")),
                }));
            }
            if options[..at]
                .iter()
                .any(|earlier| earlier.name.text.eq_ignore_ascii_case(&name))
            {
                return Err(SqlError::new(codes::WRITTEN_TWICE, format!("{name} is given twice")).at(option.name.span));
            }
        }
        Ok(Options {
            rest: options.iter().collect(),
            source,
        })
    }

    /// The option of that name, if it is given; what the owner does not know never is.
    pub fn take(&mut self, name: &str) -> Option<Given<'a>> {
        let at = self
            .rest
            .iter()
            .position(|option| option.name.text.eq_ignore_ascii_case(name))?;
        let option = self.rest.swap_remove(at);
        Some(Given {
            name: &option.name,
            value: &option.value,
            source: self.source,
        })
    }
}

impl<'a> Given<'a> {
    /// The value cannot be what it is.
    pub fn wrong(&self, wanted: impl std::fmt::Display) -> SqlError {
        let name = self.name.text.to_ascii_uppercase();
        SqlError::new(
            codes::BAD_OPTION,
            format!("{name} takes {wanted}, not {}", self.value.span.of(self.source)),
        )
        .at(self.value.span)
    }

    /// A text, or a word without quotes.
    pub fn text(&self) -> Result<Text, SqlError> {
        let text = match &self.value.kind {
            ExprKind::Text(text) => text.clone(),
            ExprKind::Name(name) => name.text.clone(),
            _ => return Err(self.wrong("a string")),
        };
        Ok(Text {
            text,
            span: self.value.span,
        })
    }

    /// One of several words, in any case.
    pub fn word(&self, words: &[&'static str]) -> Result<&'static str, SqlError> {
        let text = self.text().map_err(|_| self.wrong(list(words)))?.text;
        words
            .iter()
            .copied()
            .find(|word| word.eq_ignore_ascii_case(&text))
            .ok_or_else(|| {
                let near = closest(&text, words.iter().copied()).map(|near| format!("did you mean '{near}'?"));
                self.wrong(list(words)).help_if(near)
            })
    }

    /// A whole number in a range.
    pub fn count(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64, SqlError> {
        let text = match &self.value.kind {
            ExprKind::Number(text) | ExprKind::Text(text) => text.as_str(),
            _ => "",
        };
        let count = text.parse().ok().filter(|count| range.contains(count));
        count.ok_or_else(|| self.wrong(format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// TRUE or FALSE.
    pub fn boolean(&self) -> Result<bool, SqlError> {
        match &self.value.kind {
            ExprKind::Bool(truth) => Ok(*truth),
            ExprKind::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            ExprKind::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(self.wrong("TRUE or FALSE")),
        }
    }

    /// A length of time in ms.
    pub fn millis(&self) -> Result<u64, SqlError> {
        let us = match &self.value.kind {
            ExprKind::Interval(interval) => interval.value.fixed_us(),
            _ => None,
        };
        let ms = us.and_then(|us| u64::try_from(us / 1_000).ok());
        ms.ok_or_else(|| {
            self.wrong("an interval of fixed length")
                .help("write it as INTERVAL '10' SECOND")
        })
    }

    /// An expression over the columns: written plainly, or as a string with the expression inside.
    /// The second is its text, the third where errors in it point, when that is not where they are found.
    pub fn expression(&self) -> Result<(Expr, String, Option<Span>), SqlError> {
        match &self.value.kind {
            ExprKind::Text(text) => {
                let span = self.value.span;
                let parsed = parse_expression(text).map_err(|error| error.moved_to(span))?;
                Ok((parsed, text.clone(), Some(span)))
            }
            _ => Ok((self.value.clone(), self.value.span.of(self.source).to_owned(), None)),
        }
    }
}

fn list(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.as_slice() {
        [init @ .., last] if !init.is_empty() => format!("{} or {last}", init.join(", ")),
        _ => quoted.concat(),
    }
}
