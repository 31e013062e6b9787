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

use headwater_store::{Format, OnError, Qos, StreamForm, StreamId};

use crate::types::{DataType, Interval, Literal};

/// The version that [`Plan::encode`] writes.
pub const PLAN_VERSION: u32 = 1;
/// A stored plan is decoded under this limit.
const PLAN_BYTES_MAX: usize = 4 << 20;

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
        self.columns.push(SchemaColumn { name: name.into(), data_type });
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
    /// Appends the columns `window_start` and `window_end` (TIMESTAMP) by event time, and drops late rows.
    Window(Window),
    /// One row per key (and window): group columns, then `window_start` and `window_end` when windowed, then calls.
    Aggregate(Aggregate),
    /// Turns rows into records.
    Sink(Sink),
}

/// Reads a stream. Its schema has one column per entry of `columns`.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Source {
    /// The stream.
    pub stream: StreamId,
    /// Its name, for people.
    pub name: String,
    /// The stream's FORMAT.
    pub format: Format,
    /// The stream's ON_ERROR.
    pub on_error: OnError,
    /// The stream's form. Of an upsert stream every revision is a row; tombstones are none.
    pub form: StreamForm,
    /// What to take out of each record: only what the plan needs.
    pub columns: Vec<SourceColumn>,
    /// The stream's FROM TOPIC filters, as written; they give the `Capture` columns their values.
    pub captures: Vec<String>,
    /// The event time, over `columns`; None: append time. A row for which it is NULL has its append time.
    pub timestamp: Option<Expr>,
    /// How far the watermark stays behind the largest event time.
    pub delay_us: i64,
    /// After how long a silent shard leaves the watermark's minimum; None: as configured (`sql.idle`).
    pub idle_us: Option<i64>,
    /// Where to begin.
    pub start: Start,
}

/// What a source takes out of each record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum SourceColumn {
    /// A field of the payload: member names and array positions from the top; a value of another type than
    /// `data_type` is cast, and NULL where it cannot be. `Any`: as it is.
    ///
    /// A JSON payload that is not an object, and a TEXT or RAW one, has the one field `value`.
    Field { path: Vec<PathStep>, data_type: DataType },
    /// The whole JSON payload, as compact text in its own order and spelling: `SELECT *`.
    Star,
    /// `_payload`, BYTEA
    Payload,
    /// A `{name}` level of the captures, STRING.
    Capture(String),
    /// `_topic`, STRING
    Topic,
    /// `_topic[n]`, STRING: levels from 0, from the end when negative.
    TopicLevel(i32),
    /// `_key`: STRING where it is UTF-8, else BYTEA.
    Key,
    /// `_clientid`, STRING
    ClientId,
    /// `_username`, STRING
    Username,
    /// `_qos`, INTEGER
    Qos,
    /// `_retain`, BOOLEAN
    Retain,
    /// `_timestamp`, TIMESTAMP: the append time.
    AppendTime,
    /// `_offset`, INTEGER
    Offset,
    /// `_shard`, INTEGER
    Shard,
    /// `_properties`, JSONB: the MQTT user properties, the last one of a name.
    Properties,
}

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum PathStep {
    /// `.name`, `['name']`
    Member(String),
    /// `[n]`: from 0, from the end when negative.
    Index(i64),
}

/// Where a source begins. The statement's execution resolves all but `At` for a persistent query, once
/// (see [`Plan::resolve_start`]), so that each of its tasks begins at the same records, and those appended between
/// CREATE and the first step are in.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Start {
    /// After the newest record there is.
    Latest,
    /// FROM BEGINNING
    Earliest,
    /// FROM TIMESTAMP: the first record appended at that time (ms since the epoch) or after.
    Timestamp(i64),
    /// FROM OFFSET, in every shard.
    Offset(u64),
    /// The first offset to read, by shard number.
    At(Vec<u64>),
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
    /// The input columns that the window operator appended.
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

/// The aggregate functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum AggregateFunction {
    /// Rows, or rows with a value.
    Count,
    /// INTEGER widens to DECIMAL where it must; a FLOAT sum is exact until it is shown.
    Sum,
    /// FLOAT, or DECIMAL over DECIMAL.
    Avg,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
}

impl AggregateFunction {
    /// All, for suggestions.
    pub const ALL: &[AggregateFunction] = &[
        AggregateFunction::Count,
        AggregateFunction::Sum,
        AggregateFunction::Avg,
        AggregateFunction::Min,
        AggregateFunction::Max,
    ];

