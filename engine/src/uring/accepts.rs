//! Accepting on listeners that all cores share.
//!
//! Each core has at most one accept in flight a listener, a single shot that is armed again when it completes. The
//! kernel wakes one waiting core a connection, the one that waits longest; arming again puts a core at the end of that
//! line, so idle cores take turns and a busy core leaves connections to the others. (Measured with two idle cores and
//! connections one by one: a multishot accept, which stays at the head of the line, spreads them 400 to 0, this one
//! 196 to 204.) A single shot also brings the peer's address, without a further system call.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use super::user_data::{Kind, pack};
use crate::driver::Token;
use crate::listener::{Listener, ListenerId, Peer};

/// How long a core stops accepting on a listener after an error that another try at once would meet again.
pub(super) const PAUSE_NS: u64 = 100_000_000;

/// One core's accepting, by listener.
#[derive(Debug, Default)]
pub(super) struct Accepts {
    entries: Vec<Option<Entry>>,
}

/// Invariant: `armed` exactly while the kernel has an accept that writes to `address`.
#[derive(Debug)]
struct Entry {
    listener: Arc<Listener>,
    wanted: bool,
    armed: bool,
    /// Not before this time, after an error.
    retry_at_ns: Option<u64>,
    address: Box<UnsafeCell<Address>>,
}

/// Where the kernel writes the peer's address.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Address {
    /// `sockaddr_storage`: it holds every address that there is.
    bytes: [u8; ADDRESS_BYTES],
    /// In: the room. Out: the address's length.
    len: libc::socklen_t,
}

const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// What became of an accept.
#[derive(Debug)]
pub(super) enum Outcome {
    Accepted(OwnedFd, Peer),
    Failed(io::Error),
    /// Stopped, or a connection that was gone before it was taken.
    Nothing,
}

impl Accepts {
    /// Makes a listener known.
    ///
    /// # Panics
    /// If the id has one already.
    pub(super) fn register(&mut self, id: ListenerId, listener: Arc<Listener>) {
        let index = usize::from(id.0);
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        assert!(
            self.entries[index].is_none(),
            "listener {index} is registered twice"
        );
        let address = Address {
            bytes: [0; ADDRESS_BYTES],
            len: 0,
        };
        self.entries[index] = Some(Entry {
            listener,
            wanted: false,
            armed: false,
            retry_at_ns: None,
            address: Box::new(UnsafeCell::new(address)),
        });
    }

    /// Accepting is wanted. The operation for it, unless one is in flight.
    ///
    /// # Panics
    /// If the listener was not registered.
    #[must_use]
    pub(super) fn start(&mut self, id: ListenerId) -> Option<squeue::Entry> {
        let entry = self.entry(id).expect("the listener was registered");
        entry.wanted = true;
        entry.retry_at_ns = None;
        entry.arm(id)
    }

    /// Accepting is not wanted. The operation that cancels the one in flight, if there is one.
    #[must_use]
    pub(super) fn stop(&mut self, id: ListenerId) -> Option<squeue::Entry> {
        let entry = self.entry(id)?;
        entry.wanted = false;
        entry.retry_at_ns = None;
        entry.armed.then(|| {
            let quiet = pack(
                Kind::Quiet,
                Token {
                    slot: 0,
                    generation: 0,
                },
            );
            opcode::AsyncCancel::new(user_data(id))
                .build()
                .user_data(quiet)
                .flags(squeue::Flags::SKIP_SUCCESS)
        })
    }

