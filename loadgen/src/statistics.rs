//! What a handful of repeats can tell: the middle, the spread, and whether two handfuls differ by more than noise.
//!
//! Repeats are few (three to twenty) and their distribution is unknown, often with one wild value when the machine did
//! something else. So nothing here assumes a bell curve: medians, quartiles, a rank test whose probability is counted
//! out exactly, and resampling for an interval.

/// The largest number of values (of both sides) for which the rank test counts all arrangements.
const EXACT_VALUES_MAX: usize = 60;

/// The middle and the spread of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many values.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// A quarter is below.
    pub quartile_1: f64,
    /// Half is below.
    pub median: f64,
    /// Three quarters are below.
    pub quartile_3: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; `None` of none. Values that are no numbers are left out.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Spread {
            count: sorted.len(),
            min,
            quartile_1: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            quartile_3: quantile(&sorted, 0.75),
            max,
        })
    }

    /// Half the distance from smallest to largest, as a part of the median: "±4%". 0 if the median is 0.
    #[must_use]
    pub fn relative(&self) -> f64 {
        if self.median == 0.0 {
            0.0
        } else {
            (self.max - self.min) / 2.0 / self.median.abs()
        }
    }
}

/// The median; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    Spread::of(values).map(|spread| spread.median)
}

/// Between the two nearest of sorted values, by distance (what NumPy and R do if not told otherwise).
///
/// # Panics
/// Of no values.
#[must_use]
pub fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let position = quantile.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[position.floor() as usize],
        sorted[position.ceil() as usize],
    );
    below + (above - below) * position.fract()
}

/// The Mann–Whitney rank test: how probable it is that two samples of the same distribution differ in their ranks at
/// least as much as these do, in either direction. Counted out exactly, ties included, up to 60 values altogether;
/// beyond by the normal approximation. 1 if a side is empty.
#[must_use]
pub fn mann_whitney_p(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let ranks = doubled_ranks(a, b);
    let of_a: usize = ranks[..a.len()].iter().sum();
    if ranks.len() <= EXACT_VALUES_MAX {
        exact_p(&ranks, a.len(), of_a)
    } else {
        normal_p(&ranks, a.len(), of_a)
    }
}

/// The smallest p that [`mann_whitney_p`] can give for so many values: more repeats are needed if it is not small
/// enough.
#[must_use]
pub fn smallest_p(a: usize, b: usize) -> f64 {
    let arrangements = (1..=a).fold(1.0, |product, index| product * (b + index) as f64 / index as f64);
    (2.0 / arrangements).min(1.0)
}

/// Twice the rank of each value of `a` and then of `b` among all: values that are equal share the mean of their ranks,
/// which doubling keeps whole.
fn doubled_ranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|&left, &right| all[left].total_cmp(&all[right]));
    let mut ranks = vec![0; all.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..]
            .iter()
            .take_while(|&&index| all[index] == all[order[start]])
            .count()
            .max(1);
        for &index in &order[start..start + tied] {
            // Ranks start + 1 to start + tied, whose mean is (2 × start + tied + 1) / 2.
            ranks[index] = 2 * start + tied + 1;
        }
        start += tied;
    }
    ranks
}

/// Of all ways to choose `chosen` of the ranks, the part whose sum is as far from the expected one as `observed`.
fn exact_p(ranks: &[usize], chosen: usize, observed: usize) -> f64 {
    let sum_max: usize = ranks.iter().sum();
    // ways[k][s]: so many choices of k ranks have the sum s. C(60, 30) is below 2^57, and f64 counts to 2^53 exactly
    // and beyond it to 16 digits.
    let mut ways = vec![vec![0.0_f64; sum_max + 1]; chosen + 1];
    ways[0][0] = 1.0;
    for &rank in ranks {
        for k in (1..=chosen).rev() {
            for sum in (rank..=sum_max).rev() {
                ways[k][sum] += ways[k - 1][sum - rank];
            }
        }
    }
    // Distances are compared in units of 1/ranks.len(), where they are whole.
    let distance = |sum: usize| (sum * ranks.len()).abs_diff(chosen * sum_max);
    let (mut all, mut as_far) = (0.0, 0.0);
    for (sum, &count) in ways[chosen].iter().enumerate() {
        all += count;
        if distance(sum) >= distance(observed) {
            as_far += count;
        }
    }
    as_far / all
}

