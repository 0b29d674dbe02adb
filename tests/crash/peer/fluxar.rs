//! Fluxar Gateway: publishes at qos 2 and `synced`, a durable subscriber at qos 2.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use fluxar_engine::sim::Random;
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::position::write_positions;
use fluxar_protocol::{Id, Kind};
use fluxar_tests::message::encoded;

use super::{Heard, Hearer, Peer, Publisher, Settled, topic};
use crate::book::EventName;
use crate::ledger::Ledger;
use crate::power;
use crate::syncs::Syncs;
use crate::wire::{BODY_BYTES, Wire};

/// The last offset of each partition that anybody was told of.
type ToldUntil = Arc<Mutex<HashMap<u16, u64>>>;

/// See the module.
pub(super) struct Fluxar {
    program: PathBuf,
    cores: usize,
    told_until: ToldUntil,
    syncs: RefCell<Option<Syncs>>,
}

impl Fluxar {
    pub(super) fn new(program: PathBuf, cores: usize) -> Self {
        Self {
            program,
            cores,
            told_until: Arc::default(),
            syncs: RefCell::default(),
        }
    }
}

impl Peer for Fluxar {
    fn title(&self) -> String {
        "Fluxar Gateway, qos 2, synced".into()
    }

    fn command(&self, folder: &Path, port: u16) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(["--log", "warn", "--listen", &format!("tcp://127.0.0.1:{port}")])
            .args(["--cores", &self.cores.to_string()])
            .arg("--log-dir")
            .arg(folder.join("log"));
        Ok(command)
    }

    fn prepare(&self, port: u16) -> io::Result<()> {
        Wire::open(&format!("127.0.0.1:{port}"), None).map(|_| ())
    }

    fn publisher(&self, publisher: u32) -> Box<dyn Publisher> {
        Box::new(FluxarPublisher {
            wire: None,
            publisher,
            body: Vec::new(),
            told_until: Arc::clone(&self.told_until),
        })
    }

    fn hearer(&self) -> Box<dyn Hearer> {
        Box::new(FluxarHearer {
            wire: None,
            sub: Id([0; 16]),
            has_begun: false,
            run: Vec::new().into_iter(),
            partition: 0,
            told_until: Arc::clone(&self.told_until),
        })
    }

    fn log_suffix(&self) -> &str {
        ".log"
    }

    fn power_cut(&self, folder: &Path, _: &Ledger, random: &mut Random) -> io::Result<u64> {
        let told_until = self.told_until.lock().unwrap_or_else(PoisonError::into_inner);
        let log = folder.join("log");
        let mut syncs = self.syncs.borrow_mut();
        let syncs = match &mut *syncs {
            Some(syncs) => syncs,
            none => none.insert(Syncs::new(folder)?),
        };
        match syncs.look(&log, &told_until)?.pop() {
            Some(fault) => Err(io::Error::other(fault)),
            None => Ok(power::cut(&log, &told_until, random)?.bytes),
        }
    }

    fn is_ours(&self) -> bool {
        true
    }

    /// It syncs through `io_uring`. What must stay is what was acknowledged or delivered.
    fn is_traced(&self) -> bool {
        false
    }
}

fn tell(told_until: &ToldUntil, partition: u16, offset: u64) -> u64 {
    let mut told_until = told_until.lock().unwrap_or_else(PoisonError::into_inner);
    let until = told_until.entry(partition).or_default();
    *until = offset.max(*until);
    u64::from(partition) << 48 | offset
}

