//! Bound expressions over columns.
//!
//! An [`Expression`] is an [`Expr`] made ready: functions looked up, constants turned into values. It is evaluated for
//! a whole micro-batch, part by part, column by column. Numbers of one type go through kernels ([`kernel`]); all else
//! goes row by row through [`Value`].
//!
//! Nothing is skipped by AND, OR, CASE or COALESCE: all their parts are evaluated for all rows, and the *faults* of
//! what SQL would not have evaluated are thrown away. So `b <> 0 AND a / b > 1` tells of no division by zero.

mod choice;
mod kernel;
mod like;

pub(crate) use kernel::compare_values;

use std::sync::Arc;

use crate::column::{Column, Columns, Data};
use crate::function::{self, Function, Scope};
use crate::json;
use crate::plan::physical::{BinaryOp, Expr, PathStep, PlanError, Schema, UnaryOp};
use crate::types::{DataType, Literal};
use crate::value::{self, Fault, Value, cast};
use choice::{case, coalesce, is_in, logic};

/// The rows of a micro-batch that an expression has no value for, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    rows: Vec<(u32, Fault)>,
}

impl Faults {
    /// Adds one.
    pub fn push(&mut self, row: usize, fault: Fault) {
        self.rows.push((row as u32, fault));
    }

    /// In no particular order; a row may be there more than once.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Fault)> + '_ {
        self.rows.iter().map(|(row, fault)| (*row as usize, *fault))
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes over those of `other` whose row counts.
    fn absorb(&mut self, other: Faults, counts: impl Fn(usize) -> bool) {
        self.rows
            .extend(other.rows.into_iter().filter(|(row, _)| counts(*row as usize)));
    }
}

/// An expression, ready to run.
#[derive(Debug)]
pub struct Expression {
    part: Part,
    /// A group key: values are given as the group of that type shows them.
    group_key: Option<DataType>,
}

#[derive(Debug)]
enum Part {
    Column(usize),
    Constant(Value),
    Not(Box<Part>),
    Negate(Box<Part>),
    IsNull {
        operand: Box<Part>,
        negated: bool,
    },
    Arithmetic {
        op: BinaryOp,
        left: Box<Part>,
        right: Box<Part>,
    },
    Compare {
        op: BinaryOp,
        left: Box<Part>,
        right: Box<Part>,
    },
    /// AND when `decided` is false, OR when it is true: the truth that needs no other side.
    Logic {
        decided: bool,
        left: Box<Part>,
        right: Box<Part>,
    },
    Call {
        function: &'static Function,
        arguments: Vec<Part>,
    },
    /// COALESCE and IFNULL: later arguments count only where all earlier are NULL.
    Coalesce(Vec<Part>),
    Cast {
        operand: Box<Part>,
        to: DataType,
    },
    Path {
        operand: Box<Part>,
        steps: Vec<PathStep>,
        as_text: bool,
    },
    Case {
        branches: Vec<(Part, Part)>,
        otherwise: Box<Part>,
    },
    In {
        operand: Box<Part>,
        list: Vec<Part>,
        negated: bool,
    },
    Like {
        operand: Box<Part>,
        pattern: Box<Part>,
        escape: Option<char>,
        negated: bool,
    },
    Array(Vec<Part>),
}

impl Expression {
    /// Makes a plan's expression ready.
    pub fn compile(expr: &Expr) -> Result<Expression, PlanError> {
        Ok(Expression {
            part: Part::compile(expr)?,
            group_key: None,
        })
    }

    /// As [`Expression::compile`], with values as they are shown after a GROUP BY over them: equal numbers are one
    /// group, which has one spelling. `input` is the schema that the expression reads.
    pub fn compile_group_key(expr: &Expr, input: &Schema) -> Result<Expression, PlanError> {
        Ok(Expression {
            part: Part::compile(expr)?,
            group_key: Some(expr.data_type(input)),
        })
    }

    /// Its column over `rows`.
    pub fn evaluate(&self, rows: &Columns, scope: &Scope, faults: &mut Faults) -> Arc<Column> {
        let column = self.part.evaluate(rows, scope, faults);
        match &self.group_key {
            Some(data_type) if column.has_numbers_of_two_spellings() => {
                let shown = (0..column.len()).map(|row| value::group_value(&column.get(row), data_type));
                Arc::new(Column::from_values(shown))
            }
            _ => column,
        }
    }

    /// The value of an expression that reads no column: a constant of a statement.
    pub fn constant(expr: &Expr, scope: &Scope) -> Result<Value, ConstantError> {
        let mut faults = Faults::default();
        let column = Expression::compile(expr)?.evaluate(&Columns::new(Vec::new(), 1), scope, &mut faults);
        match faults.iter().next() {
            Some((_, fault)) => Err(ConstantError::Fault(fault)),
            None => Ok(column.get(0).into_owned()),
        }
    }
}

