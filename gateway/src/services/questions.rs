//! Questions that wait for what the other cores tell: bounded in number and in time.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxar_protocol::Id;
use fluxar_protocol::error::Code;
use fluxar_shard::PeerId;

use super::rows::{self, Key, Row};

/// Questions of one core's connections that are open at a time. One more is refused `resource_exhausted`.
const QUESTIONS_MAX: usize = 64;
/// How long the other cores may take; then the answer says how many are missing.
const PATIENCE_MS: u64 = 1_000;
/// What an answer with ids takes beside them.
const AROUND_BYTES: usize = 256;
/// The longest id with its head: `65535/4294967295.4294967295`.
const ID_BYTES_MAX: usize = 29;

/// What is asked of every core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Who serves what.
    List,
    /// Mark who is called so as draining, or take the mark away.
    Drain {
        /// An id, a name, the address of an endpoint, or the name of an upstream.
        peer: Arc<str>,
        /// Which of the two.
        on: bool,
    },
}

/// A letter between the cores about services.
#[derive(Debug)]
pub enum Letter {
    /// A question.
    Ask {
        /// Its number at the core that asks.
        question: u32,
        /// What is asked.
        wish: Wish,
    },
    /// What comes of it.
    Told {
        /// The number.
        question: u32,
        /// What this core has to say.
        told: Told,
    },
}

/// One core's part of an answer.
#[derive(Debug)]
pub enum Told {
    /// To [`Wish::List`].
    Rows {
        /// What it sees.
        rows: Vec<Row>,
        /// How many offers it did not tell of, since there are too many.
        left_out: u64,
    },
    /// To [`Wish::Drain`].
    Marked {
        /// How many of its connections are meant, those that are not up included.
        count: u32,
        /// Those that are up.
        peers: Vec<PeerId>,
    },
}

/// A question that waits.
#[derive(Debug)]
pub(crate) struct Question {
    number: u32,
    pub(super) asker: PeerId,
    /// The call.
    pub(super) reference: Id,
    wish: Wish,
    until_ms: u64,
    /// Cores that have not told yet.
    missing: u16,
    rows: BTreeMap<Key, Row>,
    left_out: u64,
    marked: u32,
    peers: Vec<PeerId>,
}

/// The questions of one core's connections.
#[derive(Debug)]
pub(crate) struct Admin {
    cores: u16,
    /// Oldest first, and so the one that ends first.
    open: Vec<Question>,
    next: u32,
}

