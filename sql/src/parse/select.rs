//! SELECT, clause by clause.

use nom::branch::alt;
use nom::combinator::{cut, map, opt};
use nom::multi::separated_list1;
use nom::sequence::{delimited, preceded};
use nom::{Input, Parser};

use crate::ast::{
    Emit, EmitKind, Expr, From, Interval, Item, Join, Limit, Name, Named, On, Quote, Select, Source, Start, StartKind,
    Text, Window, WindowKind,
};
use crate::error::{SqlError, codes};
use crate::limits::{EXPRESSION_DEPTH_MAX, SUBQUERY_LEVELS};
use crate::parse::expression::{expression, order_item, too_deep};
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

/// `[WITH …] SELECT … { UNION ALL SELECT … } [ORDER BY …] …`
fn select_inside(input: Tokens<'_>) -> Parsed<'_, Select> {
    nested(input, |input| {
        let named = preceded(keyword("WITH"), cut(separated_list1(symbol(","), named)));
        let (rest, with) = opt(named).parse(input)?;
        let (rest, first) = match with {
            Some(_) => cut(core).parse(rest)?,
            None => core(rest)?,
        };
        let (rest, select) = union(rest, first)?;
        let (rest, select) = tails(rest, select)?;
        let span = input.span_to(rest);
        let with = with.unwrap_or_default();
        Ok((rest, Select { with, span, ..select }))
    })
}

/// Counts a level, as expressions do: subqueries in subqueries are levels too.
fn nested<'a, T>(input: Tokens<'a>, parser: impl Fn(Tokens<'a>) -> Parsed<'a, T>) -> Parsed<'a, T> {
    let depth = &input.state.depth;
    if depth.get() >= EXPRESSION_DEPTH_MAX {
        return too_deep(input.first().span);
    }
    // One inside another takes as much of a thread's stack as many operators do.
    let levels = if depth.get() == 0 { 1 } else { SUBQUERY_LEVELS };
    let before = depth.replace(depth.get() + levels);
    let result = parser(input);
    depth.set(before);
    result
}

/// `name AS (SELECT …)`
fn named(input: Tokens<'_>) -> Parsed<'_, Named> {
    let (rest, (name, _)) = (name("a name"), keyword("AS")).parse(input)?;
    let (rest, select) = delimited(symbol("("), select_inside, symbol(")")).parse(rest)?;
    Ok((rest, Named { name, select }))
}

/// The rows of all: a SELECT over them, to which ORDER BY, LIMIT and EMIT belong.
fn union<'a>(input: Tokens<'a>, first: Select) -> Parsed<'a, Select> {
    let (mut rest, mut branches) = (input, vec![first]);
    while let (after, Some(_)) = opt(keyword("UNION")).parse(rest)? {
        if after.first().kind == Kind::Word(Some("SELECT")) {
            return say(SqlError::not_supported("UNION without ALL", rest.first().span)
                .help("write UNION ALL; SELECT DISTINCT over it takes each row once"));
        }
        let branch;
        (rest, branch) = cut(preceded(keyword("ALL"), core)).parse(after)?;
        branches.push(branch);
    }
    if branches.len() == 1 {
        return Ok((rest, branches.remove(0)));
    }
    let span = branches[0].span.to(branches[branches.len() - 1].span);
    let mut select = Select::all_of(Source::Union(branches), span);
    select.span = span;
    Ok((rest, select))
}

/// ORDER BY, then what stands last, in any order.
fn tails<'a>(input: Tokens<'a>, mut select: Select) -> Parsed<'a, Select> {
    let order = preceded(
        keywords(&["ORDER", "BY"]),
        cut(separated_list1(symbol(","), order_item)),
    );
    let (mut rest, order_by) = opt(order).parse(input)?;
    select.order_by = order_by.unwrap_or_default();
    while let (after, Some(clause)) = opt(tail).parse(rest)? {
        let span = rest.span_to(after);
        match clause {
            Tail::Limit(count) => once(&mut select.limit, span, Limit { count, span }, "LIMIT")?,
            Tail::Emit(kind) => once(&mut select.emit, span, Emit { kind, span }, "EMIT")?,
            Tail::Start(kind) => once(&mut select.start, span, Start { kind, span }, "the start position")?,
        }
        rest = after;
    }
    Ok((rest, select))
}

