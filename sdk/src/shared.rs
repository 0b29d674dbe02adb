//! What of a [`Peer`](crate::Peer) outlives its connections and sessions: its settings, its handlers and subscriptions, the
//! stored events that are not acknowledged, and the [`Link`] that it has at the moment.
//!
//! The dialer, or the server, says when a session begins, is away, goes on and ends; who sends asks for the link, and fails with
//! the last reason if there is none.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use fluxar_protocol::Code;
use tokio::sync::watch;

use crate::{
    Error, Origin, Result, State,
    handlers::Handlers,
    ids::Ids,
    link::{self, Link},
    logged,
    options::Options,
    peer::Handle,
    publishing::Publishing,
    receive::Refusals,
    subscriptions::Subscriptions,
};

/// What of a peer outlives its connections.
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) address: Arc<str>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) publishing: Publishing,
    /// The session, while there is one.
    link: RwLock<Option<Arc<Link>>>,
    state: watch::Sender<State>,
    close_requested: watch::Sender<bool>,
    lost_because: Mutex<Option<Error>>,
    refused_publishes: Mutex<(u64, Option<Error>)>,
    resumes: AtomicU64,
    /// The application's.
    pub(crate) handle: OnceLock<Weak<Handle>>,
}

impl Shared {
    pub(crate) fn new(
        options: Arc<Options>,
        address: Arc<str>,
        handlers: Arc<Handlers>,
    ) -> Result<Arc<Self>> {
        let publishing = Publishing::new(options.publish_unacked_bytes);
        Ok(Arc::new(Self {
            options,
            address,
            ids: Arc::new(Ids::new()?),
            handlers,
            subscriptions: Subscriptions::default(),
            publishing,
            link: RwLock::default(),
            state: watch::Sender::new(State::Reconnecting { attempt: 1 }),
            close_requested: watch::Sender::new(false),
            lost_because: Mutex::default(),
            refused_publishes: Mutex::default(),
            resumes: AtomicU64::new(0),
            handle: OnceLock::new(),
        }))
    }

    /// A connection is there. It is closed again at once if that was asked for meanwhile.
    pub(crate) fn connected(&self, link: &Arc<Link>) {
        self.publishing
            .connected(|| *self.link.write().unwrap_or_else(PoisonError::into_inner) = Some(link.clone()));
        self.state.send_replace(State::Connected);
        if *self.close_requested.borrow() {
            link.close(None);
        }
    }

    /// Its connection was lost, or an attempt to have another failed; the session is kept.
    pub(crate) fn away(&self, why: Error, attempt: u32) {
        *self.lost_because.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.state.send_replace(State::Resuming { attempt });
    }

    /// The session goes on over another connection. To be called before anything that came on it is looked at.
    pub(crate) fn resumed(&self, link: &Arc<Link>) {
        for entry in self.subscriptions.snapshot().iter() {
            if let Some(logged) = &entry.sub.logged {
                logged.lock().resumed();
            }
        }
        let ping = self.ids.next();
        self.publishing.resumed(ping);
        link.ping_as(ping);
        self.resumes.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Connected);
        if *self.close_requested.borrow() {
            link.close(None);
        }
    }

    pub(crate) fn resumes(&self) -> u64 {
        self.resumes.load(Ordering::Relaxed)
    }

    /// The session is over, or an attempt to begin one failed.
    pub(crate) fn lost(&self, why: Option<Error>, state: State) {
        *self.link.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(why) = why {
            *self.lost_because.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        if state == State::Closed {
            self.subscriptions.clear(
                self.lost_because()
                    .as_ref()
                    .filter(|_| !*self.close_requested.borrow()),
            );
            let why = self.lost_because().unwrap_or_else(link::closed_here);
            self.publishing.close(&why.at(&self.address));
        }
        self.state.send_replace(state);
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn watch_state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn lost_because(&self) -> Option<Error> {
        self.lost_because
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn request_close(&self) {
        self.close_requested.send_replace(true);
        if let Ok(link) = self.link() {
            self.tell_acknowledged(&link); // what was acknowledged counts
            link.close(None);
        }
    }

    /// Says what was acknowledged and not said yet; whether there are subscriptions that acknowledge.
    pub(crate) fn tell_acknowledged(&self, link: &Link) -> bool {
        let subscriptions = self.subscriptions.snapshot();
        for entry in subscriptions.iter() {
            logged::tell_on(link, &entry.sub);
        }
        subscriptions.iter().any(|entry| entry.sub.logged.is_some())
    }

    /// Completes when the application wants it closed.
    pub(crate) async fn close_requested(&self) {
        // An error would mean that the sender, which is in `self`, is gone.
        drop(
            self.close_requested
                .subscribe()
                .wait_for(|requested| *requested)
                .await,
        );
    }

    pub(crate) fn is_close_requested(&self) -> bool {
        *self.close_requested.borrow()
    }

    pub(crate) fn link(&self) -> Result<Arc<Link>> {
        if let Some(link) = &*self.link.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(link.clone());
        }
        let why = self.lost_because().unwrap_or_else(link::closed_here);
        let message = format!("not connected: {}", why.message());
        Err(Error::from_origin(Origin::Connection, Code::Unavailable, message)
            .at(&self.address)
            .because(why))
    }

    /// The session that comes after this one; `None` if none will.
    pub(crate) async fn link_after(&self, last: &Arc<Link>) -> Option<Arc<Link>> {
        let next = || self.link().ok().filter(|link| !Arc::ptr_eq(link, last));
        let mut state = self.watch_state();
        let changed = state.wait_for(|state| *state == State::Closed || next().is_some());
        changed.await.ok()?;
        next()
    }

    pub(crate) fn note_refused_publishes(&self, error: Error) {
        let refused = error.details::<Refusals>().map_or(1, |details| details.refused);
        let mut known = self
            .refused_publishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = (known.0 + refused, Some(error));
    }

    pub(crate) fn refused_publishes(&self) -> (u64, Option<Error>) {
        let known = &self.refused_publishes;
        known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
