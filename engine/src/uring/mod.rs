//! The driver of a running gateway: one io_uring a core, driven by the core's own thread.
//!
//! ```text
//!                 receive, send, accept, close, wake           turn
//!   reactor ─────────────────────────────────────> queue ──────────────> kernel
//!      ^                                                                    │
//!      └────── poll ─── completions (a copy; the ring has room again) <─────┘
//! ```
//!
//! Order within a turn: buffers that came back are published, then everything queued is submitted in the order in
//! which it was asked for, and in the same system call completions are waited for; then the clock is sampled and the
//! completions are taken over. Nothing completes between two turns, and a turn with nothing to submit, nothing to
//! fetch and no wish to park costs no system call.
//!
//! What each file holds: [`config`] sizes · `ring` the two queues and the system call · `user_data` how a completion
//! finds its owner · `buffers` receive buffers and their leases · `sends` sends in flight · `accepts` accepting ·
//! `connects` connecting · `files` operations on files · `ending` the end of a driver · [`hub`] cores waking each
//! other · `socket` a connection's descriptor.
//!
//! # Soundness
//! The kernel holds addresses of receive buffers, gather lists, address fields, and what files are read to and written
//! from, while operations are in flight. Their owners live in [`UringDriver`]; its `drop` lets those on files end, cancels
//! the others, waits for the last completion, and leaks those owners if that does not come.

#![allow(unsafe_code)]

mod accepts;
mod buffers;
pub mod config;
mod connects;
mod ending;
mod files;
pub mod hub;
mod ring;
mod sends;
mod socket;
mod user_data;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use rustix::time::{ClockId, clock_gettime};

pub use self::buffers::Lease;
pub use self::config::UringConfig;
pub use self::hub::{UringHub, Waker};
pub use self::socket::Socket;
pub use self::user_data::SLOTS_MAX;

use self::accepts::{Accepts, Outcome};
use self::buffers::{GROUP, Pool};
use self::connects::Connects;
use self::files::Files;
use self::ring::Ring;
pub(crate) use self::ring::{Setup, set_up_best};
use self::sends::Sends;
use self::user_data::{Kind, pack, unpack};
use crate::dial::Remote;
use crate::disk::DiskOp;
use crate::driver::{Completion, Driver, ReceiveEnd, Token};
use crate::gather::Gather;
use crate::listener::{Listener, ListenerId};

/// For operations whose completion tells nothing.
const QUIET: Token = Token {
    slot: 0,
    generation: 0,
};

/// One core's ring and what its operations own. Made on the thread that uses it, and bound to it: the kernel refuses
/// other threads, and so does the compiler (it is not `Send`).
#[derive(Debug)]
pub struct UringDriver {
    hub: Arc<UringHub>,
    core: usize,
    ring: ManuallyDrop<Ring>,
    owners: ManuallyDrop<Owners>,
    /// Completions taken over from the ring in one turn, not yet polled.
    completions: VecDeque<cqueue::Entry>,
    /// The end that goes with data that was just polled.
    ended: Option<Token>,
    now_ns: u64,
    /// Whether other rings take messages; else their eventfds are written.
    ring_messages: bool,
}

/// What the kernel may hold addresses of.
#[derive(Debug)]
struct Owners {
    pool: Rc<Pool>,
    sends: Sends,
    accepts: Accepts,
    connects: Connects,
    files: Files,
    /// Where the eventfd's counter is read to. Boxed and never looked at.
    count: Box<u64>,
}

impl UringDriver {
    /// Makes the ring of one core of a hub, on the calling thread, which is the one that uses it.
    ///
    /// # Errors
    /// Sizes out of bounds, a core that has a driver already, or what the kernel refuses; [`crate::probe`] says what
    /// that means and what to do about it.
    pub fn new(hub: &Arc<UringHub>, core: usize, config: &UringConfig) -> io::Result<UringDriver> {
        config.check()?;
        hub.claim(core)?;
        UringDriver::build(hub, core, config).inspect_err(|_| hub.release(core))
    }

