//! What becomes of results: records on disk, tables, comparisons, CSV, Markdown and the page, from runs that were made
//! up here and claim to be nothing else.

mod comparisons;
mod page;
mod plausible;
mod records;
mod tables;
