//! JOIN: which sort of join it is, and what ON says as pairs that must be equal.

use crate::ast::{self, On};
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::{Expressions, Place};
use crate::plan::bind::path::Steps;
use crate::plan::bind::scope::Scope;
use crate::plan::physical::{BinaryOp, Expr, JoinKind};

/// A bound join, over the columns of all sides so far.
#[derive(Debug)]
pub struct Joined {
    /// Which rows come out though nothing matches them.
    pub kind: JoinKind,
    /// Pairs that must be equal: of what stands on the left, and of the right side.
    pub keys: Vec<(Expr, Expr)>,
    /// What is equal, whichever side is there: the key of a row.
    pub values: Vec<Expr>,
    /// What else ON says of a pair.
    pub rest: Option<Expr>,
    /// None: the right side is a table.
    pub within_us: Option<i64>,
    /// Both sides are tables.
    pub tables: bool,
}

/// What the sides of a join are.
pub struct Sides {
    /// All that stands on the left has one row for each key.
    pub left_table: bool,
    /// The right side has.
    pub right_table: bool,
    /// A subquery among them whose rows have no times to join by.
    pub untimed: Option<String>,
}

/// Binds ON of the join whose right side is that part.
pub fn join<'a>(
    join: &'a ast::Join,
    right: usize,
    sides: &Sides,
    expressions: &mut Expressions<'a>,
) -> Result<Joined, SqlError> {
    let within_us = within(join, right, sides, &expressions.scope)?;
    let tables = sides.left_table && sides.right_table;
    if let (None, false, JoinKind::Right | JoinKind::Full) = (within_us, tables, join.kind) {
        return Err(
            SqlError::not_supported("a RIGHT or FULL join with a view or table", join.span)
                .detail("a row of the table never stops waiting for one of the stream"),
        );
    }
    let (mut keys, mut rest) = (Vec::new(), Vec::new());
    let mut on_span = join.span;
    match &join.on {
        On::Names(names) => {
            for name in names {
                let left = left_of_using(name, right, expressions)?;
                let of_right = expressions.scope.resolve(name, &mut Steps::default(), Some(right))?;
                let pair = (left, Expr::Column(of_right));
                let one = match join.kind {
                    JoinKind::Inner | JoinKind::Left => pair.0.clone(),
                    JoinKind::Right => pair.1.clone(),
                    JoinKind::Full => either(&pair),
                };
                expressions.scope.merge(name, one);
                keys.push(pair);
            }
        }
        On::Condition(on) => {
            on_span = on.span;
            let bound = expressions.condition(on, Place::Argument, "ON")?;
            split(bound, right, &expressions.scope, &mut keys, &mut rest);
            if keys.is_empty() {
                return Err(
                    SqlError::new(codes::WRONG_TYPE, "ON must say what is equal on both sides")
                        .at(on.span)
                        .help(example(on, right, &expressions.scope)),
                );
            }
        }
        On::Nothing => return Err(SqlError::internal("a join without ON").at(join.span)),
    }
    let values = keys.iter().map(either).collect();
    if join.kind != JoinKind::Inner {
        rest = only_where(rest, right, &expressions.scope, &mut keys);
        if tables && rest.iter().any(Expr::is_of_its_time) {
            return Err(
                SqlError::not_supported("the time of now in ON of an outer join of tables", on_span)
                    .detail("what was a pair then has to be known when a row goes"),
            );
        }
    }
    Ok(Joined {
        kind: join.kind,
        keys,
        values,
        rest: Expr::all(rest),
        within_us,
        tables,
    })
}

/// The value that a row has in it, whichever side is there.
fn either((left, right): &(Expr, Expr)) -> Expr {
    Expr::Call {
        function: "COALESCE".to_owned(),
        arguments: vec![left.clone(), right.clone()],
    }
}

/// In an outer join a row of which a condition does not hold matches nothing, as if its key were NULL. Gives the
/// conditions that are not about one side.
fn only_where(rest: Vec<Expr>, right: usize, scope: &Scope<'_>, keys: &mut [(Expr, Expr)]) -> Vec<Expr> {
    let mut of_both = Vec::new();
    for condition in rest {
        let (Some(of_right), Some((left_key, right_key))) = (is_right(&condition, right, scope), keys.first_mut())
        else {
            of_both.push(condition);
            continue;
        };
        let key = if of_right { right_key } else { left_key };
        *key = Expr::Case {
            branches: vec![(condition, key.clone())],
            otherwise: None,
        };
    }
    of_both
}

