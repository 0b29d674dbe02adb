//! Tables in Markdown, for a document that is kept: `docs/performance.md` and the like.

use std::fmt;

use crate::metric::Metric;
use crate::record::{self, Point, Repeats, Results, points, scenarios, target_names};
use crate::statistics::Spread;
use crate::units;

use super::{COLUMNS, leader, metrics_of, wording};

/// Of these a table says how far the repeats lie apart: what is judged by. Of all figures it would be too wide.
const WITH_SPREAD: [&str; 3] = ["server_ns_per_message", "p99", "p99_9"];

/// Everything, to stand inside a document: on what it ran, the matrix of server CPU, a table for each scenario, and the
/// warnings. Headings are of the second level for a campaign and of the third below.
#[must_use]
pub fn markdown(results: &Results) -> String {
    at_level(results, "###")
}

/// The same as a document of its own.
pub(super) fn document(results: &Results) -> String {
    at_level(results, "##")
}

fn at_level(results: &Results, level: &str) -> String {
    let points = points(&results.records);
    let mut text = head(results, &level[1..]);
    if let Some(metric) = Metric::named("server_ns_per_message") {
        let table = matrix(results, metric);
        if !table.is_empty() {
            text.push_str(&format!("{level} Server CPU for each delivered message\n\n"));
            text.push_str(&table);
            text.push('\n');
        }
    }
    for (name, points) in scenarios(&points) {
        text.push_str(&format!("{level} {}\n\n", cell(name)));
        if let Some(settings) = points.first().and_then(|point| point.settings()) {
            text.push_str(&format!("{}.", cell(&wording::scenario(&settings))));
            let sweep = wording::sweep(&points);
            if !sweep.is_empty() {
                text.push_str(&format!(" Swept {}.", cell(&sweep)));
            }
            text.push_str("\n\n");
        }
        text.push_str(&scenario_table(&points));
        text.push('\n');
    }
    let warnings = warnings(results);
    if !warnings.is_empty() {
        text.push_str(&format!("{level} Warnings\n\n"));
        text.push_str(&warnings);
    }
    text
}

/// Targets down, points across, a metric's median with its spread in each cell and the best of a column in bold, if its
/// repeats do not overlap with those of another. Empty if no run has that metric.
#[must_use]
pub fn matrix(results: &Results, metric: &Metric) -> String {
    let points = points(&results.records);
    let columns: Vec<&Point<'_>> = points
        .iter()
        .filter(|point| {
            point
                .targets
                .iter()
                .any(|repeats| repeats.spread(metric).is_some())
        })
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    let headings = columns.iter().map(|point| cell(&point.title()));
    push_row(&mut text, std::iter::once(String::new()).chain(headings));
    push_row(
        &mut text,
        std::iter::once("---".to_owned()).chain(columns.iter().map(|_| "---:".to_owned())),
    );
    for target in target_names(&results.records) {
        let figures = columns.iter().map(|point| {
            let index = point.targets.iter().position(|repeats| repeats.target == target);
            match index {
                Some(index) => figure(
                    &point.targets[index],
                    metric,
                    leader(metric, &spreads(point, metric)) == Some(index),
                    true,
                ),
                None => "–".to_owned(),
            }
        });
        push_row(&mut text, std::iter::once(cell(target)).chain(figures));
    }
    text
}

fn head(results: &Results, level: &str) -> String {
    let mut text = String::new();
    for header in &results.headers {
        let machine = &header.machine;
        text.push_str(&format!(
            "{level} {}\n\n{}; {}, {} cores, {} of memory; {}; commit {}; loadgen {}.\n\n",
            cell(&header.campaign),
            cell(&header.started_at),
            cell(&machine.cpu),
            machine.cores,
            units::bytes(machine.memory_bytes as f64),
            cell(&machine.kernel),
            if machine.commit.is_empty() {
                "unknown".to_owned()
            } else {
                cell(&machine.commit)
            },
            cell(&header.loadgen_version),
        ));
    }
    text
}

