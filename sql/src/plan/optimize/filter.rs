//! Conditions go down the plan, as far as they mean the same.

use super::Tree;
use crate::plan::physical::{
    BinaryOp, ColumnId, Expr, Join, JoinKind, Made, Node, Op, OperatorId, Side, StateBound, UnaryOp,
};
use crate::types::Literal;

/// Moves each condition of each Filter down.
pub fn push_down(tree: Tree) -> Tree {
    let Tree { node, inputs } = tree;
    let mut inputs: Vec<Tree> = inputs.into_iter().map(push_down).collect();
    let Op::Filter(condition) = node.op else {
        return Tree { node, inputs };
    };
    let Some(mut below) = inputs.pop() else {
        return Tree {
            node: Node {
                op: Op::Filter(condition),
                ..node
            },
            inputs,
        };
    };
    let mut stays = Vec::new();
    for part in parts_of(condition) {
        let above;
        (below, above) = place(below, part);
        stays.extend(above);
    }
    let holds = Expr::Literal(Literal::Boolean(true));
    stays.retain(|part| *part != holds);
    match Expr::all(stays) {
        Some(condition) => Tree {
            node: Node {
                op: Op::Filter(condition),
                ..node
            },
            inputs: vec![below],
        },
        None => below,
    }
}

/// Makes conditions as shallow as they can be, however many parts have come together in them.
pub fn flatten(tree: &mut Tree) {
    if let Op::Filter(condition) = &mut tree.node.op {
        let parts = parts_of(std::mem::replace(condition, Expr::Literal(Literal::Boolean(true))));
        *condition = Expr::all(parts).unwrap_or(Expr::Literal(Literal::Boolean(true)));
    }
    tree.inputs.iter_mut().for_each(flatten);
}

/// Puts a condition on the output of an operator into the operator, or below it; gives it back where it stays above.
fn place(mut tree: Tree, condition: Expr) -> (Tree, Option<Expr>) {
    if let Op::Rank(_) = tree.node.op {
        return on_rank(tree, condition);
    }
    if let (Op::Filter(own), [_]) = (&mut tree.node.op, tree.inputs.as_slice()) {
        let own = std::mem::replace(own, Expr::Literal(Literal::Null));
        let Some(mut below) = tree.inputs.pop() else {
            tree.node.op = Op::Filter(own);
            return (tree, Some(condition));
        };
        let mut above = Some(condition);
        if let Some(harmless) = above.take_if(|condition| is_harmless(condition)) {
            (below, above) = place(below, harmless);
        }
        let condition = above.into_iter().fold(own, both);
        tree.node.op = Op::Filter(condition);
        tree.inputs.push(below);
        return (tree, None);
    }
    // What may fail would fail for other rows than it does now.
    if !is_harmless(&condition) {
        return (tree, Some(condition));
    }
    if tree.node.op == Op::Union {
        tree.inputs = tree
            .inputs
            .into_iter()
            .map(|input| over(input, condition.clone()))
            .collect();
        return (tree, None);
    }
    match below(&tree.node, &condition) {
        Some((port, condition)) if port < tree.inputs.len() => {
            let input = tree.inputs.remove(port);
            tree.inputs.insert(port, over(input, condition));
            (tree, None)
        }
        _ => (tree, Some(condition)),
    }
}

/// The condition on the input of that port that means the same. None: there is none.
fn below(node: &Node, condition: &Expr) -> Option<(usize, Expr)> {
    let one = |condition: Option<Expr>| condition.map(|condition| (0, condition));
    match &node.op {
        Op::Project(exprs) => one(replaced(condition, |column| {
            exprs.get(column.index()).filter(|expr| is_plain(expr)).cloned()
        })),
        Op::Retime { .. } => one(Some(condition.clone())),
        // All rows of a group go, or none.
        Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => one(replaced(condition, |column| {
            aggregate
                .group
                .get(column.index())
                .filter(|expr| is_plain(expr))
                .cloned()
        })),
        // It appends its columns behind those of the input.
        Op::Window(_) => {
            let width = node.schema.columns.len().saturating_sub(2);
            one(replaced(condition, |column| {
                (column.index() < width).then_some(Expr::Column(column))
            }))
        }
        Op::Exchange(_) => one(Some(condition.clone())),
        Op::Unnest(unnest) if !unnest.outer => one(of_inputs(condition, &unnest.output)),
        Op::Over(over) => {
            let condition = of_inputs(condition, &over.output)?;
            let partitions = over.calls.iter().map(|call| call.partition.as_slice());
            one(partitions
                .into_iter()
                .all(|partition| is_over(&condition, partition))
                .then_some(condition))
        }
        Op::Join(join) | Op::JoinTables { join, .. } | Op::JoinIf { join, .. } => of_side(join, condition),
        _ => None,
    }
}

/// A condition on one side of a join, where rows of that side come out only as they are.
fn of_side(join: &Join, condition: &Expr) -> Option<(usize, Expr)> {
    let sides: &[Side] = match join.kind {
        JoinKind::Inner => &[Side::Left, Side::Right],
        JoinKind::Left => &[Side::Left],
        JoinKind::Right => &[Side::Right],
        JoinKind::Full => &[],
    };
    let on = |side: &Side| {
        let condition = replaced(condition, |column| match join.output.get(column.index()) {
            Some((of, column)) if of == side => Some(Expr::Column(*column)),
            _ => None,
        });
        condition.map(|condition| (usize::from(*side == Side::Right), condition))
    };
    sides.iter().find_map(on)
}

