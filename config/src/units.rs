//! Sizes and durations as people write them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number of bytes: `65536`, `"64KiB"`, `"1.5GiB"` or `"10MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number as a memory size; saturates on 32-bit machines.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help =
            || format!("`{text}` is not a size: write bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB");
        let (number, unit) = split_unit(text).ok_or_else(help)?;
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "tib" | "t" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(help()),
        };
        scaled(number, factor).map(ByteSize).ok_or_else(help)
    }
}

/// An address to listen at, or none: `"127.0.0.1:8883"` or `""`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalAddr(pub Option<SocketAddr>);

impl FromStr for OptionalAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(OptionalAddr(None)),
            _ => match text.parse() {
                Ok(address) => Ok(OptionalAddr(Some(address))),
                Err(_) => Err(format!("`{text}` is not an address: write 127.0.0.1:8883, or nothing")),
            },
        }
    }
}

impl<'de> Deserialize<'de> for OptionalAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A duration: `"250ms"`, `"10s"`, `"1.5min"`, `"2h"` or `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// As the standard library's duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for Millis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("`{text}` is not a duration: write a number with ms, s, min, h or d");
        let (number, unit) = split_unit(text).ok_or_else(help)?;
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1,
            "s" => 1_000,
            "min" | "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(help()),
        };
        scaled(number, factor).map(Millis).ok_or_else(help)
    }
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

fn scaled(number: f64, factor: u64) -> Option<u64> {
    let value = number * factor as f64;
    (value.is_finite() && value <= (1u64 << 53) as f64).then_some(value as u64)
}

/// What to expect, and how to take a bare number, where one is allowed.
struct UnitVisitor<T>(&'static str, Option<fn(u64) -> T>);

impl<T: FromStr<Err = String>> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let bare = self
            .1
            .ok_or_else(|| E::custom(format!("`{number}` has no unit: write {}", self.0)))?;
        u64::try_from(number)
            .map(bare)
            .map_err(|_| E::custom("must not be negative"))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor("a size such as 65536 or \"64KiB\"", Some(ByteSize)))
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor("a duration such as \"500ms\" or \"10s\"", None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        assert_eq!("64KiB".parse(), Ok(ByteSize(65_536)));
        assert_eq!("1.5 GiB".parse(), Ok(ByteSize(1_610_612_736)));
        assert_eq!("10MB".parse(), Ok(ByteSize(10_000_000)));
        assert_eq!("250ms".parse(), Ok(Millis(250)));
        assert_eq!("1.5min".parse(), Ok(Millis(90_000)));
        assert!("10".parse::<Millis>().is_err(), "a duration needs its unit");
        assert!("64QiB".parse::<ByteSize>().is_err());
        assert!("-1s".parse::<Millis>().is_err());
    }
}
