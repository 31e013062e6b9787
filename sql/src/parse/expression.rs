//! Expressions, by climbing precedence. From loose to tight:
//! `OR`, `AND`, `NOT`, comparison (`= <> < <= > >= IS LIKE BETWEEN IN`), `||`, `+ -`, `* / % DIV`, sign,
//! and what follows a value (`.b`, `[i]`, `->`, `->>`, `::type`).

use nom::branch::alt;
use nom::combinator::{cut, map, opt};
use nom::multi::{many1, separated_list0, separated_list1};
use nom::sequence::{delimited, preceded};
use nom::{Input, Parser};

use crate::ast::{Arguments, Expr, ExprKind, Name, OrderItem, Over, Quote, TypeName, UnaryOp};
use crate::error::{SqlError, codes};
use crate::limits::EXPRESSION_DEPTH_MAX;
use crate::parse::input::{
    Expected, Parsed, Tokens, any_name, keyword, keywords, labelled, name, number, say, symbol, text, token,
};
use crate::parse::literal::{data_type, interval};
use crate::parse::token::Kind;
use crate::plan::physical::BinaryOp;
use crate::span::Span;

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const CONCAT: u8 = 5;
const ADD: u8 = 6;
const MULTIPLY: u8 = 7;
const SIGN: u8 = 8;