    /// An accept completed with `result`: what became of it, and the operation for the next one.
    ///
    /// # Safety
    /// `result` is that of the completion of an accept that was made here for this listener; it is passed once.
    pub(super) unsafe fn finish(
        &mut self,
        id: ListenerId,
        result: i32,
        now_ns: u64,
    ) -> (Outcome, Option<squeue::Entry>) {
        let Some(entry) = self.entry(id) else {
            return (Outcome::Nothing, None);
        };
        entry.armed = false;
        let outcome = if result >= 0 {
            // SAFETY: a successful accept's result is a new descriptor that nobody else owns (the caller passes each
            // result once).
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            // SAFETY: the kernel is through with the address, and nothing is armed that would write to it.
            let address = unsafe { *entry.address.get() };
            // One that slipped in behind the stop, too: whoever stopped may want to tell it so.
            accepted(socket, &address)
        } else {
            match -result {
                libc::ECANCELED | libc::EINTR => Outcome::Nothing,
                error if is_of_one_connection(error) => Outcome::Nothing,
                error if entry.wanted => {
                    entry.retry_at_ns = Some(now_ns + PAUSE_NS);
                    Outcome::Failed(io::Error::from_raw_os_error(error))
                }
                _ => Outcome::Nothing,
            }
        };
        let next = if entry.wanted && entry.retry_at_ns.is_none() {
            entry.arm(id)
        } else {
            None
        };
        (outcome, next)
    }

    /// When the earliest paused listener is to be armed again.
    pub(super) fn next_retry_ns(&self) -> Option<u64> {
        self.entries
            .iter()
            .flatten()
            .filter_map(|entry| entry.retry_at_ns)
            .min()
    }

    /// The operation for one listener whose pause is over; call until `None`.
    #[must_use]
    pub(super) fn retry(&mut self, now_ns: u64) -> Option<squeue::Entry> {
        let due = |entry: &Entry| entry.retry_at_ns.is_some_and(|at| at <= now_ns);
        let index = self
            .entries
            .iter()
            .position(|entry| entry.as_ref().is_some_and(due))?;
        let id = ListenerId(u16::try_from(index).expect("indices come from ids"));
        let entry = self.entry(id)?;
        entry.retry_at_ns = None;
        entry.arm(id)
    }

    fn entry(&mut self, id: ListenerId) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(id.0))?.as_mut()
    }
}

impl Entry {
    fn arm(&mut self, id: ListenerId) -> Option<squeue::Entry> {
        if self.armed {
            return None;
        }
        self.armed = true;
        let address = self.address.get();
        // SAFETY: nothing was armed, so only this thread uses the address. The fields' pointers stay valid with the box,
        // which outlives the operation (the driver waits for it, or leaks the table).
        let (bytes, len) = unsafe {
            (*address).len = ADDRESS_BYTES as libc::socklen_t;
            ((&raw mut (*address).bytes).cast(), &raw mut (*address).len)
        };
        let fd = types::Fd(self.listener.as_fd().as_raw_fd());
        // Without SOCK_NONBLOCK: on a non-blocking socket the ring would answer EAGAIN instead of waiting.
        Some(
            opcode::Accept::new(fd, bytes, len)
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(user_data(id)),
        )
    }
}

/// Whether an error is that of the connection that was about to be accepted, and the next one may be sound: what
/// `man 2 accept` says to treat like EAGAIN.
fn is_of_one_connection(error: i32) -> bool {
    matches!(
        error,
        libc::ECONNABORTED
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
    )
}

fn user_data(id: ListenerId) -> u64 {
    pack(
        Kind::Accept,
        Token {
            slot: u32::from(id.0),
            generation: 0,
        },
    )
}

fn accepted(socket: OwnedFd, address: &Address) -> Outcome {
    match peer(&socket, &address.bytes) {
        Ok(peer) => Outcome::Accepted(socket, peer),
        // Gone already.
        Err(_) => Outcome::Nothing,
    }
}