    /// In upper case.
    pub fn name(self) -> &'static str {
        match self {
            AggregateFunction::Count => "COUNT",
            AggregateFunction::Sum => "SUM",
            AggregateFunction::Avg => "AVG",
            AggregateFunction::Min => "MIN",
            AggregateFunction::Max => "MAX",
        }
    }

    /// By name, in any case.
    pub fn from_name(name: &str) -> Option<AggregateFunction> {
        AggregateFunction::ALL.iter().copied().find(|function| function.name().eq_ignore_ascii_case(name))
    }

    /// The type of its result.
    pub fn returns(self, argument: &DataType) -> DataType {
        match self {
            AggregateFunction::Count => DataType::Integer,
            // SUM of INTEGER may widen to DECIMAL, so that its type is known only at run time.
            AggregateFunction::Sum if *argument == DataType::Integer => DataType::Any,
            AggregateFunction::Avg if *argument == DataType::Integer => DataType::Float,
            AggregateFunction::Sum | AggregateFunction::Avg => match argument {
                DataType::Decimal(_) => DataType::Decimal(None),
                other => other.clone(),
            },
            AggregateFunction::Min | AggregateFunction::Max => argument.clone(),
        }
    }
}

/// Turns rows into records. Its schema is the columns that people see (a `Star` is one column `*`).
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Sink {
    /// The members of the JSON object, in order.
    pub items: Vec<SinkItem>,
    /// The record's key, over the input: group columns and `window_start`, or the stream's KEY; a constant for an
    /// aggregate without GROUP BY and window. Empty: the source record's id (never after an aggregate).
    /// One STRING is its text; anything else is JSON, several a JSON array.
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

/// An expression over the columns of a node's input.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub enum Expr {
    /// A column of the input.
    Column(ColumnId),
    /// A constant.
    Literal(Literal),
    /// NOT, `-`, IS NULL …
    Unary { op: UnaryOp, operand: Box<Expr> },
    /// `+`, `=`, AND …
    Binary { op: BinaryOp, left: Box<Expr>, right: Box<Expr> },
    /// A scalar function by its stable (canonical, upper-case) name, see [`crate::function::lookup`].
    Call { function: String, arguments: Vec<Expr> },
    /// `CAST(x AS t)`, `x::t`: NULL and an error row where it cannot be.
    Cast { operand: Box<Expr>, to: DataType },
    /// `a.b`, `a['b']`, `a[0]`, `->` into a JSON value; `as_text` is `->>`: STRING.
    Path { operand: Box<Expr>, steps: Vec<PathStep>, as_text: bool },
    /// `CASE WHEN c THEN v … ELSE e END`; `CASE x WHEN v` is bound as `x = v`.
    Case { branches: Vec<(Expr, Expr)>, otherwise: Option<Box<Expr>> },
    /// `x IN (a, b)`
    In { operand: Box<Expr>, list: Vec<Expr>, negated: bool },
    /// `x LIKE p`: `%`, `_`, and an escape character (`\` when the statement gives none).
    Like { operand: Box<Expr>, pattern: Box<Expr>, escape: Option<char>, negated: bool },
    /// `[a, b]`
    Array(Vec<Expr>),
}

/// Operators with one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum UnaryOp {
    /// NOT
    Not,
    /// `-`
    Negate,
    /// IS NULL
    IsNull,
    /// IS NOT NULL
    IsNotNull,
}

/// Operators with two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum BinaryOp {
    /// `+`: numbers; TIMESTAMP or DATE and INTERVAL.
    Add,
    /// `-`: as `+`; also two TIMESTAMPs give an INTERVAL.
    Subtract,
    /// `*`
    Multiply,
    /// `/`: FLOAT, or DECIMAL when an operand is one and none is FLOAT.
    Divide,
    /// DIV: INTEGER, truncated.
    IntegerDivide,
    /// `%`, with the sign of the dividend.
    Modulo,
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// Three-valued.
    And,
    /// Three-valued.
    Or,
    /// `||`: texts, or a text and the text of anything; NULL if one is.
    Concat,
}

impl Expr {
    /// The types that operators and functions give, as far as they are known before a record is seen.
    pub fn data_type(&self, input: &Schema) -> DataType {
        match self {
            Expr::Column(column) => {
                input.columns.get(column.index()).map_or(DataType::Any, |column| column.data_type.clone())
            }
            Expr::Literal(literal) => literal.data_type(),
            Expr::Unary { op: UnaryOp::Negate, operand } => operand.data_type(input),
            Expr::Unary { .. } | Expr::In { .. } | Expr::Like { .. } => DataType::Boolean,
            Expr::Binary { op, left, right } => op.returns(&left.data_type(input), &right.data_type(input)),
            Expr::Call { function, arguments } => crate::function::lookup(function).map_or(DataType::Any, |function| {
                let types: Vec<_> = arguments.iter().map(|argument| argument.data_type(input)).collect();
                function.returns(&types)
            }),
            Expr::Cast { to, .. } => to.clone(),
            Expr::Path { as_text: true, .. } => DataType::String,
            Expr::Path { .. } => DataType::Any,
            Expr::Case { branches, otherwise } => {
                let results = branches.iter().map(|(_, result)| result).chain(otherwise.as_deref());
                common_type(results.map(|result| result.data_type(input)))
            }
            Expr::Array(items) => {
                DataType::Array(Box::new(common_type(items.iter().map(|item| item.data_type(input)))))
            }
        }
    }

