//! The secrets by which a session is taken over [P-7.6].

use core::fmt;
use core::hint::black_box;

/// Length of a token, in bytes: 128 bits of the operating system's randomness, drawn by whoever holds the session.
pub const TOKEN_BYTES: usize = 16;

/// The tokens that a session's holder accepts: the one that it gave out last, and, until the peer is known to have that,
/// the one with which the peer came.
#[derive(Clone)]
pub struct Tokens {
    current: [u8; TOKEN_BYTES],
    previous: Option<[u8; TOKEN_BYTES]>,
}

impl Tokens {
    /// Of a new session, whose peer is told `first` in the answer to its hello.
    #[must_use]
    pub const fn new(first: [u8; TOKEN_BYTES]) -> Self {
        Self {
            current: first,
            previous: None,
        }
    }

    /// A hello resumes with this token. If it is one of those that are valid, `next` takes its place and is to be told
    /// in the answer; the one that was presented stays valid until [`Tokens::confirm`], because the answer may be
    /// lost. False: it is none, and nothing has changed. How long it takes says nothing about how much of it was
    /// right, nor which one it was.
    #[must_use]
    pub fn rotate(&mut self, presented: &[u8], next: [u8; TOKEN_BYTES]) -> bool {
        let Ok(presented) = <[u8; TOKEN_BYTES]>::try_from(presented) else {
            return false;
        };
        let is_current = is_same(&presented, &self.current);
        // Compared whether there is one or not.
        let is_previous = is_same(&presented, &self.previous.unwrap_or(self.current));
        if !(is_current | is_previous) {
            return false;
        }
        self.previous = Some(presented);
        self.current = next;
        true
    }

    /// The first envelope arrived on the connection that resumed: its sender has the current token.
    pub fn confirm(&mut self) {
        self.previous = None;
    }
}

/// Compares in a time that depends on the length alone.
fn is_same(a: &[u8; TOKEN_BYTES], b: &[u8; TOKEN_BYTES]) -> bool {
    let differing = a
        .iter()
        .zip(b)
        .fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
    differing == 0
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("awaits_confirmation", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    const FIRST: [u8; TOKEN_BYTES] = [1; TOKEN_BYTES];
    const SECOND: [u8; TOKEN_BYTES] = [2; TOKEN_BYTES];
    const THIRD: [u8; TOKEN_BYTES] = [3; TOKEN_BYTES];
    const FOURTH: [u8; TOKEN_BYTES] = [4; TOKEN_BYTES];

    #[test]
    fn a_token_is_good_once_the_peer_has_the_next() {
        let mut tokens = Tokens::new(FIRST);
        assert!(tokens.rotate(&FIRST, SECOND));
        tokens.confirm();
        assert!(!tokens.rotate(&FIRST, THIRD));
        assert!(tokens.rotate(&SECOND, THIRD));
    }

    #[test]
    fn a_lost_answer_leaves_the_token_good() {
        let mut tokens = Tokens::new(FIRST);
        assert!(tokens.rotate(&FIRST, SECOND));
        // The answer never came; nor did the next.
        assert!(tokens.rotate(&FIRST, THIRD));
        assert!(!tokens.rotate(&SECOND, FOURTH), "nobody was told it");
        assert!(tokens.rotate(&FIRST, FOURTH));
        // This one came, but the connection was lost before anything was sent on it.
        assert!(tokens.rotate(&FOURTH, SECOND));
        assert!(!tokens.rotate(&FIRST, THIRD));
        assert!(tokens.rotate(&FOURTH, THIRD));
    }

    #[test]
    fn anything_else_is_refused_and_changes_nothing() {
        let mut tokens = Tokens::new(FIRST);
        assert!(!tokens.rotate(&[], SECOND));
        assert!(!tokens.rotate(&[1; TOKEN_BYTES - 1], SECOND));
        assert!(!tokens.rotate(&[1; TOKEN_BYTES + 1], SECOND));
        for bit in 0..8 * TOKEN_BYTES {
            let mut wrong = FIRST;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!tokens.rotate(&wrong, SECOND), "bit {bit}");
        }
        assert!(tokens.rotate(&FIRST, SECOND));
    }

    #[test]
    fn it_does_not_show_what_it_holds() {
        let shown = format!("{:?}", Tokens::new([0xab; TOKEN_BYTES]));
        assert!(
            !shown.contains("171") && !shown.to_lowercase().contains("ab,"),
            "{shown}"
        );
    }
}
