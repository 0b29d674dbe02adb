//! Peers of this core whose connection is lost and whose session waits for another one [P-7.6].
//!
//! ```text
//!   here ── peer_away ──▶ away ── peer_returned ──▶ here again, under the same name
//!                          └────── peer_lost ─────▶ gone
//! ```
//!
//! What others need of the peer is lost at once: its offers are withdrawn, what was open at it fails, its seats in groups
//! are given up and its work goes to others. What it has of others stays: the exchanges that it began, its plain
//! subscriptions, whose drops are counted, and its places in the logs, which are not read meanwhile.
//!
//! Other cores hear of the loss as of any other ([`Letter::ServerLost`]). Until they have settled it ([`Letter::Flushed`]) they
//! put aside what they hear of the peer: it may return, under the same name, before that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;

use crate::letter::{Arrival, Letter};
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;
use crate::post::News;
use crate::shard::Shard;
use crate::subscriptions::Role;

/// Who is away, and whose loss is not settled yet.
#[derive(Debug)]
pub(crate) struct Absences {
    away: HashMap<PeerId, Absent, FixedState>,
    /// Peers of this core that are or were away: at the end of what was open at them they are told.
    resumable: HashSet<PeerId, FixedState>,
    /// Peers of other cores that were lost and something is still open at, with what came of them since. No more than what one
    /// peer may offer, and what changes of it until its core has answered.
    unsettled: HashMap<PeerId, VecDeque<Letter>, FixedState>,
}

/// What comes back with a peer.
#[derive(Debug, Default)]
struct Absent {
    memberships: Vec<Membership>,
    offers: Vec<WithdrawnOffer>,
}

#[derive(Debug)]
struct Membership {
    /// Its subscription.
    at: u32,
    pattern: Arc<str>,
    group: Arc<str>,
}

#[derive(Debug)]
struct WithdrawnOffer {
    /// Its subscription, and that one's name.
    at: u32,
    sub: Id,
    pattern: Arc<str>,
    terms: Offering,
}

impl Absences {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            away: HashMap::with_hasher(hasher.clone()),
            resumable: HashSet::with_hasher(hasher.clone()),
            unsettled: HashMap::with_hasher(hasher.clone()),
        }
    }

    /// Peers of this core that are away.
    pub(crate) fn len(&self) -> usize {
        self.away.len()
    }

    /// Whether a peer of this core is told what ended at it while it was away.
    pub(crate) fn is_resumable(&self, peer: PeerId) -> bool {
        self.resumable.contains(&peer)
    }

    /// A peer of this core is gone for good.
    pub(crate) fn lost(&mut self, peer: PeerId) {
        self.away.remove(&peer);
        self.resumable.remove(&peer);
    }

    /// The loss of a peer of another core is settled only when that core has answered.
    pub(crate) fn unsettled(&mut self, server: PeerId) {
        self.unsettled.entry(server).or_default();
    }

    /// Puts aside what another core tells of a peer whose loss is not settled; gives back everything else.
    pub(crate) fn put_aside(&mut self, letter: Letter) -> Option<Letter> {
        if self.unsettled.is_empty() {
            return Some(letter);
        }
        let (Letter::Offer { server, .. }
        | Letter::Standing { server, .. }
        | Letter::Credit { server, .. }
        | Letter::Withdraw { server, .. }
        | Letter::ServerLost { server }) = &letter
        else {
            return Some(letter);
        };
        match self.unsettled.get_mut(server) {
            Some(aside) => {
                aside.push_back(letter);
                None
            }
            None => Some(letter),
        }
    }
}

