//! The predicate index: which standing filters a micro-batch concerns, without asking each of them.
//!
//! A filter comes in by one of its conditions, its *access*: `column = literal` (or IN literals) through a hash table of the
//! column's values, `column > literal` and the like through a sorted list of bounds. The rows found so are tested against
//! the filter's other simple conditions. What is left may still be refused by the query's own Filter, which always runs:
//! so the index may let too much through, and must never hold anything back.
//!
//! Filters that are equal are one entry with several users.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use headwater_store::encode_control;

use crate::column::{Column, Columns};
use crate::expression::compare_values;
use crate::plan::physical::{BinaryOp, Expr, UnaryOp};
use crate::value::{Value, encode_key};

/// The number of a distinct filter.
type Entry = usize;

/// All filters of the queries on one stream.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Filter>,
    /// By the filter's encoding.
    known: HashMap<Vec<u8>, Entry>,
    equal: Vec<(usize, Equal)>,
    bounds: Vec<(usize, Bounds)>,
    /// Entries that have rows in the batch being looked at.
    touched: Vec<Entry>,
}

#[derive(Debug)]
struct Filter {
    tests: Vec<Test>,
    users: Vec<u64>,
    rows: Vec<u32>,
}

/// `column op literal`
#[derive(Debug, Clone)]
struct Test {
    column: usize,
    op: BinaryOp,
    literal: Value,
}

/// The filters that come in by `column = literal`.
#[derive(Debug, Default)]
struct Equal {
    by_key: HashMap<Vec<u8>, Vec<Entry>, RandomState>,
    /// All of them: for values that may equal a literal of another type.
    all: Vec<Entry>,
}

/// The filters that come in by `column > literal` (`column < literal`), by their literals. Some are not in order yet.
#[derive(Debug, Default)]
struct Bounds {
    above: Vec<(f64, Entry)>,
    below: Vec<(f64, Entry)>,
    sorted: bool,
}

/// How rows find a filter.
enum Access {
    Equal(usize, Vec<Value>),
    Above(usize, f64),
    Below(usize, f64),
}

/// The filter can come in: it has an access, and evaluating it tells of no fault, which each query that reads the record
/// would have to tell.
pub(super) fn is_indexable(filter: &Expr) -> bool {
    is_truth(filter) && access(&conditions(filter)).is_some()
}

impl Index {
    /// Adds a user of a filter that is indexable.
    pub fn add(&mut self, filter: &Expr, user: u64) {
        let encoded = encode_control(filter).to_vec();
        if let Some(entry) = self.known.get(&encoded) {
            return self.entries[*entry].users.push(user);
        }
        let conditions = conditions(filter);
        let Some(access) = access(&conditions) else { return };
        let entry = self.entries.len();
        self.known.insert(encoded, entry);
        self.entries.push(Filter {
            tests: conditions.iter().filter_map(|condition| test(condition)).collect(),
            users: vec![user],
            rows: Vec::new(),
        });
        match access {
            Access::Equal(column, literals) => {
                let equal = of_column(&mut self.equal, column);
                equal.all.push(entry);
                for literal in literals {
                    let mut key = Vec::new();
                    encode_key(&literal, &mut key);
                    equal.by_key.entry(key).or_default().push(entry);
                }
            }
            Access::Above(column, bound) => of_column(&mut self.bounds, column).push(bound, entry, true),
            Access::Below(column, bound) => of_column(&mut self.bounds, column).push(bound, entry, false),
        }
    }

