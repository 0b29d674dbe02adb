//! A running gateway: listeners, one thread a core, and the way to stop it. The binary and the tests start it here.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fluxar_engine::listener::{Address, Listener, ListenerId, RELEASE_PATIENCE};
use fluxar_engine::mail::{self, Control, Endpoint};
use fluxar_engine::reactor::{Board, Parcel, Reactor, ReactorConfig, Transport};
use fluxar_engine::uring::{UringDriver, UringHub};
use fluxar_engine::ws::WsConfig;
use fluxar_shard::log::{RecoveredLog, Settings};

use crate::config::Config;
use crate::counters::Counters;
use crate::front::Front;
use crate::log::{LogFault, OpenLog, ToRecover, unix_ms};
use crate::mail::Mail;
use crate::outbox::Framing;
use crate::threads::{self, Failure};
use crate::upstreams::Services;
use crate::upstreams::announcer::Announcer;
use crate::upstreams::resolver::{self, Resolver};
use crate::worker::{Turn, Worker};

/// The driver of a running gateway, and what its mail carries.
type Socket = <UringDriver as fluxar_engine::driver::Driver>::Socket;
type Post = Parcel<Socket, Mail>;

/// No dial takes longer, whatever an upstream's `connect_ms` says.
const CONNECT_MS_MOST: u64 = 60_000;

/// A gateway that runs. Dropping it leaves its threads running; call [`Gateway::stop`].
pub struct Gateway {
    addresses: Vec<Address>,
    processors: Vec<usize>,
    mailman: Arc<Mailman>,
    resolver: Resolver,
    log: Option<OpenLog>,
    cores: Vec<CoreThread>,
    /// For threads that are started later; and while it is held, `failed` is not closed.
    failures: mpsc::Sender<Failure>,
    failed: mpsc::Receiver<Failure>,
}

/// Gives how its core ended.
type CoreThread = JoinHandle<io::Result<CoreEnd>>;

/// Posts to the cores from threads that are none.
struct Mailman {
    control: Mutex<Control<Post>>,
    /// The gateway stops: what finds no room is not worth waiting for.
    stopping: AtomicBool,
}

