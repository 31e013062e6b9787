//! ROW_NUMBER: the first rows of each partition, in an order, and what number each has.
//!
//! ```text
//! rows   partition | ORDER BY | time, record | digest of the values  ->  values, how often, time, record
//! ```
//!
//! It is also what keeps the newest of several rows of one key, of which any may go: there the partition is the key, and the
//! order is by time, then by record, the last one first.
//!
//! Where rows never go again, only those are kept that have a number to come out under. At the end of a step each
//! partition that has changed is compared with what it was: under each number the old row goes and the new one comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_store::{decode_control, encode_control};

use super::join::by_value;
use super::{Operator, Place, Port, report};
use crate::change::{Delta, Diff, RecordId};
use crate::column::{Column, Columns};
use crate::expression::{Expression, Faults};
use crate::limits::GROUPS_IN_MEMORY_MAX;
use crate::plan::physical::{ColumnId, Emit, Expr, Made, Node, OperatorId, PlanError};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{StoredValue, Value, encode_key};

/// The table of rows.
const ROWS: u8 = 0;

#[derive(Debug)]
pub(super) struct Rank {
    operator: OperatorId,
    partition: Vec<Expression>,
    order: Vec<(Expression, bool)>,
    limit: Option<usize>,
    /// Of each partition the row that came last, whatever the order.
    newest: bool,
    output: Vec<Made>,
    /// Rows of the input go again.
    retracts: bool,
    /// A read that ends speaks at its end.
    at_end: bool,
    /// The partitions of this step, with the rows that they had at its begin; at the end of a read, all of them.
    changed: BTreeMap<Vec<u8>, Vec<Ranked>>,
    seen: BTreeSet<Vec<u8>>,
    held: usize,
    held_max: Option<usize>,
}

/// A row in its place.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Ranked {
    values: Vec<StoredValue>,
    count: i64,
    time: TimestampUs,
    origin: RecordId,
}

impl Rank {
    pub fn new(
        node: &Node,
        rank: &crate::plan::physical::Rank,
        retracts: bool,
        place: &Place,
    ) -> Result<Rank, PlanError> {
        let order = rank
            .order
            .iter()
            .map(|item| Ok((Expression::compile(&item.expr)?, item.descending)));
        Ok(Rank {
            operator: node.id,
            partition: rank
                .partition
                .iter()
                .map(Expression::compile)
                .collect::<Result<_, _>>()?,
            order: order.collect::<Result<_, PlanError>>()?,
            limit: rank.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            newest: false,
            output: rank.output.clone(),
            retracts,
            at_end: rank.emit == Emit::AtEnd,
            changed: BTreeMap::new(),
            seen: BTreeSet::new(),
            held: 0,
            held_max: place.in_memory().then_some(GROUPS_IN_MEMORY_MAX),
        })
    }

    /// Of the rows of a key the newest.
    pub fn newest(node: &Node, key: &[Expr], place: &Place) -> Result<Rank, PlanError> {
        let rank = crate::plan::physical::Rank {
            partition: key.to_vec(),
            order: Vec::new(),
            limit: Some(1),
            output: (0..node.schema.columns.len() as u32)
                .map(|column| Made::Input(ColumnId(column)))
                .collect(),
            emit: Emit::Changes,
        };
        Ok(Rank {
            newest: true,
            ..Rank::new(node, &rank, true, place)?
        })
    }

    /// The first rows of a partition, each as often as it is there.
    fn first(&self, partition: &[u8], step: &Step<'_>) -> Result<Vec<Ranked>, Stop> {
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut first: Vec<Ranked> = Vec::new();
        for (_, row) in step.rows(ROWS, &Key::new(partition.to_vec(), partition.len()))? {
            let row: Ranked = decode_control(&row).map_err(|_| Stop::State(self.operator))?;
            if self.newest {
                let when = |row: &Ranked| (row.time, row.origin);
                if first.first().is_none_or(|newest| when(newest) < when(&row)) {
                    first = vec![row];
                }
                continue;
            }
            let times = usize::try_from(row.count).unwrap_or(0).min(limit - first.len());
            first.extend(std::iter::repeat_n(row, times));
            if first.len() == limit {
                break;
            }
        }
        Ok(first)
    }

    fn take(&mut self, place: &Key, row: Ranked, partition: &[u8], step: &mut Step<'_>) -> Result<(), Stop> {
        let mut kept = match step.get(ROWS, place)? {
            Some(kept) => decode_control(&kept).map_err(|_| Stop::State(self.operator))?,
            None => Ranked {
                count: 0,
                ..row.clone()
            },
        };
        kept.count += row.count;
        if self.newest && row.count > 0 {
            (kept.time, kept.origin) = (kept.time, kept.origin).max((row.time, row.origin));
        }
        if kept.count <= 0 {
            step.delete(ROWS, place);
            self.held = self.held.saturating_sub(1);
            return Ok(());
        }
        if self.held_max.is_some_and(|max| self.held >= max) {
            return Err(Stop::TooManyGroups(self.held));
        }
        self.held += 1;
        step.put(ROWS, place, encode_control(&kept));
        match self.limit {
            Some(limit) if !self.retracts => self.forget_last(partition, limit, step),
            _ => Ok(()),
        }
    }

