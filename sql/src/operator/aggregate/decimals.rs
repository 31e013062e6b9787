//! A sum of DECIMALs without rounding, whatever their scales: only what it shows has 28 digits.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rust_decimal::Decimal;

/// The most digits that a DECIMAL has behind its point.
const SCALE_MAX: u32 = Decimal::MAX_SCALE;

/// An exact sum, by scale. A scale counts as long as there are numbers of it: that of the sum is the largest of them, so
/// 1.50 and 2.50 are 4.00.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct DecimalSum {
    scales: BTreeMap<u32, OfScale>,
}

#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
struct OfScale {
    /// In units of the scale. 2^31 of the largest numbers fit.
    sum: i128,
    count: i64,
}

impl DecimalSum {
    /// Takes in a number so many times.
    pub fn add(&mut self, number: Decimal, weight: i32) {
        let sum = number.mantissa().saturating_mul(weight.into());
        self.take(number.scale(), sum, weight.into());
    }

    /// Takes in what another one holds.
    pub fn merge(&mut self, other: &DecimalSum) {
        for (scale, of) in &other.scales {
            self.take(*scale, of.sum, of.count);
        }
    }

    fn take(&mut self, scale: u32, sum: i128, count: i64) {
        let of = self.scales.entry(scale).or_default();
        of.sum = of.sum.saturating_add(sum);
        of.count += count;
        if (of.sum, of.count) == (0, 0) {
            self.scales.remove(&scale);
        }
    }

    /// How many numbers are in it.
    pub fn count(&self) -> i64 {
        self.scales.values().map(|of| of.count).sum()
    }

    /// The sum, and a whole number with it. Where it has more digits than fit, the last ones are rounded, half to even.
    /// None: it has more than fit before the point.
    pub fn total(&self, and: i128) -> Option<Decimal> {
        let (whole, fraction) = self.split(and);
        let wanted = self.scales.keys().next_back().copied().unwrap_or(0);
        (0..=wanted).rev().find_map(|scale| {
            let unit = power_of_ten(SCALE_MAX - scale);
            let whole = whole.checked_mul(power_of_ten(scale))?;
            let kept = whole.checked_add(fraction / unit)?;
            let mantissa = kept.checked_add(carry(fraction % unit, unit, kept % 2 != 0))?;
            Decimal::try_from_i128_with_scale(mantissa, scale).ok()
        })
    }

    /// The sum, and a whole number with it, as a whole number and so many of the smallest DECIMAL, of one sign.
    pub fn split(&self, and: i128) -> (i128, i128) {
        let one = power_of_ten(SCALE_MAX);
        let (mut whole, mut fraction) = (and, 0);
        for (scale, of) in &self.scales {
            let unit = power_of_ten(*scale);
            whole = whole.saturating_add(of.sum / unit);
            // Of 29 scales, less than one each.
            fraction += of.sum % unit * (one / unit);
        }
        whole = whole.saturating_add(fraction / one);
        fraction %= one;
        if whole > 0 && fraction < 0 {
            (whole - 1, fraction + one)
        } else if whole < 0 && fraction > 0 {
            (whole + 1, fraction - one)
        } else {
            (whole, fraction)
        }
    }
}

/// `exponent` is at most 38.
fn power_of_ten(exponent: u32) -> i128 {
    10_i128.pow(exponent)
}

/// What is added for a rest that is rounded away; a half goes to the even neighbour.
fn carry(rest: i128, unit: i128, odd: bool) -> i128 {
    match (rest.abs() * 2).cmp(&unit) {
        Ordering::Less => 0,
        Ordering::Equal if !odd => 0,
        _ => rest.signum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(terms: &[&str]) -> DecimalSum {
        let mut sum = DecimalSum::default();
        terms.iter().for_each(|term| sum.add(term.parse().unwrap(), 1));
        sum
    }

    fn total(terms: &[&str]) -> Option<String> {
        sum(terms).total(0).map(|total| total.to_string())
    }

    #[test]
    fn a_sum_keeps_its_scale_and_rounds_only_what_does_not_fit() {
        let is = |text: &str| Some(text.to_string());
        assert_eq!(total(&[]), is("0"));
        assert_eq!(total(&["1.50", "2.5"]), is("4.00"));
        assert_eq!(total(&["1.5", "-1.50"]), is("0.00"));
        assert_eq!(total(&["0.3", "-1"]), is("-0.7"));
        assert_eq!(total(&["-0.3", "1"]), is("0.7"));
        assert_eq!(
            sum(&["0.25"]).total(i128::from(i64::MAX)).map(|sum| sum.to_string()),
            is("9223372036854775807.25")
        );
        // 29 digits fit where they are below 2^96.
        assert_eq!(
            total(&["10000000000000000000000000000", "0.0005"]),
            is("10000000000000000000000000000")
        );
        assert_eq!(
            total(&["7000000000000000000000000000", "0.25"]),
            is("7000000000000000000000000000.2")
        );
        assert_eq!(
            total(&["7000000000000000000000000000", "0.35"]),
            is("7000000000000000000000000000.4")
        );
        assert_eq!(
            total(&["-7000000000000000000000000000", "-0.26"]),
            is("-7000000000000000000000000000.3")
        );
        assert_eq!(total(&["79228162514264337593543950335", "0.5"]), None);
        assert_eq!(
            total(&["79228162514264337593543950335", "0.4"]),
            is("79228162514264337593543950335")
        );
        assert_eq!(total(&["79228162514264337593543950335", "1"]), None);
        assert_eq!(
            total(&[
                "79228162514264337593543950335",
                "1",
                "0.0000000000000000000000000001",
                "-79228162514264337593543950335"
            ]),
            is("1.0000000000000000000000000001")
        );
    }

    fn decimals() -> impl Strategy<Value = Vec<Decimal>> {
        let decimal = (any::<i64>(), any::<i32>(), 0..=SCALE_MAX).prop_map(|(high, low, scale)| {
            Decimal::from_i128_with_scale((i128::from(high) << 31) + i128::from(low), scale)
        });
        prop::collection::vec(decimal, 0..20)
    }

    proptest! {
        #[test]
        fn what_is_taken_back_leaves_nothing(terms in decimals(), gone in decimals(), order in any::<prop::sample::Index>()) {
            let mut never = DecimalSum::default();
            terms.iter().for_each(|term| never.add(*term, 1));
            let mut sum = DecimalSum::default();
            let mut all: Vec<_> = terms.iter().map(|term| (*term, 1)).collect();
            all.extend(gone.iter().map(|term| (*term, 1)));
            let at = order.index(all.len().max(1));
            let at = at.min(all.len());
            all.rotate_left(at);
            all.iter().for_each(|(term, weight)| sum.add(*term, *weight));
            gone.iter().for_each(|term| sum.add(*term, -1));
            prop_assert_eq!(&sum, &never);
        }

        /// Beside a plain one over whole numbers of the smallest unit.
        #[test]
        fn the_total_is_exact_where_it_fits(terms in prop::collection::vec((any::<i32>(), 0..9_u32), 0..20), and in any::<i32>()) {
            let mut sum = DecimalSum::default();
            let mut plain = i128::from(and) * 1_000_000_000;
            for (number, scale) in terms {
                sum.add(Decimal::new(number.into(), scale), 1);
                plain += i128::from(number) * 10_i128.pow(9 - scale);
            }
            prop_assert_eq!(sum.total(and.into()), Some(Decimal::from_i128_with_scale(plain, 9)));
        }
    }
}
