//! A bound SELECT as operators, each with its schema, key and form.

use crate::plan::bind::expression::{Expressions, Grouping};
use crate::plan::bind::from::{From, among};
use crate::plan::bind::projection::Projection;
use crate::plan::bind::routing::View;
use crate::plan::physical::{
    Aggregate, ColumnId, Emit, Expr, Form, Made, Manner, Node, Op, OperatorId, OrderBy, Over, Plan, Rank, Routing,
    Schema, Sink, SinkItem, StateBound, Throttle, Window, WindowColumns, WindowKind,
};
use crate::types::DataType;

/// A SELECT up to its items.
pub struct Body<'a> {
    pub expressions: Expressions<'a>,
    pub from: From<'a>,
    pub condition: Option<Expr>,
    pub window: Option<Window>,
    pub throttle: Option<Throttle>,
    pub having: Option<Expr>,
    pub projection: Projection,
    pub emit: Emit,
}

/// What makes records of its rows.
pub struct Ending {
    pub exchange: Routing,
    pub sink: Sink,
    /// Without grouping, a row replaces the earlier one of its key.
    pub keyed: bool,
    /// Several rows that are there may have one key.
    pub may_share_key: bool,
    pub view: Option<View>,
    pub order_by: Vec<OrderBy>,
    pub limit: Option<u64>,
    pub manner: Manner,
}

impl Body<'_> {
    /// The whole plan.
    pub fn plan(mut self, ending: Ending) -> Plan {
        let mut nodes = Nodes::default();
        let projection = std::mem::take(&mut self.projection);
        let (top, shape) = self.assemble(&projection, Some(ending.exchange), &mut nodes);
        let shape = match shape.form {
            Form::Append if ending.keyed => Shape {
                form: Form::Upsert,
                ..shape
            },
            _ => shape,
        };
        nodes.set_form(top, shape.form);
        let top = match shape.form {
            // That one of them goes says nothing of the others.
            Form::Retract if ending.may_share_key && !names_rows(&ending.sink.key, &shape.key) => {
                let key = ending.sink.key.clone();
                let newest = Shape::plain(Form::Retract).keeping(StateBound::Keys);
                nodes.push(Op::Newest { key }, &[top], projection.schema.clone(), newest)
            }
            _ => top,
        };
        let visible = visible(&ending.sink.items, &projection.schema);
        let (op, bound) = match ending.view {
            Some(View { retention_us }) => {
                let view = Op::View {
                    sink: ending.sink,
                    retention_us,
                };
                let kept = retention_us.map(|retention_us| StateBound::Windows { retention_us });
                (view, kept.unwrap_or(StateBound::Keys))
            }
            None => (Op::Sink(ending.sink), StateBound::Stateless),
        };
        nodes.push(op, &[top], visible, Shape::plain(shape.form).keeping(bound));
        Plan {
            nodes: nodes.0,
            order_by: ending.order_by,
            limit: ending.limit,
            manner: ending.manner,
        }
    }

    /// The operators up to the items; gives the last one, and how its rows are. Without `exchange`: of a subquery, whose
    /// rows every task works out.
    pub fn assemble(
        self,
        projection: &Projection,
        exchange: Option<Routing>,
        nodes: &mut Nodes,
    ) -> (OperatorId, Shape) {
        let Body {
            mut expressions, from, ..
        } = self;
        let (mut top, from_shape) = from.assemble(&expressions, nodes);
        let plain = Shape::plain(from_shape.form);
        let (calls, rank) = (std::mem::take(&mut expressions.over), expressions.rank.take());
        let scope = &expressions.scope;
        let source_schema = scope.schema.clone();
        // What they are over is what FROM gives, without the columns that they make.
        let parts = scope.parts();
        let output = || {
            let column = |(of, column): (usize, ColumnId)| match scope.call_number(column) {
                Some(number) if of == parts => Made::New(number),
                _ => Made::Input(scope.among(column, parts)),
            };
            scope.up_to(parts).map(column).collect::<Vec<_>>()
        };
        let own = |expr: &Expr| among(expr, scope, parts);
        let mut plain = plain;
        if !calls.is_empty() {
            let calls = calls.into_iter().map(|call| call.map(&own)).collect();
            let over = Op::Over(Over {
                calls,
                output: output(),
            });
            let keeps = plain.clone().keeping(StateBound::Keys);
            top = nodes.push(over, &[top], source_schema.clone(), keeps);
        }
        if let Some(rank) = rank {
            let order = rank.order.iter().map(|item| OrderBy {
                expr: own(&item.expr),
                descending: item.descending,
            });
            let op = Op::Rank(Rank {
                partition: rank.partition.iter().map(&own).collect(),
                order: order.collect(),
                limit: None,
                output: output(),
                emit: self.emit,
            });
            plain = Shape::plain(match self.emit {
                Emit::AtEnd => Form::Append,
                _ => Form::Retract,
            });
            let keeps = plain.clone().keeping(StateBound::Keys);
            top = nodes.push(op, &[top], source_schema.clone(), keeps);
        }
        if let Some(condition) = self.condition {
            top = nodes.push(Op::Filter(condition), &[top], source_schema.clone(), plain.clone());
        }
        let mut shape = plain;
        if let Some(exchange) = exchange {
            shape.partition = exchange.key.iter().filter_map(column_of).collect();
            top = nodes.push(Op::Exchange(exchange), &[top], source_schema.clone(), shape.clone());
        }
        if let Some(grouping) = expressions.grouping {
            let grouped = Grouped {
                grouping,
                window: self.window,
                emit: self.emit,
                throttle: self.throttle,
                having: self.having,
            };
            (top, shape) = grouped.assemble(top, source_schema, shape, nodes);
        }
        let renamed = |columns: &[ColumnId]| {
            let place = |column: &ColumnId| projection.exprs.iter().position(|expr| *expr == Expr::Column(*column));
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
            form: shape.form,
        };
        let project = Op::Project(projection.exprs.clone());
        (
            nodes.push(project, &[top], projection.schema.clone(), shape.clone()),
            shape,
        )
    }
}

