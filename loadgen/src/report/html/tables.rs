//! The tables under a scenario's figures: every figure with its spread, and the steps one by one.

use super::super::leader;
use super::super::plot::escaped;
use super::swatch;
use crate::metric::Metric;
use crate::record::{PhaseRecord, Point, Repeats};
use crate::report::metrics_of;
use crate::statistics::Spread;
use crate::units;

/// Columns that every workload has; those without a figure are left out.
const COLUMNS: [&str; 11] = [
    "server_ns_per_message",
    "delivered_per_s",
    "p50",
    "p99",
    "p99_9",
    "p99_99",
    "max",
    "stall",
    "server_busy",
    "rss_max",
    "generator_busy",
];

/// Columns of a step.
const STEP_COLUMNS: [&str; 5] = ["delivered_per_s", "p50", "p99", "p99_9", "max"];

/// A row for each point and target.
pub(super) fn runs(points: &[&Point<'_>], order: &[&str]) -> String {
    let mut metrics = metrics_of(&COLUMNS, points);
    metrics.retain(|metric| {
        let spreads = points
            .iter()
            .flat_map(|point| &point.targets)
            .filter_map(|repeats| repeats.spread(metric));
        // Stalls are measured by some workloads only.
        spreads
            .into_iter()
            .any(|spread| metric.name != "stall" || spread.max > 0.0)
    });
    let has_points = points.iter().any(|point| !point.label().is_empty());
    let has_faults = points
        .iter()
        .flat_map(|point| &point.targets)
        .any(|repeats| !repeats.faults().is_empty());

    let mut html = String::from(
        "<div class=\"scroll\">\n<table>\n<caption>Medians; below them the smallest and the largest.</caption>\n\
         <thead><tr>",
    );
    if has_points {
        html.push_str("<th class=\"word\">at</th>");
    }
    html.push_str("<th class=\"word\">target</th><th>runs</th>");
    for metric in &metrics {
        html.push_str(&format!("<th>{}</th>", escaped(&metric.heading)));
    }
    if has_faults {
        html.push_str("<th class=\"word\">not as it should be</th>");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for point in points {
        for (index, repeats) in point.targets.iter().enumerate() {
            html.push_str(if index == 0 {
                "<tr class=\"first\">"
            } else {
                "<tr>"
            });
            if has_points && index == 0 {
                let rows = point.targets.len();
                html.push_str(&format!(
                    "<th rowspan=\"{rows}\">{}</th>",
                    escaped(&point.label())
                ));
            }
            html.push_str(&target_cells(repeats, order));
            for metric in &metrics {
                let spreads: Vec<Option<Spread>> = point
                    .targets
                    .iter()
                    .map(|repeats| repeats.spread(metric))
                    .collect();
                let is_best = leader(metric, &spreads) == Some(index);
                html.push_str(&figure_cell(spreads[index], metric, is_best));
            }
            if has_faults {
                html.push_str(&format!(
                    "<td class=\"faults\">{}</td>",
                    escaped(&repeats.faults())
                ));
            }
            html.push_str("</tr>\n");
        }
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
    html
}

/// A row for each step of each target; nothing if there are none.
pub(super) fn steps(points: &[&Point<'_>], order: &[&str]) -> String {
    let mut rows = String::new();
    for point in points {
        for repeats in &point.targets {
            let steps = repeats
                .records
                .iter()
                .map(|record| record.steps.len())
                .max()
                .unwrap_or(0);
            for step in 0..steps {
                let phases: Vec<&PhaseRecord> = repeats
                    .records
                    .iter()
                    .filter_map(|record| record.steps.get(step))
                    .collect();
                rows.push_str(&step_row(point, repeats, step, &phases, order));
            }
        }
    }
    if rows.is_empty() {
        return rows;
    }
    let mut html = String::from(
        "<h3>Step by step</h3>\n<div class=\"scroll\">\n<table>\n<thead><tr><th class=\"word\">at</th>\
         <th class=\"word\">target</th><th>runs</th><th>asked</th>",
    );
    for metric in STEP_COLUMNS.iter().filter_map(|name| Metric::named(name)) {
        html.push_str(&format!("<th>{}</th>", escaped(&metric.heading)));
    }
    html.push_str("<th>lost</th></tr></thead>\n<tbody>\n");
    html.push_str(&rows);
    html.push_str("</tbody>\n</table>\n</div>\n");
    html
}

fn step_row(
    point: &Point<'_>,
    repeats: &Repeats<'_>,
    step: usize,
    phases: &[&PhaseRecord],
    order: &[&str],
) -> String {
    let at = format!("{} step {}", point.label(), step + 1);
    let asked = phases
        .first()
        .and_then(|phase| phase.asked_per_s)
        .map(units::per_second)
        .unwrap_or_default();
    let mut html = format!(
        "<tr{}><td class=\"word\">{}</td>{}<td>{asked}</td>",
        if step == 0 { " class=\"first\"" } else { "" },
        escaped(at.trim()),
        target_cells(repeats, order)
    );
    for metric in STEP_COLUMNS.iter().filter_map(|name| Metric::named(name)) {
        let values: Vec<f64> = phases.iter().filter_map(|phase| metric.of_phase(phase)).collect();
        html.push_str(&figure_cell(Spread::of(&values), metric, false));
    }
    let lost: u64 = phases.iter().map(|phase| phase.lost).sum();
    html.push_str(&format!("<td>{}</td></tr>\n", units::count(lost as f64)));
    html
}

fn target_cells(repeats: &Repeats<'_>, order: &[&str]) -> String {
    let index = order.iter().position(|name| *name == repeats.target).unwrap_or(0);
    let warning = if repeats.warnings().is_empty() { "" } else { " ⚠" };
    format!(
        "<td class=\"word\">{}{}{warning}</td><td>{}</td>",
        swatch(index),
        escaped(repeats.target),
        repeats.records.len()
    )
}

fn figure_cell(spread: Option<Spread>, metric: &Metric, is_best: bool) -> String {
    let Some(spread) = spread else {
        return "<td class=\"soft\">–</td>".to_owned();
    };
    let class = if is_best { " class=\"best\"" } else { "" };
    let range = if spread.count > 1 {
        format!(
            "<small>{}</small>",
            units::range(metric.unit, spread.min, spread.max)
        )
    } else {
        String::new()
    };
    format!(
        "<td{class}>{}{range}</td>",
        units::figure(metric.unit, spread.median)
    )
}
