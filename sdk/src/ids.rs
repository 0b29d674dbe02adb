//! Message ids: unique to their sender, cheap to make.

use std::sync::atomic::{AtomicU64, Ordering};

use fluxar_protocol::{Code, Id};

use crate::{Error, Origin, Result};

/// Makes ids of one sender: UUIDs of version 8, 60 random bits drawn once and a counter of 62 bits.
#[derive(Debug)]
pub(crate) struct Ids {
    prefix: [u8; 8],
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Result<Self> {
        let mut prefix = [0; 8];
        random(&mut prefix)?;
        prefix[6] = 0x80 | (prefix[6] & 0x0f); // the version
        Ok(Self {
            prefix,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn next(&self) -> Id {
        let count = self.next.fetch_add(1, Ordering::Relaxed) & (u64::MAX >> 2) | 1 << 63; // the variant: 10
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&count.to_be_bytes());
        Id(id)
    }
}

/// Fills with randomness from the system.
pub(crate) fn random(out: &mut [u8]) -> Result<()> {
    getrandom::fill(out).map_err(|cause| {
        let message = format!("the system gives no randomness: {cause}");
        Error::from_origin(Origin::Input, Code::Internal, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_uuids() {
        let (one, other) = (Ids::new().unwrap(), Ids::new().unwrap());
        let mut ids: Vec<_> = (0..100).flat_map(|_| [one.next(), other.next()]).collect();
        assert!(ids.iter().all(|id| id.0[6] >> 4 == 8 && id.0[8] >> 6 == 0b10));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    }
}