    /// What stands behind the last number can never get one.
    fn forget_last(&mut self, partition: &[u8], limit: usize, step: &mut Step<'_>) -> Result<(), Stop> {
        let rows = step.rows(ROWS, &Key::new(partition.to_vec(), partition.len()))?;
        for (place, _) in rows.iter().skip(limit) {
            step.delete(ROWS, place);
            self.held = self.held.saturating_sub(1);
        }
        Ok(())
    }

    fn speak(&mut self, step: &mut Step<'_>) -> Result<(), Stop> {
        let mut said = Said::default();
        for (partition, before) in std::mem::take(&mut self.changed) {
            let after = self.first(&partition, step)?;
            for number in 0..before.len().max(after.len()) {
                let (old, new) = (before.get(number), after.get(number));
                if old.map(|row| &row.values) != new.map(|row| &row.values) {
                    old.into_iter().for_each(|row| said.push(row, number, -1));
                    new.into_iter().for_each(|row| said.push(row, number, 1));
                }
            }
        }
        step.emit(said.delta(&self.output, self.at_end));
        Ok(())
    }
}

/// NULLs last, or first where the order is the other way round.
fn encode_order(columns: &[(Arc<Column>, bool)], row: usize, bytes: &mut Vec<u8>) {
    for (column, descending) in columns {
        let from = bytes.len();
        bytes.push(u8::from(column.get(row).is_null()));
        column.encode_key(row, bytes);
        if *descending {
            bytes[from..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

impl Operator for Rank {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let (mut faults, scope) = (Faults::default(), step.scope());
        let mut evaluate = |expression: &Expression| expression.evaluate(&delta.rows, &scope, &mut faults);
        let partition: Vec<_> = self.partition.iter().map(&mut evaluate).collect();
        let order = self
            .order
            .iter()
            .map(|(expr, descending)| (evaluate(expr), *descending));
        let order: Vec<_> = order.collect();
        report(&faults, &delta.origin, step);
        for row in 0..delta.len() {
            let mut bytes = Vec::new();
            partition.iter().for_each(|column| column.encode_key(row, &mut bytes));
            let spread_by = bytes.len();
            let of = bytes.clone();
            if self.at_end {
                self.seen.insert(of.clone());
            } else if !self.changed.contains_key(&of) {
                let before = self.first(&of, step)?;
                self.changed.insert(of.clone(), before);
            }
            encode_order(&order, row, &mut bytes);
            let (time, origin) = (delta.time[row], delta.origin[row]);
            if !self.retracts {
                encode_key(&Value::Timestamp(time.0), &mut bytes);
                for number in [origin.shard.stream.0, u64::from(origin.shard.number), origin.offset.0] {
                    encode_key(&Value::Integer(number as i64), &mut bytes);
                }
            }
            let value = |column: usize| StoredValue(delta.rows.column(column).get(row).into_owned());
            let values: Vec<_> = (0..delta.rows.width()).map(value).collect();
            let place = Key {
                bytes: by_value(&bytes, &values).bytes,
                slot: Key::new(of.clone(), spread_by).slot,
            };
            let count = i64::from(delta.weight(row));
            let ranked = Ranked {
                values,
                count,
                time,
                origin,
            };
            self.take(&place, ranked, &of, step)?;
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        if !self.at_end {
            return self.speak(step);
        }
        if watermark == TimestampUs::MAX {
            let all = std::mem::take(&mut self.seen);
            self.changed = all.into_iter().map(|partition| (partition, Vec::new())).collect();
            self.speak(step)?;
        }
        Ok(())
    }
}

/// Rows with their numbers, gathered.
#[derive(Default)]
struct Said {
    columns: Vec<Vec<Value>>,
    numbers: Vec<Value>,
    weights: Vec<i32>,
    time: Vec<TimestampUs>,
    origin: Vec<RecordId>,
}

impl Said {
    fn push(&mut self, row: &Ranked, number: usize, weight: i32) {
        self.columns.resize_with(row.values.len(), Vec::new);
        let pairs = self.columns.iter_mut().zip(&row.values);
        pairs.for_each(|(column, value)| column.push(value.0.clone()));
        self.numbers.push(Value::Integer(number as i64 + 1));
        self.weights.push(weight);
        self.time.push(row.time);
        self.origin.push(row.origin);
    }

    fn delta(self, output: &[Made], at_end: bool) -> Delta {
        let rows = self.weights.len();
        let columns: Vec<_> = self
            .columns
            .into_iter()
            .map(|values| Arc::new(Column::from_values(values)))
            .collect();
        let numbers = Arc::new(Column::from_values(self.numbers));
        let column = |made: &Made| match made {
            Made::Input(column) => columns.get(column.index()).unwrap_or(&numbers).clone(),
            Made::New(_) => numbers.clone(),
        };
        Delta {
            rows: Columns::new(output.iter().map(column).collect(), rows),
            diff: match at_end {
                true => Diff::Append,
                false => Diff::Weights(self.weights),
            },
            time: self.time.into(),
            origin: self.origin.into(),
            frontier: vec![TimestampUs::MIN; rows].into(),
        }
    }
}