impl Mailman {
    fn control(&self) -> MutexGuard<'_, Control<Post>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts to a core, and waits for room in its mailbox unless it is `over`; then false.
    fn post(&self, core: usize, mail: Mail, over: impl Fn() -> bool) -> bool {
        let mut mail = Parcel::from(mail);
        loop {
            // Not held over the wait.
            let result = self.control().post(core, mail);
            match result {
                Ok(()) => return true,
                Err(_) if over() => return false,
                Err(back) => mail = back,
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Why a gateway could not be started.
#[derive(Debug)]
pub enum StartError {
    /// Listeners could not be opened: all of them that failed, one line each.
    Listen(Vec<String>),
    /// The log cannot be opened.
    Log(LogFault),
    /// A core could not be started.
    Core {
        /// Which, counted from 0.
        core: usize,
        /// Why.
        error: io::Error,
    },
    /// Threads or descriptors could not be had.
    System(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(faults) => f.write_str(&faults.join("\n")),
            Self::Log(fault) => fault.fmt(f),
            Self::Core { core, error } => write!(f, "core {core} could not be started: {error}"),
            Self::System(error) => write!(f, "the gateway could not be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// How a core ended.
#[derive(Debug, Clone, Copy)]
pub struct CoreEnd {
    /// What it did.
    pub counters: Counters,
    /// Connections that were cut off because they did not drain in time.
    pub cut_off: u32,
    /// Whether its log, if it had one, was written to the end and sealed.
    pub log_is_sealed: bool,
    /// What its shard still held: nothing of its own connections, if none was cut off.
    pub held: fluxar_shard::Counts,
}

/// What a core's thread is started with.
struct Seat {
    core: usize,
    cores: usize,
    processor: usize,
    epoch: u64,
    hub: Arc<UringHub>,
    listeners: Vec<Arc<Listener>>,
    endpoint: Endpoint<Post>,
    board: Board,
    announcer: Arc<Announcer>,
    /// Of the log: its settings and its directory.
    log: Option<(Arc<Settings>, Arc<Path>)>,
    config: Config,
}

impl Gateway {
    /// Opens the listeners and starts the cores; returns when all of them accept.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_on(config, |seat, ready, failures| {
            let (name, what) = (format!("core-{}", seat.core), format!("core {}", seat.core));
            threads::spawn(name, what, failures, move || run_core(seat, ready))
        })
    }

    /// The same with the cores on threads that `spawn` makes: each says that it is ready, or drops what it would say it with.
    fn start_on(
        config: &Config,
        mut spawn: impl FnMut(Seat, mpsc::Sender<()>, mpsc::Sender<Failure>) -> io::Result<CoreThread>,
    ) -> Result<Self, StartError> {
        let processors = config
            .cores
            .pick()
            .map_err(|message| StartError::System(io::Error::other(message)))?;
        let listeners = open_listeners(config)?;
        let addresses = listeners
            .iter()
            .map(|listener| listener.address().clone())
            .collect();
        let cores = processors.len();
        let (log, to_recover) = OpenLog::open(&config.log, cores as u16, Instant::now() + RELEASE_PATIENCE)
            .map_err(StartError::Log)?
            .unzip();
        let hub = UringHub::new(cores).map_err(StartError::System)?;
        let (mut control, endpoints) = mail::mesh(cores, config.engine.mailbox_letters);
        let board = Board::new(cores);
        let announcer = Arc::new(Announcer::new(cores));
        let mut epoch = [0; 8];
        getrandom::fill(&mut epoch).map_err(|error| StartError::System(io::Error::other(error)))?;
        // Positive as a signed number too: some clients know no others.
        let unlogged_epoch = u64::from_le_bytes(epoch) >> 1;
        let epoch = log.as_ref().map_or(unlogged_epoch, OpenLog::epoch);
        let kept = log
            .as_ref()
            .map(|log| (Arc::clone(log.settings()), Arc::from(log.path())));

        for core in 0..cores {
            control.attach(core, Box::new(hub.waker(core)));
        }
        let mailman = Arc::new(Mailman {
            control: Mutex::new(control),
            stopping: AtomicBool::new(false),
        });
        let resolver = {
            let mailman = Arc::clone(&mailman);
            Resolver::start(resolver::system(), move |resolved| {
                let over = || mailman.stopping.load(Ordering::Relaxed);
                (0..cores).all(|core| mailman.post(core, Mail::Resolved(Arc::clone(&resolved)), over))
            })
            .map_err(StartError::System)?
        };
        let (failures, failed) = mpsc::channel();
        let mut gateway = Self {
            addresses,
            processors,
            mailman,
            resolver,
            log,
            cores: Vec::with_capacity(cores),
            failures,
            failed,
        };
        let (ready, readiness) = mpsc::channel();
        for (core, endpoint) in endpoints.into_iter().enumerate() {
            let seat = Seat {
                core,
                cores,
                processor: gateway.processors[core],
                epoch,
                hub: Arc::clone(&hub),
                listeners: listeners.clone(),
                endpoint,
                board: board.clone(),
                announcer: Arc::clone(&announcer),
                log: kept.clone(),
                config: config.clone(),
            };
            match spawn(seat, ready.clone(), gateway.failures.clone()) {
                Ok(thread) => gateway.cores.push(thread),
                Err(error) => {
                    gateway.stop();
                    return Err(StartError::System(error));
                }
            }
        }
        drop(ready);
        // One that does not get ready drops its sender: the end comes when the others have said that they are.
        if readiness.iter().take(cores).count() < cores {
            let mut ends = gateway.stop().into_iter().enumerate();
            return Err(match ends.find_map(|(core, end)| Some((core, end.err()?))) {
                Some((core, error)) => StartError::Core { core, error },
                None => StartError::System(io::Error::other("a core ended before it was ready")),
            });
        }
        gateway.set_services(&Arc::new(config.services()));
        if let Some(to_recover) = to_recover
            && let Err(error) = gateway.recover(to_recover)
        {
            gateway.stop();
            return Err(StartError::System(error));
        }
        Ok(gateway)
    }

    /// Reads the log on a thread of its own, and gives each core what it holds.
    fn recover(&self, to_recover: ToRecover) -> io::Result<()> {
        let mailman = Arc::clone(&self.mailman);
        let hand_out = move |log: RecoveredLog| {
            let over = || mailman.stopping.load(Ordering::Relaxed);
            let core = usize::from(log.core());
            mailman.post(core, Mail::Recovered(Box::new(log)), over)
        };
        to_recover.start(hand_out, &self.failures)
    }

    /// Its log, if it keeps one.
    #[must_use]
    pub fn log(&self) -> Option<&OpenLog> {
        self.log.as_ref()
    }

    /// Replaces the rules, the upstreams and what else is said about services, on every core: connections that the new
    /// ones still have go on undisturbed.
    pub fn set_services(&self, services: &Arc<Services>) {
        for core in 0..self.cores.len() {
            // Only a core that has ended keeps its mailbox full.
            let over = || self.cores[core].is_finished();
            self.mailman
                .post(core, Mail::Services(Arc::clone(services)), over);
        }
        // Behind the letters: an answer about an upstream that a core has not heard of would be lost on it.
        self.resolver.set_services(Arc::clone(services));
    }

    /// Where it listens, with the real port where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The processors that its cores are pinned to.
    #[must_use]
    pub fn processors(&self) -> &[usize] {
        &self.processors
    }

    /// Blocks until a thread fails that the gateway cannot do without, a core or one that reads the log, and returns what did;
    /// or until `or` says so. What has failed does not come back: stop the others, which drain and seal what they have.
    pub fn wait(&self, mut or: impl FnMut() -> bool) -> Option<Failure> {
        loop {
            match self.failed.recv_timeout(Duration::from_millis(50)) {
                Ok(failure) => return Some(failure),
                Err(_) if or() => return None,
                // Never closed: a sender of it is held.
                Err(_) => {}
            }
        }
    }

    /// Says goodbye to all clients, flushes, and ends; returns how each core ended.
    pub fn stop(self) -> Vec<io::Result<CoreEnd>> {
        self.mailman.stopping.store(true, Ordering::Relaxed);
        for core in 0..self.cores.len() {
            self.mailman
                .post(core, Mail::Stop, || self.cores[core].is_finished());
        }
        let ends: Vec<io::Result<CoreEnd>> = self
            .cores
            .into_iter()
            .map(|core| {
                core.join()
                    .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
            })
            .collect();
        if let Some(log) = self.log {
            let is_sealed = |end: &io::Result<CoreEnd>| end.as_ref().is_ok_and(|end| end.log_is_sealed);
            if ends.iter().all(is_sealed) {
                log.close();
            } else {
                tracing::warn!(
                    "the log was not written to its end in time: the next start reads it through; nothing that was acknowledged is lost"
                );
            }
        }
        ends
    }
}

fn open_listeners(config: &Config) -> Result<Vec<Arc<Listener>>, StartError> {
    let addresses = config
        .addresses()
        .map_err(|fault| StartError::Listen(vec![fault]))?;
    let until = Instant::now() + RELEASE_PATIENCE;
    let mut faults = Vec::new();
    let mut listeners = Vec::new();
    for address in &addresses {
        match Listener::open_until(address, until) {
            Ok(listener) => listeners.push(Arc::new(listener)),
            Err(error) => faults.push(error.to_string()),
        }
    }
    if faults.is_empty() {
        Ok(listeners)
    } else {
        Err(StartError::Listen(faults))
    }
}

fn run_core(seat: Seat, ready: mpsc::Sender<()>) -> io::Result<CoreEnd> {
    let mut worker = seat.sit_down()?;
    let _ = ready.send(());
    drop(ready);
    loop {
        if let Turn::Stopped {
            cut_off,
            log_is_sealed,
        } = worker.turn()?
        {
            return Ok(CoreEnd {
                counters: *worker.front().counters(),
                cut_off,
                log_is_sealed,
                held: worker.front().shard_counts(),
            });
        }
    }
}

impl Seat {
    /// Makes everything of a core on the core's own thread: its ring belongs to it.
    fn sit_down(self) -> io::Result<Worker<UringDriver>> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.processor }) {
            tracing::warn!(
                processor = self.processor,
                "could not be pinned; the kernel will move this core about"
            );
        }
        let sizes = &self.config.engine;
        let mut driver = UringDriver::new(&self.hub, self.core, &sizes.uring())?;
        let websocket = Arc::new(WsConfig {
            subprotocol: Some("fluxar.v0".into()),
            origins: self.config.origins.clone(),
            max_message_bytes: fluxar_protocol::limits::FRAME_BYTES_BEFORE_HELLO,
            text: false,
            greeting: "This is a FLUXAR gateway; connect with a WebSocket client that speaks fluxar.v0."
                .into(),
        });
        let mut transports = Vec::new();
        let mut framings = Vec::new();
        for (at, listener) in self.listeners.iter().enumerate() {
            let id = ListenerId(at as u16);
            driver.register(id, listener);
            let (transport, framing) = match listener.address() {
                Address::WebSocket { .. } => (Transport::WebSocket(Arc::clone(&websocket)), Framing::Message),
                Address::Tcp { .. } | Address::Unix { .. } => (Transport::Stream, Framing::Prefixed),
            };
            transports.push((id, transport));
            framings.push(framing);
        }
        let reactor_config = ReactorConfig {
            spin_us: sizes.spin_us,
            // The front says why it refuses one too many; this is the bound behind that.
            connections_max: self.config.limits.connections as usize + 1024,
            handshake_ms: u64::from(self.config.limits.handshake_ms),
            // The front holds each upstream's own time; this is the bound behind that.
            connect_ms: CONNECT_MS_MOST,
            // What one turn may bring to a connection before its pause takes hold; larger buffers bring more.
            held_bytes_max: ReactorConfig::default()
                .held_bytes_max
                .max(128 * sizes.buffer_bytes as usize),
            ..ReactorConfig::default()
        };
        let reactor = Reactor::new(driver, self.endpoint, self.board, transports, reactor_config);
        let entropy = Box::new(|bytes: &mut [u8]| {
            getrandom::fill(bytes).expect("the kernel has randomness once it is up");
        });
        let mut front = Front::new(
            self.core as u16,
            self.cores as u16,
            self.config.limits.clone(),
            framings,
            self.epoch,
            entropy,
        );
        front.set_announcer(self.announcer);
        if let Some((settings, directory)) = self.log {
            front.set_log(settings, directory);
            front.set_wall_clock(Box::new(|_| unix_ms()));
        }
        Ok(Worker::new(reactor, front))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Cores, LogDir};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// With a log in this directory.
    fn config(cores: u16, dir: &Path) -> Config {
        let mut config = Config {
            cores: Cores::Count(usize::from(cores)),
            listen: vec!["tcp://127.0.0.1:0".into()],
            ..Config::default()
        };
        config.log.dir = LogDir::At(dir.to_owned());
        config.limits.drain_ms = 100;
        config
    }

    /// As a gateway's, but that the last core runs `last`.
    fn start_with_last(
        config: &Config,
        last: impl FnOnce(Seat, mpsc::Sender<()>) -> io::Result<CoreEnd> + Send + 'static,
    ) -> Result<Gateway, StartError> {
        let mut last = Some(last);
        Gateway::start_on(config, |seat, ready, failures| {
            let (name, what) = (format!("core-{}", seat.core), format!("core {}", seat.core));
            let last = last.take_if(|_| seat.core + 1 == seat.cores);
            threads::spawn(name, what, failures, move || match last {
                Some(last) => last(seat, ready),
                None => run_core(seat, ready),
            })
        })
    }

    fn wait(gateway: &Gateway) -> Option<Failure> {
        let until = Instant::now() + PATIENCE;
        gateway.wait(|| Instant::now() > until)
    }

    #[test]
    fn a_core_that_panics_is_told_and_the_others_stop_in_good_order() {
        for cores in [1, 2] {
            let folder = tempfile::tempdir().expect("a folder");
            let gateway = start_with_last(&config(cores, folder.path()), |seat, ready| {
                let mut worker = seat.sit_down()?;
                ready.send(()).expect("heard");
                worker.turn()?;
                panic!("planted")
            });
            let gateway = gateway.unwrap_or_else(|error| panic!("{error}"));
            // A letter wakes them, if none did.
            gateway.set_services(&Arc::default());
            let failure = wait(&gateway).expect("told");
            assert_eq!(failure.what, format!("core {}", cores - 1));
            assert!(failure.why.starts_with("it panicked"), "{failure}");
            assert!(failure.why.ends_with("planted"), "{failure}");
            let mut ends = gateway.stop();
            assert_eq!(ends.len(), usize::from(cores));
            let last = ends.pop().expect("one").expect_err("it panicked");
            assert_eq!(last.to_string(), failure.why);
            // Whether their logs are sealed in time is the disk's affair.
            assert!(ends.iter().all(Result::is_ok), "{ends:?}");
        }
    }

    #[test]
    fn a_gateway_that_is_well_is_waited_for_until_it_is_told_to_stop() {
        let folder = tempfile::tempdir().expect("a folder");
        let gateway = Gateway::start(&config(1, folder.path())).unwrap_or_else(|error| panic!("{error}"));
        let mut asked = 0;
        let failure = gateway.wait(|| {
            asked += 1;
            asked == 3
        });
        assert_eq!((failure, asked), (None, 3));
        assert!(gateway.stop().iter().all(Result::is_ok));
    }

    #[test]
    fn a_core_that_does_not_get_ready_ends_the_start() {
        type Work = fn(Seat, mpsc::Sender<()>) -> io::Result<CoreEnd>;
        let works: [(Work, &str); 2] = [
            (|_, _| panic!("planted"), "planted"),
            (|_, _| Err(io::Error::other("no ring")), "no ring"),
        ];
        for (work, why) in works {
            let folder = tempfile::tempdir().expect("a folder");
            match start_with_last(&config(2, folder.path()), work).map(|_| ()) {
                Err(StartError::Core { core: 1, error }) => {
                    assert!(error.to_string().ends_with(why), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn cores_that_have_started_end_if_another_has_no_thread() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = Arc::new(());
        let started = Gateway::start_on(&config(2, folder.path()), |seat, ready, failures| {
            if seat.core == 1 {
                return Err(io::Error::other("no thread"));
            }
            let held = Arc::clone(&held);
            threads::spawn("core-0".into(), "core 0".into(), failures, move || {
                let _held = held;
                run_core(seat, ready)
            })
        });
        match started.map(|_| ()) {
            Err(StartError::System(error)) => assert_eq!(error.to_string(), "no thread"),
            other => panic!("{other:?}"),
        }
        assert_eq!(Arc::strong_count(&held), 1, "core 0 has ended");
    }
}
