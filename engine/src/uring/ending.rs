//! The end of a driver: what files were asked for is done, everything else is cancelled, and memory is let go of when the
//! kernel has.

#![allow(unsafe_code)]

use std::mem::ManuallyDrop;

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::buffers::GROUP;
use super::user_data::{Kind, pack, unpack};
use super::{QUIET, UringDriver, clock_ns};
use crate::listener::ListenerId;

/// How long the end of a driver waits for the kernel to let go of its memory.
const DROP_WAIT_NS: u64 = 1_000_000_000;

/// How long it waits for the disk to take what was written.
const DROP_FILES_WAIT_NS: u64 = 30_000_000_000;

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.hub.retire(self.core);
        self.finish_files();
        // What completed and was not polled: descriptors are closed, buffers given back.
        let give_up_at_ns = clock_ns() + DROP_WAIT_NS;
        let cancel_all = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        // SAFETY: a cancel names no memory.
        unsafe { self.ring.push(cancel_all.user_data(pack(Kind::Quiet, QUIET))) };
        loop {
            self.discard_completions();
            let now_ns = clock_ns();
            if self.ring.in_flight() == 0 || now_ns >= give_up_at_ns {
                break;
            }
            if self.enter(true, Some(give_up_at_ns - now_ns)).is_err() {
                break;
            }
        }
        let unregistered = self.ring.registrar().submitter().unregister_buf_ring(GROUP);
        if self.ring.in_flight() == 0 && unregistered.is_ok() {
            // SAFETY: both are dropped once, here, and not used afterwards. No operation is in flight and the buffer
            // group is gone, so the kernel has no address into the owners.
            unsafe {
                ManuallyDrop::drop(&mut self.owners);
                ManuallyDrop::drop(&mut self.ring);
            }
        }
    }
}

impl UringDriver {
    /// Waits until everything is done that was asked of files: what a user had written is not to be lost because its core
    /// ends.
    fn finish_files(&mut self) {
        let give_up_at_ns = clock_ns() + DROP_FILES_WAIT_NS;
        loop {
            self.discard_completions();
            let now_ns = clock_ns();
            if self.owners.files.is_idle() || now_ns >= give_up_at_ns {
                return;
            }
            if self.enter(true, Some(give_up_at_ns - now_ns)).is_err() {
                return;
            }
        }
    }

    /// Ends what has completed without asking for anything new, but for the steps of operations on files.
    fn discard_completions(&mut self) {
        self.ended = None;
        while let Some(entry) = self.completions.pop_front() {
            match unpack(entry.user_data()) {
                Some((Kind::Accept, token)) => {
                    let listener = ListenerId(token.slot as u16);
                    let _ = self.owners.accepts.stop(listener);
                    // SAFETY: as in `translate`. Stopped, so that nothing is armed again.
                    let _ = unsafe { self.owners.accepts.finish(listener, entry.result(), self.now_ns) };
                }
                Some((Kind::Eventfd, _)) => {}
                _ => drop(self.translate(&entry)),
            }
        }
    }
}