/// `n <= 3` of a ROW_NUMBER ends the counting; what is said of its partition goes below.
fn on_rank(mut tree: Tree, condition: Expr) -> (Tree, Option<Expr>) {
    let Op::Rank(rank) = &mut tree.node.op else {
        return (tree, Some(condition));
    };
    if let Some((last, all)) = last_number(&condition, &rank.output) {
        rank.limit = Some(rank.limit.map_or(last, |limit| limit.min(last)));
        return (tree, (!all).then_some(condition));
    }
    let inside = of_inputs(&condition, &rank.output)
        .filter(|inside| is_harmless(&condition) && is_over(inside, &rank.partition));
    match (inside, tree.inputs.pop()) {
        (Some(inside), Some(input)) => {
            tree.inputs.push(over(input, inside));
            (tree, None)
        }
        (_, input) => {
            tree.inputs.extend(input);
            (tree, Some(condition))
        }
    }
}

/// The last row number that passes, and whether all up to it do.
fn last_number(condition: &Expr, output: &[Made]) -> Option<(u64, bool)> {
    let Expr::Binary { op, left, right } = condition else {
        return None;
    };
    let (op, column, number) = match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(Literal::Integer(number))) => (*op, column, *number),
        (Expr::Literal(Literal::Integer(number)), Expr::Column(column)) => (turned(*op)?, column, *number),
        _ => return None,
    };
    if !matches!(output.get(column.index()), Some(Made::New(_))) {
        return None;
    }
    let number = u64::try_from(number).ok()?;
    match op {
        BinaryOp::LessOrEqual => Some((number, true)),
        BinaryOp::Less => Some((number.checked_sub(1)?, true)),
        BinaryOp::Equal => Some((number, number == 1)),
        _ => None,
    }
}

fn turned(op: BinaryOp) -> Option<BinaryOp> {
    match op {
        BinaryOp::GreaterOrEqual => Some(BinaryOp::LessOrEqual),
        BinaryOp::Greater => Some(BinaryOp::Less),
        BinaryOp::Equal => Some(BinaryOp::Equal),
        _ => None,
    }
}

/// The condition over what an operator passes on.
fn of_inputs(condition: &Expr, output: &[Made]) -> Option<Expr> {
    replaced(condition, |column| match output.get(column.index()) {
        Some(Made::Input(column)) => Some(Expr::Column(*column)),
        _ => None,
    })
}

/// It reads nothing but these columns.
fn is_over(condition: &Expr, partition: &[Expr]) -> bool {
    let mut all = true;
    condition.walk(&mut |part| {
        if let Expr::Column(_) = part {
            all &= partition.contains(part);
        }
    });
    all
}

/// Other expressions in the place of all columns; None where one has none. A condition on no column at all stays.
fn replaced(condition: &Expr, by: impl Fn(ColumnId) -> Option<Expr>) -> Option<Expr> {
    let (mut all, mut any) = (true, false);
    let mut condition = condition.clone();
    condition.replace_columns(&mut |column| {
        let found = by(column);
        any = true;
        all &= found.is_some();
        found
    });
    (all && any).then_some(condition)
}

/// The condition in the operator, below it, or over it.
fn over(tree: Tree, condition: Expr) -> Tree {
    let (tree, above) = place(tree, condition);
    let Some(condition) = above else { return tree };
    let node = Node {
        id: OperatorId(0),
        op: Op::Filter(condition),
        inputs: vec![tree.node.id],
        bound: StateBound::Stateless,
        ..tree.node.clone()
    };
    Tree {
        node,
        inputs: vec![tree],
    }
}

/// It may be worked out twice.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(_) => true,
        Expr::Path { operand, .. } => is_plain(operand),
        _ => false,
    }
}

/// It never fails, whatever the values are.
fn is_harmless(condition: &Expr) -> bool {
    let mut harmless = true;
    condition.walk(&mut |part| {
        harmless &= match part {
            Expr::Binary { op, .. } => matches!(
                op,
                BinaryOp::And
                    | BinaryOp::Or
                    | BinaryOp::Equal
                    | BinaryOp::NotEqual
                    | BinaryOp::Less
                    | BinaryOp::LessOrEqual
                    | BinaryOp::Greater
                    | BinaryOp::GreaterOrEqual
            ),
            Expr::Unary { op, .. } => matches!(op, UnaryOp::Not | UnaryOp::IsNull | UnaryOp::IsNotNull),
            Expr::Call { .. } | Expr::Cast { .. } => false,
            _ => true,
        };
    });
    harmless
}

/// The parts of a chain of ANDs, in order. A chain that grew part by part is as deep as it is long: no recursion.
fn parts_of(condition: Expr) -> Vec<Expr> {
    let (mut parts, mut waiting) = (Vec::new(), vec![condition]);
    while let Some(next) = waiting.pop() {
        match next {
            Expr::Binary {
                op: BinaryOp::And,
                left,
                right,
            } => waiting.extend([*right, *left]),
            other => parts.push(other),
        }
    }
    parts
}

fn both(left: Expr, right: Expr) -> Expr {
    Expr::Binary {
        op: BinaryOp::And,
        left: Box::new(left),
        right: Box::new(right),
    }
}
