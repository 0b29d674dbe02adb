//! A vector that grows by pages: tables with an entry for each connection.
//!
//! A `Vec` that grows moves everything to twice the room and leaves the old behind: with ten thousand connections that was
//! a third of all memory that they cost, and a pause of milliseconds with a million. Here nothing ever moves, and at most
//! one page is allocated too many.

use std::ops::{Index, IndexMut};

/// Entries of a page.
const PAGE: usize = 128;

/// See the module. It never shrinks: tables use their entries again.
#[derive(Debug)]
pub struct Paged<T> {
    /// All but the last are full; none ever grows beyond what it was made with.
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T> Paged<T> {
    /// Empty; allocates nothing.
    #[must_use]
    pub const fn new() -> Paged<T> {
        Paged {
            pages: Vec::new(),
            len: 0,
        }
    }

    /// Entries.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an entry behind the last.
    pub fn push(&mut self, entry: T) {
        if self.len.is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages[self.len / PAGE].push(entry);
        self.len += 1;
    }

    /// The entry at `index`, if there are so many.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.pages.get(index / PAGE)?.get(index % PAGE)
    }

    /// Likewise.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pages.get_mut(index / PAGE)?.get_mut(index % PAGE)
    }
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Paged::new()
    }
}

impl<T> Index<usize> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.pages[index / PAGE][index % PAGE]
    }
}

impl<T> IndexMut<usize> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pages[index / PAGE][index % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are() {
        let mut paged = Paged::new();
        assert!(paged.is_empty() && paged.get(0).is_none());
        paged.push(0);
        let first: *const usize = &paged[0];
        for entry in 1..1000 {
            paged.push(entry);
        }
        assert_eq!((paged.len(), paged.pages.len()), (1000, 8));
        assert!(std::ptr::eq(first, &paged[0]));
        paged[999] += 1;
        *paged.get_mut(998).expect("there") += 1;
        for entry in 0..998 {
            assert_eq!((paged[entry], paged.get(entry)), (entry, Some(&entry)));
        }
        assert_eq!((paged[998], paged[999]), (999, 1000));
        assert!(paged.get(1000).is_none() && paged.get_mut(1024).is_none());
    }
}
