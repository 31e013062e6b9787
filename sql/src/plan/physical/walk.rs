//! All expressions of an operator: to read them, and to change them. Those of a join's keys are not among them: they are
//! over one input each.

use super::{Expr, Op, OverCall, OverFunction, Routing, TemplatePart};

impl Op {
    /// All expressions over the input's columns; of a source, over its own.
    pub fn expressions<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Op::Source(source) => source.timestamp.iter().for_each(visit),
            Op::Filter(predicate) => visit(predicate),
            Op::Project(columns) => columns.iter().for_each(visit),
            Op::Newest { key } => key.iter().for_each(visit),
            Op::Exchange(routing) => routing.expressions(visit),
            Op::Unnest(unnest) => visit(&unnest.array),
            Op::Over(over) => over.calls.iter().for_each(|call| call.expressions(visit)),
            Op::Rank(rank) => {
                let order = rank.order.iter().map(|item| &item.expr);
                rank.partition.iter().chain(order).for_each(visit);
            }
            Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => {
                aggregate.group.iter().for_each(&mut *visit);
                for call in &aggregate.calls {
                    call.argument.iter().chain(&call.filter).for_each(&mut *visit);
                }
            }
            Op::Sink(sink) | Op::View { sink, .. } => {
                sink.key.iter().for_each(&mut *visit);
                sink.routing.expressions(visit);
            }
            Op::Homes(_)
            | Op::Window(_)
            | Op::Throttle(_)
            | Op::FromUpsert { .. }
            | Op::Latest { .. }
            | Op::Join(_)
            | Op::JoinTables { .. }
            | Op::JoinIf { .. }
            | Op::Union
            | Op::Retime { .. } => {}
        }
    }

    /// As above, to change them.
    pub fn expressions_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        match self {
            Op::Source(source) => source.timestamp.iter_mut().for_each(visit),
            Op::Filter(predicate) => visit(predicate),
            Op::Project(columns) => columns.iter_mut().for_each(visit),
            Op::Newest { key } => key.iter_mut().for_each(visit),
            Op::Exchange(routing) => routing.expressions_mut(visit),
            Op::Unnest(unnest) => visit(&mut unnest.array),
            Op::Over(over) => over.calls.iter_mut().for_each(|call| call.expressions_mut(visit)),
            Op::Rank(rank) => {
                let order = rank.order.iter_mut().map(|item| &mut item.expr);
                rank.partition.iter_mut().chain(order).for_each(visit);
            }
            Op::Aggregate(aggregate) | Op::WindowAggregate { aggregate, .. } => {
                aggregate.group.iter_mut().for_each(&mut *visit);
                for call in &mut aggregate.calls {
                    call.argument.iter_mut().chain(&mut call.filter).for_each(&mut *visit);
                }
            }
            Op::Sink(sink) | Op::View { sink, .. } => {
                sink.key.iter_mut().for_each(&mut *visit);
                sink.routing.expressions_mut(visit);
            }
            Op::Homes(_)
            | Op::Window(_)
            | Op::Throttle(_)
            | Op::FromUpsert { .. }
            | Op::Latest { .. }
            | Op::Join(_)
            | Op::JoinTables { .. }
            | Op::JoinIf { .. }
            | Op::Union
            | Op::Retime { .. } => {}
        }
    }
}

impl OverCall {
    fn expressions<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match &self.function {
            OverFunction::Lag { value, default, .. } => std::iter::once(value).chain(default).for_each(&mut *visit),
            OverFunction::HadChanged(values) => values.iter().for_each(&mut *visit),
        }
        self.partition.iter().for_each(visit);
    }

    fn expressions_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        match &mut self.function {
            OverFunction::Lag { value, default, .. } => std::iter::once(value).chain(default).for_each(&mut *visit),
            OverFunction::HadChanged(values) => values.iter_mut().for_each(&mut *visit),
        }
        self.partition.iter_mut().for_each(visit);
    }
}

impl Routing {
    fn expressions<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        self.key.iter().for_each(&mut *visit);
        let parts = self.topic.iter().flat_map(|template| &template.parts);
        for part in parts {
            if let TemplatePart::Value { expr, .. } = part {
                visit(expr);
            }
        }
    }

    fn expressions_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        self.key.iter_mut().for_each(&mut *visit);
        let parts = self.topic.iter_mut().flat_map(|template| &mut template.parts);
        for part in parts {
            if let TemplatePart::Value { expr, .. } = part {
                visit(expr);
            }
        }
    }
}
