//! The physical plan: what a query *is* once it is bound. It is stored in the catalog and outlives the planner.
//!
//! A plan is a list of [`Node`]s, inputs before users, the last one a [`Op::Sink`]. Everything that a task needs is
//! inside: the options of the input streams are copied in at bind time, start positions are resolved to offsets, names
//! are resolved to column numbers and functions to their stable names. So the same bytes give the same query on every
//! node, after every restart, and after the planner has learnt better plans.
//!
//! ```text
//! Source -> Filter -> Exchange -> Window -> Aggregate -> Filter (HAVING) -> Project -> Sink
//!            WHERE    whose row?   which      one row       on its result    items      record: JSON, key, topic
//!                                  window?    per key
//! ```
//!
//! # Stability
//! [`OperatorId`]s are part of the keys of stored state: a plan that replaces another keeps the ids of the operators
//! whose state it takes over. Enum variants are numbered by their order: new ones go last, none is removed.
//! [`Plan::encode`] writes [`PLAN_VERSION`] first; a plan of a later version is refused, never guessed at.

mod aggregate;
mod encoding;
mod expr;
mod source;
mod walk;

pub use aggregate::AggregateFunction;
pub use encoding::{PLAN_VERSION, PlanError};
pub use expr::{BinaryOp, Expr, UnaryOp};
pub use source::{Homes, PathStep, Read, Source, SourceColumn, Start};

use headwater_store::Qos;

use crate::types::DataType;

/// Names an operator for ever: its state is stored under this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct OperatorId(pub u32);

/// The position of a column in a node's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct ColumnId(pub u32);

impl ColumnId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A bound query.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Plan {
    /// Inputs before users; the last one is the sink.
    pub nodes: Vec<Node>,
    /// ORDER BY over the columns of the sink's input. One-shot reads only.
    pub order_by: Vec<OrderBy>,
    /// LIMIT. One-shot and push reads only.
    pub limit: Option<u64>,
    /// What SET said before it. Since version 2.
    pub manner: Manner,
}

/// How a query goes about its steps, as SET says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Manner {
    /// `emit.coalesce = off`: the changes of a key are put out for each record that makes them, not once in a step.
    pub each_input: bool,
    /// `idle`: where event time goes while all shards are silent.
    pub silence: Silence,
}

/// Where event time goes while all shards of a source are silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub enum Silence {
    /// On, by the time that passes.
    #[default]
    Elapsed,
    /// To the wall clock, less DELAY.
    Clock,
}

/// One operator of a plan.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Node {
    /// Stable, unique in the plan.
    pub id: OperatorId,
    /// What it does.
    pub op: Op,
    /// Whose output it reads, by port.
    pub inputs: Vec<OperatorId>,
    /// The columns it puts out.
    pub schema: Schema,
    /// How its output changes.
    pub form: Form,
    /// The output columns that name a row; empty: each row is itself.
    pub key: Vec<ColumnId>,
    /// The output columns by which its rows are spread over tasks.
    pub partition: Vec<ColumnId>,
    /// How much state it may gather.
    pub bound: StateBound,
}

/// The columns of an operator's output.
#[derive(Debug, Clone, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Schema {
    /// In order.
    pub columns: Vec<SchemaColumn>,
}

/// One column of an operator's output.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct SchemaColumn {
    /// For people: EXPLAIN and messages. Operators go by number.
    pub name: String,
    /// `Any` where only the value knows.
    pub data_type: DataType,
}

impl Schema {
    /// Adds a column and gives its number.
    pub fn push(&mut self, name: impl Into<String>, data_type: DataType) -> ColumnId {
        self.columns.push(SchemaColumn {
            name: name.into(),
            data_type,
        });
        ColumnId(self.columns.len() as u32 - 1)
    }
}

/// How the rows of an output change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Form {
    /// Rows are only added.
    Append,
    /// A row replaces the earlier one of its key; without a row the key is gone.
    Upsert,
    /// Rows come and go with weights.
    Retract,
}

/// How much state an operator may gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum StateBound {
    /// It keeps nothing.
    Stateless,
    /// A row per key and open window, dropped when the watermark passes the window's end by this much.
    Windows { retention_us: i64 },
    /// A row per key, for ever: EXPLAIN warns.
    Keys,
    /// The changes that wait for their time.
    Waiting,
}

