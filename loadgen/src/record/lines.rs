//! Records as JSON lines: written one by one as runs end, read leniently.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Header, Record};

/// The name of the file of records in a campaign's directory.
pub const RESULTS_FILE: &str = "results.jsonl";

/// A line, by its `record` field.
#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Line {
    Header(Header),
    Run(Box<Record>),
    #[serde(other)]
    Unknown,
}

/// The same to be written, without a copy of what is written.
#[derive(Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum LineOut<'a> {
    Header(&'a Header),
    Run(&'a Record),
}

/// Everything that a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// More than one if campaigns were appended to each other; none if the file lost its first line.
    pub headers: Vec<Header>,
    /// In the order in which they were made.
    pub records: Vec<Record>,
    /// Lines that were passed over, in words: an end that broke off.
    pub remarks: Vec<String>,
}

/// Appends to a file of records. Each line is flushed to the kernel before the next run starts.
#[derive(Debug)]
pub struct JsonlWriter {
    file: File,
}

impl JsonlWriter {
    /// Opens the file for appending, and makes it (and its directory) if it is not there. A last line that broke off
    /// is cut away, so that the next one does not grow on it.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn append(path: &Path) -> io::Result<JsonlWriter> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64)?;
        }
        Ok(JsonlWriter { file })
    }

    /// Writes what holds for all records that follow.
    ///
    /// # Errors
    /// The file cannot be written, for example because the disk is full.
    pub fn header(&mut self, header: &Header) -> io::Result<()> {
        self.line(&LineOut::Header(header))
    }

    /// Writes a run.
    ///
    /// # Errors
    /// As for [`JsonlWriter::header`].
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        self.line(&LineOut::Run(record))
    }

    /// One write for the whole line: what breaks off, breaks off between lines if the kernel can help it.
    fn line(&mut self, line: &LineOut<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.flush()
    }
}

/// Why records could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is no record.
    Line {
        /// In which file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// There is no run in it.
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io { path, error } => {
                write!(
                    f,
                    "cannot read {}: {error}; give a results file or a campaign's directory",
                    path.display()
                )
            }
            ReadError::Line { path, line, error } => write!(
                f,
                "{}:{line}: this line is no record of loadgen: {error}; remove the line, or give the {RESULTS_FILE} \
                 of a campaign",
                path.display()
            ),
            ReadError::Empty { path } => {
                write!(
                    f,
                    "{} holds no run: the campaign ended before its first",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadError::Io { error, .. } => Some(error),
            ReadError::Line { error, .. } => Some(error),
            ReadError::Empty { .. } => None,
        }
    }
}

/// Reads the records of a file, or of a campaign's directory.
///
/// # Errors
/// It cannot be read, a line is broken (see [`read_jsonl`]), or it holds no run.
pub fn read(path: &Path) -> Result<Results, ReadError> {
    let file = if path.is_dir() {
        path.join(RESULTS_FILE)
    } else {
        path.to_owned()
    };
    let opened = File::open(&file).map_err(|error| ReadError::Io {
        path: file.clone(),
        error,
    })?;
    let results = read_jsonl(BufReader::new(opened), &file)?;
    if results.records.is_empty() {
        Err(ReadError::Empty { path: file })
    } else {
        Ok(results)
    }
}

/// Reads records from lines; `path` is for messages. A last line without its end is what a campaign leaves that was
/// killed while it wrote: it is passed over with a remark.
///
/// # Errors
/// A line is neither a record nor the header of one.
pub fn read_jsonl(mut input: impl BufRead, path: &Path) -> Result<Results, ReadError> {
    let mut results = Results::default();
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let length = input
            .read_until(b'\n', &mut text)
            .map_err(|error| ReadError::Io {
                path: path.to_owned(),
                error,
            })?;
        if length == 0 {
            break;
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&text) {
            Ok(Line::Header(header)) => results.headers.push(header),
            Ok(Line::Run(record)) => results.records.push(*record),
            Ok(Line::Unknown) => {}
            Err(_) if text.last() != Some(&b'\n') => results.remarks.push(format!(
                "{}:{number}: the last line broke off and is left out",
                path.display()
            )),
            Err(error) => {
                return Err(ReadError::Line {
                    path: path.to_owned(),
                    line: number,
                    error,
                });
            }
        }
    }
    Ok(results)
}