impl Admin {
    pub(crate) fn new(cores: u16) -> Self {
        Self {
            cores,
            open: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn cores(&self) -> u16 {
        self.cores
    }

    /// When the next question has waited long enough, ms.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.open.first().map(|question| question.until_ms)
    }

    /// Whether a connection waits for the answer to a question of this id.
    pub(super) fn is_open(&self, asker: PeerId, reference: Id) -> bool {
        let of = |question: &Question| (question.asker, question.reference);
        self.open
            .iter()
            .any(|question| of(question) == (asker, reference))
    }

    /// A new question; its number.
    pub(super) fn open(
        &mut self,
        asker: PeerId,
        reference: Id,
        wish: Wish,
        now_ms: u64,
    ) -> Result<u32, String> {
        if self.open.len() >= QUESTIONS_MAX {
            return Err(format!(
                "{QUESTIONS_MAX} such questions are open on this core; ask again later"
            ));
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.push(Question {
            number,
            asker,
            reference,
            wish,
            until_ms: now_ms + PATIENCE_MS,
            missing: self.cores,
            rows: BTreeMap::new(),
            left_out: 0,
            marked: 0,
            peers: Vec::new(),
        });
        Ok(number)
    }

    /// A core's part; the question, if it was the last.
    pub(super) fn told(&mut self, from: u16, number: u32, told: Told) -> Option<Question> {
        // None if its time was over before.
        let at = self.open.iter().position(|question| question.number == number)?;
        let question = &mut self.open[at];
        question.missing -= 1;
        match told {
            Told::Rows { rows, left_out } => {
                // Each core sees the same offers; what one leaves out the others do as well.
                question.left_out = question.left_out.max(left_out);
                for row in rows {
                    rows::add(&mut question.rows, from, row);
                }
            }
            Told::Marked { count, peers } => {
                question.marked += count;
                question.peers.extend(peers);
            }
        }
        (question.missing == 0).then(|| self.open.remove(at))
    }

    /// One whose time is over.
    pub(super) fn take_expired(&mut self, now_ms: u64) -> Option<Question> {
        (self.next_ms()? <= now_ms).then(|| self.open.remove(0))
    }
}

impl Question {
    /// For the log: what was done, once it is done.
    pub(super) fn log(&self) {
        if let (Wish::Drain { peer, on }, 1..) = (&self.wish, self.marked) {
            let what = if *on { "nothing new" } else { "calls again" };
            let s = if self.marked == 1 { "" } else { "s" };
            let count = self.marked;
            tracing::info!("{peer} gets {what}, as $services.drain was told: {count} connection{s}");
        }
    }

    /// The payload of the answer, in so many bytes at most, or its error.
    pub(super) fn answer(self, bytes_max: usize) -> Result<Vec<u8>, (Code, String)> {
        match &self.wish {
            Wish::List => Ok(rows::encode(self.rows, self.left_out, self.missing, bytes_max)),
            Wish::Drain { peer, .. } if self.marked == 0 && self.missing == 0 => Err((
                Code::NotFound,
                format!("no serving peer is called {peer:?}; $services.list has their ids and names"),
            )),
            Wish::Drain { .. } => Ok(encode_marked(self.marked, &self.peers, self.missing, bytes_max)),
        }
    }
}

/// `{matched, ids, left_out, cores_missing}`, with as many ids as fit.
fn encode_marked(matched: u32, peers: &[PeerId], missing: u16, bytes_max: usize) -> Vec<u8> {
    let room = bytes_max.saturating_sub(AROUND_BYTES) / ID_BYTES_MAX;
    let told = &peers[..peers.len().min(room)];
    let mut out = Vec::new();
    rows::write(&mut out, |e| {
        e.map(4)?.str("matched")?.u32(matched)?;
        e.str("ids")?.array(told.len() as u64)?;
        for peer in told {
            e.str(&format!("{peer:?}"))?;
        }
        e.str("left_out")?.u64((peers.len() - told.len()) as u64)?;
        e.str("cores_missing")?.u16(missing)?;
        Ok(())
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: PeerId = PeerId {
        core: 0,
        slot: 1,
        generation: 1,
    };

    fn drain() -> Wish {
        Wish::Drain {
            peer: "a".into(),
            on: true,
        }
    }

    /// These are up; one is not if there are two.
    fn marked(slots: &[u32]) -> Told {
        Told::Marked {
            count: slots.len() as u32 + u32::from(slots.len() > 1),
            peers: slots.iter().map(|slot| PeerId { slot: *slot, ..ASKER }).collect(),
        }
    }

    #[test]
    fn a_question_ends_with_the_last_core() {
        let mut admin = Admin::new(3);
        let number = admin.open(ASKER, Id([7; 16]), drain(), 100).unwrap();
        assert_eq!(admin.next_ms(), Some(1_100));
        let is_open = |asker, id| admin.is_open(asker, Id([id; 16]));
        assert!(is_open(ASKER, 7) && !is_open(ASKER, 8) && !is_open(PeerId { slot: 2, ..ASKER }, 7));
        assert!(admin.told(0, number, marked(&[1])).is_none());
        assert!(admin.told(2, number, marked(&[])).is_none());
        let question = admin.told(1, number, marked(&[2, 3])).unwrap();
        assert_eq!(question.reference, Id([7; 16]));
        assert!(!admin.is_open(ASKER, Id([7; 16])));
        assert_eq!(
            question.answer(1_000).unwrap(),
            b"\xa4\x67matched\x04\x63ids\x83\x650/1.1\x650/2.1\x650/3.1\x68left_out\x00\x6dcores_missing\x00"
        );
        assert_eq!(admin.next_ms(), None);
        assert!(admin.told(1, number, marked(&[2, 3])).is_none(), "late");
    }

    #[test]
    fn a_core_that_does_not_tell_is_counted_as_missing() {
        let mut admin = Admin::new(2);
        let number = admin.open(ASKER, Id([7; 16]), drain(), 100).unwrap();
        assert!(admin.told(0, number, marked(&[])).is_none());
        assert!(admin.take_expired(1_099).is_none());
        let question = admin.take_expired(1_100).unwrap();
        // Nobody was found, but one core has not looked: no "not found".
        assert_eq!(
            question.answer(1_000).unwrap(),
            b"\xa4\x67matched\x00\x63ids\x80\x68left_out\x00\x6dcores_missing\x01"
        );
    }

    #[test]
    fn who_is_nowhere_is_not_found_and_questions_are_bounded() {
        let mut admin = Admin::new(1);
        let number = admin.open(ASKER, Id([7; 16]), drain(), 0).unwrap();
        let question = admin.told(0, number, marked(&[])).unwrap();
        assert_eq!(question.answer(1_000).unwrap_err().0, Code::NotFound);
        for _ in 0..QUESTIONS_MAX {
            admin.open(ASKER, Id([7; 16]), Wish::List, 0).unwrap();
        }
        assert!(admin.open(ASKER, Id([7; 16]), Wish::List, 0).is_err());
    }

    #[test]
    fn ids_that_do_not_fit_are_counted() {
        let peers: Vec<PeerId> = (0..100).map(|slot| PeerId { slot, ..ASKER }).collect();
        let payload = encode_marked(100, &peers, 0, 1_000);
        assert!(payload.len() <= 1_000);
        let mut d = minicbor::Decoder::new(&payload);
        assert_eq!(d.map().unwrap(), Some(4));
        assert_eq!((d.str().unwrap(), d.u32().unwrap()), ("matched", 100));
        assert_eq!(d.str().unwrap(), "ids");
        let ids: Vec<String> = d.decode().unwrap();
        let left_out = 100 - ids.len() as u64;
        assert_eq!((d.str().unwrap(), d.u64().unwrap()), ("left_out", left_out));
        assert_eq!((ids.len(), ids[24].as_str()), (25, "0/24.1"));
    }
}
