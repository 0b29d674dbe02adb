//! Where a subscription or a work queue begins in a partition that it has no cursor in, or wants another place in.

use super::letters::{BeginRefusal, Start};
use super::queue::Source;

/// Low bits of an epoch: which start of the gateway on its data directory; the others name the directory.
const EPOCH_STARTS_BITS: u32 = 20;

/// The position behind which it begins.
///
/// What was given out in an earlier epoch and lost in a crash lies below what is committed now: a crash skips all offsets that
/// may have been given away. So whatever is beyond was never given out, and is refused.
pub(crate) fn position_of(start: &Start, partition: u16, log: &impl Source) -> Result<u64, BeginRefusal> {
    let bounds = log.bounds(partition);
    let first_held = bounds.first.saturating_sub(1);
    match start {
        Start::Default | Start::New => Ok(bounds.committed),
        Start::All => Ok(first_held),
        Start::TimeMs(time_ms) => Ok(log.position_at(partition, *time_ms)),
        Start::Epoch { epoch, at } => {
            let ours = log.epoch();
            if epoch >> EPOCH_STARTS_BITS != ours >> EPOCH_STARTS_BITS || *epoch > ours {
                return Err(BeginRefusal::UnknownEpoch { epoch: *epoch, ours });
            }
            match at.binary_search_by_key(&partition, |&(partition, _)| partition) {
                Ok(found) if at[found].1 > bounds.committed => Err(BeginRefusal::NeverGivenOut {
                    partition,
                    offset: at[found].1,
                    committed: bounds.committed,
                }),
                Ok(found) => Ok(at[found].1),
                Err(_) => Ok(first_held),
            }
        }
    }
}

impl Start {
    /// Whether it names a position of this partition: who does knows everything up to there.
    pub(crate) fn names(&self, partition: u16) -> bool {
        match self {
            Self::Epoch { at, .. } => at
                .binary_search_by_key(&partition, |&(partition, _)| partition)
                .is_ok(),
            _ => false,
        }
    }
}
