//! A blocking connection whose reads wait a moment at most, with what arrived and is not used yet.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a read waits before its caller looks at other things.
const READ_WAIT: Duration = Duration::from_millis(20);
/// How long an answer may take that is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Link {
    stream: Option<TcpStream>,
    arrived: Vec<u8>,
    used: usize,
    /// What is sent next.
    pub(crate) out: Vec<u8>,
}

impl Link {
    /// A new connection; what was left of one before is forgotten.
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        Ok(Self {
            stream: Some(stream),
            ..Self::default()
        })
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what `out` holds.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.stream()?.write_all(&out)
    }

    /// What arrived and is not used.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.arrived[self.used..]
    }

    /// So many of them are used.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Reads on. False if nothing came within a moment.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        self.arrived.drain(..self.used);
        self.used = 0;
        let mut buffer = [0; 32 * 1024];
        match self.stream()?.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.arrived.extend_from_slice(&buffer[..bytes]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads on until `take` finds what it looks for in the bytes, and says how many of them that were.
    pub(crate) fn wait_for<T>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> io::Result<Option<(T, usize)>>,
    ) -> io::Result<T> {
        let until = Instant::now() + ANSWER_WAIT;
        loop {
            if let Some((found, bytes)) = take(self.bytes())? {
                self.consume(bytes);
                return Ok(found);
            }
            if !self.fill()? && Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}
