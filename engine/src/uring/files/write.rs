//! Writing: everything, from where a short write ended on; and syncing it, if that is wanted.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::steps::{Advance, Work, checked, sync_data};
use crate::disk::DiskDone;

/// Slices that one system call takes (`UIO_MAXIOV`); the others go with the next step.
const VECTORS_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Write {
    file: u64,
    at: u64,
    descriptor: Rc<OwnedFd>,
    slices: Vec<Bytes>,
    /// The first slice that is not written to its end, and how far it is.
    next: (usize, usize),
    written: u64,
    /// What the kernel is given: they point into the slices.
    vectors: Vec<libc::iovec>,
    sync: Durability,
}

/// How it comes to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Not by itself.
    None,
    /// It is wanted.
    Wanted,
    /// The step at hand writes all of it, and syncs that.
    WithWrite,
    /// The step at hand syncs the file, of which all is written.
    Behind,
}

impl Write {
    pub(super) fn new(file: u64, at: u64, descriptor: Rc<OwnedFd>, slices: Vec<Bytes>, sync: bool) -> Write {
        Write {
            file,
            at,
            descriptor,
            slices,
            next: (0, 0),
            written: 0,
            vectors: Vec::new(),
            sync: if sync {
                Durability::Wanted
            } else {
                Durability::None
            },
        }
    }

    pub(super) fn entry(&mut self) -> squeue::Entry {
        if self.sync == Durability::Behind {
            return sync_data(&self.descriptor);
        }
        let mut flags = 0;
        if self.sync != Durability::None {
            let whole = self.next == (0, 0) && self.slices.len() <= VECTORS_MAX;
            if whole {
                self.sync = Durability::WithWrite;
                flags = libc::RWF_DSYNC;
            } else {
                self.sync = Durability::Wanted;
            }
        }
        let fd = Fd(self.descriptor.as_raw_fd());
        let at = self.at + self.written;
        let (first, skipped) = self.next;
        self.vectors.clear();
        for (index, slice) in self.slices.iter().enumerate().skip(first).take(VECTORS_MAX) {
            let slice = if index == first {
                &slice[skipped..]
            } else {
                &slice[..]
            };
            self.vectors.push(libc::iovec {
                iov_base: slice.as_ptr().cast_mut().cast(),
                iov_len: slice.len(),
            });
        }
        match self.vectors.as_slice() {
            [] => opcode::Nop::new().build(),
            [one] => {
                // Of 4 GiB and more a part is written, like any short write.
                let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                opcode::Write::new(fd, one.iov_base.cast_const().cast(), len)
                    .offset(at)
                    .rw_flags(flags)
                    .build()
            }
            many => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32)
                .offset(at)
                .rw_flags(flags)
                .build(),
        }
    }

    pub(super) fn advance(mut self, result: i32) -> Advance {
        let taken = match checked(result) {
            Ok(_) if self.sync == Durability::Behind => return self.over(Ok(())),
            Ok(taken) => taken as usize,
            Err(error) => return self.over(Err(error)),
        };
        self.written += taken as u64;
        let (mut index, mut offset) = (self.next.0, self.next.1 + taken);
        while let Some(slice) = self.slices.get(index)
            && offset >= slice.len()
        {
            offset -= slice.len();
            index += 1;
        }
        if index < self.slices.len() {
            if taken == 0 {
                return self.over(Err(io::ErrorKind::WriteZero.into()));
            }
            self.next = (index, offset);
            return Advance::Again(Work::Write(self));
        }
        if self.sync == Durability::Wanted {
            self.sync = Durability::Behind;
            return Advance::Again(Work::Write(self));
        }
        self.over(Ok(()))
    }

    fn over(self, result: io::Result<()>) -> Advance {
        Advance::Over(DiskDone::Wrote {
            file: self.file,
            at: self.at,
            result,
        })
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;
    use crate::disk::DiskOp;

    fn write_of(slices: &[&'static [u8]], sync: bool) -> Work {
        let op = DiskOp::Write {
            file: 1,
            at: 100,
            slices: slices.iter().map(|slice| Bytes::from_static(slice)).collect(),
            sync,
        };
        let descriptor = OwnedFd::from(std::fs::File::open("/dev/null").expect("open"));
        Work::on_file(op, Rc::new(descriptor)).expect("a write")
    }

    /// What is left to write, as the kernel would see it.
    fn left(work: &mut Work) -> Vec<u8> {
        let _ = work.entry(true);
        let Work::Write(write) = work else {
            panic!("{work:?}")
        };
        let slices = write.vectors.iter().map(|vector| {
            // SAFETY: they point into the work's slices, which are there.
            unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) }
        });
        slices.flatten().copied().collect()
    }

    fn advance(work: Work, result: i32) -> Advance {
        // SAFETY: a write's result carries nothing, and no kernel has the operation.
        unsafe { work.advance(result) }
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended_and_is_synced_as_a_whole() {
        for first in 0..=9 {
            let mut work = write_of(&[b"abc", b"", b"defg", b"hi"], true);
            assert_eq!(left(&mut work), b"abcdefghi");
            if first == 0 {
                let Advance::Over(DiskDone::Wrote { result, .. }) = advance(work, 0) else {
                    panic!("nothing was taken")
                };
                assert_eq!(result.expect_err("no progress").kind(), io::ErrorKind::WriteZero);
                continue;
            }
            let mut advanced = advance(work, first);
            if first < 9 {
                let Advance::Again(mut work) = advanced else {
                    panic!("{advanced:?}")
                };
                assert_eq!(left(&mut work), b"abcdefghi"[first as usize..]);
                let Advance::Again(interrupted) = advance(work, -libc::EINTR) else {
                    panic!("again")
                };
                advanced = advance(interrupted, 9 - first);
                let Advance::Again(mut work) = advanced else {
                    panic!("a sync behind it: {advanced:?}")
                };
                let sync = work.entry(true);
                assert_eq!(sync.get_opcode(), u32::from(opcode::Fsync::CODE));
                advanced = advance(work, 0);
            }
            assert!(
                matches!(
                    advanced,
                    Advance::Over(DiskDone::Wrote {
                        file: 1,
                        at: 100,
                        result: Ok(())
                    })
                ),
                "{first}: {advanced:?}"
            );
        }
    }
}
