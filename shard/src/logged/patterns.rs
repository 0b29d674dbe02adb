//! Patterns that somebody follows, and, remembered for each topic, which of them match it.

use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::topics::cache::NameCache;
use crate::topics::table::PatternTable;

/// The patterns, with something attached to each.
#[derive(Debug)]
pub(crate) struct FollowedPatterns<T> {
    patterns: PatternTable<T>,
    remembered: NameCache<Rc<[u32]>>,
    /// Patterns that are being gathered; empty between two calls.
    gathered: Vec<u32>,
}

impl<T: Default> FollowedPatterns<T> {
    pub(crate) fn new(hasher: &FixedState, names_remembered: usize) -> Self {
        Self {
            patterns: PatternTable::new(hasher),
            remembered: NameCache::new(names_remembered),
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
        pattern
    }

    /// Removes a pattern that nobody follows any more.
    pub(crate) fn remove(&mut self, pattern: u32) {
        self.forget(pattern);
        self.patterns.remove(pattern);
    }

    /// The patterns that match a topic.
    #[inline]
    pub(crate) fn matching(&mut self, topic: &str) -> &Rc<[u32]> {
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