    /// Forgets users. Their filters stay until the index is made anew.
    pub fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        self.entries
            .iter_mut()
            .for_each(|entry| entry.users.retain(|user| stays(*user)));
    }

    /// Distinct filters that somebody uses.
    #[cfg(test)]
    pub fn filters(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.users.is_empty()).count()
    }

    /// Shows the users of each filter that may hold for some rows, with those rows, in order.
    pub fn find(&mut self, rows: &Columns, mut show: impl FnMut(&[u64], &[u32])) {
        self.touched.clear();
        let mut key = Vec::new();
        for (column, equal) in &self.equal {
            let values = rows.column(*column);
            for row in 0..rows.rows() {
                let found = equal.find(values, row, &mut key);
                touch(&mut self.entries, &mut self.touched, found, rows, row);
            }
        }
        for (column, bounds) in &mut self.bounds {
            bounds.sort();
            let values = rows.column(*column);
            for row in 0..rows.rows() {
                let Some(value) = values.get(row).as_f64() else {
                    continue;
                };
                let above = bounds.above.partition_point(|(bound, _)| *bound <= value);
                let below = bounds.below.partition_point(|(bound, _)| *bound >= value);
                let found = bounds.above[..above].iter().chain(&bounds.below[..below]);
                touch(
                    &mut self.entries,
                    &mut self.touched,
                    found.map(|(_, entry)| entry),
                    rows,
                    row,
                );
            }
        }
        for entry in &self.touched {
            let filter = &mut self.entries[*entry];
            show(&filter.users, &filter.rows);
            filter.rows.clear();
        }
    }
}

/// Notes the row at each filter whose tests it passes.
fn touch<'f>(
    entries: &mut [Filter],
    touched: &mut Vec<Entry>,
    found: impl IntoIterator<Item = &'f Entry>,
    rows: &Columns,
    row: usize,
) {
    for entry in found {
        let filter = &mut entries[*entry];
        if filter.users.is_empty() || !filter.tests.iter().all(|test| test.holds(rows, row)) {
            continue;
        }
        if filter.rows.is_empty() {
            touched.push(*entry);
        }
        // An IN may name a value twice.
        if filter.rows.last() != Some(&(row as u32)) {
            filter.rows.push(row as u32);
        }
    }
}

impl Test {
    fn holds(&self, rows: &Columns, row: usize) -> bool {
        compare_values(self.op, &rows.column(self.column).get(row), &self.literal) == Value::Boolean(true)
    }
}

impl Equal {
    fn find(&self, values: &Column, row: usize, key: &mut Vec<u8>) -> &[Entry] {
        key.clear();
        match &*values.get(row) {
            Value::Null => return &[],
            value @ (Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::String(_)) => {
                encode_key(value, key);
            }
            // A time equals the text that reads as it, a DECIMAL a FLOAT near it: the tests will say.
            _ => return &self.all,
        }
        self.by_key.get(&key[..]).map_or(&[], Vec::as_slice)
    }
}

impl Bounds {
    fn push(&mut self, bound: f64, entry: Entry, above: bool) {
        let list = if above { &mut self.above } else { &mut self.below };
        list.push((bound, entry));
        self.sorted = false;
    }

    fn sort(&mut self) {
        if !self.sorted {
            self.above.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.below.sort_by(|a, b| b.0.total_cmp(&a.0));
            self.sorted = true;
        }
    }
}

fn of_column<T: Default>(all: &mut Vec<(usize, T)>, column: usize) -> &mut T {
    let at = all.iter().position(|(known, _)| *known == column);
    let at = at.unwrap_or_else(|| {
        all.push((column, T::default()));
        all.len() - 1
    });
    &mut all[at].1
}

/// The parts that all must hold.
fn conditions(filter: &Expr) -> Vec<&Expr> {
    match filter {
        Expr::Binary {
            op: BinaryOp::And,
            left,
            right,
        } => [conditions(left), conditions(right)].concat(),
        other => vec![other],
    }
}

