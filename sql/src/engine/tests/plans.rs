//! Plans made by hand.

use headwater_store::{Ack, Placement, StreamForm, StreamId, StreamOptions, StreamSpec};

use super::HOUR_US;
use crate::plan::physical::*;
use crate::types::{DataType, Literal};

pub(super) fn column(number: u32) -> Expr {
    Expr::Column(ColumnId(number))
}

pub(super) fn any(names: &[&str]) -> Schema {
    let mut schema = Schema::default();
    names.iter().for_each(|name| {
        schema.push(*name, DataType::Any);
    });
    schema
}

pub(super) fn node(id: u32, op: Op, inputs: &[u32], schema: Schema) -> Node {
    let inputs = inputs.iter().map(|id| OperatorId(*id)).collect();
    let (form, bound) = (Form::Append, StateBound::Stateless);
    Node {
        id: OperatorId(id),
        op,
        inputs,
        schema,
        form,
        key: vec![],
        partition: vec![],
        bound,
    }
}

pub(super) fn source(stream: StreamId) -> Op {
    let field = |name: &str| SourceColumn::Field {
        path: vec![PathStep::Member(name.into())],
        data_type: DataType::Any,
    };
    Op::Source(Source {
        stream,
        name: "plant".into(),
        format: headwater_store::Format::Json,
        on_error: headwater_store::OnError::Null,
        form: StreamForm::Append,
        columns: vec![SourceColumn::Capture("device".into()), field("temp"), field("date")],
        captures: vec!["plant/{device}/temp".into()],
        timestamp: Some(column(2)),
        delay_us: 0,
        idle_us: Some(200_000),
        start: Start::Latest,
    })
}

pub(super) fn template() -> Option<Template> {
    let device = TemplatePart::Value {
        expr: column(0),
        slashes: false,
    };
    Some(Template {
        parts: vec![TemplatePart::Text("alerts/".into()), device],
    })
}

pub(super) fn sink(items: &[(&str, u32)], key: Vec<Expr>) -> Op {
    let item = |(name, column): &(&str, u32)| SinkItem::Column {
        name: (*name).into(),
        column: ColumnId(*column),
    };
    Op::Sink(Sink {
        items: items.iter().map(item).collect(),
        key,
        routing: Routing {
            topic: template(),
            key: vec![column(0)],
        },
        qos: headwater_store::Qos::AtLeastOnce,
        retain: false,
    })
}

/// SELECT device, temp FROM plant WHERE temp > 50
pub(super) fn alerts(stream: StreamId) -> Plan {
    let hot = Expr::Binary {
        op: BinaryOp::Greater,
        left: Box::new(column(1)),
        right: Box::new(Expr::Literal(Literal::Integer(50))),
    };
    let names = ["device", "temp", "date"];
    Plan {
        nodes: vec![
            node(1, source(stream), &[], any(&names)),
            node(2, Op::Filter(hot), &[1], any(&names)),
            node(
                3,
                Op::Exchange(Routing {
                    topic: template(),
                    key: vec![column(0)],
                }),
                &[2],
                any(&names),
            ),
            node(
                4,
                sink(&[("device", 0), ("temp", 1)], vec![column(0)]),
                &[3],
                any(&["device", "temp"]),
            ),
        ],
        order_by: vec![],
        limit: None,
        manner: Manner::default(),
    }
}

/// SELECT device, AVG(temp), COUNT(*) FROM plant GROUP BY device, TUMBLING (1 hour) EMIT …
pub(super) fn hourly(stream: StreamId, emit: Emit) -> Plan {
    let names = ["device", "temp", "date", "window_start", "window_end"];
    let call = |function, argument| AggregateCall {
        function,
        argument,
        filter: None,
    };
    let aggregate = Op::Aggregate(Aggregate {
        group: vec![column(0)],
        window: Some(WindowColumns {
            start: ColumnId(3),
            end: ColumnId(4),
        }),
        calls: vec![
            call(AggregateFunction::Avg, Some(column(1))),
            call(AggregateFunction::Count, None),
        ],
        emit,
        grace_us: 0,
    });
    let window = Op::Window(Window {
        kind: WindowKind::Tumbling { size_us: HOUR_US },
        grace_us: 0,
    });
    let out = ["device", "window_start", "window_end", "avg", "count"];
    let items = [("device", 0), ("window_start", 1), ("avg", 3), ("count", 4)];
    let mut plan = Plan {
        nodes: vec![
            node(1, source(stream), &[], any(&names[..3])),
            node(
                2,
                Op::Exchange(Routing {
                    topic: template(),
                    key: vec![column(0)],
                }),
                &[1],
                any(&names[..3]),
            ),
            node(3, window, &[2], any(&names)),
            node(4, aggregate, &[3], any(&out)),
            node(
                5,
                sink(&items, vec![column(0), column(1)]),
                &[4],
                any(&["device", "window_start", "avg", "count"]),
            ),
        ],
        order_by: vec![],
        limit: None,
        manner: Manner::default(),
    };
    if emit == Emit::Changes {
        plan.nodes[3].form = Form::Upsert;
        plan.nodes[4].form = Form::Upsert;
    }
    plan
}

pub(super) fn stream(name: &str, placement: Placement, captures: &[&str]) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        placement,
        shards: 1,
        columns: vec![],
        captures: captures.iter().map(|capture| (*capture).to_owned()).collect(),
        form: StreamForm::Append,
        options: StreamOptions::default(),
        ack: Ack::default(),
        sql: String::new(),
    }
}
