//! The payload: JSON that says whose message it is, and that compresses as badly as sensor readings do at best.
//!
//! ```text
//! {"run":3735928559,"client":12,"seq":345,"sent_us":1758000000000000,"fill":"k3Xw…"}
//! ```
//!
//! `run` tells two runs apart, `seq` counts a client's messages from 0, `sent_us` is when the message was to be sent
//! (microseconds since 1970). The filler makes up the size. It is cut out of 4 MiB of pseudo-random text at a place that
//! run, client and seq decide, so that any receiver can check each byte of it, and LZ4 finds nothing to shorten: 64 symbols
//! in random order.

use super::limits::FILLER_BYTES;

/// What a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// One start of the generator.
    pub run: u32,
    /// The publishing client.
    pub client: u32,
    /// The client's messages, from 0.
    pub seq: u64,
    /// Microseconds since 1970.
    pub sent_us: u64,
}

const FIELDS: [&[u8]; 5] = [
    b"{\"run\":",
    b",\"client\":",
    b",\"seq\":",
    b",\"sent_us\":",
    b",\"fill\":\"",
];
const END: &[u8] = b"\"}";

impl Message {
    /// Appends the payload of exactly `size` bytes, which must be enough for the fields.
    pub fn put(&self, filler: &Filler, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let numbers = [u64::from(self.run), u64::from(self.client), self.seq, self.sent_us];
        for (field, number) in FIELDS.iter().zip(numbers) {
            out.extend_from_slice(field);
            put_number(number, out);
        }
        out.extend_from_slice(FIELDS[4]);
        let length = size.saturating_sub(out.len() - start + END.len());
        filler
            .pieces(self.filler_at(), length)
            .for_each(|piece| out.extend_from_slice(piece));
        out.extend_from_slice(END);
    }

    /// Reads the fields, and gives the filler. None when it is not a payload of this generator.
    pub fn read(payload: &[u8]) -> Option<(Message, &[u8])> {
        let (run, rest) = number(payload.strip_prefix(FIELDS[0])?)?;
        let (client, rest) = number(rest.strip_prefix(FIELDS[1])?)?;
        let (seq, rest) = number(rest.strip_prefix(FIELDS[2])?)?;
        let (sent_us, rest) = number(rest.strip_prefix(FIELDS[3])?)?;
        let filler = rest.strip_prefix(FIELDS[4])?.strip_suffix(END)?;
        let message = Message {
            run: run.try_into().ok()?,
            client: client.try_into().ok()?,
            seq,
            sent_us,
        };
        Some((message, filler))
    }

    /// True when these are the bytes that this message was filled up with.
    pub fn is_filled_with(&self, filler: &Filler, mut found: &[u8]) -> bool {
        filler.pieces(self.filler_at(), found.len()).all(|piece| {
            let (head, tail) = found.split_at(piece.len());
            found = tail;
            head == piece
        })
    }

    fn filler_at(&self) -> u64 {
        mix(mix(u64::from(self.run) << 32 | u64::from(self.client)) ^ self.seq)
    }
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): each input bit reaches each output bit.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The text that fillers are cut from, the same in every process.
#[derive(Debug)]
pub struct Filler(Vec<u8>);

impl Filler {
    /// Makes it.
    pub fn new() -> Filler {
        const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = Vec::with_capacity(FILLER_BYTES + 8);
        for word in 0.. {
            if text.len() >= FILLER_BYTES {
                break;
            }
            text.extend(mix(word).to_le_bytes().map(|byte| SYMBOLS[usize::from(byte & 63)]));
        }
        text.truncate(FILLER_BYTES);
        Filler(text)
    }

    /// `length` bytes from a place that `at` decides, round and round.
    fn pieces(&self, at: u64, length: usize) -> impl Iterator<Item = &[u8]> {
        let mut at = (at % FILLER_BYTES as u64) as usize;
        let mut left = length;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let end = self.0.len().min(at + left);
            let piece = &self.0[at..end];
            left -= piece.len();
            at = 0;
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
    use super::*;

    const LONGEST: Message = Message {
        run: u32::MAX,
        client: 65_535,
        seq: 999_999_999_999,
        sent_us: 9_999_999_999_999_999,
    };

    #[test]
    fn every_size_reads_back_and_is_json() {
        let filler = Filler::new();
        for size in [PAYLOAD_BYTES_MIN as usize, 256, 4096, FILLER_BYTES + 1000] {
            let mut payload = Vec::new();
            LONGEST.put(&filler, size, &mut payload);
            assert_eq!(payload.len(), size);
            let (message, found) = Message::read(&payload).unwrap();
            assert_eq!(message, LONGEST);
            assert!(message.is_filled_with(&filler, found));
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(value["client"], 65_535);
        }
        const { assert!(PAYLOAD_BYTES_MIN < PAYLOAD_BYTES_MAX) };
    }

    #[test]
    fn one_changed_byte_is_seen_wherever_it_is() {
        let filler = Filler::new();
        let mut payload = Vec::new();
        LONGEST.put(&filler, 256, &mut payload);
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            let intact = Message::read(&changed).is_some_and(|(message, found)| {
                message.is_filled_with(&filler, found) && message.sent_us == LONGEST.sent_us
            });
            assert!(!intact, "byte {at}");
        }
    }
}
