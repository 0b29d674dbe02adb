//! Who may ask for `$services.…`: connections that only this machine's own programs can have made.

use crate::session::Origin;

/// The ways in from which administration is answered (`admin.from`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminFrom {
    /// Unix sockets; the file's permissions say whose.
    pub unix: bool,
    /// TCP from an address of this machine. Never WebSocket: any web page in a browser here could be behind it.
    pub loopback: bool,
}

impl Default for AdminFrom {
    fn default() -> Self {
        Self {
            unix: true,
            loopback: true,
        }
    }
}

impl AdminFrom {
    /// Reads `["unix", "loopback"]`, or part of it.
    ///
    /// # Errors
    /// Which word is none.
    pub fn parse(names: &[String]) -> Result<Self, String> {
        let mut from = Self {
            unix: false,
            loopback: false,
        };
        for name in names {
            match name.as_str() {
                "unix" => from.unix = true,
                "loopback" => from.loopback = true,
                other => return Err(format!("{other:?} is neither \"unix\" nor \"loopback\"")),
            }
        }
        Ok(from)
    }

    /// The other way round.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.unix, "unix"), (self.loopback, "loopback")];
        all.into_iter()
            .filter_map(|(is_in, name)| is_in.then_some(name))
            .collect()
    }

    /// Whether a connection that came this way is answered.
    #[must_use]
    pub fn admits(self, origin: Origin) -> bool {
        match origin {
            Origin::Unix => self.unix,
            Origin::Loopback => self.loopback,
            Origin::Other => false,
        }
    }
}
