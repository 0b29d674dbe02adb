//! What a campaign leaves for people to read: CSV for a spreadsheet, Markdown for a document, one HTML page with plots,
//! and the table at the end of a run.

mod summary;

pub use summary::summary;
