//! Trigonometry, in radians. Outside of a function's domain there is no value (HStreamDB gives NaN, which JSON lacks).

use super::number::float;
use super::{Function, Parameter, Returns, Scope, scalar};
use crate::value::{Fault, Value};

/// A function of one number.
const fn of_one(
    name: &'static str,
    about: &'static str,
    eval: fn(&[Value], &Scope) -> Result<Value, Fault>,
) -> Function {
    scalar(name, &[Parameter::Number], Returns::Float, about, eval)
}

pub(super) const FUNCTIONS: &[Function] = &[
    of_one("SIN", "the sine", |arguments, _| float(&arguments[0], f64::sin)),
    of_one("COS", "the cosine", |arguments, _| float(&arguments[0], f64::cos)),
    of_one("TAN", "the tangent", |arguments, _| float(&arguments[0], f64::tan)),
    of_one("ASIN", "the inverse of the sine", |arguments, _| {
        float(&arguments[0], f64::asin)
    }),
    of_one("ACOS", "the inverse of the cosine", |arguments, _| {
        float(&arguments[0], f64::acos)
    }),
    of_one("ATAN", "the inverse of the tangent", |arguments, _| {
        float(&arguments[0], f64::atan)
    }),
    of_one("SINH", "the hyperbolic sine", |arguments, _| {
        float(&arguments[0], f64::sinh)
    }),
    of_one("COSH", "the hyperbolic cosine", |arguments, _| {
        float(&arguments[0], f64::cosh)
    }),
    of_one("TANH", "the hyperbolic tangent", |arguments, _| {
        float(&arguments[0], f64::tanh)
    }),
    of_one("ASINH", "the inverse of the hyperbolic sine", |arguments, _| {
        float(&arguments[0], f64::asinh)
    }),
    of_one("ACOSH", "the inverse of the hyperbolic cosine", |arguments, _| {
        float(&arguments[0], f64::acosh)
    }),
    of_one("ATANH", "the inverse of the hyperbolic tangent", |arguments, _| {
        float(&arguments[0], f64::atanh)
    }),
    of_one("DEGREES", "radians as degrees", |arguments, _| {
        float(&arguments[0], f64::to_degrees)
    }),
    of_one("RADIANS", "degrees as radians", |arguments, _| {
        float(&arguments[0], f64::to_radians)
    }),
    scalar(
        "ATAN2",
        &[Parameter::Number, Parameter::Number],
        Returns::Float,
        "the angle of the point (second, first)",
        |arguments, _| {
            let x = arguments[1].as_f64().ok_or(Fault::WrongType)?;
            float(&arguments[0], |y| y.atan2(x))
        },
    ),
    scalar("PI", &[], Returns::Float, "3.14159…", |_, _| {
        Ok(Value::Float(std::f64::consts::PI))
    }),
];

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn angles_are_radians_and_a_missing_value_is_told() {
        assert_eq!(call("SIN", &[Value::Integer(0)]), Ok(Value::Float(0.0)));
        assert_eq!(call("COS", &[Value::Integer(0)]), Ok(Value::Float(1.0)));
        assert_eq!(call("ASIN", &[Value::Integer(2)]), Err(Fault::OutOfRange));
        assert_eq!(call("ATANH", &[Value::Integer(1)]), Err(Fault::Overflow));
        assert_eq!(call("DEGREES", &[call("PI", &[]).unwrap()]), Ok(Value::Float(180.0)));
        let east = call("ATAN2", &[Value::Integer(0), Value::Integer(1)]);
        assert_eq!(east, Ok(Value::Float(0.0)));
    }
}
