//! Functions with OVER: LAG and HAD_CHANGED look at the rows before a row, ROW_NUMBER counts them in an order.
//!
//! They see every row that FROM gives, whatever WHERE keeps, so that WHERE may ask for them; each is a column beside
//! those of FROM.

use super::call::Call;
use crate::ast::{self, Arguments, ExprKind};
use crate::error::{SqlError, codes};
use crate::limits::{LAG_ROWS_MAX, OVER_CALLS_MAX};
use crate::plan::bind::expression::{Expressions, Place, Typed};
use crate::plan::physical::{Expr, OrderBy, OverCall, OverFunction};
use crate::span::Span;
use crate::types::DataType;

/// The functions there are.
pub(super) const NAMES: &[&str] = &["LAG", "HAD_CHANGED", "ROW_NUMBER"];

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Lag,
    HadChanged,
    RowNumber,
}

/// A ROW_NUMBER, over the columns of the scope.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// PARTITION BY
    pub partition: Vec<Expr>,
    /// ORDER BY
    pub order: Vec<OrderBy>,
    /// Where it stands.
    pub span: Span,
}

/// By name, in any case.
pub(super) fn lookup(name: &str) -> Option<Function> {
    let functions = [Function::Lag, Function::HadChanged, Function::RowNumber];
    let mut named = NAMES.iter().zip(functions);
    named
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, function)| function)
}

