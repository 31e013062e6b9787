//! Why clients were turned away, in the log: the first thing to look for when a device does not come in.
//!
//! MQTT 3.1.1 has no packet that says why, so the log is the only place. A device that comes again every second, or
//! somebody who tries ports, must not fill the disk with it: only so many lines a minute, and then a number.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::End;
use crate::limits::{REFUSALS_TOLD_MAX, REFUSALS_TOLD_S};
use crate::packet::Reason;

/// Counts what is told.
#[derive(Debug, Default)]
pub struct Refusals {
    period: Mutex<Period>,
}

#[derive(Debug, Default)]
struct Period {
    began: Option<Instant>,
    told: u32,
    untold: u64,
}

/// What becomes of one refusal.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    told: bool,
    /// Refusals of the period before that were not told.
    untold_before: u64,
}

impl Refusals {
    /// A client was turned away, or cut off. `client_id` is empty where it is not known.
    pub fn tell(&self, peer: SocketAddr, client_id: &str, why: impl Display) {
        let turn = self
            .period
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next(Instant::now());
        if turn.untold_before > 0 {
            tracing::info!(clients = turn.untold_before, "more MQTT clients were turned away");
        }
        if turn.told {
            tracing::info!(%peer, client_id, %why, "an MQTT client was turned away");
        } else {
            tracing::debug!(%peer, client_id, %why, "an MQTT client was turned away");
        }
    }

    /// The same for a connection that ends, if it is the broker that ends it and not because it stops.
    pub fn tell_end(&self, peer: SocketAddr, client_id: &str, end: &End) {
        match end {
            End::Server { reason, detail } if *reason != Reason::SERVER_SHUTTING_DOWN => {
                self.tell(peer, client_id, format_args!("{reason}: {detail}"));
            }
            _ => {}
        }
    }
}

impl Period {
    fn next(&mut self, now: Instant) -> Turn {
        let length = Duration::from_secs(REFUSALS_TOLD_S);
        let mut untold_before = 0;
        if self.began.is_none_or(|began| now.duration_since(began) >= length) {
            untold_before = self.untold;
            *self = Period {
                began: Some(now),
                ..Period::default()
            };
        }
        let told = self.told < REFUSALS_TOLD_MAX;
        match told {
            true => self.told += 1,
            false => self.untold += 1,
        }
        Turn { told, untold_before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_number_after_some_lines() {
        let (mut period, begin) = (Period::default(), Instant::now());
        let told = (0..REFUSALS_TOLD_MAX + 7).filter(|_| period.next(begin).told).count();
        assert_eq!(told, REFUSALS_TOLD_MAX as usize);
        let later = begin + Duration::from_secs(REFUSALS_TOLD_S);
        let turn = |untold_before| Turn {
            told: true,
            untold_before,
        };
        assert_eq!(period.next(later), turn(7));
        assert_eq!(period.next(later), turn(0), "it is said once");
    }
}
