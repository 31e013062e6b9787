//! Constant folding.

use super::Tree;
use crate::column::Columns;
use crate::expression::{Expression, Faults};
use crate::function::Scope;
use crate::plan::physical::{BinaryOp, Expr, Op, Schema};
use crate::types::{DataType, Literal, TimestampUs};
use crate::value::Value;

/// Works out what is constant, everywhere in the plan.
pub fn constants(tree: &mut Tree) {
    tree.inputs.iter_mut().for_each(constants);
    tree.node.op.expressions_mut(&mut |expr| fold(expr));
    if let Op::JoinIf { pair, .. } = &mut tree.node.op {
        fold(&mut pair.condition);
    }
}

fn fold(expr: &mut Expr) {
    expr.children_mut(&mut fold);
    if let Some(simpler) = without_truth(expr) {
        *expr = simpler;
    }
    if matches!(expr, Expr::Literal(_) | Expr::Column(_)) || !is_constant(expr) {
        return;
    }
    if let Some(literal) = value_of(expr) {
        *expr = Expr::Literal(literal);
    }
}

/// `TRUE AND x` and `FALSE OR x` are x, if that is surely a BOOLEAN or NULL: of anything else they are NULL.
fn without_truth(expr: &mut Expr) -> Option<Expr> {
    let Expr::Binary { op, left, right } = expr else {
        return None;
    };
    let nothing = match op {
        BinaryOp::And => Expr::Literal(Literal::Boolean(true)),
        BinaryOp::Or => Expr::Literal(Literal::Boolean(false)),
        _ => return None,
    };
    let other = match (**left == nothing, **right == nothing) {
        (true, _) => right,
        (_, true) => left,
        _ => return None,
    };
    // Columns count as of no known type: a condition that is one alone is rare, and worth no schema here.
    if other.data_type(&Schema::default()) != DataType::Boolean {
        return None;
    }
    Some(std::mem::replace(other, Expr::Literal(Literal::Null)))
}

fn is_constant(expr: &Expr) -> bool {
    let mut constant = !expr.is_of_its_time();
    expr.walk(&mut |part| constant &= !matches!(part, Expr::Column(_)));
    constant
}

/// None: it has no value, and each row has to tell so.
fn value_of(expr: &Expr) -> Option<Literal> {
    let mut faults = Faults::default();
    let scope = Scope { now: TimestampUs::MIN };
    let column = Expression::compile(expr)
        .ok()?
        .evaluate(&Columns::new(Vec::new(), 1), &scope, &mut faults);
    let told = faults.iter().next().is_some();
    if told { None } else { literal_of(&column.get(0)) }
}

/// NULL stays an expression: a literal NULL would no longer say of which type.
fn literal_of(value: &Value) -> Option<Literal> {
    Some(match value {
        Value::Boolean(truth) => Literal::Boolean(*truth),
        Value::Integer(number) => Literal::Integer(*number),
        Value::Float(number) => Literal::Float(*number),
        Value::Decimal(number) => Literal::Decimal(number.to_string()),
        Value::String(text) => Literal::String(text.to_string()),
        Value::Date(days) => Literal::Date(*days),
        Value::Time(us) => Literal::Time(*us),
        Value::Timestamp(us) => Literal::Timestamp(*us),
        Value::Interval(interval) => Literal::Interval(*interval),
        Value::Null | Value::Bytea(_) | Value::Json(_) | Value::Array(_) => return None,
    })
}