fn connected(wire: &mut Option<Wire>) -> io::Result<&mut Wire> {
    wire.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

struct FluxarPublisher {
    wire: Option<Wire>,
    publisher: u32,
    body: Vec<u8>,
    told_until: ToldUntil,
}

impl Publisher for FluxarPublisher {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.wire = None;
        self.body.clear();
        self.wire = Some(Wire::open(&format!("127.0.0.1:{port}"), None)?);
        Ok(())
    }

    fn publish(&mut self, number: u64) {
        let name = EventName {
            publisher: self.publisher,
            number,
        };
        let meta = MetaWriter::new().uint("qos", 2).finish();
        let payload = fluxar_tests::message::number(number);
        let topic = topic(self.publisher, number, '.');
        let event = encoded(
            Kind::Event,
            name.id(),
            None,
            Some(&topic),
            meta.as_deref(),
            &payload,
        );
        self.body.extend_from_slice(&event);
    }

    fn send(&mut self) -> io::Result<()> {
        // A window of events is less than a body may be.
        debug_assert!(self.body.len() <= BODY_BYTES);
        let body = std::mem::take(&mut self.body);
        connected(&mut self.wire)?.send(&body)
    }

    fn settled(&mut self, into: &mut Vec<Settled>) -> io::Result<()> {
        let wire = connected(&mut self.wire)?;
        loop {
            let Some(received) = wire.next()? else {
                return Ok(());
            };
            if let (Kind::Event, Some(id)) = (received.kind, received.reference) {
                let number = EventName::of(id).number;
                into.push(match received.at() {
                    Some(at) if received.error.is_none() => {
                        tell(&self.told_until, at.partition, at.offset);
                        Settled::Acknowledged(number)
                    }
                    _ => Settled::Refused(number),
                });
            }
            if !wire.has_more() {
                return Ok(());
            }
        }
    }
}

struct FluxarHearer {
    wire: Option<Wire>,
    sub: Id,
    /// There is a cursor.
    has_begun: bool,
    /// Offsets of the run at hand.
    run: std::vec::IntoIter<u64>,
    partition: u16,
    told_until: ToldUntil,
}

impl Hearer for FluxarHearer {
    fn connect(&mut self, port: u16) -> io::Result<()> {
        self.wire = None;
        let mut wire = Wire::open(&format!("127.0.0.1:{port}"), None)?;
        let mut meta = MetaWriter::new().uint("qos", 2).text("durable", "audit");
        if !self.has_begun {
            meta = meta.text("from", "all");
        }
        self.sub = wire.id();
        let meta = meta.finish();
        wire.send(&encoded(
            Kind::Subscribe,
            self.sub,
            None,
            Some("crash.>"),
            meta.as_deref(),
            &[],
        ))?;
        if let Some((code, message)) = wire.answer_to(self.sub)?.error {
            return Err(io::Error::other(format!("{code:?}: {message}")));
        }
        self.has_begun = true;
        self.run = Vec::new().into_iter();
        self.wire = Some(wire);
        Ok(())
    }

    fn hear(&mut self, into: &mut Vec<Heard>) -> io::Result<()> {
        let wire = connected(&mut self.wire)?;
        loop {
            let Some(received) = wire.next()? else {
                return Ok(());
            };
            if received.kind == Kind::Subscribe && received.reference == Some(self.sub) {
                if received.ends() || received.error.is_some() {
                    let why = format!("the subscription was ended: {:?}", received.error);
                    return Err(io::Error::other(why));
                }
                if let Some((partition, offsets)) = received.positions() {
                    self.partition = partition;
                    self.run = offsets.into_iter();
                }
            } else if received.kind == Kind::Event
                && received.reference.is_none()
                && let Some(offset) = self.run.next()
            {
                into.push(Heard {
                    event: EventName::of(received.id),
                    place: Some(tell(&self.told_until, self.partition, offset)),
                });
                if self.run.len() == 0 {
                    let mut at = Vec::new();
                    write_positions(self.partition, offset, std::iter::empty(), &mut at);
                    let meta = MetaWriter::new().raw("ack", &at).finish();
                    let id = wire.id();
                    wire.send(&encoded(
                        Kind::Event,
                        id,
                        Some(self.sub),
                        None,
                        meta.as_deref(),
                        &[],
                    ))?;
                }
            }
            if !wire.has_more() {
                return Ok(());
            }
        }
    }
}
