//! Scalar functions: one table, one entry per function, in the file of its subject.
//!
//! The binder checks calls against the table and stores the canonical name in the plan; the runtime looks it up again.
//! So an entry's `name` is for ever, its aliases may grow, and adding a function is adding an entry.

mod aggregate;
mod array;
mod document;
mod general;
mod hash;
mod kind;
mod number;
mod pattern;
mod pieces;
mod text;
mod time;
mod trigonometry;

pub use aggregate::{AGGREGATES, Aggregate, Constant, aggregate};

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::types::{DataType, TimestampUs};
use crate::value::{Fault, Value};

/// A scalar function.
#[derive(Debug)]
pub struct Function {
    /// Canonical, upper case; stored in plans.
    pub name: &'static str,
    /// Other names that people know it by.
    pub aliases: &'static [&'static str],
    /// What it takes, in order.
    pub parameters: &'static [Parameter],
    /// How many of the last parameters may be left out.
    pub optional: usize,
    /// The last parameter may be repeated.
    pub variadic: bool,
    /// What it gives.
    pub returns: Returns,
    /// False: NULL for any NULL argument, without a call. True: it is called with NULLs.
    pub sees_null: bool,
    /// One line for people.
    pub about: &'static str,
    /// Works out one row.
    eval: fn(&[Value], &Scope) -> Result<Value, Fault>,
}

/// An entry with one name, all of whose parameters are wanted, once; NULL for any NULL.
const fn scalar(
    name: &'static str,
    parameters: &'static [Parameter],
    returns: Returns,
    about: &'static str,
    eval: fn(&[Value], &Scope) -> Result<Value, Fault>,
) -> Function {
    Function {
        name,
        aliases: &[],
        parameters,
        optional: 0,
        variadic: false,
        returns,
        sees_null: false,
        about,
        eval,
    }
}

/// What a parameter accepts. A field of an open stream is accepted everywhere and checked when its value is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// Anything.
    Any,
    /// INTEGER, FLOAT or DECIMAL.
    Number,
    /// INTEGER.
    Integer,
    /// STRING.
    String,
    /// TIMESTAMP, DATE, or a STRING that reads as one.
    Timestamp,
    /// An SQL array, or a JSON one.
    Array,
}

/// The type of a function's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// INTEGER
    Integer,
    /// FLOAT
    Float,
    /// STRING
    String,
    /// TIMESTAMP
    Timestamp,
    /// BOOLEAN
    Boolean,
    /// BYTEA
    Bytea,
    /// DATE
    Date,
    /// TIME
    Time,
    /// JSONB
    Jsonb,
    /// An array of whatever.
    Array,
    /// Whatever it is.
    Any,
    /// That of the argument with this number.
    Argument(usize),
    /// The one that all arguments have, if they agree.
    Common,
}

/// Arguments (from 0) that are a unit of time, a format or a pattern.
const NAMED_BY_TEXT: &[(&str, usize)] = &[
    ("DATE_TRUNC", 0),
    ("EXTRACT", 0),
    ("DATE_DIFF", 0),
    ("FORMAT_TIMESTAMP", 1),
    ("DATETOSTRING", 1),
    ("REGEXP_LIKE", 1),
    ("REGEXP_EXTRACT", 1),
    ("REGEXP_EXTRACT_ALL", 1),
    ("REGEXP_REPLACE", 1),
    ("REGEXP_COUNT", 1),
];

/// What a function may know besides its arguments. It reads no clock.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// The step's time, which is logged: `now()`.
    pub now: TimestampUs,
}

/// A call that does not fit the function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Too few or too many arguments.
    #[error("{name} takes {wanted}, {given} given")]
    Count {
        name: &'static str,
        wanted: String,
        given: usize,
    },
    /// An argument (from 0) of the wrong type.
    #[error("{name} takes {wanted} as argument {}, not {given}", .position + 1)]
    Type {
        name: &'static str,
        position: usize,
        wanted: &'static str,
        given: DataType,
    },
}

impl Parameter {
    /// Whether a value of this static type may be passed.
    pub fn accepts(self, data_type: &DataType) -> bool {
        match self {
            Parameter::Any => true,
            Parameter::Number => data_type.may_be_number(),
            Parameter::Integer => matches!(data_type, DataType::Any | DataType::Integer),
            Parameter::String => data_type.may_be_string(),
            Parameter::Timestamp => matches!(
                data_type,
                DataType::Any | DataType::Timestamp | DataType::Date | DataType::String | DataType::Integer
            ),
            Parameter::Array => matches!(data_type, DataType::Any | DataType::Jsonb | DataType::Array(_)),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Parameter::Any => "anything",
            Parameter::Number => "a number",
            Parameter::Integer => "an INTEGER",
            Parameter::String => "a STRING",
            Parameter::Timestamp => "a TIMESTAMP",
            Parameter::Array => "an array",
        }
    }
}

impl Function {
    /// Checks the number and the static types of a call's arguments.
    pub fn check(&self, arguments: &[DataType]) -> Result<(), CallError> {
        let (most, given) = (self.parameters.len(), arguments.len());
        let least = most - self.optional;
        if given < least || (given > most && !self.variadic) {
            return Err(CallError::Count {
                name: self.name,
                wanted: self.wanted_count(least, most),
                given,
            });
        }
        for (position, data_type) in arguments.iter().enumerate() {
            let Some(parameter) = self.parameters.get(position.min(most.saturating_sub(1))) else {
                break;
            };
            if !parameter.accepts(data_type) {
                let (wanted, given) = (parameter.wanted(), data_type.clone());
                return Err(CallError::Type {
                    name: self.name,
                    position,
                    wanted,
                    given,
                });
            }
        }
        Ok(())
    }

