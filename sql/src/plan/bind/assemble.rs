//! A bound SELECT as a chain of operators, each with its schema, key and form.

use crate::plan::bind::expression::{Grouping, Upsert};
use crate::plan::bind::projection::Projection;
use crate::plan::bind::routing::View;
use crate::plan::physical::{
    Aggregate, ColumnId, Emit, Expr, Form, Join, Node, Op, OperatorId, OrderBy, Plan, Routing, Schema, Sink, SinkItem,
    Source, StateBound, Throttle, Window, WindowColumns, WindowKind,
};
use crate::types::DataType;

/// Everything bound, to be put together.
pub struct Parts {
    pub source: Source,
    /// Some: the source is the left side of a join.
    pub joined: Option<JoinParts>,
    pub condition: Option<Expr>,
    pub exchange: Routing,
    pub window: Option<Window>,
    pub throttle: Option<Throttle>,
    pub having: Option<Expr>,
    pub projection: Projection,
    pub sink: Sink,
    /// The source is read as changes by key.
    pub upsert: Option<Upsert>,
    /// Without grouping, a row replaces the earlier one of its key.
    pub keyed: bool,
    pub view: Option<View>,
    pub order_by: Vec<OrderBy>,
    pub limit: Option<u64>,
    pub emit: Emit,
}

/// What a join is put together from.
pub struct JoinParts {
    pub join: Join,
    pub left: Schema,
    pub right: Source,
    pub right_schema: Schema,
    /// The right side is a table: its revisions are its rows.
    pub upsert: Option<Upsert>,
}

impl Parts {
    /// The chain of operators. `source_schema` has the columns that were asked for, `grouping` what GROUP BY came to.
    pub fn assemble(self, source_schema: Schema, grouping: Option<Grouping>) -> Plan {
        let mut nodes = Nodes(Vec::new());
        let plain = Shape {
            form: Form::Append,
            key: Vec::new(),
            partition: Vec::new(),
            bound: StateBound::Stateless,
        };
        match self.joined {
            None => nodes.push(Op::Source(self.source), source_schema.clone(), plain.clone()),
            Some(joined) => nodes.join(self.source, joined, source_schema.clone(), &plain),
        }
        let plain = match self.upsert {
            None => plain,
            Some(Upsert { key, gone }) => {
                let changes = Shape {
                    form: Form::Retract,
                    bound: StateBound::Keys,
                    ..plain
                };
                nodes.push(Op::FromUpsert { key, gone }, source_schema.clone(), changes.clone());
                Shape {
                    bound: StateBound::Stateless,
                    ..changes
                }
            }
        };
        if let Some(condition) = self.condition {
            nodes.push(Op::Filter(condition), source_schema.clone(), plain.clone());
        }
        let spread = self.exchange.key.iter().filter_map(column_of).collect();
        let mut shape = Shape {
            partition: spread,
            ..plain
        };
        nodes.push(Op::Exchange(self.exchange), source_schema.clone(), shape.clone());
        if let Some(grouping) = grouping {
            let mut schema = source_schema;
            let columns = self.window.as_ref().map(|_| WindowColumns {
                start: schema.push("window_start", DataType::Timestamp),
                end: schema.push("window_end", DataType::Timestamp),
            });
            let grace_us = self.window.as_ref().map_or(0, |window| window.grace_us);
            let kind = self.window.as_ref().map(|window| window.kind.clone());
            if let Some(window) = self.window {
                nodes.push(Op::Window(window), schema.clone(), shape);
            }
            let (aggregate, schema, after) = aggregate(grouping, &schema, columns, self.emit, grace_us);
            let op = match kind {
                Some(kind @ (WindowKind::Hopping { .. } | WindowKind::Session { .. })) => {
                    Op::WindowAggregate { aggregate, kind }
                }
                _ => Op::Aggregate(aggregate),
            };
            nodes.push(op, schema.clone(), after.clone());
            if let Some(throttle) = self.throttle {
                nodes.push(
                    Op::Throttle(throttle),
                    schema.clone(),
                    Shape {
                        bound: StateBound::Waiting,
                        ..after.clone()
                    },
                );
            }
            if let Some(having) = self.having {
                nodes.push(
                    Op::Filter(having),
                    schema,
                    Shape {
                        bound: StateBound::Stateless,
                        ..after.clone()
                    },
                );
            }
            shape = after;
        }
        let project = &self.projection;
        let renamed = |columns: &[ColumnId]| {
            let place = |column: &ColumnId| project.exprs.iter().position(|expr| *expr == Expr::Column(*column));
            columns
                .iter()
                .filter_map(place)
                .map(|place| ColumnId(place as u32))
                .collect::<Vec<_>>()
        };
        let shape = Shape {
            key: renamed(&shape.key),
            partition: renamed(&shape.partition),
            bound: StateBound::Stateless,
            form: match shape.form {
                Form::Append if self.keyed => Form::Upsert,
                form => form,
            },
        };
        nodes.push(
            Op::Project(project.exprs.clone()),
            project.schema.clone(),
            shape.clone(),
        );
        let visible = visible(&self.sink.items, &project.schema);
        let (op, bound) = match self.view {
            Some(View { retention_us }) => {
                let view = Op::View {
                    sink: self.sink,
                    retention_us,
                };
                let kept = retention_us.map(|retention_us| StateBound::Windows { retention_us });
                (view, kept.unwrap_or(StateBound::Keys))
            }
            None => (Op::Sink(self.sink), StateBound::Stateless),
        };
        let shape = Shape {
            key: Vec::new(),
            partition: Vec::new(),
            bound,
            ..shape
        };
        nodes.push(op, visible, shape);
        Plan {
            nodes: nodes.0,
            order_by: self.order_by,
            limit: self.limit,
        }
    }
}

