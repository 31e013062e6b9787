//! What a scan remembers of the rows that it has looked at: the hashes in each span of entries. Only a promise that something
//! is *not* there counts, so forgetting is always right.

use std::collections::{BTreeMap, HashSet};

use crate::limits::SCAN_HASHES_MAX;

/// By number of the span; ascending hashes.
#[derive(Debug, Default)]
pub struct Spans {
    seen: BTreeMap<u64, Box<[u32]>>,
    count: usize,
}

impl Spans {
    /// False when none of the hashes is in the span.
    pub fn may_hold(&self, span: u64, hashes: &HashSet<u32>) -> bool {
        let holds = |seen: &[u32]| hashes.iter().any(|hash| seen.binary_search(hash).is_ok());
        self.seen.get(&span).is_none_or(|seen| holds(seen))
    }

    /// Whether the span's rows were looked at.
    pub fn knows(&self, span: u64) -> bool {
        self.seen.contains_key(&span)
    }

    /// All hashes of a span to which nothing more comes. The oldest spans are forgotten for it.
    pub fn remember(&mut self, span: u64, mut hashes: Vec<u32>) {
        hashes.sort_unstable();
        hashes.dedup();
        self.count += hashes.len();
        if let Some(replaced) = self.seen.insert(span, hashes.into()) {
            self.count -= replaced.len();
        }
        while self.count > SCAN_HASHES_MAX
            && let Some((_, oldest)) = self.seen.pop_first()
        {
            self.count -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_looked_at_may_be_passed_over() {
        let mut spans = Spans::default();
        let hashes = |list: &[u32]| list.iter().copied().collect::<HashSet<_>>();
        assert!(spans.may_hold(7, &hashes(&[1])), "nothing is known of it");
        spans.remember(7, vec![5, 1, 5]);
        assert!(spans.may_hold(7, &hashes(&[9, 5])) && !spans.may_hold(7, &hashes(&[9, 2])));
        spans.remember(9, (0..SCAN_HASHES_MAX as u32).collect());
        assert!(!spans.knows(7) && spans.knows(9), "the oldest goes");
        spans.remember(9, vec![3]);
        assert_eq!(spans.count, 1);
    }
}
