//! Retention classes: how long records are kept, in the few steps that decide which slice they lie in.
//!
//! A stream's DURATION is rounded up to the next step. Streams of one class share slices, so a million streams with their
//! own durations cost a handful of families.

use crate::ids::TimestampMs;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The steps, by class number from 1; class 0 is for ever. Persisted by number: append to it, never reorder.
const DURATIONS_MS: [i64; 10] = [
    MINUTE_MS,
    10 * MINUTE_MS,
    HOUR_MS,
    6 * HOUR_MS,
    DAY_MS,
    3 * DAY_MS,
    7 * DAY_MS,
    30 * DAY_MS,
    90 * DAY_MS,
    365 * DAY_MS,
];
/// A slice holds at most this part of its class's duration, so records stay at most that part too long.
const SLICES_PER_DURATION: i64 = 4;

/// How long records of a slice are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RetentionClass(pub(crate) u8);

impl RetentionClass {
    /// Never dropped because of its age.
    pub const FOREVER: RetentionClass = RetentionClass(0);
    /// How many classes there are.
    pub const COUNT: usize = DURATIONS_MS.len() + 1;

    /// The class that keeps records at least as long as `duration_ms`; None: for ever.
    pub fn of(duration_ms: Option<u64>) -> RetentionClass {
        let Some(duration_ms) = duration_ms else {
            return RetentionClass::FOREVER;
        };
        let step = DURATIONS_MS.iter().position(|step| duration_ms <= step.unsigned_abs());
        step.map_or(RetentionClass::FOREVER, |step| RetentionClass(step as u8 + 1))
    }

    /// The class of a persisted number.
    pub(crate) fn from_number(number: u8) -> Option<RetentionClass> {
        (usize::from(number) < RetentionClass::COUNT).then_some(RetentionClass(number))
    }

    /// In ms; None: for ever.
    pub fn duration_ms(self) -> Option<i64> {
        Some(DURATIONS_MS[usize::from(self.0).checked_sub(1)?])
    }

    /// Whether a slice whose records begin at `first` takes none of `now` any more.
    pub(crate) fn bucket_is_over(self, first: TimestampMs, now: TimestampMs) -> bool {
        let bucket_ms = self.duration_ms().map(|duration| duration / SLICES_PER_DURATION);
        bucket_ms.is_some_and(|bucket| now.0.saturating_sub(first.0) >= bucket)
    }

    /// Whether records up to `last` may go.
    pub(crate) fn is_expired(self, last: TimestampMs, now: TimestampMs) -> bool {
        self.duration_ms()
            .is_some_and(|duration| now.0.saturating_sub(last.0) > duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_rounded_up_and_never_down() {
        for (duration_ms, kept_ms) in [
            (Some(0), Some(MINUTE_MS)),
            (Some(60_000), Some(MINUTE_MS)),
            (Some(60_001), Some(10 * MINUTE_MS)),
            (Some(25 * 3_600_000), Some(3 * DAY_MS)),
            (Some(366 * 86_400_000), None),
            (Some(u64::MAX), None),
            (None, None),
        ] {
            assert_eq!(
                RetentionClass::of(duration_ms).duration_ms(),
                kept_ms,
                "{duration_ms:?}"
            );
        }
    }

    #[test]
    fn numbers_are_what_is_persisted() {
        for number in 0..RetentionClass::COUNT as u8 {
            assert_eq!(RetentionClass::from_number(number), Some(RetentionClass(number)));
        }
        assert_eq!(RetentionClass::from_number(RetentionClass::COUNT as u8), None);
    }

    #[test]
    fn records_expire_after_their_duration_and_not_before() {
        let class = RetentionClass::of(Some(60_000));
        let at = TimestampMs;
        assert!(!class.is_expired(at(1_000), at(61_000)) && class.is_expired(at(1_000), at(61_001)));
        assert!(!RetentionClass::FOREVER.is_expired(at(i64::MIN), at(i64::MAX)));
        assert!(!class.bucket_is_over(at(0), at(14_999)) && class.bucket_is_over(at(0), at(15_000)));
    }
}
