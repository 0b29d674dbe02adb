//! Axes: where a value stands between 0 and 1, and where the lines of the grid.

use crate::metric::Unit;
use crate::units;

/// From this ratio of largest to smallest on, a linear axis would press the small ones flat.
const LOG_FROM: f64 = 25.0;

/// A line of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Where.
    pub value: f64,
    /// What is written beside it; empty for lines in between.
    pub label: String,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    min: f64,
    max: f64,
    is_log: bool,
    ticks: Vec<Tick>,
}

impl Scale {
    /// For these values, from 0 where that shows them well, otherwise logarithmic.
    #[must_use]
    pub fn fitting(values: &[f64], unit: Unit) -> Scale {
        let positive = || {
            values
                .iter()
                .copied()
                .filter(|value| value.is_finite() && *value > 0.0)
        };
        let (smallest, largest) = (
            positive().fold(f64::MAX, f64::min),
            positive().fold(0.0, f64::max),
        );
        if largest > smallest * LOG_FROM {
            Scale::log(smallest, largest, unit)
        } else {
            Scale::linear(largest, unit)
        }
    }

    /// From 0 to a round number at or above `largest`.
    #[must_use]
    pub fn linear(largest: f64, unit: Unit) -> Scale {
        let largest = if largest.is_finite() && largest > 0.0 {
            largest
        } else {
            1.0
        };
        let step = round_step(largest, unit);
        let steps = (largest / step - 1e-9).ceil().max(1.0) as u32;
        let ticks = (0..=steps)
            .map(|index| f64::from(index) * step)
            .map(|value| Tick {
                value,
                label: units::tick(unit, value),
            })
            .collect();
        Scale {
            min: 0.0,
            max: f64::from(steps) * step,
            is_log: false,
            ticks,
        }
    }

    /// Each ten times the one before. Both ends are widened to a line of the grid.
    #[must_use]
    pub fn log(smallest: f64, largest: f64, unit: Unit) -> Scale {
        let (low, high) = (decade_below(smallest), decade_below(largest));
        let is_wide = high - low >= 3;
        let mut ticks = Vec::new();
        for decade in low..=high + 1 {
            for digit in 1..10 {
                let value = 10_f64.powi(decade) * f64::from(digit);
                let has_label = digit == 1 || (!is_wide && matches!(digit, 2 | 5));
                let label = if has_label {
                    units::tick(unit, value)
                } else {
                    String::new()
                };
                ticks.push(Tick { value, label });
            }
        }
        // The last line at or below the smallest value, and the first at or above the largest, of 1, 2, 5.
        let is_end = |tick: &&Tick| matches!(leading_digit(tick.value), 1 | 2 | 5);
        let min = ticks
            .iter()
            .filter(is_end)
            .rfind(|tick| tick.value <= smallest * (1.0 + 1e-9));
        let max = ticks
            .iter()
            .filter(is_end)
            .find(|tick| tick.value >= largest * (1.0 - 1e-9));
        let min = min.map_or(10_f64.powi(low), |tick| tick.value);
        let max = max.map_or(10_f64.powi(high + 1), |tick| tick.value);
        let max = if max > min { max } else { min * 10.0 };
        ticks.retain(|tick| tick.value >= min * (1.0 - 1e-9) && tick.value <= max * (1.0 + 1e-9));
        Scale {
            min,
            max,
            is_log: true,
            ticks,
        }
    }

    /// The axis of HDR histograms: each step to the right has a tenth of the values beyond it. Values are
    /// 1 / (1 − quantile).
    #[must_use]
    pub fn percentile(largest: f64) -> Scale {
        const LABELS: [&str; 7] = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"];
        let decades = (largest.max(10.0).log10() - 1e-9).ceil().clamp(1.0, 6.0) as usize;
        let mut ticks: Vec<Tick> = LABELS[..=decades]
            .iter()
            .enumerate()
            .map(|(decade, label)| Tick {
                value: 10_f64.powi(decade as i32),
                label: (*label).to_owned(),
            })
            .collect();
        ticks.insert(
            1,
            Tick {
                value: 2.0,
                label: "50%".to_owned(),
            },
        );
        Scale {
            min: 1.0,
            max: 10_f64.powi(decades as i32),
            is_log: true,
            ticks,
        }
    }