/// When an aggregate speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Emit {
    /// At the end of the input: a one-shot read.
    AtEnd,
    /// Each change, coalesced by key within a step.
    Changes,
    /// Once per window, when the watermark passes its end and the grace.
    Final,
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub enum Op {
    /// Reads a stream and takes columns out of its records.
    Source(Source),
    /// Keeps the rows for which this is TRUE.
    Filter(Expr),
    /// One output column per expression.
    Project(Vec<Expr>),
    /// Keeps the rows that this task's group is to have; in a one-shot or push read all pass.
    Exchange(Routing),
    /// Appends two TIMESTAMP columns by event time, and drops late rows: `window_start` and `window_end` of a tumbling
    /// window; of a hopping one the start of the row's pane and of the first window that takes the row; of a session
    /// the row's own time and that plus the gap.
    Window(Window),
    /// One row per key (and window): group columns, then `window_start` and `window_end` when windowed, then calls.
    Aggregate(Aggregate),
    /// Turns rows into records.
    Sink(Sink),
    /// As `Aggregate`, over windows that share rows: hopping ones by panes, sessions by merging.
    WindowAggregate { aggregate: Aggregate, kind: WindowKind },
    /// Holds the changes of each key back, and lets through what is left of them.
    Throttle(Throttle),
    /// As `Sink`; the rows that are there now are kept as well, for those who read the view. Rows of windows are dropped
    /// so long after the window's start.
    View { sink: Sink, retention_us: Option<i64> },
    /// Makes changes of the revisions of an upsert stream: what a key had goes, what it has comes. `key` is the column of
    /// the record's key, `gone` the one that is TRUE for a tombstone.
    FromUpsert { key: ColumnId, gone: ColumnId },
    /// Brings rows of two inputs together whose keys are equal.
    Join(Join),
    /// As `Join`, of two tables: the pairs change when either side does.
    JoinTables { join: Join, emit: Emit },
    /// The rows of all inputs, which have the same columns.
    Union,
    /// A row for each element of an array.
    Unnest(Unnest),
    /// What the rows before a row say of it.
    Over(Over),
    /// The place of a row among those of its partition.
    Rank(Rank),
    /// The same rows, each a microsecond before the time in that column, the end of its window; they come so much later.
    Retime { end: ColumnId, behind_us: i64 },
    /// The row that each key of an upsert stream has in the end: as `FromUpsert`, for a read that ends.
    Latest { key: ColumnId, gone: ColumnId },
    /// Reads what clients published to the topics of a filter.
    Homes(Homes),
    /// As `Join`, or as `JoinTables` where it says when that speaks; rows are a pair only if more holds of them.
    JoinIf {
        join: Join,
        tables: Option<Emit>,
        pair: Pair,
    },
    /// Of the rows that are there under a key, the one that came last: where rows go again and several may have one key.
    Newest { key: Vec<Expr> },
}

/// A column that an operator passes on, or makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Made {
    /// That one of the input.
    Input(ColumnId),
    /// The one of that number that the operator makes.
    New(u32),
}

/// A row for each element of an array; it makes one column, the element.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Unnest {
    /// An SQL array, or a JSON one.
    pub array: Expr,
    /// Where there is no element, the row stays, with NULL.
    pub outer: bool,
    /// The output's columns.
    pub output: Vec<Made>,
}

/// Functions of the rows that came before; each makes a column.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Over {
    /// In the order of the columns that they make.
    pub calls: Vec<OverCall>,
    /// The output's columns.
    pub output: Vec<Made>,
}

/// One function of the rows that came before.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct OverCall {
    /// Which one.
    pub function: OverFunction,
    /// PARTITION BY: rows of other values are not seen.
    pub partition: Vec<Expr>,
}

impl OverCall {
    /// The same over other columns.
    pub fn map(self, map: &impl Fn(&Expr) -> Expr) -> OverCall {
        OverCall {
            function: match self.function {
                OverFunction::Lag { value, rows, default } => OverFunction::Lag {
                    value: map(&value),
                    rows,
                    default: default.as_ref().map(map),
                },
                OverFunction::HadChanged(values) => OverFunction::HadChanged(values.iter().map(map).collect()),
            },
            partition: self.partition.iter().map(map).collect(),
        }
    }
}

/// The functions of the rows that came before.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub enum OverFunction {
    /// The value that so many rows before had; `default` where there is none.
    Lag {
        value: Expr,
        rows: u32,
        default: Option<Expr>,
    },
    /// Whether one of these differs from what it was in the row before; TRUE for the first row.
    HadChanged(Vec<Expr>),
}

/// Rows by partition, in order; it makes one column, the place, from 1.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Rank {
    /// PARTITION BY
    pub partition: Vec<Expr>,
    /// ORDER BY, over the input; of equals the one that came first is first.
    pub order: Vec<OrderBy>,
    /// Only the first ones come out, and are kept where rows never go.
    pub limit: Option<u64>,
    /// The output's columns.
    pub output: Vec<Made>,
    /// When it speaks.
    pub emit: Emit,
}

/// Two inputs: the left one is port 0.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Join {
    /// Which rows come out though nothing matches them.
    pub kind: JoinKind,
    /// Pairs that must be equal, each over its own side.
    pub keys: Vec<(Expr, Expr)>,
    /// How far apart their times may be. None: the right side is a table, whose row of now is looked up.
    pub within_us: Option<i64>,
    /// The output's columns.
    pub output: Vec<(Side, ColumnId)>,
}

/// What else must be so for two rows to be a pair.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Pair {
    /// The columns of both that it is about.
    pub columns: Vec<(Side, ColumnId)>,
    /// A condition over those.
    pub condition: Expr,
}

/// Which rows of a join come out though nothing matches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum JoinKind {
    /// None.
    Inner,
    /// Those of the left side.
    Left,
    /// Those of the right side.
    Right,
    /// Those of both.
    Full,
}

