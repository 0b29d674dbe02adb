//! Patterns with something attached to each, and the search for those that match a name.
//!
//! Exact patterns are found by one hash, wildcards by walking a trie; `fluxar_protocol::target::matches` is the rule
//! that both follow, and the oracle of the tests.

use std::hash::BuildHasher;
use std::ops::{ControlFlow, Index, IndexMut};
use std::sync::Arc;

use fluxar_protocol::target;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;

use super::trie::Trie;

/// Distinct patterns, each with a dense number that holds until it is removed.
#[derive(Debug)]
pub(crate) struct PatternTable<T> {
    entries: Slab<Entry<T>>,
    by_text: HashTable<u32>,
    wild: Trie,
    hasher: FixedState,
}

#[derive(Debug)]
struct Entry<T> {
    text: Arc<str>,
    is_wild: bool,
    value: T,
}

impl<T: Default> PatternTable<T> {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            entries: Slab::new(),
            by_text: HashTable::new(),
            wild: Trie::new(hasher),
            hasher: hasher.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The hash of a name or pattern, for caches beside this table.
    #[inline]
    pub(crate) fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text.as_bytes())
    }

    pub(crate) fn text(&self, pattern: u32) -> &Arc<str> {
        &self.entries[pattern as usize].text
    }

    pub(crate) fn is_wild(&self, pattern: u32) -> bool {
        self.entries[pattern as usize].is_wild
    }

    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        self.by_text
            .find(self.hash(text), |&at| &*self.entries[at as usize].text == text)
            .copied()
    }

    /// The number of a checked pattern, new with a default value if it is not there.
    pub(crate) fn entry(&mut self, text: &str) -> u32 {
        if let Some(pattern) = self.get(text) {
            return pattern;
        }
        let is_wild = target::is_wild(text);
        let pattern = self.entries.insert(Entry {
            text: text.into(),
            is_wild,
            value: T::default(),
        }) as u32;
        let Self {
            entries,
            by_text,
            hasher,
            ..
        } = self;
        by_text.insert_unique(hasher.hash_one(text.as_bytes()), pattern, |&at| {
            hasher.hash_one(entries[at as usize].text.as_bytes())
        });
        if is_wild {
            self.wild.insert(text, pattern);
        }
        pattern
    }

    pub(crate) fn remove(&mut self, pattern: u32) {
        let entry = self.entries.remove(pattern as usize);
        if let Ok(found) = self
            .by_text
            .find_entry(self.hasher.hash_one(entry.text.as_bytes()), |&at| at == pattern)
        {
            found.remove();
        }
        if entry.is_wild {
            self.wild.remove(&entry.text);
        }
    }

    /// Every pattern that matches a name.
    pub(crate) fn each_match(&self, name: &str, mut found: impl FnMut(u32)) {
        let _: ControlFlow<()> = self.visit(name, &mut |pattern| {
            found(pattern);
            ControlFlow::Continue(())
        });
    }

    /// The most specific pattern that matches a name: token by token from the left, a literal token goes before `*`,
    /// and `*` before `>`; so an exact pattern goes before all.
    pub(crate) fn best_match(&self, name: &str) -> Option<u32> {
        match self.visit(name, &mut ControlFlow::Break) {
            ControlFlow::Break(pattern) => Some(pattern),
            ControlFlow::Continue(()) => None,
        }
    }

    fn visit<B>(&self, name: &str, found: &mut impl FnMut(u32) -> ControlFlow<B>) -> ControlFlow<B> {
        if let Some(exact) = self.get(name).filter(|&pattern| !self.is_wild(pattern)) {
            found(exact)?;
        }
        self.wild.visit(name, found)
    }
}

impl<T> Index<u32> for PatternTable<T> {
    type Output = T;

    fn index(&self, pattern: u32) -> &T {
        &self.entries[pattern as usize].value
    }
}

impl<T> IndexMut<u32> for PatternTable<T> {
    fn index_mut(&mut self, pattern: u32) -> &mut T {
        &mut self.entries[pattern as usize].value
    }
}
