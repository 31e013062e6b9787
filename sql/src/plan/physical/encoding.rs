//! Plans as bytes, and what every plan keeps to.

use headwater_store::{StreamForm, StreamId, TopicFilter};

use super::{
    Aggregate, ColumnId, Emit, Expr, Form, Homes, Join, Made, Manner, Node, Op, OperatorId, OrderBy, Pair, Plan, Read,
    Side, Sink, SinkItem, Source, WindowKind,
};

/// The version that [`Plan::encode`] writes.
pub const PLAN_VERSION: u32 = 2;
/// A stored plan is decoded under this limit.
const PLAN_BYTES_MAX: usize = 4 << 20;

/// Why stored bytes are not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Written by a later Headwater.
    #[error("the plan has version {found}, this headwater reads up to {PLAN_VERSION}")]
    Version { found: u32 },
    /// Not a plan.
    #[error("the plan cannot be read: {0}")]
    Damaged(String),
    /// A plan that breaks its own rules.
    #[error("the plan makes no sense: {0}")]
    Invalid(String),
}

impl Plan {
    /// As bytes: the version, big-endian, then the nodes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = PLAN_VERSION.to_be_bytes().to_vec();
        let body = bincode::encode_to_vec(self, bincode::config::standard());
        bytes.extend(body.expect("plan types encode into memory without fail"));
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Plan, PlanError> {
        let (version, body) = bytes
            .split_first_chunk::<4>()
            .ok_or_else(|| PlanError::Damaged("it is too short".into()))?;
        let found = u32::from_be_bytes(*version);
        let plan = match found {
            // Version 1 had nothing behind the LIMIT.
            1 => {
                let (nodes, order_by, limit) = read::<(Vec<Node>, Vec<OrderBy>, Option<u64>)>(body)?;
                Plan {
                    nodes,
                    order_by,
                    limit,
                    manner: Manner::default(),
                }
            }
            PLAN_VERSION => read::<Plan>(body)?,
            _ => return Err(PlanError::Version { found }),
        };
        plan.check()?;
        Ok(plan)
    }

    /// What every plan keeps to; the runtime relies on it.
    pub fn check(&self) -> Result<(), PlanError> {
        let invalid = |what: &str| Err(PlanError::Invalid(what.to_owned()));
        let mut seen: Vec<&Node> = Vec::new();
        for node in &self.nodes {
            if seen.iter().any(|earlier| earlier.id == node.id) {
                return invalid("an operator id is used twice");
            }
            let inputs = node
                .inputs
                .iter()
                .map(|id| seen.iter().find(|earlier| earlier.id == *id));
            let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else {
                return invalid("an operator comes before its input");
            };
            let wanted = match node.op {
                Op::Source(_) | Op::Homes(_) => 0,
                Op::Join(_) | Op::JoinTables { .. } | Op::JoinIf { .. } => 2,
                Op::Union => inputs.len().max(2),
                _ => 1,
            };
            if inputs.len() != wanted {
                return invalid("an operator has the wrong number of inputs");
            }
            let width = match &node.op {
                Op::Source(source) => source.columns.len(),
                Op::Homes(homes) => homes.columns.len(),
                _ => inputs[0].schema.columns.len(),
            };
            if let (Some((join, _)), [left, right]) = (node.op.join(), inputs.as_slice())
                && !(join.fits(left, right) && node.op.pair().is_none_or(|pair| pair.fits(left, right)))
            {
                return invalid("a join reads a column that is not there");
            }
            let columns = node.schema.columns.len();
            if node.op == Op::Union && inputs.iter().any(|input| input.schema.columns.len() != columns) {
                return invalid("the inputs of a union differ");
            }
            if !node.op.makes(width) {
                return invalid("an operator passes on a column that is not there");
            }
            let mut known = true;
            node.op.expressions(&mut |expr| {
                expr.walk(&mut |part| {
                    if let Expr::Column(column) = part {
                        known &= column.index() < width;
                    }
                });
            });
            if let (
                Op::WindowAggregate {
                    kind: WindowKind::Session { .. },
                    ..
                },
                true,
            ) = (&node.op, inputs.first().is_some_and(|input| input.form != Form::Append))
            {
                return invalid("sessions of rows that go again are not supported");
            }
            if !known {
                return invalid("an expression reads a column that is not there");
            }
            seen.push(node);
        }
        let Some((_, sink)) = self.sink() else {
            return invalid("the last operator is not a sink");
        };
        let width = seen.iter().rev().nth(1).map_or(0, |input| input.schema.columns.len());
        let known = sink.items.iter().all(|item| match item {
            SinkItem::Column { column, .. } | SinkItem::Star(column) => column.index() < width,
        });
        if !known {
            return invalid("the sink reads a column that is not there");
        }
        let exchanges_by_record = |node: &Node| matches!(&node.op, Op::Exchange(routing) if routing.key.is_empty());
        if self.aggregates() && (sink.key.is_empty() || self.nodes.iter().any(exchanges_by_record)) {
            return invalid("an aggregate's rows have no key");
        }
        Ok(())
    }