    /// Makes the ring of a core that was claimed.
    fn build(hub: &Arc<UringHub>, core: usize, config: &UringConfig) -> io::Result<UringDriver> {
        let ring = Ring::new(config)?;
        let pool = Pool::register(ring.registrar(), config)?;
        let mut probe = io_uring::Probe::new();
        let known = ring.registrar().submitter().register_probe(&mut probe).is_ok();
        let ring_messages = known && probe.is_supported(opcode::MsgRingData::CODE);
        let ring_truncates = known && probe.is_supported(opcode::Ftruncate::CODE);
        let owners = Owners {
            pool,
            sends: Sends::default(),
            accepts: Accepts::default(),
            connects: Connects::default(),
            files: Files::new(ring_truncates),
            count: Box::new(0),
        };
        let mut driver = UringDriver {
            hub: Arc::clone(hub),
            core,
            ring: ManuallyDrop::new(ring),
            owners: ManuallyDrop::new(owners),
            completions: VecDeque::with_capacity(config.cq_entries as usize),
            ended: None,
            now_ns: clock_ns(),
            ring_messages,
        };
        driver.listen_to_eventfd();
        driver.ring.enter(false, None)?;
        hub.introduce(core, driver.ring.duplicate()?);
        Ok(driver)
    }

    /// Makes a listener known by its id, before [`Driver::accept`]. Every core registers the same ones.
    ///
    /// # Panics
    /// If the id has a listener already.
    pub fn register(&mut self, id: ListenerId, listener: &Arc<Listener>) {
        self.owners.accepts.register(id, Arc::clone(listener));
    }

    /// Which core's this is.
    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    /// Arms the read of this core's eventfd, by which threads without a ring wake it.
    fn listen_to_eventfd(&mut self) {
        let fd = Fd(self.hub.eventfd(self.core).as_raw_fd());
        let count = (&raw mut *self.owners.count).cast();
        let user_data = pack(Kind::Eventfd, QUIET);
        // SAFETY: the count is boxed, used by this one operation, and lives in `owners`; the hub keeps the eventfd open.
        unsafe {
            self.ring
                .push(opcode::Read::new(fd, count, 8).build().user_data(user_data))
        };
    }

    /// Tells another core by its ring, or by its eventfd where there is none.
    fn tell(&mut self, core: usize) {
        let ring = if self.ring_messages {
            self.hub.ring(core)
        } else {
            None
        };
        let Some(ring) = ring else {
            return self.hub.signal(core);
        };
        let slot = core as u32;
        let here = pack(Kind::WakeFailed, Token { slot, generation: 0 });
        let there = pack(
            Kind::Woken,
            Token {
                slot: self.core as u32,
                generation: 0,
            },
        );
        let entry = opcode::MsgRingData::new(Fd(ring), 0, there, None)
            .build()
            .user_data(here)
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: it names no memory; the hub keeps the other ring's descriptor open.
        unsafe { self.ring.push(entry) };
    }

    /// What a completion means to the reactor. `None`: nothing.
    fn translate(&mut self, entry: &cqueue::Entry) -> Option<Completion<Lease, Socket>> {
        let (kind, token) = unpack(entry.user_data())?;
        let result = entry.result();
        match kind {
            Kind::Receive => Some(self.received(token, entry)),
            Kind::Send => {
                let (token, gather) = self.owners.sends.finish(token.slot)?;
                let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
                Some(Completion::Sent {
                    token,
                    result,
                    gather,
                })
            }
            Kind::Accept => {
                let listener = ListenerId(token.slot as u16);
                // SAFETY: this is the result of that listener's accept, and each completion is translated once.
                let (outcome, next) = unsafe { self.owners.accepts.finish(listener, result, self.now_ns) };
                if let Some(next) = next {
                    // SAFETY: made by `accepts`, in `owners`, which holds the listener too.
                    unsafe { self.ring.push(next) };
                }
                match outcome {
                    Outcome::Accepted(socket, peer) => Some(Completion::Accepted {
                        listener,
                        socket: Socket::from(socket),
                        peer,
                    }),
                    Outcome::Failed(error) => Some(Completion::AcceptFailed { listener, error }),
                    Outcome::Nothing => None,
                }
            }
            Kind::Connect => {
                self.owners.connects.finish(token);
                let result = match -result {
                    0 => Ok(()),
                    error => Err(io::Error::from_raw_os_error(error)),
                };
                Some(Completion::Connected { token, result })
            }
            Kind::File => {
                // SAFETY: this is the result of that slot's operation, and each completion is translated once.
                if let Some(next) = unsafe { self.owners.files.finish(token.slot, result) } {
                    // SAFETY: made by `files`, in `owners`.
                    unsafe { self.ring.push(next) };
                }
                self.start_on_files();
                self.owners.files.poll().map(Completion::Disk)
            }
            Kind::Eventfd => {
                self.listen_to_eventfd();
                None
            }
            Kind::WakeFailed => {
                self.hub.signal(token.slot as usize);
                None
            }
            Kind::Woken | Kind::Quiet => None,
        }
    }

