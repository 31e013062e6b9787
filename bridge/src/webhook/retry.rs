//! The pause between two attempts: it doubles, is spread so that many connectors do not knock at once, and yields to
//! what the far side asks for.

use std::time::Duration;

/// The pause after failure number `failures` (from 1). `random` is in `0.0..1.0`.
pub(crate) fn pause(failures: u32, min: Duration, max: Duration, asked: Option<Duration>, random: f64) -> Duration {
    let doubled = min.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
    let spread = doubled.min(max).mul_f64(0.5 + random / 2.0);
    asked.map_or(spread, |asked| asked.max(spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_longest_and_spreads_downwards() {
        let ms = Duration::from_millis;
        let full = |failures| pause(failures, ms(500), ms(60_000), None, 1.0);
        assert_eq!(
            [full(1), full(2), full(3), full(8)],
            [ms(500), ms(1000), ms(2000), ms(60_000)]
        );
        assert_eq!(full(u32::MAX), ms(60_000));
        assert_eq!(pause(1, ms(500), ms(60_000), None, 0.0), ms(250));
        assert_eq!(
            pause(1, ms(500), ms(1000), Some(ms(90_000)), 0.5),
            ms(90_000),
            "Retry-After wins"
        );
        assert_eq!(pause(3, ms(500), ms(60_000), Some(ms(1)), 1.0), ms(2000));
    }
}
