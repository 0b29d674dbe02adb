//! Figures over what was swept and is no load: subscribers, connections, bytes.

use super::facets::{Swept, facets, is_load, targets_of};
use super::{FACETS_MAX, Figure, axis_label, bar_metrics, ends, heading, style, with_rest};
use crate::metric::{Metric, Unit};
use crate::record::{Point, short_field};
use crate::report::plot::{LinePlot, LinePoint, Scale, Series};
use crate::units;

/// From this ratio of largest to smallest on, a swept field is shown by factors.
const LOG_SWEEP_FROM: f64 = 8.0;

/// Figures over each field that was swept and is no load.
pub(super) fn scalings(points: &[&Point<'_>], order: &[&str]) -> Vec<Figure> {
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

fn words(field: &str) -> String {
    short_field(field).replace('_', " ")
}
