//! One table of a list such as `[[upstream]]`, read key by key: what has the wrong type or is out of range is a fault
//! with its line, and what nobody asked for in the end is unknown.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigFault;
use crate::settings::{self, Value};

/// The file that is being read.
pub(super) struct Reading<'a> {
    source: &'a str,
    text: &'a str,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: &'a str, text: &'a str) -> Self {
        Self { source, text }
    }

    /// A fault at this place of the text.
    pub(super) fn fault(&self, at: usize, message: String) -> ConfigFault {
        ConfigFault {
            source: self.source.into(),
            line: Some(line_of(self.text, at)),
            message,
        }
    }
}

/// The tables of a list, each with the place where it begins; a value that is no such list is a fault.
pub(super) fn tables<'v, 'i>(
    reading: &Reading<'_>,
    key: &str,
    at: usize,
    value: &'v Spanned<DeValue<'i>>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<(usize, &'v DeTable<'i>)> {
    let wrong = |at, what: &str| {
        reading.fault(
            at,
            format!("{key}: {what} where tables belong; begin each with a line [[{key}]]"),
        )
    };
    let DeValue::Array(list) = value.get_ref() else {
        faults.push(wrong(at, value_of(value.get_ref()).kind()));
        return Vec::new();
    };
    list.iter()
        .filter_map(|item| match item.get_ref() {
            DeValue::Table(table) => Some((item.span().start, table)),
            other => {
                faults.push(wrong(item.span().start, value_of(other).kind()));
                None
            }
        })
        .collect()
}

/// A table that is being read.
pub(super) struct Fields<'t, 'i> {
    reading: &'t Reading<'t>,
    /// What it is, in front of every fault: `upstream users`.
    what: String,
    at: usize,
    table: &'t DeTable<'i>,
    asked: Vec<&'static str>,
    faults: &'t mut Vec<ConfigFault>,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub(super) fn new(
        reading: &'t Reading<'t>,
        what: String,
        at: usize,
        table: &'t DeTable<'i>,
        faults: &'t mut Vec<ConfigFault>,
    ) -> Self {
        Self {
            reading,
            what,
            at,
            table,
            asked: Vec::new(),
            faults,
        }
    }

    pub(super) fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn fault(&mut self, at: usize, message: &str) {
        let message = format!("{}: {message}", self.what);
        self.faults.push(self.reading.fault(at, message));
    }

    /// The value of a key, and where it stands.
    pub(super) fn value(&mut self, key: &'static str) -> Option<(&'t DeValue<'i>, Range<usize>)> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let (name, value) = self.table.get_key_value(key)?;
        Some((value.get_ref(), name.span()))
    }

    /// The value of a key, made of it by `make`; what that says is wrong is a fault.
    fn made<T>(
        &mut self,
        key: &'static str,
        make: impl FnOnce(&DeValue<'i>) -> Result<T, String>,
    ) -> Option<T> {
        let (value, span) = self.value(key)?;
        match make(value) {
            Ok(made) => Some(made),
            Err(wrong) => {
                self.fault(span.start, &format!("{key}: {wrong}"));
                None
            }
        }
    }

    pub(super) fn number<N: TryFrom<i128>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i128>,
    ) -> Option<N> {
        self.made(key, |value| settings::number(value_of(value), range))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.made(key, text_of)
    }

    /// A text that names a fleet, a zone, an upstream.
    pub(super) fn name(&mut self, key: &'static str) -> Option<String> {
        self.made(key, |value| checked_name(text_of(value)?))
    }

    /// A pattern of methods.
    pub(super) fn pattern(&mut self, key: &'static str) -> Option<String> {
        self.made(key, |value| checked_pattern(text_of(value)?))
    }

    /// A list of patterns.
    pub(super) fn patterns(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.made(key, |value| {
            settings::texts(value_of(value))?
                .into_iter()
                .map(checked_pattern)
                .collect()
        })
    }

    /// A pattern of topics.
    pub(super) fn topics(&mut self, key: &'static str) -> Option<String> {
        self.made(key, |value| {
            let pattern = text_of(value)?;
            match fluxar_protocol::target::check_pattern(&pattern) {
                Ok(()) => Ok(pattern),
                Err(fault) => Err(format!("{pattern:?} is no pattern of topics: {fault}")),
            }
        })
    }

    /// A topic to publish to.
    pub(super) fn topic(&mut self, key: &'static str) -> Option<String> {
        self.made(key, |value| {
            let topic = text_of(value)?;
            match fluxar_protocol::target::check_name(&topic, false) {
                Ok(()) => Ok(topic),
                Err(fault) => Err(format!("{topic:?} is no topic: {fault}")),
            }
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.made(key, |value| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(format!("{} where true or false belongs", value_of(other).kind())),
        })
    }

    /// A share of 0 to 100 percent with at most three decimals, in thousandths of a percent.
    pub(super) fn percent(&mut self, key: &'static str) -> Option<u32> {
        self.made(key, |value| {
            let written = match value {
                DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
                DeValue::Float(number) => number.as_str(),
                other => return Err(format!("{} where a percentage belongs", value_of(other).kind())),
            };
            percent_of(written).ok_or_else(|| {
                format!("{written} is no percentage; write 0 to 100 with at most three decimals, as in 12.5")
            })
        })
    }

    /// An inner table, to be read likewise.
    pub(super) fn table(&mut self, key: &'static str) -> Option<(usize, &'t DeTable<'i>)> {
        let (value, span) = self.value(key)?;
        if let DeValue::Table(table) = value {
            return Some((span.start, table));
        }
        let kind = value_of(value).kind();
        self.fault(span.start, &format!("{key}: {kind} where a table belongs"));
        None
    }

    /// Reads an inner table.
    pub(super) fn inner<'s>(&'s mut self, at: usize, table: &'s DeTable<'i>, key: &str) -> Fields<'s, 'i> {
        let what = format!("{}: {key}", self.what);
        Fields::new(self.reading, what, at, table, self.faults)
    }

    /// Says which keys nobody asked for.
    pub(super) fn finish(mut self) {
        for (name, _) in self.table {
            let key = name.get_ref();
            if self.asked.iter().any(|asked| asked == key) {
                continue;
            }
            let message = match settings::nearest_of(key, self.asked.iter().copied()) {
                Some(known) => format!("there is no `{key}` here; did you mean `{known}`?"),
                None => format!("there is no `{key}` here; known are {}", self.asked.join(", ")),
            };
            self.fault(name.span().start, &message);
        }
    }
}