    /// Itself and everything below it, parents first.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        let mut each = |expr: &'a Expr| expr.walk(visit);
        match self {
            Expr::Column(_) | Expr::Literal(_) => {}
            Expr::Unary { operand, .. } | Expr::Cast { operand, .. } | Expr::Path { operand, .. } => each(operand),
            Expr::Binary { left, right, .. } => {
                each(left);
                each(right);
            }
            Expr::Call { arguments, .. } => arguments.iter().for_each(each),
            Expr::Case { branches, otherwise } => {
                for (condition, result) in branches {
                    each(condition);
                    each(result);
                }
                otherwise.iter().for_each(|expr| each(expr));
            }
            Expr::In { operand, list, .. } => {
                each(operand);
                list.iter().for_each(each);
            }
            Expr::Like { operand, pattern, .. } => {
                each(operand);
                each(pattern);
            }
            Expr::Array(items) => items.iter().for_each(each),
        }
    }
}

/// The one type all have, NULLs aside; `Any` where they differ.
fn common_type(types: impl Iterator<Item = DataType>) -> DataType {
    let mut known = types.filter(|data_type| *data_type != DataType::Any);
    let first = known.next().unwrap_or(DataType::Any);
    if known.all(|data_type| data_type == first) { first } else { DataType::Any }
}

impl BinaryOp {
    /// The type of its result.
    pub fn returns(self, left: &DataType, right: &DataType) -> DataType {
        use DataType::{Any, Date, Decimal, Float, Integer, Timestamp};
        match self {
            BinaryOp::Add | BinaryOp::Subtract | BinaryOp::Multiply | BinaryOp::Modulo => match (left, right) {
                (Integer, Integer) => Integer,
                (Float, Integer | Float | Decimal(_)) | (Integer | Decimal(_), Float) => Float,
                (Decimal(_), Integer | Decimal(_)) | (Integer, Decimal(_)) => Decimal(None),
                (Timestamp, Timestamp) => DataType::Interval,
                (Timestamp | Date, DataType::Interval) | (DataType::Interval, Timestamp | Date) => Timestamp,
                (DataType::Interval, _) | (_, DataType::Interval) => DataType::Interval,
                _ => Any,
            },
            BinaryOp::Divide => match (left, right) {
                (Any, _) | (_, Any) => Any,
                (Float, _) | (_, Float) => Float,
                (Decimal(_), _) | (_, Decimal(_)) => Decimal(None),
                _ => Float,
            },
            BinaryOp::IntegerDivide => Integer,
            BinaryOp::Concat => DataType::String,
            _ => DataType::Boolean,
        }
    }
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

/// Why stored bytes are not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Written by a later Headwater.
    #[error("the plan has version {found}, this headwater reads up to {PLAN_VERSION}")]
    Version { found: u32 },
    /// Not a plan.
    #[error("the plan cannot be read: {0}")]
    Damaged(String),
    /// A plan that breaks its own rules.
    #[error("the plan makes no sense: {0}")]
    Invalid(String),
}

impl Plan {
    /// As bytes: the version, big-endian, then the nodes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = PLAN_VERSION.to_be_bytes().to_vec();
        let body = bincode::encode_to_vec(self, bincode::config::standard());
        bytes.extend(body.expect("plan types encode into memory without fail"));
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Plan, PlanError> {
        let (version, body) =
            bytes.split_first_chunk::<4>().ok_or_else(|| PlanError::Damaged("it is too short".into()))?;
        let found = u32::from_be_bytes(*version);
        if found != PLAN_VERSION {
            return Err(PlanError::Version { found });
        }
        let config = bincode::config::standard().with_limit::<PLAN_BYTES_MAX>();
        let (plan, read) = bincode::decode_from_slice::<Plan, _>(body, config)
            .map_err(|error| PlanError::Damaged(error.to_string()))?;
        if read != body.len() {
            return Err(PlanError::Damaged(format!("{} bytes follow it", body.len() - read)));
        }
        plan.check()?;
        Ok(plan)
    }

