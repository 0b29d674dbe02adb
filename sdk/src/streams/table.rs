//! The streams that are open on a connection, whichever side opened them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fluxar_protocol::Id;

use super::Channel;

/// The open streams of a connection, by the id of their open.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<Id, Arc<Channel>, foldhash::fast::RandomState>,
    /// How many of them this side opened.
    own: usize,
}

impl Table {
    /// How many were opened by this side, or by the other.
    fn count(&self, own: bool) -> usize {
        if own { self.own } else { self.open.len() - self.own }
    }

    fn remove(&mut self, id: Id) {
        if let Some(channel) = self.open.remove(&id) {
            self.own -= usize::from(channel.is_own);
        }
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: Id) -> Option<Arc<Channel>> {
        self.lock().open.get(&id).cloned()
    }

    pub(crate) fn contains(&self, id: Id) -> bool {
        self.lock().open.contains_key(&id)
    }

    /// Enters one, unless its side has as many open as it may.
    pub(crate) fn add(&self, channel: Arc<Channel>, max: usize) -> Result<(), usize> {
        if self.lock().count(channel.is_own) >= max {
            self.forget_cancelled();
        }
        let mut table = self.lock();
        let count = table.count(channel.is_own);
        if count >= max {
            return Err(count);
        }
        table.own += usize::from(channel.is_own);
        table.open.insert(channel.id, channel);
        Ok(())
    }

    pub(crate) fn remove(&self, id: Id) {
        self.lock().remove(id);
    }

    /// All of them; none is left.
    pub(crate) fn drain(&self) -> Vec<Arc<Channel>> {
        let mut table = self.lock();
        table.own = 0;
        table.open.drain().map(|(_, channel)| channel).collect()
    }

    /// Forgets those that were cancelled and that the other side is slow to end. The table is not locked meanwhile,
    /// since a channel is never locked after it.
    fn forget_cancelled(&self) {
        let open: Vec<_> = self.lock().open.values().cloned().collect();
        for channel in open {
            if channel.close_cancelled() {
                self.remove(channel.id);
            }
        }
    }
}
