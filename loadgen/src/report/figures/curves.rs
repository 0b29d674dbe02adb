//! Latency by percentile, one plot a point.

use super::{Figure, axis_label, style};
use crate::metric::Unit;
use crate::record::{Point, Repeats};
use crate::report::curve::Curve;
use crate::report::plot::{LinePlot, LinePoint, Scale, Series};
use crate::units;

/// Latency by percentile at one point.
pub(super) fn curves(point: &Point<'_>, order: &[&str]) -> Option<Figure> {
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