/// A whole expression.
pub fn expression(input: Tokens<'_>) -> Parsed<'_, Expr> {
    labelled("an expression", |input| climb(input, OR)).parse(input)
}

/// An operand, and all operators behind it that bind at least as tightly as `level`.
fn climb(input: Tokens<'_>, level: u8) -> Parsed<'_, Expr> {
    let depth = &input.state.depth;
    if depth.get() >= EXPRESSION_DEPTH_MAX {
        return too_deep(input.first().span);
    }
    depth.set(depth.get() + 1);
    let result = climb_inside(input, level);
    depth.set(depth.get() - 1);
    result
}

fn climb_inside(input: Tokens<'_>, level: u8) -> Parsed<'_, Expr> {
    let (mut rest, mut left) = prefixed(input)?;
    loop {
        rest.note(Expected::Class("an operator"));
        let Some((found, op)) = infix(rest) else {
            return Ok((rest, left));
        };
        if found < level {
            return Ok((rest, left));
        }
        let operator = rest.first().span;
        (rest, left) = match op {
            Infix::Binary(op @ (BinaryOp::And | BinaryOp::Or)) => {
                let first = (input, left, rest);
                let (rest, operands) = chain(rest, op, found, first)?;
                (rest, balanced(op, operands))
            }
            Infix::Binary(op) => {
                let (rest, right) = right_side(rest.take_from(1), found + 1)?;
                let kind = ExprKind::Binary {
                    op,
                    left: Box::new(left),
                    right: Box::new(right),
                };
                (rest, Expr::new(kind, input.span_to(rest)))
            }
            Infix::Test => test(input, rest, left)?,
        };
        if left.depth > EXPRESSION_DEPTH_MAX {
            return too_deep(operator);
        }
    }
}

/// An operand, where it begins, and what is behind it.
type Operand<'a> = (Tokens<'a>, Expr, Tokens<'a>);

/// The operands of a chain of ANDs or ORs.
fn chain<'a>(mut rest: Tokens<'a>, op: BinaryOp, level: u8, first: Operand<'a>) -> Parsed<'a, Vec<Operand<'a>>> {
    let mut operands = vec![first];
    while matches!(infix(rest), Some((_, Infix::Binary(next))) if next == op) {
        let start = rest.take_from(1);
        let (behind, operand) = right_side(start, level + 1)?;
        operands.push((start, operand, behind));
        rest = behind;
        rest.note(Expected::Class("an operator"));
    }
    Ok((rest, operands))
}

/// It does not matter which of a chain's operands come together first. So that a chain of thousands is no deeper than its
/// logarithm, both sides have as many of them.
fn balanced(op: BinaryOp, mut operands: Vec<Operand<'_>>) -> Expr {
    let right = operands.split_off(operands.len().div_ceil(2));
    let (Some((start, ..)), Some((_, _, end))) = (operands.first(), right.last()) else {
        let (_, only, _) = operands.remove(0);
        return only;
    };
    let span = start.span_to(*end);
    let kind = ExprKind::Binary {
        op,
        left: Box::new(balanced(op, operands)),
        right: Box::new(balanced(op, right)),
    };
    Expr::new(kind, span)
}

fn right_side(input: Tokens<'_>, level: u8) -> Parsed<'_, Expr> {
    cut(labelled("an expression", |input| climb(input, level))).parse(input)
}

/// Refuses what would take too much of a thread's stack.
pub fn too_deep<T>(span: Span) -> Parsed<'static, T> {
    let message = format!("an expression has at most {EXPRESSION_DEPTH_MAX} levels of operators and brackets");
    say(SqlError::new(codes::TOO_DEEP, message)
        .at(span)
        .help("a chain of ANDs or ORs without brackets may be as long as it likes, and so may `x IN (…)`"))
}

fn a_subquery(span: Span) -> SqlError {
    SqlError::not_supported("a subquery in an expression", span).help("a subquery stands in FROM: join with it")
}

enum Infix {
    Binary(BinaryOp),
    /// IS, LIKE, BETWEEN, IN, and NOT in front of them.
    Test,
}

/// The operator that comes next, and how tightly it binds.
fn infix(input: Tokens<'_>) -> Option<(u8, Infix)> {
    let binary = |level, op| Some((level, Infix::Binary(op)));
    match input.first().kind {
        Kind::Word(Some(word)) => match word {
            "OR" => binary(OR, BinaryOp::Or),
            "AND" => binary(AND, BinaryOp::And),
            "DIV" => binary(MULTIPLY, BinaryOp::IntegerDivide),
            "IS" | "LIKE" | "BETWEEN" | "IN" | "NOT" => Some((COMPARE, Infix::Test)),
            _ => None,
        },
        Kind::Symbol(symbol) => match symbol {
            "=" => binary(COMPARE, BinaryOp::Equal),
            "<>" | "!=" => binary(COMPARE, BinaryOp::NotEqual),
            "<" => binary(COMPARE, BinaryOp::Less),
            "<=" => binary(COMPARE, BinaryOp::LessOrEqual),
            ">" => binary(COMPARE, BinaryOp::Greater),
            ">=" => binary(COMPARE, BinaryOp::GreaterOrEqual),
            "||" => binary(CONCAT, BinaryOp::Concat),
            "+" => binary(ADD, BinaryOp::Add),
            "-" => binary(ADD, BinaryOp::Subtract),
            "*" => binary(MULTIPLY, BinaryOp::Multiply),
            "/" => binary(MULTIPLY, BinaryOp::Divide),
            "%" => binary(MULTIPLY, BinaryOp::Modulo),
            _ => None,
        },
        _ => None,
    }
}

/// `start` is where `operand` begins, `input` where its test does.
fn test<'a>(start: Tokens<'a>, input: Tokens<'a>, operand: Expr) -> Parsed<'a, Expr> {
    let operand = Box::new(operand);
    let done = |rest: Tokens<'a>, kind| Ok((rest, Expr::new(kind, start.span_to(rest))));
    if let Ok((rest, _)) = keyword("IS")(input) {
        let (rest, not) = opt(keyword("NOT")).parse(rest)?;
        let (rest, _) = cut(keyword("NULL")).parse(rest)?;
        return done(
            rest,
            ExprKind::IsNull {
                operand,
                negated: not.is_some(),
            },
        );
    }
    let (rest, not) = opt(keyword("NOT")).parse(input)?;
    let negated = not.is_some();
    let (rest, which) = cut(alt((keyword("LIKE"), keyword("BETWEEN"), keyword("IN")))).parse(rest)?;
    match which.kind {
        Kind::Word(Some("LIKE")) => {
            let (rest, pattern) = right_side(rest, CONCAT)?;
            let (rest, escape) = opt(preceded(keyword("ESCAPE"), cut(text("a string")))).parse(rest)?;
            done(
                rest,
                ExprKind::Like {
                    operand,
                    pattern: Box::new(pattern),
                    escape,
                    negated,
                },
            )
        }
        Kind::Word(Some("BETWEEN")) => {
            let (rest, symmetric) = opt(keyword("SYMMETRIC")).parse(rest)?;
            let (rest, low) = right_side(rest, CONCAT)?;
            let (rest, _) = cut(keyword("AND")).parse(rest)?;
            let (rest, high) = right_side(rest, CONCAT)?;
            let (low, high, symmetric) = (Box::new(low), Box::new(high), symmetric.is_some());
            done(
                rest,
                ExprKind::Between {
                    operand,
                    low,
                    high,
                    symmetric,
                    negated,
                },
            )
        }
        _ => {
            let (rest, _) = cut(symbol("(")).parse(rest)?;
            if rest.first().kind == Kind::Word(Some("SELECT")) {
                return say(a_subquery(rest.first().span));
            }
            let (rest, list) = cut(separated_list1(symbol(","), expression)).parse(rest)?;
            let (rest, _) = cut(symbol(")")).parse(rest)?;
            done(rest, ExprKind::In { operand, list, negated })
        }
    }
}

/// NOT and signs, then a value.
fn prefixed(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (op, level) = match input.first().kind {
        Kind::Word(Some("NOT")) => (UnaryOp::Not, NOT),
        Kind::Symbol("-") => (UnaryOp::Minus, SIGN),
        Kind::Symbol("+") => (UnaryOp::Plus, SIGN),
        _ => return postfixed(input),
    };
    let (rest, operand) = right_side(input.take_from(1), level)?;
    let kind = ExprKind::Unary {
        op,
        operand: Box::new(operand),
    };
    Ok((rest, Expr::new(kind, input.span_to(rest))))
}

/// A value and what follows it: `.b`, `[i]`, `->`, `->>`, `::type`.
fn postfixed(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (mut rest, mut base) = primary(input)?;
    loop {
        let Kind::Symbol(symbol) = rest.first().kind else {
            return Ok((rest, base));
        };
        let after = rest.take_from(1);
        let operator = rest.first().span;
        let boxed = |base| Box::new(base);
        let kind;
        (rest, kind) = match symbol {
            "." => {
                let (rest, name) = cut(any_name("a field name")).parse(after)?;
                (
                    rest,
                    ExprKind::Member {
                        base: boxed(base),
                        name,
                    },
                )
            }
            "[" => bracket(after, base)?,
            "->" | "->>" => {
                let (rest, key) = cut(arrow_key).parse(after)?;
                (
                    rest,
                    ExprKind::Arrow {
                        base: boxed(base),
                        key: boxed(key),
                        as_text: symbol == "->>",
                    },
                )
            }
            "#>" | "#>>" => {
                let (rest, path) = cut(alt((arrow_key, array))).parse(after)?;
                (
                    rest,
                    ExprKind::PathArrow {
                        base: boxed(base),
                        path: boxed(path),
                        as_text: symbol == "#>>",
                    },
                )
            }
            "::" => {
                let (rest, to) = cut(data_type).parse(after)?;
                (
                    rest,
                    ExprKind::Cast {
                        operand: boxed(base),
                        to,
                    },
                )
            }
            _ => return Ok((rest, base)),
        };
        base = Expr::new(kind, input.span_to(rest));
        if base.depth > EXPRESSION_DEPTH_MAX {
            return too_deep(operator);
        }
    }
}

/// Behind `[`: an index, or a slice.
fn bracket(input: Tokens<'_>, base: Expr) -> Parsed<'_, ExprKind> {
    let end_of_slice = |input| map(opt(expression), |end| end.map(Box::new)).parse(input);
    let base = Box::new(base);
    if let Ok((rest, _)) = symbol(":")(input) {
        let (rest, to) = end_of_slice(rest)?;
        let (rest, _) = cut(symbol("]")).parse(rest)?;
        return Ok((rest, ExprKind::Slice { base, from: None, to }));
    }
    let (rest, index) = cut(expression).parse(input)?;
    let index = Box::new(index);
    if let Ok((rest, _)) = symbol(":")(rest) {
        let (rest, to) = end_of_slice(rest)?;
        let (rest, _) = cut(symbol("]")).parse(rest)?;
        let from = Some(index);
        return Ok((rest, ExprKind::Slice { base, from, to }));
    }
    let (rest, _) = cut(symbol("]")).parse(rest)?;
    Ok((rest, ExprKind::Index { base, index }))
}

/// What stands behind `->`: a key in either quotes, a position, or an expression in brackets.
fn arrow_key(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let key = |input| {
        token(input, Expected::Class("a string"), |token| {
            matches!(token.kind, Kind::Text | Kind::DoubleQuoted)
        })
    };
    let position = |input| {
        let (rest, sign) = opt(symbol("-")).parse(input)?;
        let (rest, digits) = number("a number")(rest)?;
        let value = Expr::new(ExprKind::Number(digits.text.to_owned()), digits.span);
        let kind = match sign {
            Some(_) => ExprKind::Unary {
                op: UnaryOp::Minus,
                operand: Box::new(value),
            },
            None => return Ok((rest, value)),
        };
        Ok((rest, Expr::new(kind, input.span_to(rest))))
    };
    alt((
        map(key, |token| {
            Expr::new(ExprKind::Text(token.unquoted().into_owned()), token.span)
        }),
        position,
        bracketed,
    ))
    .parse(input)
}

fn primary(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let spanned = |kind: ExprKind, span| Expr::new(kind, span);
    alt((
        map(number("a number"), move |token| {
            spanned(ExprKind::Number(token.text.to_owned()), token.span)
        }),
        map(text("a string"), move |text| {
            spanned(ExprKind::Text(text.text), text.span)
        }),
        map(keyword("NULL"), move |token| spanned(ExprKind::Null, token.span)),
        map(keyword("TRUE"), move |token| spanned(ExprKind::Bool(true), token.span)),
        map(keyword("FALSE"), move |token| {
            spanned(ExprKind::Bool(false), token.span)
        }),
        map(interval, move |interval| {
            spanned(ExprKind::Interval(interval), interval.span)
        }),
        moment,
        case,
        cast,
        array,
        bracketed,
        call,
        current,
        map(name("a name"), move |name| {
            let span = name.span;
            spanned(ExprKind::Name(name), span)
        }),
    ))
    .parse(input)
}

/// `TIMESTAMP '…'`, `DATE '…'`, `TIME '…'`; without a string behind them the words are names.
fn moment(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (rest, word) = alt((keyword("TIMESTAMP"), keyword("DATE"), keyword("TIME"))).parse(input)?;
    let (rest, value) = text("a string")(rest)?;
    let kind = match word.kind {
        Kind::Word(Some("DATE")) => ExprKind::Date(value.text),
        Kind::Word(Some("TIME")) => ExprKind::Time(value.text),
        _ => ExprKind::Timestamp(value.text),
    };
    Ok((rest, Expr::new(kind, input.span_to(rest))))
}

fn bracketed(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (rest, _) = symbol("(")(input)?;
    if rest.first().kind == Kind::Word(Some("SELECT")) {
        return say(a_subquery(rest.first().span));
    }
    let (rest, mut inner) = cut(expression).parse(rest)?;
    let (rest, _) = cut(symbol(")")).parse(rest)?;
    // An error about an operand underlines its brackets too.
    inner.span = input.span_to(rest);
    Ok((rest, inner))
}

/// `[a, b]`, `ARRAY[a, b]`, and HStreamDB's `{a, b}`
fn array(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (rest, _) = opt(keyword("ARRAY")).parse(input)?;
    let (rest, open) = alt((symbol("["), symbol("{"))).parse(rest)?;
    let close = if open.kind == Kind::Symbol("[") { "]" } else { "}" };
    let (rest, items) = cut(separated_list0(symbol(","), expression)).parse(rest)?;
    let (rest, _) = cut(symbol(close)).parse(rest)?;
    Ok((rest, Expr::new(ExprKind::Array(items), input.span_to(rest))))
}

fn case(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let (rest, _) = keyword("CASE")(input)?;
    let (rest, operand) = if rest.first().kind == Kind::Word(Some("WHEN")) {
        (rest, None)
    } else {
        map(cut(expression), |operand| Some(Box::new(operand))).parse(rest)?
    };
    let branch = (
        preceded(keyword("WHEN"), cut(expression)),
        preceded(cut(keyword("THEN")), cut(expression)),
    );
    let (rest, branches) = cut(many1(branch)).parse(rest)?;
    let (rest, otherwise) = opt(preceded(keyword("ELSE"), cut(expression))).parse(rest)?;
    let (rest, _) = cut(keyword("END")).parse(rest)?;
    let kind = ExprKind::Case {
        operand,
        branches,
        otherwise: otherwise.map(Box::new),
    };
    Ok((rest, Expr::new(kind, input.span_to(rest))))
}

fn cast(input: Tokens<'_>) -> Parsed<'_, Expr> {
    let inside = (cut(expression), preceded(cut(keyword("AS")), cut(data_type)));
    let (rest, (operand, to)): (_, (Expr, TypeName)) =
        delimited((keyword("CAST"), symbol("(")), inside, cut(symbol(")"))).parse(input)?;
    Ok((
        rest,
        Expr::new(
            ExprKind::Cast {
                operand: Box::new(operand),
                to,
            },
            input.span_to(rest),
        ),
    ))
}

/// `EXTRACT(HOUR FROM t)`: what stands behind FROM.
fn extracted<'a>(function: &Name, input: Tokens<'a>) -> Option<Tokens<'a>> {
    let from = input
        .second()
        .is_some_and(|token| token.kind == Kind::Word(Some("FROM")));
    let unit = matches!(input.first().kind, Kind::Word(_));
    (from && unit && function.text.eq_ignore_ascii_case("EXTRACT")).then(|| input.take_from(2))
}

/// `name(a, b)`, `COUNT(*)`. LEFT and RIGHT are functions when a bracket follows.
fn call(input: Tokens<'_>) -> Parsed<'_, Expr> {
    if input.second().is_none_or(|token| token.kind != Kind::Symbol("(")) {
        return Err(nom::Err::Error(crate::parse::input::Fault::Unexpected));
    }
    let (rest, name) = match input.first().kind {
        Kind::Word(Some("LEFT" | "RIGHT")) => any_name("a function")(input)?,
        _ => name("a function")(input)?,
    };
    let (rest, _) = symbol("(")(rest)?;
    let (rest, distinct) = match rest.first().kind {
        Kind::Word(Some("DISTINCT")) => (rest.take_from(1), Some(rest.first().span)),
        _ => (rest, None),
    };
    let (rest, arguments) = match (symbol("*")(rest), extracted(&name, rest)) {
        (Ok((rest, _)), _) => (rest, Arguments::Star),
        (_, Some(after)) => {
            let (unit_end, unit) = any_name("a unit of time")(rest)?;
            debug_assert_eq!(unit_end.first().kind, Kind::Word(Some("FROM")));
            map(cut(expression), move |of| Arguments::From {
                unit: unit.clone(),
                of: Box::new(of),
            })
            .parse(after)?
        }
        _ => map(cut(separated_list0(symbol(","), expression)), Arguments::List).parse(rest)?,
    };
    let (rest, _) = cut(symbol(")")).parse(rest)?;
    let bracket_follows = rest.second().is_some_and(|token| token.kind == Kind::Symbol("("));
    let (rest, filter) = match rest.first().kind {
        Kind::Word(Some("FILTER")) if bracket_follows => {
            let inside = preceded(cut(keyword("WHERE")), cut(expression));
            let filter = delimited((keyword("FILTER"), symbol("(")), inside, cut(symbol(")")));
            map(filter, |filter| Some(Box::new(filter))).parse(rest)?
        }
        _ => (rest, None),
    };
    let bracket_follows = rest.second().is_some_and(|token| token.kind == Kind::Symbol("("));
    let (rest, over) = match rest.first().kind {
        Kind::Word(Some("OVER")) if bracket_follows => map(over, |over| Some(Box::new(over))).parse(rest)?,
        _ => (rest, None),
    };
    Ok((
        rest,
        Expr::new(
            ExprKind::Call {
                name,
                arguments,
                distinct,
                filter,
                over,
            },
            input.span_to(rest),
        ),
    ))
}

/// `CURRENT_TIMESTAMP`, `CURRENT_DATE`, `CURRENT_TIME`: functions without brackets, as the standard has them. In quotes they
/// are names.
fn current(input: Tokens<'_>) -> Parsed<'_, Expr> {
    const FUNCTIONS: &[&str] = &["CURRENT_TIMESTAMP", "CURRENT_DATE", "CURRENT_TIME"];
    let is_function = |text: &str| FUNCTIONS.iter().any(|function| function.eq_ignore_ascii_case(text));
    let (rest, token) = token(input, Expected::Class("a name"), |token| {
        matches!(token.kind, Kind::Word(_)) && is_function(token.text)
    })?;
    let kind = ExprKind::Call {
        name: Name {
            text: token.text.to_owned(),
            quote: Quote::None,
            span: token.span,
        },
        arguments: Arguments::List(Vec::new()),
        distinct: None,
        filter: None,
        over: None,
    };
    Ok((rest, Expr::new(kind, token.span)))
}

/// `OVER (PARTITION BY a, b ORDER BY c DESC)`
fn over(input: Tokens<'_>) -> Parsed<'_, Over> {
    let list = || cut(separated_list1(symbol(","), expression));
    let partition = opt(preceded(keywords(&["PARTITION", "BY"]), list()));
    let order = opt(preceded(
        keywords(&["ORDER", "BY"]),
        cut(separated_list1(symbol(","), order_item)),
    ));
    let inside = cut((partition, order));
    let (rest, (partition, order)) =
        delimited((keyword("OVER"), symbol("(")), inside, cut(symbol(")"))).parse(input)?;
    let over = Over {
        partition: partition.unwrap_or_default(),
        order: order.unwrap_or_default(),
        span: input.span_to(rest),
    };
    Ok((rest, over))
}

/// `expr [ASC | DESC]`
pub fn order_item(input: Tokens<'_>) -> Parsed<'_, OrderItem> {
    let (rest, expr) = expression(input)?;
    let (rest, direction) = opt(alt((keyword("ASC"), keyword("DESC")))).parse(rest)?;
    let descending = direction.is_some_and(|token| token.kind == Kind::Word(Some("DESC")));
    Ok((rest, OrderItem { expr, descending }))
}
