//! How a session begins: the opener's hello, and the answerer's welcome [P-7].

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use fluxar_protocol::{
    Batch as Envelopes, Code, Envelope, Form, Id, Kind,
    exchange::{self, Verb},
    hello::{self, Handshake, Hello, Welcome},
    limits,
};

use crate::{
    Error, Origin, Result, codec,
    ids::{self, Ids},
    options::Options,
    outbox::Batch,
    resuming::Ticket,
    wire::{Broken, Farewell, Reader, Writer},
};

/// How long a peer that was turned away is read on.
const DRAIN: Duration = Duration::from_millis(limits::CLOSE_DRAIN_MS as u64);

/// Credentials for the hello. The token does not appear in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    scheme: String,
    token: Option<String>,
}

impl Auth {
    /// A bearer token.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self {
            scheme: "bearer".to_owned(),
            token: Some(token.into()),
        }
    }

    /// The scheme, e.g. `bearer`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The token, if the scheme has one. Compare it in constant time.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn encode(&self) -> Result<Vec<u8>> {
        #[derive(serde::Serialize)]
        struct Map<'a> {
            scheme: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            token: Option<&'a str>,
        }
        codec::encode(&Map {
            scheme: &self.scheme,
            token: self.token(),
        })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// Decides about the credentials of a peer that says hello.
pub(crate) type Authenticate = Arc<dyn Fn(Option<&Auth>) -> Result<()> + Send + Sync>;

/// What a handshake came to.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The largest frame that the other side takes.
    pub(crate) max_frame_bytes: usize,
    /// What it lets this side send on each stream at the start.
    pub(crate) credit_bytes: u32,
    pub(crate) agent: String,
    pub(crate) form: Form,
    /// What resumes this session, if anything can.
    pub(crate) ticket: Option<Ticket>,
    /// An earlier session goes on, of which the other side has so many counted envelopes.
    pub(crate) resumed: Option<u64>,
    /// What stood behind the handshake in its frame.
    pub(crate) rest: Bytes,
}

/// The opener's side; `resume` is the session that is to go on, and how many counted envelopes came in it.
pub(crate) async fn open(
    reader: &mut Reader,
    writer: &mut Writer,
    options: &Options,
    ids: &Ids,
    auth: Option<&Auth>,
    resume: Option<(&Ticket, u64)>,
) -> Result<Opened> {
    let raw = auth.map(Auth::encode).transpose()?;
    let auth = match (auth, &raw) {
        (Some(auth), Some(raw)) => Some(hello::Auth {
            scheme: auth.scheme(),
            token: auth.token(),
            raw,
        }),
        _ => None,
    };
    let hello = Hello {
        max_frame: frame_limit(options),
        heartbeat_ms: heartbeat_ms(options),
        credit: options.credit_bytes,
        agent: &options.agent,
        auth,
        caps: hello::Caps {
            resume: options.resume,
            ..hello::Caps::default()
        },
        resume: resume.map(|(ticket, recv)| ticket.wish(recv)),
        ..Hello::default()
    };
    let mut payload = Vec::new();
    hello.encode(&mut payload);
    let id = ids.next();
    send(
        writer,
        options.form,
        &envelope(Kind::Hello, id, None, &payload, None),
    )
    .await?;

    let body = receive(reader, options.max_frame_bytes).await?;
    let mut envelopes = Envelopes::new(&body);
    let answer = match envelopes.next() {
        Some(Ok(decoded)) => decoded.envelope,
        Some(Err(reject)) => return Err(refused(Code::InvalidArgument, &reject.to_string())),
        None => return Err(refused(Code::InvalidArgument, "an empty frame")),
    };
    if let Some(raw) = answer.error {
        let told = Error::from_wire(raw, &Arc::from(""));
        let mut error = refused(told.code(), told.message());
        if let Some(after) = told.retry_after_hint() {
            error = error.retry_after(after);
        }
        return Err(error.because(told));
    }
    match exchange::verb(&answer) {
        Ok(Verb::Welcome(reference)) if reference == id => {}
        Ok(Verb::Close) => return Err(refused(Code::Unavailable, "the other side said goodbye")),
        _ => {
            return Err(refused(
                Code::InvalidArgument,
                "this was no answer to a hello; is it a FLUXAR peer?",
            ));
        }
    }
    let welcome = Welcome::decode(answer.payload)
        .map_err(|fault| refused(Code::InvalidArgument, &fault.to_string()))?;
    Ok(Opened {
        max_frame_bytes: sane_frame_limit(welcome.max_frame)?,
        credit_bytes: welcome.credit,
        agent: welcome.agent.to_owned(),
        form: options.form,
        ticket: Ticket::of(&welcome).filter(|_| options.resume),
        resumed: (resume.is_some() && welcome.resumed).then_some(welcome.recv),
        rest: body.slice(envelopes.position()..),
    })
}

