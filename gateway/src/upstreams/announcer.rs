//! Says how endpoints fare, once for each change: every core tells it of its own connections, and whoever completes a
//! change writes the line. Shared by the cores, behind a lock that is taken only when a connection opens or ends, and
//! never held while a line is written.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use super::Services;

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
    Partly,
    Down,
}

/// What a connection's end is to the whole.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost,
    Unreachable,
    /// Others are open.
    Partly,
}

impl Fare {
    /// On how many cores it is connected, if that is worth a word: on all of them, by now.
    fn up(&mut self, core: u16, link: u32, cores: usize) -> Option<usize> {
        self.open.insert((core, link));
        let connected: HashSet<u16> = self.open.iter().map(|(core, _)| *core).collect();
        (connected.len() == cores && self.said.replace(Said::Up) != Some(Said::Up)).then_some(cores)
    }

    fn down(&mut self, core: u16, link: u32) -> Option<News> {
        let was_open = self.open.remove(&(core, link));
        let (says, news) = match (self.open.is_empty(), was_open) {
            (true, true) => (Said::Down, News::Lost),
            (true, false) => (Said::Down, News::Unreachable),
            (false, false) => (Said::Partly, News::Partly),
            // One of several: worth a word only if it cannot be opened again.
            (false, true) => return None,
        };
        (self.said.replace(says) != Some(says)).then_some(news)
    }
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
        if let Some(cores) = self.change(upstream, endpoint, |fare| fare.up(core, link, self.cores)) {
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
        let what = match self.change(upstream, endpoint, |fare| fare.down(core, link)) {
            Some(News::Lost) => "is lost; it is dialled again",
            Some(News::Unreachable) => "cannot be reached; it is tried again, every 10 s at the latest",
            Some(News::Partly) => "has connections, and cannot be dialled for another; it is tried again",
            None => {
                tracing::debug!(core, "upstream {upstream}: {endpoint}: {why}");
                return;
            }
        };
        tracing::warn!("upstream {upstream}: {endpoint} {what}: {why}");
    }

    /// Forgets what was said about endpoints that are not in the configuration any more.
    pub(crate) fn keep(&self, services: &Services) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|(upstream, name), fare| {
            let mut configured = services
                .upstreams
                .iter()
                .filter(|one| one.name == *upstream)
                .flat_map(|one| &one.endpoints);
            // Behind a name stands which of its addresses.
            !fare.open.is_empty() || configured.any(|one| name.starts_with(&*one.text))
        });
    }

    /// A connection that is not wanted any more is closed.
    pub(crate) fn gone(&self, core: u16, upstream: &Arc<str>, endpoint: &Arc<str>, link: u32) {
        if self.forget(core, upstream, endpoint, link) {
            tracing::info!(
                "upstream {upstream}: {endpoint} is left: it is not configured any more, or no address of its name"
            );
        }
    }

    /// Whether that was its last connection.
    fn forget(&self, core: u16, upstream: &Arc<str>, endpoint: &Arc<str>, link: u32) -> bool {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (Arc::clone(upstream), Arc::clone(endpoint));
        let Some(fare) = endpoints.get_mut(&name) else {
            return false;
        };
        fare.open.remove(&(core, link));
        let is_left = fare.open.is_empty();
        if is_left {
            endpoints.remove(&name);
        }
        is_left
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_never_came_up_is_forgotten_when_its_last_link_is() {
        let announcer = Announcer::new(2);
        let (upstream, endpoint): Name = ("users".into(), "tcp://users.internal:9000 (10.0.0.1)".into());
        announcer.down(0, &upstream, &endpoint, 3, &"refused");
        announcer.up(1, &upstream, &endpoint, 4);
        announcer.gone(0, &upstream, &endpoint, 3);
        assert_eq!(
            announcer.endpoints.lock().expect("no panic").len(),
            1,
            "one is open"
        );
        announcer.gone(1, &upstream, &endpoint, 4);
        assert!(announcer.endpoints.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_change_is_said_once_when_it_is_complete() {
        let mut fare = Fare::default();
        assert_eq!(fare.down(0, 0), Some(News::Unreachable));
        assert_eq!(fare.down(1, 0), None);
        assert_eq!(fare.up(0, 0, 2), None, "not on all cores");
        assert_eq!(fare.up(1, 0, 2), Some(2));
        assert_eq!(fare.up(1, 1, 2), None);
        // One connection of several comes and goes.
        assert_eq!(fare.down(1, 1), None);
        assert_eq!(fare.up(1, 1, 2), None);
        // One of them stays away.
        assert_eq!(fare.down(1, 1), None);
        assert_eq!(fare.down(1, 1), Some(News::Partly));
        assert_eq!(fare.down(1, 1), None);
        // The rest follows, and all come back.
        assert_eq!(fare.down(1, 0), None);
        assert_eq!(fare.down(0, 0), Some(News::Lost));
        assert_eq!(fare.down(0, 0), None);
        assert_eq!(fare.up(0, 0, 2), None);
        assert_eq!(fare.up(1, 0, 2), Some(2));
    }
}
