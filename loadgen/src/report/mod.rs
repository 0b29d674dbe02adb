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

use crate::record::Results;

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
