//! The same play for the gateway and the brokers beside it: publishers that send again what is not acknowledged, one durable
//! subscriber that is away in half of the lives, `kill -9` at random moments, and, if it is asked for, a power cut behind each. Counts what was
//! acknowledged and never came, what came twice, and what came out of order. It prints a table and judges nobody but the
//! gateway, which must keep its promises here too.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

use crate::Args;
use crate::book::EventName;
use crate::cast::wait_until;
use crate::ledger::{self, Ledger};
use crate::peer::{Heard, Hearer, Peer, Publisher, Settled};
use crate::report::{line, spread};

/// Events of one publisher under way, at most.
const WINDOW: usize = 128;
/// Between two bodies of one publisher.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a broker may take to be usable, and to acknowledge something.
const READY: Duration = Duration::from_secs(60);
/// What does not come for so long, when nothing is published any more, never comes: more than the time after which any of
/// them tells again what was not acknowledged.
const QUIET: Duration = Duration::from_secs(12);

/// What is known of the events.
#[derive(Debug, Default)]
struct Tab {
    acked: HashSet<EventName>,
    /// Where each was heard first.
    heard: HashMap<EventName, Option<u64>>,
    /// The last of each publisher and topic.
    last: HashMap<(u32, u64), u64>,
    refused: u64,
    /// The same event at another place, or without one.
    twice: u64,
    /// At the same place: a receiver can tell.
    again: u64,
    reordered: u64,
}

impl Tab {
    fn hear(&mut self, heard: Heard) {
        let event = heard.event;
        if let Some(before) = self.heard.get(&event) {
            if before.is_some() && *before == heard.place {
                self.again += 1;
            } else {
                self.twice += 1;
            }
            return;
        }
        self.heard.insert(event, heard.place);
        let last = self.last.entry((event.publisher, event.number % 4)).or_default();
        self.reordered += u64::from(*last > event.number);
        *last = event.number.max(*last);
    }

    fn lost(&self) -> usize {
        self.acked
            .iter()
            .filter(|event| !self.heard.contains_key(event))
            .count()
    }
}

#[derive(Default)]
struct Scene {
    tab: Mutex<Tab>,
    port: Mutex<Option<u16>>,
    visitors: AtomicUsize,
    /// The subscriber is to stay away.
    is_hearer_away: AtomicBool,
    is_ending: AtomicBool,
    is_over: AtomicBool,
}