    /// What every plan keeps to; the runtime relies on it.
    pub fn check(&self) -> Result<(), PlanError> {
        let invalid = |what: &str| Err(PlanError::Invalid(what.to_owned()));
        let mut seen: Vec<&Node> = Vec::new();
        for node in &self.nodes {
            if seen.iter().any(|earlier| earlier.id == node.id) {
                return invalid("an operator id is used twice");
            }
            let inputs = node.inputs.iter().map(|id| seen.iter().find(|earlier| earlier.id == *id));
            let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else {
                return invalid("an operator comes before its input");
            };
            let wanted = usize::from(!matches!(node.op, Op::Source(_)));
            if inputs.len() != wanted {
                return invalid("an operator has the wrong number of inputs");
            }
            let width = match &node.op {
                Op::Source(source) => source.columns.len(),
                _ => inputs[0].schema.columns.len(),
            };
            let mut known = true;
            node.op.expressions(&mut |expr| {
                expr.walk(&mut |part| {
                    if let Expr::Column(column) = part {
                        known &= column.index() < width;
                    }
                });
            });
            let extremes = |call: &AggregateCall| {
                matches!(call.function, AggregateFunction::Min | AggregateFunction::Max)
            };
            if let Op::Aggregate(aggregate) = &node.op {
                if inputs[0].form != Form::Append && aggregate.calls.iter().any(extremes) {
                    return invalid("MIN and MAX of rows that go again are not supported yet");
                }
            }
            if !known {
                return invalid("an expression reads a column that is not there");
            }
            seen.push(node);
        }
        let Some((_, sink)) = self.sink() else { return invalid("the last operator is not a sink") };
        let width = seen.iter().rev().nth(1).map_or(0, |input| input.schema.columns.len());
        let known = sink.items.iter().all(|item| match item {
            SinkItem::Column { column, .. } | SinkItem::Star(column) => column.index() < width,
        });
        if !known {
            return invalid("the sink reads a column that is not there");
        }
        let aggregates = self.nodes.iter().any(|node| matches!(node.op, Op::Aggregate(_)));
        let exchanges_by_record = |node: &Node| matches!(&node.op, Op::Exchange(routing) if routing.key.is_empty());
        if aggregates && (sink.key.is_empty() || self.nodes.iter().any(exchanges_by_record)) {
            return invalid("an aggregate's rows have no key");
        }
        Ok(())
    }

    /// The sources, with their operators.
    pub fn sources(&self) -> impl Iterator<Item = (OperatorId, &Source)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Source(source) => Some((node.id, source)),
            _ => None,
        })
    }

    /// The sources, to resolve their starts.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        self.nodes.iter_mut().filter_map(|node| match &mut node.op {
            Op::Source(source) => Some(source),
            _ => None,
        })
    }

    /// The last node and its sink.
    pub fn sink(&self) -> Option<(&Node, &Sink)> {
        self.nodes.last().and_then(|node| match &node.op {
            Op::Sink(sink) => Some((node, sink)),
            _ => None,
        })
    }

    /// The streams it reads, each once.
    pub fn inputs(&self) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.sources().map(|(_, source)| source.stream).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The form of the stream that a persistent query with this plan writes.
    pub fn output_form(&self) -> StreamForm {
        match self.nodes.last().map(|node| node.form) {
            Some(Form::Append) | None => StreamForm::Append,
            Some(Form::Upsert | Form::Retract) => StreamForm::Upsert,
        }
    }
}

impl Op {
    /// All expressions of this operator.
    pub fn expressions<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Op::Source(source) => source.timestamp.iter().for_each(visit),
            Op::Filter(predicate) => visit(predicate),
            Op::Project(columns) => columns.iter().for_each(visit),
            Op::Exchange(routing) => routing.expressions(visit),
            Op::Window(_) => {}
            Op::Aggregate(aggregate) => {
                aggregate.group.iter().for_each(&mut *visit);
                for call in &aggregate.calls {
                    call.argument.iter().chain(&call.filter).for_each(&mut *visit);
                }
            }
            Op::Sink(sink) => {
                sink.key.iter().for_each(&mut *visit);
                sink.routing.expressions(visit);
            }
        }
    }
}

impl Routing {
    fn expressions<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        self.key.iter().for_each(&mut *visit);
        let parts = self.topic.iter().flat_map(|template| &template.parts);
        for part in parts {
            if let TemplatePart::Value { expr, .. } = part {
                visit(expr);
            }
        }
    }
}

/// INTERVAL of a plan, in microseconds, where the calendar must not matter.
impl From<Interval> for Literal {
    fn from(interval: Interval) -> Literal {
        Literal::Interval(interval)
    }
}
