//! The SQL types, and the constants of a plan.
//!
//! A column of a declared stream has a type; a field of an open stream has none before its records are read, and is
//! [`DataType::Any`]: each of its values carries its own type. Everything the binder does with types is here, so that
//! the parser's side and the runtime's side agree by construction.

use std::fmt;
use std::str::FromStr;

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds. Event times and watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, bincode::Encode, bincode::Decode)]
pub struct TimestampUs(pub i64);

impl TimestampUs {
    /// Before every time: the watermark of a shard that has shown nothing yet.
    pub const MIN: TimestampUs = TimestampUs(i64::MIN);
    /// After every time: the watermark of an input that has ended.
    pub const MAX: TimestampUs = TimestampUs(i64::MAX);

    /// From the store's milliseconds.
    pub fn from_ms(ms: headwater_store::TimestampMs) -> TimestampUs {
        TimestampUs(ms.0.saturating_mul(1_000))
    }

    /// That many microseconds later (earlier if negative), within the range of the type. MIN and MAX stay.
    pub fn plus_us(self, us: i64) -> TimestampUs {
        match self {
            TimestampUs::MIN | TimestampUs::MAX => self,
            TimestampUs(at) => TimestampUs(at.saturating_add(us)),
        }
    }
}

/// A span of calendar time: months, and microseconds. A day is 24 hours, because all times are UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, bincode::Encode, bincode::Decode)]
pub struct Interval {
    /// YEAR and MONTH: no fixed length.
    pub months: i32,
    /// Everything from WEEK down.
    pub us: i64,
}

impl Interval {
    /// A span without months.
    pub fn from_us(us: i64) -> Interval {
        Interval { months: 0, us }
    }

    /// `count` of a unit as INTERVAL spells it, singular or plural, any case. None: no such unit, or out of range.
    pub fn of(count: i64, unit: &str) -> Option<Interval> {
        let unit = unit.to_ascii_uppercase();
        let unit = unit.strip_suffix('S').unwrap_or(&unit);
        let months = |each: i64| {
            let months = i32::try_from(count.checked_mul(each)?).ok()?;
            Some(Interval { months, us: 0 })
        };
        let us = |each: i64| Some(Interval::from_us(count.checked_mul(each)?));
        match unit {
            "MICROSECOND" => us(1),
            "MILLISECOND" => us(1_000),
            "SECOND" => us(1_000_000),
            "MINUTE" => us(60_000_000),
            "HOUR" => us(3_600_000_000),
            "DAY" => us(86_400_000_000),
            "WEEK" => us(7 * 86_400_000_000),
            "MONTH" => months(1),
            "YEAR" => months(12),
            _ => None,
        }
    }

    /// Its length, when that does not depend on the calendar: what windows, DELAY and GRACE need.
    pub fn fixed_us(self) -> Option<i64> {
        (self.months == 0).then_some(self.us)
    }
}

/// A text that is no interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an interval")]
pub struct UnknownInterval(pub String);

impl FromStr for Interval {
    type Err = UnknownInterval;

    /// Reads what Display writes, `P1DT0.5S`, and counts with their units, `1 day 30 minutes`.
    fn from_str(text: &str) -> Result<Interval, UnknownInterval> {
        let text = text.trim();
        let read = match text.strip_prefix(['P', 'p']) {
            Some(parts) => iso_interval(parts),
            None => spelled_interval(text),
        };
        read.ok_or_else(|| UnknownInterval(text.to_owned()))
    }
}

/// Counts and units in turn, at least one pair.
fn spelled_interval(text: &str) -> Option<Interval> {
    let mut words = text.split_whitespace();
    let mut sum = None;
    while let Some(count) = words.next() {
        let next = Interval::of(count.parse().ok()?, words.next()?)?;
        sum = Some(plus(sum.unwrap_or_default(), next)?);
    }
    sum
}

