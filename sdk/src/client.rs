//! The peer that dials, and dials again when the connection is lost.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use fluxar_protocol::{Code, Form};
use tokio::time::Instant;

use crate::{
    Auth, Error, Origin, Peer, Result, State,
    address::Address,
    handlers::Handlers,
    handshake, ids,
    link::{self, Link, Role},
    options::{Options, option_methods},
    peer::Shared,
    wire::{self, Reader, Writer},
};

/// A connection that lived so long was a good one: when it is lost, the pauses begin anew. One that is accepted and
/// lost at once is no better than one that is refused.
const STEADY: Duration = Duration::from_secs(10);

/// The longest that the other side can keep a client away with a `retry_after_ms`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A peer that dialled: everything that a [`Peer`] can do, on a connection that is renewed when it is lost.
///
/// ```
/// # #[tokio::main] async fn main() -> fluxar::Result<()> {
/// use fluxar::{Auth, Client, Request, Server};
///
/// let server = Server::bind("127.0.0.1:0").build().await?;
/// server.handle("users.get", |req: Request| async move {
///     let id: u64 = req.payload()?;
///     Ok(format!("user {id}"))
/// })?;
/// # let url = server.url().to_owned();
/// tokio::spawn(async move { server.run().await });
///
/// let client = Client::connect(&url).auth(Auth::bearer("secret")).build().await?;
/// let user: String = client.call("users.get", &42).await?;
/// assert_eq!(user, "user 42");
/// client.close().await;
/// # Ok(()) }
/// ```
///
/// When the connection is lost, calls that are open fail `unavailable`; then the client dials again, after a pause
/// that grows and is drawn at random so that many clients do not return at once, or that the other side asked for (a
/// minute of it, at most). Subscriptions and offers are asked
/// for again. Meanwhile [`Peer::state`] says [`State::Reconnecting`].
#[derive(Debug, Clone)]
pub struct Client(Peer);

impl Client {
    /// A client of the peer at this address: `tcp://host:port`, `unix:///path` or `ws://host:port`.
    pub fn connect(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            address: address.into(),
            auth: None,
            options: Options::default(),
            backoff: Backoff::default(),
            is_patient: false,
        }
    }

    /// The peer, as any code that does not care who dialled takes it.
    pub fn peer(&self) -> &Peer {
        &self.0
    }
}

impl Deref for Client {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.0
    }
}

/// Puts a client together. From [`Client::connect`].
#[must_use = "nothing is dialled until it is built"]
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    address: String,
    auth: Option<Auth>,
    options: Options,
    backoff: Backoff,
    is_patient: bool,
}

impl ClientBuilder {
    option_methods!();

    /// Credentials for the hello.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Speaks in the named form: maps with readable keys, for a look at the wire. Default is the compact form.
    pub fn named(mut self, named: bool) -> Self {
        self.options.form = if named { Form::Named } else { Form::Compact };
        self
    }

    /// Whether to dial again when the connection is lost. Default true.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.backoff.give_up = if reconnect { None } else { Some(Duration::ZERO) };
        self
    }

    /// The first pause before dialling again, at most; each further one is twice as long, until a connection has
    /// lasted 10 s. Default 100 ms.
    pub fn reconnect_first(mut self, pause: Duration) -> Self {
        self.backoff.first = pause;
        self
    }

    /// The longest pause. Default 10 s.
    pub fn reconnect_max(mut self, pause: Duration) -> Self {
        self.backoff.max = pause;
        self
    }

    /// After so long without a connection the client gives up and is closed. Default never.
    pub fn reconnect_give_up(mut self, after: Duration) -> Self {
        self.backoff.give_up = Some(after);
        self
    }

    /// Whether the first connection, too, is tried again and again, as a lost one is. Default false: `build` fails at
    /// once when nobody listens.
    pub fn keep_dialing(mut self, patient: bool) -> Self {
        self.is_patient = patient;
        self
    }

    /// Dials, says hello, and returns the client when the other side has accepted.
    ///
    /// # Errors
    /// If the address is none, nobody listens, or the hello is refused: the error names the address and the cause.
    pub async fn build(self) -> Result<Client> {
        let address = Address::parse(&self.address, None)?;
        let shared = Shared::new(
            Arc::new(self.options),
            address.name(),
            Arc::new(Handlers::default()),
        )?;
        let dialer = Dialer {
            address,
            auth: self.auth,
            backoff: self.backoff,
        };
        let connected = match dialer.dial(&shared).await {
            Ok(connected) => connected,
            Err(error) if self.is_patient && !is_final(&error) => {
                dialer.dial_again(&shared, error, &mut 0).await?
            }
            Err(error) => return Err(error),
        };
        let peer = Peer::new(shared.clone());
        shared.connected(&connected.link);
        tokio::spawn(dialer.keep_connected(shared, connected));
        Ok(Client(peer))
    }
}

/// How long to wait before dialling again.
#[derive(Debug, Clone)]
struct Backoff {
    first: Duration,
    max: Duration,
    give_up: Option<Duration>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(10),
            give_up: None,
        }
    }
}

