//! One partition: which offsets it has given, and which of them readers see. O(1) while nothing is in memory; what topics it
//! holds it does not know.

use super::events::Bounds;
use super::tail::Tail;

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Recovery has said what it holds.
    pub(super) ready: bool,
    /// The last offset that was given.
    pub(super) last: u64,
    /// The last offset that readers see.
    pub(super) committed: u64,
    /// The last offset that is on the disk.
    pub(super) synced: u64,
    /// The last offset that was held and is not any more, because its segment was removed.
    pub(super) removed: u64,
    pub(super) tail: Tail,
}

impl Partition {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            first: self.tail.first().unwrap_or(self.committed + 1),
            committed: self.committed,
        }
    }
}