/// Reads a `sockaddr` (`man 7 ip`, `man 7 ipv6`): family in host order, port in network order, address.
fn peer(socket: &OwnedFd, bytes: &[u8; ADDRESS_BYTES]) -> io::Result<Peer> {
    let at = |offset: usize| -> [u8; 4] {
        [
            bytes[offset],
            bytes[offset + 1],
            bytes[offset + 2],
            bytes[offset + 3],
        ]
    };
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET => Ok(Peer::Ip(SocketAddr::V4(SocketAddrV4::new(
            Ipv4Addr::from(at(4)),
            port,
        )))),
        libc::AF_INET6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[8..24]);
            let scope = u32::from_ne_bytes(at(24));
            // The flow label says nothing about who it is.
            Ok(Peer::Ip(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(octets),
                port,
                0,
                scope,
            ))))
        }
        libc::AF_UNIX => credentials(socket),
        family => Err(io::Error::other(format!("a peer of address family {family}"))),
    }
}

/// Who is at the other end of a Unix socket. The process is 0 if it lives in a namespace that this one cannot see.
fn credentials(socket: &OwnedFd) -> io::Result<Peer> {
    let mut who = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to `who`, which has as many.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer::Unix {
        pid: who.pid,
        uid: who.uid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Address as Url;

    fn accepts() -> (Accepts, ListenerId) {
        let url = Url::parse("tcp://127.0.0.1:0").expect("address");
        let mut accepts = Accepts::default();
        let id = ListenerId(2);
        accepts.register(id, Arc::new(Listener::open(&url).expect("listener")));
        (accepts, id)
    }

    fn finish(accepts: &mut Accepts, id: ListenerId, error: i32) -> (Outcome, Option<squeue::Entry>) {
        // SAFETY: a failure carries no descriptor; no kernel has the operation.
        unsafe { accepts.finish(id, -error, 1000) }
    }

    #[test]
    fn one_accept_at_a_time_even_across_stop_and_start() {
        let (mut accepts, id) = accepts();
        assert!(accepts.start(id).is_some());
        assert!(accepts.start(id).is_none());
        assert!(accepts.stop(id).is_some(), "cancels");
        assert!(accepts.start(id).is_none(), "waits for the cancelled one");
        let (outcome, next) = finish(&mut accepts, id, libc::ECANCELED);
        assert!(matches!(outcome, Outcome::Nothing) && next.is_some());
        assert!(accepts.stop(id).is_some());
        let (_, next) = finish(&mut accepts, id, libc::ECANCELED);
        assert!(next.is_none());
        assert!(accepts.stop(id).is_none(), "nothing to cancel");
    }

    #[test]
    fn running_out_of_descriptors_pauses_and_a_lost_connection_does_not() {
        let (mut accepts, id) = accepts();
        let _ = accepts.start(id);
        for error in [
            libc::ECONNABORTED,
            libc::EHOSTUNREACH,
            libc::ENETDOWN,
            libc::EPROTO,
        ] {
            let (outcome, next) = finish(&mut accepts, id, error);
            assert!(matches!(outcome, Outcome::Nothing) && next.is_some(), "{error}");
        }
        let (outcome, next) = finish(&mut accepts, id, libc::EMFILE);
        assert!(matches!(outcome, Outcome::Failed(_)) && next.is_none());
        assert_eq!(accepts.next_retry_ns(), Some(1000 + PAUSE_NS));
        assert!(accepts.retry(1000).is_none());
        assert!(accepts.retry(1000 + PAUSE_NS).is_some());
        assert!(accepts.retry(u64::MAX).is_none());
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let socket = OwnedFd::from(socket);
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..8].copy_from_slice(&[0x1f, 0x90, 192, 0, 2, 7]);
        assert_eq!(
            peer(&socket, &bytes).expect("v4"),
            Peer::Ip("192.0.2.7:8080".parse().expect("address"))
        );
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[8..24].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets());
        assert_eq!(
            peer(&socket, &bytes).expect("v6"),
            Peer::Ip("[2001:db8::9]:8080".parse().expect("address"))
        );
        bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        let me = Peer::Unix {
            pid: std::process::id() as i32,
            uid: rustix::process::getuid().as_raw(),
        };
        assert_eq!(peer(&socket, &bytes).expect("unix"), me);
    }
}