/// The answerer's side.
pub(crate) async fn accept(
    reader: &mut Reader,
    writer: &mut Writer,
    options: &Options,
    ids: &Ids,
    authenticate: Option<&Authenticate>,
) -> Result<Opened> {
    let body = match receive(reader, limits::FRAME_BYTES_BEFORE_HELLO).await {
        Ok(body) => body,
        Err(broken) => {
            match &broken {
                Broken::Lost(_) => {}
                Broken::Fault(error) => turn_away(reader, writer, ids, Form::Compact, None, error).await,
                Broken::WebSocket(code, error) => {
                    hang_up(reader, writer, Farewell::breach(*code, error)).await;
                }
            }
            return Err(broken.into());
        }
    };
    let mut envelopes = Envelopes::new(&body);
    let (hello_id, form, opened) = match envelopes.next() {
        Some(Ok(decoded)) => {
            let opened = check(&decoded.envelope, authenticate);
            (
                Some(decoded.envelope.id).filter(|_| decoded.envelope.kind == Kind::Hello),
                decoded.form,
                opened,
            )
        }
        Some(Err(reject)) => {
            let id = reject
                .id
                .filter(|_| reject.kind == Some(Kind::Hello) && reject.has_ref == Some(false));
            (
                id,
                Form::Compact,
                Err(refused(reject.fault.code(), &reject.to_string())),
            )
        }
        None => (
            None,
            Form::Compact,
            Err(refused(Code::InvalidArgument, "an empty frame")),
        ),
    };
    let form = Handshake::answer_form(form);
    match opened {
        Ok(greeted) => {
            let mut session = [0; 16];
            ids::random(&mut session)?;
            let welcome = Welcome {
                v: 0,
                session: Id(session),
                token: None,
                caps: hello::Caps::default(),
                max_frame: frame_limit(options),
                heartbeat_ms: heartbeat_ms(options),
                credit: options.credit_bytes,
                resumed: false,
                recv: 0,
                limits: None,
                agent: &options.agent,
            };
            let mut payload = Vec::new();
            welcome.encode(&mut payload);
            send(
                writer,
                form,
                &envelope(Kind::Hello, ids.next(), hello_id, &payload, None),
            )
            .await?;
            Ok(Opened {
                form,
                rest: body.slice(envelopes.position()..),
                ..greeted
            })
        }
        Err(error) => {
            turn_away(reader, writer, ids, form, hello_id, &error).await;
            Err(error)
        }
    }
}

/// Says why there will be no session, and reads on for a moment so that it arrives [P-7.8].
pub(crate) async fn turn_away(
    reader: &mut Reader,
    writer: &mut Writer,
    ids: &Ids,
    form: Form,
    hello: Option<Id>,
    error: &Error,
) {
    let kind = if hello.is_some() {
        Kind::Hello
    } else {
        Kind::Cancel
    };
    let raw = error.to_wire();
    let answer = envelope(kind, ids.next(), hello, &[], Some(&raw));
    // The peer may not read; nothing more is owed to it then.
    if let Ok(Ok(())) = tokio::time::timeout(DRAIN, send(writer, form, &answer)).await {
        hang_up(reader, writer, Farewell::because(Some(error))).await;
    }
}

/// Half-closes, and reads on for a moment.
async fn hang_up(reader: &mut Reader, writer: &mut Writer, farewell: Farewell) {
    let done = async {
        writer.finish(farewell).await;
        while let Ok(Some(_)) = reader.next(limits::FRAME_BYTES_BEFORE_HELLO).await {}
    };
    // The peer may go on talking.
    drop(tokio::time::timeout(DRAIN, done).await);
}

/// What a hello comes to, if it is let in.
fn check(envelope: &Envelope<'_>, authenticate: Option<&Authenticate>) -> Result<Opened> {
    let fault = |fault: fluxar_protocol::Fault| refused(fault.code(), &fault.to_string());
    Handshake::default().admit(envelope).map_err(fault)?;
    let hello = Hello::decode(envelope.payload).map_err(fault)?;
    if !hello.v0 {
        return Err(
            refused(Code::Unimplemented, "only version 0 is spoken here").with_details(&Versions { v: [0] })
        );
    }
    if let Some(authenticate) = authenticate {
        let auth = hello.auth.map(|auth| Auth {
            scheme: auth.scheme.to_owned(),
            token: auth.token.map(str::to_owned),
        });
        authenticate(auth.as_ref())?;
    }
    Ok(Opened {
        max_frame_bytes: sane_frame_limit(hello.max_frame)?,
        credit_bytes: hello.credit,
        agent: hello.agent.to_owned(),
        form: Form::Compact,
        ticket: None,
        resumed: None,
        rest: Bytes::new(),
    })
}

#[derive(serde::Serialize)]
struct Versions {
    v: [u8; 1],
}

fn frame_limit(options: &Options) -> u32 {
    options.max_frame_bytes.min(limits::FRAME_BYTES_MOST) as u32
}

fn heartbeat_ms(options: &Options) -> u32 {
    u32::try_from(options.heartbeat.as_millis()).unwrap_or(u32::MAX)
}

fn sane_frame_limit(told: u32) -> Result<usize> {
    match told as usize {
        told if told < limits::FRAME_BYTES_LEAST => Err(refused(
            Code::InvalidArgument,
            &format!("a max_frame of {told} bytes is below what every peer takes"),
        )),
        told => Ok(told.min(limits::FRAME_BYTES_MOST)),
    }
}

fn envelope<'a>(
    kind: Kind,
    id: Id,
    reference: Option<Id>,
    payload: &'a [u8],
    error: Option<&'a [u8]>,
) -> Envelope<'a> {
    Envelope {
        kind,
        id,
        reference,
        target: None,
        meta: None,
        payload,
        error,
    }
}

async fn send(writer: &mut Writer, form: Form, envelope: &Envelope<'_>) -> Result<()> {
    writer.write(Batch::of(envelope, form)).await?;
    Ok(())
}

/// The next body that is not empty.
async fn receive(reader: &mut Reader, limit_bytes: usize) -> Result<Bytes, Broken> {
    loop {
        match reader.next(limit_bytes).await? {
            Some(body) if body.is_empty() => {}
            Some(body) => return Ok(body),
            None => {
                return Err(Broken::Lost(refused(
                    Code::Unavailable,
                    "the other side closed the connection during the handshake",
                )));
            }
        }
    }
}

fn refused(code: Code, message: &str) -> Error {
    Error::from_origin(Origin::Connect, code, format!("the handshake failed: {message}"))
}
