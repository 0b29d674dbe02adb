//! What goes wrong, as a line for a person and a code for a script.

use std::process::ExitCode;

use fluxar::{Code, Error, Origin};

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command ends without having done its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The SDK says.
    Fluxar(Error),
    /// A payload, or something of this machine.
    Here(String),
    /// The other side, in the words of this one.
    Refused(String),
    /// Options that do not go together.
    Usage(String),
    /// `--timeout` is over.
    Timeout(String),
    /// Nobody reads what is printed any more. That is how pipes end.
    BrokenPipe,
}

impl Failure {
    pub(crate) fn here(message: impl Into<String>) -> Self {
        Self::Here(message.into())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Timeout(_) => 4,
            Self::Here(_) => 5,
            Self::Fluxar(error) => match error.origin() {
                Origin::Answer if error.code() == Code::DeadlineExceeded => 4,
                Origin::Answer => 1,
                Origin::Input => 2,
                Origin::Connect | Origin::Connection => 3,
                Origin::Timeout => 4,
                _ => 5,
            },
        }
    }

    /// Says it on stderr.
    pub(crate) fn report(self) -> ExitCode {
        let code = self.exit_code();
        match self {
            Self::BrokenPipe => {}
            Self::Here(message) | Self::Refused(message) | Self::Usage(message) | Self::Timeout(message) => {
                eprintln!("fluxar: {message}")
            }
            Self::Fluxar(error) => {
                eprintln!("fluxar: {error}");
                if let Some(details) = error.details::<ciborium::Value>() {
                    eprintln!("        details: {}", crate::json::compact(&details));
                }
                // What was refused until its time was over says why.
                if error.origin() == Origin::Timeout
                    && let Some(cause) = std::error::Error::source(&error)
                {
                    eprintln!("        because: {cause}");
                }
                if let Some(hint) = hint(&error) {
                    eprintln!("        {hint}");
                }
            }
        }
        ExitCode::from(code)
    }
}

const OTHER_PEER: &str = "is it a FLUXAR peer? a gateway's 9000 is TCP (tcp://), 9001 is WebSocket (ws://)";

/// What to try.
fn hint(error: &Error) -> Option<&'static str> {
    match (error.origin(), error.code()) {
        (Origin::Connect, Code::Unauthenticated) => Some("give a token with --token or FLUXAR_TOKEN"),
        (Origin::Connect, Code::Unavailable) if error.message().contains("nobody listens") => {
            Some("is a gateway running? start one with `fluxar-gateway`, or give its address with --url")
        }
        (Origin::Connect, Code::DeadlineExceeded) => Some("is the address right? a firewall may swallow it"),
        (Origin::Connect, Code::InvalidArgument) => Some(OTHER_PEER),
        // The length of a frame that begins with `HTTP`.
        (Origin::Connect | Origin::Connection, Code::ResourceExhausted)
            if error.message().contains("a frame of 1213486160 bytes") =>
        {
            Some(OTHER_PEER)
        }
        (Origin::Connect, Code::Unavailable) if error.message().contains("WebSocket handshake failed") => {
            Some(OTHER_PEER)
        }
        (Origin::Answer, Code::Unavailable) => Some("serve the method with `fluxar serve`"),
        _ => None,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fluxar(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Here(error.to_string()),
        }
    }
}
