//! How far a group is applied: `a | group u16` -> `index u64 | term u64 | time i64`, little-endian.
//!
//! Written with every entry's rows in one atomic write, so it is never ahead of the data it speaks of.

use bytes::Bytes;

use crate::ids::{GroupId, LogIndex, Term, TimestampMs};
use crate::wire::{Reader, Short};

const TAG: u8 = b'a';

/// The value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last applied entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Its time: the next entry's is not earlier.
    pub time: TimestampMs,
}

pub fn key(group: GroupId) -> Vec<u8> {
    [&[TAG][..], &group.0.to_be_bytes()].concat()
}

pub fn encode(applied: &Applied) -> Vec<u8> {
    [
        applied.index.0.to_le_bytes(),
        applied.term.0.to_le_bytes(),
        applied.time.0.to_le_bytes(),
    ]
    .concat()
}

pub fn decode(value: Bytes) -> Result<Applied, Short> {
    let mut reader = Reader::new(value);
    let applied = Applied {
        index: LogIndex(reader.u64()?),
        term: Term(reader.u64()?),
        time: TimestampMs(reader.i64()?),
    };
    if reader.is_empty() { Ok(applied) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_back(index: u64, term: u64, time: i64) {
            let applied = Applied { index: LogIndex(index), term: Term(term), time: TimestampMs(time) };
            prop_assert_eq!(decode(encode(&applied).into()), Ok(applied));
            prop_assert_eq!(decode(encode(&applied)[1..].to_vec().into()), Err(Short));
        }
    }
}
