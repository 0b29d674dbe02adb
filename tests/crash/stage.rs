//! What all threads of the harness share: where the gateway is now, how far the play is, and who still holds a connection
//! to a gateway that was killed.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::book::Book;
use crate::wire::Wire;

/// How fast publishers publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Events of one publisher under way, at most.
    pub(crate) window: usize,
    /// Between two bodies of one publisher.
    pub(crate) pause: Duration,
}

/// See the module.
pub(crate) struct Stage {
    pub(crate) book: Book,
    pub(crate) pace: Pace,
    /// Where the gateway listens, while there is one.
    address: Mutex<Option<String>>,
    /// When there was none any more.
    gone_at: Mutex<Option<Instant>>,
    /// Threads that have a connection.
    connected: AtomicUsize,
    /// Nothing new is published.
    ending: AtomicBool,
    /// Everybody goes home.
    over: AtomicBool,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Of each connection that came behind a lost one: how long its client heard nothing, ms.
    pub(crate) pauses_ms: Mutex<Vec<u64>>,
}

impl Stage {
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            book: Book::default(),
            pace,
            address: Mutex::default(),
            gone_at: Mutex::default(),
            connected: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            over: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            pauses_ms: Mutex::default(),
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn end_publishing(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The gateway is there, or gone.
    pub(crate) fn set_address(&self, address: Option<String>) {
        if address.is_none() {
            let mut gone_at = self.gone_at.lock().unwrap_or_else(PoisonError::into_inner);
            *gone_at = Some(Instant::now());
        }
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// When the gateway was last taken away; a moment before it was killed.
    pub(crate) fn gone_at(&self) -> Option<Instant> {
        *self.gone_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody holds a connection: what the gateway had sent has been read by then.
    pub(crate) fn wait_for_silence(&self) {
        while self.connected.load(Ordering::Acquire) > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Connects, if the gateway is there, and does something with the connection until that fails. `last_event` is what
    /// the caller keeps between its connections.
    pub(crate) fn connect(
        &self,
        last_event: &mut Option<Instant>,
        with: impl FnOnce(&mut Wire) -> io::Result<()>,
    ) -> io::Result<()> {
        self.connected.fetch_add(1, Ordering::AcqRel);
        let address = self
            .address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let result = match address {
            Some(address) => Wire::open(&address, *last_event).and_then(|mut wire| {
                let result = with(&mut wire);
                self.note(&wire, last_event);
                result
            }),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        self.connected.fetch_sub(1, Ordering::AcqRel);
        if result.is_err() {
            std::thread::sleep(Duration::from_millis(10)); // the next attempt, not a wait for anything
        }
        result
    }

    /// Takes down what a connection leaves behind.
    fn note(&self, wire: &Wire, last_event: &mut Option<Instant>) {
        *last_event = wire.last_event;
        if let Some(pause) = wire.pause
            && !self.is_ending()
        {
            let mut pauses = self.pauses_ms.lock().unwrap_or_else(PoisonError::into_inner);
            pauses.push(pause.as_millis() as u64);
        }
    }
}

/// What a gateway is started with.
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) cores: usize,
}

/// How long a gateway may take to listen.
const READY: Duration = Duration::from_secs(30);

/// What topics of the publishers are acknowledged before they are synced: one in four. That holds for a kill, and the cuts of
/// `power` leave what anybody was told of.
/// How long ids of qos 2 are remembered, ms. At full speed more than `log.once_ids` come in the usual five minutes, and those
/// beyond are refused until the first are old enough; nobody here waits for so long before it sends again.
const ONCE_MS: &str = "120000";

const CONFIG: &str = "\
[[log.topic]]
pattern = \"crash.*.1\"
ack = \"written\"
";

/// A gateway process.
pub(crate) struct Gateway {
    child: Child,
    started: Instant,
    said: PathBuf,
    log: PathBuf,
    pub(crate) address: String,
    /// From its start to its being ready, ms.
    pub(crate) ready_ms: u64,
}

impl Gateway {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(setup: &Setup) -> io::Result<Self> {
        let mut gateway = Self::spawn(setup)?;
        if gateway.is_ready_by(Instant::now() + READY)? {
            return Ok(gateway);
        }
        Err(io::Error::other("the gateway was not ready in time"))
    }

    /// Starts one, which nobody knows of yet.
    pub(crate) fn spawn(setup: &Setup) -> io::Result<Self> {
        let started = Instant::now();
        let config = setup.folder.join("gateway.toml");
        std::fs::write(&config, CONFIG)?;
        let log_path = setup.folder.join("gateway.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)?;
        let said_path = setup.folder.join("gateway.out");
        let said = std::fs::File::create(&said_path)?;
        let child = Command::new(&setup.binary)
            .args(["--listen", "tcp://127.0.0.1:0", "--log", "warn", "--cores"])
            .arg(setup.cores.to_string())
            .arg("--config")
            .arg(&config)
            .env("FLUXAR_LOG_DIR", setup.folder.join("log"))
            .env("FLUXAR_LOG_SEGMENT_BYTES", "4194304")
            .env("FLUXAR_LOG_ONCE_MS", ONCE_MS)
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(log)
            .spawn()?;
        Ok(Self {
            child,
            started,
            said: said_path,
            log: log_path,
            address: String::new(),
            ready_ms: 0,
        })
    }

    /// Waits until then for its being ready; whether it is.
    pub(crate) fn is_ready_by(&mut self, until: Instant) -> io::Result<bool> {
        loop {
            let said = std::fs::read_to_string(&self.said)?;
            if said.lines().any(|line| line.starts_with("ready")) {
                let address = said
                    .split_whitespace()
                    .find_map(|word| word.strip_prefix("tcp://"))
                    .ok_or_else(|| io::Error::other(format!("it listens nowhere: {said}")))?;
                self.address = address.trim_end_matches(',').to_owned();
                self.ready_ms = self.started.elapsed().as_millis() as u64;
                return Ok(true);
            }
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.log)?;
                return Err(io::Error::other(format!("the gateway ended: {status}\n{log}")));
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it as a power cut would, as far as a process can tell.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Ends it in good order.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the gateway ended: {status}")))
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
