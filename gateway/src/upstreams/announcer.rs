//! Says how endpoints fare, once for each change: every core tells it of its own connections, and whoever completes a
//! change writes the line. Shared by the cores, behind a lock that is taken only when a connection opens or ends.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// Upstream and endpoint.
type Name = (Arc<str>, Arc<str>);

/// What is known of the endpoints, over all cores.
#[derive(Debug)]
pub struct Announcer {
    cores: usize,
    endpoints: Mutex<HashMap<Name, Fare>>,
}

#[derive(Debug, Default)]
struct Fare {
    /// The open connections: core and link.
    open: HashSet<(u16, u32)>,
    said: Option<Said>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Up,
    Down,
}

impl Announcer {
    /// For a gateway of so many cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            cores,
            endpoints: Mutex::default(),
        }
    }

    /// A connection is open.
    pub(crate) fn up(&self, core: u16, upstream: &Arc<str>, endpoint: &Arc<str>, link: u32) {
        let cores = self.change(upstream, endpoint, |fare| {
            fare.open.insert((core, link));
            let cores: HashSet<u16> = fare.open.iter().map(|(core, _)| *core).collect();
            let is_news = cores.len() == self.cores && fare.said != Some(Said::Up);
            is_news.then(|| {
                fare.said = Some(Said::Up);
                cores.len()
            })
        });
        if let Some(cores) = cores {
            let s = if cores == 1 { "" } else { "s" };
            tracing::info!("upstream {upstream}: {endpoint} connected on {cores} core{s}");
        }
    }

    /// A connection is lost, or could not be opened.
    pub(crate) fn down(
        &self,
        core: u16,
        upstream: &Arc<str>,
        endpoint: &Arc<str>,
        link: u32,
        why: &dyn Display,
    ) {
        let was_open = self.change(upstream, endpoint, |fare| {
            let was_open = fare.open.remove(&(core, link));
            let is_news = fare.said != Some(Said::Down);
            is_news.then(|| {
                fare.said = Some(Said::Down);
                was_open
            })
        });
        match was_open {
            Some(true) => {
                tracing::warn!("upstream {upstream}: {endpoint} is lost: {why}; it is dialled again")
            }
            Some(false) => {
                tracing::warn!(
                    "upstream {upstream}: {endpoint} cannot be reached: {why}; it is tried again, every 10 s at the latest"
                );
            }
            None => tracing::debug!(core, "upstream {upstream}: {endpoint}: {why}"),
        }
    }

    /// A connection that is not wanted any more is closed.
    pub(crate) fn gone(&self, core: u16, upstream: &Arc<str>, endpoint: &Arc<str>, link: u32) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (Arc::clone(upstream), Arc::clone(endpoint));
        if let Some(fare) = endpoints.get_mut(&name) {
            fare.open.remove(&(core, link));
            if fare.open.is_empty() {
                endpoints.remove(&name);
                tracing::info!("upstream {upstream}: {endpoint} is not in the configuration any more; left");
            }
        }
    }

    fn change<T>(
        &self,
        upstream: &Arc<str>,
        endpoint: &Arc<str>,
        change: impl FnOnce(&mut Fare) -> Option<T>,
    ) -> Option<T> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (Arc::clone(upstream), Arc::clone(endpoint));
        change(endpoints.entry(name).or_default())
    }
}
