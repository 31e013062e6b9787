//! Calls: scalar functions from the table of functions, and aggregates, whose results are columns of the aggregate.

use crate::ast::{self, Arguments, Name};
use crate::error::{SqlError, codes};
use crate::function;
use crate::parse::did_you_mean;
use crate::plan::bind::expression::{AFTER, Expressions, Place, Typed, article};
use crate::plan::physical::{AggregateCall, AggregateFunction, ColumnId, Expr};
use crate::types::DataType;

impl Expressions<'_> {
    pub(super) fn call(
        &mut self,
        ast: &ast::Expr,
        name: &Name,
        arguments: &Arguments,
        filter: Option<&ast::Expr>,
        place: Place,
    ) -> Result<Typed, SqlError> {
        if let Some(function) = AggregateFunction::from_name(&name.text) {
            return self.aggregate(ast, function, arguments, filter, place);
        }
        if let Some(filter) = filter {
            let message = format!(
                "FILTER stands only after an aggregate function, and {} is none",
                name.text
            );
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, message).at(filter.span));
        }
        let Some(function) = function::lookup(&name.text) else {
            return Err(unknown_function(name));
        };
        let Arguments::List(list) = arguments else {
            let message = format!("{} does not take `*`", function.name);
            return Err(SqlError::new(codes::WRONG_ARGUMENTS, message).at(ast.span));
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
        let data_type = function.returns(&types);
        Ok(Typed::new(
            Expr::Call {
                function: function.name.to_owned(),
                arguments,
            },
            data_type,
        ))
    }

    fn aggregate(
        &mut self,
        ast: &ast::Expr,
        function: AggregateFunction,
        arguments: &Arguments,
        filter: Option<&ast::Expr>,
        place: Place,
    ) -> Result<Typed, SqlError> {
        let name = function.name();
        if !place.after_grouping() || self.grouping.is_none() {
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
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, message)
                .at(ast.span)
                .help(help));
        }
        let argument = match arguments {
            Arguments::Star if function == AggregateFunction::Count => None,
            Arguments::Star => {
                let message = format!("{name} does not take `*`");
                return Err(SqlError::new(codes::WRONG_ARGUMENTS, message)
                    .at(ast.span)
                    .help("only COUNT(*) counts rows"));
            }
            Arguments::List(list) if list.len() == 1 => Some(&list[0]),
            Arguments::List(list) => {
                let message = format!("{name} takes 1 argument, {} given", list.len());
                return Err(SqlError::new(codes::WRONG_ARGUMENTS, message).at(ast.span));
            }
        };
        let bound = argument
            .map(|argument| self.part(argument, Place::Argument))
            .transpose()?;
        let data_type = bound.as_ref().map_or(DataType::Any, |typed| typed.data_type.clone());
        if matches!(function, AggregateFunction::Sum | AggregateFunction::Avg) && !data_type.may_be_number() {
            let message = format!("{name} takes a number, this is {}", article(&data_type));
            return Err(
                SqlError::new(codes::WRONG_TYPE, message).at(argument.map_or(ast.span, |argument| argument.span))
            );
        }
        let filter = match filter {
            Some(filter) => {
                let bound = self.part(filter, Place::Argument)?;
                Some(self.boolean_operand("FILTER", filter, bound)?.expr)
            }
            None => None,
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

fn unknown_function(name: &Name) -> SqlError {
    let scalar =
        function::all().flat_map(|function| std::iter::once(function.name).chain(function.aliases.iter().copied()));
    let names = scalar.chain(AggregateFunction::ALL.iter().map(|function| function.name()));
    let upper = name.text.to_ascii_uppercase();
    SqlError::new(
        codes::UNKNOWN_FUNCTION,
        format!("function `{}` does not exist", name.text),
    )
    .at(name.span)
    .help_if(did_you_mean(&upper, names))
}
