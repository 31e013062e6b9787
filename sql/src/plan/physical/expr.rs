//! Bound expressions, as they are stored.

use super::{ColumnId, PathStep, Schema};
use crate::types::{DataType, Literal};

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
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// A scalar function by its stable (canonical, upper-case) name, see [`crate::function::lookup`].
    Call { function: String, arguments: Vec<Expr> },
    /// `CAST(x AS t)`, `x::t`: NULL and an error row where it cannot be.
    Cast { operand: Box<Expr>, to: DataType },
    /// `a.b`, `a['b']`, `a[0]`, `->` into a JSON value; `as_text` is `->>`: STRING.
    Path {
        operand: Box<Expr>,
        steps: Vec<PathStep>,
        as_text: bool,
    },
    /// `CASE WHEN c THEN v … ELSE e END`; `CASE x WHEN v` is bound as `x = v`.
    Case {
        branches: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    /// `x IN (a, b)`
    In {
        operand: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    /// `x LIKE p`: `%`, `_`, and an escape character (`\` when the statement gives none).
    Like {
        operand: Box<Expr>,
        pattern: Box<Expr>,
        escape: Option<char>,
        negated: bool,
    },
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

/// Functions that do not give the same each time.
const OF_THE_STEP: &[&str] = &["NOW", "CURRENT_DATE", "CURRENT_TIME", "UNIX_TIMESTAMP"];

impl Expr {
    /// The types that operators and functions give, as far as they are known before a record is seen.
    pub fn data_type(&self, input: &Schema) -> DataType {
        match self {
            Expr::Column(column) => input
                .columns
                .get(column.index())
                .map_or(DataType::Any, |column| column.data_type.clone()),
            Expr::Literal(literal) => literal.data_type(),
            Expr::Unary {
                op: UnaryOp::Negate,
                operand,
            } => operand.data_type(input),
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

    /// The expressions directly below it.
    pub fn children_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        match self {
            Expr::Column(_) | Expr::Literal(_) => {}
            Expr::Unary { operand, .. } | Expr::Cast { operand, .. } | Expr::Path { operand, .. } => visit(operand),
            Expr::Binary { left, right, .. } => {
                visit(left);
                visit(right);
            }
            Expr::Call { arguments: list, .. } | Expr::Array(list) => list.iter_mut().for_each(visit),
            Expr::Case { branches, otherwise } => {
                for (condition, result) in branches {
                    visit(condition);
                    visit(result);
                }
                otherwise.iter_mut().for_each(|expr| visit(expr));
            }
            Expr::In { operand, list, .. } => {
                visit(operand);
                list.iter_mut().for_each(visit);
            }
            Expr::Like { operand, pattern, .. } => {
                visit(operand);
                visit(pattern);
            }
        }
    }

    /// Puts other expressions in the place of columns; None leaves one as it is.
    pub fn replace_columns(&mut self, replace: &mut dyn FnMut(ColumnId) -> Option<Expr>) {
        match self {
            Expr::Column(column) => {
                if let Some(other) = replace(*column) {
                    *self = other;
                }
            }
            _ => self.children_mut(&mut |child| child.replace_columns(replace)),
        }
    }

    /// It does not give the same at another time.
    pub fn is_of_its_time(&self) -> bool {
        let mut is = false;
        self.walk(&mut |part| {
            is |= matches!(part, Expr::Call { function, .. } if OF_THE_STEP.contains(&function.as_str()));
        });
        is
    }

    /// All of these hold: a tree as shallow as can be, in their order. None: there are none.
    pub fn all(mut parts: Vec<Expr>) -> Option<Expr> {
        let right = parts.split_off(parts.len().div_ceil(2));
        match right.is_empty() {
            true => parts.pop(),
            false => Some(Expr::Binary {
                op: BinaryOp::And,
                left: Box::new(Expr::all(parts)?),
                right: Box::new(Expr::all(right)?),
            }),
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

    /// Shows each column in it, to be changed.
    pub fn change_columns(&mut self, change: &mut dyn FnMut(&mut ColumnId)) {
        match self {
            Expr::Column(column) => change(column),
            Expr::Literal(_) => {}
            Expr::Unary { operand, .. } | Expr::Cast { operand, .. } | Expr::Path { operand, .. } => {
                operand.change_columns(change);
            }
            Expr::Binary { left, right, .. } => {
                left.change_columns(change);
                right.change_columns(change);
            }
            Expr::Call { arguments, .. } => arguments.iter_mut().for_each(|part| part.change_columns(change)),
            Expr::Case { branches, otherwise } => {
                for (condition, result) in branches {
                    condition.change_columns(change);
                    result.change_columns(change);
                }
                if let Some(otherwise) = otherwise {
                    otherwise.change_columns(change);
                }
            }
            Expr::In { operand, list, .. } => {
                operand.change_columns(change);
                list.iter_mut().for_each(|part| part.change_columns(change));
            }
            Expr::Like { operand, pattern, .. } => {
                operand.change_columns(change);
                pattern.change_columns(change);
            }
            Expr::Array(items) => items.iter_mut().for_each(|part| part.change_columns(change)),
        }
    }
}

/// The one type all have, NULLs aside; `Any` where they differ.
fn common_type(types: impl Iterator<Item = DataType>) -> DataType {
    let mut known = types.filter(|data_type| *data_type != DataType::Any);
    let first = known.next().unwrap_or(DataType::Any);
    if known.all(|data_type| data_type == first) {
        first
    } else {
        DataType::Any
    }
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
