//! Walks the bytes of one segment through a small window: its batches, what of it is damaged, and where it ends.
//!
//! ```text
//!   head │ batch │ batch │ ##### │ batch │ batch │ ##### 0000 batch 0000 …
//!                          └ damage: a later batch says that    └ torn tail: nothing says that it was ever synced
//!                            this was synced (`synced_at`)
//! ```
//!
//! Behind a bad place the next head whose CRC is right is looked for. Whether the bad place is damage or the torn tail of a
//! log that crashed depends on what comes later, so the walk looks ahead there, each byte once; what lies behind a torn place
//! was never promised to anybody and is not yielded.

mod window;

#[cfg(test)]
mod tests;

use std::io;

use super::{
    disk::SegmentId,
    files::Files,
    footer::{Footer, decode_trailer},
    format::{
        ALIGN_BYTES, BATCH_HEAD_BYTES, BatchHead, Body, HeadFault, HeadlessSegment, Kind, SEGMENT_HEAD_BYTES,
        SegmentHead, TRAILER_BYTES,
    },
};
use window::Window;

/// Whether the end of a segment may be torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The log crashed while it wrote it, or is writing it now.
    MayBeTorn {
        /// Its stream has none behind it in which anything was written. The others were sealed and synced before the next was
        /// begun, or given up, and then all that was not safe in them is there again in the next.
        is_newest: bool,
    },
    /// It was recovered before: what is not right is damaged.
    IsWhole,
    /// As [`Tail::IsWhole`], and so many bytes of it counted then: what is behind them is no part of it.
    EndsAt(u64),
}

/// A part of a segment that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// Where it begins.
    pub at: u64,
    /// Where it ends.
    pub end: u64,
    /// The head of the batch that was there, if that can be trusted.
    pub head: Option<BatchHead>,
}

/// What a scan comes upon.
#[derive(Debug, Clone)]
pub enum Found {
    /// A batch that is as it was written, and makes sense.
    Batch {
        /// Where it is.
        at: u64,
        /// It.
        body: Body,
    },
    /// Something that was on the disk and is not any more, or that nobody understands.
    Damage(Bad),
}

/// How a segment ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// So many bytes of the file count.
    pub bytes: u64,
    /// Its footer, if it is sealed.
    pub footer: Option<Footer>,
    /// What was being written when the log crashed, or is being written now: does not count.
    pub torn: Option<Bad>,
}

/// The walk.
pub struct Scan<'a, F: Files + ?Sized> {
    window: Window<'a, F>,
    head: Result<SegmentHead, HeadlessSegment>,
    salt: u64,
    tail: Tail,
    at: u64,
    /// The most that any head seen so far says was synced.
    synced: u64,
    /// The heads up to here were looked at for that.
    looked_until: u64,
    ending: Ending,
    is_over: bool,
}

/// What stands at a place.
enum Place {
    Batch(Body),
    Bad(Bad),
    /// Nothing but zeros from here on.
    End,
}