    fn received(&mut self, token: Token, entry: &cqueue::Entry) -> Completion<Lease, Socket> {
        let (result, more) = (entry.result(), cqueue::more(entry.flags()));
        let lease = cqueue::buffer_select(entry.flags()).map(|id| {
            let len = usize::try_from(result).unwrap_or(0);
            // SAFETY: this completion names the buffer, it was noted when it was taken over from the ring, and
            // completions are translated once and in order.
            unsafe { self.owners.pool.lend(id, len, cqueue::buffer_more(entry.flags())) }
        });
        if let Some(lease) = lease.filter(|lease| !lease.is_empty()) {
            // Data that ends the receive: the completion queue ran over. Armed again like one that found no buffer.
            self.ended = (!more).then_some(token);
            return Completion::Received { token, lease };
        }
        let end = match -result {
            0 => ReceiveEnd::EndOfStream,
            libc::ENOBUFS => {
                self.owners.pool.note_starved();
                ReceiveEnd::NoBuffers
            }
            libc::ECANCELED => ReceiveEnd::Stopped,
            error => ReceiveEnd::Failed(io::Error::from_raw_os_error(error)),
        };
        debug_assert!(!more, "a receive that yields nothing is over");
        Completion::ReceiveEnded { token, end }
    }

    /// Submits what waits for its turn on a file.
    fn start_on_files(&mut self) {
        while let Some(entry) = self.owners.files.start() {
            // SAFETY: made by `files`, in `owners`, which holds the memory and the files until `finish`, which follows the
            // completion.
            unsafe { self.ring.push(entry) };
        }
    }

    fn close_descriptor(&mut self, socket: Socket) {
        // Runs at submission, behind whatever was asked for before: nothing queued ever meets the descriptor's next
        // owner. The kernel keeps the socket itself until what is in flight has let go of it.
        let fd = Fd(OwnedFd::from(socket).into_raw_fd());
        let entry = opcode::Close::new(fd)
            .build()
            .user_data(pack(Kind::Quiet, QUIET))
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: it names no memory. The descriptor was this socket's alone and is closed here, once.
        unsafe { self.ring.push(entry) };
    }

    /// Submits, waits if allowed, takes completions over.
    fn enter(&mut self, wait: bool, timeout_ns: Option<u64>) -> io::Result<()> {
        self.owners.pool.publish();
        self.ring.enter(wait, timeout_ns)?;
        let (completions, pool) = (&mut self.completions, &self.owners.pool);
        self.ring.drain(|entry| {
            if cqueue::buffer_select(entry.flags()).is_some() {
                pool.note_filled(cqueue::buffer_more(entry.flags()));
            }
            completions.push_back(entry);
        })
    }
}

