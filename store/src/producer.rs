//! Writes that are applied once, however often they are sent: a Batch that names its [`Producer`] and its place in what
//! that one sends is not applied again. So whoever does not know what became of a write may simply send it again.
//!
//! What a group has seen of a producer is a row of [`tables::PRODUCERS`]: the highest sequence, and which of the
//! [`PRODUCER_WINDOW`] before it were applied, since several may be in flight and arrive in another order. It is kept for
//! [`PRODUCER_KEPT_MS`] after the last write, by the time of the entries: every replica forgets it with the same entry.
//!
//! ```text
//! PRODUCERS       producer id -> epoch u32 | highest sequence u64 | time i64 | window u64 ..., without the zeros at its end
//! PRODUCER_HOURS  hour u32, big-endian | producer id -> nothing
//! ```

use bytes::Bytes;

use crate::ids::TimestampMs;
use crate::limits::{PRODUCER_KEPT_MS, PRODUCER_WINDOW};
use crate::wire::{Reader, Short};

const HOUR_MS: i64 = 3_600_000;
const WORD: usize = u64::BITS as usize;
const WORDS: usize = PRODUCER_WINDOW / WORD;

/// Who sends a Batch, and which one of its own it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// At most `PRODUCER_ID_BYTES_MAX` bytes.
    pub id: Bytes,
    /// Raised by a producer that starts again: what its earlier life still sends is refused.
    pub epoch: u32,
    /// Rises by one with each Batch to the same group.
    pub sequence: u64,
}

/// What a group makes of a Batch that names its producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It is new; this is the producer's next row.
    New(ProducerRow),
    /// It was applied before.
    Before,
    /// Its epoch is over, or it is so far behind that nobody knows any more.
    Behind,
}

/// What a group has seen of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerRow {
    epoch: u32,
    highest: u64,
    /// The entry of its last Batch.
    time: TimestampMs,
    /// Bit n: the sequence n + 1 below the highest was applied.
    window: [u64; WORDS],
}

impl ProducerRow {
    fn first(producer: &Producer, time: TimestampMs) -> ProducerRow {
        ProducerRow {
            epoch: producer.epoch,
            highest: producer.sequence,
            time,
            window: [0; WORDS],
        }
    }

    /// Under which hour it is listed.
    pub fn hour(&self) -> u32 {
        hour(self.time)
    }

    /// Notes that `sequence`, above the highest, was applied.
    fn advance(&mut self, sequence: u64) {
        let by = usize::try_from(sequence - self.highest).unwrap_or(usize::MAX);
        let mut window = [0; WORDS];
        let was = (0..PRODUCER_WINDOW)
            .filter(|bit| self.has(*bit))
            .map(|bit| bit.saturating_add(by));
        for bit in was.chain([by - 1]).filter(|bit| *bit < PRODUCER_WINDOW) {
            window[bit / WORD] |= 1 << (bit % WORD);
        }
        (self.window, self.highest) = (window, sequence);
    }

    fn has(&self, bit: usize) -> bool {
        self.window[bit / WORD] >> (bit % WORD) & 1 == 1
    }

    pub fn encode(&self) -> Vec<u8> {
        let used = WORDS - self.window.iter().rev().take_while(|word| **word == 0).count();
        let mut value = self.epoch.to_le_bytes().to_vec();
        value.extend_from_slice(&self.highest.to_le_bytes());
        value.extend_from_slice(&self.time.0.to_le_bytes());
        let words = self.window[..used].iter();
        words.for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
        value
    }

    pub fn decode(value: Bytes) -> Result<ProducerRow, Short> {
        let mut reader = Reader::new(value);
        let mut row = ProducerRow {
            epoch: reader.u32()?,
            highest: reader.u64()?,
            time: TimestampMs(reader.i64()?),
            window: [0; WORDS],
        };
        for word in &mut row.window {
            if reader.is_empty() {
                break;
            }
            *word = reader.u64()?;
        }
        if reader.is_empty() { Ok(row) } else { Err(Short) }
    }
}