impl<'a, F: Files + ?Sized> Scan<'a, F> {
    /// Begins. `secret` is the data directory's: with it the batches of a segment whose head is damaged can be read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(files: &'a F, id: SegmentId, secret: u64, tail: Tail) -> io::Result<Self> {
        let bytes_max = match tail {
            Tail::EndsAt(bytes) => bytes,
            Tail::MayBeTorn { .. } | Tail::IsWhole => u64::MAX,
        };
        let mut window = Window::open(files, id.name(), bytes_max)?;
        let head = SegmentHead::decode(&window.get(0, SEGMENT_HEAD_BYTES)?);
        let head = match head {
            // Another segment's file under this name.
            Ok(head) if head.id != id => Err(HeadlessSegment::Damaged),
            head => head,
        };
        let salt = head.map_or(super::format::salt_of(secret, id), |head| head.salt);
        let begins = if head.is_ok() {
            SEGMENT_HEAD_BYTES as u64
        } else {
            0
        };
        Ok(Self {
            window,
            head,
            salt,
            tail,
            at: begins,
            synced: 0,
            looked_until: begins,
            ending: Ending {
                bytes: begins,
                ..Ending::default()
            },
            is_over: false,
        })
    }

    /// What the segment says first.
    pub fn head(&self) -> Result<SegmentHead, HeadlessSegment> {
        self.head
    }

    /// The file's length.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.window.file_bytes()
    }

    /// How far the walk is.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next batch or damage; `None`: it is over, see [`Self::ending`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> io::Result<Option<Found>> {
        if self.is_over {
            return Ok(None);
        }
        match self.place(self.at)? {
            Place::Batch(body) => {
                let at = self.at;
                self.see(body.head());
                self.at += body.head().bytes();
                self.ending.bytes = self.at.min(self.window.file_bytes());
                if body.head().kind == Kind::Footer {
                    return self.finish(at, &body);
                }
                // Written by other code: as good as lost, and told like what is lost.
                if !body.is_sound() {
                    return Ok(Some(Found::Damage(Bad {
                        at,
                        end: self.ending.bytes,
                        head: Some(*body.head()),
                    })));
                }
                Ok(Some(Found::Batch { at, body }))
            }
            Place::Bad(bad) => {
                if let Tail::MayBeTorn { is_newest } = self.tail
                    && !self.was_synced(bad.at)?
                {
                    if !self.window.is_unreadable_behind(bad.at) {
                        self.is_over = true;
                        self.ending.torn = Some(bad);
                        return Ok(None);
                    }
                    // To cut here would throw away what may be read tomorrow.
                    if is_newest {
                        return Err(io::Error::other(format!(
                            "from byte {} on it cannot be read, and nothing says whether that was synced",
                            bad.at
                        )));
                    }
                    // Its footer, most likely: nothing of it is waited for, and nothing behind it is cut off either.
                    self.tail = Tail::IsWhole;
                }
                self.at = bad.end;
                self.ending.bytes = bad.end;
                Ok(Some(Found::Damage(bad)))
            }
            Place::End => {
                self.is_over = true;
                Ok(None)
            }
        }
    }

    /// How it ended.
    #[must_use]
    pub fn ending(self) -> Ending {
        self.ending
    }

    /// A footer was found: the segment is over.
    fn finish(&mut self, footer_at: u64, body: &Body) -> io::Result<Option<Found>> {
        self.is_over = true;
        let trailer_at = self.at;
        let end = trailer_at + TRAILER_BYTES as u64;
        let trailer = self.window.get(trailer_at, TRAILER_BYTES)?;
        let is_whole = trailer
            .first_chunk()
            .is_some_and(|trailer| decode_trailer(trailer, self.salt, end) == Some(footer_at));
        if let Ok(footer) = Footer::decode(body.bytes()) {
            self.ending.footer = Some(footer);
        }
        if is_whole {
            self.at = end;
            self.ending.bytes = end;
            return Ok(None);
        }
        if trailer.is_empty() {
            // Cut off when it was found to be torn.
            return Ok(None);
        }
        let bad = Bad {
            at: trailer_at,
            end: end.min(self.window.file_bytes()).max(trailer_at),
            head: None,
        };
        if matches!(self.tail, Tail::MayBeTorn { .. }) {
            self.ending.torn = Some(bad);
            return Ok(None);
        }
        self.at = bad.end;
        self.ending.bytes = bad.end;
        Ok(Some(Found::Damage(bad)))
    }

    fn see(&mut self, head: &BatchHead) {
        self.synced = self.synced.max(head.synced_at);
    }

    /// Whether what is at this place was ever synced, as far as the segment itself says.
    fn was_synced(&mut self, at: u64) -> io::Result<bool> {
        self.looked_until = self.looked_until.max(at);
        while self.synced <= at {
            match self.place(self.looked_until)? {
                Place::Batch(body) => {
                    self.see(body.head());
                    self.looked_until += body.head().bytes();
                }
                Place::Bad(bad) => {
                    // Its body may be bad; what its head says is true.
                    if let Some(head) = &bad.head {
                        self.see(head);
                    }
                    self.looked_until = bad.end;
                }
                Place::End => return Ok(false),
            }
        }
        Ok(true)
    }

    fn place(&mut self, at: u64) -> io::Result<Place> {
        let file_bytes = self.window.file_bytes();
        if at >= file_bytes {
            return Ok(Place::End);
        }
        // Not held on to: the window reads into the same memory again where nobody else has any of it.
        let head = BatchHead::decode(&self.window.get(at, BATCH_HEAD_BYTES)?, self.salt, at);
        let head = match head {
            Ok(head) => head,
            Err(fault) => return self.find_head(at, fault),
        };
        let bytes = self.window.get(at, head.bytes() as usize)?;
        let body = bytes.slice(BATCH_HEAD_BYTES.min(bytes.len())..);
        Ok(match Body::check(head, &body) {
            Ok(body) => Place::Batch(body),
            Err(_) => Place::Bad(Bad {
                at,
                end: (at + head.bytes()).min(file_bytes),
                head: Some(head),
            }),
        })
    }

    /// From a place without a head, the next one that has one.
    fn find_head(&mut self, from: u64, fault: HeadFault) -> io::Result<Place> {
        let mut at = from;
        // Zeros up to the end of the file are no part of what is bad.
        let mut bad_end = from;
        if fault == HeadFault::Damaged {
            bad_end = (from + ALIGN_BYTES).min(self.window.file_bytes());
        }
        loop {
            at += ALIGN_BYTES;
            let bytes = self.window.get(at, BATCH_HEAD_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            // Zeros are passed at the speed of memory: there may be many.
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            if zeros == bytes.len() {
                at += (zeros as u64).next_multiple_of(ALIGN_BYTES) - ALIGN_BYTES;
                continue;
            }
            let skipped = zeros as u64 / ALIGN_BYTES * ALIGN_BYTES;
            if skipped > 0 {
                at += skipped - ALIGN_BYTES;
                continue;
            }
            if BatchHead::decode(&bytes, self.salt, at).is_ok() {
                return Ok(Place::Bad(Bad {
                    at: from,
                    end: at,
                    head: None,
                }));
            }
            bad_end = (at + ALIGN_BYTES).min(self.window.file_bytes());
        }
        Ok(if bad_end == from {
            Place::End
        } else {
            Place::Bad(Bad {
                at: from,
                end: bad_end,
                head: None,
            })
        })
    }
}
