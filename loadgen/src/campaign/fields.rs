//! Reading a TOML table field by field: what is missing, misspelt or of the wrong kind becomes a [`Fault`] with its line,
//! and reading goes on, so that all faults of a file are told at once.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong with a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it came from: a file, or an option of the command line.
    pub source: String,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source, self.message),
            None => write!(f, "{}: {}", self.source, self.message),
        }
    }
}

/// A file that is being read, and what was found wrong with it so far.
pub(super) struct Reading<'a> {
    source: &'a str,
    text: &'a str,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: &'a str, text: &'a str) -> Self {
        Self {
            source,
            text,
            faults: Vec::new(),
        }
    }

    /// Notes a fault at that byte of the text.
    pub(super) fn fault(&mut self, at: usize, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        self.faults.push(Fault {
            source: self.source.into(),
            line: Some(1 + before.iter().filter(|byte| **byte == b'\n').count()),
            message: message.into(),
        });
    }

    /// Notes a fault of the file as a whole.
    pub(super) fn fault_without_line(&mut self, message: impl Into<String>) {
        self.faults.push(Fault {
            source: self.source.into(),
            line: None,
            message: message.into(),
        });
    }
}

/// One table whose fields are taken out by name; what is left over at the end is unknown.
pub(super) struct Fields<'a, 'i> {
    table: &'a DeTable<'i>,
    /// Where the table stands.
    pub(super) at: usize,
    /// How messages call it: `target "nats"`.
    pub(super) what: String,
    asked: Vec<&'static str>,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub(super) fn new(table: &'a DeTable<'i>, at: usize, what: impl Into<String>) -> Self {
        Self {
            table,
            at,
            what: what.into(),
            asked: Vec::new(),
        }
    }

    /// The field as it stands.
    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.asked.push(name);
        self.table.get(name)
    }

    /// Where a field stands, or else the table.
    pub(super) fn place(&self, name: &str) -> usize {
        self.table.get(name).map_or(self.at, |value| value.span().start)
    }

    pub(super) fn wrong(&self, reading: &mut Reading<'_>, name: &str, message: impl fmt::Display) {
        reading.fault(self.place(name), format!("{}: {name}: {message}", self.what));
    }

    pub(super) fn text(&mut self, reading: &mut Reading<'_>, name: &'static str) -> Option<String> {
        self.read(reading, name, "a text")
    }

    /// A text that has to be there.
    pub(super) fn text_needed(
        &mut self,
        reading: &mut Reading<'_>,
        name: &'static str,
        such_as: &str,
    ) -> String {
        let text = self.text(reading, name);
        if self.table.get(name).is_none() {
            reading.fault(
                self.at,
                format!(
                    "{}: {name} is missing, for example {name} = {such_as:?}",
                    self.what
                ),
            );
        }
        text.unwrap_or_default()
    }

    pub(super) fn texts(&mut self, reading: &mut Reading<'_>, name: &'static str) -> Option<Vec<String>> {
        self.read(reading, name, "a list of texts")
    }

    pub(super) fn flag(&mut self, reading: &mut Reading<'_>, name: &'static str) -> Option<bool> {
        self.read(reading, name, "true or false")
    }

    pub(super) fn number(
        &mut self,
        reading: &mut Reading<'_>,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let number: i64 = self.read(reading, name, "a whole number")?;
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.wrong(
                    reading,
                    name,
                    format!("{number} is outside {}..{}", range.start(), range.end()),
                );
                None
            }
        }
    }

    pub(super) fn cores(&mut self, reading: &mut Reading<'_>, name: &'static str) -> Option<Vec<usize>> {
        let cores: Vec<usize> = self.read(reading, name, "a list of processor numbers, such as [0]")?;
        let available = available_cores();
        if cores.is_empty() {
            self.wrong(
                reading,
                name,
                "an empty list: nothing could run; leave it out to not pin",
            );
            return None;
        }
        for core in &cores {
            if !available.contains(core) {
                self.wrong(
                    reading,
                    name,
                    format!("core {core} is not among those that this process may use ({available:?})"),
                );
            }
        }
        Some(cores)
    }

    /// Any other field that serde can read.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        reading: &mut Reading<'_>,
        name: &'static str,
        expected: &str,
    ) -> Option<T> {
        let value = self.get(name)?;
        match T::deserialize(toml::de::ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(value),
            Err(_) => {
                let found = value.get_ref().type_str();
                self.wrong(reading, name, format!("{found} where {expected} belongs"));
                None
            }
        }
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, reading: &mut Reading<'_>, name: &'static str) -> Option<&'a DeTable<'i>> {
        let value = self.get(name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let found = other.type_str();
                self.wrong(reading, name, format!("{found} where a table belongs"));
                None
            }
        }
    }

    /// The tables of an array of tables (`[[name]]`), with their places.
    pub(super) fn tables(
        &mut self,
        reading: &mut Reading<'_>,
        name: &'static str,
    ) -> Vec<(&'a DeTable<'i>, usize)> {
        let Some(value) = self.get(name) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        match value.get_ref() {
            DeValue::Array(items) => {
                for item in items {
                    match item.get_ref() {
                        DeValue::Table(table) => tables.push((table, item.span().start)),
                        _ => self.wrong(reading, name, format!("write each as [[{name}]]")),
                    }
                }
            }
            _ => self.wrong(
                reading,
                name,
                format!("write each as [[{name}]], with two brackets"),
            ),
        }
        tables
    }

    /// Tells of every field that nobody asked for.
    pub(super) fn finish(self, reading: &mut Reading<'_>) {
        for (name, _) in self.table {
            let known = name.get_ref();
            if self.asked.iter().any(|asked| asked == known) {
                continue;
            }
            let hint = match nearest(known, self.asked.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", self.asked.join(", ")),
            };
            reading.fault(
                name.span().start,
                format!("{}: there is no field `{known}`; {hint}", self.what),
            );
        }
    }
}

/// The place of the first thing in a table, its heading aside: where `[head]` tables are told to be.
pub(super) fn place_of_key(table: &DeTable<'_>, name: &str) -> Option<usize> {
    table
        .iter()
        .find(|(key, _)| key.get_ref() == name)
        .map(|(key, _)| key.span().start)
}

/// Which of the names was probably meant.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|known| (letters_apart(name, known), known))
        .min()
        .filter(|(apart, known)| *apart <= 1 + known.len() / 3)
        .map(|(_, known)| known)
}

/// How many letters have to be added, removed or replaced (Levenshtein).
fn letters_apart(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// Processors that this process may use: those of its first look, since threads are pinned later.
#[must_use]
pub fn available_cores() -> Vec<usize> {
    static AVAILABLE: OnceLock<Vec<usize>> = OnceLock::new();
    let look = || match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect(),
        Err(_) => Vec::new(),
    };
    AVAILABLE.get_or_init(look).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_probably_meant_is_found() {
        let known = ["subscribers", "publishers", "topics"];
        assert_eq!(nearest("subscriber", known.into_iter()), Some("subscribers"));
        assert_eq!(nearest("topic", known.into_iter()), Some("topics"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }

    #[test]
    fn this_process_may_use_at_least_one_core() {
        assert!(!available_cores().is_empty());
    }
}
