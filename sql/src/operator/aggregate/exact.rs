//! A sum of floats without rounding, so that it does not depend on the order of its terms.
//!
//! Shewchuk's algorithm ("Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997), as
//! Python's `math.fsum` has it: the sum is held as floats that do not overlap, smallest first. Subtracting a term is as
//! exact as adding it, which is what retraction needs; and two replays that met the rows of several shards in another
//! order still write the same FINAL row.

/// An exact sum of finite floats, whatever their size; only its value may be out of range. In practice one to three parts.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct ExactSum {
    /// The sum of the terms below [`HUGE`]: of 2^60 of them still a float.
    parts: Vec<f64>,
    /// That of the others, [`down`] by 2^1100. The square of the largest float is no more than 2^948 there, and what
    /// rounding it leaves no less than a normal float.
    huge: Vec<f64>,
}

/// 2^960
const HUGE: f64 = power_of_two(960);

const fn power_of_two(exponent: u64) -> f64 {
    f64::from_bits((exponent + 1023) << 52)
}

/// Divided by 2^550, exact where the result is a normal float.
fn half_down(number: f64) -> f64 {
    number / power_of_two(550)
}

fn down(number: f64) -> f64 {
    half_down(half_down(number))
}

fn half_up(number: f64) -> f64 {
    number * power_of_two(550)
}

/// Infinite where it is out of range.
fn up(number: f64) -> f64 {
    half_up(half_up(number))
}

/// Adds a term to floats that do not overlap.
fn grow(parts: &mut Vec<f64>, term: f64) {
    let mut term = term;
    let mut kept = 0;
    for at in 0..parts.len() {
        let part = parts[at];
        let (large, small) = if term.abs() < part.abs() {
            (part, term)
        } else {
            (term, part)
        };
        let sum = large + small;
        let rest = small - (sum - large);
        if rest != 0.0 {
            parts[kept] = rest;
            kept += 1;
        }
        term = sum;
    }
    parts.truncate(kept);
    if term != 0.0 {
        parts.push(term);
    }
}

/// Adds a product: its float, and what that one rounds away.
fn grow_product(parts: &mut Vec<f64>, a: f64, b: f64) {
    let product = a * b;
    grow(parts, product);
    grow(parts, a.mul_add(b, -product));
}

/// The float nearest to the sum of floats that do not overlap.
fn rounded(parts: &[f64]) -> f64 {
    let mut parts = parts.iter().rev();
    let Some(mut high) = parts.next().copied() else {
        return 0.0;
    };
    let mut low = 0.0;
    for part in parts.by_ref() {
        let sum = high + part;
        low = part - (sum - high);
        high = sum;
        if low != 0.0 {
            break;
        }
    }
    // Exactly half way: the next part decides which neighbour is nearer.
    let same_side = parts
        .next()
        .is_some_and(|next| (low < 0.0 && *next < 0.0) || (low > 0.0 && *next > 0.0));
    let rounded = high + low * 2.0;
    if same_side && rounded - high == low * 2.0 {
        high = rounded;
    }
    high
}

impl ExactSum {
    /// Of one term.
    pub fn of(term: f64) -> ExactSum {
        let mut sum = ExactSum::default();
        sum.add(term);
        sum
    }

    /// Adds a finite term.
    pub fn add(&mut self, term: f64) {
        if term.abs() < HUGE {
            grow(&mut self.parts, term);
        } else {
            grow(&mut self.huge, down(term));
        }
    }

    /// Adds the product of two finite factors, exactly, but for what lies below the smallest float.
    pub fn add_product(&mut self, a: f64, b: f64) {
        if (a * b).abs() < HUGE {
            grow_product(&mut self.parts, a, b);
        } else {
            grow_product(&mut self.huge, half_down(a), half_down(b));
        }
    }

