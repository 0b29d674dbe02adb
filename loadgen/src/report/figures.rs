//! Which plots a scenario is shown by.
//!
//! - bars: server CPU per message, delivered a second, p99, and the workload's own figures, target beside target;
//! - curves: latency by percentile, one plot a point;
//! - load: latency over throughput, where the load was stepped or swept;
//! - scaling: the same figures over whatever else was swept (subscribers, connections, bytes).

use super::plot::{Bar, BarGroup, BarPlot, Scale, Series};
use crate::metric::{Better, Metric, Unit};
use crate::record::Point;

mod curves;
mod facets;
mod loads;
mod scalings;

use curves::curves;
use loads::loads;
use scalings::scalings;

/// Scenarios with more points show no bars, and curves only of so many: the table has them all.
const POINTS_MAX: usize = 12;
/// A workload's own figures that get bars.
const EXTRAS_MAX: usize = 6;
/// Plots of one kind that differ in what else was swept.
const FACETS_MAX: usize = 6;

/// A plot with what is written above and below.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// What it shows.
    pub(super) title: String,
    /// How it is to be read; may be empty.
    pub(super) note: String,
    /// The plot.
    pub(super) svg: String,
}

/// All figures of the points of one scenario. `order` gives each target its colour, the same on the whole page.
pub(super) fn figures(points: &[&Point<'_>], order: &[&str]) -> Vec<Figure> {
    let mut figures = Vec::new();
    if points.len() <= POINTS_MAX {
        figures.extend(
            bar_metrics(points)
                .iter()
                .filter_map(|metric| bars(points, metric, order)),
        );
    }
    figures.extend(
        points
            .iter()
            .take(POINTS_MAX)
            .filter_map(|point| curves(point, order)),
    );
    figures.extend(loads(points, order));
    figures.extend(scalings(points, order));
    figures
}

fn style(order: &[&str], target: &str) -> usize {
    order.iter().position(|name| *name == target).unwrap_or(0)
}

fn named(name: &str) -> Option<Metric> {
    Metric::named(name).cloned()
}

/// The figures that are looked at first, for bars and for scaling.
fn bar_metrics(points: &[&Point<'_>]) -> Vec<Metric> {
    let is_open_loop = points.iter().any(|point| point.is_open_loop());
    let mut metrics: Vec<Metric> = Vec::new();
    metrics.extend(named("server_ns_per_message"));
    metrics.extend(named(if is_open_loop { "p50" } else { "delivered_per_s" }));
    metrics.extend(named("p99"));
    if is_open_loop {
        metrics.extend(named("p99_9"));
    }
    let mut extras: Vec<Metric> = Vec::new();
    for extra in points.iter().flat_map(|point| point.extras()) {
        let is_drawable = matches!(extra.unit, Unit::Time | Unit::Bytes | Unit::PerSecond);
        if is_drawable && differs(points, &extra) && extras.iter().all(|known| known.name != extra.name) {
            extras.push(extra);
        }
    }
    extras.truncate(EXTRAS_MAX);
    metrics.extend(extras);
    metrics
}

/// Whether runs differ in a figure: what is the same everywhere (the size of what was sent) makes no plot. With one
/// target at one point it is worth one all the same.
fn differs(points: &[&Point<'_>], metric: &Metric) -> bool {
    let repeats = || points.iter().flat_map(|point| &point.targets);
    let values: Vec<f64> = repeats().flat_map(|repeats| repeats.values(metric)).collect();
    metric.better != Better::Neither
        && (repeats().count() < 2 || values.iter().any(|value| *value != values[0]))
}

/// `None` if no target has that figure, or it is nothing everywhere.
fn bars(points: &[&Point<'_>], metric: &Metric, order: &[&str]) -> Option<Figure> {
    let groups: Vec<BarGroup> = points
        .iter()
        .filter_map(|point| {
            let bars: Vec<Bar> = point
                .targets
                .iter()
                .filter_map(|repeats| {
                    Some(Bar {
                        name: repeats.target.to_owned(),
                        style: style(order, repeats.target),
                        spread: repeats.spread(metric)?,
                        has_warning: !repeats.warnings().is_empty(),
                    })
                })
                .collect();
            (!bars.is_empty()).then(|| BarGroup {
                title: point.label(),
                bars,
            })
        })
        .collect();
    let is_something = groups
        .iter()
        .flat_map(|group| &group.bars)
        .any(|bar| bar.spread.max > 0.0);
    is_something.then_some(())?;

    let title = heading(metric);
    let scenario = points.first().map_or("", |point| point.scenario);
    let plot = BarPlot {
        label: format!("{scenario}: {title}, by target"),
        unit: metric.unit,
        groups,
    };
    let scale = if plot.is_log() {
        "Logarithmic: equal distances are equal factors, and the length of a bar is no measure. "
    } else {
        ""
    };
    Some(Figure {
        title,
        note: format!("{scale}Median of the repeats; the thin line goes from the smallest to the largest."),
        svg: plot.draw(),
    })
}

/// What the vertical axis has to hold.
fn ends(series: &[Series]) -> Vec<f64> {
    series
        .iter()
        .flat_map(|series| &series.points)
        .flat_map(|point| {
            let (low, high) = point.range.unwrap_or((point.y, point.y));
            [low, point.y, high]
        })
        .collect()
}

fn axis_label(label: &str, scale: &Scale) -> String {
    if scale.is_log() {
        format!("{label} (logarithmic)")
    } else {
        label.to_owned()
    }
}

fn with_rest(title: &str, rest: &str) -> String {
    if rest.is_empty() {
        title.to_owned()
    } else {
        format!("{title}, {rest}")
    }
}

/// What a plot of a metric is headed with: `Server CPU per message`, `p99 latency`.
fn heading(metric: &Metric) -> String {
    let is_percentile = |name: &str| {
        name.strip_prefix('p')
            .is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))
    };
    if is_percentile(&metric.name) {
        return format!("{} latency", metric.heading);
    }
    let mut chars = metric.heading.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}
