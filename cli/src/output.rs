//! What is printed, and how: JSON for programs, something prettier for people, diagnostic notation on request.

use std::io::{self, IsTerminal, Write};

use ciborium::Value;
use fluxar::Message;
use serde::Serialize;

use crate::{
    args::Style,
    failure::{Failure, Result},
    json::{self, Shown},
};

/// How values are printed on stdout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    is_diag: bool,
    is_pretty: bool,
    has_colour: bool,
}

/// An event as one line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    /// Of a stored event: partition@offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    /// How often it may have been given to somebody before.
    #[serde(skip_serializing_if = "is_zero")]
    dup: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<Dead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Shown<'a>>,
    /// In place of a payload that JSON cannot show.
    #[serde(skip_serializing_if = "Option::is_none")]
    diag: Option<String>,
}

/// What became of a dead letter before it was set aside.
#[derive(Serialize)]
pub(crate) struct Dead {
    topic: String,
    /// partition@offset
    at: String,
    deliveries: u64,
}

impl Dead {
    /// Reads it from an event's meta; `None`: it is no dead letter.
    pub(crate) fn read(get: impl Fn(&str) -> Option<Value>) -> Option<Self> {
        let at = get("x-dead-at")?.into_array().ok()?;
        let [partition, offset] = <[Value; 2]>::try_from(at).ok()?;
        let number = |value: Value| u64::try_from(value.into_integer().ok()?).ok();
        Some(Self {
            topic: get("x-dead-topic")?.into_text().ok()?,
            at: format!("{}@{}", number(partition)?, number(offset)?),
            deliveries: get("x-deliveries").and_then(number)?,
        })
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Output {
    pub(crate) fn new(style: Style) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_pretty = is_terminal && !style.json && !style.diag;
        Self {
            is_diag: style.diag,
            is_pretty,
            has_colour: is_terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// For the items of a stream.
    pub(crate) fn items(is_diag: bool) -> Self {
        let (json, diag) = (!is_diag, is_diag);
        Self::new(Style { diag, json })
    }

    /// An answer.
    pub(crate) fn answer(self, payload: &[u8]) -> Result<()> {
        let text = if self.is_diag {
            diagnostic(payload)
        } else if self.is_pretty {
            json::pretty(&decode(payload)?)
        } else {
            json::compact(&decode(payload)?)
        };
        print(&text)
    }

    /// An item of a stream, always in one line. One that does not decode is shown in diagnostic notation: it costs that
    /// item only.
    pub(crate) fn item(self, payload: &[u8]) -> Result<()> {
        match decode(payload) {
            _ if self.is_diag => print(&diagnostic(payload)),
            Ok(value) => print(&json::compact(&value)),
            Err(_) => print(&serde_json::json!({ "diag": diagnostic(payload) }).to_string()),
        }
    }

    /// An event. A payload that does not decode is shown in diagnostic notation: it costs that event only.
    pub(crate) fn event(self, event: &Message) -> Result<()> {
        let (topic, payload) = (event.topic(), event.payload_bytes());
        let shown = if self.has_colour {
            format!("\x1b[36m{topic}\x1b[0m")
        } else {
            topic.to_owned()
        };
        let meta = |name: &str| event.meta::<Value>(name).ok().flatten();
        let (key, dead) = (meta("key"), Dead::read(meta));
        let shown = match &key {
            Some(key) => format!("{shown} {}", json::compact(key)),
            None => shown,
        };
        let shown = match &dead {
            Some(Dead {
                topic,
                at,
                deliveries,
            }) => format!("{shown} ({topic} {at}, given {deliveries} times)"),
            None => shown,
        };
        let shown = match event.position() {
            Some(position) if event.dup() > 0 => format!("{position} (again) {shown}"),
            Some(position) => format!("{position} {shown}"),
            None => shown,
        };
        if self.is_diag {
            return print(&format!("{shown} {}", diagnostic(payload)));
        }
        let value = decode(payload).ok();
        if self.is_pretty {
            let text = value.as_ref().map_or_else(|| diagnostic(payload), json::pretty);
            return print(&format!("{shown} {text}"));
        }
        let diag = value.is_none().then(|| diagnostic(payload));
        let line = Line {
            topic,
            key: key.as_ref().map(Shown),
            dead,
            position: event.position().map(|position| position.to_string()),
            dup: event.dup(),
            payload: value.as_ref().map(Shown),
            diag,
        };
        print(&serde_json::to_string(&line).map_err(|error| Failure::here(error.to_string()))?)
    }
}

pub(crate) fn decode(payload: &[u8]) -> Result<Value> {
    ciborium::from_reader(payload).map_err(|error| {
        Failure::here(format!(
            "the payload cannot be shown as JSON ({error}); try --diag"
        ))
    })
}

/// RFC 8949 §8.
pub(crate) fn diagnostic(payload: &[u8]) -> String {
    minicbor::display(payload).to_string()
}

/// A line on stdout, at once.
pub(crate) fn print(line: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    Ok(())
}

/// A line on stderr. Whether anybody reads it does not matter.
pub(crate) fn tell(line: &str) {
    drop(writeln!(io::stderr(), "fluxar: {line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_says_where_it_came_from() {
        let at = Value::Array(vec![45.into(), 1_000_001.into()]);
        let meta = |name: &str| match name {
            "x-dead-topic" => Some(Value::from("jobs.a")),
            "x-dead-at" => Some(at.clone()),
            "x-deliveries" => Some(Value::from(5)),
            _ => None,
        };
        let dead = serde_json::to_string(&Dead::read(meta)).expect("JSON");
        assert_eq!(dead, r#"{"topic":"jobs.a","at":"45@1000001","deliveries":5}"#);
        assert!(Dead::read(|name| meta(name).filter(|_| name != "x-dead-at")).is_none());
        assert!(Dead::read(|_| Some(Value::Null)).is_none());
    }
}
