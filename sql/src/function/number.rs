//! Functions of numbers. INTEGER stays INTEGER where the mathematics allow it.

use rust_decimal::RoundingStrategy::MidpointAwayFromZero;
use rust_decimal::prelude::ToPrimitive;

use super::{Function, Parameter, Returns, Scope, scalar};
use crate::plan::physical::BinaryOp;
use crate::value::{Fault, Value, binary};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "ABS",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Argument(0),
        sees_null: false,
        about: "the number without its sign",
        eval: abs,
    },
    Function {
        name: "CEIL",
        aliases: &["CEILING"],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Argument(0),
        sees_null: false,
        about: "the next whole number at or above",
        eval: |arguments, _| whole(&arguments[0], f64::ceil, |number| number.ceil()),
    },
    Function {
        name: "FLOOR",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Argument(0),
        sees_null: false,
        about: "the next whole number at or below",
        eval: |arguments, _| whole(&arguments[0], f64::floor, |number| number.floor()),
    },
    Function {
        name: "ROUND",
        aliases: &[],
        parameters: &[Parameter::Number, Parameter::Integer],
        optional: 1,
        variadic: false,
        returns: Returns::Argument(0),
        sees_null: false,
        about: "rounded to so many digits after the point (0), half away from zero",
        eval: round,
    },
    Function {
        name: "SIGN",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Integer,
        sees_null: false,
        about: "-1, 0 or 1",
        eval: |arguments, _| {
            let number = arguments[0].as_f64().ok_or(Fault::WrongType)?;
            Ok(Value::Integer(i64::from(number > 0.0) - i64::from(number < 0.0)))
        },
    },
    Function {
        name: "SQRT",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "the square root",
        eval: |arguments, _| float(&arguments[0], f64::sqrt),
    },
    Function {
        name: "EXP",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "e to that power",
        eval: |arguments, _| float(&arguments[0], f64::exp),
    },
    Function {
        name: "LN",
        aliases: &["LOG"],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "the natural logarithm",
        eval: |arguments, _| float(&arguments[0], f64::ln),
    },
    Function {
        name: "LOG2",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "the logarithm to base 2",
        eval: |arguments, _| float(&arguments[0], f64::log2),
    },
    Function {
        name: "LOG10",
        aliases: &[],
        parameters: &[Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "the logarithm to base 10",
        eval: |arguments, _| float(&arguments[0], f64::log10),
    },
    Function {
        name: "POWER",
        aliases: &["POW"],
        parameters: &[Parameter::Number, Parameter::Number],
        optional: 0,
        variadic: false,
        returns: Returns::Float,
        sees_null: false,
        about: "the first to the power of the second",
        eval: |arguments, _| {
            let power = arguments[1].as_f64().ok_or(Fault::WrongType)?;
            float(&arguments[0], |base| base.powf(power))
        },
    },
    scalar(
        "MOD",
        &[Parameter::Number, Parameter::Number],
        Returns::Any,
        "what is left of the first after division by the second, as `%`",
        |arguments, _| binary(BinaryOp::Modulo, &arguments[0], &arguments[1]),
    ),
    Function {
        aliases: &["TRUNCATE"],
        ..scalar(
            "TRUNC",
            &[Parameter::Number],
            Returns::Argument(0),
            "without its fraction",
            |arguments, _| whole(&arguments[0], f64::trunc, |number| number.trunc()),
        )
    },
    scalar(
        "CBRT",
        &[Parameter::Number],
        Returns::Float,
        "the cube root",
        |arguments, _| float(&arguments[0], f64::cbrt),
    ),
];

fn abs(arguments: &[Value], _: &Scope) -> Result<Value, Fault> {
    match &arguments[0] {
        Value::Integer(number) => number.checked_abs().map(Value::Integer).ok_or(Fault::Overflow),
        Value::Float(number) => Ok(Value::Float(number.abs())),
        Value::Decimal(number) => Ok(Value::Decimal(number.abs())),
        _ => Err(Fault::WrongType),
    }
}

fn whole(
    value: &Value,
    float: fn(f64) -> f64,
    decimal: fn(rust_decimal::Decimal) -> rust_decimal::Decimal,
) -> Result<Value, Fault> {
    match value {
        Value::Integer(number) => Ok(Value::Integer(*number)),
        Value::Float(number) => Ok(Value::Float(float(*number))),
        Value::Decimal(number) => Ok(Value::Decimal(decimal(*number))),
        _ => Err(Fault::WrongType),
    }
}

/// A FLOAT, where there is one.
pub(super) fn float(value: &Value, function: impl Fn(f64) -> f64) -> Result<Value, Fault> {
    let result = function(value.as_f64().ok_or(Fault::WrongType)?);
    match () {
        () if result.is_nan() => Err(Fault::OutOfRange),
        () if result.is_infinite() => Err(Fault::Overflow),
        () => Ok(Value::Float(result)),
    }
}

