//! Tokens as an input of nom, and what nom does not keep: the furthest place any alternative reached, and everything
//! that could have stood there.

use std::cell::{Cell, RefCell};

use nom::error::{ErrorKind, ParseError};
use nom::{IResult, Input, Needed, Parser};

use crate::ast::{Name, Quote, Text};
use crate::error::SqlError;
use crate::parse::token::{KEYWORDS, Kind, RESERVED, Token};
use crate::span::Span;

/// The rest of the tokens. The last one is always [`Kind::End`], and no parser takes it.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    rest: &'a [Token<'a>],
    before: Span,
    pub state: &'a State,
}

/// What all alternatives of one parse share.
#[derive(Debug, Default)]
pub struct State {
    furthest: RefCell<Furthest>,
    /// Inside `labelled` nothing is noted at this byte: the label is.
    hushed: Cell<Option<usize>>,
    /// Brackets open around the parser.
    pub depth: Cell<usize>,
    /// `"x"` is a string here.
    pub double_quotes_are_text: Cell<bool>,
}

/// The last place where an alternative failed.
#[derive(Debug, Default, Clone)]
pub struct Furthest {
    /// Where the token begins.
    pub at: usize,
    /// What could have stood there, in the order it was tried.
    pub expected: Vec<Expected>,
}

/// Something that could have stood at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A keyword.
    Keyword(&'static str),
    /// A symbol.
    Symbol(&'static str),
    /// `a name`, `an expression`, …
    Class(&'static str),
}

/// Why a parser failed. What was expected is noted in the [`State`], not here.
#[derive(Debug)]
pub enum Fault {
    /// The tokens do not fit.
    Unexpected,
    /// There is more to say than that.
    Said(SqlError),
}

impl<I> ParseError<I> for Fault {
    fn from_error_kind(_: I, _: ErrorKind) -> Self {
        Fault::Unexpected
    }

    fn append(_: I, _: ErrorKind, other: Self) -> Self {
        other
    }
}

pub type Parsed<'a, T> = IResult<Tokens<'a>, T, Fault>;

/// A failure with a message of its own; no other alternative is tried.
pub fn say<T>(error: SqlError) -> Result<T, nom::Err<Fault>> {
    Err(nom::Err::Failure(Fault::Said(error)))
}

impl<'a> Tokens<'a> {
    pub fn new(tokens: &'a [Token<'a>], state: &'a State) -> Tokens<'a> {
        debug_assert!(tokens.last().is_some_and(|token| token.kind == Kind::End));
        Tokens {
            rest: tokens,
            before: Span::default(),
            state,
        }
    }

    /// The token that comes next.
    pub fn first(&self) -> &'a Token<'a> {
        &self.rest[0]
    }

    /// The token after that one.
    pub fn second(&self) -> Option<&'a Token<'a>> {
        self.rest.get(1)
    }

    /// From the beginning of this input to the end of what was taken before `rest`.
    pub fn span_to(&self, rest: Tokens<'a>) -> Span {
        let start = self.first().span.start;
        Span::new(start, rest.before.end.max(start))
    }

    fn unexpected<T>(&self, expected: Expected) -> Parsed<'a, T> {
        self.note(expected);
        Err(nom::Err::Error(Fault::Unexpected))
    }

    /// Notes what could have stood here.
    pub fn note(&self, expected: Expected) {
        let at = self.first().span.start;
        if self.state.hushed.get() == Some(at) {
            return;
        }
        let mut furthest = self.state.furthest.borrow_mut();
        if at > furthest.at {
            *furthest = Furthest {
                at,
                expected: Vec::new(),
            };
        }
        if at == furthest.at && !furthest.expected.contains(&expected) {
            furthest.expected.push(expected);
        }
    }
}

impl State {
    /// The last place where an alternative failed.
    pub fn furthest(&self) -> Furthest {
        self.furthest.borrow().clone()
    }
}

/// Runs `parser` with `"x"` taken for a string or for a name.
pub fn double_quotes_are_text<'a, T>(
    yes: bool,
    mut parser: impl Parser<Tokens<'a>, Output = T, Error = Fault>,
) -> impl FnMut(Tokens<'a>) -> Parsed<'a, T> {
    move |input| {
        let before = input.state.double_quotes_are_text.replace(yes);
        let result = parser.parse(input);
        input.state.double_quotes_are_text.set(before);
        result
    }
}

/// Where `parser` does not even begin to fit, `what` is what was expected, not each of its beginnings.
pub fn labelled<'a, T>(
    what: &'static str,
    mut parser: impl Parser<Tokens<'a>, Output = T, Error = Fault>,
) -> impl FnMut(Tokens<'a>) -> Parsed<'a, T> {
    move |input| {
        let before = input.state.hushed.replace(Some(input.first().span.start));
        let result = parser.parse(input);
        input.state.hushed.set(before);
        if matches!(result, Err(nom::Err::Error(Fault::Unexpected))) {
            input.note(Expected::Class(what));
        }
        result
    }
}

/// One token, if it passes.
pub fn token<'a>(input: Tokens<'a>, expected: Expected, test: impl Fn(&Token<'a>) -> bool) -> Parsed<'a, Token<'a>> {
    let token = input.first();
    if token.kind == Kind::End || !test(token) {
        return input.unexpected(expected);
    }
    Ok((input.take_from(1), *token))
}

/// A keyword, in any case.
pub fn keyword<'a>(word: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Token<'a>> + Copy {
    debug_assert!(KEYWORDS.contains(&word), "{word} is not in the table of keywords");
    move |input| {
        token(input, Expected::Keyword(word), |token| {
            token.kind == Kind::Word(Some(word))
        })
    }
}

/// Several keywords in a row.
pub fn keywords<'a>(words: &'static [&'static str]) -> impl Fn(Tokens<'a>) -> Parsed<'a, Span> + Copy {
    move |input| {
        let mut rest = input;
        for word in words {
            rest = keyword(word)(rest)?.0;
        }
        Ok((rest, input.span_to(rest)))
    }
}

