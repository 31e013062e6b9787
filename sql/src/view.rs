//! Views and tables: the rows that are there now, read by key or all of them.
//!
//! A view is a stream (its changes, `v$log`) whose query also keeps, in the state of its last operator, the row that each
//! key has (`operator/sink.rs`). A read takes those rows as if they were records, and runs the SELECT over them. It never
//! waits for the query and never holds it up.
//!
//! ```text
//! QUERY_STATE   query | slot of the key without its window | operator | 0 | key, in the order of its values  ->  row
//! ```
//!
//! Where WHERE says what each column of the key without the window is, the rows are looked up under those: windows of
//! one device are next to each other. Else all rows of the query are read, in one pass over each group, which sees the
//! state of one moment; the order of the rows is that of their keys.

mod rows;

use headwater_store::{
    Catalog, GroupId, Offset, QueryRow, Record, ShardId, Store, StreamRow, TimestampMs, decode_control, slot, tables,
};

use crate::ast::{ObjectKind, StatementKind};
use crate::change::RecordId;
use crate::error::{SqlError, codes};
use crate::limits::VIEW_ROWS_BYTES_MAX;
use crate::operator::{VIEW_ROWS, ViewRow};
use crate::parse::parse;
use crate::plan::physical::{
    BinaryOp, ColumnId, Expr, Node, Op, OperatorId, PathStep, Plan, SinkItem, Source, SourceColumn,
};
use crate::types::{DataType, Literal};
use crate::value::{Value, encode_key};

/// What a stream was made as: a view, a table, or else a stream.
pub(crate) fn kind_of(stream: &StreamRow) -> ObjectKind {
    // Most are plain streams, and need no parsing to be seen as such.
    let second = stream.sql.split_whitespace().nth(1).unwrap_or("STREAM");
    if second.eq_ignore_ascii_case("STREAM") {
        return ObjectKind::Stream;
    }
    match parse(&stream.sql)
        .ok()
        .and_then(|statements| statements.into_iter().next())
    {
        Some(statement) => match statement.kind {
            StatementKind::CreateStream(create) => create.kind,
            _ => ObjectKind::Stream,
        },
        None => ObjectKind::Stream,
    }
}

/// The rows that a stream has now are kept.
pub(crate) fn is_view(stream: &StreamRow) -> bool {
    stream.query.is_some() && kind_of(stream) != ObjectKind::Stream
}

/// A view that can be read.
pub(crate) struct View {
    query: u64,
    plan: Plan,
    stream: std::sync::Arc<StreamRow>,
}

/// The rows under one key without its window.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lookup {
    slot: u16,
    prefix: Vec<u8>,
}

impl View {
    /// The view that a source reads, where it is one.
    pub fn of(catalog: &Catalog, source: &Source) -> Option<View> {
        let stream = catalog.stream_by_id(source.stream)?.clone();
        // Else it is the log of its changes that is asked for.
        if source.name != stream.name {
            return None;
        }
        let query: &QueryRow = catalog.queries.get(stream.query.as_ref()?)?;
        let plan = Plan::decode(&query.plan).ok()?;
        plan.view()?;
        Some(View {
            query: query.id,
            plan,
            stream,
        })
    }

    /// Where its rows seem to come from.
    pub fn shard(&self) -> ShardId {
        self.stream.shard(0)
    }

    /// Its rows as records, in the order of their keys; those that the reader's plan cannot use may be left out.
    pub async fn rows(&self, store: &Store, reader: &Plan) -> Result<Vec<(RecordId, Record)>, SqlError> {
        let Some(node) = self.plan.view() else {
            return Ok(Vec::new());
        };
        let lookup = self.lookup(reader);
        let mut groups: Vec<GroupId> = self.stream.shards.clone();
        groups.sort_unstable();
        groups.dedup();
        let mut rows = Vec::new();
        for group in groups {
            let table = store.table(group, tables::QUERY_STATE);
            let (query, operator, lookup) = (self.query, node.id.0, lookup.clone());
            let read = move || {
                let prefix = match &lookup {
                    Some(lookup) => [&state_prefix(query, lookup.slot, operator)[..], &lookup.prefix].concat(),
                    None => query.to_be_bytes().to_vec(),
                };
                table.scan(&prefix, &[], usize::MAX)
            };
            let found = store.blocking(read).await?;
            rows.extend(
                found
                    .into_iter()
                    .filter_map(|(key, row)| Some((of_view(&key, node)?, row))),
            );
            let bytes: usize = rows.iter().map(|(key, row)| key.len() + row.len()).sum();
            if bytes > VIEW_ROWS_BYTES_MAX {
                let message = format!("the view has more than {} MiB of rows", VIEW_ROWS_BYTES_MAX >> 20);
                return Err(SqlError::new(codes::TOO_LARGE, message)
                    .help("ask for the rows of one key: WHERE with `=` on each column of its key"));
            }
        }
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let timestamp = store.now();
        let record = |(number, (_, row)): (usize, (Vec<u8>, bytes::Bytes))| self.record(number, &row, timestamp);
        rows.into_iter().enumerate().map(record).collect()
    }

