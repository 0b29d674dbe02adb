//! Latency over throughput, where the load was stepped within a run or swept between runs.

use super::facets::{facets, is_load, targets_of};
use super::{FACETS_MAX, Figure, axis_label, ends, style, with_rest};
use crate::metric::{Metric, Unit};
use crate::record::{PhaseRecord, Point, Repeats};
use crate::report::plot::{LinePlot, LinePoint, Scale, Series};
use crate::statistics::Spread;
use crate::units;

/// Latency over throughput: from the steps of each run, or from points that differ in their load alone.
pub(super) fn loads(points: &[&Point<'_>], order: &[&str]) -> Vec<Figure> {
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