    /// The sources, with their operators.
    pub fn sources(&self) -> impl Iterator<Item = (OperatorId, &Source)> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Source(source) => Some((node.id, source)),
            _ => None,
        })
    }

    /// The sources, to resolve their starts.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut Source> {
        self.nodes.iter_mut().filter_map(|node| match &mut node.op {
            Op::Source(source) => Some(source),
            _ => None,
        })
    }

    /// What it reads, in the order of its operators: its watermarks are numbered so.
    pub fn reads(&self) -> impl Iterator<Item = Read<'_>> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Source(source) => Some(Read::Stream(source)),
            Op::Homes(homes) => Some(Read::Homes(homes)),
            _ => None,
        })
    }

    /// The topic filters that it reads.
    pub fn filters(&self) -> impl Iterator<Item = TopicFilter> + '_ {
        self.reads().filter_map(|read| match read {
            Read::Homes(homes) => homes.filter().ok(),
            Read::Stream(_) => None,
        })
    }

    /// As `sources_mut`, of topic filters.
    pub fn homes_mut(&mut self) -> impl Iterator<Item = &mut Homes> {
        self.nodes.iter_mut().filter_map(|node| match &mut node.op {
            Op::Homes(homes) => Some(homes),
            _ => None,
        })
    }

    /// The last node and its sink.
    pub fn sink(&self) -> Option<(&Node, &Sink)> {
        self.nodes.last().and_then(|node| match &node.op {
            Op::Sink(sink) | Op::View { sink, .. } => Some((node, sink)),
            _ => None,
        })
    }

    /// The node that keeps the rows of a view, where the plan is one's.
    pub fn view(&self) -> Option<&Node> {
        self.nodes.last().filter(|node| matches!(node.op, Op::View { .. }))
    }

    /// The streams of tables that rows of other streams look into.
    pub fn tables(&self) -> Vec<StreamId> {
        let mut tables = Vec::new();
        for join in &self.nodes {
            if let (Some((Join { within_us: None, .. }, None)), [_, right]) = (join.op.join(), join.inputs.as_slice()) {
                self.streams_under(*right, &mut tables);
            }
        }
        tables
    }

    /// An operator, or one of those that feed it, passes the test.
    pub fn any_under(&self, node: &Node, test: &impl Fn(&Op) -> bool) -> bool {
        let inputs = self.nodes.iter().filter(|input| node.inputs.contains(&input.id));
        test(&node.op) || inputs.into_iter().any(|input| self.any_under(input, test))
    }

    /// How much older than the watermark the rows may be that an operator puts out.
    pub fn behind_us(&self, node: &Node) -> i64 {
        let inputs = self.nodes.iter().filter(|input| node.inputs.contains(&input.id));
        let behind = inputs.map(|input| self.behind_us(input)).max().unwrap_or(0);
        behind.saturating_add(node.op.behind_us())
    }

    /// A ROW_NUMBER that is told no number to end at.
    pub fn ranks_all(&self) -> bool {
        let all = |node: &Node| matches!(&node.op, Op::Rank(rank) if rank.limit.is_none());
        self.nodes.iter().any(all)
    }

    fn streams_under(&self, id: OperatorId, streams: &mut Vec<StreamId>) {
        let Some(node) = self.nodes.iter().find(|node| node.id == id) else {
            return;
        };
        if let Op::Source(source) = &node.op {
            streams.push(source.stream);
        }
        node.inputs.iter().for_each(|input| self.streams_under(*input, streams));
    }

    /// Rows are grouped behind the Exchange, by what it spreads them by.
    pub fn aggregates(&self) -> bool {
        let exchange = self.nodes.iter().position(|node| matches!(node.op, Op::Exchange(_)));
        let behind = self.nodes.iter().skip(exchange.unwrap_or(0));
        behind.into_iter().any(|node| node.op.aggregate().is_some())
    }

    /// The streams it reads, each once.
    pub fn inputs(&self) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.sources().map(|(_, source)| source.stream).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The form of the stream that a persistent query with this plan writes.
    pub fn output_form(&self) -> StreamForm {
        match self.nodes.last().map(|node| node.form) {
            Some(Form::Append) | None => StreamForm::Append,
            Some(Form::Upsert | Form::Retract) => StreamForm::Upsert,
        }
    }
}