/// Judges a Batch of an entry of `time` by the producer's row.
pub fn judge(row: Option<ProducerRow>, producer: &Producer, time: TimestampMs) -> Seen {
    let Some(mut row) = row.filter(|row| time.0 - row.time.0 <= PRODUCER_KEPT_MS) else {
        return Seen::New(ProducerRow::first(producer, time));
    };
    if producer.epoch != row.epoch {
        return match producer.epoch > row.epoch {
            true => Seen::New(ProducerRow::first(producer, time)),
            false => Seen::Behind,
        };
    }
    row.time = time;
    if producer.sequence > row.highest {
        row.advance(producer.sequence);
        return Seen::New(row);
    }
    let Some(bit) = (row.highest - producer.sequence).checked_sub(1) else {
        return Seen::Before;
    };
    match usize::try_from(bit) {
        Ok(bit) if bit < PRODUCER_WINDOW && row.has(bit) => Seen::Before,
        Ok(bit) if bit < PRODUCER_WINDOW => {
            row.window[bit / WORD] |= 1 << (bit % WORD);
            Seen::New(row)
        }
        _ => Seen::Behind,
    }
}

fn hour(time: TimestampMs) -> u32 {
    u32::try_from(time.0 / HOUR_MS).unwrap_or(0)
}

/// Producers that are listed under an hour before this one have been silent for too long.
pub fn first_kept_hour(now: TimestampMs) -> u32 {
    hour(TimestampMs(now.0 - PRODUCER_KEPT_MS))
}

/// The key in the list by hours.
pub fn hour_key(hour: u32, id: &[u8]) -> Bytes {
    [&hour.to_be_bytes()[..], id].concat().into()
}

/// The hour and the producer of such a key.
pub fn listed(key: &[u8]) -> Result<(u32, &[u8]), Short> {
    let (hour, id) = key.split_first_chunk().ok_or(Short)?;
    Ok((u32::from_be_bytes(*hour), id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn producer(epoch: u32, sequence: u64) -> Producer {
        Producer {
            id: "p".into(),
            epoch,
            sequence,
        }
    }

    proptest! {
        /// Any order, any repetition: each sequence is new once.
        #[test]
        fn each_sequence_is_applied_once(sent in proptest::collection::vec(0..1500u64, 1..200)) {
            let (mut row, mut applied) = (None, BTreeSet::new());
            for sequence in sent {
                let highest = applied.last().copied().unwrap_or(0);
                match judge(row, &producer(1, sequence), TimestampMs(7)) {
                    Seen::New(next) => {
                        prop_assert!(applied.insert(sequence), "{} twice", sequence);
                        prop_assert_eq!(ProducerRow::decode(next.encode().into()), Ok(next));
                        row = Some(next);
                    }
                    Seen::Before => prop_assert!(applied.contains(&sequence)),
                    Seen::Behind => prop_assert!(highest - sequence > PRODUCER_WINDOW as u64),
                }
            }
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = ProducerRow::decode(noise.clone().into());
            let _ = listed(&noise);
        }
    }

    #[test]
    fn an_earlier_life_is_refused_and_a_long_silence_forgotten() {
        let seen = |epoch, sequence, at| {
            let row = ProducerRow::first(&producer(3, 9), TimestampMs(1_000));
            judge(Some(row), &producer(epoch, sequence), TimestampMs(at))
        };
        assert_eq!(seen(2, 10, 1_000), Seen::Behind);
        assert_eq!(seen(3, 9, 1_000), Seen::Before);
        assert_eq!(seen(3, 9, 1_000 + PRODUCER_KEPT_MS), Seen::Before);
        assert!(matches!(seen(4, 0, 1_000), Seen::New(row) if row.highest == 0));
        assert!(matches!(seen(3, 9, 1_001 + PRODUCER_KEPT_MS), Seen::New(_)));
        assert!(matches!(seen(3, u64::MAX, 1_000), Seen::New(row) if row.highest == u64::MAX));
    }

    #[test]
    fn the_list_of_hours_is_in_order() {
        assert!(hour_key(2, b"a") > hour_key(1, b"zz"));
        assert_eq!(listed(&hour_key(258, b"id")), Ok((258, &b"id"[..])));
        assert_eq!(first_kept_hour(TimestampMs(PRODUCER_KEPT_MS + 2 * HOUR_MS)), 2);
    }
}