impl Scene {
    fn tab(&self) -> MutexGuard<'_, Tab> {
        self.tab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_port(&self, port: Option<u16>) {
        *self.port.lock().unwrap_or_else(PoisonError::into_inner) = port;
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn is_hearer_away(&self) -> bool {
        self.is_hearer_away.load(Ordering::Relaxed)
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Does something with the broker, if it is there, until that fails.
    fn visit(&self, with: impl FnOnce(u16) -> io::Result<()>) -> io::Result<()> {
        self.visitors.fetch_add(1, Ordering::AcqRel);
        let port = *self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let result = port.ok_or(io::ErrorKind::NotConnected.into()).and_then(with);
        self.visitors.fetch_sub(1, Ordering::AcqRel);
        if result.is_err() {
            thread::sleep(Duration::from_millis(10)); // the next attempt, not a wait for anything
        }
        result
    }
}

/// What one trial came to.
pub(crate) struct Outcome {
    title: String,
    has_power_cuts: bool,
    kills: u32,
    cut_bytes: u64,
    acked: usize,
    lost: usize,
    twice: u64,
    again: u64,
    reordered: u64,
    ready_ms: Vec<u64>,
    acking_ms: Vec<u64>,
    took: Duration,
    /// Why it ended early.
    fault: Option<String>,
}

/// Lives through it.
pub(crate) fn live(args: &Args, peer: &dyn Peer, folder: &Path) -> io::Result<Outcome> {
    println!(
        "crash: {}, {} kills, seed {}",
        peer.title(),
        args.kills,
        args.seed
    );
    let scene = Arc::new(Scene::default());
    let begun = Instant::now();
    let data = folder.join("data");
    std::fs::create_dir_all(&data)?;
    let watch = if args.has_power_cuts && peer.is_traced() {
        Some(ledger::compile("ledger", ledger::SOURCE, folder)?)
    } else {
        None
    };
    let mut random = Random::new(args.seed);
    let mut broker = Broker::start(peer, &data, watch.as_deref())?;
    scene.set_port(Some(broker.port));
    let mut threads: Vec<thread::JoinHandle<()>> = (1..=args.publishers)
        .map(|number| {
            let (scene, publisher) = (Arc::clone(&scene), peer.publisher(number));
            thread::spawn(move || publish(&scene, publisher, number))
        })
        .collect();
    let publishers = threads.len();
    let (hearing, hearer) = (Arc::clone(&scene), peer.hearer());
    threads.push(thread::spawn(move || hear(&hearing, hearer)));

    let mut outcome = Outcome {
        title: peer.title(),
        has_power_cuts: args.has_power_cuts,
        kills: 0,
        cut_bytes: 0,
        acked: 0,
        lost: 0,
        twice: 0,
        again: 0,
        reordered: 0,
        ready_ms: Vec::new(),
        acking_ms: Vec::new(),
        took: Duration::ZERO,
        fault: None,
    };
    while outcome.kills < args.kills {
        let acked = scene.tab().acked.len();
        if !wait_until(READY, || scene.tab().acked.len() > acked) {
            outcome.fault = Some(format!("nothing was acknowledged for {} s", READY.as_secs()));
            break;
        }
        outcome
            .acking_ms
            .push(broker.started.elapsed().as_millis() as u64);
        thread::sleep(Duration::from_millis(random.below(400)));
        scene.set_port(None);
        // What somebody heard at once needs no log: in half of the lives nobody does.
        scene.is_hearer_away.store(random.chance(0.5), Ordering::Relaxed);
        let ledger = broker.kill()?;
        outcome.kills += 1;
        // What it had said is read to its end: that was promised.
        while scene.visitors.load(Ordering::Acquire) > 0 {
            thread::sleep(Duration::from_millis(2));
        }
        if args.has_power_cuts {
            outcome.cut_bytes += peer.power_cut(&data, &ledger, &mut random)?;
        }
        broker = match Broker::start(peer, &data, watch.as_deref()) {
            Ok(broker) => broker,
            Err(error) => {
                outcome.fault = Some(format!("it did not come back: {error}"));
                break;
            }
        };
        outcome.ready_ms.push(broker.ready_ms);
        scene.set_port(Some(broker.port));
        if outcome.kills.is_multiple_of(10) {
            let acked = scene.tab().acked.len();
            let seconds = begun.elapsed().as_secs();
            println!("  {} kills, {acked} acknowledged, {seconds} s", outcome.kills);
        }
    }
    scene.is_hearer_away.store(false, Ordering::Relaxed);
    scene.is_ending.store(true, Ordering::Relaxed);
    if outcome.fault.is_none()
        && !wait_until(READY, || {
            threads[..publishers].iter().all(thread::JoinHandle::is_finished)
        })
    {
        outcome.fault = Some("not everything was acknowledged in the end".into());
    }
    wait_for_the_rest(&scene);
    scene.is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let tab = scene.tab();
    outcome.acked = tab.acked.len();
    outcome.lost = tab.lost();
    (outcome.twice, outcome.again, outcome.reordered) = (tab.twice, tab.again, tab.reordered);
    outcome.took = begun.elapsed();
    outcome.print(tab.refused);
    Ok(outcome)
}

/// Until nothing is missing, or nothing more comes.
fn wait_for_the_rest(scene: &Scene) {
    let mut last = (0, Instant::now());
    loop {
        let tab = scene.tab();
        let count = tab.heard.len() as u64 + tab.again + tab.twice;
        if count != last.0 {
            last = (count, Instant::now());
        }
        if tab.lost() == 0 || last.1.elapsed() > QUIET {
            return;
        }
        drop(tab);
        thread::sleep(Duration::from_millis(100));
    }
}

fn publish(scene: &Scene, mut publisher: Box<dyn Publisher>, number: u32) {
    let mut unacked = BTreeSet::new();
    let mut next = 1;
    while !scene.is_over() {
        let left = scene.visit(|port| {
            publisher.connect(port)?;
            publish_on(scene, &mut *publisher, number, &mut unacked, &mut next)
        });
        if left.is_ok() && unacked.is_empty() && scene.is_ending() {
            return;
        }
    }
}

/// Over one connection.
fn publish_on(
    scene: &Scene,
    publisher: &mut dyn Publisher,
    number: u32,
    unacked: &mut BTreeSet<u64>,
    next: &mut u64,
) -> io::Result<()> {
    let mut settled = Vec::new();
    for event in unacked.iter() {
        publisher.publish(*event);
    }
    while !scene.is_over() {
        if scene.is_ending() && unacked.is_empty() {
            break;
        }
        while unacked.len() < WINDOW && !scene.is_ending() {
            unacked.insert(*next);
            publisher.publish(*next);
            *next += 1;
        }
        let sent = publisher.send();
        thread::sleep(PAUSE);
        // Even if nothing can be sent any more: what was said before that counts.
        let read = publisher.settled(&mut settled);
        let mut tab = scene.tab();
        for settled in settled.drain(..) {
            match settled {
                Settled::Acknowledged(event) => {
                    unacked.remove(&event);
                    let publisher = number;
                    tab.acked.insert(EventName {
                        publisher,
                        number: event,
                    });
                }
                Settled::Refused(event) => {
                    tab.refused += 1;
                    publisher.publish(event);
                }
            }
        }
        drop(tab);
        read?;
        if sent.is_err() {
            // The next read says so too, when it has read everything.
            continue;
        }
    }
    Ok(())
}

fn hear(scene: &Scene, mut hearer: Box<dyn Hearer>) {
    let mut heard = Vec::new();
    while !scene.is_over() {
        if scene.is_hearer_away() {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        let _ = scene.visit(|port| {
            hearer.connect(port)?;
            while !scene.is_over() && !scene.is_hearer_away() {
                let result = hearer.hear(&mut heard);
                let mut tab = scene.tab();
                for heard in heard.drain(..) {
                    tab.hear(heard);
                }
                drop(tab);
                result?;
            }
            Ok(())
        });
    }
}

/// A broker's process.
struct Broker {
    child: Child,
    port: u16,
    started: Instant,
    /// From its start to its being usable.
    ready_ms: u64,
    ledger: Ledger,
    synced: Option<PathBuf>,
}

impl Broker {
    fn start(peer: &dyn Peer, data: &Path, watch: Option<&Path>) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = peer.command(data, port)?;
        let mut ledger = Ledger::default();
        let mut synced = None;
        if let Some(watch) = watch {
            ledger = Ledger::begin(data)?;
            let path = watch.with_extension("synced");
            let _ = std::fs::remove_file(&path);
            let mut watched = Command::new(watch);
            watched
                .arg(&path)
                .arg(command.get_program())
                .args(command.get_args());
            command = watched;
            synced = Some(path);
        }
        let log_path = data.with_extension("log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| io::Error::other(format!("{:?}: {error}", command.get_program())))?;
        let mut broker = Self {
            child,
            port,
            started,
            ready_ms: 0,
            ledger,
            synced,
        };
        loop {
            let prepared = peer.prepare(port);
            if prepared.is_ok() {
                broker.ready_ms = started.elapsed().as_millis() as u64;
                return Ok(broker);
            }
            let ended = broker.child.try_wait()?;
            if ended.is_some() || started.elapsed() > READY {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(8).collect();
                return Err(io::Error::other(format!("{prepared:?}, {ended:?}: {last:#?}")));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it. What it had synced until then.
    fn kill(mut self) -> io::Result<Ledger> {
        let mut ledger = std::mem::take(&mut self.ledger);
        self.end(&mut ledger)?;
        Ok(ledger)
    }

    fn end(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        if let Some(synced) = &self.synced {
            ledger.read(synced)?;
            if let Some(process) = ledger.process {
                Command::new("kill")
                    .args(["-KILL", &process.to_string()])
                    .status()?;
                // The one that watches ends with it, when it has written everything down.
                self.child.wait()?;
                return ledger.read(synced);
            }
        }
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.end(&mut Ledger::default());
        }
    }
}

impl Outcome {
    /// Whether nothing was lost, told twice or out of order, and it came back each time.
    pub(crate) fn is_flawless(&self) -> bool {
        self.fault.is_none() && self.lost == 0 && self.twice == 0 && self.reordered == 0
    }

    fn print(&mut self, refused: u64) {
        println!();
        line("kills", self.kills);
        if self.has_power_cuts {
            line("bytes cut", self.cut_bytes);
        }
        line("events acknowledged", self.acked);
        line("publishes refused for a moment", refused);
        line("acknowledged and lost", self.lost);
        line("delivered twice", self.twice);
        line("told again, and recognisable", self.again);
        line("handled behind a later one", self.reordered);
        line("ms to ready, p50 / p99 / most", spread(&mut self.ready_ms));
        line("ms to the first acknowledgement", spread(&mut self.acking_ms));
        line("seconds", self.took.as_secs());
        if let Some(fault) = &self.fault {
            println!("ended early: {fault}");
        }
        println!();
    }

    /// A row of a table in Markdown.
    pub(crate) fn row(&mut self) -> String {
        let how = if self.has_power_cuts {
            "power cut"
        } else {
            "kill -9"
        };
        let early = if self.fault.is_some() {
            " (ended early)"
        } else {
            ""
        };
        format!(
            "| {} | {} {how}{early} | {} | {} | {} | {} | {} | {} |",
            self.title,
            self.kills,
            self.acked,
            self.lost,
            self.twice,
            self.reordered,
            spread(&mut self.ready_ms),
            spread(&mut self.acking_ms)
        )
    }
}

/// The head of the table.
pub(crate) const TABLE: &str = "\
| | times | acknowledged | lost | delivered twice | out of order | ms to ready, p50 / p99 / most | ms to the first acknowledgement |
|---|---|---|---|---|---|---|---|";
