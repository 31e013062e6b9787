//! Columns that nobody uses go, from the sources on.

use std::collections::BTreeSet;

use super::Tree;
use crate::plan::physical::{ColumnId, Expr, Join, Made, Op, Side, SinkItem};

/// The columns that are used of an output.
type Used = BTreeSet<u32>;

/// Takes out of all operators what is not used in the end.
pub fn prune(tree: &mut Tree) {
    let all = (0..tree.node.schema.columns.len() as u32).collect();
    keep(tree, &all);
}

/// Keeps these columns of a tree's output, and what they are made of; gives the new numbers of the old ones.
fn keep(tree: &mut Tree, used: &Used) -> Vec<Option<u32>> {
    let inputs = wanted(tree, used);
    let maps: Vec<_> = tree
        .inputs
        .iter_mut()
        .zip(&inputs)
        .map(|(input, used)| keep(input, used))
        .collect();
    let map = |port: usize, column: ColumnId| ColumnId(maps[port][column.index()].unwrap_or(0));
    let node = &mut tree.node;
    let kept = match &mut node.op {
        Op::Project(exprs) => retain(exprs, used),
        Op::Source(source) => {
            let mut used = used.clone();
            source.timestamp.iter().for_each(|time| add(&mut used, time));
            retain(&mut source.columns, &used)
        }
        Op::Homes(homes) => retain(&mut homes.columns, used),
        Op::Unnest(unnest) => retain(&mut unnest.output, used),
        Op::Over(over) => retain(&mut over.output, used),
        Op::Rank(rank) => retain(&mut rank.output, used),
        Op::Join(join) | Op::JoinTables { join, .. } | Op::JoinIf { join, .. } => retain(&mut join.output, used),
        // What passes rows on has the columns of its input.
        Op::Filter(_)
        | Op::Exchange(_)
        | Op::Newest { .. }
        | Op::Throttle(_)
        | Op::Union
        | Op::Retime { .. }
        | Op::FromUpsert { .. }
        | Op::Latest { .. } => maps[0].clone(),
        Op::Window(_) => {
            let width = maps[0].len() as u32;
            let left = maps[0].iter().flatten().count() as u32;
            let appended = (width..node.schema.columns.len() as u32).map(|column| Some(column - width + left));
            maps[0].iter().copied().chain(appended).collect()
        }
        Op::Aggregate(_) | Op::WindowAggregate { .. } | Op::Sink(_) | Op::View { .. } => {
            (0..node.schema.columns.len() as u32).map(Some).collect()
        }
    };
    renumber(&mut node.op, &map, &kept);
    let columns = std::mem::take(&mut node.schema.columns);
    let is_kept = |(number, column)| kept.get(number).is_some_and(Option::is_some).then_some(column);
    node.schema.columns = columns.into_iter().enumerate().filter_map(is_kept).collect();
    for named in [&mut node.key, &mut node.partition] {
        *named = named
            .iter()
            .filter_map(|column| kept.get(column.index()).copied().flatten().map(ColumnId))
            .collect();
    }
    kept
}

/// What an operator uses of each of its inputs to make these columns.
fn wanted(tree: &Tree, used: &Used) -> Vec<Used> {
    let mut wanted: Vec<Used> = vec![Used::new(); tree.inputs.len()];
    match &tree.node.op {
        Op::Join(join) | Op::JoinTables { join, .. } => of_join(join, &[], used, &mut wanted),
        Op::JoinIf { join, pair, .. } => of_join(join, &pair.columns, used, &mut wanted),
        Op::Project(exprs) => {
            let kept = exprs.iter().zip(0..).filter(|(_, number)| used.contains(number));
            kept.for_each(|(expr, _)| add(&mut wanted[0], expr));
        }
        // All inputs have the same columns, whatever stands over them.
        Op::Union => wanted
            .iter_mut()
            .for_each(|input| input.extend(0..tree.node.schema.columns.len() as u32)),
        op => {
            let Some(input) = wanted.first_mut() else {
                return wanted;
            };
            op.expressions(&mut |expr| add(input, expr));
            passed_on(tree, used, input);
        }
    }
    wanted
}

fn add(wanted: &mut Used, expr: &Expr) {
    expr.walk(&mut |part| {
        if let Expr::Column(column) = part {
            wanted.insert(column.0);
        }
    });
}