fn access(conditions: &[&Expr]) -> Option<Access> {
    let equal = conditions.iter().find_map(|condition| match condition {
        Expr::In {
            operand,
            list,
            negated: false,
        } => {
            let literals: Option<Vec<Value>> = list.iter().map(key_literal).collect();
            Some(Access::Equal(column(operand)?, literals?))
        }
        _ => {
            let found = test(condition).filter(|test| test.op == BinaryOp::Equal && is_key(&test.literal))?;
            Some(Access::Equal(found.column, vec![found.literal]))
        }
    });
    equal.or_else(|| {
        conditions.iter().find_map(|condition| {
            let test = test(condition)?;
            let bound = test.literal.as_f64()?;
            match test.op {
                BinaryOp::Greater | BinaryOp::GreaterOrEqual => Some(Access::Above(test.column, bound)),
                BinaryOp::Less | BinaryOp::LessOrEqual => Some(Access::Below(test.column, bound)),
                _ => None,
            }
        })
    })
}

/// `column op literal`, also written the other way round.
fn test(condition: &Expr) -> Option<Test> {
    let Expr::Binary { op, left, right } = condition else {
        return None;
    };
    let (column, literal, op) = match (column(left), column(right)) {
        (Some(column), None) => (column, literal(right)?, *op),
        (None, Some(column)) => (column, literal(left)?, turned(*op)),
        _ => return None,
    };
    is_comparison(op).then_some(Test { column, op, literal })
}

fn turned(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessOrEqual => BinaryOp::GreaterOrEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterOrEqual => BinaryOp::LessOrEqual,
        other => other,
    }
}

fn column(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Column(column) => Some(column.index()),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(literal) => Some(Value::from(literal)),
        _ => None,
    }
}

fn key_literal(expr: &Expr) -> Option<Value> {
    literal(expr).filter(is_key)
}

/// Values that equal it have its key, but for those that [`Equal::find`] knows of.
fn is_key(value: &Value) -> bool {
    matches!(
        value,
        Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::String(_)
    )
}

fn is_comparison(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual
    )
}

/// TRUE, FALSE or NULL for any row, and never a fault.
fn is_truth(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(literal) => matches!(Value::from(literal), Value::Boolean(_) | Value::Null),
        Expr::Unary {
            op: UnaryOp::Not,
            operand,
        } => is_truth(operand),
        Expr::Unary {
            op: UnaryOp::IsNull | UnaryOp::IsNotNull,
            operand,
        } => is_plain(operand),
        Expr::Binary {
            op: BinaryOp::And | BinaryOp::Or,
            left,
            right,
        } => is_truth(left) && is_truth(right),
        Expr::Binary { op, left, right } => is_comparison(*op) && is_plain(left) && is_plain(right),
        Expr::In { operand, list, .. } => is_plain(operand) && list.iter().all(is_plain),
        _ => false,
    }
}