/// An input of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Side {
    /// Port 0.
    Left,
    /// Port 1.
    Right,
}

/// When held changes go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Throttle {
    /// EMIT PERIODIC: at multiples of a period since 1970, by the step's time.
    Every { us: i64 },
    /// EMIT ON SILENCE: once the key has not changed for so long, by the step's time.
    Silence { us: i64 },
}

/// How a row finds the shard of the record it becomes, and the topic that record goes out on.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Routing {
    /// The output stream's TOPIC.
    pub topic: Option<Template>,
    /// The columns of the key *without* the window; a constant for an aggregate without GROUP BY. Empty: the source
    /// record's id (never after an aggregate).
    pub key: Vec<Expr>,
}

/// `alerts/{device}/x`: parts in order.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Template {
    /// Concatenated.
    pub parts: Vec<TemplatePart>,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub enum TemplatePart {
    /// As it stands.
    Text(String),
    /// `{expr}`: its text, with `/ + # %` and NUL percent-encoded; `{+expr}` (`slashes`) lets `/` through.
    Value { expr: Expr, slashes: bool },
}

/// Assigns windows by event time.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Window {
    /// Of which kind.
    pub kind: WindowKind,
    /// How long after its end a window still takes rows: FINAL and joins 0 by default; CHANGES ten windows, at least
    /// 1 min, at most 24 h ([`Window::default_grace_us`]). The same as the aggregate's.
    pub grace_us: i64,
}

/// The kinds of windows.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum WindowKind {
    /// Of one size, one after the other, aligned to the epoch.
    Tumbling { size_us: i64 },
    /// Of one size, one begun after each advance, aligned to the epoch.
    Hopping { size_us: i64, advance_us: i64 },
    /// From a row until no other one has followed within the gap.
    Session { gap_us: i64 },
}

impl WindowKind {
    /// The length that GRACE is measured by.
    pub fn size_us(&self) -> i64 {
        match self {
            WindowKind::Tumbling { size_us } | WindowKind::Hopping { size_us, .. } => *size_us,
            WindowKind::Session { gap_us } => *gap_us,
        }
    }
}

impl Window {
    /// The GRACE of a window when the statement gives none.
    pub fn default_grace_us(size_us: i64, emit: Emit) -> i64 {
        const MINUTE_US: i64 = 60_000_000;
        match emit {
            Emit::Changes => size_us.saturating_mul(10).clamp(MINUTE_US, 24 * 60 * MINUTE_US),
            Emit::Final | Emit::AtEnd => 0,
        }
    }
}

/// Groups rows.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Aggregate {
    /// GROUP BY, without the window. Empty: one row for all.
    pub group: Vec<Expr>,
    /// The input columns that the window operator appended; `start` and `end` are its two, whatever they mean.
    pub window: Option<WindowColumns>,
    /// In the order of the output columns.
    pub calls: Vec<AggregateCall>,
    /// When it speaks.
    pub emit: Emit,
    /// After the end of a window, until its state goes (and FINAL speaks).
    pub grace_us: i64,
}

/// Where the window operator put its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct WindowColumns {
    /// `window_start`
    pub start: ColumnId,
    /// `window_end`
    pub end: ColumnId,
}

/// One aggregate function over one argument.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct AggregateCall {
    /// Which one.
    pub function: AggregateFunction,
    /// None: `COUNT(*)`.
    pub argument: Option<Expr>,
    /// `FILTER (WHERE …)`
    pub filter: Option<Expr>,
}

/// Turns rows into records. Its schema is the columns that people see (a `Star` is one column `*`).
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Sink {
    /// The members of the JSON object, in order.
    pub items: Vec<SinkItem>,
    /// The record's key, over the input: group columns and `window_start`, or the stream's KEY; a constant for an
    /// aggregate without GROUP BY and window. Empty: the source record's id (never after an aggregate).
    /// How it is written, and what a call of `RECORD_KEY` is: [`crate::record_key`].
    pub key: Vec<Expr>,
    /// Must agree with the Exchange's for the rows of one key.
    pub routing: Routing,
    /// QOS of the MQTT messages.
    pub qos: Qos,
    /// RETAIN of the MQTT messages.
    pub retain: bool,
}

/// A part of the JSON object that a sink writes.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum SinkItem {
    /// `"name": value`
    Column { name: String, column: ColumnId },
    /// All members of a [`SourceColumn::Star`], as they stand; those named by another item are left out.
    Star(ColumnId),
}

/// One ORDER BY item.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct OrderBy {
    /// Over the columns of the sink's input.
    pub expr: Expr,
    /// DESC; NULLs are then first, else last.
    pub descending: bool,
}

/// How records written *by name* (INSERT) are keyed, checked and addressed, bound from the stream's own options.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteRules {
    /// Reads the new record as queries will; `timestamp`, `delay_us`, `idle_us` and `start` are not used.
    pub source: Source,
    /// KEY over the source's columns; empty: no key.
    pub key: Vec<Expr>,
    /// TOPIC over the source's columns.
    pub topic: Option<Template>,
    /// Source columns that are NOT NULL, with their names.
    pub not_null: Vec<(ColumnId, String)>,
}