/// Why a constant has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstantError {
    /// Its functions are not known.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It overflows, divides by zero …
    #[error(transparent)]
    Fault(Fault),
}

fn boxed(expr: &Expr) -> Result<Box<Part>, PlanError> {
    Part::compile(expr).map(Box::new)
}

fn all(exprs: &[Expr]) -> Result<Vec<Part>, PlanError> {
    exprs.iter().map(Part::compile).collect()
}

impl Part {
    fn compile(expr: &Expr) -> Result<Part, PlanError> {
        Ok(match expr {
            Expr::Column(column) => Part::Column(column.index()),
            Expr::Literal(literal) => Part::Constant(Value::from(literal)),
            Expr::Unary { op, operand } => {
                let operand = boxed(operand)?;
                match op {
                    UnaryOp::Not => Part::Not(operand),
                    UnaryOp::Negate => Part::Negate(operand),
                    UnaryOp::IsNull => Part::IsNull {
                        operand,
                        negated: false,
                    },
                    UnaryOp::IsNotNull => Part::IsNull { operand, negated: true },
                }
            }
            Expr::Binary { op, left, right } => {
                let (left, right) = (boxed(left)?, boxed(right)?);
                match op {
                    BinaryOp::And => Part::Logic {
                        decided: false,
                        left,
                        right,
                    },
                    BinaryOp::Or => Part::Logic {
                        decided: true,
                        left,
                        right,
                    },
                    BinaryOp::Equal
                    | BinaryOp::NotEqual
                    | BinaryOp::Less
                    | BinaryOp::LessOrEqual
                    | BinaryOp::Greater
                    | BinaryOp::GreaterOrEqual => Part::Compare { op: *op, left, right },
                    _ => Part::Arithmetic { op: *op, left, right },
                }
            }
            Expr::Call {
                function: name,
                arguments,
            } => Part::compile_call(name, all(arguments)?)?,
            Expr::Cast { operand, to } => Part::Cast {
                operand: boxed(operand)?,
                to: to.clone(),
            },
            Expr::Path {
                operand,
                steps,
                as_text,
            } => Part::Path {
                operand: boxed(operand)?,
                steps: steps.clone(),
                as_text: *as_text,
            },
            Expr::Case { branches, otherwise } => Part::Case {
                branches: branches
                    .iter()
                    .map(|(when, then)| Ok((Part::compile(when)?, Part::compile(then)?)))
                    .collect::<Result<_, PlanError>>()?,
                otherwise: otherwise
                    .as_deref()
                    .map_or(Ok(Box::new(Part::Constant(Value::Null))), boxed)?,
            },
            Expr::In { operand, list, negated } => Part::In {
                operand: boxed(operand)?,
                list: all(list)?,
                negated: *negated,
            },
            Expr::Like {
                operand,
                pattern,
                escape,
                negated,
            } => Part::Like {
                operand: boxed(operand)?,
                pattern: boxed(pattern)?,
                escape: escape.or(Some('\\')),
                negated: *negated,
            },
            Expr::Array(items) => Part::Array(all(items)?),
        })
    }

    fn compile_call(name: &str, arguments: Vec<Part>) -> Result<Part, PlanError> {
        let function =
            function::lookup(name).ok_or_else(|| PlanError::Invalid(format!("there is no function {name}")))?;
        // The runtime indexes arguments by the table: a damaged plan must not get past here.
        function
            .check(&vec![DataType::Any; arguments.len()])
            .map_err(|error| PlanError::Invalid(error.to_string()))?;
        Ok(match function.name {
            "COALESCE" | "IFNULL" => Part::Coalesce(arguments),
            _ => Part::Call { function, arguments },
        })
    }

