//! The newest applied entries of one group, shared by all who follow it. One ring per group, bounded by bytes; there is
//! none per follower. Who falls behind it reads from disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::follow::AppliedEntry;
use crate::ids::LogIndex;

/// What the ring has at an index.
pub enum TailRead {
    /// The entry.
    Entry(Arc<AppliedEntry>),
    /// Not applied yet.
    NotYet,
    /// No longer, or never: read from disk. The ring begins at this index.
    Evicted { first: LogIndex },
}

struct Ring {
    entries: VecDeque<Arc<AppliedEntry>>,
    bytes: usize,
    /// The index after the newest entry.
    next: LogIndex,
}

/// One group's ring, and the news of its growth.
pub struct Tail {
    ring: RwLock<Ring>,
    bytes_max: usize,
    applied: watch::Sender<LogIndex>,
}

impl Tail {
    /// An empty ring of a group that is applied to `applied`.
    pub fn new(applied: LogIndex, bytes_max: usize) -> Tail {
        let ring = Ring {
            entries: VecDeque::new(),
            bytes: 0,
            next: applied.next(),
        };
        Tail {
            ring: RwLock::new(ring),
            bytes_max,
            applied: watch::Sender::new(applied),
        }
    }

    /// Takes the next entry; the oldest go when the bytes are used up.
    pub fn push(&self, entry: Arc<AppliedEntry>) {
        let index = entry.index;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.bytes += entry.size_bytes();
        ring.next = index.next();
        ring.entries.push_back(entry);
        while ring.bytes > self.bytes_max && ring.entries.len() > 1 {
            if let Some(old) = ring.entries.pop_front() {
                ring.bytes -= old.size_bytes();
            }
        }
        drop(ring);
        self.applied.send_replace(index);
    }

    /// The entry at `index`.
    pub fn get(&self, index: LogIndex) -> TailRead {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if index >= ring.next {
            return TailRead::NotYet;
        }
        let first = ring.entries.front().map_or(ring.next, |entry| entry.index);
        match index
            .0
            .checked_sub(first.0)
            .and_then(|at| ring.entries.get(at as usize))
        {
            Some(entry) => TailRead::Entry(entry.clone()),
            None => TailRead::Evicted { first },
        }
    }

    /// How far the group is applied, as it grows.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Put, TableId};
    use crate::ids::{GroupId, TimestampMs};

    fn entry(index: u64, bytes: usize) -> Arc<AppliedEntry> {
        let put = Put {
            table: TableId(1000),
            key: vec![0; bytes].into(),
            value: None,
        };
        let (group, time) = (GroupId(1), TimestampMs(0));
        Arc::new(AppliedEntry {
            group,
            index: LogIndex(index),
            time,
            appends: Vec::new(),
            puts: vec![put],
        })
    }

    #[test]
    fn the_ring_keeps_the_newest_and_says_what_it_has_not() {
        let tail = Tail::new(LogIndex(6), 250);
        assert!(matches!(tail.get(LogIndex(7)), TailRead::NotYet));
        assert!(matches!(
            tail.get(LogIndex(6)),
            TailRead::Evicted { first: LogIndex(7) }
        ));
        (7..=9).for_each(|index| tail.push(entry(index, 60)));
        assert!(matches!(tail.get(LogIndex(7)), TailRead::Evicted { first } if first > LogIndex(7)));
        assert!(matches!(tail.get(LogIndex(9)), TailRead::Entry(found) if found.index == LogIndex(9)));
        assert!(matches!(tail.get(LogIndex(10)), TailRead::NotYet));
        tail.push(entry(10, 10_000));
        assert!(
            matches!(tail.get(LogIndex(10)), TailRead::Entry(_)),
            "the newest stays, however large"
        );
    }
}
