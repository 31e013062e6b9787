//! [`Sent`]: the events that were handed to a connection lately, as they were written.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a piece costs beside its text.
const PIECE_OVERHEAD: usize = 64;

/// Pieces of events that end with an empty line, numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Each with the number of its first event.
    pieces: VecDeque<(u64, Bytes)>,
    begin: u64,
    end: u64,
    bytes: usize,
}

impl Sent {
    /// The number of the first event that is kept.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// The number of the next event.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a piece of that many events.
    pub(super) fn push(&mut self, piece: Bytes, events: u64) {
        self.bytes += piece.len() + PIECE_OVERHEAD;
        self.pieces.push_back((self.end, piece));
        self.end += events;
    }

    /// The events from `next` to the end of its piece, and the number of the one behind them. None where there are none yet.
    pub(super) fn from(&self, next: u64) -> Option<(Bytes, u64)> {
        let behind = self.pieces.partition_point(|(first, _)| *first <= next);
        let (first, piece) = self.pieces.get(behind.checked_sub(1)?)?;
        let end = self.pieces.get(behind).map_or(self.end, |(first, _)| *first);
        if next >= end {
            return None;
        }
        let mut at = 0;
        for _ in *first..next {
            at += piece[at..].windows(2).position(|pair| pair == b"\n\n")? + 2;
        }
        Some((piece.slice(at..), end))
    }

    /// Lets go of the oldest pieces beyond so many bytes.
    pub(super) fn keep(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some((_, piece)) = self.pieces.pop_front()
        {
            self.bytes -= piece.len() + PIECE_OVERHEAD;
            self.begin = self.pieces.front().map_or(self.end, |(first, _)| *first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_pieces() -> Sent {
        let mut sent = Sent::default();
        sent.push("data: 0\n\n".into(), 1);
        sent.push("id: x\ndata: 1\n\ndata: 2\n\ndata: 3\n\n".into(), 3);
        sent.push("data: 4\n\n".into(), 1);
        sent
    }

    #[test]
    fn events_are_found_in_the_middle_of_a_piece() {
        let sent = three_pieces();
        let from = |next| {
            sent.from(next)
                .map(|(piece, end)| (String::from_utf8(piece.into()).unwrap(), end))
        };
        assert_eq!(from(0), Some(("data: 0\n\n".into(), 1)));
        assert_eq!(from(1), Some(("id: x\ndata: 1\n\ndata: 2\n\ndata: 3\n\n".into(), 4)));
        assert_eq!(from(3), Some(("data: 3\n\n".into(), 4)));
        assert_eq!(from(4), Some(("data: 4\n\n".into(), 5)));
        assert_eq!(from(5), None);
        assert_eq!(Sent::default().from(0), None);
    }

    #[test]
    fn the_oldest_go_first_and_numbers_go_on() {
        let mut sent = three_pieces();
        sent.keep(sent.bytes);
        assert_eq!((sent.begin(), sent.end()), (0, 5));
        sent.keep(sent.bytes - 1);
        assert_eq!((sent.begin(), sent.from(0)), (1, None));
        sent.keep(0);
        assert_eq!((sent.begin(), sent.end(), sent.bytes), (5, 5, 0));
        sent.push("data: 5\n\n".into(), 1);
        assert_eq!(sent.from(5), Some(("data: 5\n\n".into(), 6)));
    }
}