/// What stands behind the P of ISO 8601, section 5.5.2.2: a fraction stands in the seconds alone.
fn iso_interval(mut rest: &str) -> Option<Interval> {
    let (mut sum, mut in_time) = (None, false);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix(['T', 't']).filter(|_| !in_time) {
            (rest, in_time) = (time, true);
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = (&rest[..end], rest.as_bytes()[end].to_ascii_uppercase());
        rest = &rest[end + 1..];
        let next = match (unit, in_time) {
            (b'S', true) => seconds(number)?,
            (unit, in_time) => {
                let unit = match (unit, in_time) {
                    (b'Y', false) => "YEAR",
                    (b'M', false) => "MONTH",
                    (b'W', false) => "WEEK",
                    (b'D', false) => "DAY",
                    (b'H', true) => "HOUR",
                    (b'M', true) => "MINUTE",
                    _ => return None,
                };
                Interval::of(number.parse().ok()?, unit)?
            }
        };
        sum = Some(plus(sum.unwrap_or_default(), next)?);
    }
    sum
}

/// Seconds, down to microseconds; digits behind those do not count.
fn seconds(text: &str) -> Option<Interval> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let digits = fraction.bytes().all(|digit| digit.is_ascii_digit());
    let below: i64 = match digits {
        true => format!("{fraction:0<6.6}").parse().ok()?,
        false => return None,
    };
    let seconds = Interval::of(whole.parse().ok()?, "SECOND")?;
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    plus(seconds, Interval::from_us(sign * below))
}

fn plus(a: Interval, b: Interval) -> Option<Interval> {
    Some(Interval {
        months: a.months.checked_add(b.months)?,
        us: a.us.checked_add(b.us)?,
    })
}

impl fmt::Display for Interval {
    /// ISO 8601, as `P1M`, `PT10S` or `P1DT0.5S`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (years, months) = (self.months / 12, self.months % 12);
        let (days, rest) = (self.us / 86_400_000_000, self.us % 86_400_000_000);
        let (hours, rest) = (rest / 3_600_000_000, rest % 3_600_000_000);
        let (minutes, rest) = (rest / 60_000_000, rest % 60_000_000);
        f.write_str("P")?;
        for (number, unit) in [(i64::from(years), 'Y'), (i64::from(months), 'M'), (days, 'D')] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        if hours != 0 || minutes != 0 || rest != 0 || (self.us == 0 && self.months == 0) {
            f.write_str("T")?;
        }
        for (number, unit) in [(hours, 'H'), (minutes, 'M')] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        if rest != 0 || (self.us == 0 && self.months == 0) {
            let (seconds, fraction) = (rest / 1_000_000, (rest % 1_000_000).abs());
            let sign = if rest < 0 && seconds == 0 { "-" } else { "" };
            write!(f, "{sign}{seconds}")?;
            if fraction != 0 {
                f.write_str(".")?;
                f.write_str(format!("{fraction:06}").trim_end_matches('0'))?;
            }
            f.write_str("S")?;
        }
        Ok(())
    }
}

/// A type as SQL names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum DataType {
    /// Known only when a value is seen: a field of an open stream.
    Any,
    /// 64-bit integer.
    Integer,
    /// 64-bit binary floating point.
    Float,
    /// Decimal with 28 significant digits; with `(precision, scale)` values are rounded to it.
    Decimal(Option<(u8, u8)>),
    /// TRUE or FALSE.
    Boolean,
    /// UTF-8 text.
    String,
    /// Bytes; in JSON they are base64 text.
    Bytea,
    /// A day.
    Date,
    /// A time of day, in microseconds.
    Time,
    /// A moment, UTC, in microseconds.
    Timestamp,
    /// A span of calendar time.
    Interval,
    /// A JSON object or array as it is.
    Jsonb,
    /// `type[]`
    Array(Box<DataType>),
}

impl DataType {
    /// INTEGER, FLOAT, DECIMAL, or not known.
    pub fn may_be_number(&self) -> bool {
        matches!(
            self,
            DataType::Any | DataType::Integer | DataType::Float | DataType::Decimal(_)
        )
    }

    /// STRING, or not known.
    pub fn may_be_string(&self) -> bool {
        matches!(self, DataType::Any | DataType::String)
    }

    /// BOOLEAN, or not known.
    pub fn may_be_boolean(&self) -> bool {
        matches!(self, DataType::Any | DataType::Boolean)
    }