impl Driver for UringDriver {
    type Lease = Lease;
    type Socket = Socket;

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn entropy(&mut self) -> io::Result<[u8; 32]> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(bytes)
    }

    fn accept(&mut self, listener: ListenerId) {
        if let Some(entry) = self.owners.accepts.start(listener) {
            // SAFETY: made by `accepts`, in `owners`, which holds the listener too.
            unsafe { self.ring.push(entry) };
        }
    }

    fn stop_accept(&mut self, listener: ListenerId) {
        if let Some(entry) = self.owners.accepts.stop(listener) {
            // SAFETY: a cancel names no memory.
            unsafe { self.ring.push(entry) };
        }
    }

    fn open(&mut self, remote: Remote<'_>, source: Option<IpAddr>) -> io::Result<Socket> {
        socket::open(remote, source)
    }

    fn connect(&mut self, token: Token, socket: &Socket, remote: Remote<'_>) {
        let entry = self.owners.connects.begin(token, socket.as_fd(), remote);
        // SAFETY: the address is in `owners` until `finish`, which follows the completion. The descriptor is open as
        // for `receive`.
        unsafe { self.ring.push(entry) };
    }

    fn receive(&mut self, token: Token, socket: &Socket) {
        let fd = Fd(socket.as_fd().as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP)
            .build()
            .user_data(pack(Kind::Receive, token));
        // SAFETY: the buffers are in `owners`. The descriptor is open until this is submitted, because by the rule of
        // `Driver` the socket ends in `close`, which is queued behind this, or outlives the driver. A caller that
        // breaks the rule has the operation meet another descriptor, or none; no memory depends on it.
        unsafe { self.ring.push(entry) };
    }

    fn stop_receive(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(pack(Kind::Receive, token))
            .build()
            .user_data(pack(Kind::Quiet, QUIET))
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: a cancel names no memory.
        unsafe { self.ring.push(entry) };
    }

    fn send(&mut self, token: Token, socket: &Socket, gather: Box<Gather>) {
        let entry = self.owners.sends.begin(token, socket.as_fd(), gather);
        // SAFETY: the list and what points into it are in `owners` until `finish`, which follows the completion. The
        // descriptor is open as for `receive`.
        unsafe { self.ring.push(entry) };
    }

    fn shutdown_write(&mut self, socket: &Socket) {
        // It fails only on a socket whose peer is gone, which the receive tells. Directly, because the ring would
        // hand it to a worker thread; the reactor calls it when its last send has completed.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
    }

    fn give_up(&mut self, socket: &Socket) {
        // It fails only on sockets that know no lingering, and those do not wait either.
        let _ = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
    }

    fn close(&mut self, token: Token, socket: Socket) {
        if let Some(entry) = self.owners.connects.cancel(token) {
            // A socket that is being connected has nothing else in flight. A shutdown would not do: it ends the attempt,
            // and the ring begins another.
            // SAFETY: a cancel names no memory.
            unsafe { self.ring.push(entry) };
            return self.close_descriptor(socket);
        }
        // Ends the receive and the send in flight, whether submitted or not. It costs the same however many
        // connections there are; a cancel by descriptor would walk every operation that the ring has armed. It fails
        // only on a socket whose peer is gone, and there they end by themselves.
        let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        self.close_descriptor(socket);
    }

    fn free_buffers(&self) -> usize {
        self.owners.pool.free()
    }

    fn disk(&mut self, op: DiskOp) {
        self.owners.files.begin(op);
        self.start_on_files();
    }

    fn wake(&mut self, core: usize) {
        if self.hub.note(core) {
            self.tell(core);
        }
    }

    fn turn(&mut self, park_until_ns: Option<u64>) -> io::Result<()> {
        while let Some(entry) = self.owners.accepts.retry(self.now_ns) {
            // SAFETY: made by `accepts`, in `owners`, which holds the listener too.
            unsafe { self.ring.push(entry) };
        }
        if self.has_completions() {
            self.owners.pool.publish();
            let submitted = self.ring.submit();
            self.hub.unpark(self.core);
            self.now_ns = clock_ns();
            return submitted;
        }
        let until_ns = match (park_until_ns, self.owners.accepts.next_retry_ns()) {
            (Some(user), Some(retry)) => Some(user.min(retry)),
            (user, retry) => user.or(retry),
        };
        let timeout_ns = match until_ns {
            Some(0) => Some(0),
            Some(until) => Some(until.saturating_sub(clock_ns())),
            None => None,
        };
        let wait = timeout_ns != Some(0) && self.hub.park(self.core);
        let entered = self.enter(wait, timeout_ns);
        self.hub.unpark(self.core);
        self.now_ns = clock_ns();
        entered
    }

    fn is_ready(&mut self) -> bool {
        self.has_completions() || self.ring.is_ready()
    }

    fn has_completions(&self) -> bool {
        !self.completions.is_empty() || self.ended.is_some() || self.owners.files.has_done()
    }

    fn poll(&mut self) -> Option<Completion<Lease, Socket>> {
        if let Some(token) = self.ended.take() {
            return Some(Completion::ReceiveEnded {
                token,
                end: ReceiveEnd::NoBuffers,
            });
        }
        while let Some(entry) = self.completions.pop_front() {
            if let Some(completion) = self.translate(&entry) {
                return Some(completion);
            }
        }
        // What was refused without asking the kernel.
        self.owners.files.poll().map(Completion::Disk)
    }
}

