//! Where a core's ids come from.

use fluxar_protocol::Id;

/// Fills a buffer with randomness: the kernel's, or the simulation's seeded one.
pub type Entropy = Box<dyn FnMut(&mut [u8])>;

/// Where ids come from: random for sessions, a random start and a counter for messages.
pub(crate) struct Ids {
    entropy: Entropy,
    prefix: [u8; 8],
    count: u64,
}

impl Ids {
    pub(crate) fn new(mut entropy: Entropy) -> Self {
        let mut prefix = [0; 8];
        entropy(&mut prefix);
        Self {
            entropy,
            prefix,
            count: 0,
        }
    }

    /// An id that nobody can guess.
    pub(crate) fn secret(&mut self) -> Id {
        let mut id = [0; 16];
        (self.entropy)(&mut id);
        Id(id)
    }

    /// The next message id of this core.
    pub(crate) fn next(&mut self) -> Id {
        self.count += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&self.count.to_be_bytes());
        Id(id)
    }
}
