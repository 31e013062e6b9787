//! The statements as they were written: names unresolved, numbers as spelled, a span on every node.

mod expression;
mod select;

pub use expression::{Arguments, Expr, ExprKind, Over, UnaryOp};
pub use select::{
    Emit, EmitKind, From, Item, Join, Limit, Named, On, OrderItem, Select, Source, Start, StartKind, Window, WindowKind,
};

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

impl ObjectKind {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Stream => "stream",
            ObjectKind::Query => "query",
            ObjectKind::Connector => "connector",
            ObjectKind::View => "view",
            ObjectKind::Table => "table",
        }
    }
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
