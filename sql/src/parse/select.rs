//! SELECT, clause by clause.

use nom::Parser;
use nom::branch::alt;
use nom::combinator::{cut, map, opt};
use nom::multi::separated_list1;
use nom::sequence::{delimited, preceded};

use crate::ast::{
    Emit, EmitKind, Expr, From, Interval, Item, Join, Limit, Name, On, OrderItem, Quote, Select, Source, Start,
    StartKind, Text, Window, WindowKind,
};
use crate::error::{SqlError, codes};
use crate::parse::expression::expression;
use crate::parse::input::{
    Expected, Parsed, Tokens, double_quotes_are_text, keyword, keywords, name, say, symbol, text, token,
};
use crate::parse::literal::{count, interval};
use crate::parse::token::Kind;
use crate::plan::physical::JoinKind;
use crate::span::Span;

/// `SELECT …` up to the end of its clauses.
pub fn select(input: Tokens<'_>) -> Parsed<'_, Select> {
    // Inside VALUES and WITH `"x"` is a string; here it is a name again.
    double_quotes_are_text(false, select_inside).parse(input)
}

fn select_inside(input: Tokens<'_>) -> Parsed<'_, Select> {
    let (rest, _) = keyword("SELECT")(input)?;
    refuse(rest, "SELECT DISTINCT", &["DISTINCT"])?;
    let (rest, items) = cut(separated_list1(symbol(","), item)).parse(rest)?;
    let (rest, _) = cut(keyword("FROM")).parse(rest)?;
    let (rest, (from, from_window)) = cut(from).parse(rest)?;
    let (rest, filter) = opt(preceded(keyword("WHERE"), cut(expression))).parse(rest)?;
    let group = preceded(
        keywords(&["GROUP", "BY"]),
        cut(separated_list1(symbol(","), group_item)),
    );
    let (rest, groups) = opt(group).parse(rest)?;
    let (rest, having) = opt(preceded(keyword("HAVING"), cut(expression))).parse(rest)?;
    let order = preceded(
        keywords(&["ORDER", "BY"]),
        cut(separated_list1(symbol(","), order_item)),
    );
    let (rest, order_by) = opt(order).parse(rest)?;

    let mut window = from_window;
    let mut group_by = Vec::new();
    for group in groups.unwrap_or_default() {
        match group {
            Group::By(expr) => group_by.push(expr),
            Group::Window(found) => once(&mut window, found.span, found, "a window")?,
        }
    }
    let (mut limit, mut emit, mut start) = (None, None, None);
    let mut rest = rest;
    while let (after, Some(clause)) = opt(tail).parse(rest)? {
        let span = rest.span_to(after);
        match clause {
            Tail::Limit(count) => once(&mut limit, span, Limit { count, span }, "LIMIT")?,
            Tail::Emit(kind) => once(&mut emit, span, Emit { kind, span }, "EMIT")?,
            Tail::Start(kind) => once(&mut start, span, Start { kind, span }, "the start position")?,
        }
        rest = after;
    }
    refuse(rest, "UNION", &["UNION"])?;
    let span = input.span_to(rest);
    let order_by = order_by.unwrap_or_default();
    Ok((
        rest,
        Select {
            items,
            from,
            filter,
            group_by,
            window,
            having,
            order_by,
            limit,
            emit,
            start,
            span,
        },
    ))
}

fn once<T>(slot: &mut Option<T>, span: Span, value: T, what: &str) -> Result<(), nom::Err<super::input::Fault>> {
    if slot.is_some() {
        return say(SqlError::new(codes::WRITTEN_TWICE, format!("{what} is given twice")).at(span));
    }
    *slot = Some(value);
    Ok(())
}

/// Fails with "not supported yet" when one of `words` comes next. Nothing is noted as expected.
pub fn refuse(input: Tokens<'_>, what: &str, words: &[&'static str]) -> Result<(), nom::Err<super::input::Fault>> {
    match input.first().kind {
        Kind::Word(Some(word)) if words.contains(&word) => say(SqlError::not_supported(what, input.first().span)),
        _ => Ok(()),
    }
}

fn item(input: Tokens<'_>) -> Parsed<'_, Item> {
    alt((
        map(symbol("*"), |token| Item::All(token.span)),
        map((expression, alias), |(expr, alias)| Item::Expr { expr, alias }),
    ))
    .parse(input)
}

/// `AS name`, or a name alone.
fn alias(input: Tokens<'_>) -> Parsed<'_, Option<Name>> {
    alt((
        map(preceded(keyword("AS"), cut(name("a name"))), Some),
        map(opt(name("a name")), |name| name),
    ))
    .parse(input)
}

fn from(input: Tokens<'_>) -> Parsed<'_, (From, Option<Window>)> {
    if input.first().kind == Kind::Symbol("(") {
        return say(SqlError::not_supported("a subquery", input.first().span));
    }
    let (rest, (source, window)) = alt((table_function, map(source, |source| (source, None)))).parse(input)?;
    let (rest, alias) = alias(rest)?;
    refuse(rest, "CROSS JOIN", &["CROSS"])?;
    let (rest, join) = opt(join).parse(rest)?;
    refuse(
        rest,
        "a join of more than two",
        &["JOIN", "INNER", "LEFT", "RIGHT", "FULL"],
    )?;
    if rest.first().kind == Kind::Symbol(",") {
        return say(SqlError::not_supported(
            "reading more than one stream",
            rest.first().span,
        ));
    }
    Ok((rest, (From { source, alias, join }, window)))
}

/// `[INNER | LEFT | RIGHT | FULL [OUTER]] JOIN r [AS alias]`, then ON or USING, and WITHIN before or after it.
fn join(input: Tokens<'_>) -> Parsed<'_, Join> {
    let outer = |word, kind| map((keyword(word), opt(keyword("OUTER"))), move |_| kind);
    let kind = alt((
        map(keyword("INNER"), |_| JoinKind::Inner),
        outer("LEFT", JoinKind::Left),
        outer("RIGHT", JoinKind::Right),
        outer("FULL", JoinKind::Full),
    ));
    let (rest, (kind, _)) = (opt(kind), keyword("JOIN")).parse(input)?;
    let (rest, (source, alias)) = cut((source, alias)).parse(rest)?;
    let (rest, early) = opt(within).parse(rest)?;
    let names = delimited(symbol("("), separated_list1(symbol(","), name("a column")), symbol(")"));
    let (rest, on) = cut(alt((
        map(preceded(keyword("ON"), cut(expression)), On::Condition),
        map(preceded(keyword("USING"), cut(names)), On::Names),
    )))
    .parse(rest)?;
    let (rest, late) = opt(within).parse(rest)?;
    let span = input.span_to(rest);
    if let (Some(_), Some(twice)) = (early, late) {
        return say(SqlError::new(codes::WRITTEN_TWICE, "WITHIN is given twice").at(twice.span));
    }
    let join = Join {
        kind: kind.unwrap_or(JoinKind::Inner),
        source,
        alias,
        on,
        within: early.or(late),
        span,
    };
    Ok((rest, join))
}

fn within(input: Tokens<'_>) -> Parsed<'_, Interval> {
    let bracketed = delimited(symbol("("), interval, symbol(")"));
    preceded(keyword("WITHIN"), cut(alt((bracketed, interval)))).parse(input)
}

/// `TUMBLE(s, INTERVAL 10 SECOND)`, `HOP(s, size, advance)`, `SESSION(s, gap)`, each with GRACE perhaps.
fn table_function(input: Tokens<'_>) -> Parsed<'_, (Source, Option<Window>)> {
    if input.second().is_none_or(|token| token.kind != Kind::Symbol("(")) {
        return Err(nom::Err::Error(super::input::Fault::Unexpected));
    }
    let (rest, shape) = window_shape(input)?;
    let inside = (source, preceded(symbol(","), lengths(shape)));
    let (rest, (source, kind)) = cut(delimited(symbol("("), inside, symbol(")"))).parse(rest)?;
    let (rest, grace) = opt(preceded(keyword("GRACE"), cut(interval))).parse(rest)?;
    let span = input.span_to(rest);
    Ok((rest, (source, Some(Window { kind, grace, span }))))
}

/// Which sort of window its word begins.
#[derive(Clone, Copy)]
enum Shape {
    Tumbling,
    Hopping,
    Session,
}

fn window_shape(input: Tokens<'_>) -> Parsed<'_, Shape> {
    alt((
        map(alt((keyword("TUMBLING"), keyword("TUMBLE"))), |_| Shape::Tumbling),
        map(alt((keyword("HOPPING"), keyword("HOP"))), |_| Shape::Hopping),
        map(keyword("SESSION"), |_| Shape::Session),
    ))
    .parse(input)
}

/// The lengths that a sort of window takes.
fn lengths<'a>(shape: Shape) -> impl FnMut(Tokens<'a>) -> Parsed<'a, WindowKind> {
    move |input| match shape {
        Shape::Tumbling => map(interval, |size| WindowKind::Tumbling { size }).parse(input),
        Shape::Session => map(interval, |gap| WindowKind::Session { gap }).parse(input),
        Shape::Hopping => map((interval, preceded(symbol(","), interval)), |(size, advance)| {
            WindowKind::Hopping { size, advance }
        })
        .parse(input),
    }
}

/// A stream's name, or a topic filter in either quotes: a text with `/`, `+` or `#`.
fn source(input: Tokens<'_>) -> Parsed<'_, Source> {
    let (rest, token) = token(input, Expected::Class("a stream or topic filter"), |token| {
        matches!(
            token.kind,
            Kind::Text | Kind::DoubleQuoted | Kind::BackQuoted | Kind::Word(_)
        )
    })?;
    let unquoted = token.unquoted();
    match token.kind {
        Kind::Text | Kind::DoubleQuoted if unquoted.contains(['/', '+', '#']) => Ok((
            rest,
            Source::Topic(Text {
                text: unquoted.into_owned(),
                span: token.span,
            }),
        )),
        Kind::Text => say(SqlError::new(
            codes::UNEXPECTED,
            format!("expected a stream or topic filter, found {}", token.text),
        )
        .at(token.span)
        .help(format!(
            "write the stream's name without quotes, `{unquoted}`; a topic filter holds `/`, `+` or `#`"
        ))),
        Kind::DoubleQuoted | Kind::BackQuoted => {
            let quote = if token.kind == Kind::DoubleQuoted {
                Quote::Double
            } else {
                Quote::Back
            };
            Ok((
                rest,
                Source::Stream(Name {
                    text: unquoted.into_owned(),
                    quote,
                    span: token.span,
                }),
            ))
        }
        _ => map(name("a stream or topic filter"), Source::Stream).parse(input),
    }
}

enum Group {
    By(Expr),
    Window(Window),
}

fn group_item(input: Tokens<'_>) -> Parsed<'_, Group> {
    alt((map(window, Group::Window), map(expression, Group::By))).parse(input)
}

/// `TUMBLING (INTERVAL '10' SECOND) [GRACE INTERVAL …]`, `HOPPING (size, advance)`, `SESSION (gap)`
fn window(input: Tokens<'_>) -> Parsed<'_, Window> {
    let (rest, (shape, _)) = (window_shape, symbol("(")).parse(input)?;
    let (rest, kind) = cut(lengths(shape)).parse(rest)?;
    let (rest, _) = cut(symbol(")")).parse(rest)?;
    let (rest, grace) = opt(preceded(keyword("GRACE"), cut(interval))).parse(rest)?;
    let span = input.span_to(rest);
    Ok((rest, Window { kind, grace, span }))
}

fn order_item(input: Tokens<'_>) -> Parsed<'_, OrderItem> {
    let (rest, expr) = expression(input)?;
    let (rest, direction) = opt(alt((keyword("ASC"), keyword("DESC")))).parse(rest)?;
    let descending = direction.is_some_and(|token| token.kind == Kind::Word(Some("DESC")));
    Ok((rest, OrderItem { expr, descending }))
}

enum Tail {
    Limit(u64),
    Emit(EmitKind),
    Start(StartKind),
}

/// LIMIT, EMIT and the start come in any order: people write `EMIT CHANGES LIMIT 5` as often as the reverse.
fn tail(input: Tokens<'_>) -> Parsed<'_, Tail> {
    alt((
        map(preceded(keyword("LIMIT"), cut(count)), Tail::Limit),
        map(preceded(keyword("EMIT"), cut(emit)), Tail::Emit),
        map(preceded(keyword("FROM"), cut(start)), Tail::Start),
    ))
    .parse(input)
}

fn emit(input: Tokens<'_>) -> Parsed<'_, EmitKind> {
    alt((
        map(keyword("CHANGES"), |_| EmitKind::Changes),
        map(keyword("FINAL"), |_| EmitKind::Final),
        map(preceded(keyword("PERIODIC"), cut(interval)), EmitKind::Periodic),
        map(preceded(keywords(&["ON", "SILENCE"]), cut(interval)), EmitKind::Silence),
    ))
    .parse(input)
}

fn start(input: Tokens<'_>) -> Parsed<'_, StartKind> {
    alt((map(keyword("BEGINNING"), |_| StartKind::Beginning), place)).parse(input)
}

/// `TIMESTAMP '…'`, `OFFSET n`
pub fn place(input: Tokens<'_>) -> Parsed<'_, StartKind> {
    let time = double_quotes_are_text(true, text("a time, as in '2026-01-31 12:00:00'"));
    alt((
        map(preceded(keyword("TIMESTAMP"), cut(time)), StartKind::Timestamp),
        map(preceded(keyword("OFFSET"), cut(count)), StartKind::Offset),
    ))
    .parse(input)
}