    /// The names that [`DataType::from_str`] knows, for suggestions.
    pub const NAMES: &[&str] = &[
        "INTEGER",
        "INT",
        "BIGINT",
        "SMALLINT",
        "FLOAT",
        "DOUBLE",
        "REAL",
        "DECIMAL",
        "NUMERIC",
        "BOOLEAN",
        "BOOL",
        "STRING",
        "TEXT",
        "VARCHAR",
        "BYTEA",
        "BYTES",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "INTERVAL",
        "JSONB",
        "JSON",
    ];
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataType::Any => f.write_str("ANY"),
            DataType::Integer => f.write_str("INTEGER"),
            DataType::Float => f.write_str("FLOAT"),
            DataType::Decimal(None) => f.write_str("DECIMAL"),
            DataType::Decimal(Some((precision, scale))) => write!(f, "DECIMAL({precision},{scale})"),
            DataType::Boolean => f.write_str("BOOLEAN"),
            DataType::String => f.write_str("STRING"),
            DataType::Bytea => f.write_str("BYTEA"),
            DataType::Date => f.write_str("DATE"),
            DataType::Time => f.write_str("TIME"),
            DataType::Timestamp => f.write_str("TIMESTAMP"),
            DataType::Interval => f.write_str("INTERVAL"),
            DataType::Jsonb => f.write_str("JSONB"),
            DataType::Array(of) => write!(f, "{of}[]"),
        }
    }
}

/// A text that names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a type")]
pub struct UnknownType(pub String);

impl FromStr for DataType {
    type Err = UnknownType;

    /// Reads what Display writes and the usual synonyms, in any case: `VARCHAR(20)` and `double precision` too.
    fn from_str(text: &str) -> Result<DataType, UnknownType> {
        let unknown = || UnknownType(text.trim().to_owned());
        let spelled = text.trim().to_ascii_uppercase();
        if let Some(of) = spelled.strip_suffix("[]") {
            return Ok(DataType::Array(Box::new(of.parse().map_err(|_| unknown())?)));
        }
        let (name, arguments) = match spelled.split_once('(') {
            Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(')').ok_or_else(unknown)?)),
            None => (spelled.as_str(), None),
        };
        let numbers: Vec<u32> = arguments
            .map(|list| {
                list.split(',')
                    .map(|number| number.trim().parse().map_err(|_| unknown()))
                    .collect()
            })
            .transpose()?
            .unwrap_or_default();
        let plain = match name {
            "ANY" => DataType::Any,
            "INTEGER" | "INT" | "BIGINT" | "SMALLINT" | "INT8" | "INT4" => DataType::Integer,
            "FLOAT" | "DOUBLE" | "DOUBLE PRECISION" | "REAL" | "NUMBER" => DataType::Float,
            "DECIMAL" | "NUMERIC" => return decimal(&numbers).ok_or_else(unknown),
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "STRING" | "TEXT" | "VARCHAR" | "CHAR" if numbers.len() <= 1 => return Ok(DataType::String),
            "BYTEA" | "BYTES" | "BLOB" => DataType::Bytea,
            "DATE" => DataType::Date,
            "TIME" => DataType::Time,
            "TIMESTAMP" | "DATETIME" => DataType::Timestamp,
            "INTERVAL" => DataType::Interval,
            "JSONB" | "JSON" => DataType::Jsonb,
            _ => return Err(unknown()),
        };
        if numbers.is_empty() { Ok(plain) } else { Err(unknown()) }
    }
}

fn decimal(numbers: &[u32]) -> Option<DataType> {
    let bound = |precision: u32, scale: u32| {
        let valid = (1..=28).contains(&precision) && scale <= precision;
        valid.then_some(DataType::Decimal(Some((precision as u8, scale as u8))))
    };
    match *numbers {
        [] => Some(DataType::Decimal(None)),
        [precision] => bound(precision, 0),
        [precision, scale] => bound(precision, scale),
        _ => None,
    }
}

