//! Which plots a scenario is shown by.
//!
//! - bars: server CPU per message, delivered a second, p99, and the workload's own figures, target beside target;
//! - curves: latency by percentile, one plot a point;
//! - load: latency over throughput, where the load was stepped or swept;
//! - scaling: the same figures over whatever else was swept (subscribers, connections, bytes).

use std::collections::BTreeMap;

use serde_json::Value;

use super::curve::Curve;
use super::plot::{Bar, BarGroup, BarPlot, LinePlot, LinePoint, Scale, Series};
use crate::metric::{Metric, Unit};
use crate::record::{PhaseRecord, Point, Repeats, short_field, value_text};
use crate::statistics::Spread;
use crate::units;

/// Scenarios with more points show no bars, and curves only of so many: the table has them all.
const POINTS_MAX: usize = 12;
/// A workload's own figures that get bars.
const EXTRAS_MAX: usize = 6;
/// Plots of one kind that differ in what else was swept.
const FACETS_MAX: usize = 6;
/// From this ratio of largest to smallest on, a swept field is shown by factors.
const LOG_SWEEP_FROM: f64 = 8.0;

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
        if is_drawable && extras.iter().all(|known| known.name != extra.name) {
            extras.push(extra);
        }
    }
    extras.truncate(EXTRAS_MAX);
    metrics.extend(extras);
    metrics
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

/// Latency by percentile at one point.
fn curves(point: &Point<'_>, order: &[&str]) -> Option<Figure> {
    let curves: Vec<(&Repeats<'_>, Curve)> = point
        .targets
        .iter()
        .filter_map(|repeats| Some((repeats, Curve::of(repeats)?)))
        .collect();
    let rarest = curves
        .iter()
        .map(|(_, curve)| curve.end().rarity)
        .reduce(f64::max)?;
    let x = Scale::percentile(rarest);
    let shown_to = x.ticks().last().map_or(rarest, |tick| tick.value);
    let latencies: Vec<f64> = curves
        .iter()
        .flat_map(|(_, curve)| curve.points.iter().map(|point| point.latency_ns))
        .collect();
    let series = curves
        .iter()
        .map(|(repeats, curve)| Series {
            name: repeats.target.to_owned(),
            style: style(order, repeats.target),
            points: curve_points(repeats.target, curve, shown_to),
        })
        .collect();
    let y = Scale::fitting(&latencies, Unit::Time);
    let title = match point.label() {
        label if label.is_empty() => "Latency by percentile".to_owned(),
        label => format!("Latency by percentile, {label}"),
    };
    let plot = LinePlot {
        label: format!("{}: {title}", point.scenario),
        x,
        x_label: "percentile: each step has a tenth of the messages beyond it".to_owned(),
        y_label: axis_label("latency", &y),
        y,
        series,
    };
    Some(Figure {
        title,
        note: "From the moment a message was due to its arrival; all repeats together.".to_owned(),
        svg: plot.draw(),
    })
}

/// The line, with a mark and a figure at each percentile that has a name, and at the largest value.
fn curve_points(target: &str, curve: &Curve, shown_to: f64) -> Vec<LinePoint> {
    const NAMED: [(f64, &str); 6] = [
        (2.0, "p50"),
        (10.0, "p90"),
        (100.0, "p99"),
        (1_000.0, "p99.9"),
        (10_000.0, "p99.99"),
        (100_000.0, "p99.999"),
    ];
    let end = curve.end();
    let plain = |x: f64, y: f64| LinePoint {
        x,
        y,
        range: None,
        tip: None,
    };
    let mut points: Vec<LinePoint> = curve
        .points
        .iter()
        .filter(|point| point.rarity <= shown_to)
        .map(|point| plain(point.rarity, point.latency_ns))
        .collect();
    for (rarity, name) in NAMED {
        if rarity >= end.rarity {
            break;
        }
        if let Some(latency_ns) = curve.at(rarity) {
            let tip = format!("{target}: {name} {}", units::time(latency_ns));
            points.push(LinePoint {
                tip: Some(tip),
                ..plain(rarity, latency_ns)
            });
        }
    }
    let tip = format!("{target}: max {}", units::time(end.latency_ns));
    points.push(LinePoint {
        tip: Some(tip),
        ..plain(end.rarity.min(shown_to), end.latency_ns)
    });
    points.sort_by(|left, right| left.x.total_cmp(&right.x).then(left.y.total_cmp(&right.y)));
    points
}

/// Latency over throughput: from the steps of each run, or from points that differ in their load alone.
fn loads(points: &[&Point<'_>], order: &[&str]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let stepped = points.iter().filter(|point| {
        point
            .targets
            .iter()
            .any(|repeats| repeats.records.iter().any(|record| record.steps.len() > 1))
    });
    for point in stepped.take(FACETS_MAX) {
        let lines: Vec<Load<'_>> = point
            .targets
            .iter()
            .map(|repeats| Load {
                target: repeats.target.to_owned(),
                phases: phases_of_steps(repeats),
            })
            .collect();
        figures.extend(load(point.scenario, &point.label(), &lines, order));
    }
    for (rest, facet) in facets(points, is_load).into_iter().take(FACETS_MAX) {
        let lines: Vec<Load<'_>> = targets_of(&facet, order)
            .into_iter()
            .map(|target| Load {
                target: target.to_owned(),
                phases: facet
                    .iter()
                    .filter_map(|(_, point)| point.target(target))
                    .map(|repeats| repeats.records.iter().map(|record| &record.overall).collect())
                    .collect(),
            })
            .collect();
        let scenario = facet.first().map_or("", |(_, point)| point.scenario);
        figures.extend(load(scenario, &rest, &lines, order));
    }
    figures
}

