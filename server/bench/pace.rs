//! When messages are to be sent.
//!
//! A closed loop sends when the window has room: a slow broker is then asked less often, and its slowest moments are
//! hardly seen. An open loop has a time for each message beforehand, and latency counts from that time, whether or not
//! the message could be sent then ("coordinated omission", Gil Tene).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::limits::PACE_MIN;

/// How long the load goes on.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// Messages of all clients together.
    Count(u64),
    /// From the start on.
    Duration(Duration),
}

/// The times of one client's messages.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: Instant,
    client: u64,
    clients: u64,
    extent: Extent,
    rate: Option<f64>,
}

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send; the latency counts from this moment.
    Send(Instant),
    /// Its time has not come.
    Wait,
    /// All are sent.
    End,
}

impl Schedule {
    /// For client number `client` of `clients`, who share `rate` messages a second, or have no rate.
    pub fn new(start: Instant, client: u32, clients: u32, extent: Extent, rate: Option<f64>) -> Schedule {
        Schedule {
            start,
            client: u64::from(client),
            clients: u64::from(clients),
            extent,
            rate,
        }
    }

    /// What message `seq` of this client is among all messages of the run.
    pub fn number(&self, seq: u64) -> u64 {
        seq * self.clients + self.client
    }

    /// Whether message `seq` of this client goes now.
    pub fn next(&self, seq: u64, now: Instant) -> Next {
        let due = self.rate.map(|rate| due(self.start, rate, self.number(seq)));
        let over = match self.extent {
            Extent::Count(count) => self.number(seq) >= count,
            Extent::Duration(duration) => due.unwrap_or(now) >= self.start + duration,
        };
        match due {
            _ if over => Next::End,
            Some(due) if due > now => Next::Wait,
            due => Next::Send(due.unwrap_or(now)),
        }
    }
}

fn due(start: Instant, rate: f64, number: u64) -> Instant {
    start + Duration::from_secs_f64(number as f64 / rate)
}

/// Wakes each client when one of its messages is due. A thread of its own, because the runtime's timer counts in
/// milliseconds, and an open loop that sends a millisecond late measures itself. It ends when the clients are gone.
pub fn wake_at_rate(start: Instant, rate: f64, clients: Vec<Arc<Notify>>) {
    thread::spawn(move || {
        let mut next = 0u64;
        while clients.iter().any(|client| Arc::strong_count(client) > 1) {
            let wait = due(start, rate, next).saturating_duration_since(Instant::now());
            thread::sleep(wait.clamp(PACE_MIN, Duration::from_secs(1)));
            let now = Instant::now();
            let from = next;
            while due(start, rate, next) <= now {
                next += 1;
            }
            for number in from..next.min(from + clients.len() as u64) {
                clients[(number % clients.len() as u64) as usize].notify_one();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_a_count_exactly() {
        let start = Instant::now();
        for count in [0, 1, 9, 10, 11] {
            let sent: u64 = (0..4)
                .map(|client| {
                    let schedule = Schedule::new(start, client, 4, Extent::Count(count), None);
                    (0..).take_while(|seq| schedule.next(*seq, start) != Next::End).count() as u64
                })
                .sum();
            assert_eq!(sent, count);
        }
    }

    #[test]
    fn an_open_loop_counts_from_the_intended_time() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1, 2, Extent::Duration(Duration::from_secs(1)), Some(10.0));
        let second = start + Duration::from_millis(300);
        assert_eq!(schedule.next(1, start + Duration::from_millis(299)), Next::Wait);
        assert_eq!(schedule.next(1, second), Next::Send(second));
        assert_eq!(
            schedule.next(1, start + Duration::from_secs(5)),
            Next::Send(second),
            "late, and it shows"
        );
        assert_eq!(
            schedule.next(5, start + Duration::from_secs(5)),
            Next::End,
            "1.1 s is past the end"
        );
    }
}