    /// Adds `times` the product of two sums, as [`ExactSum::add_product`].
    pub fn add_product_of(&mut self, times: f64, a: &ExactSum, b: &ExactSum) {
        for a in a.parts.iter().map(|part| part * times) {
            b.parts.iter().for_each(|b| self.add_product(a, *b));
            b.huge.iter().for_each(|b| grow_product(&mut self.huge, a, *b));
        }
        for a in a.huge.iter().map(|part| part * times) {
            b.parts.iter().for_each(|b| grow_product(&mut self.huge, a, *b));
            for b in &b.huge {
                grow_product(&mut self.huge, half_up(a), half_up(*b));
            }
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        other.parts.iter().for_each(|part| grow(&mut self.parts, *part));
        other.huge.iter().for_each(|part| grow(&mut self.huge, *part));
    }

    /// The float nearest to the sum. None: it is out of range.
    pub fn value(&self) -> Option<f64> {
        self.quotient(1.0)
    }

    /// The float nearest to the sum, divided. None: the quotient is out of range.
    pub fn quotient(&self, divisor: f64) -> Option<f64> {
        /// 2^1010, scaled. Below it the whole sum fits; above it the small terms decide no more than where a half goes.
        const FITS: f64 = 1.0 / power_of_two(90);
        /// What scaled keeps all its bits: multiples of 2^48, at least.
        const KEPT: f64 = power_of_two(100);
        let quotient = match self.huge.last() {
            None => rounded(&self.parts) / divisor,
            Some(most) if most.abs() < FITS => {
                let mut parts = self.parts.clone();
                self.huge.iter().for_each(|part| grow(&mut parts, up(*part)));
                rounded(&parts) / divisor
            }
            Some(_) => {
                let mut parts = self.huge.clone();
                let kept = self.parts.partition_point(|part| part.abs() < KEPT);
                if let Some(rest) = self.parts[..kept].last() {
                    grow(&mut parts, f64::from_bits(1).copysign(*rest));
                }
                self.parts[kept..].iter().for_each(|part| grow(&mut parts, down(*part)));
                up(rounded(&parts) / divisor)
            }
        };
        quotient.is_finite().then_some(quotient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(terms: &[f64]) -> Option<f64> {
        let mut sum = ExactSum::default();
        terms.iter().for_each(|term| sum.add(*term));
        sum.value()
    }

    #[test]
    fn nothing_is_lost() {
        assert_eq!(sum(&[]), Some(0.0));
        assert_eq!(sum(&[0.1; 10]), Some(1.0));
        assert_eq!(sum(&[1e100, 1.0, -1e100]), Some(1.0));
        assert_eq!(sum(&[1.0, 1e-16, 1e-16]), Some(1.000_000_000_000_000_2));
    }

    #[test]
    fn only_the_value_has_a_range() {
        let max = f64::MAX;
        assert_eq!(sum(&[max, max]), None);
        assert_eq!(sum(&[max, max, 1.0, -max, -max]), Some(1.0));
        assert_eq!(sum(&[max, max, -max]), Some(max));
        assert_eq!(sum(&[-max, -max, max, 1.0]), Some(-max));
        assert_eq!(sum(&[max, HUGE / 4.0, HUGE / 4.0]), Some(max));
        // Half of the last bit rounds up to beyond it, a hair less does not.
        let half = power_of_two(970);
        assert_eq!(sum(&[max, half]), None);
        assert_eq!(sum(&[max, half, -1.0]), Some(max));
        assert_eq!(sum(&[max, half, -1e-300]), Some(max));
        assert_eq!(
            sum(&[max, half / 2.0, half / 4.0, half / 8.0, half / 8.0, -1e200]),
            Some(max)
        );
        // What is huge and what is not cancel.
        assert_eq!(sum(&[HUGE, -HUGE / 2.0, -HUGE / 2.0, 0.25]), Some(0.25));
        assert_eq!(sum(&[HUGE, -HUGE / 2.0]), Some(HUGE / 2.0));
        let mut mean = ExactSum::of(max);
        mean.add(max);
        assert_eq!(mean.quotient(2.0), Some(max));
    }

    #[test]
    fn products_have_no_range() {
        for (a, b) in [
            (1e200, 1e200),
            (f64::MAX, f64::MAX),
            (1e300, 3.0),
            (1.1e-20, f64::MAX),
            (0.1, 0.3),
        ] {
            let mut sum = ExactSum::of(7.0);
            sum.add_product(a, b);
            sum.add_product(b, -a);
            assert_eq!(sum, ExactSum::of(7.0));
            // (a + b)^2 - a^2 - 2ab = b^2
            let mut both = ExactSum::of(a);
            both.add(b);
            let mut rest = ExactSum::default();
            rest.add_product_of(1.0, &both, &both);
            rest.add_product(a, -a);
            rest.add_product_of(-2.0, &ExactSum::of(a), &ExactSum::of(b));
            rest.add_product(b, -b);
            assert_eq!(rest, ExactSum::default(), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            (terms, shuffled) in prop::collection::vec((-1e15..1e15_f64, -300..970_i32), 0..30).prop_flat_map(|terms| {
                let terms: Vec<f64> = terms.into_iter().map(|(term, scale)| term * 2_f64.powi(scale)).collect();
                (Just(terms.clone()), Just(terms).prop_shuffle())
            })
        ) {
            prop_assert_eq!(sum(&terms), sum(&shuffled));
        }

        #[test]
        fn a_term_that_is_taken_back_leaves_nothing(terms in prop::collection::vec(-1e9..1e9_f64, 1..20), gone in -f64::MAX..f64::MAX) {
            let with = [&terms[..], &[gone, -gone]].concat();
            prop_assert_eq!(sum(&with), sum(&terms));
        }
    }
}
