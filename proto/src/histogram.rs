//! A histogram of fixed buckets: what a worker's latency page holds, `/metrics` tells and the load generator reports.
//!
//! Log-linear, as HdrHistogram: values below 8 have a bucket each, and every doubling above is cut into 8 equal
//! parts. So a quantile is read with an error of at most an eighth, from 1 to 2^24 (microseconds: 17 seconds), in 176
//! words. Recording is a shift and an addition; nothing allocates.

/// Parts of a doubling, as a power of two.
const PART_BITS: u32 = 3;

/// Values of this many bits are told apart; larger ones count as the largest.
const VALUE_BITS: u32 = 24;

/// How many buckets there are.
pub const BUCKETS: usize = ((VALUE_BITS - PART_BITS + 1) << PART_BITS) as usize;

/// What both planes must agree on about the latency page.
pub(crate) const LAYOUT: &str = "Latency{sum,counts[176],parts of a doubling 8}";
const _: () = assert!(BUCKETS == 176 && PART_BITS == 3, "LAYOUT says so");

/// The bucket of a value.
pub const fn bucket_of(value: u64) -> usize {
    if value < 1 << PART_BITS {
        return value as usize;
    }
    if value >= 1 << VALUE_BITS {
        return BUCKETS - 1;
    }
    let shift = value.ilog2() - PART_BITS;
    ((shift as usize) << PART_BITS) + (value >> shift) as usize
}

/// The largest value of a bucket.
pub const fn last_of(bucket: usize) -> u64 {
    if bucket < 1 << PART_BITS {
        return bucket as u64;
    }
    let shift = (bucket >> PART_BITS) - 1;
    let part = (bucket - (shift << PART_BITS)) as u64;
    ((part + 1) << shift) - 1
}

/// Counts by bucket, and the sum of the values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    /// How often a value of each bucket was recorded.
    pub counts: [u64; BUCKETS],
    /// All recorded values together.
    pub sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS], sum: 0 }
    }
}

impl Histogram {
    /// Records a value that occurred `times` times, and returns its bucket.
    pub fn record(&mut self, value: u64, times: u64) -> usize {
        let bucket = bucket_of(value);
        self.counts[bucket] += times;
        self.sum += value * times;
        bucket
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        sum(&self.counts)
    }

    /// How many of them are at most the largest value of the bucket of `value`.
    pub fn count_to(&self, value: u64) -> u64 {
        sum(&self.counts[..=bucket_of(value)])
    }

    /// The value that this share of all values does not exceed: the largest of its bucket. `None` if nothing was recorded.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let is_reached = |&n: &u64| {
            below = u64::saturating_add(below, n);
            below >= rank
        };
        self.counts.iter().position(is_reached).map(last_of)
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.sum += other.sum;
    }

    /// What was recorded since `earlier`, which is an earlier state of the same histogram.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut counts = self.counts;
        counts.iter_mut().zip(&earlier.counts).for_each(|(now, then)| *now = now.saturating_sub(*then));
        Histogram { counts, sum: self.sum.saturating_sub(earlier.sum) }
    }
}

/// Saturating, for the counts may be another process's.
fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 1..BUCKETS {
            let (before, last) = (last_of(bucket - 1), last_of(bucket));
            assert!(last > before);
            assert_eq!((bucket_of(before + 1), bucket_of(last)), (bucket, bucket));
            assert!(last - before <= (before + 1) / 8 + 1, "an eighth of the value at most");
        }
        assert_eq!(last_of(BUCKETS - 1), (1 << VALUE_BITS) - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_one_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn counts_that_cannot_be_are_no_panic() {
        let histogram = Histogram { counts: [u64::MAX; BUCKETS], sum: u64::MAX };
        assert_eq!((histogram.count(), histogram.count_to(9)), (u64::MAX, u64::MAX));
        assert_eq!(histogram.quantile(1.0), Some(0));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_an_eighth_of_the_exact_ones(
            mut values in prop::collection::vec((0u32..24, any::<u32>()).prop_map(|(bits, value)| {
                u64::from(value) & ((1 << bits) - 1)
            }), 1..500),
            share in 0.0..=1.0f64,
        ) {
            let mut histogram = Histogram::default();
            for &value in &values {
                histogram.record(value, 1);
            }
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let read = histogram.quantile(share).unwrap();
            prop_assert!(exact <= read && read <= exact + exact / 8, "{exact} read as {read}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum, values.iter().sum::<u64>());
        }

        #[test]
        fn parts_add_up(first in prop::collection::vec(any::<u32>(), 0..50), second in prop::collection::vec(any::<u32>(), 0..50)) {
            let of = |values: &[u32]| {
                let mut histogram = Histogram::default();
                for &value in values {
                    histogram.record(value.into(), 1);
                }
                histogram
            };
            let mut all = of(&first);
            all.add(&of(&second));
            prop_assert_eq!(all.since(&of(&first)), of(&second));
        }
    }
}
