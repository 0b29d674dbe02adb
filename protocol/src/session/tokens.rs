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

    /// Whether this token is one of those that are valid, for who has to know that before anything changes. How long it takes
    /// says as little as with [`Tokens::take_over`].
    #[must_use]
    pub fn holds(&self, presented: &[u8]) -> bool {
        let Ok(presented) = <[u8; TOKEN_BYTES]>::try_from(presented) else {
            return false;
        };
        let is_current = is_same(&presented, &self.current);
        // Compared whether there is one or not.
        let is_previous = is_same(&presented, &self.previous.unwrap_or(self.current));
        is_current | is_previous
    }

    /// A hello resumes with this token. If it is one of those that are valid, returns the one to tell in the answer: the
    /// token that the peer is to come with next, `next` or, where the answer that told one may have been lost, that
    /// one again. `None`: it is not valid, and nothing has changed. How long it takes says nothing about how much of
    /// it was right, nor which one it was.
    ///
    /// That a token is told again, and not replaced once more, matters when a peer's connections overtake each other: a
    /// hello that was delayed does not make the answer worthless that the peer has got meanwhile.
    #[must_use]
    pub fn take_over(&mut self, presented: &[u8], next: [u8; TOKEN_BYTES]) -> Option<[u8; TOKEN_BYTES]> {
        let presented = <[u8; TOKEN_BYTES]>::try_from(presented).ok()?;
        let is_current = is_same(&presented, &self.current);
        // Compared whether there is one or not.
        let is_previous = is_same(&presented, &self.previous.unwrap_or(self.current));
        if !(is_current | is_previous) {
            return None;
        }
        if is_current {
            self.previous = Some(self.current);
            self.current = next;
        }
        Some(self.current)
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
    fn a_token_is_good_until_the_peer_has_the_next() {
        let mut tokens = Tokens::new(FIRST);
        assert_eq!(tokens.take_over(&FIRST, SECOND), Some(SECOND));
        tokens.confirm();
        assert_eq!(tokens.take_over(&FIRST, THIRD), None);
        assert_eq!(tokens.take_over(&SECOND, THIRD), Some(THIRD));
    }

    #[test]
    fn a_lost_answer_leaves_the_token_good() {
        let mut tokens = Tokens::new(FIRST);
        assert_eq!(tokens.take_over(&FIRST, SECOND), Some(SECOND));
        // The answer never came; nor did the next.
        assert_eq!(tokens.take_over(&FIRST, THIRD), Some(SECOND));
        assert_eq!(tokens.take_over(&FIRST, THIRD), Some(SECOND));
        // This one came, but the connection was lost before anything was sent on it.
        assert_eq!(tokens.take_over(&SECOND, THIRD), Some(THIRD));
        assert_eq!(tokens.take_over(&FIRST, FOURTH), None);
        assert_eq!(tokens.take_over(&SECOND, FOURTH), Some(THIRD));
    }

    #[test]
    fn anything_else_is_refused_and_changes_nothing() {
        let mut tokens = Tokens::new(FIRST);
        assert_eq!(tokens.take_over(&[], SECOND), None);
        assert_eq!(tokens.take_over(&[1; TOKEN_BYTES - 1], SECOND), None);
        assert_eq!(tokens.take_over(&[1; TOKEN_BYTES + 1], SECOND), None);
        for bit in 0..8 * TOKEN_BYTES {
            let mut wrong = FIRST;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tokens.take_over(&wrong, SECOND), None, "bit {bit}");
        }
        assert_eq!(tokens.take_over(&FIRST, SECOND), Some(SECOND));
    }

    #[test]
    fn what_is_asked_about_is_what_would_be_taken_and_changes_nothing() {
        let mut tokens = Tokens::new(FIRST);
        assert!(tokens.holds(&FIRST) && !tokens.holds(&SECOND));
        for wrong in [&[][..], &FIRST[1..], &[1; TOKEN_BYTES + 1]] {
            assert!(!tokens.holds(wrong));
        }
        assert_eq!(tokens.take_over(&FIRST, SECOND), Some(SECOND));
        assert!(tokens.holds(&FIRST) && tokens.holds(&SECOND) && !tokens.holds(&THIRD));
        tokens.confirm();
        assert!(!tokens.holds(&FIRST) && tokens.holds(&SECOND));
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
