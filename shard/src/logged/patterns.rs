//! Patterns that somebody follows, and which of them match a topic: remembered for each topic, unless they are so few that
//! to look costs no more than to remember.

use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::topics::cache::NameCache;
use crate::topics::table::PatternTable;

/// So few patterns are matched anew for each topic: their sets are few, too, and all of them are held, so that any number of
/// topics costs no memory and no allocation.
const FEW: usize = 4;

/// The patterns, with something attached to each.
#[derive(Debug)]
pub(crate) struct FollowedPatterns<T> {
    patterns: PatternTable<T>,
    /// Empty while the patterns are few.
    remembered: NameCache<Rc<[u32]>>,
    /// The sets of patterns that some topic matched, at most 2 to the power of [`FEW`]; empty while they are more.
    sets: Vec<Rc<[u32]>>,
    /// Patterns that are being gathered; empty between two calls.
    gathered: Vec<u32>,
}

impl<T: Default> FollowedPatterns<T> {
    pub(crate) fn new(hasher: &FixedState, names_remembered: usize) -> Self {
        Self {
            patterns: PatternTable::new(hasher),
            remembered: NameCache::new(names_remembered),
            sets: Vec::new(),
            gathered: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.patterns.len()
    }

    pub(crate) fn text(&self, pattern: u32) -> &Arc<str> {
        self.patterns.text(pattern)
    }

    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        self.patterns.get(text)
    }

    /// The number of a checked pattern, new if it is not there.
    pub(crate) fn entry(&mut self, text: &str) -> u32 {
        if let Some(pattern) = self.patterns.get(text) {
            return pattern;
        }
        let pattern = self.patterns.entry(text);
        self.forget(pattern);
        if self.patterns.len() > FEW {
            self.sets.clear();
        }
        pattern
    }

    /// Removes a pattern that nobody follows any more.
    pub(crate) fn remove(&mut self, pattern: u32) {
        self.forget(pattern);
        self.patterns.remove(pattern);
        if self.patterns.len() <= FEW {
            self.remembered.clear();
        }
        // Its number may be another pattern's next.
        self.sets.retain(|set| !set.contains(&pattern));
    }

    /// The patterns that match a topic.
    #[inline]
    pub(crate) fn matching(&mut self, topic: &str) -> &Rc<[u32]> {
        if self.patterns.len() <= FEW {
            return self.match_anew(topic);
        }
        let hash = self.patterns.hash(topic);
        let at = match self.remembered.find(hash, topic) {
            Some(at) => at,
            None => {
                let gathered = &mut self.gathered;
                self.patterns.each_match(topic, |pattern| gathered.push(pattern));
                let matching = Rc::from(&gathered[..]);
                gathered.clear();
                self.remembered.insert(hash, topic, matching)
            }
        };
        self.remembered.at(at).expect("it was found or entered above")
    }

    fn match_anew(&mut self, topic: &str) -> &Rc<[u32]> {
        let gathered = &mut self.gathered;
        gathered.clear();
        self.patterns.each_match(topic, |pattern| gathered.push(pattern));
        let known = self.sets.iter().position(|set| **set == **gathered);
        let at = known.unwrap_or_else(|| {
            self.sets.push(Rc::from(&gathered[..]));
            self.sets.len() - 1
        });
        gathered.clear();
        &self.sets[at]
    }

    fn forget(&mut self, pattern: u32) {
        if self.patterns.is_wild(pattern) {
            self.remembered.clear();
        } else {
            let topic = self.patterns.text(pattern);
            self.remembered.remove(self.patterns.hash(topic), topic);
        }
    }
}

impl<T> Index<u32> for FollowedPatterns<T> {
    type Output = T;

    fn index(&self, pattern: u32) -> &T {
        &self.patterns[pattern]
    }
}

impl<T> IndexMut<u32> for FollowedPatterns<T> {
    fn index_mut(&mut self, pattern: u32) -> &mut T {
        &mut self.patterns[pattern]
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::target;

    use super::*;

    /// The texts of what matches, sorted, as found and by the rule.
    fn found_and_expected(
        followed: &mut FollowedPatterns<()>,
        texts: &[&str],
        topic: &str,
    ) -> [Vec<String>; 2] {
        let matching = followed.matching(topic).clone();
        let mut found: Vec<_> = matching.iter().map(|&at| followed.text(at).to_string()).collect();
        let matches = texts.iter().filter(|text| target::matches(text, topic));
        let mut expected: Vec<_> = matches.map(|text| (*text).to_owned()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        [found, expected]
    }

    #[test]
    fn few_or_many_the_same_are_found() {
        let texts = ["a.>", "a.b", "*.b", "a.*", "b", ">", "b.*.c"];
        let topics = ["a.b", "a.c", "b", "b.b", "b.x.c", "z", "a"];
        let mut followed = FollowedPatterns::<()>::new(&FixedState::with_seed(3), 2);
        // Grows beyond the few and shrinks below them again, twice, so that numbers come again.
        for _ in 0..2 {
            for count in 1..=texts.len() {
                followed.entry(texts[count - 1]);
                for topic in topics {
                    let [found, expected] = found_and_expected(&mut followed, &texts[..count], topic);
                    assert_eq!(found, expected, "{topic} among {count}");
                }
            }
            for gone in 0..texts.len() {
                let pattern = followed.get(texts[gone]).expect("it was entered above");
                followed.remove(pattern);
                for topic in topics {
                    let [found, expected] = found_and_expected(&mut followed, &texts[gone + 1..], topic);
                    assert_eq!(found, expected, "{topic} without {gone}");
                }
            }
        }
    }

    #[test]
    fn few_patterns_remember_no_topic() {
        let mut followed = FollowedPatterns::<()>::new(&FixedState::with_seed(3), 1_000);
        for text in ["devices.*.state", "devices.1.state", ">"] {
            followed.entry(text);
        }
        let first = followed.matching("devices.7.state").clone();
        for nth in 2..500 {
            let same = followed.matching(&format!("devices.{nth}.state"));
            assert!(Rc::ptr_eq(same, &first), "nothing is allocated for it");
        }
        assert_eq!((followed.remembered.len(), followed.sets.len()), (0, 1));
        for text in ["a", "b"] {
            followed.entry(text);
        }
        followed.matching("devices.7.state");
        assert_eq!((followed.remembered.len(), followed.sets.len()), (1, 0));
    }
}
