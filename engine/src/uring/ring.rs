//! The two queues shared with the kernel: setting them up, pushing operations, the one system call of a turn.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use super::config::UringConfig;
use super::user_data;

/// One io_uring, used by the thread that made it.
pub(super) struct Ring {
    ring: IoUring,
    /// Operations that found the submission queue full and the kernel unwilling; they go first.
    backlog: VecDeque<squeue::Entry>,
    /// `NO_IOWAIT` where the kernel has it, so that a parked core does not look like one that waits for a disk.
    enter_flags: EnterFlags,
    /// Operations whose final completion has not come, of the kinds that are awaited.
    in_flight: usize,
}

/// What the system call is made for, beyond submitting.
#[derive(Debug, Clone, Copy)]
enum Want {
    Submit,
    /// Completions, if there are any.
    Fetch,
    /// At least one completion, for at most so many nanoseconds.
    Wait(Option<u64>),
}

/// How a ring was made: each step leaves out what an older kernel refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    /// Linux 6.1: one issuing thread, completions made only when this thread asks for them.
    Deferred,
    /// Linux 6.0: one issuing thread, no interrupts of it.
    SingleIssuer,
    /// Linux 5.19.
    Cooperative,
}

impl Setup {
    const BEST_FIRST: [Setup; 3] = [Setup::Deferred, Setup::SingleIssuer, Setup::Cooperative];
}