/// GROUP BY and what follows it.
struct Grouped {
    grouping: Grouping,
    window: Option<Window>,
    emit: Emit,
    throttle: Option<Throttle>,
    having: Option<Expr>,
}

impl Grouped {
    fn assemble(self, mut top: OperatorId, mut schema: Schema, shape: Shape, nodes: &mut Nodes) -> (OperatorId, Shape) {
        let columns = self.window.as_ref().map(|_| WindowColumns {
            start: schema.push("window_start", DataType::Timestamp),
            end: schema.push("window_end", DataType::Timestamp),
        });
        let grace_us = self.window.as_ref().map_or(0, |window| window.grace_us);
        let kind = self.window.as_ref().map(|window| window.kind.clone());
        if let Some(window) = self.window {
            top = nodes.push(Op::Window(window), &[top], schema.clone(), shape);
        }
        let (aggregate, schema, after) = aggregate(self.grouping, &schema, columns, self.emit, grace_us);
        let op = match kind {
            Some(kind @ (WindowKind::Hopping { .. } | WindowKind::Session { .. })) => {
                Op::WindowAggregate { aggregate, kind }
            }
            _ => Op::Aggregate(aggregate),
        };
        top = nodes.push(op, &[top], schema.clone(), after.clone());
        if let Some(throttle) = self.throttle {
            let waits = after.clone().keeping(StateBound::Waiting);
            top = nodes.push(Op::Throttle(throttle), &[top], schema.clone(), waits);
        }
        if let Some(having) = self.having {
            let shape = after.clone().keeping(StateBound::Stateless);
            top = nodes.push(Op::Filter(having), &[top], schema, shape);
        }
        (top, after)
    }
}

/// Rows that differ in `unique` differ in the key.
fn names_rows(key: &[Expr], unique: &[ColumnId]) -> bool {
    !unique.is_empty() && unique.iter().all(|column| key.contains(&Expr::Column(*column)))
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

/// How the rows of an operator are.
#[derive(Clone)]
pub struct Shape {
    pub form: Form,
    pub key: Vec<ColumnId>,
    pub partition: Vec<ColumnId>,
    pub bound: StateBound,
}

impl Shape {
    /// Rows that are themselves, of an operator that keeps nothing.
    pub fn plain(form: Form) -> Shape {
        Shape {
            form,
            key: Vec::new(),
            partition: Vec::new(),
            bound: StateBound::Stateless,
        }
    }

    /// Of an operator that keeps so much.
    pub fn keeping(self, bound: StateBound) -> Shape {
        Shape { bound, ..self }
    }
}

/// Operators, inputs before users.
#[derive(Debug, Default)]
pub struct Nodes(Vec<Node>);

impl Nodes {
    /// Adds one, numbered by its place.
    pub fn push(&mut self, op: Op, inputs: &[OperatorId], schema: Schema, shape: Shape) -> OperatorId {
        let Shape {
            form,
            key,
            partition,
            bound,
        } = shape;
        let id = OperatorId(self.0.len() as u32);
        self.0.push(Node {
            id,
            op,
            inputs: inputs.to_vec(),
            schema,
            form,
            key,
            partition,
            bound,
        });
        id
    }

    /// Adds all of a subquery; gives its last one.
    pub fn splice(&mut self, other: Nodes) -> OperatorId {
        let before = self.0.len() as u32;
        let moved = |id: OperatorId| OperatorId(id.0 + before);
        for node in other.0 {
            self.0.push(Node {
                id: moved(node.id),
                inputs: node.inputs.iter().map(|id| moved(*id)).collect(),
                ..node
            });
        }
        OperatorId(self.0.len().saturating_sub(1) as u32)
    }

    fn set_form(&mut self, of: OperatorId, form: Form) {
        if let Some(node) = self.0.get_mut(of.0 as usize) {
            node.form = form;
        }
    }
}
