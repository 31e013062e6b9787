//! Operators: operands of known types are checked, a text beside a moment becomes one.

use crate::ast::{self, ExprKind, UnaryOp as AstUnary};
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::{Expressions, Place, Typed, article, literal, negate};
use crate::plan::physical::{BinaryOp, Expr, UnaryOp};
use crate::types::DataType;

impl Expressions<'_> {
    pub(super) fn operator(&mut self, ast: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        match &ast.kind {
            ExprKind::Unary { op, operand } => self.unary(*op, operand, place),
            ExprKind::Binary { op, left, right } => self.binary(ast, *op, left, right, place),
            ExprKind::IsNull { operand, negated } => {
                let operand = Box::new(self.part(operand, place)?.expr);
                let op = if *negated { UnaryOp::IsNotNull } else { UnaryOp::IsNull };
                Ok(Typed::boolean(Expr::Unary { op, operand }))
            }
            ExprKind::Like {
                operand,
                pattern,
                escape,
                negated,
            } => {
                let text = self.text_operand("LIKE", operand, place)?;
                let pattern = self.text_operand("LIKE", pattern, place)?;
                let escape = escape.as_ref().map(escape_character).transpose()?;
                Ok(Typed::boolean(Expr::Like {
                    operand: text,
                    pattern,
                    escape,
                    negated: *negated,
                }))
            }
            ExprKind::Between {
                operand,
                low,
                high,
                symmetric,
                negated,
            } => {
                let mut inside = self.between(operand, low, high, place)?;
                if *symmetric {
                    inside = both(BinaryOp::Or, inside, self.between(operand, high, low, place)?);
                }
                Ok(Typed::boolean(if *negated { not(inside) } else { inside }))
            }
            ExprKind::In { operand, list, negated } => {
                let first = self.part(operand, place)?;
                let mut values = Vec::with_capacity(list.len());
                for item in list {
                    let value = self.part(item, place)?;
                    let (_, value) = self.comparable((operand, first.clone()), (item, value))?;
                    values.push(value.expr);
                }
                let operand = Box::new(first.expr);
                Ok(Typed::boolean(Expr::In {
                    operand,
                    list: values,
                    negated: *negated,
                }))
            }
            _ => Err(SqlError::internal("this expression is not an operator").at(ast.span)),
        }
    }

    fn unary(&mut self, op: AstUnary, operand: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        let bound = self.part(operand, place)?;
        if op == AstUnary::Not {
            let bound = self.boolean_operand("NOT", operand, bound)?;
            return Ok(Typed::boolean(not(bound.expr)));
        }
        let number =
            bound.data_type.may_be_number() || (op == AstUnary::Minus && bound.data_type == DataType::Interval);
        if !number {
            let sign = if op == AstUnary::Minus { "`-`" } else { "`+`" };
            return Err(wrong_operand(sign, "a number", operand, &bound.data_type));
        }
        Ok(if op == AstUnary::Minus {
            Typed {
                expr: negate(bound.expr),
                ..bound
            }
        } else {
            bound
        })
    }

    fn binary(
        &mut self,
        ast: &ast::Expr,
        op: BinaryOp,
        left: &ast::Expr,
        right: &ast::Expr,
        place: Place,
    ) -> Result<Typed, SqlError> {
        use BinaryOp::*;
        let (mut a, mut b) = (self.part(left, place)?, self.part(right, place)?);
        match op {
            And | Or => {
                a = self.boolean_operand(op.symbol(), left, a)?;
                b = self.boolean_operand(op.symbol(), right, b)?;
            }
            Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual => {
                self.warn_of_null(op, [left, right]);
                (a, b) = self.comparable((left, a), (right, b))?;
            }
            Add | Subtract | Multiply | Divide | IntegerDivide | Modulo => {
                (a, b) = beside_interval((left, a), (right, b))?;
                if !calculable(op, &a.data_type, &b.data_type) {
                    return Err(not_calculable(ast, op, &a.data_type, &b.data_type));
                }
            }
            Concat => {}
        }
        let data_type = op.returns(&a.data_type, &b.data_type);
        Ok(Typed::new(
            Expr::Binary {
                op,
                left: Box::new(a.expr),
                right: Box::new(b.expr),
            },
            data_type,
        ))
    }

    /// Nobody means a comparison that is never TRUE.
    fn warn_of_null(&mut self, op: BinaryOp, sides: [&ast::Expr; 2]) {
        if !sides.iter().any(|side| side.kind == ExprKind::Null) {
            return;
        }
        let instead = match op {
            BinaryOp::Equal => "write IS NULL",
            BinaryOp::NotEqual => "write IS NOT NULL",
            _ => "NULL is neither less nor greater than anything",
        };
        let warning = format!("`{} NULL` is never TRUE: {instead}", op.symbol());
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub(super) fn equal(&mut self, left: &ast::Expr, right: &ast::Expr, place: Place) -> Result<Typed, SqlError> {
        self.compare(BinaryOp::Equal, left, right, place).map(Typed::boolean)
    }

    fn compare(&mut self, op: BinaryOp, left: &ast::Expr, right: &ast::Expr, place: Place) -> Result<Expr, SqlError> {
        let (a, b) = (self.part(left, place)?, self.part(right, place)?);
        let (a, b) = self.comparable((left, a), (right, b))?;
        Ok(both(op, a.expr, b.expr))
    }

    fn between(
        &mut self,
        operand: &ast::Expr,
        low: &ast::Expr,
        high: &ast::Expr,
        place: Place,
    ) -> Result<Expr, SqlError> {
        let above = self.compare(BinaryOp::GreaterOrEqual, operand, low, place)?;
        let below = self.compare(BinaryOp::LessOrEqual, operand, high, place)?;
        Ok(both(BinaryOp::And, above, below))
    }

    /// Both sides of a comparison; a text literal beside a moment is read as one.
    fn comparable(
        &self,
        (left, a): (&ast::Expr, Typed),
        (right, b): (&ast::Expr, Typed),
    ) -> Result<(Typed, Typed), SqlError> {
        let a = as_moment(left, a, &b.data_type)?;
        let b = as_moment(right, b, &a.data_type)?;
        if alike(&a.data_type, &b.data_type) {
            return Ok((a, b));
        }
        let message = format!(
            "{} cannot be compared with {}",
            article(&a.data_type),
            article(&b.data_type)
        );
        let help = match (&a.data_type, &b.data_type) {
            (DataType::String, other) | (other, DataType::String) => format!("cast the text: CAST(… AS {other})"),
            _ => "cast one of them with CAST(… AS type)".to_owned(),
        };
        Err(SqlError::new(codes::WRONG_TYPE, message)
            .at(left.span.to(right.span))
            .detail("the result would always be NULL")
            .help(help))
    }

    pub(super) fn boolean_operand(&self, what: &str, ast: &ast::Expr, bound: Typed) -> Result<Typed, SqlError> {
        if bound.data_type.may_be_boolean() {
            return Ok(bound);
        }
        Err(wrong_operand(what, "a BOOLEAN", ast, &bound.data_type))
    }

    fn text_operand(&mut self, what: &str, ast: &ast::Expr, place: Place) -> Result<Box<Expr>, SqlError> {
        let bound = self.part(ast, place)?;
        if bound.data_type.may_be_string() {
            return Ok(Box::new(bound.expr));
        }
        Err(wrong_operand(what, "a STRING", ast, &bound.data_type))
    }
}

