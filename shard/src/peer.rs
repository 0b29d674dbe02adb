//! Who a connection is, as all cores name it.

use std::fmt;

/// A connection, unique over all cores for as long as the process lives.
///
/// `slot` and `generation` are whatever its core's connection table uses: a slot that is used again gets another
/// generation, so a name that has outlived its connection is recognised and never reaches the next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// Its place in its core's connection table.
    pub slot: u32,
    /// Which tenant of that place.
    pub generation: u32,
    /// Its home core.
    pub core: u16,
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.core, self.slot, self.generation)
    }
}
