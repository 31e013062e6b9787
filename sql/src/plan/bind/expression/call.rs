//! Calls: scalar functions from the table of functions, and aggregates, whose results are columns of the aggregate.

use crate::ast::{self, Arguments, ExprKind, Name};
use crate::calendar;
use crate::error::{SqlError, codes};
use crate::function::{self, Constant};
use crate::limits::TOP_MAX;
use crate::parse::did_you_mean;
use crate::plan::bind::expression::{AFTER, Expressions, Place, Typed, article, over};
use crate::plan::physical::{AggregateCall, ColumnId, Expr};
use crate::span::Span;
use crate::types::{DataType, Literal};

/// A call as it was written.
pub(super) struct Call<'a> {
    pub ast: &'a ast::Expr,
    pub name: &'a Name,
    pub arguments: &'a Arguments,
    pub distinct: Option<Span>,
    pub filter: Option<&'a ast::Expr>,
    pub over: Option<&'a ast::Over>,
}

impl Expressions<'_> {
    pub(super) fn call(&mut self, call: Call<'_>, place: Place) -> Result<Typed, SqlError> {
        let Call { ast, name, .. } = call;
        if let Some(function) = over::lookup(&name.text) {
            return self.over(&call, function, place);
        }
        if let Some(over) = call.over {
            let name = name.text.to_ascii_uppercase();
            return Err(SqlError::not_supported(format!("OVER with {name}"), over.span)
                .detail(format!("it stands with {}", over::NAMES.join(", "))));
        }
        if let Some(function) = function::aggregate(&name.text) {
            return self.aggregate(&call, function, place);
        }
        let misplaced = call.filter.map(|filter| ("FILTER", filter.span));
        if let Some((what, span)) = misplaced.or(call.distinct.map(|span| ("DISTINCT", span))) {
            let message = format!(
                "{what} stands only with an aggregate function, and {} is none",
                name.text
            );
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, message).at(span));
        }
        let Some(function) = function::lookup(&name.text) else {
            return Err(unknown_function(name));
        };
        let list = match call.arguments {
            Arguments::List(list) => list,
            Arguments::From { unit, of } => return self.extract(unit, of, place),
            Arguments::Star => {
                let message = format!("{} does not take `*`", function.name);
                return Err(SqlError::new(codes::WRONG_ARGUMENTS, message).at(ast.span));
            }
        };
        let bound = list
            .iter()
            .map(|argument| self.part(argument, place))
            .collect::<Result<Vec<_>, _>>()?;
        let (arguments, types): (Vec<_>, Vec<_>) = bound.into_iter().map(|typed| (typed.expr, typed.data_type)).unzip();
        function.check(&types).map_err(|error| match error {
            function::CallError::Count { .. } => SqlError::new(codes::WRONG_ARGUMENTS, error.to_string())
                .at(ast.span)
                .detail(function.about),
            function::CallError::Type { position, .. } => SqlError::new(codes::WRONG_TYPE, error.to_string())
                .at(list[position].span)
                .detail(function.about),
        })?;
        for (position, argument) in arguments.iter().enumerate() {
            if let Expr::Literal(Literal::String(text)) = argument
                && !function.takes(position, text)
            {
                let (name, number) = (function.name, position + 1);
                let message = format!("{name} does not know '{text}', its argument {number}: it would always be NULL");
                return Err(SqlError::new(codes::BAD_LITERAL, message)
                    .at(list[position].span)
                    .detail(function.about));
            }
        }
        let data_type = function.returns(&types);
        Ok(Typed::new(
            Expr::Call {
                function: function.name.to_owned(),
                arguments,
            },
            data_type,
        ))
    }

    /// `EXTRACT(HOUR FROM t)` is `EXTRACT('hour', t)`.
    fn extract(&mut self, unit: &Name, of: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        if calendar::extract(&unit.text, 0).is_none() {
            let message = format!("a time has no `{}`", unit.text);
            return Err(SqlError::new(codes::BAD_LITERAL, message)
                .at(unit.span)
                .help("it has a year, quarter, month, day, hour, minute, second, dow, doy and epoch"));
        }
        let bound = self.part(of, place)?;
        if !function::Parameter::Timestamp.accepts(&bound.data_type) {
            let message = format!("EXTRACT takes a TIMESTAMP, this is {}", article(&bound.data_type));
            return Err(SqlError::new(codes::WRONG_TYPE, message).at(of.span));
        }
        let unit = Expr::Literal(Literal::String(unit.text.to_ascii_lowercase()));
        let call = Expr::Call {
            function: "EXTRACT".to_owned(),
            arguments: vec![unit, bound.expr],
        };
        Ok(Typed::new(call, DataType::Integer))
    }

    fn aggregate(
        &mut self,
        call: &Call<'_>,
        function: &'static function::Aggregate,
        place: Place,
    ) -> Result<Typed, SqlError> {
        if !place.after_grouping() || self.grouping.is_none() {
            return Err(misplaced(function.name, place).at(call.ast.span));
        }
        let (argument, constant) = arguments(call, function)?;
        let bound = argument
            .map(|argument| self.part(argument, Place::Argument))
            .transpose()?;
        let data_type = bound.as_ref().map_or(DataType::Any, |typed| typed.data_type.clone());
        if !function.parameter.accepts(&data_type) {
            let message = format!("{} takes a number, this is {}", function.name, article(&data_type));
            let span = argument.map_or(call.ast.span, |argument| argument.span);
            return Err(SqlError::new(codes::WRONG_TYPE, message).at(span));
        }
        let filter = match call.filter {
            Some(filter) => {
                let bound = self.part(filter, Place::Argument)?;
                Some(self.boolean_operand("FILTER", filter, bound)?.expr)
            }
            None => None,
        };
        let function = match call.distinct {
            Some(span) => function
                .distinct
                .ok_or_else(|| SqlError::not_supported(format!("DISTINCT inside {}", function.name), span))?,
            None => function.function(constant),
        };
        let returns = function.returns(&data_type);
        let call = AggregateCall {
            function,
            argument: bound.map(|typed| typed.expr),
            filter,
        };
        let Some(grouping) = &mut self.grouping else {
            return Err(SqlError::internal("an aggregate was bound outside of a grouped query"));
        };
        let at = grouping
            .calls
            .iter()
            .position(|(known, _)| *known == call)
            .unwrap_or_else(|| {
                grouping.calls.push((call, returns.clone()));
                grouping.calls.len() - 1
            });
        let column = AFTER as usize + grouping.group.len() + grouping.window_columns() + at;
        Ok(Typed::new(Expr::Column(ColumnId(column as u32)), returns))
    }
}