impl Homes {
    /// The filter.
    pub fn filter(&self) -> Result<TopicFilter, PlanError> {
        TopicFilter::capture(self.filter.as_str()).map_err(|error| PlanError::Invalid(error.to_string()))
    }
}

/// A body that nothing follows.
fn read<T: bincode::Decode<()>>(body: &[u8]) -> Result<T, PlanError> {
    let config = bincode::config::standard().with_limit::<PLAN_BYTES_MAX>();
    let (read, bytes) =
        bincode::decode_from_slice::<T, _>(body, config).map_err(|error| PlanError::Damaged(error.to_string()))?;
    match body.len() - bytes {
        0 => Ok(read),
        more => Err(PlanError::Damaged(format!("{more} bytes follow it"))),
    }
}

impl Op {
    /// What it groups by and works out, if it groups.
    pub fn aggregate(&self) -> Option<&Aggregate> {
        match self {
            Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => Some(aggregate),
            _ => None,
        }
    }

    /// What it joins; if that is two tables, with when it speaks.
    pub fn join(&self) -> Option<(&Join, Option<Emit>)> {
        match self {
            Op::Join(join) => Some((join, None)),
            Op::JoinTables { join, emit } => Some((join, Some(*emit))),
            Op::JoinIf { join, tables, .. } => Some((join, *tables)),
            _ => None,
        }
    }

    /// What else a join asks of a pair.
    pub fn pair(&self) -> Option<&Pair> {
        match self {
            Op::JoinIf { pair, .. } => Some(pair),
            _ => None,
        }
    }

    /// It may ask to be called at a later time.
    pub fn has_timers(&self) -> bool {
        let waits = |(_, tables): (_, Option<Emit>)| tables.is_none();
        self.aggregate().is_some()
            || matches!(self, Op::Throttle(_) | Op::View { .. })
            || self.join().is_some_and(waits)
    }

    /// How much older than the watermark the rows may be that it puts out.
    pub fn behind_us(&self) -> i64 {
        match self {
            Op::Join(join) | Op::JoinIf { join, .. } => join.within_us.unwrap_or(0),
            Op::Retime { behind_us, .. } => *behind_us,
            _ => 0,
        }
    }

    /// What it passes on of an input of that width is there.
    fn makes(&self, width: usize) -> bool {
        let (output, new) = match self {
            Op::Unnest(unnest) => (&unnest.output, 1),
            Op::Over(over) => (&over.output, over.calls.len()),
            Op::Rank(rank) => (&rank.output, 1),
            Op::Retime { end, .. } => return end.index() < width,
            _ => return true,
        };
        output.iter().all(|made| match made {
            Made::Input(column) => column.index() < width,
            Made::New(number) => (*number as usize) < new,
        })
    }
}

impl Join {
    /// Its columns are there.
    fn fits(&self, left: &Node, right: &Node) -> bool {
        let (left, right) = (left.schema.columns.len(), right.schema.columns.len());
        let mut fits = !self.keys.is_empty();
        for (of_left, of_right) in &self.keys {
            for (expr, width) in [(of_left, left), (of_right, right)] {
                expr.walk(&mut |part| {
                    if let Expr::Column(column) = part {
                        fits &= column.index() < width;
                    }
                });
            }
        }
        fits && of_sides(&self.output, left, right)
    }
}