impl Backoff {
    /// The pause before an attempt, counted from 1: up to twice the one before, drawn from its upper half.
    fn pause(&self, attempt: u32) -> Duration {
        let ceiling = self
            .first
            .saturating_mul(1 << attempt.saturating_sub(1).min(20))
            .min(self.max);
        let mut drawn = [0; 4];
        // Without randomness the pause is its ceiling, which is right but for the herd.
        let share = ids::random(&mut drawn).map_or(1.0, |()| {
            f64::from(u32::from_be_bytes(drawn)) / f64::from(u32::MAX)
        });
        ceiling.mul_f64(0.5 + 0.5 * share)
    }

    /// The same, or longer if the other side wants that, and no longer than the client goes on trying; it has tried
    /// for `tried`.
    fn pause_before(&self, attempt: u32, wanted: Option<Duration>, tried: Duration) -> Duration {
        let wanted = wanted.unwrap_or_default().min(RETRY_AFTER_MAX);
        let left = self
            .give_up
            .map_or(Duration::MAX, |give_up| give_up.saturating_sub(tried));
        self.pause(attempt).max(wanted).min(left)
    }
}

struct Dialer {
    address: Address,
    auth: Option<Auth>,
    backoff: Backoff,
}

/// A connection after its handshake.
struct Connected {
    link: Arc<Link>,
    reader: Reader,
    writer: Writer,
    rest: Bytes,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").finish_non_exhaustive()
    }
}

impl Dialer {
    async fn dial(&self, shared: &Shared) -> Result<Connected> {
        let options = &shared.options;
        let dial = async {
            let (mut reader, mut writer) = wire::dial(&self.address, options.max_frame_bytes).await?;
            let opened =
                handshake::open(&mut reader, &mut writer, options, &shared.ids, self.auth.as_ref()).await?;
            let link = Arc::new(Link::new(shared, Role::Opener, opened.form, &opened));
            Ok(Connected {
                link,
                reader,
                writer,
                rest: opened.rest,
            })
        };
        let connected = match tokio::time::timeout(options.connect_timeout, dial).await {
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

    /// Dials until there is a connection, there is no use in trying, or nobody wants one any more. `pauses` counts
    /// the pauses since there was a steady connection.
    async fn dial_again(&self, shared: &Shared, mut why: Error, pauses: &mut u32) -> Result<Connected> {
        let begin = Instant::now();
        for attempt in 1.. {
            if is_final(&why)
                || self
                    .backoff
                    .give_up
                    .is_some_and(|give_up| begin.elapsed() >= give_up)
            {
                return Err(why);
            }
            *pauses = pauses.saturating_add(1);
            let pause = self
                .backoff
                .pause_before(*pauses, why.retry_after_hint(), begin.elapsed());
            tracing::warn!(address = %shared.address, attempt, pause_ms = pause.as_millis() as u64, cause = why.message(),
                "not connected; dialling again");
            shared.lost(Some(why), State::Reconnecting { attempt });
            tokio::time::sleep(pause).await;
            match self.dial(shared).await {
                Ok(connected) => return Ok(connected),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Drives one connection after the other until the client is closed.
    async fn keep_connected(self, shared: Arc<Shared>, mut connected: Connected) {
        let mut pauses = 0;
        let end = loop {
            let began = Instant::now();
            let Connected {
                link,
                reader,
                writer,
                rest,
            } = connected;
            let why = link::drive(&shared, &link, reader, writer, rest).await;
            drop(link);
            if began.elapsed() >= STEADY {
                pauses = 0;
            }
            let Some(why) = why.filter(|_| !shared.is_close_requested()) else {
                break None;
            };
            let next = tokio::select! {
                next = self.dial_again(&shared, why, &mut pauses) => next,
                () = shared.close_requested() => break None,
            };
            connected = match next {
                Ok(next) => next,
                Err(why) => break Some(why),
            };
            let asked = shared.subscriptions.ask_again(&connected.link);
            shared.connected(&connected.link);
            shared.subscriptions.cancel_orphans(&asked, &connected.link);
            tracing::info!(address = %shared.address, "connected again");
        };
        if let Some(why) = &end {
            tracing::warn!(address = %shared.address, cause = why.message(), "given up");
        }
        shared.lost(Some(end.unwrap_or_else(link::closed_here)), State::Closed);
    }
}

/// Whether dialling again would only be told the same.
fn is_final(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_jittered() {
        let backoff = Backoff::default();
        for (attempt, ceiling_ms) in [(1, 100), (2, 200), (5, 1600), (30, 10_000), (u32::MAX, 10_000)] {
            for _ in 0..100 {
                let pause_ms = backoff.pause(attempt).as_secs_f64() * 1e3;
                assert!(
                    (ceiling_ms as f64 / 2.0..=ceiling_ms as f64).contains(&pause_ms),
                    "{attempt}: {pause_ms}"
                );
            }
        }
        let mut drawn: Vec<_> = (0..100).map(|_| backoff.pause(8)).collect();
        drawn.sort();
        drawn.dedup();
        assert!(drawn.len() > 90, "only {} different pauses", drawn.len());
    }

    #[test]
    fn a_pause_that_is_asked_for_has_its_bounds() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::default();
        let wanted = |backoff: &Backoff, s| backoff.pause_before(1, Some(seconds(s)), seconds(4));
        assert_eq!(wanted(&backoff, 30), seconds(30));
        assert_eq!(wanted(&backoff, 4_000_000), RETRY_AFTER_MAX);
        assert!(wanted(&backoff, 0) >= backoff.first / 2, "it shortens nothing");
        backoff.give_up = Some(seconds(20));
        assert_eq!(wanted(&backoff, 30), seconds(16));
    }
}