/// Makes the best ring that the kernel grants.
///
/// # Errors
/// The kernel's; [`crate::probe`] knows what they mean.
pub(crate) fn set_up_best(config: &UringConfig) -> io::Result<(IoUring, Setup)> {
    let mut refused = None;
    for setup in Setup::BEST_FIRST {
        match set_up(config, setup) {
            Ok(ring) => return Ok((ring, setup)),
            // Flags that it does not know; any other refusal would meet the next attempt too.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
}

fn set_up(config: &UringConfig, setup: Setup) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // TASKRUN_FLAG: a turn that does not park sees without a system call whether there is anything to fetch.
    builder
        .setup_cqsize(config.cq_entries)
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_taskrun_flag();
    match setup {
        Setup::Deferred => {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        Setup::SingleIssuer => {
            builder.setup_single_issuer();
        }
        Setup::Cooperative => {}
    }
    builder.build(config.entries)
}

impl Ring {
    /// Makes the best ring that the kernel grants.
    ///
    /// # Errors
    /// Those of [`set_up_best`].
    pub(super) fn new(config: &UringConfig) -> io::Result<Ring> {
        set_up_best(config).map(|(ring, _)| Ring::around(ring))
    }

    fn around(ring: IoUring) -> Ring {
        let no_iowait = ring.params().is_feature_no_iowait();
        let enter_flags = if no_iowait {
            EnterFlags::NO_IOWAIT
        } else {
            EnterFlags::empty()
        };
        Ring {
            ring,
            backlog: VecDeque::new(),
            enter_flags,
            in_flight: 0,
        }
    }

    /// The ring itself, for registering things with it.
    pub(super) fn registrar(&self) -> &IoUring {
        &self.ring
    }

    /// Another descriptor of this ring, for other rings to send it messages. It keeps the ring's queues alive.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the descriptor is open as long as `self.ring` is, which outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        fd.as_fd().try_clone_to_owned()
    }

    /// Operations whose final completion has not come.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation for the next [`Ring::enter`]. When the queue is full it is submitted first.
    ///
    /// # Safety
    /// All memory that the operation names stays valid and unmoved until its final completion was drained, or forever.
    /// Its descriptor is open until the next `enter`.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if user_data::unpack(entry.get_user_data()).is_some_and(|(kind, _)| kind.is_awaited()) {
            self.in_flight += 1;
        }
        // SAFETY: passed on to the caller.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
            // An error leaves everything queued; the turn's own enter meets it again and reports it.
            let _ = self.submit_backlog();
        }
    }

    /// Moves the backlog into the queue, submitting whenever that is full. On return either the backlog is empty or
    /// the kernel takes no more for now.
    fn submit_backlog(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let mut queue = self.ring.submission();
            while let Some(entry) = self.backlog.front() {
                // SAFETY: the caller of the `push` that put it here gave the promise for as long as it takes.
                if unsafe { queue.push(entry) }.is_err() {
                    break;
                }
                self.backlog.pop_front();
            }
            drop(queue);
            if !self.backlog.is_empty() && self.call(Want::Fetch)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether an `enter` that does not wait would do anything: submit, or fetch completions.
    fn has_business(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    /// Whether there are completions, or the kernel would make some if it was asked. No system call.
    pub(super) fn is_ready(&mut self) -> bool {
        if !self.ring.completion().is_empty() {
            return true;
        }
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Submits everything queued, and waits for a completion if asked to: at most for `timeout_ns`, or without limit.
    /// No system call if there is nothing to submit, to fetch, or to wait for.
    ///
    /// # Errors
    /// Those that make the ring unusable. Signals, timeouts and a kernel that is short of memory are not errors.
    pub(super) fn enter(&mut self, wait: bool, timeout_ns: Option<u64>) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.submit_backlog()?;
        }
        let wait = wait && self.ring.completion().is_empty();
        if wait {
            self.call(Want::Wait(timeout_ns))?;
        } else if self.has_business() {
            self.call(Want::Fetch)?;
        }
        Ok(())
    }

    /// Submits everything queued, and fetches nothing.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub(super) fn submit(&mut self) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.submit_backlog()?;
        }
        if !self.ring.submission().is_empty() {
            self.call(Want::Submit)?;
        }
        Ok(())
    }

    /// The system call. Returns how many operations were submitted.
    fn call(&mut self, want: Want) -> io::Result<usize> {
        let submit = self.ring.submission().len() as u32;
        // With deferred task runs, GETEVENTS is what makes completions.
        let (events, want, timeout_ns) = match want {
            Want::Submit => (EnterFlags::empty(), 0, None),
            Want::Fetch => (EnterFlags::GETEVENTS, 0, None),
            Want::Wait(timeout_ns) => (EnterFlags::GETEVENTS, 1, timeout_ns),
        };
        let flags = EnterFlags::EXT_ARG | events | self.enter_flags;
        let timespec = timeout_ns.map(|ns| {
            Timespec::new()
                .sec(ns / 1_000_000_000)
                .nsec((ns % 1_000_000_000) as u32)
        });
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        // SAFETY: the flags say that the argument is an extended one, which `SubmitArgs` is; it and the timespec live
        // through the call. What the submitted operations name is promised by the callers of `push`.
        let result = unsafe {
            self.ring
                .submitter()
                .enter(submit, want, flags.bits(), Some(&args))
        };
        match result {
            Ok(submitted) => Ok(submitted),
            Err(error) => match error.raw_os_error() {
                // ETIME: the time is up. EINTR: a signal. EAGAIN, EBUSY: the kernel cannot take more before
                // completions are drained or memory is found; what is queued stays queued.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Takes what has completed out of the queue, so that the kernel has room.
    #[inline]
    ///
    /// # Errors
    /// The kernel had no memory for a completion and dropped it. There is no going on: where a part of a receive buffer
    /// begins follows from all completions before.
    pub(super) fn drain(&mut self, mut take: impl FnMut(cqueue::Entry)) -> io::Result<()> {
        let mut ended = 0;
        let completions = self.ring.completion();
        let dropped = completions.overflow();
        for entry in completions {
            let awaited = user_data::unpack(entry.user_data()).is_some_and(|(kind, _)| kind.is_awaited());
            ended += usize::from(awaited && !cqueue::more(entry.flags()));
            take(entry);
        }
        self.in_flight -= ended;
        if dropped > 0 {
            let message = format!("the kernel was out of memory and dropped {dropped} completions");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
        }
        Ok(())
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ring({} in flight, {} held back)",
            self.in_flight,
            self.backlog.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use io_uring::opcode::Nop;

    use super::*;
    use crate::driver::Token;
    use crate::uring::user_data::{Kind, pack};

    fn small() -> UringConfig {
        UringConfig {
            entries: 8,
            cq_entries: 16,
            ..UringConfig::default()
        }
    }

    #[test]
    fn every_setup_that_this_kernel_grants_works() {
        for setup in Setup::BEST_FIRST {
            let mut ring = Ring::around(set_up(&small(), setup).expect("a kernel of 6.1 or later"));
            // SAFETY: a no-operation names no memory and no descriptor.
            unsafe { ring.push(Nop::new().build().user_data(42)) };
            ring.enter(true, None).expect("enter");
            let mut seen = Vec::new();
            ring.drain(|entry| seen.push(entry.user_data()))
                .expect("nothing dropped");
            assert_eq!(seen, [42], "{setup:?}");
        }
    }

    /// Many more operations than either queue holds: all complete, once each, in order of submission.
    #[test]
    fn full_queues_lose_nothing() {
        let mut ring = Ring::new(&small()).expect("ring");
        let total = 1000;
        for slot in 0..total {
            let user_data = pack(Kind::Send, Token { slot, generation: 0 });
            // SAFETY: as above.
            unsafe { ring.push(Nop::new().build().user_data(user_data)) };
        }
        assert_eq!(ring.in_flight(), total as usize);
        let mut seen = Vec::new();
        while ring.in_flight() > 0 {
            ring.enter(true, Some(1_000_000_000)).expect("enter");
            ring.drain(|entry| seen.push(entry.user_data()))
                .expect("nothing dropped");
        }
        let expected: Vec<u64> = (0..total)
            .map(|slot| pack(Kind::Send, Token { slot, generation: 0 }))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn waiting_ends_when_the_time_is_up() {
        let mut ring = Ring::new(&small()).expect("ring");
        let start = Instant::now();
        ring.enter(true, Some(5_000_000)).expect("enter");
        assert!(start.elapsed().as_micros() >= 5_000);
    }
}