    fn record(&self, number: usize, row: &[u8], timestamp: TimestampMs) -> Result<(RecordId, Record), SqlError> {
        let stored: ViewRow = decode_control(row).map_err(|error| SqlError::new(codes::DAMAGED, error.to_string()))?;
        let record = Record {
            timestamp,
            key: Some(stored.key.into()),
            ..Record::new(stored.payload)
        };
        let id = RecordId {
            shard: self.shard(),
            offset: Offset(number as u64),
        };
        Ok((id, record))
    }

    /// What WHERE says of the key, if it says all of it but the window.
    fn lookup(&self, reader: &Plan) -> Option<Lookup> {
        let (source, filter) = self.only_filter(reader)?;
        let mut known: Vec<(&str, &Literal)> = Vec::new();
        equalities(filter, source, &mut known);
        let mut prefix = Vec::new();
        for name in self.key_names()? {
            let (_, literal) = known.iter().find(|(known, _)| *known == name)?;
            encode_key(&Value::from(*literal), &mut prefix);
        }
        Some(Lookup {
            slot: slot(&prefix),
            prefix,
        })
    }

    /// The source that reads the view, and the condition that all its rows have to pass, where there is one of each.
    fn only_filter<'p>(&self, reader: &'p Plan) -> Option<(&'p Source, &'p Expr)> {
        let own = |(_, source): &(OperatorId, &Source)| source.stream == self.stream.id;
        let mut sources = reader.sources().filter(own);
        let (Some((id, source)), None) = (sources.next(), sources.next()) else {
            return None;
        };
        let mut users = reader.nodes.iter().filter(|node| node.inputs.contains(&id));
        match (users.next().map(|node| &node.op), users.next()) {
            (Some(Op::Filter(filter)), None) => Some((source, filter)),
            _ => None,
        }
    }

    /// What the columns of the key without the window are called in its rows; None where one is not selected, or may be
    /// written otherwise there than its value is (times are text in JSON).
    fn key_names(&self) -> Option<Vec<&str>> {
        let (_, sink) = self.plan.sink()?;
        let input = self.plan.nodes.iter().rev().nth(1)?;
        let name = |expr: &Expr| {
            let Expr::Column(column) = expr else { return None };
            let data_type = &input.schema.columns.get(column.index())?.data_type;
            let plain = matches!(data_type, DataType::String | DataType::Integer | DataType::Boolean);
            if !plain && !self.is_field(*column, self.plan.nodes.len() - 2) {
                return None;
            }
            sink.items.iter().find_map(|item| match item {
                SinkItem::Column { name, column: shown } if shown == column => Some(name.as_str()),
                _ => None,
            })
        };
        if sink.routing.key.is_empty() {
            return None;
        }
        sink.routing.key.iter().map(name).collect()
    }

    /// The column of that node's output is a field of a payload as it stands: text, a number or a truth.
    fn is_field(&self, column: ColumnId, node: usize) -> bool {
        let Some(Node { op, schema, .. }) = self.plan.nodes.get(node) else {
            return false;
        };
        let through = |expr: Option<&Expr>| match (expr, node.checked_sub(1)) {
            (Some(Expr::Column(column)), Some(input)) => self.is_field(*column, input),
            _ => false,
        };
        match op {
            Op::Source(source) => match source.columns.get(column.index()) {
                Some(SourceColumn::Field { data_type, .. }) => *data_type == DataType::Any,
                Some(SourceColumn::Capture(_)) => true,
                _ => false,
            },
            Op::Project(exprs) => through(exprs.get(column.index())),
            Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => {
                through(aggregate.group.get(column.index()))
            }
            _ => column.index() < schema.columns.len() && through(Some(&Expr::Column(column))),
        }
    }
}

/// The `field = constant` that must hold for the whole to hold.
fn equalities<'a>(filter: &'a Expr, source: &'a Source, known: &mut Vec<(&'a str, &'a Literal)>) {
    let Expr::Binary { op, left, right } = filter else {
        return;
    };
    match (op, left.as_ref(), right.as_ref()) {
        (BinaryOp::And, left, right) => {
            equalities(left, source, known);
            equalities(right, source, known);
        }
        (BinaryOp::Equal, Expr::Column(column), Expr::Literal(literal))
        | (BinaryOp::Equal, Expr::Literal(literal), Expr::Column(column)) => {
            let plain = matches!(
                literal,
                Literal::String(_) | Literal::Integer(_) | Literal::Float(_) | Literal::Boolean(_)
            );
            if let (true, Some(SourceColumn::Field { path, .. })) = (plain, source.columns.get(column.index()))
                && let [PathStep::Member(name)] = path.as_slice()
            {
                known.push((name, literal));
            }
        }
        _ => {}
    }
}

fn state_prefix(query: u64, slot: u16, operator: u32) -> [u8; 15] {
    let mut bytes = [0; 15];
    bytes[..8].copy_from_slice(&query.to_be_bytes());
    bytes[8..10].copy_from_slice(&slot.to_be_bytes());
    bytes[10..14].copy_from_slice(&operator.to_be_bytes());
    bytes[14] = VIEW_ROWS;
    bytes
}

/// The key of a row of the view, where a row of state is one.
fn of_view(key: &[u8], node: &Node) -> Option<Vec<u8>> {
    let (prefix, rest) = key.split_first_chunk::<15>()?;
    let is_its = prefix[10..14] == node.id.0.to_be_bytes() && prefix[14] == VIEW_ROWS;
    is_its.then(|| rest.to_vec())
}
