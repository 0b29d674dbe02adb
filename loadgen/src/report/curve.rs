//! Percentile curves from the histograms that records carry.

use std::collections::BTreeMap;

use crate::record::Repeats;

/// Points nearer than this on the axis (in decades of 1 / (1 − quantile)) are one.
const STEP_DECADES: f64 = 0.01;

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurvePoint {
    /// 1 / (1 − quantile): 10 at p90, 100 at p99.
    pub(super) rarity: f64,
    /// That part of all latencies was not above it, ns.
    pub(super) latency_ns: f64,
}

/// The distribution of all repeats together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    /// Rising in both; not empty.
    pub(super) points: Vec<CurvePoint>,
}

impl Curve {
    /// `None` if nothing was measured.
    pub(super) fn of(repeats: &Repeats<'_>) -> Option<Curve> {
        let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
        for latency in repeats
            .records
            .iter()
            .filter_map(|record| record.overall.latency.as_ref())
        {
            for (upper_ns, count) in &latency.buckets_ns {
                *buckets.entry(*upper_ns).or_default() += count;
            }
        }
        let total: u64 = buckets.values().sum();
        (total > 0).then_some(())?;

        let mut points: Vec<CurvePoint> = Vec::new();
        let mut below = 0;
        for (upper_ns, count) in buckets {
            if points.is_empty() {
                points.push(CurvePoint {
                    rarity: 1.0,
                    latency_ns: upper_ns as f64,
                });
            }
            below += count;
            // Behind the last value nothing is rarer than one of all.
            let rarity = total as f64 / (total - below).max(1) as f64;
            let point = CurvePoint {
                rarity,
                latency_ns: upper_ns as f64,
            };
            let is_near = |last: &CurvePoint| (rarity / last.rarity).log10() < STEP_DECADES;
            // What comes near at the same rarity still rises: the curve goes up to the largest value.
            if points.len() > 1 && points.last().is_some_and(is_near) && below < total {
                continue;
            }
            points.push(point);
        }
        Some(Curve { points })
    }

    /// The latency at a rarity; `None` beyond the last value.
    pub(super) fn at(&self, rarity: f64) -> Option<f64> {
        self.points
            .iter()
            .find(|point| point.rarity >= rarity)
            .map(|point| point.latency_ns)
    }

    /// The last point.
    pub(super) fn end(&self) -> CurvePoint {
        self.points[self.points.len() - 1]
    }
}
