//! The table that a campaign ends with in the terminal: medians and spread, scenario by scenario.

use crate::metric::Metric;
use crate::record::{Point, Record, Repeats, Warning, points, scenarios, warnings};
use crate::table::{Align, Table, TableCell, Tone, painted};
use crate::units;

use super::{COLUMNS, leader, metrics_of};

/// All scenarios of these records, the warnings below. Of each figure the best among the targets stands out,
/// if its repeats do not overlap with those of another.
#[must_use]
pub fn summary(records: &[Record], colours: bool) -> String {
    let points = points(records);
    let mut text = String::new();
    for (name, points) in scenarios(&points) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&painted(name, Tone::Strong, colours));
        text.push('\n');
        text.push_str(&scenario_table(&points).render(colours));
    }
    for warning in warnings(records) {
        let line = format!(
            "warning: in {} of {} runs ({}): {}",
            warning.runs,
            records.len(),
            places(&warning),
            warning.text
        );
        text.push_str(&painted(&line, Tone::Warning, colours));
        text.push('\n');
    }
    text
}

fn scenario_table(points: &[&Point<'_>]) -> Table {
    let metrics = metrics_of(&COLUMNS, points);
    let mut columns = vec![
        ("at", Align::Left),
        ("target", Align::Left),
        ("runs", Align::Right),
    ];
    for metric in &metrics {
        columns.push((heading(metric), Align::Right));
        // How far the runs lie apart is told of the judge alone: of all figures the line would be too long.
        if metric.name == "server_ns_per_message" {
            columns.push(("", Align::Left));
        }
    }
    columns.push(("not as it should be", Align::Left));
    let mut table = Table::new(&columns);
    for point in points {
        let bests: Vec<Option<usize>> = metrics
            .iter()
            .map(|metric| {
                let spread = |repeats: &Repeats<'_>| repeats.spread(metric);
                leader(metric, &point.targets.iter().map(spread).collect::<Vec<_>>())
            })
            .collect();
        for (index, repeats) in point.targets.iter().enumerate() {
            let mut row: Vec<TableCell> = vec![
                point.label().into(),
                repeats.target.into(),
                repeats.records.len().to_string().into(),
            ];
            for (metric, best) in metrics.iter().zip(&bests) {
                let tone = if *best == Some(index) {
                    Tone::Good
                } else {
                    Tone::Plain
                };
                let spread = repeats.spread(metric);
                let median = spread.map(|spread| units::figure(metric.unit, spread.median));
                row.push(TableCell::new(&median.unwrap_or_default(), tone));
                if metric.name == "server_ns_per_message" {
                    let relative = spread
                        .filter(|spread| spread.count > 1)
                        .map(|spread| units::spread(spread.relative()));
                    row.push(TableCell::new(&relative.unwrap_or_default(), Tone::Faint));
                }
            }
            row.push(TableCell::new(&repeats.faults(), Tone::Bad));
            table.row(row);
        }
    }
    table
}

fn heading(metric: &Metric) -> &str {
    match &*metric.name {
        "server_ns_per_message" => "CPU/message",
        "server_busy" => "server CPU",
        _ => &metric.heading,
    }
}

/// Where a warning comes from; the page has all places.
fn places(warning: &Warning) -> String {
    match &warning.places[..] {
        [first, second, _, others @ ..] => format!("{first}, {second} and {} more", others.len() + 1),
        few => few.join(", "),
    }
}
