//! The open streams of a session: which number is which, and what each may send [P-3.11].

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use fluxar_protocol::Id;
use fluxar_protocol::stream::{Breach, State, Stream};

/// See the module. A session either opens streams, under numbers that its user chooses, or has streams opened to it,
/// which get the lowest number that is free.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<Id, u32, BuildHasherDefault<Fold>>,
    /// Whose part came last: the next one is mostly of the same stream.
    last: u32,
}

#[derive(Debug)]
struct Slot {
    /// Of its open. Means nothing once the stream is closed.
    id: Id,
    stream: Stream,
    /// The other side opened it: its number goes back to those that are free.
    is_theirs: bool,
}

impl Streams {
    /// One that this side opened.
    pub(super) fn opened_here(&mut self, number: u32, id: Id, stream: Stream) {
        let at = number as usize;
        self.slots.resize_with(self.slots.len().max(at + 1), || Slot {
            id: Id([0; 16]),
            stream: Stream::default(),
            is_theirs: false,
        });
        self.release(number);
        self.slots[at] = Slot {
            id,
            stream,
            is_theirs: false,
        };
        self.by_id.insert(id, number);
    }

    /// One that the other side opened; `None` if one of that id is open.
    pub(super) fn opened_there(&mut self, id: Id, stream: Stream) -> Option<u32> {
        if self.find(id).is_some() {
            return None;
        }
        let slot = Slot {
            id,
            stream,
            is_theirs: true,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.by_id.insert(id, number);
        Some(number)
    }

    /// The open stream of that id.
    #[inline]
    pub(super) fn find(&mut self, id: Id) -> Option<u32> {
        if let Some(slot) = self.slots.get(self.last as usize)
            && slot.id == id
            && slot.stream.state() != State::Closed
        {
            return Some(self.last);
        }
        self.last = *self.by_id.get(&id)?;
        Some(self.last)
    }

    /// The id by which the other side knows it, and its state; `None` if no such stream was ever opened.
    #[inline]
    pub(super) fn get(&mut self, number: u32) -> Option<(Id, &mut Stream)> {
        let slot = self.slots.get_mut(number as usize)?;
        Some((slot.id, &mut slot.stream))
    }

    /// How many bytes may be sent on it.
    pub(super) fn credit_bytes(&self, number: u32) -> u64 {
        let slot = self.slots.get(number as usize);
        slot.map_or(0, |slot| slot.stream.credit_bytes())
    }

    /// Forgets a stream that is closed, if it is.
    #[inline]
    pub(super) fn settle(&mut self, number: u32) {
        let slot = &self.slots[number as usize];
        let is_theirs = slot.is_theirs;
        if slot.stream.state() == State::Closed && self.release(number) && is_theirs {
            self.free.push(number);
        }
    }

    /// Whether it was known until now.
    fn release(&mut self, number: u32) -> bool {
        let id = self.slots[number as usize].id;
        let is_known = self.by_id.get(&id) == Some(&number);
        if is_known {
            self.by_id.remove(&id);
        }
        is_known
    }
}

/// What a breach is called.
pub(super) fn words(breach: Breach) -> String {
    match breach {
        Breach::BeyondCredit {
            chunk_bytes,
            credit_bytes,
        } => format!("a chunk of {chunk_bytes} bytes came where {credit_bytes} were left of its credit"),
        Breach::BehindEnd => "a chunk or an end came behind the end of its direction".to_owned(),
    }
}

/// Ids are unique numbers already: folding their halves is hash enough for a peer that is trusted.
#[derive(Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            // The map looks at the top bits and at the bottom ones.
            let mixed = (self.0 ^ u64::from_le_bytes(padded)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ mixed >> 32;
        }
    }
}
