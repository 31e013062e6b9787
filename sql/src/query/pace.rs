//! How fast a task reads, of late: the mean since its start would tell of hours ago.

use std::time::Duration;

use tokio::time::Instant;

/// What the rate is taken over, at least, while records come.
const SPAN: Duration = Duration::from_secs(5);

/// Records a second over the last five to ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The rate is counted from here.
    from: Mark,
    /// The next such place.
    next: Mark,
    records: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    at: Instant,
    records: u64,
}

impl Pace {
    /// Of a task that begins now.
    pub fn new(now: Instant) -> Pace {
        let mark = Mark { at: now, records: 0 };
        Pace {
            from: mark,
            next: mark,
            records: 0,
        }
    }

    /// So many more were read.
    pub fn count(&mut self, records: u64, now: Instant) {
        let before = self.records;
        self.records += records;
        let rested = now.duration_since(self.next.at);
        if rested < SPAN {
            return;
        }
        // After a long rest what was before it says nothing about now.
        self.from = match rested >= 2 * SPAN {
            true => Mark {
                at: now - SPAN,
                records: before,
            },
            false => self.next,
        };
        self.next = Mark {
            at: now,
            records: self.records,
        };
    }

    /// Records a second.
    pub fn rate(&self, now: Instant) -> u64 {
        let seconds = now.duration_since(self.from.at).as_secs_f64().max(1.0);
        ((self.records - self.from.records) as f64 / seconds).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_what_happens_now() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(begin);
        (1..=20).for_each(|second| pace.count(100, at(second)));
        assert_eq!(pace.rate(at(20)), 100);
        (21..=40).for_each(|second| pace.count(500, at(second)));
        assert_eq!(pace.rate(at(40)), 500);
        assert!(pace.rate(at(140)) < 50, "it falls while nothing comes");
        pace.count(1_000, at(3_600));
        assert_eq!(pace.rate(at(3_600)), 200, "an hour of rest does not count");
    }
}
