//! Places in the gateway's logs: where an event was logged, how far a subscription has come, and where one begins.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fluxar_protocol::{Code, meta::MetaWriter};
use serde::{Deserialize, Serialize};

use crate::{Error, Origin, Result};

/// Where an event stands: a partition of the log, and its offset there. It is written `partition@offset`.
///
/// Within one log directory of a gateway a position names one event for ever: offsets grow, with gaps, and none is used
/// twice. Another directory begins at 1 again, so a program that keeps positions keeps the [`Cursor`], whose epoch tells one
/// directory from another, or knows its events by what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition. All events of one topic are in the same.
    pub partition: u16,
    /// The offset, 1 or more; in a [`Cursor`], 0 is the place before the first event.
    pub offset: u64,
}

impl From<fluxar_protocol::Position> for Position {
    fn from(at: fluxar_protocol::Position) -> Self {
        Self {
            partition: at.partition,
            offset: at.offset,
        }
    }
}

impl From<Position> for fluxar_protocol::Position {
    fn from(at: Position) -> Self {
        Self {
            partition: at.partition,
            offset: at.offset,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let (partition, offset) = text.split_once('@')?;
            Some(Self {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        read().ok_or_else(|| {
            unusable(format!(
                "`{text}` is no position: it is written partition@offset, as in 12@3051"
            ))
        })
    }
}

/// How far a subscription has come: in each partition that it covers, the last position that is done with.
///
/// A program that keeps it (it is serde's, and text: `epoch:partition@offset,…`) can begin there again with
/// [`Begin::Behind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The incarnation of the logs, as the gateway named it.
    pub epoch: u64,
    /// One position for each partition.
    pub at: Vec<Position>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.epoch)?;
        for (number, at) in self.at.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{at}")?;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (epoch, at) = text
            .split_once(':')
            .and_then(|(epoch, at)| Some((epoch.parse().ok()?, at)))
            .ok_or_else(|| {
                unusable(format!(
                    "`{text}` is no cursor: it is written epoch:partition@offset,… as in 97216:12@3051"
                ))
            })?;
        let at = at
            .split(',')
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_>>()?;
        Ok(Self { epoch, at })
    }
}

/// Where a subscription to logged events begins. Without one: at its durable cursor, if it has one, else
/// [`Begin::New`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begin {
    /// Behind everything that the log holds when the subscription is accepted.
    New,
    /// At the oldest event that the log still holds.
    All,
    /// Behind a cursor that was kept. If the log does not hold what comes next any more, the subscription is refused
    /// `out_of_range`.
    Behind(Cursor),
    /// At the first event that is held of what was logged at this time or later.
    Time(SystemTime),
}

impl Begin {
    /// Adds it to what a subscription asks for.
    pub(crate) fn write(&self, meta: MetaWriter) -> MetaWriter {
        match self {
            Self::New => meta.text("from", "new"),
            Self::All => meta.text("from", "all"),
            Self::Behind(cursor) => meta.begin_behind(cursor.epoch, cursor.at.iter().map(|&at| at.into())),
            Self::Time(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                meta.begin_at_time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

fn unusable(what: String) -> Error {
    Error::from_origin(Origin::Input, Code::InvalidArgument, what)
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::{meta::Meta, position};

    use super::*;

    fn cursor() -> Cursor {
        let at = [(0, 7), (63, 1_000_001)].map(|(partition, offset)| Position { partition, offset });
        Cursor {
            epoch: 1 << 60,
            at: at.to_vec(),
        }
    }

    #[test]
    fn cursors_are_text() {
        let text = cursor().to_string();
        assert_eq!(text, "1152921504606846976:0@7,63@1000001");
        assert_eq!(text.parse::<Cursor>().unwrap(), cursor());
        let empty = Cursor {
            epoch: 3,
            at: Vec::new(),
        };
        assert_eq!(empty.to_string().parse::<Cursor>().unwrap(), empty);
        for text in ["", "7", "x:1@1", "7:1", "7:1@1,2", "7:70000@1", "7:1@-1"] {
            let error = text.parse::<Cursor>().unwrap_err();
            assert_eq!(error.origin(), Origin::Input, "{text}");
        }
    }

    #[test]
    fn beginnings_are_asked_for_as_the_gateway_reads_them() {
        let asked = |begin: &Begin| begin.write(MetaWriter::new()).finish().unwrap();
        let read = |raw: &[u8]| match Meta::from_checked(raw).begin() {
            Ok(Some(position::Begin::Epoch { epoch, at })) => {
                format!("{epoch} {:?}", at.iter().map(Position::from).collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        };
        assert_eq!(read(&asked(&Begin::New)), "Ok(Some(New))");
        assert_eq!(read(&asked(&Begin::All)), "Ok(Some(All))");
        let time = UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        assert_eq!(
            read(&asked(&Begin::Time(time))),
            "Ok(Some(TimeMs(1790000000123)))"
        );
        let expected = format!("{} {:?}", cursor().epoch, cursor().at);
        assert_eq!(read(&asked(&Begin::Behind(cursor()))), expected);
    }
}
