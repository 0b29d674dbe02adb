//! Plots as SVG, drawn here so that a page needs nothing from elsewhere.
//!
//! A plot is a string that stands inside an HTML page: colours come from the page's custom properties (`--series-0` …)
//! so that light, dark and print each have their own. No series is told by colour alone: lines have marks, dashes and
//! a label at their end, bars have patterns and their figures.

mod bars;
mod lines;
mod scale;
mod svg;

pub use bars::{Bar, BarGroup, BarPlot};
pub use lines::{LinePlot, LinePoint, Series};
pub use scale::{Scale, Tick};
pub use svg::{escaped, pattern_definitions, series_rules};

/// How many series look different from each other; further ones begin again.
pub const STYLES: usize = 8;
