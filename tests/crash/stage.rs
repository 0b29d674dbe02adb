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
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
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

/// A gateway process.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: String,
    /// From its start to its being ready, ms.
    pub(crate) ready_ms: u64,
}

impl Gateway {
    pub(crate) fn start(setup: &Setup) -> io::Result<Self> {
        let begun = Instant::now();
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
            .env("FLUXAR_LOG_DIR", setup.folder.join("log"))
            .env("FLUXAR_LOG_SEGMENT_BYTES", "4194304")
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(log)
            .spawn()?;
        let mut gateway = Self {
            child,
            address: String::new(),
            ready_ms: 0,
        };
        while begun.elapsed() < READY {
            let said = std::fs::read_to_string(&said_path)?;
            if said.lines().any(|line| line.starts_with("ready")) {
                let address = said
                    .split_whitespace()
                    .find_map(|word| word.strip_prefix("tcp://"))
                    .ok_or_else(|| io::Error::other(format!("it listens nowhere: {said}")))?;
                gateway.address = address.trim_end_matches(',').to_owned();
                gateway.ready_ms = begun.elapsed().as_millis() as u64;
                return Ok(gateway);
            }
            if let Some(status) = gateway.child.try_wait()? {
                let log = std::fs::read_to_string(&log_path)?;
                return Err(io::Error::other(format!("the gateway ended: {status}\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::other("the gateway was not ready in time"))
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