/// Of the columns that an operator with one input passes on as they are.
fn passed_on(tree: &Tree, used: &Used, input: &mut Used) {
    let width = tree.inputs[0].node.schema.columns.len() as u32;
    let made = |output: &[Made], input: &mut Used| {
        for number in used {
            if let Some(Made::Input(column)) = output.get(*number as usize) {
                input.insert(column.0);
            }
        }
    };
    match &tree.node.op {
        Op::Unnest(unnest) => made(&unnest.output, input),
        Op::Over(over) => made(&over.output, input),
        Op::Rank(rank) => made(&rank.output, input),
        Op::Filter(_) | Op::Exchange(_) | Op::Newest { .. } => input.extend(used),
        Op::Window(_) => input.extend(used.iter().filter(|column| **column < width)),
        Op::Throttle(_) => {
            input.extend(used);
            input.extend(tree.node.key.iter().map(|column| column.0));
        }
        Op::Retime { end, .. } => {
            input.extend(used);
            input.insert(end.0);
        }
        Op::FromUpsert { key, gone } | Op::Latest { key, gone } => {
            input.extend(used);
            input.extend([key.0, gone.0]);
        }
        Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => {
            input.extend(
                aggregate
                    .window
                    .iter()
                    .flat_map(|window| [window.start.0, window.end.0]),
            );
        }
        Op::Sink(sink) | Op::View { sink, .. } => {
            input.extend(sink.items.iter().map(|item| match item {
                SinkItem::Column { column, .. } | SinkItem::Star(column) => column.0,
            }));
            // ORDER BY reads them by number.
            input.extend(0..width);
        }
        Op::Source(_) | Op::Homes(_) | Op::Project(_) | Op::Union => {}
        Op::Join(_) | Op::JoinTables { .. } | Op::JoinIf { .. } => {}
    }
}

fn of_join(join: &Join, pair: &[(Side, ColumnId)], used: &Used, wanted: &mut [Used]) {
    let [left, right] = wanted else { return };
    for (of_left, of_right) in &join.keys {
        add(left, of_left);
        add(right, of_right);
    }
    let output = used.iter().filter_map(|number| join.output.get(*number as usize));
    for (side, column) in output.chain(pair) {
        match side {
            Side::Left => left.insert(column.0),
            Side::Right => right.insert(column.0),
        };
    }
}

/// Keeps the items of these numbers; gives the new numbers of all.
fn retain<T>(items: &mut Vec<T>, used: &Used) -> Vec<Option<u32>> {
    let count = items.len() as u32;
    let mut number = 0;
    items.retain(|_| {
        number += 1;
        used.contains(&(number - 1))
    });
    let mut next = 0;
    let kept = (0..count).map(|column| {
        used.contains(&column).then(|| {
            next += 1;
            next - 1
        })
    });
    kept.collect()
}

/// Puts the new numbers of the inputs' columns into an operator; `kept` are those of its own, of a source.
fn renumber(op: &mut Op, map: &impl Fn(usize, ColumnId) -> ColumnId, kept: &[Option<u32>]) {
    let made = |output: &mut Vec<Made>| {
        for made in output {
            if let Made::Input(column) = made {
                *column = map(0, *column);
            }
        }
    };
    match op {
        Op::Source(source) => {
            let own = |column: ColumnId| {
                kept.get(column.index())
                    .copied()
                    .flatten()
                    .map(|number| Expr::Column(ColumnId(number)))
            };
            source
                .timestamp
                .iter_mut()
                .for_each(|time| time.replace_columns(&mut |column| own(column)));
            return;
        }
        Op::JoinIf { join, pair, .. } => {
            of_sides(&mut pair.columns, map);
            renumber_join(join, map);
            return;
        }
        Op::Join(join) | Op::JoinTables { join, .. } => {
            renumber_join(join, map);
            return;
        }
        Op::Unnest(unnest) => made(&mut unnest.output),
        Op::Over(over) => made(&mut over.output),
        Op::Rank(rank) => made(&mut rank.output),
        Op::Retime { end, .. } => *end = map(0, *end),
        Op::FromUpsert { key, gone } | Op::Latest { key, gone } => {
            (*key, *gone) = (map(0, *key), map(0, *gone));
        }
        Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => {
            if let Some(window) = &mut aggregate.window {
                (window.start, window.end) = (map(0, window.start), map(0, window.end));
            }
        }
        Op::Sink(sink) | Op::View { sink, .. } => {
            for item in &mut sink.items {
                let (SinkItem::Column { column, .. } | SinkItem::Star(column)) = item;
                *column = map(0, *column);
            }
        }
        Op::Union | Op::Homes(_) => return,
        Op::Filter(_) | Op::Project(_) | Op::Exchange(_) | Op::Newest { .. } | Op::Window(_) | Op::Throttle(_) => {}
    }
    op.expressions_mut(&mut |expr| expr.replace_columns(&mut |column| Some(Expr::Column(map(0, column)))));
}

fn renumber_join(join: &mut Join, map: &impl Fn(usize, ColumnId) -> ColumnId) {
    for (left, right) in &mut join.keys {
        left.replace_columns(&mut |column| Some(Expr::Column(map(0, column))));
        right.replace_columns(&mut |column| Some(Expr::Column(map(1, column))));
    }
    of_sides(&mut join.output, map);
}

fn of_sides(columns: &mut [(Side, ColumnId)], map: &impl Fn(usize, ColumnId) -> ColumnId) {
    for (side, column) in columns {
        *column = map(usize::from(*side == Side::Right), *column);
    }
}
