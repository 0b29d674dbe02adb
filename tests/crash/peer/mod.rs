//! The gateway and the brokers beside it, as one play sees them: something that is started on a folder, takes events,
//! acknowledges them, and hands them to a durable subscriber. Each in the way that its own documents recommend to
//! those who want nothing lost.

mod fluxar;
mod jetstream;
mod link;
mod mosquitto;
mod redis;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use fluxar_engine::sim::Random;

use crate::book::EventName;
use crate::ledger::Ledger;

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is promised.
    Acknowledged(u64),
    /// Not now; it is to be sent again.
    Refused(u64),
}

/// An event that was delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) event: EventName,
    /// Where it is in the broker's log, if it has such places: the same event at the same place again is a repeat that a
    /// receiver can tell.
    pub(crate) place: Option<u64>,
}

/// A publisher, over all its connections.
pub(crate) trait Publisher: Send {
    /// Connects anew. What was under way before is published again by the caller.
    fn connect(&mut self, port: u16) -> io::Result<()>;
    /// Adds an event to what is sent next.
    fn publish(&mut self, number: u64);
    /// Sends what was added.
    fn send(&mut self) -> io::Result<()>;
    /// What arrived, waiting for it no longer than a moment.
    fn settled(&mut self, into: &mut Vec<Settled>) -> io::Result<()>;
}

/// A durable subscriber, over all its connections. It acknowledges what it has handed out.
pub(crate) trait Hearer: Send {
    /// Connects anew, and goes on where it was.
    fn connect(&mut self, port: u16) -> io::Result<()>;
    /// What arrived, waiting for it no longer than a moment.
    fn hear(&mut self, into: &mut Vec<Heard>) -> io::Result<()>;
}

/// See the module.
pub(crate) trait Peer {
    /// What it is and how it is set, for the table.
    fn title(&self) -> String;
    /// How it is started on this folder and port of 127.0.0.1.
    fn command(&self, folder: &Path, port: u16) -> io::Result<Command>;
    /// Makes what publishers and hearers need, if it is not there. Fails as long as the broker cannot be used.
    fn prepare(&self, port: u16) -> io::Result<()>;
    /// A publisher with this number.
    fn publisher(&self, publisher: u32) -> Box<dyn Publisher>;
    /// The one durable subscriber.
    fn hearer(&self) -> Box<dyn Hearer>;
    /// The names of files that are only appended to end so. What else there is is written whole and renamed, which
    /// the file systems of today put on the disk by themselves before the name changes.
    fn log_suffix(&self) -> &str;
    /// Takes from its files what a power cut may take; the number of bytes. `synced` is what the system was told to sync.
    fn power_cut(&self, folder: &Path, synced: &Ledger, random: &mut Random) -> io::Result<u64> {
        synced.cut(folder, self.log_suffix(), random)
    }
    /// Whether it is the gateway, which is held to what it promises.
    fn is_ours(&self) -> bool {
        false
    }
    /// Whether a ledger of its system calls says what it synced.
    fn is_traced(&self) -> bool {
        true
    }
}

/// The settings that can be asked for, and what they are.
pub(crate) const NAMES: &[&str] = &[
    "fluxar",
    "jetstream",
    "jetstream-always",
    "mosquitto-qos1",
    "mosquitto-qos2",
    "mosquitto-autosave-qos1",
    "mosquitto-autosave-qos2",
    "redis",
];

/// A peer by its name, run by this program, or by the one that its package installs.
pub(crate) fn named(
    name: &str,
    program: Option<&Path>,
    gateway: &Path,
    cores: usize,
) -> Option<Box<dyn Peer>> {
    let installed = |name: &str| program.map_or_else(|| found(name), Path::to_owned);
    Some(match name {
        "fluxar" => Box::new(fluxar::Fluxar::new(gateway.to_owned(), cores)),
        "jetstream" | "jetstream-always" => Box::new(jetstream::Jetstream {
            program: installed("nats-server"),
            is_synced_always: name.ends_with("always"),
        }),
        "redis" => Box::new(redis::Redis {
            program: installed("redis-server"),
        }),
        _ => {
            let settings = name.strip_prefix("mosquitto-")?;
            let (is_saved_often, qos) = match settings {
                "qos1" => (false, 1),
                "qos2" => (false, 2),
                "autosave-qos1" => (true, 1),
                "autosave-qos2" => (true, 2),
                _ => return None,
            };
            Box::new(mosquitto::Mosquitto {
                program: installed("mosquitto"),
                qos,
                is_saved_often,
            })
        }
    })
}

/// Debian has some of them where the PATH of a user does not lead.
fn found(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| name.into())
}

/// The topic of an event, its tokens divided so.
fn topic(publisher: u32, number: u64, divider: char) -> String {
    format!("crash{divider}{publisher}{divider}{}", number % 4)
}

/// The payload of an event, readable: its publisher and number.
fn payload(publisher: u32, number: u64) -> String {
    format!("{publisher}-{number}")
}

/// An event by its payload.
fn event(payload: &[u8]) -> io::Result<EventName> {
    let fault = || io::Error::other(format!("a payload that nobody sent: {}", payload.escape_ascii()));
    let text = std::str::from_utf8(payload).map_err(|_| fault())?;
    let (publisher, number) = text.split_once('-').ok_or_else(fault)?;
    Ok(EventName {
        publisher: publisher.parse().map_err(|_| fault())?,
        number: number.parse().map_err(|_| fault())?,
    })
}
