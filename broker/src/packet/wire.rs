//! The data representations of section 1.5, as nom parsers over a frame and as writes to a buffer.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};
use nom::{IResult, Parser};

use super::decode::DecodeError;

pub(super) type Parsed<'a, T> = IResult<&'a [u8], T, DecodeError>;

/// A parse that went wrong for a reason of ours; no alternative is tried.
pub(super) fn fail<'a, T>(error: DecodeError) -> Parsed<'a, T> {
    Err(nom::Err::Failure(error))
}

/// The largest number that a variable byte integer holds.
pub(super) const VARIABLE_MAX: usize = 268_435_455;

/// A variable byte integer (1.5.5): seven bits a byte, low ones first, at most four bytes, no longer than needed.
pub(super) fn variable(input: &[u8]) -> Parsed<'_, usize> {
    let mut value = 0;
    let mut rest = input;
    for shift in [0, 7, 14, 21] {
        let (after, byte) = be_u8(rest)?;
        rest = after;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if byte == 0 && shift > 0 {
                fail(DecodeError::LongInteger)
            } else {
                Ok((rest, value))
            };
        }
    }
    fail(DecodeError::LongInteger)
}

/// How many bytes [`put_variable`] writes.
pub(super) fn variable_size(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(super) fn put_variable(out: &mut impl BufMut, mut value: usize) {
    debug_assert!(value <= VARIABLE_MAX);
    while value > 0x7f {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Binary data (1.5.6): two bytes of length, then the bytes.
pub(super) fn binary<'a>(frame: &Bytes) -> impl Parser<&'a [u8], Output = Bytes, Error = DecodeError> {
    |input: &'a [u8]| {
        let (rest, length) = be_u16(input)?;
        let (rest, data) = take(length).parse(rest)?;
        Ok((rest, frame.slice_ref(data)))
    }
}

/// A UTF-8 string (1.5.4), without the null character [MQTT-1.5.4-2].
pub(super) fn string<'a>(frame: &Bytes) -> impl Parser<&'a [u8], Output = ByteString, Error = DecodeError> {
    |input: &'a [u8]| {
        let (rest, data) = binary(frame).parse(input)?;
        match ByteString::try_from(data) {
            Ok(text) if text.as_bytes().contains(&0) => fail(DecodeError::NullCharacter),
            Ok(text) => Ok((rest, text)),
            Err(_) => fail(DecodeError::NotUtf8),
        }
    }
}

/// A topic name: a string that is not empty and holds no wildcard [MQTT-3.3.2-2] [MQTT-4.7.3-1].
pub(super) fn topic<'a>(frame: &Bytes) -> impl Parser<&'a [u8], Output = ByteString, Error = DecodeError> {
    |input: &'a [u8]| {
        let (rest, text) = string(frame).parse(input)?;
        check_topic(&text).map_err(nom::Err::Failure)?;
        Ok((rest, text))
    }
}

pub(super) fn check_topic(text: &str) -> Result<(), DecodeError> {
    if text.is_empty() {
        return Err(DecodeError::TopicEmpty);
    }
    match text.bytes().any(|byte| byte == b'+' || byte == b'#') {
        true => Err(DecodeError::TopicWildcard),
        false => Ok(()),
    }
}

/// Writes what [`binary`] and [`string`] read. The caller has seen that it fits two bytes of length.
pub(super) fn put_binary(out: &mut BytesMut, data: &[u8]) {
    debug_assert!(data.len() <= usize::from(u16::MAX));
    out.put_u16(data.len() as u16);
    out.put_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_variable_integer_reads_back(value in 0..=VARIABLE_MAX) {
            let mut out = BytesMut::new();
            put_variable(&mut out, value);
            prop_assert_eq!(out.len(), variable_size(value));
            prop_assert_eq!(variable(&out).unwrap(), (&[][..], value));
        }
    }

    #[test]
    fn integers_longer_than_needed_are_refused() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0xff, 0x80, 0x00],
            &[0xff, 0xff, 0xff, 0xff],
            &[0x80, 0x80, 0x80, 0x80, 1],
        ] {
            assert!(
                matches!(variable(bytes), Err(nom::Err::Failure(DecodeError::LongInteger))),
                "{bytes:x?}"
            );
        }
        assert!(matches!(
            variable(&[0x80]),
            Err(nom::Err::Error(DecodeError::Truncated))
        ));
    }
}