fn misplaced(name: &str, place: Place) -> SqlError {
    let (message, help) = match place {
        Place::Where => (format!("{name} cannot stand in WHERE"), "write the condition in HAVING"),
        Place::GroupBy => (format!("{name} cannot stand in GROUP BY"), "group by columns"),
        Place::Argument => (
            format!("{name} cannot stand inside another aggregate"),
            "aggregate twice with two queries",
        ),
        _ => (
            format!("{name} cannot stand here"),
            "use it in the SELECT list of a query",
        ),
    };
    SqlError::new(codes::MISPLACED_AGGREGATE, message).help(help)
}

/// An aggregate's argument (none: `*`) and its constant.
fn arguments<'a>(call: &Call<'a>, function: &function::Aggregate) -> Result<(Option<&'a ast::Expr>, u32), SqlError> {
    let name = function.name;
    let wrong = |message: String| Err(SqlError::new(codes::WRONG_ARGUMENTS, message).at(call.ast.span));
    let list = match call.arguments {
        Arguments::Star if name == "COUNT" && call.distinct.is_none() => return Ok((None, 0)),
        Arguments::Star => {
            return wrong(format!("{name} does not take `*`")).map_err(|error| error.help("only COUNT(*) counts rows"));
        }
        Arguments::List(list) => list,
        Arguments::From { unit, .. } => {
            return wrong(format!("{name} does not take `{} FROM`", unit.text));
        }
    };
    match (function.constant, list.as_slice()) {
        (Constant::None, [argument]) => Ok((Some(argument), 0)),
        (Constant::None, _) => wrong(format!("{name} takes 1 argument, {} given", list.len())),
        (Constant::Count, [argument, count]) => Ok((Some(argument), top(name, count)?)),
        (Constant::Fraction, [argument, part]) => Ok((Some(argument), millionths(name, part)?)),
        (_, _) => wrong(format!("{name} takes 2 arguments, {} given", list.len())),
    }
}

fn top(name: &str, count: &ast::Expr) -> Result<u32, SqlError> {
    let number = match &count.kind {
        ExprKind::Number(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number| (1..=TOP_MAX).contains(number)).ok_or_else(|| {
        let message = format!("{name} takes a whole number from 1 to {TOP_MAX} as argument 2");
        SqlError::new(codes::WRONG_TYPE, message).at(count.span)
    })
}

fn millionths(name: &str, part: &ast::Expr) -> Result<u32, SqlError> {
    let number: Option<f64> = match &part.kind {
        ExprKind::Number(text) => text.parse().ok(),
        _ => None,
    };
    let part_of_one = number.filter(|number| (0.0..=1.0).contains(number));
    part_of_one.map(|number| (number * 1e6).round() as u32).ok_or_else(|| {
        let message = format!("{name} takes a number from 0 to 1 as argument 2");
        SqlError::new(codes::WRONG_TYPE, message)
            .at(part.span)
            .help("0.95 is the value below which 95 % of all lie")
    })
}

fn unknown_function(name: &Name) -> SqlError {
    let scalar =
        function::all().flat_map(|function| std::iter::once(function.name).chain(function.aliases.iter().copied()));
    let aggregates = function::AGGREGATES
        .iter()
        .flat_map(|function| std::iter::once(function.name).chain(function.aliases.iter().copied()));
    let names = scalar.chain(aggregates).chain(over::NAMES.iter().copied());
    let upper = name.text.to_ascii_uppercase();
    SqlError::new(
        codes::UNKNOWN_FUNCTION,
        format!("function `{}` does not exist", name.text),
    )
    .at(name.span)
    .help_if(did_you_mean(&upper, names))
}