fn round(arguments: &[Value], _: &Scope) -> Result<Value, Fault> {
    let digits = match arguments.get(1) {
        None => 0,
        Some(Value::Integer(digits)) => i32::try_from(*digits).map_err(|_| Fault::OutOfRange)?,
        Some(_) => return Err(Fault::WrongType),
    };
    match &arguments[0] {
        Value::Integer(number) if digits >= 0 => Ok(Value::Integer(*number)),
        Value::Integer(number) => round_integer(*number, digits.unsigned_abs()),
        Value::Float(number) => round_float(*number, digits),
        Value::Decimal(number) => match u32::try_from(digits) {
            Ok(digits) => Ok(Value::Decimal(
                number.round_dp_with_strategy(digits, MidpointAwayFromZero),
            )),
            Err(_) => {
                let whole = number
                    .round_dp_with_strategy(0, MidpointAwayFromZero)
                    .to_i64()
                    .ok_or(Fault::Overflow)?;
                round_integer(whole, digits.unsigned_abs())
            }
        },
        _ => Err(Fault::WrongType),
    }
}

fn round_integer(number: i64, digits: u32) -> Result<Value, Fault> {
    let Some(unit) = 10_i128.checked_pow(digits.min(38)) else {
        return Ok(Value::Integer(0));
    };
    let number = i128::from(number);
    let rounded = (number + number.signum() * unit / 2) / unit * unit;
    i64::try_from(rounded).map(Value::Integer).map_err(|_| Fault::Overflow)
}

/// Rounds the number that people see: through its shortest decimal digits, so that 1.005 to two digits is 1.01.
fn round_float(number: f64, digits: i32) -> Result<Value, Fault> {
    let shown = format!("{number}").parse::<rust_decimal::Decimal>();
    match (shown, u32::try_from(digits)) {
        (Ok(decimal), Ok(digits)) => {
            let rounded = decimal.round_dp_with_strategy(digits, MidpointAwayFromZero);
            rounded.to_f64().map(Value::Float).ok_or(Fault::Overflow)
        }
        _ => {
            // Beyond 28 digits a FLOAT has no fraction to round.
            let unit = 10_f64.powi(digits.clamp(-308, 308));
            let scaled = number * unit;
            Ok(Value::Float(if scaled.is_finite() {
                scaled.round() / unit
            } else {
                number
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn numbers_keep_their_type_and_fail_by_name() {
        assert_eq!(call("ABS", &[Value::Integer(-3)]), Ok(Value::Integer(3)));
        assert_eq!(call("ABS", &[Value::Integer(i64::MIN)]), Err(Fault::Overflow));
        assert_eq!(call("CEIL", &[Value::Float(1.2)]), Ok(Value::Float(2.0)));
        assert_eq!(call("SQRT", &[Value::Integer(-1)]), Err(Fault::OutOfRange));
        assert_eq!(call("SQRT", &[Value::Integer(9)]), Ok(Value::Float(3.0)));
        assert_eq!(call("LN", &[Value::Integer(0)]), Err(Fault::Overflow));
        assert_eq!(call("SQRT", &[Value::String("9".into())]), Err(Fault::WrongType));
        assert_eq!(call("SQRT", &[Value::Null]), Ok(Value::Null));
        assert_eq!(
            call("MOD", &[Value::Integer(-7), Value::Integer(3)]),
            Ok(Value::Integer(-1))
        );
        assert_eq!(
            call("MOD", &[Value::Integer(1), Value::Integer(0)]),
            Err(Fault::DivisionByZero)
        );
        assert_eq!(call("TRUNC", &[Value::Float(-1.7)]), Ok(Value::Float(-1.0)));
        assert_eq!(call("CBRT", &[Value::Integer(27)]), Ok(Value::Float(3.0)));
    }

    #[test]
    fn rounding_is_half_away_from_zero_on_the_digits_that_people_see() {
        let round = |number, digits| call("ROUND", &[number, Value::Integer(digits)]);
        assert_eq!(round(Value::Float(1.005), 2), Ok(Value::Float(1.01)));
        assert_eq!(round(Value::Float(-2.5), 0), Ok(Value::Float(-3.0)));
        assert_eq!(round(Value::Float(51.234), 1), Ok(Value::Float(51.2)));
        assert_eq!(round(Value::Float(1234.0), -2), Ok(Value::Float(1200.0)));
        assert_eq!(round(Value::Integer(1250), -2), Ok(Value::Integer(1300)));
        assert_eq!(round(Value::Integer(5), -40), Ok(Value::Integer(0)));
        assert_eq!(round(Value::Float(1e300), 2), Ok(Value::Float(1e300)));
        assert_eq!(call("ROUND", &[Value::Float(0.5)]), Ok(Value::Float(1.0)));
    }
}
