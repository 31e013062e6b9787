//! Intervals, types, counts.

use nom::branch::alt;
use nom::combinator::{cut, map, opt};
use nom::multi::separated_list1;
use nom::sequence::delimited;
use nom::{Input, Parser};

use crate::ast::{Interval, TypeName};
use crate::error::{SqlError, codes};
use crate::parse::input::{Parsed, Tokens, any_name, double_quotes_are_text, keyword, name, number, say, symbol, text};
use crate::parse::suggest::did_you_mean;
use crate::parse::token::Kind;
use crate::types::{self, DataType};

const UNITS: &[&str] = &[
    "MICROSECOND",
    "MILLISECOND",
    "SECOND",
    "MINUTE",
    "HOUR",
    "DAY",
    "WEEK",
    "MONTH",
    "YEAR",
];

/// `INTERVAL '10' SECOND`, `INTERVAL 10 SECONDS`, `INTERVAL '1 hour 30 minutes'`, `INTERVAL 'PT1H30M'`. Without a count behind it the word is a name.
pub fn interval(input: Tokens<'_>) -> Parsed<'_, Interval> {
    let (rest, _) = keyword("INTERVAL")(input)?;
    let (rest, sign) = opt(symbol("-")).parse(rest)?;
    let text = map(double_quotes_are_text(true, text("a string")), |text| {
        (text.text, text.span)
    });
    let number = map(number("a number"), |token| (token.text.to_owned(), token.span));
    let (rest, (count, count_span)) = alt((number, text)).parse(rest)?;
    if let Ok(value) = count.parse::<types::Interval>() {
        let value = match sign {
            Some(_) => types::Interval {
                months: value.months.saturating_neg(),
                us: value.us.saturating_neg(),
            },
            None => value,
        };
        let span = input.span_to(rest);
        return Ok((rest, Interval { value, span }));
    }
    let (rest, unit, unit_span) = match count.trim().split_once(' ') {
        Some((_, unit)) => (rest, unit.trim().to_owned(), count_span),
        None => {
            let (rest, unit) = cut(name("a unit of time")).parse(rest)?;
            (rest, unit.text, unit.span)
        }
    };
    let span = input.span_to(rest);
    let count = count.split_whitespace().next().unwrap_or_default();
    let Ok(number) = count.parse::<i64>() else {
        return say(
            SqlError::new(codes::BAD_LITERAL, format!("`{count}` is not a whole number"))
                .at(count_span)
                .help("an interval is a whole number and a unit: INTERVAL '10' SECOND"),
        );
    };
    let number = if sign.is_some() {
        number.saturating_neg()
    } else {
        number
    };
    match types::Interval::of(number, &unit) {
        Some(value) => Ok((rest, Interval { value, span })),
        None if types::Interval::of(0, &unit).is_some() => say(SqlError::new(
            codes::BAD_LITERAL,
            format!("an interval of {number} {unit} is too long"),
        )
        .at(span)),
        None => say(
            SqlError::new(codes::BAD_LITERAL, format!("`{unit}` is not a unit of time"))
                .at(unit_span)
                .detail(format!("the units are {}", UNITS.join(", ")))
                .help_if(did_you_mean(&unit, UNITS.iter().copied())),
        ),
    }
}

/// `DECIMAL(10,2)`, `STRING[]`, `DOUBLE PRECISION`
pub fn data_type(input: Tokens<'_>) -> Parsed<'_, TypeName> {
    let (mut rest, name) = any_name("a type")(input)?;
    let mut spelled = name.text;
    if spelled.eq_ignore_ascii_case("double") && rest.first().text.eq_ignore_ascii_case("precision") {
        spelled.push_str(" PRECISION");
        rest = rest.take_from(1);
    }
    let arguments = delimited(
        symbol("("),
        separated_list1(symbol(","), number("a number")),
        symbol(")"),
    );
    let after;
    if rest.first().kind == Kind::Symbol("(") {
        let numbers;
        (after, numbers) = { arguments }.parse(rest)?;
        let numbers: Vec<_> = numbers.iter().map(|token| token.text).collect();
        spelled = format!("{spelled}({})", numbers.join(","));
    } else {
        after = rest;
    }
    let mut rest = after;
    while rest.first().kind == Kind::Symbol("[") && rest.second().is_some_and(|t| t.kind == Kind::Symbol("]")) {
        spelled.push_str("[]");
        rest = rest.take_from(2);
    }
    let span = input.span_to(rest);
    match spelled.parse::<DataType>() {
        Ok(data_type) => Ok((rest, TypeName { data_type, span })),
        Err(error) => {
            let name = spelled.split(['(', '[']).next().unwrap_or_default();
            let help = did_you_mean(name, DataType::NAMES.iter().copied())
                .unwrap_or_else(|| format!("types are {} and arrays such as STRING[]", DataType::NAMES.join(", ")));
            say(SqlError::new(codes::BAD_LITERAL, error.to_string()).at(span).help(help))
        }
    }
}

/// A whole number that is not negative.
pub fn count(input: Tokens<'_>) -> Parsed<'_, u64> {
    let (rest, token) = number("a number")(input)?;
    match token.text.parse() {
        Ok(count) => Ok((rest, count)),
        Err(_) => say(SqlError::new(
            codes::BAD_LITERAL,
            format!("`{}` is not a whole number of at most 2^64 - 1", token.text),
        )
        .at(token.span)),
    }
}
