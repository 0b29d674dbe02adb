//! A TCP proxy between clients and a gateway that breaks their connections: in the middle of what is being sent, in both
//! directions, and in one of the three ways in which connections break.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

/// How often a connection that is silent looks whether it is to be cut.
const LOOK: Duration = Duration::from_millis(20);

/// How long a black hole keeps both ends waiting before it resets them: longer than a client waits, so that the gateway
/// still holds the old connection when the client is back on a new one.
const HOLE: Duration = Duration::from_secs(5);

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// Both ends see an end in good order, at any byte.
    Fin,
    /// Both ends see a reset.
    Reset,
    /// Nothing arrives any more, and nobody is told.
    Hole,
}

impl Cut {
    pub(crate) const ALL: [Self; 3] = [Self::Fin, Self::Reset, Self::Hole];

    /// One by its byte in [`Link::cut`]; none for 0.
    fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fin => "FIN",
            Self::Reset => "RST",
            Self::Hole => "black hole",
        })
    }
}

/// One connection through the proxy: its two sockets and the two threads that carry bytes between them.
struct Link {
    client: TcpStream,
    gateway: TcpStream,
    /// 0, or the place of a [`Cut`] in [`Cut::ALL`], from 1.
    cut: AtomicU8,
    pumps: AtomicUsize,
}

impl Link {
    fn is_cut(&self) -> Option<Cut> {
        Cut::of(self.cut.load(Ordering::Acquire))
    }
}

struct Shared {
    gateway: String,
    links: Mutex<Vec<Arc<Link>>>,
    is_over: AtomicBool,
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Its threads end when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a port of its own, and carries what comes to the gateway at this address.
    pub(crate) fn start(gateway: &str, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            gateway: gateway.to_owned(),
            links: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, seed));
        Ok(Self { address, shared })
    }

    /// Cuts one of the connections, if there is one. The next bytes that pass are its last, and not all of them pass.
    pub(crate) fn cut(&self, cut: Cut, random: &mut Random) -> bool {
        let links = self.shared.links();
        let whole: Vec<&Arc<Link>> = links.iter().filter(|link| link.is_cut().is_none()).collect();
        if whole.is_empty() {
            return false;
        }
        let link = whole[random.below(whole.len() as u64) as usize];
        link.cut.store(cut as u8 + 1, Ordering::Release);
        true
    }

    /// Connections that pass bytes at the moment.
    pub(crate) fn whole_count(&self) -> usize {
        let links = self.shared.links();
        links.iter().filter(|link| link.is_cut().is_none()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(&self.address); // so that accepting sees it
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, seed: u64) {
    for (number, client) in listener.incoming().enumerate() {
        if shared.is_over.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else { continue };
        let Ok(gateway) = TcpStream::connect(&shared.gateway) else {
            continue;
        };
        for socket in [&client, &gateway] {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_read_timeout(Some(LOOK));
            let _ = socket.set_write_timeout(Some(LOOK));
        }
        let link = Arc::new(Link {
            client,
            gateway,
            cut: AtomicU8::new(0),
            pumps: AtomicUsize::new(2),
        });
        shared.links().push(Arc::clone(&link));
        for to_gateway in [true, false] {
            let (link, shared) = (Arc::clone(&link), Arc::clone(shared));
            let mut random = Random::new(seed ^ ((number as u64) << 1 | u64::from(to_gateway)));
            thread::spawn(move || {
                carry(&link, to_gateway, &shared.is_over, &mut random);
                if link.pumps.fetch_sub(1, Ordering::AcqRel) == 1 {
                    end(&link, &shared.is_over);
                    shared.links().retain(|other| !Arc::ptr_eq(other, &link));
                }
            });
        }
    }
}

/// Carries bytes in one direction until their source ends, or the connection is to be cut.
fn carry(link: &Link, to_gateway: bool, is_over: &AtomicBool, random: &mut Random) {
    let (mut from, to) = if to_gateway {
        (&link.client, &link.gateway)
    } else {
        (&link.gateway, &link.client)
    };
    let mut buffer = vec![0; 64 * 1024];
    while !is_over.load(Ordering::Acquire) {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(bytes) => {
                let passing = match link.is_cut() {
                    None => bytes,
                    Some(_) => random.below(bytes as u64) as usize,
                };
                if !pass(link, to, &buffer[..passing]) {
                    return;
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => {
                // It is broken already: so is the other half.
                let _ =
                    link.cut
                        .compare_exchange(0, Cut::Reset as u8 + 1, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        if link.is_cut().is_some() {
            return;
        }
    }
}

/// False if it cannot, or need not.
fn pass(link: &Link, mut to: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            // Its reader waits; a cut does not.
            Err(error) if is_timeout(&error) && link.is_cut().is_none() => {}
            Err(_) => return false,
        }
    }
    true
}

/// What both ends get to see, when nothing passes any more.
fn end(link: &Link, is_over: &AtomicBool) {
    let since = Instant::now();
    match link.is_cut() {
        // The one that ended first did so in good order, and so does the other.
        None => return,
        Some(Cut::Fin) => {
            for socket in [&link.client, &link.gateway] {
                let _ = socket.shutdown(Shutdown::Write);
            }
            // A socket that is closed with unread bytes sends a reset.
            for mut socket in [&link.client, &link.gateway] {
                let mut rest = [0; 16 * 1024];
                while since.elapsed() < Duration::from_secs(1) {
                    match socket.read(&mut rest) {
                        Ok(0) => break,
                        Err(error) if !is_timeout(&error) => break,
                        _ => {}
                    }
                }
            }
            return;
        }
        Some(Cut::Hole) => {
            while since.elapsed() < HOLE && !is_over.load(Ordering::Acquire) {
                thread::sleep(LOOK);
            }
        }
        Some(Cut::Reset) => {}
    }
    for socket in [&link.client, &link.gateway] {
        let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
