//! One core's connections to upstreams: which there should be, which there are, and when to dial again. Sans-I/O: it is
//! told what happened and says what to do.
//!
//! ```text
//!             ┌───────────── lost, refused, too slow: a pause that grows ──────────────┐
//!             v                                                                        │
//!   wanted ─▶ waiting ── until_ms ─▶ dialling ── connected, welcome ─▶ open ───────────┘
//!                                                                       │ no longer wanted
//!                                                                       └─▶ leaving ── nothing open, or 60 s ─▶ gone
//! ```

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_engine::reactor::Conn;
use fluxar_protocol::Id;

use super::{Endpoint, Resolved, Services, Upstream};

/// Links of a core: upstreams × addresses × connections. Those beyond are not dialled, which is logged.
pub const LINKS_MAX: usize = 4_096;
/// The pause after a first failure, ms; it doubles up to the next.
pub const PAUSE_MS_LEAST: u64 = 100;
/// The longest pause, ms.
pub const PAUSE_MS_MOST: u64 = 10_000;
/// A connection that was open for so long has proved itself: the pauses begin anew, ms.
pub const PROVED_MS: u64 = 10_000;
/// The longest `retry_after_ms` of a goodbye that is respected.
pub const RETRY_AFTER_MS_MOST: u32 = 60_000;
/// What leaves may take so long to finish what it has open, ms.
pub const LEAVE_MS: u64 = 60_000;
/// How often it is looked whether it has, ms.
pub const LEAVE_LOOK_MS: u64 = 100;

/// Which connection a link is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) upstream: Arc<str>,
    /// The endpoint, as the configuration says it.
    pub(crate) endpoint: Arc<str>,
    /// Where it is dialled: no names.
    pub(crate) address: Address,
    /// Of several alike, counted from 0.
    nth: u32,
}

/// What an administrator has drained beyond single links: an endpoint of an upstream, or one address of its name.
type Drained = (Arc<str>, Arc<str>, Option<Address>);

/// What the configuration says about a link beyond where it leads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Terms {
    pub(crate) methods: Vec<Arc<str>>,
    pub(crate) weight: u32,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) in_flight_max: u32,
    pub(crate) drain: bool,
    pub(crate) connect_ms: u32,
}

/// Where a link is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is dialled then.
    Waiting { until_ms: u64 },
    /// It was dialled and is not open yet.
    Dialling { conn: Option<Conn> },
    /// It serves.
    Open { conn: Conn, since_ms: u64 },
    /// It finishes what it has, until then at most.
    Leaving { conn: Conn, by_ms: u64 },
}

/// One connection that the pool keeps up.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) key: Key,
    pub(crate) terms: Terms,
    pub(crate) state: State,
    /// An administrator said that it gets nothing new.
    drained: bool,
    /// Failures since it last proved itself.
    failures: u32,
    /// The host was a name.
    named: bool,
    /// The hello that it was sent on its connection, once it was connected.
    pub(crate) hello: Option<Id>,
}

impl Link {
    /// Whether it was wished to be dialled, and was not yet.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.state == State::Dialling { conn: None }
    }

    /// Whether it is not wanted any more.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving { .. })
    }

    /// What it is called to people.
    pub(crate) fn name(&self) -> Arc<str> {
        match (&self.key.address, self.named) {
            (Address::Tcp { host, .. } | Address::WebSocket { host, .. }, true) => {
                format!("{} ({host})", self.key.endpoint).into()
            }
            _ => Arc::clone(&self.key.endpoint),
        }
    }

    fn conn(&self) -> Option<Conn> {
        match self.state {
            State::Waiting { .. } => None,
            State::Dialling { conn } => conn,
            State::Open { conn, .. } | State::Leaving { conn, .. } => Some(conn),
        }
    }

    /// Whether it gets nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.drained || self.terms.drain
    }
}

/// What a pool wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Dial it; [`Pool::dialled`] or [`Pool::lost`] follows.
    Dial(u32),
    /// Its terms are others: tell the shard.
    Attach(u32, Conn),
    /// Whether it drains has changed: tell the shard.
    Stand(u32, Conn),
    /// Nothing new for it from now on.
    Detach(Conn),
    /// Close it if it has nothing open any more, or in any case.
    Finish { conn: Conn, overdue: bool },
    /// Close it at once: it is not open yet.
    Abort(Conn),
    /// A link that was not open is gone: nobody hears of it again.
    Forget {
        link: u32,
        upstream: Arc<str>,
        /// What it was called to people.
        name: Arc<str>,
    },
}

