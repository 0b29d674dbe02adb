//! Dialling, and dialling again: one connection after the other, for one session after the other.
//!
//! A connection that was lost is renewed for its session as long as the other side keeps that ([`Away`]). A session that
//! cannot go on is ended, and the next connection begins a new one, in which subscriptions and offers are asked for again.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use fluxar_protocol::Code;
use tokio::time::Instant;

use crate::{
    Auth, Error, Origin, Result, State,
    address::Address,
    backoff::{Attempts, Backoff},
    drive::{Ended, drive},
    handshake,
    link::{self, Link, Role},
    shared::Shared,
    wire::{self, Reader, Writer},
};

pub(crate) struct Dialer {
    pub(crate) address: Address,
    pub(crate) auth: Option<Auth>,
    pub(crate) backoff: Backoff,
}

/// A connection after its handshake.
pub(crate) struct Connected {
    link: Arc<Link>,
    /// An earlier session goes on.
    is_resumed: bool,
    reader: Reader,
    writer: Writer,
    rest: Bytes,
}

impl Connected {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

/// A session that has lost its connection.
pub(crate) struct Away {
    link: Arc<Link>,
    /// The other side keeps it no longer than this.
    until: Instant,
}

impl Away {
    /// `None` if it cannot go on.
    fn new(link: &Arc<Link>) -> Option<Self> {
        let (ticket, _) = link.ticket()?;
        Some(Self {
            link: link.clone(),
            until: Instant::now() + ticket.window,
        })
    }

    /// Whether it can still go on.
    fn is_open(&self) -> bool {
        self.link.is_open() && Instant::now() < self.until
    }
}

/// Why the last connection is no more, or the last attempt made none.
struct Loss {
    why: Error,
    /// The connection broke: the next one may be there at once.
    is_sudden: bool,
}

impl Dialer {
    /// Makes a connection. If a session is away it is asked to go on there.
    pub(crate) async fn dial(&self, shared: &Shared, away: Option<&Away>) -> Result<Connected> {
        let options = &shared.options;
        let connected =
            match tokio::time::timeout(options.connect_timeout, self.shake_hands(shared, away)).await {
                Ok(connected) => connected,
                Err(_) => {
                    let message = format!("no connection within {} ms", options.connect_timeout.as_millis());
                    Err(Error::from_origin(
                        Origin::Connect,
                        Code::DeadlineExceeded,
                        message,
                    ))
                }
            };
        connected.map_err(|error| error.at(&shared.address))
    }

    async fn shake_hands(&self, shared: &Shared, away: Option<&Away>) -> Result<Connected> {
        let options = &shared.options;
        let (mut reader, mut writer) = wire::dial(&self.address, options.max_frame_bytes).await?;
        let away = away.and_then(|away| Some((&away.link, away.link.ticket()?)));
        let resume = away.as_ref().map(|(_, (ticket, recv))| (ticket, *recv));
        let opened = handshake::open(
            &mut reader,
            &mut writer,
            options,
            &shared.ids,
            self.auth.as_ref(),
            resume,
        )
        .await?;
        let link = match (away, opened.resumed) {
            (Some((link, _)), Some(recv)) => {
                if let Err(error) = link.resume(&opened, recv) {
                    link.give_up(error.clone());
                    let form = opened.form;
                    handshake::turn_away(&mut reader, &mut writer, &shared.ids, form, None, &error).await;
                    return Err(error);
                }
                link.clone()
            }
            _ => Arc::new(Link::new(shared, Role::Opener, opened.form, &opened)),
        };
        Ok(Connected {
            link,
            is_resumed: opened.resumed.is_some(),
            reader,
            writer,
            rest: opened.rest,
        })
    }

    /// Dials again and again, for a client that never had a connection.
    pub(crate) async fn dial_patiently(&self, shared: &Shared, why: Error) -> Result<Connected> {
        let is_sudden = false;
        let loss = Loss { why, is_sudden };
        self.dial_again(shared, loss, &mut None, &mut Attempts::default())
            .await
    }

