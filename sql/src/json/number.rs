//! Numbers as values: the short ones, which nearly all are, without the machinery that a long one needs.

use crate::value::{Value, parse_decimal};

/// 10^0 to 10^15: a FLOAT holds each of them exactly.
const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
/// So many digits are below 2^53 whatever they are.
const DIGITS_MAX: usize = 15;

/// An integer is INTEGER when it fits, else DECIMAL; with fraction or exponent, or beyond 28 digits, FLOAT.
/// A number beyond FLOAT is NULL. `text` is a number of JSON.
pub(crate) fn number(text: &str) -> Value {
    let plain = !text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    if plain {
        if let Some(integer) = integer(text) {
            return Value::Integer(integer);
        }
        if let Some(decimal) = parse_decimal(text) {
            return Value::Decimal(decimal);
        }
    }
    float(text).map_or(Value::Null, Value::Float)
}

/// The INTEGER that digits of JSON are; -0 is 0. None: it does not fit.
pub(crate) fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// The FLOAT nearest to a number of JSON. None: it is beyond FLOAT.
pub(crate) fn float(text: &str) -> Option<f64> {
    short(text).or_else(|| text.parse().ok().filter(|float: &f64| float.is_finite()))
}

/// Digits and power of ten are both exact FLOATs, so that their quotient is rounded once: as it should be (W. Clinger, How
/// to read floating point numbers accurately, 1990). None: it is too long for that.
fn short(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() > DIGITS_MAX + 1 {
        return None;
    }
    let (mut all, mut point) = (0_u64, None);
    for (at, byte) in digits.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => all = all * 10 + u64::from(byte - b'0'),
            b'.' => point = Some(at + 1),
            _ => return None,
        }
    }
    // Without a point there may be a digit too many.
    let fraction = digits.len() - point?;
    let number = all as f64 / POWERS[fraction];
    Some(if digits.len() < text.len() { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_float_is_what_the_standard_library_reads(text in "-?(0|[1-9][0-9]{0,9})\\.[0-9]{1,9}([eE][+-]?[0-9]{1,3})?") {
            let expected = text.parse().ok().filter(|float: &f64| float.is_finite());
            prop_assert_eq!(float(&text).map(f64::to_bits), expected.map(f64::to_bits), "{}", text);
        }
    }
}