fn wrong_operand(what: &str, wanted: &str, ast: &ast::Expr, found: &DataType) -> SqlError {
    SqlError::new(
        codes::WRONG_TYPE,
        format!("{what} takes {wanted}, this is {}", article(found)),
    )
    .at(ast.span)
}

fn escape_character(text: &ast::Text) -> Result<char, SqlError> {
    let mut characters = text.text.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) => Ok(character),
        _ => Err(SqlError::new(codes::BAD_LITERAL, "ESCAPE takes one character").at(text.span)),
    }
}

/// Whether values of these types have an order among them.
fn alike(a: &DataType, b: &DataType) -> bool {
    use DataType::{Any, Date, Jsonb, Timestamp};
    let number = |data_type: &DataType| data_type.may_be_number();
    match (a, b) {
        // What stands in a JSON document may be of any type.
        (Any | Jsonb, _) | (_, Any | Jsonb) => true,
        (Date, Timestamp) | (Timestamp, Date) => true,
        (DataType::Array(_), DataType::Array(_)) => true,
        (a, b) => a == b || (number(a) && number(b)),
    }
}

fn as_moment(ast: &ast::Expr, typed: Typed, beside: &DataType) -> Result<Typed, SqlError> {
    match (&ast.kind, beside) {
        (ExprKind::Text(text), DataType::Timestamp | DataType::Date | DataType::Time) => {
            // A day beside a TIMESTAMP is its beginning; a moment beside a DATE is compared as a moment.
            let wanted = match beside {
                DataType::Date if crate::calendar::parse_date(text).is_none() => &DataType::Timestamp,
                other => other,
            };
            let literal = literal::moment(text, wanted, ast.span)?;
            Ok(Typed::new(Expr::Literal(literal), wanted.clone()))
        }
        _ => Ok(typed),
    }
}

