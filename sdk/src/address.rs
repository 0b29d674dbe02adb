//! Where a peer is: `tcp://host:port`, `unix:///path`, `ws://host:port/path`.

use std::{fmt, path::PathBuf, sync::Arc};

use fluxar_protocol::Code;

use crate::{Error, Origin, Result};

/// Carries frames between two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Transport {
    /// Frames with a length in front, over TCP. The default.
    #[default]
    Tcp,
    /// The same over a Unix socket.
    Unix,
    /// One binary message a frame, over WebSocket (subprotocol `fluxar.v0`).
    WebSocket,
}

impl Transport {
    fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::WebSocket => "ws",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::WebSocket => 9001,
            Self::Tcp | Self::Unix => 9000,
        }
    }
}

/// An address as the transports need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// The socket's path.
    Unix(PathBuf),
    /// `host:port` and the path of the request.
    WebSocket { authority: String, path: String },
}

impl Address {
    /// Reads an address. Without a scheme it is one of `transport`, or of TCP.
    pub(crate) fn parse(text: &str, transport: Option<Transport>) -> Result<Self> {
        let refuse = |why: &str| {
            let message =
                format!("`{text}` is no address: {why}; try tcp://127.0.0.1:9000, ws://… or unix:///…");
            Err(Error::from_origin(Origin::Input, Code::InvalidArgument, message))
        };
        let (said, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Some(Transport::Tcp), rest),
            Some(("unix", rest)) => (Some(Transport::Unix), rest),
            Some(("ws", rest)) => (Some(Transport::WebSocket), rest),
            Some((scheme @ ("tls" | "wss" | "quic"), _)) => {
                return refuse(&format!("{scheme}:// is not supported yet"));
            }
            Some(_) => return refuse("its scheme is unknown"),
            None => (None, text),
        };
        if let (Some(said), Some(chosen)) = (said, transport)
            && said != chosen
        {
            return refuse(&format!(
                "its scheme is {}, the chosen transport {}",
                said.scheme(),
                chosen.scheme()
            ));
        }
        if rest.is_empty() {
            return refuse("nothing stands behind the scheme");
        }
        let transport = said.or(transport).unwrap_or_default();
        match transport {
            Transport::Unix => Ok(Self::Unix(PathBuf::from(rest))),
            Transport::Tcp => match authority(rest, transport) {
                Some(authority) => Ok(Self::Tcp(authority)),
                None => refuse("it must be host:port"),
            },
            Transport::WebSocket => {
                let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
                match authority(host, transport) {
                    Some(authority) => Ok(Self::WebSocket {
                        authority,
                        path: path.to_owned(),
                    }),
                    None => refuse("it must be host:port"),
                }
            }
        }
    }

    /// As an error or a log names it.
    pub(crate) fn name(&self) -> Arc<str> {
        self.to_string().into()
    }
}

/// `host:port`, with the transport's default port where none is given.
fn authority(text: &str, transport: Transport) -> Option<String> {
    let host_end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, port) = text.split_at(host_end);
    if host.is_empty() || host.contains(['/', ' ', '@']) {
        return None;
    }
    match port.strip_prefix(':') {
        Some(port) => port.parse::<u16>().ok().map(|port| format!("{host}:{port}")),
        None => port
            .is_empty()
            .then(|| format!("{host}:{}", transport.default_port())),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::WebSocket { authority, path } => {
                write!(f, "ws://{authority}{}", path.trim_end_matches('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        Address::parse(text, None).map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    #[test]
    fn addresses_are_read_and_shown() {
        assert_eq!(parse("tcp://127.0.0.1:7"), "tcp://127.0.0.1:7");
        assert_eq!(parse("localhost"), "tcp://localhost:9000");
        assert_eq!(parse("ws://localhost"), "ws://localhost:9001");
        assert_eq!(parse("ws://[::1]:80/x"), "ws://[::1]:80/x");
        assert_eq!(parse("unix:///run/fluxar.sock"), "unix:///run/fluxar.sock");
        let ws = Address::parse("0.0.0.0:9000", Some(Transport::WebSocket)).unwrap();
        assert_eq!(ws.to_string(), "ws://0.0.0.0:9000");
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        assert!(parse("http://x").contains("scheme is unknown"));
        assert!(parse("wss://x").contains("not supported yet"));
        assert!(parse("tcp://").contains("nothing stands behind"));
        assert!(parse("tcp://host:port").contains("host:port"));
        assert!(parse("tcp://a b:1").contains("host:port"));
        assert!(Address::parse("tcp://x:1", Some(Transport::Unix)).is_err());
    }
}