/// All links of a core.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Which core's it is, of how many.
    core: u32,
    cores: u32,
    links: Vec<Option<Link>>,
    /// What names stand for, by upstream and endpoint.
    resolved: HashMap<(Arc<str>, Arc<str>), Arc<Resolved>>,
    /// The configured endpoints, by upstream and text.
    endpoints: Vec<(Arc<str>, Arc<str>)>,
    /// New links to these begin drained. Nothing is in it that is not configured, or that its name dropped.
    drained: HashSet<Drained>,
    /// The links that had no room at the last [`Pool::reconcile`].
    without_room: usize,
    /// A link left while others had no room: when to reconcile.
    has_room_ms: Option<u64>,
    /// When [`Pool::expire`] has something to do; `u64::MAX`: never.
    due_ms: u64,
    stopped: bool,
}

impl Pool {
    /// The pool of this core of so many: they share what an endpoint may have in flight.
    pub(crate) fn new(core: u16, cores: u16) -> Self {
        Self {
            core: u32::from(core),
            cores: u32::from(cores),
            links: Vec::new(),
            resolved: HashMap::new(),
            endpoints: Vec::new(),
            drained: HashSet::new(),
            without_room: 0,
            has_room_ms: None,
            due_ms: u64::MAX,
            stopped: false,
        }
    }

