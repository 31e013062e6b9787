//! JOIN: the right side's columns beside the left's, and what ON says as pairs that must be equal.

use headwater_store::{StreamForm, StreamRow};

use crate::ast::{self, ExprKind, On};
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::{Expressions, Place, rewrite_columns};
use crate::plan::bind::path::Steps;
use crate::plan::bind::scope::Scope;
use crate::plan::bind::{Binder, topic};
use crate::plan::physical::{BinaryOp, ColumnId, Expr, Join, JoinKind, Side};

/// A bound join, over the columns of both sides.
#[derive(Debug)]
pub struct BoundJoin<'a> {
    /// The right side.
    pub right: &'a StreamRow,
    /// The right side is a table: its row of now is looked up.
    pub lookup: bool,
    /// Pairs that must be equal, left and right.
    pub keys: Vec<(Expr, Expr)>,
    /// What else ON says of an inner join.
    pub rest: Option<Expr>,
    kind: JoinKind,
    within_us: Option<i64>,
}

/// The right side of a join, which is put into the scope.
pub fn right_side<'a>(
    binder: &Binder<'a>,
    join: &ast::Join,
    left: &StreamRow,
    scope: &mut Scope<'a>,
) -> Result<&'a StreamRow, SqlError> {
    let right: &StreamRow = match &join.source {
        ast::Source::Stream(name) => binder.source(name)?,
        ast::Source::Topic(text) => {
            topic::source(binder.catalog, text)?;
            return Err(SqlError::not_supported("a topic filter in a join", text.span)
                .help("make a stream of these topics first: CREATE STREAM s FROM TOPIC …"));
        }
    };
    if left.form == StreamForm::Upsert {
        return Err(
            SqlError::not_supported("a join whose left side is a view or table", join.span)
                .help("write the stream on the left and the table on the right, or read its revisions with `$log`"),
        );
    }
    let qualifier = join.alias.as_ref().map_or(right.name.as_str(), |alias| &alias.text);
    scope.join(right, qualifier, join.span)?;
    Ok(right)
}

/// Binds ON; `plain` says that the right side's revisions are asked for.
pub fn join<'a>(
    join: &ast::Join,
    right: &'a StreamRow,
    plain: bool,
    expressions: &mut Expressions<'a>,
) -> Result<BoundJoin<'a>, SqlError> {
    let lookup = right.form == StreamForm::Upsert && !plain;
    let within_us = match (&join.within, lookup) {
        (Some(within), false) => Some(within.value.fixed_us().filter(|us| *us >= 0).ok_or_else(|| {
            SqlError::new(
                codes::BAD_WINDOW,
                "WITHIN needs a length that does not depend on the calendar",
            )
            .at(within.span)
        })?),
        (None, true) => None,
        (None, false) => {
            return Err(SqlError::new(codes::BAD_WINDOW, "a join of two streams needs WITHIN")
                .at(join.span)
                .detail("without it each row would have to be kept for ever")
                .help("write ON … WITHIN (INTERVAL '1' MINUTE): how far apart the times of two rows may be"));
        }
        (Some(within), true) => {
            return Err(SqlError::new(
                codes::BAD_WINDOW,
                "WITHIN has no meaning in a join with a view or table",
            )
            .at(within.span)
            .detail("each row is joined with the row that the table has at that moment")
            .help(format!("leave it out, or join its revisions: {}$log", right.name)));
        }
    };
    if let (true, JoinKind::Right | JoinKind::Full) = (lookup, join.kind) {
        return Err(
            SqlError::not_supported("a RIGHT or FULL join with a view or table", join.span)
                .detail("a row of the table never stops waiting for one of the stream"),
        );
    }
    let (mut keys, mut rest) = (Vec::new(), None);
    match &join.on {
        On::Names(names) => {
            for name in names {
                let mut side = |part| expressions.scope.resolve(name, &mut Steps::default(), Some(part));
                keys.push((Expr::Column(side(0)?), Expr::Column(side(1)?)));
            }
        }
        On::Condition(on) => {
            let bound = expressions.condition(on, Place::Argument, "ON")?;
            split(bound, &expressions.scope, &mut keys, &mut rest);
            if let (Some(_), false) = (&rest, join.kind == JoinKind::Inner) {
                return Err(
                    SqlError::not_supported("ON of an outer join with more than `left = right`", on.span)
                        .help("write what else must hold of one side in a query before the join"),
                );
            }
            if keys.is_empty() {
                return Err(
                    SqlError::new(codes::WRONG_TYPE, "ON must say what is equal on both sides")
                        .at(on.span)
                        .help(example(on, &expressions.scope)),
                );
            }
        }
    }
    Ok(BoundJoin {
        right,
        lookup,
        keys,
        rest,
        kind: join.kind,
        within_us,
    })
}

fn example(on: &ast::Expr, scope: &Scope<'_>) -> String {
    let column = match &on.kind {
        ExprKind::Name(name) => name.text.clone(),
        _ => "id".to_owned(),
    };
    format!("write ON {}.{column} = {}.{column}", scope.name(0), scope.name(1))
}

/// Takes the pairs out of a chain of ANDs.
fn split(expr: Expr, scope: &Scope<'_>, keys: &mut Vec<(Expr, Expr)>, rest: &mut Option<Expr>) {
    let part = |expr: &Expr| {
        let mut parts = Vec::new();
        expr.walk(&mut |node| {
            if let Expr::Column(column) = node {
                parts.push(scope.local(*column).0);
            }
        });
        parts.sort_unstable();
        parts.dedup();
        match parts.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    };
    match expr {
        Expr::Binary {
            op: BinaryOp::And,
            left,
            right,
        } => {
            split(*left, scope, keys, rest);
            split(*right, scope, keys, rest);
        }
        Expr::Binary {
            op: BinaryOp::Equal,
            left,
            right,
        } if matches!((part(&left), part(&right)), (Some(0), Some(1)) | (Some(1), Some(0))) => {
            keys.push(match part(&left) {
                Some(0) => (*left, *right),
                _ => (*right, *left),
            });
        }
        other => {
            *rest = Some(match rest.take() {
                None => other,
                Some(before) => Expr::Binary {
                    op: BinaryOp::And,
                    left: Box::new(before),
                    right: Box::new(other),
                },
            });
        }
    }
}

impl BoundJoin<'_> {
    /// The operator, once all columns are known.
    pub fn operator(&self, scope: &Scope<'_>) -> Join {
        let local = |expr: &Expr| local(expr, scope);
        let columns = 0..scope.schema.columns.len() as u32;
        Join {
            kind: self.kind,
            keys: self
                .keys
                .iter()
                .map(|(left, right)| (local(left), local(right)))
                .collect(),
            within_us: self.within_us,
            output: columns
                .map(|column| match scope.local(ColumnId(column)) {
                    (0, column) => (Side::Left, column),
                    (_, column) => (Side::Right, column),
                })
                .collect(),
        }
    }

    /// The value that a row's key has in it, whichever side is there.
    pub fn key_values(&self) -> impl Iterator<Item = Expr> + '_ {
        self.keys.iter().map(|(left, right)| Expr::Call {
            function: "COALESCE".to_owned(),
            arguments: vec![left.clone(), right.clone()],
        })
    }
}

/// An expression over one side alone, with that side's own numbers.
pub fn local(expr: &Expr, scope: &Scope<'_>) -> Expr {
    let mut expr = expr.clone();
    rewrite_columns(&mut expr, &mut |column| Some(Expr::Column(scope.local(column).1)));
    expr
}
