//! How a session outlives its connection [P-7.6, P-7.7], at the side that dialled.
//!
//! A [`Link`] is a session. When its connection is lost without a goodbye, and the other side has given it a [`Ticket`],
//! it is [suspended](Link::suspend): calls, streams and subscriptions stay open, what is said on them waits in the outbox.
//! The dialer shows the ticket on a new connection. If the session goes on there ([`Link::resume`]), both sides send again
//! what the other has not; if not, it is [ended](Link::end), and what was open fails as if there had been no ticket.
//!
//! ```text
//!            lost                       resumed: what the other side has not is queued again
//!   OPEN ───────────▶ SUSPENDED ────────────────────────────────────────────────────────────▶ OPEN
//!                         │  not known there, forgotten here, the time is over, closed here
//!                         └───────────────────────────────────────────────────────────────▶ ended
//! ```

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fluxar_protocol::{
    Code, Envelope, Id, Kind,
    hello::{self, Welcome},
    meta::{Meta, MetaWriter},
    session::{AWAY_MS_DEFAULT, Received},
};

use crate::{Error, Origin, Result, codec, handshake::Opened, link::Link};

/// What resumes a session: its name, and the secret that was told last.
#[derive(Clone)]
pub(crate) struct Ticket {
    session: Id,
    token: Vec<u8>,
    /// How long the other side keeps the session when its connection is lost.
    pub(crate) window: Duration,
}

impl Ticket {
    /// The one that an answer brings, if the session can be resumed.
    pub(crate) fn of(welcome: &Welcome<'_>) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Limits {
            resume_ms: Option<u64>,
        }
        let told = welcome
            .limits
            .and_then(|limits| codec::decode::<Limits>(limits).ok()?.resume_ms);
        let window_ms = told.unwrap_or(AWAY_MS_DEFAULT.into());
        let token = welcome.token.filter(|_| welcome.caps.resume && window_ms > 0)?;
        Some(Self {
            session: welcome.session,
            token: token.to_owned(),
            window: Duration::from_millis(window_ms),
        })
    }

    /// What the hello says; `recv` is how many counted envelopes came.
    pub(crate) fn wish(&self, recv: u64) -> hello::Resume<'_> {
        hello::Resume {
            session: self.session,
            token: &self.token,
            recv,
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("session", &self.session)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// What a link has for it.
#[derive(Debug)]
pub(crate) struct Resumption {
    /// `None` once the other side has said that it keeps nothing any more.
    ticket: Mutex<Option<Ticket>>,
    received: Mutex<Received>,
}

impl Resumption {
    pub(crate) fn new(ticket: &Ticket) -> Self {
        Self {
            ticket: Mutex::new(Some(ticket.clone())),
            received: Mutex::default(),
        }
    }

    fn lock_received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ticket(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// What resumes the session, and how many counted envelopes came in it; `None` if nothing does.
    pub(crate) fn ticket(&self) -> Option<(Ticket, u64)> {
        let resumption = self.resumption.as_ref().filter(|_| self.is_open())?;
        let ticket = resumption.lock_ticket().clone()?;
        Some((ticket, resumption.lock_received().count()))
    }

    /// Whether the other side's envelopes are counted.
    pub(crate) fn is_resumable(&self) -> bool {
        self.resumption.is_some()
    }

    /// A counted envelope of so many bytes is carried out.
    pub(crate) fn count_received(&self, bytes: usize) {
        if let Some(resumption) = &self.resumption {
            resumption.lock_received().take(bytes);
        }
    }

    /// Tells the other side how many came, when that is due.
    pub(crate) fn tell_received(&self) {
        let is_due = |resumption: &Resumption| resumption.lock_received().is_due();
        if self.resumption.as_ref().is_some_and(is_due) {
            self.ping();
        }
    }

    /// The meta of a ping, or of the answer to one, that leaves now.
    pub(crate) fn ping_meta(&self) -> Option<Vec<u8>> {
        let recv = self.resumption.as_ref()?.lock_received().tell();
        MetaWriter::new().uint("recv", recv).finish()
    }

    /// A ping of the other side, or its answer to one, says how many it has. An error is a breach of the protocol.
    pub(crate) fn note_recv(&self, ping: &Envelope<'_>) -> Result<()> {
        let recv = ping.meta.and_then(|meta| meta.uint("recv").ok().flatten());
        let Some(recv) = recv.filter(|_| self.resumption.is_some()) else {
            return Ok(());
        };
        self.outbox
            .covered(recv)
            .map_err(|why| Error::from_origin(Origin::Connection, Code::FailedPrecondition, why.to_string()))
    }

    /// The connection is lost, and its writer gone. The session waits for another.
    pub(crate) fn suspend(&self) {
        self.outbox.suspend();
        self.reopen();
    }

    /// The session goes on: the other side has `recv` of what was sent.
    pub(crate) fn resume(&self, opened: &Opened, recv: u64) -> Result<()> {
        let Some(resumption) = self.resumption.as_ref().filter(|_| self.is_open()) else {
            return Err(cannot_go_on("it was ended here meanwhile"));
        };
        self.outbox
            .resume(recv)
            .map_err(|why| cannot_go_on(&why.to_string()))?;
        *resumption.lock_ticket() = opened.ticket.clone();
        // The hello told how many came.
        resumption.lock_received().tell();
        self.ping_again();
        Ok(())
    }

    /// A ping of this kind goes out, and is answered behind everything that the other side sends again.
    pub(crate) fn ping_as(&self, id: Id) {
        let meta = self.ping_meta();
        self.send_control(&Envelope {
            kind: Kind::Ping,
            id,
            reference: None,
            target: None,
            meta: meta.as_deref().map(Meta::from_checked),
            payload: &[],
            error: None,
        });
    }

    /// The session is over, for this reason: what is open fails.
    pub(crate) fn end(&self, why: &Error) {
        self.give_up(why.clone());
        self.clear(why);
    }
}

fn cannot_go_on(why: &str) -> Error {
    let message = format!("the session cannot go on: {why}");
    Error::from_origin(Origin::Connection, Code::FailedPrecondition, message)
}
