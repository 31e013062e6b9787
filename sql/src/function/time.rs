//! Functions of time. `now()` is the step's time, which is logged, so that a replay sees the same.

use super::{Function, Parameter, Returns, Scope, scalar};
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
            part(unit, &arguments[1])
        },
    },
    unit("YEAR", "its year", |a, _| part("year", &a[0])),
    unit("MONTH", "its month, from 1", |a, _| part("month", &a[0])),
    unit("DAY", "its day of the month", |a, _| part("day", &a[0])),
    unit("HOUR", "its hour", |a, _| part("hour", &a[0])),
    unit("MINUTE", "its minute", |a, _| part("minute", &a[0])),
    unit("SECOND", "its second", |a, _| part("second", &a[0])),
    scalar(
        "CURRENT_DATE",
        &[],
        Returns::Date,
        "the day of this step",
        |_, scope| cast(&Value::Timestamp(scope.now.0), &DataType::Date),
    ),
    scalar(
        "CURRENT_TIME",
        &[],
        Returns::Time,
        "the time of day of this step",
        |_, scope| cast(&Value::Timestamp(scope.now.0), &DataType::Time),
    ),
    scalar(
        "TO_TIMESTAMP",
        &[Parameter::Timestamp],
        Returns::Timestamp,
        "text, or milliseconds, as a time",
        |a, _| moment(&a[0]).map(Value::Timestamp),
    ),
    Function {
        optional: 1,
        ..scalar(
            "UNIX_TIMESTAMP",
            &[Parameter::Timestamp],
            Returns::Integer,
            "seconds since 1970 (of this step, where no time is given)",
            |a, scope| {
                let us = a.first().map_or(Ok(scope.now.0), moment)?;
                Ok(Value::Integer(us.div_euclid(1_000_000)))
            },
        )
    },
    scalar(
        "UNIX_MILLIS",
        &[Parameter::Timestamp],
        Returns::Integer,
        "milliseconds since 1970",
        |a, _| Ok(Value::Integer(moment(&a[0])?.div_euclid(1_000))),
    ),
    scalar(
        "FROM_UNIXTIME",
        &[Parameter::Number],
        Returns::Timestamp,
        "seconds since 1970 as a time",
        |a, _| seconds(&a[0]).map(Value::Timestamp),
    ),
    scalar(
        "DATE_DIFF",
        &[Parameter::String, Parameter::Timestamp, Parameter::Timestamp],
        Returns::Integer,
        "how many whole seconds, minutes, hours, days, weeks, months or years from the second to the third",
        |a, _| difference(a[0].as_str().ok_or(Fault::WrongType)?, moment(&a[1])?, moment(&a[2])?),
    ),
    scalar(
        "FORMAT_TIMESTAMP",
        &[Parameter::Timestamp, Parameter::String],
        Returns::String,
        "as text by a format of strftime, such as '%Y-%m-%d %H:%M'",
        |a, _| format(moment(&a[0])?, &a[1]),
    ),
    scalar(
        "PARSE_TIMESTAMP",
        &[Parameter::String, Parameter::String],
        Returns::Timestamp,
        "text as a time by such a format",
        |a, _| parse(&a[0], &a[1]).map(Value::Timestamp),
    ),
    scalar(
        "DATETOSTRING",
        &[Parameter::Number, Parameter::String],
        Returns::String,
        "seconds since 1970 as text, by a format or by the name of one: simpleDateFormat, iso8061DateFormat, \
         webDateFormat, mailDateFormat",
        |a, _| format(seconds(&a[0])?, &a[1]),
    ),
    scalar(
        "STRINGTODATE",
        &[Parameter::String, Parameter::String],
        Returns::Integer,
        "text as seconds since 1970, by such a format",
        |a, _| Ok(Value::Integer(parse(&a[0], &a[1])?.div_euclid(1_000_000))),
    ),
];

/// A part of a time, under its own name.
const fn unit(name: &'static str, about: &'static str, eval: fn(&[Value], &Scope) -> Result<Value, Fault>) -> Function {
    scalar(name, &[Parameter::Timestamp], Returns::Integer, about, eval)
}

fn part(unit: &str, of: &Value) -> Result<Value, Fault> {
    let part = calendar::extract(unit, moment(of)?);
    part.map(Value::Integer).ok_or(Fault::OutOfRange)
}

fn seconds(value: &Value) -> Result<i64, Fault> {
    let us = value.as_f64().ok_or(Fault::WrongType)? * 1e6;
    match value {
        Value::Integer(seconds) => seconds.checked_mul(1_000_000).ok_or(Fault::Overflow),
        _ if us.abs() < 9.2e18 => Ok(us.round() as i64),
        _ => Err(Fault::Overflow),
    }
}

