//! Every setting of the gateway in one table: its name, its meaning, how it is read. The configuration file, the
//! environment and the example configuration all go by this table, so none can lag behind the others.

use fluxar_engine::ws::Origins;
use fluxar_protocol::limits as wire;

use crate::config::{Config, Cores, LogDir, checked_name, show_text};
use crate::services::AdminFrom;

/// A value as a file or the environment gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Number(i128),
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// Anything else; what it is.
    Other(&'static str),
}

/// One setting.
pub struct Setting {
    /// Its name, section first: `limits.queue_bytes`.
    pub key: &'static str,
    /// For the example configuration: what it is, with its unit.
    pub what: &'static str,
    /// Reads it into a configuration; the text says what is wrong and what would be right.
    pub set: fn(&mut Config, Value) -> Result<(), String>,
    /// Its present value, as TOML.
    pub show: fn(&Config) -> String,
}

impl Setting {
    /// The environment variable that overrides it: `FLUXAR_LIMITS_QUEUE_BYTES`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("FLUXAR_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Whether a reload takes it over; the others take effect at the next start.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.key.starts_with("services.") || ["admin.from", "log.level"].contains(&self.key)
    }
}

/// A numeric setting: where it is stored, and the range that it may have.
macro_rules! number {
    ($key:literal, $what:literal, $($field:ident).+, $range:expr) => {
        Setting {
            key: $key,
            what: $what,
            set: |config, value| {
                config.$($field).+ = number(value, $range)?;
                Ok(())
            },
            show: |config| config.$($field).+.to_string(),
        }
    };
}

