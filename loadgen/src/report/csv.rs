//! A line a run, for spreadsheets: the figures of the whole run. Its steps and its histogram are in the JSON lines.

use std::collections::BTreeSet;

use crate::record::{Record, value_text};

/// Figures by the names that assertions use, with the unit at the end.
const FIGURES: [&str; 24] = [
    "server_ns_per_message",
    "sent_per_s",
    "delivered_per_s",
    "min_us",
    "mean_us",
    "p50_us",
    "p90_us",
    "p99_us",
    "p99_9_us",
    "p99_99_us",
    "max_us",
    "stall_us",
    "lost",
    "told_dropped",
    "duplicated",
    "out_of_order",
    "refused",
    "server_busy",
    "rss_before_bytes",
    "rss_max_bytes",
    "rss_after_bytes",
    "switches_voluntary",
    "switches_involuntary",
    "generator_busy",
];

/// All records, a heading first. A swept field has a column `point.…`, a workload's own figure `extra.…`.
#[must_use]
pub fn csv(records: &[Record]) -> String {
    let points: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| record.point.keys().map(String::as_str))
        .collect();
    let extras: BTreeSet<&str> = records
        .iter()
        .flat_map(|record| record.extra.keys().map(String::as_str))
        .collect();

    let mut text = String::new();
    let described = [
        "campaign",
        "scenario",
        "target",
        "target_version",
        "repeat",
        "at",
        "elapsed_s",
    ];
    let counted = ["sent", "delivered"];
    let headings = described
        .iter()
        .map(|heading| (*heading).to_owned())
        .chain(points.iter().map(|field| format!("point.{field}")))
        .chain(
            counted
                .iter()
                .chain(&FIGURES)
                .map(|heading| (*heading).to_owned()),
        )
        .chain(extras.iter().map(|name| format!("extra.{name}")))
        .chain(["warnings".to_owned()]);
    push_line(&mut text, headings);

    for record in records {
        let described = [
            record.campaign.clone(),
            record.scenario.clone(),
            record.target.clone(),
            record.target_version.clone().unwrap_or_default(),
            record.repeat.to_string(),
            record.at.clone(),
            (record.overall.elapsed_ns as f64 / 1e9).to_string(),
        ];
        let choices = points
            .iter()
            .map(|field| record.point.get(*field).map(value_text).unwrap_or_default());
        let counted = [
            record.overall.sent.to_string(),
            record.overall.delivered.to_string(),
        ];
        let figures = FIGURES.iter().map(|name| number(record.figure(name)));
        let extra = extras.iter().map(|name| number(record.extra.get(*name).copied()));
        let cells = described
            .into_iter()
            .chain(choices)
            .chain(counted)
            .chain(figures)
            .chain(extra)
            .chain([record.warnings.join("; ")]);
        push_line(&mut text, cells);
    }
    text
}

fn number(figure: Option<f64>) -> String {
    figure.map(|figure| figure.to_string()).unwrap_or_default()
}

fn push_line(text: &mut String, cells: impl Iterator<Item = String>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&quoted(&cell));
    }
    text.push_str("\r\n");
}

/// As RFC 4180 has it. A text that a spreadsheet would take for a formula is kept from being one.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t']) && cell.parse::<f64>().is_err();
    let cell = if is_formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_cells() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"it\"\n"), "\"say \"\"it\"\"\n\"");
        assert_eq!(quoted("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(quoted("-1.5"), "-1.5");
    }
}