/// What a target did under several loads; under each, its repeats.
struct Load<'a> {
    target: String,
    phases: Vec<Vec<&'a PhaseRecord>>,
}

fn phases_of_steps<'a>(repeats: &Repeats<'a>) -> Vec<Vec<&'a PhaseRecord>> {
    let steps = repeats
        .records
        .iter()
        .map(|record| record.steps.len())
        .max()
        .unwrap_or(0);
    (0..steps)
        .map(|step| {
            repeats
                .records
                .iter()
                .filter_map(|record| record.steps.get(step))
                .collect()
        })
        .collect()
}

fn load(scenario: &str, rest: &str, lines: &[Load<'_>], order: &[&str]) -> Vec<Figure> {
    let drawn = |(name, heading): (&str, &str)| {
        let metric = Metric::named(name)?;
        let middle = |phases: &[&PhaseRecord]| {
            let rates: Vec<f64> = phases.iter().map(|phase| phase.delivered_per_s).collect();
            let latencies: Vec<f64> = phases.iter().filter_map(|phase| metric.of_phase(phase)).collect();
            Some((Spread::of(&rates)?.median, Spread::of(&latencies)?))
        };
        let series: Vec<Series> = lines
            .iter()
            .map(|line| {
                let mut points: Vec<LinePoint> = line
                    .phases
                    .iter()
                    .filter_map(|phases| middle(phases))
                    .map(|(rate, latency)| LinePoint {
                        x: rate,
                        y: latency.median,
                        range: Some((latency.min, latency.max)),
                        tip: Some(format!(
                            "{}: {} at {}",
                            line.target,
                            units::time(latency.median),
                            units::per_second(rate)
                        )),
                    })
                    .collect();
                // In the order of the load: where a server gives way, its line turns back.
                points.dedup();
                Series {
                    name: line.target.clone(),
                    style: style(order, &line.target),
                    points,
                }
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        let rates: Vec<f64> = series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.x))
            .collect();
        // One load is no line.
        (series.iter().any(|series| series.points.len() > 1)).then_some(())?;
        let y = Scale::fitting(&ends(&series), Unit::Time);
        let title = with_rest(&format!("{heading} over throughput"), rest);
        let plot = LinePlot {
            label: format!("{scenario}: {title}"),
            x: Scale::fitting(&rates, Unit::PerSecond),
            x_label: "delivered a second".to_owned(),
            y_label: axis_label(heading, &y),
            y,
            series,
        };
        Some(Figure {
            title,
            note: "From load to load: a line that turns back shows a server that delivers less the more it is asked."
                .to_owned(),
            svg: plot.draw(),
        })
    };
    [("p50", "p50 latency"), ("p99", "p99 latency")]
        .into_iter()
        .filter_map(drawn)
        .collect()
}

/// Figures over each field that was swept and is no load.
fn scalings(points: &[&Point<'_>], order: &[&str]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for metric in bar_metrics(points) {
        for (rest, facet) in facets(points, |field| !is_load(field))
            .into_iter()
            .take(FACETS_MAX)
        {
            figures.extend(scaling(&metric, &rest, &facet, order));
        }
    }
    figures
}

fn scaling(metric: &Metric, rest: &str, facet: &[(Swept<'_>, &Point<'_>)], order: &[&str]) -> Option<Figure> {
    let (Swept { field, .. }, first) = facet.first()?;
    let series: Vec<Series> = targets_of(facet, order)
        .into_iter()
        .map(|target| {
            let points = facet.iter().filter_map(|(swept, point)| {
                let spread = point.target(target)?.spread(metric)?;
                Some(LinePoint {
                    x: swept.value,
                    y: spread.median,
                    range: Some((spread.min, spread.max)),
                    tip: Some(format!(
                        "{target}: {} at {}={}",
                        units::figure(metric.unit, spread.median),
                        short_field(swept.field),
                        units::plain(swept.value)
                    )),
                })
            });
            Series {
                name: target.to_owned(),
                style: style(order, target),
                points: points.collect(),
            }
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let has_line = series.iter().any(|series| series.points.len() > 1);
    let is_something = series
        .iter()
        .flat_map(|series| &series.points)
        .any(|point| point.y > 0.0);
    (has_line && is_something).then_some(())?;

    let values: Vec<f64> = facet.iter().map(|(swept, _)| swept.value).collect();
    let (smallest, largest) = (
        values.iter().copied().fold(f64::MAX, f64::min),
        values.iter().copied().fold(0.0, f64::max),
    );
    let x = if smallest > 0.0 && largest >= smallest * LOG_SWEEP_FROM {
        Scale::log(smallest, largest, Unit::Plain)
    } else {
        Scale::linear(largest, Unit::Plain)
    };
    let y = Scale::fitting(&ends(&series), metric.unit);
    let title = with_rest(&format!("{} by {}", heading(metric), words(field)), rest);
    let plot = LinePlot {
        label: format!("{}: {title}", first.scenario),
        x_label: axis_label(&words(field), &x),
        x,
        y_label: axis_label(&metric.heading, &y),
        y,
        series,
    };
    Some(Figure {
        title,
        note: "Medians, with a line from the smallest to the largest.".to_owned(),
        svg: plot.draw(),
    })
}

/// What a sweep chose at a point, of one field.
#[derive(Debug, Clone, Copy)]
struct Swept<'a> {
    field: &'a str,
    value: f64,
}

/// Points that differ in one numeric field alone, rising in it, for each such field and for each choice of the others
/// (in words).
fn facets<'p, 'a>(
    points: &[&'p Point<'a>],
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<(String, Vec<(Swept<'a>, &'p Point<'a>)>)> {
    let mut fields: Vec<&str> = Vec::new();
    for field in points.iter().flat_map(|point| point.choices.keys()) {
        if is_wanted(field) && !fields.contains(&field.as_str()) {
            fields.push(field);
        }
    }
    let mut all = Vec::new();
    for field in fields {
        let mut of_field: BTreeMap<String, Vec<(Swept<'a>, &'p Point<'a>)>> = BTreeMap::new();
        for point in points {
            if let Some((key, value)) = point.choices.get_key_value(field)
                && let Some(value) = value.as_f64()
            {
                let swept = Swept { field: key, value };
                of_field
                    .entry(rest(point.choices, field))
                    .or_default()
                    .push((swept, point));
            }
        }
        for (rest, mut facet) in of_field {
            facet.sort_by(|(left, _), (right, _)| left.value.total_cmp(&right.value));
            if facet.len() > 1 {
                all.push((rest, facet));
            }
        }
    }
    all
}

/// The choices but for that field, in words.
fn rest(choices: &BTreeMap<String, Value>, but_for: &str) -> String {
    let rest: Vec<String> = choices
        .iter()
        .filter(|(field, _)| *field != but_for)
        .map(|(field, value)| format!("{}={}", short_field(field), value_text(value)))
        .collect();
    rest.join(" ")
}

/// Whether a field says how much is asked of the server, and not how it is spread.
fn is_load(field: &str) -> bool {
    field.starts_with("arrivals.") || short_field(field) == "in_flight"
}

fn targets_of<'a>(facet: &[(Swept<'_>, &Point<'a>)], order: &[&str]) -> Vec<&'a str> {
    let mut targets: Vec<&str> = Vec::new();
    for repeats in facet.iter().flat_map(|(_, point)| &point.targets) {
        if !targets.contains(&repeats.target) {
            targets.push(repeats.target);
        }
    }
    targets.sort_by_key(|target| style(order, target));
    targets
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

fn words(field: &str) -> String {
    short_field(field).replace('_', " ")
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
