//! Functions of time. `now()` is the step's time, which is logged, so that a replay sees the same.

use super::{Function, Parameter, Returns};
use crate::calendar;
use crate::types::DataType;
use crate::value::{Fault, Value, cast};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "NOW",
        aliases: &["CURRENT_TIMESTAMP"],
        parameters: &[],
        optional: 0,
        variadic: false,
        returns: Returns::Timestamp,
        sees_null: false,
        about: "the time of this step",
        eval: |_, scope| Ok(Value::Timestamp(scope.now.0)),
    },
    Function {
        name: "DATE_TRUNC",
        aliases: &[],
        parameters: &[Parameter::String, Parameter::Timestamp],
        optional: 0,
        variadic: false,
        returns: Returns::Timestamp,
        sees_null: false,
        about: "cut down to its second, minute, hour, day, week, month, quarter or year",
        eval: |arguments, _| {
            let unit = arguments[0].as_str().ok_or(Fault::WrongType)?;
            calendar::truncate(unit, moment(&arguments[1])?)
                .map(Value::Timestamp)
                .ok_or(Fault::OutOfRange)
        },
    },
    Function {
        name: "EXTRACT",
        aliases: &["DATE_PART"],
        parameters: &[Parameter::String, Parameter::Timestamp],
        optional: 0,
        variadic: false,
        returns: Returns::Integer,
        sees_null: false,
        about: "its year, quarter, month, day, hour, minute, second, dow, doy or epoch",
        eval: |arguments, _| {
            let unit = arguments[0].as_str().ok_or(Fault::WrongType)?;
            calendar::extract(unit, moment(&arguments[1])?)
                .map(Value::Integer)
                .ok_or(Fault::OutOfRange)
        },
    },
];

fn moment(value: &Value) -> Result<i64, Fault> {
    match cast(value, &DataType::Timestamp)? {
        Value::Timestamp(us) => Ok(us),
        _ => Err(Fault::WrongType),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::call;
    use super::*;

    #[test]
    fn times_are_cut_and_taken_apart_from_text_too() {
        let text = |text: &str| Value::String(text.into());
        let cut = call("date_trunc", &[text("day"), text("2010/01/01 13:00")]);
        assert_eq!(cut, Ok(Value::Timestamp(1_262_304_000_000_000)));
        assert_eq!(
            call("EXTRACT", &[text("hour"), text("2010/01/01 13:00")]),
            Ok(Value::Integer(13))
        );
        assert_eq!(
            call("DATE_TRUNC", &[text("eon"), text("2010/01/01")]),
            Err(Fault::OutOfRange)
        );
        assert_eq!(call("DATE_TRUNC", &[text("day"), text("soon")]), Err(Fault::BadCast));
        assert_eq!(call("NOW", &[]), Ok(Value::Timestamp(7)));
    }
}