    /// Dials until there is a connection, there is no use in trying, or nobody wants one any more. A session that is
    /// away is taken out, and ended, when it cannot go on.
    async fn dial_again(
        &self,
        shared: &Shared,
        mut loss: Loss,
        away: &mut Option<Away>,
        attempts: &mut Attempts,
    ) -> Result<Connected> {
        let begin = Instant::now();
        let give_up = self.backoff.give_up;
        for attempt in 1.. {
            let why = loss.why;
            if is_final(&why) || give_up.is_some_and(|give_up| begin.elapsed() >= give_up) {
                return Err(why);
            }
            let wanted = why.retry_after_hint();
            let pause = self
                .backoff
                .pause(attempts, loss.is_sudden, wanted, begin.elapsed());
            tracing::warn!(address = %shared.address, attempt, pause_ms = pause.as_millis() as u64, cause = why.message(),
                "not connected; dialling again");
            let pause_ends = Instant::now() + pause;
            if let Some(session) = away.as_ref().filter(|session| session.is_open()) {
                shared.away(why.clone(), attempt);
                tokio::time::sleep_until(pause_ends.min(session.until)).await;
            }
            if !away.as_ref().is_some_and(Away::is_open) {
                // First the peer lets go of it, so that nobody finds what has ended.
                shared.lost(Some(why.clone()), State::Reconnecting { attempt });
                if let Some(session) = away.take() {
                    session.link.end(&why);
                }
                tokio::time::sleep_until(pause_ends).await;
            }
            match self.dial(shared, away.as_ref()).await {
                Ok(connected) => {
                    if let Some(session) = away.take().filter(|_| !connected.is_resumed) {
                        tracing::info!(address = %shared.address, "the session could not be resumed");
                        shared.lost(Some(why.clone()), State::Reconnecting { attempt });
                        session.link.end(&why);
                    }
                    return Ok(connected);
                }
                Err(error) => {
                    loss = Loss {
                        why: error,
                        is_sudden: loss.is_sudden,
                    }
                }
            }
        }
        Err(loss.why)
    }

    /// Drives one connection after the other until the client is closed.
    pub(crate) async fn keep_connected(self, shared: Arc<Shared>, mut connected: Connected) {
        let mut attempts = Attempts::default();
        let mut away = None;
        let end = loop {
            let began = Instant::now();
            let Connected {
                link,
                reader,
                writer,
                rest,
                ..
            } = connected;
            let ended = drive(&shared, &link, reader, writer, rest).await;
            attempts.had_connection(began.elapsed());
            let (why, is_sudden) = match ended {
                Ended::Over(why) => (why, false),
                Ended::Lost(why) => (Some(why), true),
                Ended::Away(why) => {
                    away = Away::new(&link);
                    if away.is_none() {
                        link.end(&why);
                    }
                    (Some(why), true)
                }
            };
            let Some(why) = why.filter(|_| !shared.is_close_requested()) else {
                break None;
            };
            let loss = Loss { why, is_sudden };
            let next = tokio::select! {
                next = self.dial_again(&shared, loss, &mut away, &mut attempts) => next,
                () = shared.close_requested() => break None,
            };
            connected = match next {
                Ok(next) => next,
                Err(why) => break Some(why),
            };
            let link = connected.link();
            if connected.is_resumed {
                shared.resumed(link);
                tracing::info!(address = %shared.address, resumes = shared.resumes(), "resumed");
                continue;
            }
            let asked = shared.subscriptions.ask_again(link);
            shared.connected(link);
            shared.subscriptions.cancel_orphans(&asked, link);
            tracing::info!(address = %shared.address, "connected again");
        };
        if let Some(why) = &end {
            tracing::warn!(address = %shared.address, cause = why.message(), "given up");
        }
        let why = end.unwrap_or_else(link::closed_here);
        if let Some(session) = away {
            session.link.end(&why);
        }
        shared.lost(Some(why), State::Closed);
    }
}

/// Whether dialling again would only be told the same.
pub(crate) fn is_final(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented
    )
}
