//! The peer that dials, and dials again when the connection is lost.

use std::{ops::Deref, sync::Arc, time::Duration};

use fluxar_protocol::Form;

use crate::{
    Auth, Peer, Result,
    address::Address,
    backoff::Backoff,
    dialer::{Dialer, is_final},
    handlers::Handlers,
    options::{Options, option_methods},
    shared::Shared,
};

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
/// When the connection is lost the client dials again: at once, then after pauses that grow and are drawn at random, so
/// that many clients do not return together; if the other side asked for one, after that (a minute of it, at most).
///
/// A gateway keeps the session for a while (a minute, a setting of its own). If the client is back by then the session goes
/// on: calls, streams and subscriptions are still open, nothing of them is lost or comes twice, and the program sees
/// nothing but a pause ([`State::Resuming`](crate::State::Resuming)). Otherwise, and with a peer that cannot do that, calls
/// and streams that are open fail `unavailable` ([`State::Reconnecting`](crate::State::Reconnecting)), and subscriptions
/// and offers are asked for again on the new connection.
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

    /// Whether the session is to go on over a new connection when one is lost, where the other side can do that. Default
    /// true.
    pub fn resume(mut self, resume: bool) -> Self {
        self.options.resume = resume;
        self
    }

    /// The first pause before dialling again when dialling at once did not help, at most; each further one is up to twice
    /// as long, until a connection has lasted 10 s. Default 100 ms.
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
        let connected = match dialer.dial(&shared, None).await {
            Ok(connected) => connected,
            Err(error) if self.is_patient && !is_final(&error) => {
                dialer.dial_patiently(&shared, error).await?
            }
            Err(error) => return Err(error),
        };
        let peer = Peer::new(shared.clone());
        shared.connected(connected.link());
        tokio::spawn(dialer.keep_connected(shared, connected));
        Ok(Client(peer))
    }
}