/// The column of USING on the left: what an earlier USING made of both, else of the first side, or of the one that has
/// declared it.
fn left_of_using(name: &ast::Name, right: usize, expressions: &mut Expressions<'_>) -> Result<Expr, SqlError> {
    let scope = &mut expressions.scope;
    if let Some(one) = scope.merged(&name.text) {
        return Ok(one.clone());
    }
    let declares = |part: &usize| scope.declared(*part).iter().any(|(declared, _)| *declared == name.text);
    let part = (0..right).find(declares).unwrap_or(0);
    scope.resolve(name, &mut Steps::default(), Some(part)).map(Expr::Column)
}

/// WITHIN, which two streams need, and nothing else can have.
fn within(join: &ast::Join, right: usize, sides: &Sides, scope: &Scope<'_>) -> Result<Option<i64>, SqlError> {
    match (&join.within, sides.left_table, sides.right_table) {
        (None, _, true) => Ok(None),
        (None, true, false) => Err(
            SqlError::not_supported("a join whose left side is a view or table", join.span)
                .help("write the stream on the left and the table on the right, or read its revisions with `$log`"),
        ),
        (None, false, false) => Err(SqlError::new(codes::BAD_WINDOW, "a join of two streams needs WITHIN")
            .at(join.span)
            .detail("without it each row would have to be kept for ever")
            .help("write ON … WITHIN (INTERVAL '1' MINUTE): how far apart the times of two rows may be")),
        (Some(within), false, false) => {
            if let Some(name) = &sides.untimed {
                return Err(
                    SqlError::not_supported("a join WITHIN of rows that have no time", within.span)
                        .detail(format!("the rows of `{name}` are made of many records"))
                        .help(format!(
                            "give it a window and EMIT FINAL, or make a view of it, CREATE VIEW {name} AS …, and join that without WITHIN"
                        )),
                );
            }
            let us = within.value.fixed_us().filter(|us| *us >= 0);
            us.map(Some).ok_or_else(|| {
                SqlError::new(
                    codes::BAD_WINDOW,
                    "WITHIN needs a length that does not depend on the calendar",
                )
                .at(within.span)
            })
        }
        (Some(within), _, right_table) => {
            let revisions = scope.revisions(if right_table { right } else { 0 });
            let help = match revisions {
                Some(revisions) => format!("leave it out, or join its revisions: {revisions}"),
                // A subquery that groups.
                None => "leave it out, to join each row with the row of now; or give the subquery a window and EMIT FINAL: then its rows have the times of their windows' ends".to_owned(),
            };
            Err(SqlError::new(
                codes::BAD_WINDOW,
                "WITHIN has no meaning in a join with a view or table",
            )
            .at(within.span)
            .detail("each row is joined with the row that the table has at that moment")
            .help(help))
        }
    }
}

fn example(on: &ast::Expr, right: usize, scope: &Scope<'_>) -> String {
    let column = match &on.kind {
        ast::ExprKind::Name(name) => name.text.clone(),
        _ => "id".to_owned(),
    };
    format!("write ON {}.{column} = {}.{column}", scope.name(0), scope.name(right))
}

/// Some(true): it is of the right side alone; Some(false): of what stands on the left alone.
fn is_right(expr: &Expr, right: usize, scope: &Scope<'_>) -> Option<bool> {
    let mut sides = Vec::new();
    expr.walk(&mut |node| {
        if let Expr::Column(column) = node {
            sides.push(scope.local(*column).0 == right);
        }
    });
    sides.dedup();
    match sides.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

/// Takes the pairs out of a chain of ANDs.
fn split(expr: Expr, right_part: usize, scope: &Scope<'_>, keys: &mut Vec<(Expr, Expr)>, rest: &mut Vec<Expr>) {
    let is_right = |expr: &Expr| is_right(expr, right_part, scope);
    match expr {
        Expr::Binary {
            op: BinaryOp::And,
            left,
            right,
        } => {
            split(*left, right_part, scope, keys, rest);
            split(*right, right_part, scope, keys, rest);
        }
        Expr::Binary {
            op: BinaryOp::Equal,
            left,
            right,
        } if matches!(
            (is_right(&left), is_right(&right)),
            (Some(false), Some(true)) | (Some(true), Some(false))
        ) =>
        {
            keys.push(match is_right(&left) {
                Some(false) => (*left, *right),
                _ => (*right, *left),
            });
        }
        other => rest.push(other),
    }
}

/// An expression over one side alone, with that side's own numbers.
pub fn local(expr: &Expr, scope: &Scope<'_>) -> Expr {
    let mut expr = expr.clone();
    expr.replace_columns(&mut |column| Some(Expr::Column(scope.local(column).1)));
    expr
}