fn scenario_table(points: &[&Point<'_>]) -> String {
    let mut metrics = metrics_of(&COLUMNS, points);
    metrics.retain(|metric| {
        points.iter().any(|point| {
            point
                .targets
                .iter()
                .any(|repeats| repeats.spread(metric).is_some())
        })
    });
    let has_points = points.iter().any(|point| !point.label().is_empty());
    let has_faults = points
        .iter()
        .any(|point| point.targets.iter().any(|repeats| !repeats.faults().is_empty()));

    let mut text = String::new();
    let mut headings: Vec<String> = Vec::new();
    headings.extend(has_points.then(|| "at".to_owned()));
    headings.extend(["target".to_owned(), "runs".to_owned()]);
    headings.extend(metrics.iter().map(|metric| cell(&metric.heading)));
    headings.extend(has_faults.then(|| "not as it should be".to_owned()));
    let words = if has_points { 2 } else { 1 };
    let aligns = (0..headings.len()).map(|column| {
        let is_figure = column >= words && !(has_faults && column + 1 == headings.len());
        if is_figure { "---:" } else { "---" }.to_owned()
    });
    push_row(&mut text, headings.iter().cloned());
    push_row(&mut text, aligns);
    for point in points {
        for (index, repeats) in point.targets.iter().enumerate() {
            let mut cells: Vec<String> = Vec::new();
            cells.extend(has_points.then(|| cell(&point.label())));
            cells.extend([cell(repeats.target), repeats.records.len().to_string()]);
            cells.extend(metrics.iter().map(|metric| {
                let is_best = leader(metric, &spreads(point, metric)) == Some(index);
                let has_spread = WITH_SPREAD.contains(&&*metric.name);
                figure(repeats, metric, is_best, has_spread)
            }));
            cells.extend(has_faults.then(|| cell(&repeats.faults())));
            push_row(&mut text, cells.into_iter());
        }
    }
    text
}

/// Of each target at that point.
fn spreads(point: &Point<'_>, metric: &Metric) -> Vec<Option<Spread>> {
    point
        .targets
        .iter()
        .map(|repeats| repeats.spread(metric))
        .collect()
}

fn figure(repeats: &Repeats<'_>, metric: &Metric, is_best: bool, has_spread: bool) -> String {
    let Some(spread) = repeats.spread(metric) else {
        return "–".to_owned();
    };
    let median = units::figure(metric.unit, spread.median);
    let median = if is_best { format!("**{median}**") } else { median };
    if has_spread && spread.count > 1 {
        format!("{median} {}", units::spread(spread.relative()))
    } else {
        median
    }
}

fn warnings(results: &Results) -> String {
    let runs = results.records.len();
    record::warnings(&results.records)
        .iter()
        .map(|warning| {
            let places = cell(&warning.places.join("; "));
            format!(
                "- In {} of {runs} runs ({places}): {}\n",
                warning.runs,
                cell(&warning.text)
            )
        })
        .collect()
}

fn push_row(text: &mut String, cells: impl Iterator<Item = String>) {
    text.push('|');
    for cell in cells {
        text.push(' ');
        text.push_str(&cell);
        text.push_str(" |");
    }
    text.push('\n');
}

/// Text that stays in its cell and is no markup.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\' | '#' => {
                safe.push('\\');
                safe.push(char);
            }
            char if char.is_control() => safe.push(' '),
            char => safe.push(char),
        }
    }
    safe
}

/// Why a text could not be put into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkerError {
    /// The marker that is not there, not twice, or in the wrong place.
    pub marker: String,
}

impl fmt::Display for MarkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the document needs the lines `<!-- begin {0} -->` and `<!-- end {0} -->`, once and in this order, where \
             the table is to stand",
            self.marker
        )
    }
}

impl std::error::Error for MarkerError {}

/// The document with that text between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`; all around them is kept.
///
/// # Errors
/// A marker is missing or there twice.
pub fn replace_between(document: &str, name: &str, text: &str) -> Result<String, MarkerError> {
    let fault = || MarkerError {
        marker: name.to_owned(),
    };
    let begin = format!("<!-- begin {name} -->");
    let end = format!("<!-- end {name} -->");
    let (before, behind) = document.split_once(&begin).ok_or_else(fault)?;
    let (_, after) = behind.split_once(&end).ok_or_else(fault)?;
    if [before, after]
        .iter()
        .any(|part| part.contains(&begin) || part.contains(&end))
    {
        return Err(fault());
    }
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_between_its_markers() {
        let document = "# Title\n\n<!-- begin peers -->\nold\n<!-- end peers -->\n\nprose\n";
        let replaced = replace_between(document, "peers", "| a |\n").expect("both markers");
        assert_eq!(
            replaced,
            "# Title\n\n<!-- begin peers -->\n\n| a |\n\n<!-- end peers -->\n\nprose\n"
        );
        assert_eq!(
            replace_between(&replaced, "peers", "| a |\n").as_ref(),
            Ok(&replaced),
            "again is the same"
        );
        assert!(replace_between(document, "calls", "x").is_err());
        assert!(replace_between("<!-- end a --><!-- begin a -->", "a", "x").is_err());
        assert!(replace_between(&document.repeat(2), "peers", "x").is_err());
    }

    #[test]
    fn names_stay_in_their_cells() {
        assert_eq!(cell("a|b\nc*"), "a\\|b c\\*");
    }
}