    /// Whether the function could take this text as its argument of that number at all. A unit, a format or a pattern that
    /// it does not know would give NULL for each row.
    pub fn takes(&self, position: usize, text: &str) -> bool {
        if !NAMED_BY_TEXT.contains(&(self.name, position)) {
            return true;
        }
        let probe = |(at, parameter): (usize, &Parameter)| match parameter {
            _ if at == position => Value::String(text.into()),
            Parameter::String => Value::String("".into()),
            _ => Value::Integer(0),
        };
        let needed = self.parameters.len() - self.optional;
        let arguments: Vec<_> = self.parameters[..needed].iter().enumerate().map(probe).collect();
        let scope = Scope { now: TimestampUs(0) };
        self.call(&arguments, &scope).is_ok()
    }

    fn wanted_count(&self, least: usize, most: usize) -> String {
        let arguments = |count: usize| {
            if count == 1 {
                "1 argument".to_owned()
            } else {
                format!("{count} arguments")
            }
        };
        match () {
            () if self.variadic => format!("at least {}", arguments(least)),
            () if least == most => arguments(most),
            () => format!("{least} to {}", arguments(most)),
        }
    }

    /// The static type of a call's result.
    pub fn returns(&self, arguments: &[DataType]) -> DataType {
        match self.returns {
            Returns::Integer => DataType::Integer,
            Returns::Float => DataType::Float,
            Returns::String => DataType::String,
            Returns::Timestamp => DataType::Timestamp,
            Returns::Boolean => DataType::Boolean,
            Returns::Bytea => DataType::Bytea,
            Returns::Date => DataType::Date,
            Returns::Time => DataType::Time,
            Returns::Jsonb => DataType::Jsonb,
            Returns::Array => DataType::Array(Box::new(DataType::Any)),
            Returns::Any => DataType::Any,
            Returns::Argument(number) => arguments.get(number).cloned().unwrap_or(DataType::Any),
            Returns::Common => {
                let mut known = arguments.iter().filter(|data_type| **data_type != DataType::Any);
                match known.next() {
                    Some(first) if arguments.iter().all(|data_type| data_type == first) => first.clone(),
                    _ => DataType::Any,
                }
            }
        }
    }
}

impl Function {
    /// One row.
    pub(crate) fn call(&self, arguments: &[Value], scope: &Scope) -> Result<Value, Fault> {
        if !self.sees_null && arguments.iter().any(Value::is_null) {
            return Ok(Value::Null);
        }
        (self.eval)(arguments, scope)
    }
}

/// All functions, by subject.
pub fn all() -> impl Iterator<Item = &'static Function> {
    [
        number::FUNCTIONS,
        trigonometry::FUNCTIONS,
        kind::FUNCTIONS,
        text::FUNCTIONS,
        pieces::FUNCTIONS,
        pattern::FUNCTIONS,
        array::FUNCTIONS,
        document::FUNCTIONS,
        time::FUNCTIONS,
        hash::FUNCTIONS,
        general::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// By canonical name or alias, in any case.
pub fn lookup(name: &str) -> Option<&'static Function> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Function>> = LazyLock::new(|| {
        let names = |function: &'static Function| {
            std::iter::once(function.name)
                .chain(function.aliases.iter().copied())
                .map(move |name| (name, function))
        };
        all().flat_map(names).collect()
    });
    BY_NAME.get(name.to_ascii_uppercase().as_str()).copied()
}

#[cfg(test)]
mod tests_support {
    use super::*;

    /// Calls a function by name, at time 7.
    pub fn call(name: &str, arguments: &[Value]) -> Result<Value, Fault> {
        lookup(name)
            .expect("a known function")
            .call(arguments, &Scope { now: TimestampUs(7) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upper_case_and_stand_for_one_function() {
        let mut seen = std::collections::HashSet::new();
        for function in all() {
            assert!(
                function
                    .call(
                        &vec![Value::Null; function.parameters.len()],
                        &Scope { now: TimestampUs(0) }
                    )
                    .is_ok()
            );
            for name in std::iter::once(&function.name).chain(function.aliases) {
                assert_eq!(*name, name.to_ascii_uppercase());
                assert!(seen.insert(*name), "{name} is there twice");
            }
            assert!(function.optional <= function.parameters.len(), "{}", function.name);
            assert!(
                !function.variadic || !function.parameters.is_empty(),
                "{}",
                function.name
            );
        }
    }

    #[test]
    fn a_call_is_checked_by_number_and_type() {
        let round = lookup("round").unwrap();
        assert!(round.check(&[DataType::Any]).is_ok());
        assert!(round.check(&[DataType::Float, DataType::Integer]).is_ok());
        assert_eq!(
            round.check(&[]).unwrap_err().to_string(),
            "ROUND takes 1 to 2 arguments, 0 given"
        );
        assert_eq!(
            round.check(&[DataType::String]).unwrap_err().to_string(),
            "ROUND takes a number as argument 1, not STRING"
        );
        assert!(lookup("concat").unwrap().check(&vec![DataType::Any; 9]).is_ok());
        assert_eq!(lookup("to_lower").unwrap().name, lookup("LOWER").unwrap().name);
    }
}
