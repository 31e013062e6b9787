//! Expressions.

use super::{Interval, Name, OrderItem, Text, TypeName};
use crate::plan::physical::BinaryOp;
use crate::span::Span;

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr {
    /// What it computes.
    pub kind: ExprKind,
    /// All of it.
    pub span: Span,
    /// Levels of the tree under it, itself included. The parser keeps it below a limit, so everyone may recurse.
    pub depth: usize,
}

impl Expr {
    /// Counts its depth.
    pub fn new(kind: ExprKind, span: Span) -> Expr {
        let depth = 1 + kind.children().map(|child| child.depth).max().unwrap_or(0);
        Expr { kind, span, depth }
    }
}

/// What an expression computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExprKind {
    /// `NULL`
    Null,
    /// `TRUE`, `FALSE`
    Bool(bool),
    /// A number, as spelled.
    Number(String),
    /// `'text'`
    Text(String),
    /// `INTERVAL …`
    Interval(Interval),
    /// `TIMESTAMP '…'`
    Timestamp(String),
    /// `DATE '…'`
    Date(String),
    /// `TIME '…'`
    Time(String),
    /// `[a, b]`
    Array(Vec<Expr>),
    /// `name`
    Name(Name),
    /// `base.name`: a column of an alias, or a member of a JSON object.
    Member { base: Box<Expr>, name: Name },
    /// `base[index]`
    Index { base: Box<Expr>, index: Box<Expr> },
    /// `base -> key`, `base ->> key`
    Arrow {
        base: Box<Expr>,
        key: Box<Expr>,
        as_text: bool,
    },
    /// `base #> path`, `base #>> path`: several steps at once.
    PathArrow {
        base: Box<Expr>,
        path: Box<Expr>,
        as_text: bool,
    },
    /// `base[from:to]`
    Slice {
        base: Box<Expr>,
        from: Option<Box<Expr>>,
        to: Option<Box<Expr>>,
    },
    /// `-a`, `NOT a`
    Unary { op: UnaryOp, operand: Box<Expr> },
    /// `a + b`, …
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `a IS [NOT] NULL`
    IsNull { operand: Box<Expr>, negated: bool },
    /// `a [NOT] LIKE pattern [ESCAPE 'c']`
    Like {
        operand: Box<Expr>,
        pattern: Box<Expr>,
        escape: Option<Text>,
        negated: bool,
    },
    /// `a [NOT] BETWEEN [SYMMETRIC] low AND high`
    Between {
        operand: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        symmetric: bool,
        negated: bool,
    },
    /// `a [NOT] IN (…)`
    In {
        operand: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    /// `CAST(a AS type)`, `a::type`
    Cast { operand: Box<Expr>, to: TypeName },
    /// `CASE [operand] WHEN … THEN … ELSE … END`
    Case {
        operand: Option<Box<Expr>>,
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    /// `name([DISTINCT] arguments)`, `name(*)`, with `FILTER (WHERE …)` perhaps.
    Call {
        name: Name,
        arguments: Arguments,
        /// DISTINCT before the arguments.
        distinct: Option<Span>,
        filter: Option<Box<Expr>>,
        over: Option<Box<Over>>,
    },
}

/// `OVER (PARTITION BY a, b ORDER BY c)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// PARTITION BY
    pub partition: Vec<Expr>,
    /// ORDER BY
    pub order: Vec<OrderItem>,
    /// All of it.
    pub span: Span,
}

impl ExprKind {
    /// The expressions directly under this one, in the order they were written.
    pub fn children(&self) -> impl Iterator<Item = &Expr> {
        let mut fixed: [Option<&Expr>; 3] = [None; 3];
        let mut list: &[Expr] = &[];
        let mut pairs: &[(Expr, Expr)] = &[];
        let (mut partition, mut order): (&[Expr], &[OrderItem]) = (&[], &[]);
        match self {
            ExprKind::Null
            | ExprKind::Bool(_)
            | ExprKind::Number(_)
            | ExprKind::Text(_)
            | ExprKind::Interval(_)
            | ExprKind::Timestamp(_)
            | ExprKind::Date(_)
            | ExprKind::Time(_)
            | ExprKind::Name(_) => {}
            ExprKind::Array(items) => list = items,
            ExprKind::Call {
                arguments,
                filter,
                over,
                ..
            } => {
                if let Some(over) = over {
                    (partition, order) = (&over.partition, &over.order);
                }
                match arguments {
                    Arguments::Star => {}
                    Arguments::List(arguments) => list = arguments,
                    Arguments::From { of, .. } => fixed[0] = Some(of),
                }
                fixed[2] = filter.as_deref();
            }
            ExprKind::Member { base, .. } => fixed[0] = Some(base),
            ExprKind::Index { base, index: other }
            | ExprKind::Arrow { base, key: other, .. }
            | ExprKind::PathArrow { base, path: other, .. } => {
                fixed = [Some(base), Some(other), None];
            }
            ExprKind::Slice { base, from, to } => fixed = [Some(base), from.as_deref(), to.as_deref()],
            ExprKind::Unary { operand, .. } | ExprKind::IsNull { operand, .. } | ExprKind::Cast { operand, .. } => {
                fixed[0] = Some(operand);
            }
            ExprKind::Binary { left, right, .. } => fixed = [Some(left), Some(right), None],
            ExprKind::Like { operand, pattern, .. } => fixed = [Some(operand), Some(pattern), None],
            ExprKind::Between { operand, low, high, .. } => fixed = [Some(operand), Some(low), Some(high)],
            ExprKind::In {
                operand, list: items, ..
            } => {
                fixed[0] = Some(operand);
                list = items;
            }
            ExprKind::Case {
                operand,
                branches,
                otherwise,
            } => {
                fixed = [operand.as_deref(), None, otherwise.as_deref()];
                pairs = branches;
            }
        }
        let [first, second, third] = fixed;
        let pairs = pairs.iter().flat_map(|(when, then)| [when, then]);
        let order = order.iter().map(|item| &item.expr);
        let over = partition.iter().chain(order);
        first
            .into_iter()
            .chain(second)
            .chain(list)
            .chain(pairs)
            .chain(third)
            .chain(over)
    }
}

/// What a function is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arguments {
    /// `*`
    Star,
    /// `a, b`
    List(Vec<Expr>),
    /// `unit FROM of`, of EXTRACT.
    From { unit: Name, of: Box<Expr> },
}

/// An operator with one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-`
    Minus,
    /// `+`
    Plus,
    /// `NOT`
    Not,
}