    /// Where the value stands: 0 at the beginning of the axis, 1 at its end. Beyond it, at its end.
    #[must_use]
    pub fn position(&self, value: f64) -> f64 {
        let position = if self.is_log {
            (value.max(f64::MIN_POSITIVE) / self.min).ln() / (self.max / self.min).ln()
        } else {
            (value - self.min) / (self.max - self.min)
        };
        if position.is_nan() {
            0.0
        } else {
            position.clamp(0.0, 1.0)
        }
    }

    /// Whether equal distances mean equal factors.
    #[must_use]
    pub fn is_log(&self) -> bool {
        self.is_log
    }

    /// The lines of the grid, in order.
    #[must_use]
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }
}

/// The step that cuts the axis into 4 to 8 parts; round in the unit in which it is read.
fn round_step(largest: f64, unit: Unit) -> f64 {
    let base = match unit {
        Unit::Bytes => 1024_f64.powf(largest.log(1024.0).floor().clamp(0.0, 3.0)),
        _ => 1.0,
    };
    let rough = largest / base / 5.0;
    let decade = 10_f64.powf(rough.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|digit| rough <= digit * decade * (1.0 + 1e-9));
    let step = digit.unwrap_or(10.0) * decade * base;
    if unit == Unit::Count { step.max(1.0) } else { step }
}

fn decade_below(value: f64) -> i32 {
    (value.log10() + 1e-9).floor().clamp(-300.0, 300.0) as i32
}

fn leading_digit(value: f64) -> u32 {
    (value / 10_f64.powi(decade_below(value))).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale
            .ticks()
            .iter()
            .map(|tick| tick.label.as_str())
            .filter(|label| !label.is_empty())
            .collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_end_round() {
        let scale = Scale::fitting(&[340.0, 910.0], Unit::Time);
        assert!(!scale.is_log());
        assert_eq!(
            labels(&scale),
            ["0 ns", "200 ns", "400 ns", "600 ns", "800 ns", "1 µs"]
        );
        assert_eq!(
            (
                scale.position(0.0),
                scale.position(500.0),
                scale.position(1_000.0)
            ),
            (0.0, 0.5, 1.0)
        );
        let memory = Scale::linear(9.5 * 1024.0 * 1024.0, Unit::Bytes);
        assert_eq!(
            labels(&memory),
            ["0 B", "2 MiB", "4 MiB", "6 MiB", "8 MiB", "10 MiB"]
        );
        assert_eq!(labels(&Scale::linear(2.0, Unit::Count)), ["0", "1", "2"]);
    }

    #[test]
    fn wide_ranges_are_logarithmic() {
        let scale = Scale::fitting(&[38.0, 342.0, 12_300.0], Unit::Time);
        assert!(scale.is_log());
        assert_eq!(labels(&scale), ["100 ns", "1 µs", "10 µs"]);
        assert_eq!((scale.position(20.0), scale.position(20_000.0)), (0.0, 1.0));
        assert!((scale.position(632.455_532) - 0.5).abs() < 1e-6);
        assert_eq!(scale.position(0.0), 0.0, "nothing stands at the beginning");
        let narrow = Scale::log(30.0, 900.0, Unit::Time);
        assert_eq!(
            labels(&narrow),
            ["20 ns", "50 ns", "100 ns", "200 ns", "500 ns", "1 µs"]
        );
    }

    #[test]
    fn percentiles_have_a_step_for_each_nine() {
        let scale = Scale::percentile(50_000.0);
        assert_eq!(
            labels(&scale),
            ["0%", "50%", "90%", "99%", "99.9%", "99.99%", "99.999%"]
        );
        assert!((scale.position(100.0) - 0.4).abs() < 1e-9);
        assert_eq!(labels(&Scale::percentile(1.0)), ["0%", "50%", "90%"]);
    }

    #[test]
    fn nothing_breaks_an_axis() {
        for values in [&[][..], &[0.0], &[f64::NAN], &[f64::INFINITY], &[1e-300], &[-5.0]] {
            let scale = Scale::fitting(values, Unit::Plain);
            assert!(scale.ticks().len() >= 2, "{values:?}");
            for value in [0.0, 1.0, f64::NAN, f64::INFINITY, -1.0] {
                assert!((0.0..=1.0).contains(&scale.position(value)), "{values:?} {value}");
            }
        }
        let one = Scale::log(10.0, 10.0, Unit::Plain);
        assert!((0.0..=1.0).contains(&one.position(10.0)));
    }
}
