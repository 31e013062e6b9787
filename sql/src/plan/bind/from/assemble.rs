//! The operators of FROM: what each part is read from, and what joins it with all before it.

use super::{From, Input, Step, Stream, Topics, among};
use crate::plan::bind::assemble::{Nodes, Shape};
use crate::plan::bind::expression::Expressions;
use crate::plan::bind::join::{self, Joined};
use crate::plan::bind::scope::{Scope, Wanted};
use crate::plan::bind::select;
use crate::plan::bind::subquery::Derived;
use crate::plan::physical::{
    ColumnId, Emit, Expr, Form, Homes, Join, JoinKind, Made, Op, OperatorId, Pair, Side, Source, StateBound, Unnest,
};

impl<'a> From<'a> {
    /// The operators, once all columns that are wanted are known; gives the last one, and how its rows are.
    pub fn assemble(self, expressions: &Expressions<'a>, nodes: &mut Nodes) -> (OperatorId, Shape) {
        let scope = &expressions.scope;
        let mut tops = Vec::with_capacity(self.inputs.len());
        for (part, input) in self.inputs.into_iter().enumerate() {
            tops.push(match input {
                Input::Stream(stream) => Some(stream.assemble(part, scope, nodes)),
                Input::Query(derived) => Some(assemble_query(derived, part, scope, nodes)),
                Input::Topics(topics) => Some(topics.assemble(part, scope, nodes)),
                Input::Elements => None,
            });
        }
        let mut tops = tops.into_iter();
        let (mut top, mut shape) = tops
            .next()
            .flatten()
            .unwrap_or((OperatorId(0), Shape::plain(Form::Append)));
        for (number, (step, right)) in self.steps.into_iter().zip(tops).enumerate() {
            let part = number + 1;
            (top, shape) = match (step, right) {
                (Step::Join(joined), Some((right, _))) => joined.assemble(part, [top, right], self.emit, scope, nodes),
                (Step::Unnest { array, outer }, _) => {
                    let output = scope.up_to(part).map(|(of, column)| match of == part {
                        true => Made::New(0),
                        false => Made::Input(scope.among(column, part)),
                    });
                    let unnest = Unnest {
                        array: among(&array, scope, part),
                        outer,
                        output: output.collect(),
                    };
                    let schema = scope.schema_before(part + 1);
                    (nodes.push(Op::Unnest(unnest), &[top], schema, shape.clone()), shape)
                }
                (Step::Join(_), None) => (top, shape),
            };
        }
        (top, shape)
    }
}

impl<'a> Stream<'a> {
    pub fn assemble(self, part: usize, scope: &Scope<'_>, nodes: &mut Nodes) -> (OperatorId, Shape) {
        let options = &self.row.options;
        let (delay_us, idle_us) = select::delays(self.row);
        let log = if self.plain { "$log" } else { "" };
        let source = Source {
            stream: self.row.id,
            name: format!("{}{log}", self.row.name),
            format: options.format,
            on_error: options.on_error,
            form: self.row.form,
            columns: scope.source_columns(part),
            captures: self.captures,
            delay_us,
            idle_us: idle_us.or(self.idle_us),
            timestamp: self.timestamp.map(|expr| join::local(&expr, scope)),
            start: self.start,
        };
        let schema = scope.source_schema(part);
        let shape = Shape::plain(Form::Append);
        let top = nodes.push(Op::Source(source), &[], schema.clone(), shape.clone());
        let Some(upsert) = self.upsert else {
            return (top, shape);
        };
        let (key, gone) = (scope.local(upsert.key).1, scope.local(upsert.gone).1);
        let (op, shape) = match self.latest {
            true => (Op::Latest { key, gone }, shape),
            false => (Op::FromUpsert { key, gone }, Shape::plain(Form::Retract)),
        };
        let keeps = shape.clone().keeping(StateBound::Keys);
        (nodes.push(op, &[top], schema, keeps), shape)
    }
}

impl Topics {
    fn assemble(self, part: usize, scope: &Scope<'_>, nodes: &mut Nodes) -> (OperatorId, Shape) {
        let homes = Homes {
            filter: self.filter,
            columns: scope.source_columns(part),
            idle_us: self.idle_us,
            start: self.start,
            begins: Vec::new(),
        };
        let shape = Shape::plain(Form::Append);
        let schema = scope.source_schema(part);
        (nodes.push(Op::Homes(homes), &[], schema, shape.clone()), shape)
    }
}

/// A subquery, and over it what is wanted of it.
fn assemble_query(derived: Derived, part: usize, scope: &Scope<'_>, nodes: &mut Nodes) -> (OperatorId, Shape) {
    let shape = Shape::plain(derived.form());
    let top = nodes.splice(derived.nodes);
    let wanted = scope.wanted_of(part).filter_map(|wanted| match wanted {
        Wanted::Output(expr) => Some(expr.clone()),
        _ => None,
    });
    let project = Op::Project(wanted.collect());
    (
        nodes.push(project, &[top], scope.source_schema(part), shape.clone()),
        shape,
    )
}

impl Joined {
    fn assemble(
        self,
        part: usize,
        [left, right]: [OperatorId; 2],
        emit: Emit,
        scope: &Scope<'_>,
        nodes: &mut Nodes,
    ) -> (OperatorId, Shape) {
        let of_left = |expr: &Expr| among(expr, scope, part);
        let of_right = |expr: &Expr| join::local(expr, scope);
        let output = scope.up_to(part).map(|(of, column)| match of == part {
            true => (Side::Right, scope.local(column).1),
            false => (Side::Left, scope.among(column, part)),
        });
        let join = Join {
            kind: self.kind,
            keys: self
                .keys
                .iter()
                .map(|(left, right)| (of_left(left), of_right(right)))
                .collect(),
            within_us: self.within_us,
            output: output.collect(),
        };
        let bound = match join.within_us {
            Some(retention_us) => StateBound::Windows { retention_us },
            None => StateBound::Keys,
        };
        let (tables, form) = match self.tables {
            true => (Some(emit), Form::Retract),
            false => (None, Form::Append),
        };
        let rest = self.rest.map(|rest| among(&rest, scope, part + 1));
        let (pair, filter) = match self.kind {
            JoinKind::Inner => (None, rest),
            _ => (rest.map(|rest| pair(rest, &join.output)), None),
        };
        let op = match (pair, tables) {
            (Some(pair), tables) => Op::JoinIf { join, tables, pair },
            (None, Some(emit)) => Op::JoinTables { join, emit },
            (None, None) => Op::Join(join),
        };
        let (schema, shape) = (scope.schema_before(part + 1), Shape::plain(form));
        let top = nodes.push(op, &[left, right], schema.clone(), shape.clone().keeping(bound));
        match filter {
            Some(rest) => (nodes.push(Op::Filter(rest), &[top], schema, shape.clone()), shape),
            None => (top, shape),
        }
    }
}

/// A condition over the output of a join, as one over the columns of both sides that it names.
fn pair(mut condition: Expr, output: &[(Side, ColumnId)]) -> Pair {
    let mut columns = Vec::new();
    condition.replace_columns(&mut |column| {
        let of = output[column.index()];
        let number = columns.iter().position(|known| *known == of).unwrap_or_else(|| {
            columns.push(of);
            columns.len() - 1
        });
        Some(Expr::Column(ColumnId(number as u32)))
    });
    Pair { columns, condition }
}