impl Expressions<'_> {
    pub(super) fn over(&mut self, call: &Call<'_>, function: Function, place: Place) -> Result<Typed, SqlError> {
        let name = call.name.text.to_ascii_uppercase();
        let span = call.ast.span;
        if matches!(place, Place::Option | Place::Output) || (place.after_grouping() && self.grouping.is_some()) {
            return Err(
                SqlError::new(codes::MISPLACED_AGGREGATE, format!("{name} cannot stand here"))
                    .at(span)
                    .detail("it looks at the rows of FROM, one after the other")
                    .help("to look at groups, put what groups into a subquery: FROM (SELECT … GROUP BY …)"),
            );
        }
        if let Some(span) = call.distinct.or(call.filter.map(|filter| filter.span)) {
            let message = format!("{name} takes neither DISTINCT nor FILTER");
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, message).at(span));
        }
        let Arguments::List(arguments) = call.arguments else {
            return Err(SqlError::new(codes::WRONG_ARGUMENTS, format!("{name} does not take this")).at(span));
        };
        let (partition, order) = call.over.map_or((&[][..], &[][..]), |over| {
            (over.partition.as_slice(), over.order.as_slice())
        });
        let partition = self.each(partition)?;
        let partition = partition.into_iter().map(|typed| typed.expr).collect();
        if function == Function::RowNumber {
            return self.row_number(call, arguments, partition, order);
        }
        if let Some(item) = order.first() {
            return Err(
                SqlError::not_supported(format!("ORDER BY inside OVER with {name}"), item.expr.span)
                    .detail("rows are seen in the order in which they are read"),
            );
        }
        let (function, data_type) = match function {
            Function::Lag => self.lag(arguments, span)?,
            _ if arguments.is_empty() => {
                return Err(SqlError::new(codes::WRONG_ARGUMENTS, "HAD_CHANGED takes 1 or more arguments").at(span));
            }
            _ => {
                let values = self.each(arguments)?.into_iter().map(|typed| typed.expr);
                (OverFunction::HadChanged(values.collect()), DataType::Boolean)
            }
        };
        self.refuse_rank(self.rank.is_some(), span)?;
        if self.over.len() >= OVER_CALLS_MAX {
            let message = format!("a SELECT has at most {OVER_CALLS_MAX} functions with OVER");
            return Err(SqlError::new(codes::TOO_DEEP, message).at(span));
        }
        let call = OverCall { function, partition };
        let number = self.over.iter().position(|known| *known == call).unwrap_or_else(|| {
            self.over.push(call);
            self.over.len() - 1
        });
        let column = self.scope.call(number as u32, &name.to_lowercase(), data_type.clone());
        Ok(Typed::new(Expr::Column(column), data_type))
    }

    /// LAG(value [, rows [, default]])
    fn lag(&mut self, arguments: &[ast::Expr], span: Span) -> Result<(OverFunction, DataType), SqlError> {
        let (value, rows, default) = match arguments {
            [value] => (value, None, None),
            [value, rows] => (value, Some(rows), None),
            [value, rows, default] => (value, Some(rows), Some(default)),
            _ => {
                let message = format!("LAG takes 1 to 3 arguments, {} given", arguments.len());
                return Err(SqlError::new(codes::WRONG_ARGUMENTS, message)
                    .at(span)
                    .detail("the value, how many rows before, and what stands where there is none"));
            }
        };
        let count = |rows: &ast::Expr| {
            let number = match &rows.kind {
                ExprKind::Number(text) => text.parse().ok(),
                _ => None,
            };
            number
                .filter(|number| (1..=LAG_ROWS_MAX).contains(number))
                .ok_or_else(|| {
                    let message = format!("LAG takes a whole number from 1 to {LAG_ROWS_MAX} as argument 2");
                    SqlError::new(codes::WRONG_TYPE, message).at(rows.span)
                })
        };
        let rows = rows.map_or(Ok(1), count)?;
        let mut bound = self.each(std::slice::from_ref(value))?;
        bound.extend(self.each(default.map_or(&[][..], std::slice::from_ref))?);
        let data_type = super::common_type(bound.iter().map(|typed| &typed.data_type));
        let mut exprs = bound.into_iter().map(|typed| typed.expr);
        let Some(value) = exprs.next() else {
            return Err(SqlError::internal("LAG without a value").at(span));
        };
        let default = exprs.next();
        Ok((OverFunction::Lag { value, rows, default }, data_type))
    }

    fn row_number(
        &mut self,
        call: &Call<'_>,
        arguments: &[ast::Expr],
        partition: Vec<Expr>,
        order: &[ast::OrderItem],
    ) -> Result<Typed, SqlError> {
        let span = call.ast.span;
        if let Some(argument) = arguments.first() {
            return Err(SqlError::new(codes::WRONG_ARGUMENTS, "ROW_NUMBER takes no arguments").at(argument.span));
        }
        if order.is_empty() {
            return Err(
                SqlError::new(codes::WRONG_ARGUMENTS, "ROW_NUMBER needs an order to count in")
                    .at(span)
                    .help("write ROW_NUMBER() OVER (PARTITION BY … ORDER BY … DESC)"),
            );
        }
        let mut items = Vec::with_capacity(order.len());
        for item in order {
            crate::plan::bind::select::refuse_constant(&item.expr, "ORDER BY")?;
            let bound = self.each(std::slice::from_ref(&item.expr))?;
            items.extend(bound.into_iter().map(|typed| OrderBy {
                expr: typed.expr,
                descending: item.descending,
            }));
        }
        let rank = Ranked {
            partition,
            order: items,
            span,
        };
        let is_other = |known: &Ranked| known.partition != rank.partition || known.order != rank.order;
        self.refuse_rank(!self.over.is_empty() || self.rank.as_ref().is_some_and(is_other), span)?;
        self.rank.get_or_insert(rank);
        let column = self.scope.call(0, "row_number", DataType::Integer);
        Ok(Typed::new(Expr::Column(column), DataType::Integer))
    }

    fn refuse_rank(&self, refused: bool, span: Span) -> Result<(), SqlError> {
        match refused {
            true => Err(
                SqlError::not_supported("ROW_NUMBER beside another function with OVER", span)
                    .help("put one of them into a subquery"),
            ),
            false => Ok(()),
        }
    }

    /// Binds expressions over the rows of FROM alone.
    fn each(&mut self, exprs: &[ast::Expr]) -> Result<Vec<Typed>, SqlError> {
        let mut bound = Vec::with_capacity(exprs.len());
        for ast in exprs {
            let typed = self.part(ast, Place::Argument)?;
            let mut nested = false;
            typed.expr.walk(&mut |part| {
                if let Expr::Column(column) = part {
                    nested |= self.scope.call_number(*column).is_some();
                }
            });
            if nested {
                return Err(
                    SqlError::not_supported("a function with OVER inside another one", ast.span)
                        .help("put one of them into a subquery"),
                );
            }
            bound.push(typed);
        }
        Ok(bound)
    }
}