/// The kernel's monotonic clock, the one that its timeouts use.
fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Monotonic time begins at 0 and lasts 584 years.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;
    use crate::disk::DiskDone;

    /// A kernel without messages between rings, and a core whose ring is not known: both are told by eventfd.
    #[test]
    fn cores_are_told_by_eventfd_where_rings_take_no_messages() {
        const ROUNDS: u32 = 500;
        let hub = UringHub::new(2).expect("hub");
        let rounds = Arc::new(AtomicU32::new(0));
        let parking = thread::spawn({
            let (hub, rounds) = (Arc::clone(&hub), Arc::clone(&rounds));
            move || {
                let mut driver = UringDriver::new(&hub, 1, &UringConfig::default()).expect("driver");
                for round in 1..=ROUNDS {
                    while rounds.load(Ordering::Acquire) < 2 * round - 1 {
                        // Without limit: a wake that is not heard hangs the test.
                        driver.turn(None).expect("turn");
                        assert!(driver.poll().is_none());
                    }
                    rounds.store(2 * round, Ordering::Release);
                }
            }
        });
        let mut driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
        driver.ring_messages = false;
        for round in 1..=ROUNDS {
            rounds.store(2 * round - 1, Ordering::Release);
            driver.wake(1);
            driver.turn(Some(0)).expect("turn");
            while rounds.load(Ordering::Acquire) < 2 * round {
                thread::yield_now();
            }
        }
        parking.join().expect("core");
    }

    #[test]
    fn a_message_that_a_ring_refuses_goes_by_eventfd() {
        let hub = UringHub::new(2).expect("hub");
        let mut driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
        // What stands for the other core's ring is none.
        let not_a_ring = std::fs::File::open("/dev/null").expect("open");
        hub.introduce(1, OwnedFd::from(not_a_ring));
        assert!(hub.park(1));
        driver.wake(1);
        driver.turn(Some(0)).expect("turn");
        assert!(driver.poll().is_none());
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(hub.eventfd(1), &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    /// A kernel whose ring does not cut files.
    #[test]
    fn a_file_is_cut_without_the_ring_where_it_cannot() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("a");
        let hub = UringHub::new(1).expect("hub");
        let mut driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
        driver.owners.files = Files::new(false);
        let mut ask = |op| {
            driver.disk(op);
            loop {
                match driver.poll() {
                    Some(Completion::Disk(done)) => return done,
                    Some(other) => panic!("{other:?}"),
                    None => driver.turn(None).expect("turn"),
                }
            }
        };
        let created = ask(DiskOp::Create {
            file: 1,
            path: path.clone(),
            bytes: 8192,
        });
        assert!(
            matches!(created, DiskDone::Opened { result: Ok(()), .. }),
            "{created:?}"
        );
        let cut = ask(DiskOp::Truncate { file: 1, bytes: 100 });
        assert!(
            matches!(cut, DiskDone::Truncated { result: Ok(()), .. }),
            "{cut:?}"
        );
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 100);
        let refused = ask(DiskOp::Truncate {
            file: 1,
            bytes: 1 << 62,
        });
        assert!(
            matches!(refused, DiskDone::Truncated { result: Err(_), .. }),
            "{refused:?}"
        );
    }
}