fn text_of(value: &DeValue<'_>) -> Result<String, String> {
    match value_of(value) {
        Value::Text(text) => Ok(text),
        other => Err(format!("{} where a text belongs", other.kind())),
    }
}

/// Names travel in `meta`, in tables and through terminals.
pub(crate) fn checked_name(name: String) -> Result<String, String> {
    if name.is_empty() || name.len() > fluxar_shard::limits::GROUP_BYTES_MAX {
        return Err(format!(
            "a name has 1 to {} bytes",
            fluxar_shard::limits::GROUP_BYTES_MAX
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("{name:?} has a control character"));
    }
    Ok(name)
}

fn checked_pattern(pattern: String) -> Result<String, String> {
    match fluxar_protocol::target::check_pattern(&pattern) {
        Ok(()) if fluxar_protocol::target::is_system(&pattern) => Err(format!(
            "{pattern:?} begins with `$`: those methods are the gateway's own"
        )),
        Ok(()) => Ok(pattern),
        Err(fault) => Err(format!("{pattern:?} is no pattern of methods: {fault}")),
    }
}

/// `12.5` as 12,500. Exact: no binary fraction comes between.
fn percent_of(written: &str) -> Option<u32> {
    let (whole, decimals) = written.split_once('.').unwrap_or((written, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || decimals.len() > 3 || !is_digits(whole) || !is_digits(decimals)
    {
        return None;
    }
    let thousandths: u32 = format!("{decimals:0<3}").parse().ok()?;
    Some(whole.parse::<u32>().ok()? * 1_000 + thousandths)
        .filter(|share| *share <= fluxar_shard::routes::SHARE_ALL)
}

/// The other way round, with no more decimals than it takes.
pub(super) fn show_percent(share: u32) -> String {
    let (whole, thousandths) = (share / 1_000, share % 1_000);
    if thousandths == 0 {
        return whole.to_string();
    }
    let decimals = format!("{thousandths:03}");
    format!("{whole}.{}", decimals.trim_end_matches('0'))
}

/// A text as TOML.
pub(crate) fn show_text(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

/// The line of a place in a text, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// A value as the settings take it.
pub(super) fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number),
            Err(_) => Value::Other("a number of too many digits"),
        },
        DeValue::Array(list) => {
            let texts: Option<Vec<String>> = list
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect();
            texts.map_or(Value::Other("a list of other things than texts"), Value::List)
        }
        DeValue::Boolean(_) => Value::Other("true or false"),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact() {
        for (written, share) in [
            ("0", 0),
            ("100", 100_000),
            ("100.000", 100_000),
            ("12.5", 12_500),
            ("0.001", 1),
            ("33.333", 33_333),
            ("0.1", 100),
        ] {
            assert_eq!(percent_of(written), Some(share), "{written}");
            assert_eq!(percent_of(&show_percent(share)), Some(share), "{written}");
        }
        for written in [
            "100.001", "101", "-1", "0.0001", "1e1", "nan", "inf", "", ".5", "1_0",
        ] {
            assert_eq!(percent_of(written), None, "{written}");
        }
    }

    #[test]
    fn texts_are_printed_so_that_they_read_back() {
        for text in [
            "plain",
            "with \"quotes\"",
            "back\\slash",
            "tab\t",
            "new\nline",
            "ümlaut \u{7f}",
        ] {
            let printed = format!("x = {}", show_text(text));
            let read: toml::Table = printed.parse().unwrap();
            assert_eq!(read["x"].as_str(), Some(text), "{printed}");
        }
    }
}
