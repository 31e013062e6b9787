//! The statements as they were written: names unresolved, numbers as spelled, a span on every node.

use crate::plan::physical::{BinaryOp, JoinKind};
use crate::span::Span;
use crate::types::{self, DataType};

/// How a name was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    /// `name`
    None,
    /// `"name"`
    Double,
    /// `` `name` ``
    Back,
}

/// The name of a stream, column, function, option, …; case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Without its quotes.
    pub text: String,
    /// How it was written.
    pub quote: Quote,
    /// Where.
    pub span: Span,
}

/// A string literal, or a double-quoted text where the grammar takes it for a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Without its quotes.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it asks for.
    pub kind: StatementKind,
    /// Without the `;`.
    pub span: Span,
}

/// What a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// `CREATE STREAM …`, with or without `AS SELECT`; `CREATE VIEW …`, `CREATE TABLE …`
    CreateStream(CreateStream),
    /// `CREATE SINK CONNECTOR …`
    CreateConnector(CreateConnector),
    /// `INSERT INTO …`
    Insert(Insert),
    /// `SELECT …`
    Select(Select),
    /// `SHOW …`
    Show(Show),
    /// `DESCRIBE s`
    Describe(Name),
    /// `DROP …`
    Drop(Drop),
    /// `TERMINATE QUERY q`; None: ALL
    Terminate(Option<Name>),
    /// `PAUSE QUERY q`
    PauseQuery(Name),
    /// `RESUME QUERY q`
    ResumeQuery(Name),
    /// `PAUSE CONNECTOR c` (false), `RESUME CONNECTOR c` (true)
    RunConnector(Name, bool),
    /// `TRIM STREAM …`
    Trim(Trim),
    /// `ADVANCE WATERMARK OF s TO TIMESTAMP '…'`
    AdvanceWatermark { stream: Name, to: Text },
    /// `SET name = value`
    Set(Set),
    /// `EXPLAIN [ANALYZE] [FORMAT TEXT|JSON|DOT] …`
    Explain(Explain),
}

/// `CREATE STREAM name (columns) FROM TOPIC topics WITH (options) AS query`, and the same for views and tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateStream {
    /// What it makes.
    pub kind: ObjectKind,
    /// Its name.
    pub name: Name,
    /// IF NOT EXISTS
    pub if_not_exists: bool,
    /// Empty: an open stream.
    pub columns: Vec<ColumnDef>,
    /// The topic filters of FROM TOPIC.
    pub topics: Vec<Text>,
    /// WITH, from whichever place it stood in.
    pub options: Vec<WithOption>,
    /// AS SELECT
    pub query: Option<Select>,
    /// FROM STREAM, of a table.
    pub source: Option<Name>,
}

/// `name type [NOT NULL] [KEY]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub data_type: TypeName,
    /// NOT NULL
    pub not_null: bool,
    /// KEY, PRIMARY KEY
    pub key: bool,
    /// All of it.
    pub span: Span,
}

/// `NAME = value` inside WITH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithOption {
    /// Its name; compared without regard to case.
    pub name: Name,
    /// Its value. A word such as `true` or `JSON` is a name or a literal here.
    pub value: Expr,
}

/// `CREATE SINK CONNECTOR name TO kind WITH (options)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateConnector {
    /// Its name.
    pub name: Name,
    /// IF NOT EXISTS
    pub if_not_exists: bool,
    /// `WEBHOOK`
    pub kind: Name,
    /// WITH
    pub options: Vec<WithOption>,
}

/// `INSERT INTO stream …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// Where to.
    pub stream: Name,
    /// What.
    pub values: InsertValues,
}

/// What an INSERT brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsertValues {
    /// `(columns) VALUES (…), (…)`; without columns: the declared ones, in order.
    Rows { columns: Option<Vec<Name>>, rows: Vec<Row> },
    /// `(columns) SELECT …`: a query that goes on.
    Query {
        columns: Option<Vec<Name>>,
        select: Box<Select>,
    },
    /// `VALUES '{…}', '{…}'`: each a whole payload.
    Payloads(Vec<Expr>),
}

/// `(a, b, …)` of VALUES
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its values.
    pub values: Vec<Expr>,
    /// With its brackets.
    pub span: Span,
}

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

/// `TRIM STREAM s TO …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Which.
    pub stream: Name,
    /// What stays begins there; None: END, nothing stays.
    pub to: Option<Start>,
}

/// `SHOW …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Show {
    /// `SHOW STREAMS`
    Streams,
    /// `SHOW QUERIES`
    Queries,
    /// `SHOW CONNECTORS`
    Connectors,
    /// `SHOW VIEWS`
    Views,
    /// `SHOW TABLES`
    Tables,
    /// `SHOW TOPICS`
    Topics,
    /// `SHOW CLIENTS`
    Clients,
    /// `SHOW NODES`
    Nodes,
    /// `SHOW CREATE [STREAM|QUERY|CONNECTOR] x`
    Create(Option<ObjectKind>, Name),
}

/// `SET name = value`: of the statements behind it in the same text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// `emit.coalesce`, `idle`
    pub name: Name,
    /// A word, a text or an interval.
    pub value: Expr,
}

/// `EXPLAIN [ANALYZE] [FORMAT …] statement`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// What is explained.
    pub statement: Box<Statement>,
    /// ANALYZE: it runs, and what each operator did is told.
    pub analyze: bool,
    /// FORMAT
    pub format: ExplainFormat,
}

/// How EXPLAIN shows a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExplainFormat {
    /// Lines, drawn as a tree.
    #[default]
    Text,
    /// One object.
    Json,
    /// A graph in the language of Graphviz.
    Dot,
}

/// `DROP kind [IF EXISTS] name [FORCE]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// What.
    pub kind: ObjectKind,
    /// Which.
    pub name: Name,
    /// IF EXISTS, before or after the name.
    pub if_exists: bool,
    /// FORCE
    pub force: bool,
}

/// What the catalog holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A stream.
    Stream,
    /// A query.
    Query,
    /// A connector.
    Connector,
    /// A view.
    View,
    /// A table.
    Table,
}

/// A type, as in `DECIMAL(10,2)` or `STRING[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeName {
    /// Which.
    pub data_type: DataType,
    /// Where.
    pub span: Span,
}

/// `INTERVAL '10' SECOND`, `INTERVAL 10 SECONDS`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Its length.
    pub value: types::Interval,
    /// Where.
    pub span: Span,
}

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
