//! A sum of floats without rounding, so that it does not depend on the order of its terms.
//!
//! Shewchuk's algorithm ("Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997), as
//! Python's `math.fsum` has it: the sum is held as floats that do not overlap, smallest first. Subtracting a term is as
//! exact as adding it, which is what retraction needs; and two replays that met the rows of several shards in another
//! order still write the same FINAL row.

/// An exact sum. At most about 40 parts, in practice one to three.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub(super) struct ExactSum {
    parts: Vec<f64>,
    /// The sum left the range of FLOAT on its way: it has no value from then on.
    overflowed: bool,
}

impl ExactSum {
    /// Adds a finite term.
    pub fn add(&mut self, term: f64) {
        let mut term = term;
        let mut kept = 0;
        for at in 0..self.parts.len() {
            let part = self.parts[at];
            let (large, small) = if term.abs() < part.abs() {
                (part, term)
            } else {
                (term, part)
            };
            let sum = large + small;
            let rest = small - (sum - large);
            if rest != 0.0 {
                self.parts[kept] = rest;
                kept += 1;
            }
            term = sum;
        }
        self.parts.truncate(kept);
        self.overflowed |= !term.is_finite();
        if !self.overflowed {
            self.parts.push(term);
        }
    }

    /// Adds the product of two finite factors, exactly: its float, and what that one rounds away.
    pub fn add_product(&mut self, a: f64, b: f64) {
        let product = a * b;
        self.add(product);
        if product.is_finite() {
            self.add(a.mul_add(b, -product));
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        other.parts.iter().for_each(|part| self.add(*part));
        self.overflowed |= other.overflowed;
    }

    /// The floats that it is the sum of.
    pub fn parts(&self) -> impl Iterator<Item = f64> + '_ {
        let overflowed = self.overflowed.then_some(f64::INFINITY);
        self.parts.iter().copied().chain(overflowed)
    }

    /// The float nearest to the sum. None: it overflowed.
    pub fn value(&self) -> Option<f64> {
        if self.overflowed {
            return None;
        }
        let mut parts = self.parts.iter().rev();
        let Some(mut high) = parts.next().copied() else {
            return Some(0.0);
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
        Some(high)
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
        assert_eq!(sum(&[f64::MAX, f64::MAX]), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            (terms, shuffled) in prop::collection::vec((-1e15..1e15_f64, -300..300_i32), 0..30).prop_flat_map(|terms| {
                let terms: Vec<f64> = terms.into_iter().map(|(term, scale)| term * 2_f64.powi(scale)).collect();
                (Just(terms.clone()), Just(terms).prop_shuffle())
            })
        ) {
            prop_assert_eq!(sum(&terms), sum(&shuffled));
        }

        #[test]
        fn a_term_that_is_taken_back_leaves_nothing(terms in prop::collection::vec(-1e9..1e9_f64, 1..20), gone in -1e300..1e300_f64) {
            let with = [&terms[..], &[gone, -gone]].concat();
            prop_assert_eq!(sum(&with), sum(&terms));
        }
    }
}
