//! What a protocol makes of [`Names`] once for all of its sessions: encoded heads of publishes and calls.

use std::sync::{Arc, Mutex, PoisonError};

use super::Names;

/// Remembers what was made of the names that were asked for last. A run has one set of names, so tens of thousands of
/// sessions share one copy; the lock is taken when a session is made, never on the way of a message.
#[derive(Debug)]
pub(super) struct Prepared<T>(Mutex<Option<(Arc<Names>, Arc<T>)>>);

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Prepared<T> {
    /// What `make` makes of these names, or made of them before.
    pub(super) fn of(&self, names: &Arc<Names>, make: impl FnOnce(&Names) -> T) -> Arc<T> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, made)) if Arc::ptr_eq(known, names) => made.clone(),
            _ => {
                let made = Arc::new(make(names));
                *last = Some((names.clone(), made.clone()));
                made
            }
        }
    }
}