/// All settings, in the order of the example configuration.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "cores",
        what: "which cores: \"all\", how many, or a list like \"0,2-3\"",
        set: |config, value| {
            config.cores = match value {
                Value::Number(count) => Cores::parse(&count.to_string())?,
                Value::Text(text) => Cores::parse(&text)?,
                other => {
                    return Err(format!(
                        "{} where \"all\", a number or a list like \"0,2-3\" belongs",
                        other.kind()
                    ));
                }
            };
            Ok(())
        },
        show: |config| format!("{:?}", config.cores.to_string()),
    },
    Setting {
        key: "listen",
        what: "where to listen: tcp://HOST:PORT, ws://HOST:PORT, unix:///PATH",
        set: |config, value| {
            config.listen = texts(value)?;
            if config.listen.is_empty() {
                return Err("an empty list: the gateway would be unreachable".into());
            }
            for url in &config.listen {
                fluxar_engine::listener::Address::parse(url).map_err(|error| error.to_string())?;
            }
            Ok(())
        },
        show: |config| format!("{:?}", config.listen),
    },
    number!(
        "limits.connections",
        "connections a core",
        limits.connections,
        1..=10_000_000
    ),
    number!(
        "limits.queue_bytes",
        "bytes queued to a connection: beyond it events are dropped and it gets no new calls; a quarter over, it is not read; at twice, an answer closes it",
        limits.queue_bytes,
        64 * 1024..=1 << 30
    ),
    number!(
        "limits.max_frame_bytes",
        "largest frame taken from a client",
        limits.max_frame_bytes,
        wire::FRAME_BYTES_LEAST as i128..=wire::FRAME_BYTES_MOST as i128
    ),
    number!(
        "limits.handshake_ms",
        "from accept to hello",
        limits.handshake_ms,
        100..=60_000
    ),
    number!(
        "limits.heartbeat_ms",
        "silence after which a client is pinged; it is lost after two",
        limits.heartbeat_ms,
        1_000..=3_600_000
    ),
    number!(
        "limits.frame_ms",
        "from the first byte of a frame to its last",
        limits.frame_ms,
        1_000..=3_600_000
    ),
    number!(
        "limits.stall_ms",
        "how long a full queue may stand still",
        limits.stall_ms,
        1_000..=3_600_000
    ),
    number!(
        "limits.drain_ms",
        "from SIGTERM to the end",
        limits.drain_ms,
        0..=600_000
    ),
    number!(
        "limits.messages_per_s",
        "envelopes a second from a connection, 0: no bound",
        limits.messages_per_s,
        0..=u32::MAX.into()
    ),
    number!(
        "limits.bytes_per_s",
        "bytes a second from a connection, 0: no bound",
        limits.bytes_per_s,
        0..=u32::MAX.into()
    ),
    number!(
        "limits.refusals_per_s",
        "refused envelopes a second from a connection, beyond it is closed; 0: no bound",
        limits.refusals_per_s,
        0..=u32::MAX.into()
    ),
    number!(
        "limits.subscriptions_per_connection",
        "subscriptions and offers to serve",
        limits.subscriptions_per_connection,
        1..=1_000_000
    ),
    number!(
        "limits.calls_per_connection",
        "calls in flight",
        limits.calls_per_connection,
        1..=1_000_000
    ),
    number!(
        "limits.letters_waiting",
        "letters for a core whose mailbox is full",
        limits.letters_waiting,
        16..=1_000_000
    ),
    number!(
        "limits.stream_window_bytes",
        "bytes of a stream, each way, that the gateway lets be under way",
        limits.stream_window_bytes,
        4 * 1024..=16 * 1024 * 1024
    ),
    number!(
        "limits.calls_queued",
        "calls of a core that wait because all who serve them have their in_flight: beyond it the least urgent is refused",
        limits.calls_queued,
        0..=10_000_000
    ),
    number!(
        "limits.call_bytes_held",
        "bytes of calls that a core keeps, to send them later or again: beyond it a call that would wait is refused",
        limits.call_bytes_held,
        0..=1 << 34
    ),
    number!(
        "limits.publish_unacked_bytes",
        "bytes of a connection's publishes at qos 1 and 2 that wait for their acknowledgement: beyond it, it is not read",
        limits.publish_unacked_bytes,
        64 * 1024..=1 << 30
    ),
    number!(
        "limits.unacked_bytes",
        "bytes of logged events that a subscription has and did not acknowledge: beyond it, it gets no more",
        limits.unacked_bytes,
        64 * 1024..=1 << 30
    ),
    number!(
        "limits.unacked_events",
        "the same in events",
        limits.unacked_events,
        1..=1_000_000
    ),
    number!(
        "limits.topics_remembered",
        "topics of which a core remembers who gets their events: those beyond it are looked up for each message",
        limits.topics_remembered,
        1..=4 * 1024 * 1024
    ),
    number!(
        "limits.resume_ms",
        "how long a session is kept whose connection was lost, 0: none can be resumed",
        limits.resume_ms,
        0..=3_600_000
    ),
    number!(
        "limits.resume_bytes",
        "bytes kept for a session until its peer has them: beyond it the oldest are forgotten, and a resume that needs them fails",
        limits.resume_bytes,
        0..=1 << 30
    ),
    number!(
        "limits.resume_bytes_per_core",
        "the same for all sessions of a core",
        limits.resume_bytes_per_core,
        0..=1 << 40
    ),
    number!(
        "limits.retry_spread_ms",
        "over how much time those come back, at least, that a core tells to",
        limits.retry_spread_ms,
        0..=600_000
    ),
    Setting {
        key: "websocket.origins",
        what: "web pages that may connect: \"loopback\" (this machine's, files too), \"any\", or a list like [\"https://example.com\"]",
        set: |config, value| {
            config.origins = match value {
                Value::Text(text) if text == "loopback" => Origins::Loopback,
                Value::Text(text) if text == "any" => Origins::Any,
                other => Origins::List(texts(other)?),
            };
            Ok(())
        },
        show: |config| match &config.origins {
            Origins::Loopback => "\"loopback\"".into(),
            Origins::Any => "\"any\"".into(),
            Origins::List(list) => format!("{list:?}"),
        },
    },
    number!(
        "engine.spin_us",
        "how long a core looks for mail and completions before it parks: quicker letters between cores for more CPU",
        engine.spin_us,
        0..=1_000
    ),
    number!(
        "engine.ring_entries",
        "submission entries of a core's ring",
        engine.ring_entries,
        64..=32_768
    ),
    number!(
        "engine.buffers",
        "receive buffers of a core, a power of two",
        engine.buffers,
        16..=32_768
    ),
    number!(
        "engine.buffer_bytes",
        "size of a receive buffer",
        engine.buffer_bytes,
        1_024..=1_048_576
    ),
    number!(
        "engine.mailbox_letters",
        "letters under way from one core to another",
        engine.mailbox_letters,
        64..=1_048_576
    ),
    Setting {
        key: "services.zone",
        what: "where this gateway stands; services of the same zone are preferred, \"\": none",
        set: |config, value| {
            let Value::Text(text) = value else {
                return Err(format!("{} where a text belongs", value.kind()));
            };
            config.services.zone = if text.is_empty() {
                None
            } else {
                Some(checked_name(text)?)
            };
            Ok(())
        },
        show: |config| show_text(config.services.zone.as_deref().unwrap_or_default()),
    },
    number!(
        "services.ping_ms",
        "silence after which a service is pinged, 0: only by its heartbeat",
        services.health.ping_ms,
        0..=3_600_000
    ),
    number!(
        "services.silent_ms",
        "silence after that until it gets no new calls; what it says next ends it",
        services.health.silent_ms,
        10..=3_600_000
    ),
    number!(
        "services.ejection_failures",
        "failures in a row for which a service is left out for a while, 0: never",
        services.ejection.failures,
        0..=10_000
    ),
    number!(
        "services.ejection_first_ms",
        "for how long the first time; twice as long each time after that",
        services.ejection.first_ms,
        10..=3_600_000
    ),
    number!(
        "services.ejection_most_ms",
        "for how long at most",
        services.ejection.most_ms,
        10..=3_600_000
    ),
    number!(
        "services.slow_start_ms",
        "how long it takes one that was left out, or silent, to get its whole share again",
        services.ejection.slow_start_ms,
        0..=3_600_000
    ),
    number!(
        "services.ejection_percent",
        "percent of those who serve a method that may be left out at a time; never all",
        services.ejection.percent_max,
        0..=100
    ),
    number!(
        "services.retry_percent",
        "calls sent a second time (retries and hedges), in percent of the calls of the last ten seconds",
        services.retries.percent,
        0..=100
    ),
    number!(
        "services.retry_least_per_s",
        "so many a second may be in any case",
        services.retries.least_per_s,
        0..=1_000_000
    ),
    Setting {
        key: "admin.from",
        what: "who may list and drain services: \"unix\" (Unix sockets), \"loopback\" (TCP of this machine), both or none; behind a proxy on this machine all its clients come from loopback: write [\"unix\"]",
        set: |config, value| {
            config.admin_from = AdminFrom::parse(&texts(value)?)?;
            Ok(())
        },
        show: |config| format!("{:?}", config.admin_from.names()),
    },
    Setting {
        key: "log.dir",
        what: "where events at qos 1 and 2 are kept; \"usual\": $STATE_DIRECTORY, or $XDG_STATE_HOME/fluxar, or ~/.local/state/fluxar; \"\": nowhere, they are refused",
        set: |config, value| {
            config.log.dir = match value {
                Value::Text(text) if text.is_empty() => LogDir::Nowhere,
                Value::Text(text) if text == "usual" => LogDir::Usual,
                Value::Text(text) => LogDir::At(text.into()),
                other => return Err(format!("{} where a path belongs", other.kind())),
            };
            Ok(())
        },
        show: |config| match &config.log.dir {
            LogDir::Usual => "\"usual\"".into(),
            LogDir::Nowhere => "\"\"".into(),
            LogDir::At(path) => show_text(&path.to_string_lossy()),
        },
    },
    number!(
        "log.partitions",
        "ordered logs onto which topics are hashed; fixed when the directory is made",
        log.settings.partitions,
        1..=4_096
    ),
    number!(
        "log.segment_bytes",
        "size of a segment, the file that is removed when it is too old",
        log.settings.segment_bytes,
        1 << 20..=1 << 31
    ),
    number!(
        "log.unsynced_bytes",
        "bytes of a core that wait for the disk; beyond it publishes are refused until it has caught up",
        log.settings.unsynced_bytes_max,
        1 << 20..=1 << 34
    ),
    number!(
        "log.tail_bytes",
        "bytes of the newest events that a core keeps in memory, for subscribers that are a little behind",
        log.settings.tail_bytes,
        0..=1 << 34
    ),
    number!(
        "log.sync_ms",
        "after so long what was written is synced even if nobody waits for it",
        log.settings.sync_ms,
        1..=3_600_000
    ),
    number!(
        "log.once_ms",
        "how long ids of publishes at qos 2 are remembered",
        log.settings.once_ms,
        1_000..=86_400_000
    ),
    number!(
        "log.once_ids",
        "how many of them a core remembers; one more publish is refused",
        log.settings.once_ids_max,
        1_000..=1 << 30
    ),
    number!(
        "log.cursors",
        "durable cursors of a core; one more is refused",
        log.settings.cursors_max,
        0..=100_000_000
    ),
    number!(
        "log.rows",
        "retained events of a core, the marks of removed ones included; an event with one more key is refused",
        log.settings.rows_max,
        0..=100_000_000
    ),
    number!(
        "log.cursor_ms",
        "a durable cursor that nobody used for so long is forgotten",
        log.settings.cursor_ms,
        1_000..=i128::from(u32::MAX) * 1_000
    ),
    number!(
        "log.retain_ms",
        "segments whose newest event is older are removed, 0: never",
        log.settings.retain_ms,
        0..=i128::from(u32::MAX) * 1_000
    ),
    number!(
        "log.retain_bytes",
        "a core's oldest segments are removed while all of them are larger, 0: never",
        log.settings.retain_bytes,
        0..=1 << 50
    ),
    number!(
        "log.retain_events",
        "a segment is removed once each of its partitions has so many newer events, 0: never",
        log.settings.retain_events,
        0..=1 << 50
    ),
    number!(
        "log.ack_ms",
        "how long a member of a group has to acknowledge an event before another gets it",
        log.settings.ack_ms,
        100..=86_400_000
    ),
    Setting {
        key: "log.level",
        what: "of what the gateway itself says: off, error, warn, info, debug or trace",
        set: |config, value| {
            let text = match value {
                Value::Text(text) => text,
                other => return Err(format!("{} where a text belongs", other.kind())),
            };
            if !["off", "error", "warn", "info", "debug", "trace"].contains(&text.as_str()) {
                return Err(format!(
                    "{text:?} is none of off, error, warn, info, debug, trace"
                ));
            }
            config.log_level = text;
            Ok(())
        },
        show: |config| format!("{:?}", config.log_level),
    },
];