    /// When [`Pool::expire`] has something to do.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        (self.due_ms != u64::MAX).then_some(self.due_ms)
    }

    /// The links that are not connected, for `$services.list`.
    pub(crate) fn links_down(&self) -> impl Iterator<Item = (u32, &Link)> {
        let links = self.links.iter().enumerate();
        links
            .filter_map(|(at, link)| Some((at as u32, link.as_ref()?)))
            .filter(|(_, link)| matches!(link.state, State::Waiting { .. } | State::Dialling { .. }))
    }

    pub(crate) fn get(&self, link: u32) -> Option<&Link> {
        self.links.get(link as usize)?.as_ref()
    }

    fn get_mut(&mut self, link: u32) -> Option<&mut Link> {
        self.links.get_mut(link as usize)?.as_mut()
    }

    /// Nothing is dialled any more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.due_ms = u64::MAX;
    }

    /// A name has these addresses now. False if that is what was known.
    pub(crate) fn resolve(&mut self, resolved: Arc<Resolved>) -> bool {
        let key = (Arc::clone(&resolved.upstream), Arc::clone(&resolved.endpoint));
        let before = self.resolved.insert(key, Arc::clone(&resolved));
        before.is_none_or(|before| before.addresses != resolved.addresses)
    }

    /// Makes the links those that the configuration, and what its names stand for, ask for. What stays as it is goes
    /// on undisturbed. Returns how many links had no room.
    pub(crate) fn reconcile(&mut self, services: &Services, now_ms: u64, wishes: &mut Vec<Wish>) -> usize {
        if self.stopped {
            return 0;
        }
        self.resolved.retain(|(upstream, endpoint), _| {
            services
                .upstreams
                .iter()
                .any(|one| one.name == *upstream && one.endpoints.iter().any(|one| one.text == *endpoint))
        });
        let mut wanted: HashMap<Key, (Terms, bool)> = HashMap::new();
        let mut in_order = Vec::new();
        let mut places: HashSet<Drained> = HashSet::new();
        self.endpoints.clear();
        for upstream in &services.upstreams {
            for endpoint in &upstream.endpoints {
                let (name, text) = (&upstream.name, &endpoint.text);
                self.endpoints.push((Arc::clone(name), Arc::clone(text)));
                places.insert((Arc::clone(name), Arc::clone(text), None));
                let named = endpoint.is_named();
                for address in self.addresses(upstream, endpoint) {
                    places.insert((Arc::clone(name), Arc::clone(text), Some(address.clone())));
                    for nth in 0..upstream.connections.max(1) {
                        let key = Key {
                            upstream: Arc::clone(&upstream.name),
                            endpoint: Arc::clone(&endpoint.text),
                            address: address.clone(),
                            nth,
                        };
                        if let Entry::Vacant(place) = wanted.entry(key) {
                            in_order.push(place.key().clone());
                            place.insert((self.terms(upstream, endpoint, nth), named));
                        }
                    }
                }
            }
        }
        self.drained.retain(|place| places.contains(place));
        for at in 0..self.links.len() as u32 {
            let Some(link) = self.get_mut(at) else { continue };
            match wanted.remove(&link.key) {
                Some((terms, _)) => link.keep(at, terms, now_ms, wishes),
                None => self.leave(at, now_ms, wishes),
            }
        }
        let mut without_room = 0;
        for key in in_order {
            let Some((terms, named)) = wanted.remove(&key) else {
                continue; // it is there
            };
            let link = Link {
                drained: self.starts_drained(&key),
                key,
                terms,
                state: State::Waiting { until_ms: now_ms },
                failures: 0,
                named,
                hello: None,
            };
            match self.links.iter().position(Option::is_none) {
                Some(at) => self.links[at] = Some(link),
                None if self.links.len() < LINKS_MAX => self.links.push(Some(link)),
                None => without_room += 1,
            }
        }
        self.without_room = without_room;
        self.has_room_ms = None;
        self.watch();
        without_room
    }

    /// How many links had no room the last time.
    pub(crate) fn without_room(&self) -> usize {
        self.without_room
    }

    /// Whether a link without room can have some by now: [`Pool::reconcile`] finds it.
    pub(crate) fn has_room(&self, now_ms: u64) -> bool {
        !self.stopped && self.has_room_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    fn starts_drained(&self, key: &Key) -> bool {
        let place = |address| (Arc::clone(&key.upstream), Arc::clone(&key.endpoint), address);
        // Nearly always nothing is.
        !self.drained.is_empty()
            && (self.drained.contains(&place(None))
                || self.drained.contains(&place(Some(key.address.clone()))))
    }

    fn terms(&self, upstream: &Upstream, endpoint: &Endpoint, nth: u32) -> Terms {
        let each = upstream.connections.max(1);
        Terms {
            methods: upstream.methods.clone(),
            weight: endpoint.weight,
            zone: endpoint.zone.clone(),
            // The first of every core before the second of any.
            in_flight_max: endpoint.in_flight_part(nth * self.cores + self.core, each * self.cores),
            drain: endpoint.drain,
            connect_ms: upstream.connect_ms,
        }
    }

    fn addresses(&self, upstream: &Upstream, endpoint: &Endpoint) -> Vec<Address> {
        if !endpoint.is_named() {
            return vec![endpoint.address.clone()];
        }
        let key = (Arc::clone(&upstream.name), Arc::clone(&endpoint.text));
        self.resolved
            .get(&key)
            .map(|resolved| resolved.addresses.clone())
            .unwrap_or_default()
    }

    /// A link that nobody wants any more.
    fn leave(&mut self, at: u32, now_ms: u64, wishes: &mut Vec<Wish>) {
        let Some(link) = self.get_mut(at) else { return };
        match link.state {
            State::Open { conn, .. } => {
                link.state = State::Leaving {
                    conn,
                    by_ms: now_ms + LEAVE_MS,
                };
                wishes.push(Wish::Detach(conn));
                wishes.push(Wish::Finish { conn, overdue: false });
            }
            State::Leaving { .. } => {}
            State::Waiting { .. } => self.forget(at, wishes),
            State::Dialling { conn } => {
                self.forget(at, wishes);
                wishes.extend(conn.map(Wish::Abort));
            }
        }
    }

    /// A link that is not connected is gone, and nothing more is said about it.
    fn forget(&mut self, at: u32, wishes: &mut Vec<Wish>) {
        if let Some(link) = self.links[at as usize].take() {
            wishes.push(Wish::Forget {
                link: at,
                name: link.name(),
                upstream: link.key.upstream,
            });
        }
    }

    /// The time, ms: what is due is wished for.
    pub(crate) fn expire(&mut self, now_ms: u64, wishes: &mut Vec<Wish>) {
        if now_ms < self.due_ms {
            return;
        }
        for (at, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            match link.state {
                State::Waiting { until_ms } if until_ms <= now_ms => {
                    link.state = State::Dialling { conn: None };
                    wishes.push(Wish::Dial(at as u32));
                }
                State::Leaving { conn, by_ms } => wishes.push(Wish::Finish {
                    conn,
                    overdue: by_ms <= now_ms,
                }),
                _ => {}
            }
        }
        self.watch();
        // Those that leave are looked at again a little later.
        if self.due_ms <= now_ms {
            self.due_ms = now_ms + LEAVE_LOOK_MS;
        }
    }

    /// A link was dialled as this connection.
    pub(crate) fn dialled(&mut self, at: u32, conn: Conn) {
        if let Some(link) = self.get_mut(at) {
            link.state = State::Dialling { conn: Some(conn) };
            link.hello = None;
        }
    }

    /// It is connected and was sent this hello.
    pub(crate) fn greeted(&mut self, at: u32, hello: Id) {
        if let Some(link) = self.get_mut(at) {
            link.hello = Some(hello);
        }
    }

    /// Whether a link is this connection at the moment.
    pub(crate) fn is(&self, at: u32, conn: Conn) -> bool {
        self.get(at).is_some_and(|link| link.conn() == Some(conn))
    }

    /// It was welcomed.
    pub(crate) fn opened(&mut self, at: u32, conn: Conn, now_ms: u64) {
        if let Some(link) = self.get_mut(at) {
            link.state = State::Open {
                conn,
                since_ms: now_ms,
            };
        }
    }

    /// It is lost, or could not be dialled. It is dialled again after a pause of half of what is due at least, the
    /// rest by lot; or not at all if it was leaving.
    pub(crate) fn lost(
        &mut self,
        at: u32,
        conn: Option<Conn>,
        retry_after_ms: Option<u32>,
        lot: u64,
        now_ms: u64,
    ) {
        let stopped = self.stopped;
        let Some(link) = self.get_mut(at) else { return };
        let since_ms = match link.state {
            State::Waiting { .. } => return,
            State::Open { since_ms, .. } => Some(since_ms),
            State::Dialling { .. } | State::Leaving { .. } => None,
        };
        if link.conn() != conn {
            return; // the place is another one's by now
        }
        if stopped || matches!(link.state, State::Leaving { .. }) {
            self.links[at as usize] = None;
            if self.without_room > 0 && self.has_room_ms.is_none() {
                // A little later: others leave along with it.
                self.has_room_ms = Some(now_ms + LEAVE_LOOK_MS);
            }
            return self.watch();
        }
        if since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= PROVED_MS) {
            link.failures = 0;
        }
        let pause_ms = (PAUSE_MS_LEAST << link.failures.min(16)).min(PAUSE_MS_MOST);
        link.failures = link.failures.saturating_add(1);
        let pause_ms = pause_ms / 2 + lot % (pause_ms / 2 + 1);
        let asked_ms = u64::from(retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MS_MOST));
        link.state = State::Waiting {
            until_ms: now_ms + pause_ms.max(asked_ms),
        };
        self.watch();
    }

    /// An administrator has the links of an upstream, of an endpoint or of one address of its name drained, or no longer;
    /// remembered over reconnects, and for links that come later. Returns how many there are; an endpoint that has none
    /// yet counts as one.
    pub(crate) fn drain(&mut self, called: &str, on: bool, wishes: &mut Vec<Wish>) -> u32 {
        let mut matched = 0;
        for (upstream, endpoint) in &self.endpoints {
            if **upstream != *called && **endpoint != *called {
                continue;
            }
            let is_its_own = |key: &Key| key.upstream == *upstream && key.endpoint == *endpoint;
            if !self.links.iter().flatten().any(|link| is_its_own(&link.key)) {
                matched += 1;
            }
            if on {
                self.drained
                    .insert((Arc::clone(upstream), Arc::clone(endpoint), None));
            } else {
                self.drained
                    .retain(|(of, text, _)| (of, text) != (upstream, endpoint));
            }
        }
        for (at, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            if *link.key.upstream != *called && *link.key.endpoint != *called {
                if *link.name() != *called {
                    continue;
                }
                let Key {
                    upstream,
                    endpoint,
                    address,
                    ..
                } = &link.key;
                let place = (Arc::clone(upstream), Arc::clone(endpoint), Some(address.clone()));
                if on {
                    self.drained.insert(place);
                } else {
                    self.drained.remove(&place);
                }
            }
            matched += 1;
            link.drained = on;
            if let State::Open { conn, .. } = link.state {
                wishes.push(Wish::Stand(at as u32, conn));
            }
        }
        matched
    }

    /// The same of one link, by an administrator who named its connection. Whether it gets nothing new now.
    pub(crate) fn drain_link(&mut self, at: u32, on: bool) -> bool {
        self.get_mut(at).is_some_and(|link| {
            link.drained = on;
            link.is_draining()
        })
    }

    fn watch(&mut self) {
        if self.stopped {
            return;
        }
        let due = |link: &Link| match link.state {
            State::Waiting { until_ms } => Some(until_ms),
            State::Leaving { .. } => Some(0),
            State::Dialling { .. } | State::Open { .. } => None,
        };
        self.due_ms = self
            .links
            .iter()
            .flatten()
            .filter_map(due)
            .chain(self.has_room_ms)
            .min()
            .unwrap_or(u64::MAX);
    }
}

impl Link {
    /// It is still wanted, perhaps on other terms.
    fn keep(&mut self, at: u32, terms: Terms, now_ms: u64, wishes: &mut Vec<Wish>) {
        let drained_before = self.is_draining();
        let offers_otherwise = (&terms.methods, terms.weight, &terms.zone, terms.in_flight_max)
            != (
                &self.terms.methods,
                self.terms.weight,
                &self.terms.zone,
                self.terms.in_flight_max,
            );
        self.terms = terms;
        match self.state {
            State::Open { conn, .. } if offers_otherwise => wishes.push(Wish::Attach(at, conn)),
            State::Open { conn, .. } if drained_before != self.is_draining() => {
                wishes.push(Wish::Stand(at, conn));
            }
            // It was about to leave, and is wanted again.
            State::Leaving { conn, .. } => {
                self.state = State::Open {
                    conn,
                    since_ms: now_ms,
                };
                wishes.push(Wish::Attach(at, conn));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