/// `SELECT … FROM … [WHERE …] [GROUP BY …] [HAVING …]`
fn core(input: Tokens<'_>) -> Parsed<'_, Select> {
    let (rest, _) = keyword("SELECT")(input)?;
    let (rest, distinct) = match rest.first().kind {
        Kind::Word(Some("DISTINCT")) => (rest.take_from(1), Some(rest.first().span)),
        _ => (rest, None),
    };
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
    let mut window = from_window;
    let mut group_by = Vec::new();
    for group in groups.unwrap_or_default() {
        match group {
            Group::By(expr) => group_by.push(expr),
            Group::Window(found) => once(&mut window, found.span, found, "a window")?,
        }
    }
    let span = input.span_to(rest);
    let select = Select {
        distinct,
        filter,
        group_by,
        window,
        having,
        ..Select::new(items, from, span)
    };
    Ok((rest, select))
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
    let (mut rest, (source, window)) = alt((table_function, map(source, |source| (source, None)))).parse(input)?;
    let alias;
    (rest, alias) = self::alias(rest)?;
    let mut joins = Vec::new();
    while let (after, Some(join)) = opt(alt((beside, join))).parse(rest)? {
        joins.push(join);
        rest = after;
    }
    Ok((rest, (From { source, alias, joins }, window)))
}

/// `, UNNEST(…) AS x` and `CROSS JOIN UNNEST(…) AS x`
fn beside(input: Tokens<'_>) -> Parsed<'_, Join> {
    let (rest, what) = match input.first().kind {
        Kind::Symbol(",") => (input.take_from(1), "reading more than one stream"),
        Kind::Word(Some("CROSS")) => (cut(keyword("JOIN")).parse(input.take_from(1))?.0, "CROSS JOIN"),
        _ => return Err(nom::Err::Error(super::input::Fault::Unexpected)),
    };
    if rest.first().kind != Kind::Word(Some("UNNEST")) {
        return say(SqlError::not_supported(what, input.first().span)
            .help("bring rows together with JOIN … ON …; behind a comma stands UNNEST(array) AS name"));
    }
    let (rest, (source, alias)) = cut((unnest, alias)).parse(rest)?;
    let join = Join {
        kind: JoinKind::Inner,
        source,
        alias,
        on: On::Nothing,
        within: None,
        span: input.span_to(rest),
    };
    Ok((rest, join))
}

/// `UNNEST(array)`
fn unnest(input: Tokens<'_>) -> Parsed<'_, Source> {
    let inside = delimited(symbol("("), expression, symbol(")"));
    map(preceded(keyword("UNNEST"), cut(inside)), |array| {
        Source::Unnest(Box::new(array))
    })
    .parse(input)
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
    let kind = kind.unwrap_or(JoinKind::Inner);
    if is_call(rest, "UNNEST") {
        let (rest, (source, alias)) = cut((unnest, alias)).parse(rest)?;
        // As PostgreSQL writes it; there is nothing else that it could be on.
        let (rest, _) = opt(keywords(&["ON", "TRUE"])).parse(rest)?;
        let (on, within, span) = (On::Nothing, None, input.span_to(rest));
        return Ok((
            rest,
            Join {
                kind,
                source,
                alias,
                on,
                within,
                span,
            },
        ));
    }
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
    let within = early.or(late);
    Ok((
        rest,
        Join {
            kind,
            source,
            alias,
            on,
            within,
            span,
        },
    ))
}

/// A word and an opening bracket.
fn is_call(input: Tokens<'_>, word: &'static str) -> bool {
    input.first().kind == Kind::Word(Some(word)) && input.second().is_some_and(|token| token.kind == Kind::Symbol("("))
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

/// A stream's name, a topic filter in either quotes (a text with `/`, `+` or `#`), or a SELECT in brackets.
fn source(input: Tokens<'_>) -> Parsed<'_, Source> {
    if input.first().kind == Kind::Symbol("(") {
        let select = delimited(symbol("("), cut(select_inside), cut(symbol(")")));
        return map(select, |select| Source::Query(Box::new(select))).parse(input);
    }
    if is_call(input, "UNNEST") {
        return say(
            SqlError::new(codes::UNEXPECTED, "UNNEST stands beside what its array is a field of")
                .at(input.first().span)
                .help("write FROM s, UNNEST(s.list) AS item"),
        );
    }
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