impl Shard {
    /// The connection of a peer of this core is lost, and its session may go on over another. It stays known by its name
    /// until [`Shard::peer_returned`] or [`Shard::peer_lost`]. What it is to hear comes out as before, also of the end of
    /// what was open at it; plain events for it are the caller's to count ([`Shard::dropped`]).
    pub fn peer_away(&mut self, peer: PeerId) {
        self.set_standing(peer, Standing::default());
        self.absences.resumable.insert(peer);
        self.set_busy(peer, true);
        let mut absent = Absent::default();
        for nth in 0..self.subscriptions.of(peer).len() {
            let at = self.subscriptions.of(peer)[nth];
            let (id, role, pattern) = {
                let sub = &self.subscriptions[at];
                (sub.id, sub.role, sub.pattern)
            };
            match role {
                Role::Member(group) => {
                    absent.memberships.push(Membership {
                        at,
                        pattern: self.topics.patterns.text(pattern).clone(),
                        group: self.groups[group].name.clone(),
                    });
                    self.give_up_seat(at);
                    self.subscriptions.change_role(at, Role::AwayMember, 0, 0);
                }
                Role::Server(_) => {
                    if let Some((pattern, terms)) = self.serving.terms_of(peer, id) {
                        absent.offers.push(WithdrawnOffer {
                            at,
                            sub: id,
                            pattern,
                            terms,
                        });
                    }
                    self.subscriptions.change_role(at, Role::AwayServer, 0, 0);
                }
                Role::Worker => self.logged.queues.rewind(peer, id),
                Role::Plain | Role::Reader(_) | Role::AwayMember | Role::AwayServer => {}
            }
        }
        self.server_gone(peer);
        self.absences.away.insert(peer, absent);
        self.pump_log();
    }

    /// Whether a peer has nothing here that would end with it.
    #[must_use]
    pub fn has_nothing_of(&self, peer: PeerId) -> bool {
        self.subscriptions.of(peer).is_empty() && self.exchanges.any_of(peer).is_none()
    }

    /// Peers that are away and what each has offered, by who it says it is: once for each offer.
    pub fn services_away(&self) -> impl Iterator<Item = (PeerId, &str)> {
        self.absences
            .away
            .iter()
            .flat_map(|(peer, absent)| absent.offers.iter().map(move |offer| (*peer, &*offer.terms.name)))
    }

    /// A peer that was away is back. `credit_bytes` is what its new hello announced, and `standing` how fit it is to serve. Its
    /// offers stand again, its seats are taken again, and what it did not acknowledge of the logs comes again.
    pub fn peer_returned(&mut self, peer: PeerId, credit_bytes: u32, standing: Standing) {
        let Some(absent) = self.absences.away.remove(&peer) else {
            return;
        };
        for Membership { at, pattern, group } in absent.memberships {
            let pattern = self.topics.patterns.entry(&pattern);
            let group = self.group(pattern, &group);
            let members = &mut self.groups[group].members;
            let seat = members.len() as u32;
            members.push(at);
            self.subscriptions
                .change_role(at, Role::Member(group), pattern, seat);
            self.members_changed(group);
        }
        for WithdrawnOffer {
            at,
            sub,
            pattern,
            mut terms,
        } in absent.offers
        {
            terms.credit_bytes = credit_bytes;
            let offer = self.serving.offer(peer, sub, &pattern, &terms);
            self.serving.set_standing(peer, standing);
            self.subscriptions.change_role(at, Role::Server(offer), 0, 0);
            self.post.announce(News::Letter(Letter::Offer {
                server: peer,
                sub,
                pattern,
                offering: Arc::new(terms),
                standing,
            }));
        }
        self.rewind_logged(peer);
        self.set_busy(peer, false);
    }

    /// A peer of this core serves nothing any more, since it is lost or away: here and on the other cores.
    pub(crate) fn server_gone(&mut self, peer: PeerId) {
        let is_announced = self
            .serving
            .find(peer)
            .is_some_and(|at| self.serving.is_announced(at));
        let is_told = self.absences.is_resumable(peer);
        if self.server_lost(peer, is_told) && is_announced {
            self.post
                .announce(News::Letter(Letter::ServerLost { server: peer }));
        }
    }

    /// By letter: all that this core had sent to a peer that was lost has come back, or is there.
    pub(crate) fn loss_settled(&mut self, from: u16, server: PeerId, is_told: bool) -> Arrival {
        self.server_lost(server, is_told);
        // A loss among it is not settled either, and what is behind that is put aside again.
        for letter in self.absences.unsettled.remove(&server).unwrap_or_default() {
            self.handle_letter(from, letter);
        }
        Arrival::Taken
    }
}
