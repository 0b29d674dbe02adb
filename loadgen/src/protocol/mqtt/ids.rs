//! Packet ids: 1 to 65,535, each in use until its packet is answered.

/// Ids that are kept free of publishes, so that a subscription can always be asked for.
const RESERVED: u16 = 15;
/// Most publishes in flight, whatever the server takes.
const PUBLISHES_MAX: u16 = u16::MAX - RESERVED;

/// Who has which id. Memory grows with the highest id in use at a time.
#[derive(Debug)]
pub(super) struct PacketIds {
    /// A bit for each id; bit 0 stands for id 1.
    used: Vec<u64>,
    /// Where to look for the next free one: answers come mostly in order, so it is mostly free.
    next: u16,
    used_count: u16,
    publishes: u16,
    publishes_max: u16,
}

impl Default for PacketIds {
    fn default() -> Self {
        Self {
            used: Vec::new(),
            next: 0,
            used_count: 0,
            publishes: 0,
            publishes_max: PUBLISHES_MAX,
        }
    }
}

impl PacketIds {
    /// The server takes so many publishes at a time.
    pub(super) fn limit_publishes(&mut self, receive_maximum: u16) {
        self.publishes_max = receive_maximum.min(PUBLISHES_MAX);
    }

    /// An id for a publish, if one more may be in flight.
    #[inline]
    pub(super) fn take_for_publish(&mut self) -> Option<u16> {
        if self.publishes >= self.publishes_max {
            return None;
        }
        let id = self.take()?;
        self.publishes += 1;
        Some(id)
    }

    /// An id for anything else.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u16> {
        if self.used_count == u16::MAX {
            return None;
        }
        if self.used_count == 0 {
            self.next = 0;
        }
        // One of u16::MAX ids is free, so this ends.
        loop {
            let at = self.next;
            self.next = if at == u16::MAX - 1 { 0 } else { at + 1 };
            let (word, bit) = (usize::from(at / 64), 1 << (at % 64));
            if word >= self.used.len() {
                self.used.resize(word + 1, 0);
            }
            if self.used[word] & bit == 0 {
                self.used[word] |= bit;
                self.used_count += 1;
                return Some(at + 1);
            }
        }
    }

    /// The publish with this id was answered. False if the id is free.
    #[inline]
    pub(super) fn give_back_publish(&mut self, id: u16) -> bool {
        let was_used = self.give_back(id);
        self.publishes -= u16::from(was_used);
        was_used
    }

    /// Likewise for anything else.
    pub(super) fn give_back(&mut self, id: u16) -> bool {
        let Some(at) = id.checked_sub(1) else { return false };
        let bit = 1 << (at % 64);
        match self.used.get_mut(usize::from(at / 64)) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.used_count -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_ids_and_no_more() {
        let mut ids = PacketIds::default();
        let taken: BTreeSet<u16> = std::iter::from_fn(|| ids.take_for_publish()).collect();
        assert_eq!(taken.len(), usize::from(PUBLISHES_MAX));
        let others: BTreeSet<u16> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(others.len(), usize::from(RESERVED));
        assert!(taken.union(&others).copied().eq(1..=u16::MAX));
        assert!(ids.give_back_publish(700) && !ids.give_back_publish(700));
        assert_eq!(ids.take_for_publish(), Some(700));
        assert!(!ids.give_back_publish(0));
    }

    proptest! {
        #[test]
        fn no_id_is_given_twice(steps in prop::collection::vec(any::<(bool, usize)>(), 0..200), most in 1_u16..40) {
            let mut ids = PacketIds::default();
            ids.limit_publishes(most);
            let mut held = Vec::new();
            for (takes, which) in steps {
                if takes {
                    match ids.take_for_publish() {
                        Some(id) => {
                            prop_assert!(id > 0 && !held.contains(&id));
                            held.push(id);
                        }
                        None => prop_assert_eq!(held.len(), usize::from(most)),
                    }
                } else if !held.is_empty() {
                    let id = held.swap_remove(which % held.len());
                    prop_assert!(ids.give_back_publish(id) && !ids.give_back_publish(id));
                }
            }
        }
    }
}
