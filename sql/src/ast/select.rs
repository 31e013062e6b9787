//! SELECT, clause by clause.

use super::{Expr, Interval, Name, Text};
use crate::plan::physical::JoinKind;
use crate::span::Span;

/// `WITH name AS (SELECT …) SELECT …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// WITH: subqueries with a name, each known to those behind it.
    pub with: Vec<Named>,
    /// DISTINCT
    pub distinct: Option<Span>,
    /// What is selected.
    pub items: Vec<Item>,
    /// FROM
    pub from: From,
    /// WHERE
    pub filter: Option<Expr>,
    /// GROUP BY, without its window.
    pub group_by: Vec<Expr>,
    /// The window of GROUP BY, or of FROM TUMBLE.
    pub window: Option<Window>,
    /// HAVING
    pub having: Option<Expr>,
    /// ORDER BY
    pub order_by: Vec<OrderItem>,
    /// LIMIT
    pub limit: Option<Limit>,
    /// EMIT
    pub emit: Option<Emit>,
    /// FROM BEGINNING and its like, the last clause.
    pub start: Option<Start>,
    /// All of it.
    pub span: Span,
}

impl Select {
    /// `SELECT items FROM from`
    pub fn new(items: Vec<Item>, from: From, span: Span) -> Select {
        Select {
            with: Vec::new(),
            distinct: None,
            items,
            from,
            filter: None,
            group_by: Vec::new(),
            window: None,
            having: None,
            order_by: Vec::new(),
            limit: None,
            emit: None,
            start: None,
            span,
        }
    }

    /// `SELECT * FROM source`
    pub fn all_of(source: Source, span: Span) -> Select {
        let from = From {
            source,
            alias: None,
            joins: Vec::new(),
        };
        Select::new(vec![Item::All(span)], from, span)
    }
}

/// `name AS (SELECT …)` of WITH
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What FROM may call it.
    pub name: Name,
    /// What it is.
    pub select: Select,
}

/// One item of the SELECT list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// `*`
    All(Span),
    /// `expr [AS alias]`
    Expr { expr: Expr, alias: Option<Name> },
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Which records.
    pub source: Source,
    /// `AS alias`
    pub alias: Option<Name>,
    /// JOIN and UNNEST, from left to right: each is joined with all before it.
    pub joins: Vec<Join>,
}

/// `LEFT JOIN r AS alias ON … WITHIN (INTERVAL …)`; `CROSS JOIN UNNEST(…) AS alias`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// INNER, LEFT, RIGHT or FULL.
    pub kind: JoinKind,
    /// The right side.
    pub source: Source,
    /// Its alias.
    pub alias: Option<Name>,
    /// ON or USING
    pub on: On,
    /// WITHIN
    pub within: Option<Interval>,
    /// All of it.
    pub span: Span,
}

/// What rows a join brings together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// `ON a.x = b.y`
    Condition(Expr),
    /// `USING (x, y)`
    Names(Vec<Name>),
    /// Of UNNEST, whose rows are those of the row that it stands beside.
    Nothing,
}

/// Which records are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A stream, by name.
    Stream(Name),
    /// What clients published to the topics of a filter.
    Topic(Text),
    /// `(SELECT …)`
    Query(Box<Select>),
    /// `SELECT … UNION ALL SELECT …`: the rows of all.
    Union(Vec<Select>),
    /// `UNNEST(array)`: a row for each element. Only in a join.
    Unnest(Box<Expr>),
}

/// `TUMBLING (size) [GRACE grace]` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Which.
    pub kind: WindowKind,
    /// GRACE
    pub grace: Option<Interval>,
    /// All of it.
    pub span: Span,
}

/// The kinds of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// `TUMBLING (size)`
    Tumbling { size: Interval },
    /// `HOPPING (size, advance)`
    Hopping { size: Interval, advance: Interval },
    /// `SESSION (gap)`
    Session { gap: Interval },
}

/// `expr [ASC|DESC]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderItem {
    /// By what.
    pub expr: Expr,
    /// DESC
    pub descending: bool,
}

/// `LIMIT n`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Rows.
    pub count: u64,
    /// Where.
    pub span: Span,
}

/// `EMIT CHANGES`, `EMIT FINAL`, `EMIT PERIODIC INTERVAL …`, `EMIT ON SILENCE INTERVAL …`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emit {
    /// Which.
    pub kind: EmitKind,
    /// Where.
    pub span: Span,
}

/// When result rows come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitKind {
    /// At each change.
    Changes,
    /// Once, when the window is over.
    Final,
    /// What has changed, once in each period.
    Periodic(Interval),
    /// What has changed, once its key has been silent for so long.
    Silence(Interval),
}

/// `FROM BEGINNING`, `FROM TIMESTAMP '…'`, `FROM OFFSET n`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Which.
    pub kind: StartKind,
    /// Where.
    pub span: Span,
}

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartKind {
    /// At the oldest record.
    Beginning,
    /// At the first record appended at that time or later; as written.
    Timestamp(Text),
    /// At that offset of a stream of one shard.
    Offset(u64),
}