/// A constant of a plan, in types that persist. The runtime's values are [`crate::value::Value`].
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub enum Literal {
    /// NULL
    Null,
    /// TRUE, FALSE
    Boolean(bool),
    /// Fits 64 bits.
    Integer(i64),
    /// Has a fraction or an exponent.
    Float(f64),
    /// As text, e.g. an integer that does not fit 64 bits.
    Decimal(String),
    /// Text.
    String(String),
    /// Bytes.
    Bytea(Vec<u8>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since the epoch.
    Timestamp(i64),
    /// INTERVAL …
    Interval(Interval),
    /// JSON text of an object or array.
    Jsonb(String),
    /// [1, 2]
    Array(Vec<Literal>),
}

impl Literal {
    /// Its type.
    pub fn data_type(&self) -> DataType {
        match self {
            Literal::Null => DataType::Any,
            Literal::Boolean(_) => DataType::Boolean,
            Literal::Integer(_) => DataType::Integer,
            Literal::Float(_) => DataType::Float,
            Literal::Decimal(_) => DataType::Decimal(None),
            Literal::String(_) => DataType::String,
            Literal::Bytea(_) => DataType::Bytea,
            Literal::Date(_) => DataType::Date,
            Literal::Time(_) => DataType::Time,
            Literal::Timestamp(_) => DataType::Timestamp,
            Literal::Interval(_) => DataType::Interval,
            Literal::Jsonb(_) => DataType::Jsonb,
            Literal::Array(items) => {
                let mut types = items.iter().map(Literal::data_type);
                let first = types.next().unwrap_or(DataType::Any);
                let same = types.all(|data_type| data_type == first);
                DataType::Array(Box::new(if same { first } else { DataType::Any }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_what_they_write_and_the_usual_synonyms() {
        for text in [
            "INTEGER",
            "DECIMAL(10,2)",
            "DECIMAL",
            "STRING[]",
            "TIMESTAMP",
            "JSONB",
            "FLOAT[][]",
        ] {
            assert_eq!(text.parse::<DataType>().unwrap().to_string(), text);
        }
        assert_eq!("varchar(20)".parse(), Ok(DataType::String));
        assert_eq!("double precision".parse(), Ok(DataType::Float));
        assert_eq!("numeric(5)".parse(), Ok(DataType::Decimal(Some((5, 0)))));
        for wrong in [
            "INTEGER(3)",
            "DECIMAL(2,3)",
            "DECIMAL(99)",
            "VECTOR",
            "",
            "INT)",
            "DECIMAL(1",
        ] {
            assert!(wrong.parse::<DataType>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_know_their_units_and_print_as_iso_8601() {
        let show = |count, unit| Interval::of(count, unit).unwrap().to_string();
        assert_eq!(show(10, "second"), "PT10S");
        assert_eq!(show(90, "MINUTES"), "PT1H30M");
        assert_eq!(show(2, "DAYS"), "P2D");
        assert_eq!(show(14, "MONTH"), "P1Y2M");
        assert_eq!(show(0, "SECOND"), "PT0S");
        assert_eq!(show(-1500, "MILLISECONDS"), "PT-1.5S");
        assert_eq!(show(-500, "MILLISECONDS"), "PT-0.5S");
        assert_eq!(Interval::of(1, "fortnight"), None);
        assert_eq!(Interval::of(i64::MAX, "DAY"), None);
        assert_eq!(Interval::of(1, "MONTH").unwrap().fixed_us(), None);
    }

    #[test]
    fn intervals_read_what_they_write_and_what_people_write() {
        let read = |text: &str| text.parse::<Interval>().map(|interval| interval.to_string());
        for text in [
            "PT10S",
            "PT1H30M",
            "P2D",
            "P1Y2M",
            "P1Y2M3DT4H5M6.5S",
            "PT0S",
            "PT-1.5S",
            "PT-0.5S",
            "PT0.000001S",
            "P-1DT-1H",
        ] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        assert_eq!(read(" 3 days ").as_deref(), Ok("P3D"));
        assert_eq!(read("1 hour 30 MINUTES").as_deref(), Ok("PT1H30M"));
        assert_eq!(read("-5 seconds").as_deref(), Ok("PT-5S"));
        assert_eq!(read("p2w").as_deref(), Ok("P14D"));
        for wrong in [
            "",
            "P",
            "PT",
            "3",
            "days",
            "3 parsecs",
            "1 day 2",
            "1.5 days",
            "PT1.5M",
            "P1H",
            "PT1D",
            "PTT1S",
            "PT.S",
            "P1",
            "PT1.xS",
            "P99999999999Y",
            "PT9223372036854775807H",
            "Pé",
            "+",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