/// A value for any row, and never a fault.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(_) => true,
        Expr::Path { operand, .. } => is_plain(operand),
        other => is_truth(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::{Expression, Faults};
    use crate::function::Scope;
    use crate::plan::physical::ColumnId;
    use crate::types::{Literal, TimestampUs};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            (-3_i64..4).prop_map(Value::Integer),
            (-6_i32..7).prop_map(|n| Value::Float(f64::from(n) / 2.0)),
            (-3_i64..4).prop_map(|n| Value::Decimal(n.into())),
            prop_oneof![Just("a"), Just("b"), Just("1970-01-01")].prop_map(|text| Value::String(text.into())),
            Just(Value::Timestamp(0)),
        ]
    }

    fn filter() -> impl Strategy<Value = Expr> {
        let literal = || value().prop_map(|value| Expr::Literal(Literal::from(&value)));
        let column = || (0_u32..2).prop_map(|column| Expr::Column(ColumnId(column)));
        let op = prop_oneof![
            Just(BinaryOp::Equal),
            Just(BinaryOp::Equal),
            Just(BinaryOp::Greater),
            Just(BinaryOp::LessOrEqual),
            Just(BinaryOp::NotEqual),
        ];
        let compare = (op, column(), literal(), any::<bool>()).prop_map(|(op, column, literal, turned)| {
            let (left, right) = if turned { (literal, column) } else { (column, literal) };
            let (left, right) = (Box::new(left), Box::new(right));
            Expr::Binary { op, left, right }
        });
        let is_in =
            (column(), prop::collection::vec(literal(), 1..3), any::<bool>()).prop_map(|(column, list, negated)| {
                Expr::In {
                    operand: Box::new(column),
                    list,
                    negated,
                }
            });
        prop_oneof![4 => compare, 1 => is_in].prop_recursive(3, 8, 2, |inner| {
            let op = prop_oneof![3 => Just(BinaryOp::And), 1 => Just(BinaryOp::Or)];
            (op, inner.clone(), inner).prop_map(|(op, left, right)| Expr::Binary {
                op,
                left: Box::new(left),
                right: Box::new(right),
            })
        })
    }

    proptest! {
        /// Nothing that a filter would keep is held back, and evaluating it alone tells of no fault.
        #[test]
        fn every_row_that_a_filter_keeps_is_found(
            filters in prop::collection::vec(filter(), 1..12),
            values in prop::collection::vec((value(), value()), 0..12),
        ) {
            let column = |pick: fn(&(Value, Value)) -> &Value| Arc::new(Column::from_values(values.iter().map(|row| pick(row).clone())));
            let rows = Columns::new(vec![column(|row| &row.0), column(|row| &row.1)], values.len());
            let mut index = Index::default();
            let indexed: Vec<usize> = (0..filters.len()).filter(|number| is_indexable(&filters[*number])).collect();
            indexed.iter().for_each(|number| index.add(&filters[*number], *number as u64));
            let mut found: HashMap<u64, Vec<u32>> = HashMap::new();
            index.find(&rows, |users, rows| users.iter().for_each(|user| {
                found.insert(*user, rows.to_vec());
            }));
            for number in indexed {
                let mut faults = Faults::default();
                let scope = Scope { now: TimestampUs(0) };
                let kept = Expression::compile(&filters[number]).unwrap().evaluate(&rows, &scope, &mut faults).selection();
                prop_assert!(faults.is_empty());
                let found = found.get(&(number as u64)).cloned().unwrap_or_default();
                prop_assert!(kept.iter().all(|row| found.contains(row)), "{:?} {:?} {:?}", filters[number], kept, found);
                prop_assert!(found.is_sorted());
            }
        }
    }

    #[test]
    fn rows_are_found_by_a_condition_and_tested_by_the_others() {
        let column = |number| Box::new(Expr::Column(ColumnId(number)));
        let literal = |value: &Value| Box::new(Expr::Literal(Literal::from(value)));
        let compare = |op, number, value: &Value| Expr::Binary {
            op,
            left: column(number),
            right: literal(value),
        };
        let both = |left, right| Expr::Binary {
            op: BinaryOp::And,
            left: Box::new(left),
            right: Box::new(right),
        };
        let device = |name: &str| compare(BinaryOp::Equal, 0, &Value::String(name.into()));
        let above = |bound| compare(BinaryOp::Greater, 1, &Value::Float(bound));
        let mut index = Index::default();
        index.add(&both(device("a"), above(20.0)), 1);
        index.add(&both(above(25.0), device("a")), 2);
        index.add(&above(29.0), 3);
        index.add(&both(device("a"), above(20.0)), 4);
        assert_eq!(index.filters(), 3, "two are equal");
        let names = ["a", "b", "a", "a"].map(|name| Value::String(name.into()));
        let rows = Columns::new(
            vec![
                Arc::new(Column::from_values(names)),
                Arc::new(Column::from_values([21.0, 30.0, 26.0, 1.0].map(Value::Float))),
            ],
            4,
        );
        let mut found = Vec::new();
        index.find(&rows, |users, rows| found.push((users.to_vec(), rows.to_vec())));
        assert_eq!(
            found,
            [(vec![1, 4], vec![0, 2]), (vec![2], vec![2]), (vec![3], vec![1])]
        );
        index.retain(|user| user == 4);
        assert_eq!(index.filters(), 1);
        assert!(!is_indexable(&Expr::Column(ColumnId(0))), "it may be no BOOLEAN");
    }
}
