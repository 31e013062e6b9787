//! A slice: `l | slice u32` -> `class u8 | state u8 | first time i64 | last time i64`, values little-endian.

use bytes::Bytes;

use crate::ids::{SliceId, TimestampMs};
use crate::retention::RetentionClass;
use crate::wire::{Reader, Short};

const TAG: u8 = b'l';

/// Where a slice stands. It only moves downwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceState {
    /// Appends of its class go here.
    Open,
    /// Nothing more comes; it is to be merged.
    Closed,
    /// Merged into few files.
    Sealed,
    /// Its time is over. The family goes, then this row.
    Dropped,
}

/// The value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceRow {
    pub class: RetentionClass,
    pub state: SliceState,
    /// The append time of its first record.
    pub first: TimestampMs,
    /// The append time of its last record; known once it is closed.
    pub last: TimestampMs,
}

/// What all keys begin with.
pub fn prefix() -> Vec<u8> {
    vec![TAG]
}

pub fn key(slice: SliceId) -> Vec<u8> {
    [&[TAG][..], &slice.0.to_be_bytes()].concat()
}

/// The slice of a key.
pub fn slice(key: &[u8]) -> Result<SliceId, Short> {
    let number = key.get(1..).and_then(|rest| rest.try_into().ok()).ok_or(Short)?;
    Ok(SliceId(u32::from_be_bytes(number)))
}

pub fn encode(row: &SliceRow) -> Vec<u8> {
    let state = match row.state {
        SliceState::Open => 0,
        SliceState::Closed => 1,
        SliceState::Sealed => 2,
        SliceState::Dropped => 3,
    };
    let mut value = vec![row.class.0, state];
    value.extend_from_slice(&row.first.0.to_le_bytes());
    value.extend_from_slice(&row.last.0.to_le_bytes());
    value
}

pub fn decode(value: Bytes) -> Result<SliceRow, Short> {
    let mut reader = Reader::new(value);
    let class = RetentionClass::from_number(reader.u8()?).ok_or(Short)?;
    let state = match reader.u8()? {
        0 => SliceState::Open,
        1 => SliceState::Closed,
        2 => SliceState::Sealed,
        3 => SliceState::Dropped,
        _ => return Err(Short),
    };
    let row = SliceRow {
        class,
        state,
        first: TimestampMs(reader.i64()?),
        last: TimestampMs(reader.i64()?),
    };
    if reader.is_empty() { Ok(row) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_back(number: u32, class in 0u8..11, state in 0u8..4, first: i64, last: i64) {
            let states = [SliceState::Open, SliceState::Closed, SliceState::Sealed, SliceState::Dropped];
            let class = RetentionClass::from_number(class).unwrap();
            let state = states[usize::from(state)];
            let row = SliceRow { class, state, first: TimestampMs(first), last: TimestampMs(last) };
            prop_assert_eq!(decode(encode(&row).into()), Ok(row));
            prop_assert_eq!(slice(&key(SliceId(number))), Ok(SliceId(number)));
        }
    }

    #[test]
    fn an_unknown_class_or_state_is_refused() {
        let row = [[11, 0].as_slice(), &[0; 16]].concat();
        assert_eq!(decode(row.into()), Err(Short));
        let row = [[0, 4].as_slice(), &[0; 16]].concat();
        assert_eq!(decode(row.into()), Err(Short));
    }
}
