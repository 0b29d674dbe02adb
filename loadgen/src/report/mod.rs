//! What a campaign leaves for people to read: CSV for a spreadsheet, Markdown for a document, one HTML page with plots,
//! and the table at the end of a run.
//!
//! ```text
//!   Results ─> points (repeats of a scenario's point, target by target) ─┬─> summary    the terminal
//!                                                                        ├─> csv        a line a run
//!                                                                        ├─> markdown   tables for a document
//!                                                                        └─> html       figures (plots) and tables
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::metric::{Better, Metric};
use crate::record::{Point, Results, best};
use crate::statistics::Spread;

mod csv;
mod curve;
mod figures;
mod html;
mod markdown;
pub mod plot;
mod summary;
mod wording;

pub use csv::csv;
pub use html::page;
pub use markdown::{MarkerError, markdown, matrix, replace_between};
pub use summary::summary;

/// The columns of a scenario's table in a terminal or a document; those of its workload follow.
const COLUMNS: [&str; 8] = [
    "server_ns_per_message",
    "delivered_per_s",
    "p50",
    "p99",
    "p99_9",
    "max",
    "server_busy",
    "rss_max",
];

/// The figures with these names, and those that the points' workloads have besides.
fn metrics_of(columns: &[&str], points: &[&Point<'_>]) -> Vec<Metric> {
    let named = columns.iter().filter_map(|name| Metric::named(name).cloned());
    let mut metrics: Vec<Metric> = named.collect();
    for extra in points.iter().flat_map(|point| point.extras()) {
        if metrics.iter().all(|metric| metric.name != extra.name) {
            metrics.push(extra);
        }
    }
    metrics
}

/// Which of some targets leads, by index: the one with the best median ([`best`]), unless its repeats overlap with those of
/// another. What could be the other way around in the next campaign is not held up as the best.
fn leader(metric: &Metric, spreads: &[Option<Spread>]) -> Option<usize> {
    let medians: Vec<Option<f64>> = spreads
        .iter()
        .map(|spread| spread.map(|spread| spread.median))
        .collect();
    let first = best(metric, &medians)?;
    let leading = spreads[first]?;
    let is_clear = |other: &Spread| match metric.better {
        Better::Lower => leading.max < other.min,
        Better::Higher => leading.min > other.max,
        Better::Neither => false,
    };
    let mut others = spreads.iter().enumerate().filter(|(index, _)| *index != first);
    others
        .all(|(_, other)| other.as_ref().is_none_or(is_clear))
        .then_some(first)
}

/// Writes `report.html`, `results.csv` and `report.md` into that directory, and says where.
///
/// # Errors
/// A file cannot be written.
pub fn write_all(results: &Results, directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)?;
    let files = [
        ("report.html", page(results)),
        ("results.csv", csv(&results.records)),
        ("report.md", markdown::document(results)),
    ];
    files
        .into_iter()
        .map(|(name, text)| {
            let path = directory.join(name);
            fs::write(&path, text)?;
            Ok(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_leads_in_every_repeat() {
        let cpu = Metric::named("server_ns_per_message").expect("a metric");
        let rate = Metric::named("delivered_per_s").expect("a metric");
        let low = Spread::of(&[40.0, 42.0, 44.0]);
        let overlapping = Spread::of(&[43.0, 60.0, 70.0]);
        let high = Spread::of(&[80.0, 90.0, 100.0]);
        assert_eq!(leader(cpu, &[high, None, low]), Some(2));
        assert_eq!(leader(rate, &[high, None, low]), Some(0));
        assert_eq!(leader(cpu, &[high, overlapping, low]), None, "43 is below 44");
        assert_eq!(leader(rate, &[high, overlapping, low]), Some(0), "70 is below 80");
        assert_eq!(leader(cpu, &[low]), None, "alone");
    }
}