fn column_of(expr: &Expr) -> Option<ColumnId> {
    match expr {
        Expr::Column(column) => Some(*column),
        _ => None,
    }
}

/// What people see.
fn visible(items: &[SinkItem], projected: &Schema) -> Schema {
    let mut schema = Schema::default();
    for item in items {
        let (name, column) = match item {
            SinkItem::Column { name, column } => (name.as_str(), column),
            SinkItem::Star(column) => ("*", column),
        };
        schema.push(name, projected.columns[column.index()].data_type.clone());
    }
    schema
}

fn aggregate(
    grouping: Grouping,
    input: &Schema,
    window: Option<WindowColumns>,
    emit: Emit,
    grace_us: i64,
) -> (Aggregate, Schema, Shape) {
    let schema = grouping.schema(input);
    let groups: Vec<_> = (0..grouping.group.len() as u32).map(ColumnId).collect();
    let mut key = groups.clone();
    if window.is_some() {
        // `window_start` follows the groups.
        key.push(ColumnId(groups.len() as u32));
    }
    let shape = Shape {
        form: if emit == Emit::Changes {
            Form::Upsert
        } else {
            Form::Append
        },
        key,
        partition: groups,
        bound: match window {
            Some(_) => StateBound::Windows { retention_us: grace_us },
            None => StateBound::Keys,
        },
    };
    let group = grouping.group.into_iter().map(|group| group.expr).collect();
    let calls = grouping.calls.into_iter().map(|(call, _)| call).collect();
    (
        Aggregate {
            group,
            window,
            calls,
            emit,
            grace_us,
        },
        schema,
        shape,
    )
}

#[derive(Clone)]
struct Shape {
    form: Form,
    key: Vec<ColumnId>,
    partition: Vec<ColumnId>,
    bound: StateBound,
}

/// A chain of operators, each reading the one before it.
struct Nodes(Vec<Node>);

impl Nodes {
    /// Both sides and what brings them together.
    fn join(&mut self, left: Source, parts: JoinParts, schema: Schema, plain: &Shape) {
        self.push(Op::Source(left), parts.left, plain.clone());
        let left = self.0.len() - 1;
        self.push(Op::Source(parts.right), parts.right_schema.clone(), plain.clone());
        if let Some(right) = self.0.last_mut() {
            right.inputs.clear();
        }
        if let Some(Upsert { key, gone }) = parts.upsert {
            let changes = Shape {
                form: Form::Retract,
                bound: StateBound::Keys,
                ..plain.clone()
            };
            self.push(Op::FromUpsert { key, gone }, parts.right_schema, changes);
        }
        let bound = match parts.join.within_us {
            Some(retention_us) => StateBound::Windows { retention_us },
            None => StateBound::Keys,
        };
        let shape = Shape { bound, ..plain.clone() };
        self.push(Op::Join(parts.join), schema, shape);
        if let [.., right, join] = self.0.as_slice() {
            let inputs = vec![self.0[left].id, right.id];
            let join = join.id;
            self.0[join.0 as usize].inputs = inputs;
        }
    }

    fn push(&mut self, op: Op, schema: Schema, shape: Shape) {
        let Shape {
            form,
            key,
            partition,
            bound,
        } = shape;
        let id = OperatorId(self.0.len() as u32);
        let inputs = self.0.last().map(|node| node.id).into_iter().collect();
        self.0.push(Node {
            id,
            op,
            inputs,
            schema,
            form,
            key,
            partition,
            bound,
        });
    }
}