/// The same by the normal distribution, corrected for ties and for the step between two sums.
fn normal_p(ranks: &[usize], chosen: usize, observed: usize) -> f64 {
    let (n, all) = (chosen as f64, ranks.len() as f64);
    let mean = ranks.iter().sum::<usize>() as f64 / all;
    let variance_of_ranks = ranks
        .iter()
        .map(|&rank| (rank as f64 - mean).powi(2))
        .sum::<f64>()
        / (all - 1.0);
    let variance = variance_of_ranks * n * (all - n) / all;
    if variance <= 0.0 {
        return 1.0;
    }
    // Doubled ranks: the step between two sums is 2, half of it 1.
    let distance = ((observed as f64 - n * mean).abs() - 1.0).max(0.0);
    complementary_error(distance / variance.sqrt() / std::f64::consts::SQRT_2).min(1.0)
}

/// erfc for x ≥ 0: near zero by the power series of erf, further out by the continued fraction, each where it
/// converges fast.
fn complementary_error(x: f64) -> f64 {
    let gauss = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        // erf x = 2/√π · e^(-x²) · (x + 2x³/3 + 4x⁵/15 + …): no term is negative, so nothing cancels.
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        1.0 - 2.0 * gauss * sum
    } else {
        // erfc x = e^(-x²)/√π · 1/(x + ½/(x + 1/(x + 1½/(x + …)))), from the inside out.
        let fraction = (1..=60).rev().fold(x, |inner, n| x + f64::from(n) / 2.0 / inner);
        gauss / fraction
    }
}