/// A symbol.
pub fn symbol<'a>(text: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Token<'a>> + Copy {
    move |input| token(input, Expected::Symbol(text), |token| token.kind == Kind::Symbol(text))
}

/// A name: a plain word that is not reserved, or a quoted one.
pub fn name<'a>(what: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Name> + Copy {
    move |input| {
        let (rest, token) = token(input, Expected::Class(what), |token| match token.kind {
            Kind::Word(keyword) => keyword.is_none_or(|keyword| !RESERVED.contains(&keyword)),
            Kind::DoubleQuoted | Kind::BackQuoted => true,
            _ => false,
        })?;
        Ok((rest, to_name(&token)))
    }
}

/// A name, or any word at all: where nothing but a name can stand.
pub fn any_name<'a>(what: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Name> + Copy {
    move |input| {
        let (rest, token) = token(input, Expected::Class(what), |token| {
            matches!(token.kind, Kind::Word(_) | Kind::DoubleQuoted | Kind::BackQuoted)
        })?;
        Ok((rest, to_name(&token)))
    }
}

fn to_name(token: &Token<'_>) -> Name {
    let quote = match token.kind {
        Kind::DoubleQuoted => Quote::Double,
        Kind::BackQuoted => Quote::Back,
        _ => Quote::None,
    };
    Name {
        text: token.unquoted().into_owned(),
        quote,
        span: token.span,
    }
}

/// A string in single quotes, or in double quotes where those make strings.
pub fn text<'a>(what: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Text> + Copy {
    move |input| {
        let double = input.state.double_quotes_are_text.get();
        let (rest, token) = token(input, Expected::Class(what), |token| {
            token.kind == Kind::Text || (double && token.kind == Kind::DoubleQuoted)
        })?;
        Ok((
            rest,
            Text {
                text: token.unquoted().into_owned(),
                span: token.span,
            },
        ))
    }
}

/// A number, as spelled.
pub fn number<'a>(what: &'static str) -> impl Fn(Tokens<'a>) -> Parsed<'a, Token<'a>> + Copy {
    move |input| token(input, Expected::Class(what), |token| token.kind == Kind::Number)
}

impl<'a> Input for Tokens<'a> {
    type Item = &'a Token<'a>;
    type Iter = std::slice::Iter<'a, Token<'a>>;
    type IterIndices = std::iter::Enumerate<Self::Iter>;

    fn input_len(&self) -> usize {
        self.rest.len()
    }

    fn take(&self, index: usize) -> Self {
        Tokens {
            rest: &self.rest[..index],
            ..*self
        }
    }

    fn take_from(&self, index: usize) -> Self {
        let before = if index == 0 {
            self.before
        } else {
            self.rest[index - 1].span
        };
        Tokens {
            rest: &self.rest[index..],
            before,
            ..*self
        }
    }

    fn take_split(&self, index: usize) -> (Self, Self) {
        (self.take_from(index), self.take(index))
    }

    fn position<P: Fn(Self::Item) -> bool>(&self, predicate: P) -> Option<usize> {
        self.rest.iter().position(predicate)
    }

    fn iter_elements(&self) -> Self::Iter {
        self.rest.iter()
    }

    fn iter_indices(&self) -> Self::IterIndices {
        self.rest.iter().enumerate()
    }

    fn slice_index(&self, count: usize) -> Result<usize, Needed> {
        if count <= self.rest.len() {
            Ok(count)
        } else {
            Err(Needed::new(count - self.rest.len()))
        }
    }
}