impl Pair {
    /// Its columns are there.
    fn fits(&self, left: &Node, right: &Node) -> bool {
        let mut fits = of_sides(&self.columns, left.schema.columns.len(), right.schema.columns.len());
        self.condition.walk(&mut |part| {
            if let Expr::Column(column) = part {
                fits &= column.index() < self.columns.len();
            }
        });
        fits
    }
}

fn of_sides(columns: &[(Side, ColumnId)], left: usize, right: usize) -> bool {
    columns.iter().all(|(side, column)| match side {
        Side::Left => column.index() < left,
        Side::Right => column.index() < right,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::physical::{
        AggregateCall, AggregateFunction, BinaryOp, ColumnId, Emit, PathStep, Routing, Schema, Silence, SourceColumn,
        Start, StateBound, Template, TemplatePart, UnaryOp, WindowColumns,
    };
    use crate::types::{DataType, Interval, Literal};
    use headwater_store::{Format, OnError, Qos};
    use proptest::prelude::*;

    fn column(number: u32) -> Expr {
        Expr::Column(ColumnId(number))
    }

    fn node(id: u32, op: Op, inputs: &[u32], columns: &[&str]) -> Node {
        let mut schema = Schema::default();
        columns.iter().for_each(|name| {
            schema.push(*name, DataType::Decimal(Some((10, 2))));
        });
        Node {
            id: OperatorId(id),
            op,
            inputs: inputs.iter().map(|id| OperatorId(*id)).collect(),
            schema,
            form: Form::Append,
            key: vec![ColumnId(0)],
            partition: vec![],
            bound: StateBound::Windows { retention_us: 5 },
        }
    }

    /// A bit of everything that a plan can hold.
    fn plan() -> Plan {
        let source = Source {
            stream: StreamId(7),
            name: "s".into(),
            format: Format::Json,
            on_error: OnError::Drop,
            form: StreamForm::Append,
            columns: vec![
                SourceColumn::Field {
                    path: vec![PathStep::Member("a".into()), PathStep::Index(-1)],
                    data_type: DataType::Array(Box::new(DataType::Any)),
                },
                SourceColumn::TopicLevel(-2),
            ],
            captures: vec!["a/{b}".into()],
            timestamp: Some(column(0)),
            delay_us: 1,
            idle_us: Some(2),
            start: Start::At(vec![3, 4]),
        };
        let literals = [
            Literal::Null,
            Literal::Float(1.5),
            Literal::Decimal("1.50".into()),
            Literal::Interval(Interval { months: 1, us: 2 }),
            Literal::Array(vec![Literal::Bytea(vec![0, 255])]),
        ];
        let predicate = Expr::Case {
            branches: vec![(
                Expr::In {
                    operand: Box::new(column(0)),
                    list: literals.map(Expr::Literal).into(),
                    negated: true,
                },
                Expr::Unary {
                    op: UnaryOp::IsNull,
                    operand: Box::new(column(1)),
                },
            )],
            otherwise: Some(Box::new(Expr::Binary {
                op: BinaryOp::Or,
                left: Box::new(Expr::Call {
                    function: "ABS".into(),
                    arguments: vec![column(0)],
                }),
                right: Box::new(Expr::Cast {
                    operand: Box::new(column(0)),
                    to: DataType::Boolean,
                }),
            })),
        };
        let call = AggregateCall {
            function: AggregateFunction::Avg,
            argument: Some(column(1)),
            filter: None,
        };
        let aggregate = Aggregate {
            group: vec![column(0)],
            window: Some(WindowColumns {
                start: ColumnId(0),
                end: ColumnId(1),
            }),
            calls: vec![call],
            emit: Emit::Final,
            grace_us: 9,
        };
        let part = TemplatePart::Value {
            expr: column(0),
            slashes: true,
        };
        let sink = Sink {
            items: vec![
                SinkItem::Star(ColumnId(0)),
                SinkItem::Column {
                    name: "x".into(),
                    column: ColumnId(3),
                },
            ],
            key: vec![column(0)],
            routing: Routing {
                topic: Some(Template {
                    parts: vec![TemplatePart::Text("a/".into()), part],
                }),
                key: vec![column(0)],
            },
            qos: Qos::AtLeastOnce,
            retain: true,
        };
        Plan {
            nodes: vec![
                node(1, Op::Source(source), &[], &["a", "b"]),
                node(2, Op::Filter(predicate), &[1], &["a", "b"]),
                node(3, Op::Aggregate(aggregate), &[2], &["a", "s", "e", "avg"]),
                node(4, Op::Sink(sink), &[3], &["*", "x"]),
            ],
            order_by: vec![],
            limit: Some(3),
            manner: Manner {
                each_input: true,
                silence: Silence::Clock,
            },
        }
    }

    #[test]
    fn a_plan_reads_back_as_it_was() {
        assert_eq!(Plan::decode(&plan().encode()), Ok(plan()));
    }

    /// What stands in catalogs must be readable for ever: when this fails, raise the version and read both.
    #[test]
    fn the_bytes_of_all_versions_stay() {
        let bytes = plan().encode();
        assert_eq!((bytes.len(), crc32(&bytes)), (245, 912_133_197));
        // Version 1 ended with the LIMIT.
        let mut first = bytes[..bytes.len() - 2].to_vec();
        first[3] = 1;
        assert_eq!((first.len(), crc32(&first)), (243, 1_272_699_779));
        let plan = Plan {
            manner: Manner::default(),
            ..plan()
        };
        assert_eq!(Plan::decode(&first), Ok(plan));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        };
        !bytes
            .iter()
            .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    #[test]
    fn a_later_version_and_a_broken_plan_are_refused() {
        let mut bytes = plan().encode();
        bytes[3] = 3;
        assert_eq!(Plan::decode(&bytes), Err(PlanError::Version { found: 3 }));
        let bytes = plan().encode();
        assert!(matches!(
            Plan::decode(&bytes[..bytes.len() - 1]),
            Err(PlanError::Damaged(_))
        ));
        assert!(matches!(
            Plan::decode(&[&bytes[..], &[0]].concat()),
            Err(PlanError::Damaged(_))
        ));

        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            matches!(Plan::decode(&plan.encode()), Err(PlanError::Invalid(_)))
        };
        assert!(refused(|plan| plan.nodes[1].id = OperatorId(1)), "an id twice");
        assert!(
            refused(|plan| plan.nodes[1].inputs = vec![OperatorId(3)]),
            "an input that comes later"
        );
        assert!(
            refused(|plan| plan.nodes[1].op = Op::Filter(column(2))),
            "a column that is not there"
        );
        assert!(refused(|plan| plan.nodes.truncate(3)), "no sink");
        assert!(
            !refused(|plan| plan.nodes[1].form = Form::Upsert),
            "AVG of rows that go is fine"
        );
        assert!(refused(|plan| match &mut plan.nodes[3].op {
            Op::Sink(sink) => sink.key.clear(),
            _ => unreachable!(),
        }));
        assert!(refused(|plan| match &mut plan.nodes[3].op {
            Op::Sink(sink) => sink.items.push(SinkItem::Star(ColumnId(9))),
            _ => unreachable!(),
        }));
        let sessions = |plan: &mut Plan| match plan.nodes[2].op.clone() {
            Op::Aggregate(aggregate) => {
                let kind = WindowKind::Session { gap_us: 1 };
                plan.nodes[2].op = Op::WindowAggregate { aggregate, kind };
            }
            _ => unreachable!(),
        };
        assert!(!refused(sessions));
        assert!(refused(|plan| {
            plan.nodes[1].form = Form::Retract;
            let Op::Aggregate(aggregate) = plan.nodes[2].op.clone() else {
                unreachable!()
            };
            let kind = WindowKind::Session { gap_us: 1 };
            plan.nodes[2].op = Op::WindowAggregate { aggregate, kind };
        }));
    }

    proptest! {
        #[test]
        fn damage_is_told_and_never_a_panic(at in 0..245_usize, byte: u8) {
            let mut bytes = plan().encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Plan::decode(&bytes);
        }
    }
}