/// An interval that holds the ratio of the medians, b's to a's, in 95 of 100 resamplings; `None` if a side is empty
/// or a's median is 0. With fewer than five values a side it is narrower than the truth.
#[must_use]
pub fn ratio_interval(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
    const RESAMPLINGS: usize = 2_000;
    if b.is_empty() || median(a)? == 0.0 {
        return None;
    }
    // The same figures give the same interval, whenever and wherever they are looked at.
    let mut random = SplitMix(0x5eed);
    let (mut of_a, mut of_b) = (a.to_vec(), b.to_vec());
    let mut ratios: Vec<f64> = (0..RESAMPLINGS)
        .filter_map(|_| {
            let denominator = resampled_median(a, &mut of_a, &mut random);
            let numerator = resampled_median(b, &mut of_b, &mut random);
            (denominator != 0.0).then(|| numerator / denominator)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    (!ratios.is_empty()).then(|| (quantile(&ratios, 0.025), quantile(&ratios, 0.975)))
}

fn resampled_median(values: &[f64], scratch: &mut [f64], random: &mut SplitMix) -> f64 {
    for value in scratch.iter_mut() {
        *value = values[random.below(values.len())];
    }
    scratch.sort_by(f64::total_cmp);
    quantile(scratch, 0.5)
}

/// A small generator of random numbers (Steele, Lea and Flood 2014).
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) {
        assert!(
            (left - right).abs() < 1e-6 * right.abs().max(1e-3),
            "{left} is not {right}"
        );
    }

    #[test]
    fn the_middle_and_the_spread() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, 10.0]).expect("values");
        assert_eq!(
            (spread.min, spread.median, spread.max, spread.count),
            (1.0, 2.5, 10.0, 4)
        );
        // numpy.percentile([1, 2, 3, 10], [25, 75])
        assert_eq!((spread.quartile_1, spread.quartile_3), (1.75, 4.75));
        close(spread.relative(), 4.5 / 2.5);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[f64::NAN, 1.0]), Some(1.0));
    }

    #[test]
    fn the_rank_test_counts_exactly() {
        // Complete separation: 2 of C(n1 + n2, n1) arrangements are as extreme.
        close(mann_whitney_p(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 2.0 / 20.0);
        close(
            mann_whitney_p(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]),
            2.0 / 252.0,
        );
        close(smallest_p(5, 5), 2.0 / 252.0);
        close(smallest_p(3, 4), 2.0 / 35.0);
        close(smallest_p(1, 1), 1.0);
        // U = 2 of 4 × 4: 4 of 70 arrangements have U ≤ 2, and as many U ≥ 14.
        close(
            mann_whitney_p(&[1.0, 2.0, 3.0, 6.0], &[4.0, 5.0, 7.0, 8.0]),
            8.0 / 70.0,
        );
        // All equal, or the same values: no evidence at all.
        close(mann_whitney_p(&[5.0; 4], &[5.0; 6]), 1.0);
        close(mann_whitney_p(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 1.0);
        close(mann_whitney_p(&[], &[1.0]), 1.0);
    }

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(doubled_ranks(&[1.0, 2.0], &[2.0, 3.0]), [2, 5, 5, 8]);
        // {0, 0, 0, 0} against {0, 1, 1, 1}: of C(8, 4) = 70, those with all three ones on one side: 2 × C(5, 1).
        close(mann_whitney_p(&[0.0; 4], &[0.0, 1.0, 1.0, 1.0]), 10.0 / 70.0);
    }

    /// Against every arrangement, one by one.
    #[test]
    fn the_count_agrees_with_listing_all_arrangements() {
        let values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0];
        for split in 1..values.len() {
            let (a, b) = values.split_at(split);
            let ranks = doubled_ranks(a, b);
            let expected = split as f64 * (values.len() + 1) as f64;
            let observed = (ranks[..split].iter().sum::<usize>() as f64 - expected).abs();
            let (mut all, mut as_far) = (0, 0);
            for mask in 0_u32..1 << values.len() {
                if mask.count_ones() as usize == split {
                    let sum: usize = (0..values.len())
                        .filter(|bit| mask >> bit & 1 == 1)
                        .map(|bit| ranks[bit])
                        .sum();
                    all += 1;
                    as_far += u32::from((sum as f64 - expected).abs() >= observed - 1e-9);
                }
            }
            close(mann_whitney_p(a, b), f64::from(as_far) / f64::from(all));
        }
    }

    #[test]
    fn many_values_are_approximated_well() {
        let a: Vec<f64> = (0..30).map(|index| f64::from(index * 7 % 31)).collect();
        let b: Vec<f64> = (0..30).map(|index| f64::from(index * 11 % 37) + 4.0).collect();
        let ranks = doubled_ranks(&a, &b);
        let of_a = ranks[..30].iter().sum();
        let (exact, normal) = (exact_p(&ranks, 30, of_a), normal_p(&ranks, 30, of_a));
        assert!((exact - normal).abs() < 0.003, "{exact} {normal}");
        assert!(mann_whitney_p(&[&a[..], &a].concat(), &[&b[..], &b].concat()) < exact);
        // scipy.special.erfc
        close(complementary_error(0.0), 1.0);
        close(complementary_error(1.0), 0.157_299_207_050_285);
        close(complementary_error(1.999_999_9), complementary_error(2.000_000_1));
        assert!((complementary_error(3.0) / 2.209_049_699_858_544e-5 - 1.0).abs() < 1e-10);
    }

    #[test]
    fn the_interval_holds_the_ratio() {
        let a = [100.0, 101.0, 99.0, 102.0, 98.0, 100.0, 101.0];
        let b = a.map(|value| value * 1.5);
        let (low, high) = ratio_interval(&a, &b).expect("an interval");
        assert!(
            low <= 1.5 && 1.5 <= high && low > 1.4 && high < 1.6,
            "{low} {high}"
        );
        assert_eq!(ratio_interval(&a, &b), Some((low, high)), "the same each time");
        assert_eq!(ratio_interval(&[0.0], &[1.0]), None);
        assert_eq!(ratio_interval(&[], &[1.0]), None);
        assert_eq!(ratio_interval(&[2.0], &[1.0]), Some((0.5, 0.5)));
    }
}
