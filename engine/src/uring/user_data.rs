//! What the 64 bits that travel with each operation say, so that its completion finds its owner.
//!
//! ```text
//!   63      60 59                          32 31                           0
//!  ┌──────────┬──────────────────────────────┬──────────────────────────────┐
//!  │ kind (4) │ slot (28)                    │ generation (32)              │
//!  └──────────┴──────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! They are numbers, never pointers: a completion that comes late for an owner that is gone carries an old generation
//! and is recognised, whatever took the slot since.

use crate::driver::Token;

const KIND_BITS: u32 = 4;
const SLOT_BITS: u32 = 28;
const GENERATION_BITS: u32 = 32;

const GENERATION_SHIFT: u32 = 0;
const SLOT_SHIFT: u32 = GENERATION_SHIFT + GENERATION_BITS;
const KIND_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;

/// Slots are below this: 268 million connections a core.
pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;

const _: () = assert!(KIND_BITS + SLOT_BITS + GENERATION_BITS == u64::BITS);
const _: () = assert!(KIND_SHIFT + KIND_BITS == u64::BITS);
const _: () = assert!((Kind::LAST as u64) < 1 << KIND_BITS);
const _: () = assert!(GENERATION_BITS == u32::BITS, "a token's generation fits as it is");

/// What an operation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A multishot receive; slot and generation are the owner's token.
    Receive = 1,
    /// A send; the slot is the index of its [`super::sends`] slot.
    Send = 2,
    /// An accept; the slot is the listener.
    Accept = 3,
    /// The read of this core's eventfd.
    Eventfd = 4,
    /// Another core's message: a completion that no operation of this ring asked for. Only wakes.
    Woken = 5,
    /// A message to another core's ring that could not be delivered; the slot is the core.
    WakeFailed = 6,
    /// A cancel or a close; completes only by failing, and nobody wants to know.
    Quiet = 7,
    /// A connect; slot and generation are the owner's token.
    Connect = 8,
    /// A step of an operation on a file; the slot is the index of its [`super::files`] slot.
    File = 9,
}

impl Kind {
    const LAST: Kind = Kind::File;

    #[inline]
    fn of(bits: u64) -> Option<Kind> {
        Some(match bits {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Accept,
            4 => Kind::Eventfd,
            5 => Kind::Woken,
            6 => Kind::WakeFailed,
            7 => Kind::Quiet,
            8 => Kind::Connect,
            9 => Kind::File,
            _ => return None,
        })
    }

    /// Whether an operation of this kind holds memory, a socket or a file until its completion, which always comes.
    #[inline]
    pub(super) fn is_awaited(self) -> bool {
        matches!(
            self,
            Kind::Receive | Kind::Send | Kind::Accept | Kind::Connect | Kind::File | Kind::Eventfd
        )
    }
}

/// Packs.
#[inline]
pub(super) fn pack(kind: Kind, token: Token) -> u64 {
    assert!(
        token.slot < SLOTS_MAX,
        "slot {} is beyond what an operation can name",
        token.slot
    );
    (kind as u64) << KIND_SHIFT | u64::from(token.slot) << SLOT_SHIFT | u64::from(token.generation)
}

/// Unpacks; `None` for bits that [`pack`] never makes.
#[inline]
pub(super) fn unpack(bits: u64) -> Option<(Kind, Token)> {
    let kind = Kind::of(bits >> KIND_SHIFT)?;
    let slot = (bits >> SLOT_SHIFT) as u32 & (SLOTS_MAX - 1);
    Some((
        kind,
        Token {
            slot,
            generation: bits as u32,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        for kind in 1..=Kind::LAST as u64 {
            let number = kind;
            let kind = Kind::of(number).expect("kinds have no gaps");
            assert_eq!(kind as u64, number);
            for slot in [0, 1, 0x0abc_def1, SLOTS_MAX - 1] {
                for generation in [0, 1, 0x8000_0000, u32::MAX] {
                    let token = Token { slot, generation };
                    assert_eq!(unpack(pack(kind, token)), Some((kind, token)));
                }
            }
        }
    }

    #[test]
    fn unknown_kinds_are_refused() {
        assert_eq!(unpack(0), None);
        assert_eq!(unpack(u64::MAX), None);
    }
}
