//! The servers that a campaign measures: started with ports and a directory of their own, pinned, watched until they
//! accept connections, and ended whatever happens.
//!
//! ```text
//!   StartPlan ─> place: program, {port}, {dir}, files ─> spawn (own process group, pinned) ─> ready ─> … ─> stop
//! ```
//!
//! A server leads a process group of its own, so that Ctrl-C in the terminal reaches the generator alone, which ends the
//! group in good order: SIGTERM, and SIGKILL for what is left after a while.

mod groups;
mod listening;
mod place;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::campaign::{StartPlan, available_cores};
use crate::scenario::Target;

pub use groups::end_all;
pub use listening::listeners;
pub use place::{find_program, version};

use place::Place;

/// How often a server is asked whether it is ready, or gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// One attempt to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Lines of a server's output that a message repeats.
const TAIL_LINES: usize = 10;

/// A server that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    place: Place,
    target: Target,
    stop: Duration,
    has_ended: bool,
}

/// Why a server could not be started.
#[derive(Debug)]
pub enum ServerError {
    /// There is no such program.
    NotInstalled {
        /// The target.
        name: String,
        /// What was looked for.
        program: String,
    },
    /// The system would not let it start.
    System {
        /// The target.
        name: String,
        /// What was tried.
        what: String,
        /// The system's word.
        error: io::Error,
    },
    /// It ended instead of getting ready.
    Ended {
        /// The target.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last that it said.
        said: String,
    },
    /// It does not accept connections.
    NotReady {
        /// The target.
        name: String,
        /// Where it was expected.
        url: String,
        /// How long it was waited for.
        waited: Duration,
        /// The last that it said.
        said: String,
    },
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::NotInstalled { name, program } => write!(
                f,
                "target {name}: there is no program {program:?} beside loadgen or on the PATH; install it, give its \
                 path in `command`, or mark the target `optional = true`"
            ),
            ServerError::System { name, what, error } => write!(f, "target {name}: {what}: {error}"),
            ServerError::Ended { name, status, said } => {
                write!(
                    f,
                    "target {name} ended before it was ready ({status}){}",
                    Said(said)
                )
            }
            ServerError::NotReady {
                name,
                url,
                waited,
                said,
            } => write!(
                f,
                "target {name} does not accept connections on {url} after {} ms; check its command, or raise \
                 ready_ms{}",
                waited.as_millis(),
                Said(said)
            ),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What a server said, below a message.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("; it said nothing"),
            said => write!(f, "; it said:\n{said}"),
        }
    }
}

impl Server {
    /// Starts it and waits until it accepts connections. `directory` is the campaign file's.
    ///
    /// # Errors
    /// Why it does not run; nothing is left of it.
    pub fn start(target: &Target, plan: &StartPlan, directory: &Path) -> Result<Server, ServerError> {
        let name = target.name.clone();
        let program =
            find_program(plan.command.first().map_or("", String::as_str), directory).ok_or_else(|| {
                ServerError::NotInstalled {
                    name: name.clone(),
                    program: plan.command.first().cloned().unwrap_or_default(),
                }
            })?;
        let system = |what: &str, error: io::Error| ServerError::System {
            name: name.clone(),
            what: what.to_owned(),
            error,
        };
        let place =
            Place::new(plan, target).map_err(|error| system("its directory cannot be made", error))?;
        let output =
            File::create(place.output()).map_err(|error| system("its output cannot be kept", error))?;
        let errors = output
            .try_clone()
            .map_err(|error| system("its output cannot be kept", error))?;
        let mut command = Command::new(&program);
        command
            .args(plan.command.iter().skip(1).map(|argument| place.fill(argument)))
            .envs(plan.env.iter().map(|(name, value)| (name, place.fill(value))))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0);
        let child = groups::start(place.directory(), || spawn_pinned(&mut command, &plan.cores))
            .map_err(|error| system(&format!("{} cannot be started", program.display()), error))?;
        let target = Target {
            url: place.fill(&target.url),
            subscriber_url: target.subscriber_url.as_deref().map(|url| place.fill(url)),
            service_url: target.service_url.as_deref().map(|url| place.fill(url)),
            ..target.clone()
        };
        let mut server = Server {
            name,
            child,
            place,
            target,
            stop: Duration::from_millis(plan.stop_ms),
            has_ended: false,
        };
        server.wait_until_ready(Duration::from_millis(plan.ready_ms))?;
        Ok(server)
    }

    /// Where and how to speak to it: the addresses are filled in.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its processes: the one that was started, and what it started in turn.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        groups::members(self.child.id())
    }

    /// How it ended, if it did so by itself, and the last that it said.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!(
            "target {} ended by itself ({status}){}",
            self.name,
            Said(&self.said())
        ))
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.end();
    }

    fn wait_until_ready(&mut self, patience: Duration) -> Result<(), ServerError> {
        let started = Instant::now();
        let urls: Vec<String> = [Some(&self.target.url), self.target.subscriber_url.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for url in urls {
            while !accepts(&url) {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(ServerError::Ended {
                        name: self.name.clone(),
                        status,
                        said: self.said(),
                    });
                }
                if started.elapsed() > patience {
                    return Err(ServerError::NotReady {
                        name: self.name.clone(),
                        url,
                        waited: patience,
                        said: self.said(),
                    });
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// The last lines of its output.
    fn said(&self) -> String {
        let text = fs::read(self.place.output()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail: Vec<String> = lines[lines.len().saturating_sub(TAIL_LINES)..]
            .iter()
            .map(|line| format!("    {line}"))
            .collect();
        tail.join("\n")
    }

    /// The group is told to end; whoever of it is there after a while is killed.
    fn end(&mut self) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        let group = self.child.id();
        groups::signal(group, Signal::TERM);
        let told = Instant::now();
        while told.elapsed() < self.stop {
            // The leader is reaped first: as long as it is not, the group has a member.
            if let Ok(Some(_)) = self.child.try_wait()
                && groups::members(group).is_empty()
            {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        groups::signal(group, Signal::KILL);
        // An error means that it was reaped already.
        let _ = self.child.wait();
        groups::ended(group);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A child has the affinity of the thread that makes it, so a thread of its own is pinned and makes it.
fn spawn_pinned(command: &mut Command, cores: &[usize]) -> io::Result<Child> {
    let mut set = CpuSet::new();
    let available = available_cores();
    for core in if cores.is_empty() { &available } else { cores } {
        set.set(*core);
    }
    thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            sched_setaffinity(None, &set)?;
            command.spawn()
        });
        spawned
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts servers failed")))
    })
}

/// Whether somebody accepts connections there.
#[must_use]
pub fn accepts(url: &str) -> bool {
    match Address::parse(url) {
        Ok(Address::Tcp { host, port } | Address::WebSocket { host, port, .. }) => (host.as_str(), port)
            .to_socket_addrs()
            .is_ok_and(|mut addresses| {
                addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_ok())
            }),
        Ok(Address::Unix { path }) => UnixStream::connect(path).is_ok(),
        Err(_) => false,
    }
}

/// The directory that servers' directories are made in.
fn scratch() -> PathBuf {
    std::env::temp_dir()
}
