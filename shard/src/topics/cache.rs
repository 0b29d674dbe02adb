//! What was found for a name, remembered within a bound.
//!
//! Two halves: names enter the young one; when it is full it becomes the old one, and the old one's names are
//! forgotten, unless they were asked for in the meantime and so came back into the young one.

use hashbrown::HashTable;

#[derive(Debug)]
pub(crate) struct NameCache<V> {
    young: HashTable<Remembered<V>>,
    old: HashTable<Remembered<V>>,
    half: usize,
}

#[derive(Debug)]
struct Remembered<V> {
    hash: u64,
    name: Box<str>,
    value: V,
}

impl<V> NameCache<V> {
    /// Holds at most twice `half` names.
    pub(crate) fn new(half: usize) -> Self {
        Self {
            young: HashTable::new(),
            old: HashTable::new(),
            half: half.max(1),
        }
    }

    /// Where a name is, until the cache changes.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, name: &str) -> Option<usize> {
        match self.young.find_bucket_index(hash, is(hash, name)) {
            Some(at) => Some(at),
            None => {
                let (remembered, _) = self.old.find_entry(hash, is(hash, name)).ok()?.remove();
                Some(self.enter(remembered))
            }
        }
    }

    /// What is remembered there.
    #[inline]
    pub(crate) fn at(&self, at: usize) -> Option<&V> {
        self.young.get_bucket(at).map(|remembered| &remembered.value)
    }

    /// Adds a name that is not there; where it is.
    pub(crate) fn insert(&mut self, hash: u64, name: &str, value: V) -> usize {
        self.enter(Remembered {
            hash,
            name: name.into(),
            value,
        })
    }

    pub(crate) fn remove(&mut self, hash: u64, name: &str) {
        for half in [&mut self.young, &mut self.old] {
            if let Ok(found) = half.find_entry(hash, is(hash, name)) {
                found.remove();
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        for half in [&mut self.young, &mut self.old] {
            if !half.is_empty() {
                half.clear();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Puts a name into the young half; where it is there.
    fn enter(&mut self, remembered: Remembered<V>) -> usize {
        if self.young.len() >= self.half {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young
            .insert_unique(remembered.hash, remembered, |other| other.hash)
            .bucket_index()
    }
}

fn is<'a, V>(hash: u64, name: &'a str) -> impl Fn(&Remembered<V>) -> bool + 'a {
    move |remembered| remembered.hash == hash && &*remembered.name == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        fn get(cache: &mut NameCache<u64>, hash: u64, name: &str) -> Option<u64> {
            let at = cache.find(hash, name)?;
            cache.at(at).copied()
        }
        let mut cache = NameCache::new(8);
        cache.insert(0, "hot", 0);
        for at in 1..1000u64 {
            cache.insert(at, &at.to_string(), at);
            assert_eq!(get(&mut cache, 0, "hot"), Some(0), "{at}");
            assert!(cache.len() <= 16);
        }
        assert_eq!(get(&mut cache, 1, "1"), None);
        assert_eq!(
            get(&mut cache, 999, "998"),
            None,
            "the same hash is not the same name"
        );
        cache.remove(0, "hot");
        assert_eq!(get(&mut cache, 0, "hot"), None);
        cache.clear();
        assert_eq!(cache.len(), 0);
    }
}
