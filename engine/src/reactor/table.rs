//! A table of slots that are used again, each use with a generation of its own: a [`Token`] of an earlier use finds
//! nothing.

use crate::driver::Token;
use crate::paged::Paged;

/// Generations wrap here, so that a driver can pack slot, generation and a kind of operation into 64 bits.
const GENERATIONS: u32 = 1 << Token::GENERATION_BITS;

/// Slots with what lives in them.
#[derive(Debug)]
pub(super) struct Table<C> {
    slots: Paged<Slot<C>>,
    /// Free slots; the one freed last is used first, since its memory is warm.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<C> {
    content: Option<C>,
    generation: u32,
}

impl<C> Table<C> {
    pub(super) const fn new() -> Table<C> {
        Table {
            slots: Paged::new(),
            free: Vec::new(),
        }
    }

    /// How many slots are in use.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives out a slot. The caller bounds how many.
    pub(super) fn insert(&mut self, content: C) -> Token {
        let slot = self.vacant();
        let entry = &mut self.slots[slot as usize];
        entry.content = Some(content);
        Token {
            slot,
            generation: entry.generation,
        }
    }

    /// A token that names nothing any more: what one use of a slot gives, at its end at once.
    pub(super) fn pass(&mut self) -> Token {
        let slot = self.vacant();
        let entry = &mut self.slots[slot as usize];
        let token = Token {
            slot,
            generation: entry.generation,
        };
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(slot);
        token
    }

    fn vacant(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                content: None,
                generation: 0,
            });
            (self.slots.len() - 1) as u32
        })
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut C> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        slot.content.as_mut()
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<C> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        let content = slot.content.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(token.slot);
        Some(content)
    }

    /// What one use of a slot costs.
    #[cfg(test)]
    pub(super) const SLOT_BYTES: usize = size_of::<Slot<C>>();
}
