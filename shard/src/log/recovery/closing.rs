//! What a crash left open is closed: a segment without a footer gets one, so that the next start reads a few kilobytes of
//! it instead of all; one in which there is nothing is removed, once `meta` knows what it said of its partitions.
//!
//! ```text
//!   scanned, cut to what counts ─> `meta` says how much that is ─> footer and trailer written behind it, synced
//! ```
//!
//! A crash anywhere in between is harmless: as long as no whole footer stands at the file's end, what `meta` said counts,
//! and the rest is cut again. A segment of which something is damaged stays as it is: a footer would hide what was lost, so it
//! is scanned, and said, at each start.

use super::{Recovery, RecoveryFault, segment::SegmentFacts};
use crate::log::{
    files::Files,
    footer::Footer,
    format::{ALIGN_BYTES, BatchWriter, SegmentHead},
};

/// Partitions of a segment that is sealed: what a footer says of so many is far smaller than a batch may be.
const ENTRIES_MAX: usize = 16_384;
/// Segments without a footer whose length `meta` names. One more stays without a footer until the next start.
const NOTED_MAX: usize = 65_536;

impl<F: Files> Recovery<F> {
    /// Closes the segments that were read. What the disk refuses is left as it is: it costs the next start time, and
    /// nothing else.
    ///
    /// # Errors
    /// `meta` cannot be written.
    pub(super) fn close_segments(&mut self) -> Result<(), RecoveryFault> {
        let noted = &mut self.meta.unsealed;
        let mut is_news = false;
        for facts in &self.facts {
            let is_open = facts.footer_at.is_none() && !facts.is_empty() && noted.len() < NOTED_MAX;
            let counted = match sealable(facts) {
                Some(_) => facts.content_bytes,
                None => facts.bytes,
            };
            let before = match is_open {
                true => noted.insert(facts.id, counted),
                false => noted.remove(&facts.id),
            };
            is_news |= before != is_open.then_some(counted);
        }
        if is_news {
            self.copy_fault = self.meta.write(&mut self.files)?;
        }
        for facts in &mut self.facts {
            if let Some(head) = sealable(facts)
                && self.meta.unsealed.contains_key(&facts.id)
                && let Ok(bytes) = seal(&mut self.files, facts, &head, self.unix_ms)
            {
                facts.is_sealed = true;
                facts.footer_at = Some(facts.content_bytes);
                (facts.bytes, facts.file_bytes) = (bytes, bytes);
                // With the next `meta`; until then the footer is believed.
                self.meta.unsealed.remove(&facts.id);
            }
        }
        Ok(())
    }

    /// Removes the files in which there is nothing that anybody needs. What the disk refuses stays until the next start.
    pub(super) fn remove_empty(&mut self) {
        for facts in self.facts.iter().filter(|facts| facts.is_gone) {
            let _ = self.files.remove(&facts.id.name());
        }
    }
}

/// The head of a segment that lacks nothing but its footer.
fn sealable(facts: &SegmentFacts) -> Option<SegmentHead> {
    let is_dense = |partition: &u16, (first, last): (u64, u64)| {
        let part = facts.parts.get(partition);
        part.is_some_and(|part| part.extent.first <= first && last <= part.extent.last)
    };
    // What other code may have written could be more than a footer takes.
    let counts = [facts.bases.len(), facts.parts.len(), facts.removed.len()];
    let is_small = counts.into_iter().all(|count| count <= ENTRIES_MAX);
    let is_whole = facts.footer_at.is_none()
        && is_small
        && !facts.is_empty()
        && facts.damage.is_empty()
        && facts.content_bytes.is_multiple_of(ALIGN_BYTES)
        && facts.parts.values().all(|part| part.ranges.len() == 1)
        && facts
            .promised
            .iter()
            .all(|(partition, range)| is_dense(partition, *range));
    facts.head.filter(|_| is_whole)
}

/// Writes what the log would have written, had it not been killed; how long the file is then.
fn seal<F: Files>(
    files: &mut F,
    facts: &SegmentFacts,
    head: &SegmentHead,
    unix_ms: u64,
) -> std::io::Result<u64> {
    let at = facts.content_bytes;
    let footer = Footer {
        is_last: facts.is_last,
        bases: facts.bases.clone(),
        extents: facts.parts.values().map(|part| part.extent.clone()).collect(),
        rows: Some(facts.rows.listed()),
        cursors_at: Some(facts.cursors_at.clone()),
        removed: facts.removed.clone(),
    };
    // All of it is known to survive power loss: nothing that is torn behind it is taken for damage.
    let mut writer = BatchWriter::new(head, at, at, unix_ms);
    writer.footer(&footer);
    let end = writer.at();
    let name = facts.id.name();
    if facts.bytes > at {
        // A footer whose trailer is not there.
        files.truncate(&name, at)?;
    }
    files.write(&name, at, &writer.finish().concat())?;
    Ok(end)
}