/// `'2026-01-31' + INTERVAL 1 DAY`: the text is a moment.
fn beside_interval(
    (left, a): (&ast::Expr, Typed),
    (right, b): (&ast::Expr, Typed),
) -> Result<(Typed, Typed), SqlError> {
    let moment = |data_type: &DataType| matches!(data_type, DataType::Interval | DataType::Timestamp | DataType::Date);
    let a = if moment(&b.data_type) {
        as_moment(left, a, &DataType::Timestamp)?
    } else {
        a
    };
    let b = if moment(&a.data_type) {
        as_moment(right, b, &DataType::Timestamp)?
    } else {
        b
    };
    Ok((a, b))
}

fn calculable(op: BinaryOp, a: &DataType, b: &DataType) -> bool {
    use DataType::{Any, Date, Interval, Timestamp};
    let number = |data_type: &DataType| data_type.may_be_number();
    match (op, a, b) {
        (_, a, b) if number(a) && number(b) => true,
        (BinaryOp::Add, Timestamp | Date | Interval | Any, Interval) => true,
        (BinaryOp::Add, Interval, Timestamp | Date | Any) => true,
        (BinaryOp::Subtract, Timestamp | Date | Interval | Any, Interval) => true,
        (BinaryOp::Subtract, Timestamp | Date | Any, Timestamp | Date) => true,
        (BinaryOp::Subtract, Timestamp | Date | Interval, Any) => true,
        (BinaryOp::Add, Timestamp | Date, Any) => true,
        (BinaryOp::Multiply, Interval, factor) | (BinaryOp::Multiply, factor, Interval) => number(factor),
        _ => false,
    }
}

fn not_calculable(ast: &ast::Expr, op: BinaryOp, a: &DataType, b: &DataType) -> SqlError {
    let message = format!("`{}` cannot take {} and {}", op.symbol(), article(a), article(b));
    let text = *a == DataType::String || *b == DataType::String;
    let help = if text && op == BinaryOp::Add {
        "join texts with `||`; make a number of a text with CAST(… AS FLOAT)"
    } else if text {
        "make a number of a text with CAST(… AS FLOAT)"
    } else {
        "calculate with numbers, or add an INTERVAL to a TIMESTAMP"
    };
    SqlError::new(codes::WRONG_TYPE, message).at(ast.span).help(help)
}

fn both(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    Expr::Binary {
        op,
        left: Box::new(left),
        right: Box::new(right),
    }
}

fn not(operand: Expr) -> Expr {
    Expr::Unary {
        op: UnaryOp::Not,
        operand: Box::new(operand),
    }
}