    fn evaluate(&self, rows: &Columns, scope: &Scope, faults: &mut Faults) -> Arc<Column> {
        match self {
            Part::Column(number) => rows.column(*number).clone(),
            Part::Constant(value) => Arc::new(Column::constant(value.clone(), rows.rows())),
            Part::Not(operand) => {
                let operand = operand.evaluate(rows, scope, faults);
                Arc::new(map(rows.rows(), faults, |row| {
                    truth(&operand.get(row)).map(|truth| boolean(truth.map(|t| !t)))
                }))
            }
            Part::Negate(operand) => {
                let operand = operand.evaluate(rows, scope, faults);
                Arc::new(map(rows.rows(), faults, |row| value::negate(&operand.get(row))))
            }
            Part::IsNull { operand, negated } => {
                let operand = operand.evaluate(rows, scope, faults);
                Arc::new(map(rows.rows(), faults, |row| {
                    Ok(Value::Boolean(operand.get(row).is_null() != *negated))
                }))
            }
            Part::Arithmetic { op, left, right } => {
                let (left, right) = (left.evaluate(rows, scope, faults), right.evaluate(rows, scope, faults));
                Arc::new(kernel::arithmetic(*op, &left, &right, faults).unwrap_or_else(|| {
                    map(rows.rows(), faults, |row| {
                        value::binary(*op, &left.get(row), &right.get(row))
                    })
                }))
            }
            Part::Compare { op, left, right } => {
                let (left, right) = (left.evaluate(rows, scope, faults), right.evaluate(rows, scope, faults));
                Arc::new(kernel::compare(*op, &left, &right).unwrap_or_else(|| {
                    map(rows.rows(), faults, |row| {
                        Ok(kernel::compare_values(*op, &left.get(row), &right.get(row)))
                    })
                }))
            }
            Part::Logic { decided, left, right } => logic(*decided, left, right, rows, scope, faults),
            Part::Call { function, arguments } => {
                let columns: Vec<_> = arguments
                    .iter()
                    .map(|part| part.evaluate(rows, scope, faults))
                    .collect();
                let mut values = Vec::with_capacity(columns.len());
                Arc::new(map(rows.rows(), faults, |row| {
                    values.clear();
                    values.extend(columns.iter().map(|column| column.get(row).into_owned()));
                    function.call(&values, scope)
                }))
            }
            Part::Coalesce(parts) => coalesce(parts, rows, scope, faults),
            Part::Cast { operand, to } => {
                let operand = operand.evaluate(rows, scope, faults);
                match (&operand.data, to) {
                    (Data::Timestamp(_), DataType::Timestamp) => operand,
                    (Data::Integer(cells), DataType::Timestamp) => Arc::new(kernel::timestamps_of(cells, faults)),
                    _ => Arc::new(map(rows.rows(), faults, |row| cast(&operand.get(row), to))),
                }
            }
            Part::Path {
                operand,
                steps,
                as_text,
            } => {
                let operand = operand.evaluate(rows, scope, faults);
                Arc::new(map(rows.rows(), faults, |row| {
                    Ok(step(&operand.get(row), steps, *as_text))
                }))
            }
            Part::Case { branches, otherwise } => case(branches, otherwise, rows, scope, faults),
            Part::In { operand, list, negated } => {
                let operand = operand.evaluate(rows, scope, faults);
                let list: Vec<_> = list.iter().map(|part| part.evaluate(rows, scope, faults)).collect();
                Arc::new(map(rows.rows(), faults, |row| {
                    Ok(boolean(is_in(row, &operand, &list).map(|t| t != *negated)))
                }))
            }
            Part::Like {
                operand,
                pattern,
                escape,
                negated,
            } => {
                let (operand, pattern) = (
                    operand.evaluate(rows, scope, faults),
                    pattern.evaluate(rows, scope, faults),
                );
                Arc::new(map(rows.rows(), faults, |row| {
                    match (&*operand.get(row), &*pattern.get(row)) {
                        (Value::Null, _) | (_, Value::Null) => Ok(Value::Null),
                        (Value::String(text), Value::String(pattern)) => {
                            Ok(Value::Boolean(like::matches(text, pattern, *escape) != *negated))
                        }
                        _ => Err(Fault::WrongType),
                    }
                }))
            }
            Part::Array(items) => {
                let items: Vec<_> = items.iter().map(|part| part.evaluate(rows, scope, faults)).collect();
                Arc::new(map(rows.rows(), faults, |row| {
                    Ok(Value::Array(
                        items.iter().map(|item| item.get(row).into_owned()).collect(),
                    ))
                }))
            }
        }
    }
}

/// A column made row by row; a fault is NULL and noted.
fn map(rows: usize, faults: &mut Faults, mut row: impl FnMut(usize) -> Result<Value, Fault>) -> Column {
    Column::from_values((0..rows).map(|number| {
        row(number).unwrap_or_else(|fault| {
            faults.push(number, fault);
            Value::Null
        })
    }))
}

fn boolean(truth: Option<bool>) -> Value {
    truth.map_or(Value::Null, Value::Boolean)
}

fn truth(value: &Value) -> Result<Option<bool>, Fault> {
    match value {
        Value::Null => Ok(None),
        Value::Boolean(truth) => Ok(Some(*truth)),
        _ => Err(Fault::WrongType),
    }
}

fn step(value: &Value, steps: &[PathStep], as_text: bool) -> Value {
    let found = match value {
        Value::Json(text) => json::step_into(text, steps),
        Value::Array(items) => match steps.split_first() {
            Some((PathStep::Index(index), rest)) => {
                let item = json::position(*index, items.len()).map_or(&Value::Null, |at| &items[at]);
                if rest.is_empty() {
                    item.clone()
                } else {
                    step(item, rest, false)
                }
            }
            _ => Value::Null,
        },
        // A JSON text inside of a string: `payload -> 'a'`.
        Value::String(text) => json::step_into(text, steps),
        _ => Value::Null,
    };
    if as_text {
        found.to_text().map_or(Value::Null, Value::String)
    } else {
        found
    }
}

impl From<Literal> for Expr {
    fn from(literal: Literal) -> Expr {
        Expr::Literal(literal)
    }
}

#[cfg(test)]
mod tests;