fn difference(unit: &str, from: i64, to: i64) -> Result<Value, Fault> {
    let us = to.checked_sub(from).ok_or(Fault::Overflow)?;
    let unit = unit.to_ascii_lowercase();
    let whole = match unit.strip_suffix('s').unwrap_or(&unit) {
        "millisecond" => us / 1_000,
        "second" => us / 1_000_000,
        "minute" => us / 60_000_000,
        "hour" => us / 3_600_000_000,
        "day" => us / calendar::DAY_US,
        "week" => us / (7 * calendar::DAY_US),
        "month" => calendar::months_between(from, to).ok_or(Fault::OutOfRange)?,
        "year" => calendar::months_between(from, to).ok_or(Fault::OutOfRange)? / 12,
        _ => return Err(Fault::OutOfRange),
    };
    Ok(Value::Integer(whole))
}

/// HStreamDB's names of formats (its own spelling of ISO 8601 among them), or a format itself.
fn format_of(format: &Value) -> Result<&str, Fault> {
    Ok(match format.as_str().ok_or(Fault::WrongType)? {
        "simpleDateFormat" => "%Y-%m-%d %H:%M:%S",
        "iso8061DateFormat" | "iso8601DateFormat" => "%Y-%m-%dT%H:%M:%S%z",
        "webDateFormat" => "%a, %d %b %Y %H:%M:%S GMT",
        "mailDateFormat" => "%a, %d %b %Y %H:%M:%S %z",
        own => own,
    })
}

fn format(us: i64, by: &Value) -> Result<Value, Fault> {
    let text = calendar::format_by(us, format_of(by)?).ok_or(Fault::OutOfRange)?;
    Ok(Value::String(text.into()))
}

fn parse(text: &Value, by: &Value) -> Result<i64, Fault> {
    let text = text.as_str().ok_or(Fault::WrongType)?;
    calendar::parse_by(text, format_of(by)?).ok_or(Fault::BadCast)
}

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

    #[test]
    fn times_are_written_and_read_by_formats() {
        let text = |text: &str| Value::String(text.into());
        let new_year = Value::Integer(1_262_304_000);
        let shown = |format: &str| call("DATETOSTRING", &[new_year.clone(), text(format)]);
        assert_eq!(shown("simpleDateFormat"), Ok(text("2010-01-01 00:00:00")));
        assert_eq!(shown("iso8061DateFormat"), Ok(text("2010-01-01T00:00:00+0000")));
        assert_eq!(shown("webDateFormat"), Ok(text("Fri, 01 Jan 2010 00:00:00 GMT")));
        assert_eq!(shown("%d.%m.%Y"), Ok(text("01.01.2010")));
        assert_eq!(shown("%!"), Err(Fault::OutOfRange));
        for format in [
            "simpleDateFormat",
            "iso8061DateFormat",
            "webDateFormat",
            "mailDateFormat",
        ] {
            let read = call("STRINGTODATE", &[shown(format).unwrap(), text(format)]);
            assert_eq!(read, Ok(new_year.clone()), "{format}");
        }
        assert_eq!(call("STRINGTODATE", &[text("x"), text("%Y")]), Err(Fault::BadCast));
        let read = call("PARSE_TIMESTAMP", &[text("01.01.2010"), text("%d.%m.%Y")]);
        assert_eq!(read, Ok(Value::Timestamp(1_262_304_000_000_000)));
        assert_eq!(
            call("FORMAT_TIMESTAMP", &[text("2010-01-01"), text("%j")]),
            Ok(text("001"))
        );
    }

    #[test]
    fn times_are_counted() {
        let text = |text: &str| Value::String(text.into());
        let between = |unit: &str, from: &str, to: &str| call("DATE_DIFF", &[text(unit), text(from), text(to)]);
        assert_eq!(between("months", "2010-01-31", "2010-02-28"), Ok(Value::Integer(0)));
        assert_eq!(between("month", "2010-01-31", "2010-03-31"), Ok(Value::Integer(2)));
        assert_eq!(between("YEAR", "2010-06-01", "2008-01-01"), Ok(Value::Integer(-2)));
        assert_eq!(
            between("HOURS", "2010-01-01 10:00", "2010-01-01 12:59"),
            Ok(Value::Integer(2))
        );
        assert_eq!(between("eon", "2010-01-01", "2010-01-02"), Err(Fault::OutOfRange));
        assert_eq!(call("HOUR", &[text("2010-01-01 10:00")]), Ok(Value::Integer(10)));
        assert_eq!(
            call("UNIX_TIMESTAMP", &[text("2010-01-01")]),
            Ok(Value::Integer(1_262_304_000))
        );
        assert_eq!(call("UNIX_TIMESTAMP", &[]), Ok(Value::Integer(0)));
        assert_eq!(
            call("FROM_UNIXTIME", &[Value::Float(0.5)]),
            Ok(Value::Timestamp(500_000))
        );
        assert_eq!(call("FROM_UNIXTIME", &[Value::Integer(i64::MAX)]), Err(Fault::Overflow));
        assert_eq!(call("CURRENT_DATE", &[]), Ok(Value::Date(0)));
        assert_eq!(call("CURRENT_TIME", &[]), Ok(Value::Time(7)));
    }
}