/// The setting of this name.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The name that was probably meant, among the settings and these others: the nearest one, if it is near.
#[must_use]
pub fn nearest(key: &str, others: &[&'static str]) -> Option<&'static str> {
    let settings = SETTINGS.iter().map(|setting| setting.key);
    nearest_of(key, settings.chain(others.iter().copied()))
}

/// The same among these.
pub(crate) fn nearest_of<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|known| (distance(key, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .map(|(_, known)| known)
}

/// How many letters must be changed to make one of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Value {
    /// What it is, for a message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Other(kind) => kind,
        }
    }
}

pub(crate) fn number<N: TryFrom<i128>>(
    value: Value,
    range: std::ops::RangeInclusive<i128>,
) -> Result<N, String> {
    let Value::Number(number) = value else {
        return Err(format!("{} where a whole number belongs", value.kind()));
    };
    if !range.contains(&number) {
        return Err(format!("{number} is outside {}..{}", range.start(), range.end()));
    }
    N::try_from(number).map_err(|_| format!("{number} is too large for this machine"))
}

pub(crate) fn texts(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Text(text) => Ok(vec![text]),
        Value::List(list) => Ok(list),
        other => Err(format!("{} where a list of texts belongs", other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(nearest("limits.queue_byte", &[]), Some("limits.queue_bytes"));
        assert_eq!(nearest("lissten", &[]), Some("listen"));
        assert_eq!(nearest("colour", &[]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn variables_follow_the_names() {
        assert_eq!(
            find("limits.queue_bytes").map(Setting::variable).as_deref(),
            Some("FLUXAR_LIMITS_QUEUE_BYTES")
        );
    }
}
