//! Subscribing, offering, and telling the other cores about it.

use std::sync::Arc;

use fluxar_protocol::{Code, Id, target};

use crate::letter::{GroupHandle, Letter};
use crate::limits::{GROUP_BYTES_MAX, WEIGHT_MAX};
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;
use crate::post::News;
use crate::refusal::Refusal;
use crate::routes::Routes;
use crate::serving::ServiceRow;
use crate::shard::Shard;
use crate::subscriptions::Role;

/// A subscription that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// It was an offer to serve.
    pub serve: bool,
    /// Events that it missed, ever (`meta.dropped`).
    pub dropped: u64,
}

impl Shard {
    /// Subscribes a connection of this core at qos 0.
    ///
    /// # Errors
    /// `invalid_argument` for a pattern that is none or a group's name that is empty or too long, `already_exists` for
    /// a sub id that the peer uses already, `resource_exhausted` at a bound.
    pub fn subscribe(
        &mut self,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        group: Option<&str>,
    ) -> Result<(), Refusal> {
        check_pattern(pattern)?;
        check_group(group)?;
        let text_bytes = pattern.len() + group.map_or(0, str::len);
        self.no_call_has(peer, sub)?;
        self.subscriptions.admit(peer, sub, text_bytes, group.is_some())?;
        let pattern = self.topics.patterns.entry(pattern);
        match group {
            None => {
                let seat = self.topics.patterns[pattern].plain.len() as u32;
                let at = self
                    .subscriptions
                    .add(peer, sub, Role::Plain, pattern, seat, text_bytes);
                self.topics.patterns[pattern].plain.push(at);
                self.topics.forget(pattern);
                self.plain_changed(pattern);
            }
            Some(name) => {
                let group = self.group(pattern, name);
                let seat = self.groups[group].members.len() as u32;
                let at = self
                    .subscriptions
                    .add(peer, sub, Role::Member(group), pattern, seat, text_bytes);
                self.groups[group].members.push(at);
                self.members_changed(group);
            }
        }
        Ok(())
    }

    /// Offers a connection of this core as a server of the methods that match.
    ///
    /// # Errors
    /// As [`Shard::subscribe`]; `invalid_argument` also for a weight of 0 or above [`WEIGHT_MAX`], for an `in_flight_max`
    /// of 0, for a zone's name that is too long, and for a pattern of the gateway's own part.
    pub fn serve(&mut self, peer: PeerId, sub: Id, pattern: &str, offering: Offering) -> Result<(), Refusal> {
        check_pattern(pattern)?;
        if target::is_system(pattern) {
            return Err(Refusal::fixed(
                Code::InvalidArgument,
                "methods that begin with `$` are the gateway's own",
            ));
        }
        let Offering { weight, .. } = offering;
        if weight == 0 || weight > WEIGHT_MAX {
            return Err(Refusal::worded(
                Code::InvalidArgument,
                format!("the weight {weight} is not between 1 and {WEIGHT_MAX}"),
            ));
        }
        check_group(offering.fleet.as_deref())?;
        if offering
            .zone
            .as_ref()
            .is_some_and(|zone| zone.len() > GROUP_BYTES_MAX)
        {
            return Err(Refusal::fixed(
                Code::InvalidArgument,
                "a zone's name has at most 255 bytes",
            ));
        }
        if offering.in_flight_max == 0 {
            return Err(Refusal::fixed(
                Code::InvalidArgument,
                "`in_flight` is at least 1; cancel the offer to get no calls",
            ));
        }
        self.no_call_has(peer, sub)?;
        let text_bytes = pattern.len() + offering.fleet.as_ref().map_or(0, |fleet| fleet.len());
        self.subscriptions.admit(peer, sub, text_bytes, false)?;
        let offer = self.serving.offer(peer, sub, pattern, &offering);
        self.subscriptions
            .add(peer, sub, Role::Server(offer), 0, 0, text_bytes);
        let pattern = self.serving.text(offer);
        let standing = self.serving.standing_of(peer);
        self.post.announce(News::Letter(Letter::Offer {
            server: peer,
            sub,
            pattern,
            offering: Arc::new(offering),
            standing,
        }));
        Ok(())
    }

    /// A connection that this core dialled serves this core: all methods in the fleet of its terms, and the methods that
    /// match one of `patterns` outside of any fleet. Again for the same peer: other terms. Other cores are not told, for
    /// they dial their own. It ends with [`Shard::peer_lost`].
    pub fn attach(&mut self, peer: PeerId, patterns: &[Arc<str>], offering: Offering) {
        self.serving.attach(peer, patterns, &offering);
    }

    /// An attached connection gets nothing new from now on; what is open at it goes on.
    pub fn detach(&mut self, peer: PeerId) {
        self.serving.detach(peer);
    }

    /// How fit a connection of this core is to serve, and whether it takes what the streams that it has open bring.
    /// Streams that it opens later know it too; to one that begins to serve it is told again.
    pub fn set_standing(&mut self, peer: PeerId, standing: Standing) {
        if self.serving.set_standing(peer, standing)
            && self
                .serving
                .find(peer)
                .is_some_and(|at| self.serving.is_announced(at))
        {
            self.post.announce(News::Letter(Letter::Standing {
                server: peer,
                standing,
            }));
        }
        let is_news = if standing.crowded {
            self.crowded.insert(peer)
        } else {
            self.crowded.remove(&peer)
        };
        // All that it has open is walked through: only when something came of it.
        if is_news {
            self.crowded_changed(peer, standing.crowded);
        }
    }

    /// A peer of this core that was not away goes on over another connection, whose hello announced this. What its offers
    /// bring from now on begins with it; what it has open does not change.
    pub fn set_credit(&mut self, peer: PeerId, credit_bytes: u32) {
        if self.serving.set_credit(peer, credit_bytes)
            && self
                .serving
                .find(peer)
                .is_some_and(|at| self.serving.is_announced(at))
        {
            self.post.announce(News::Letter(Letter::Credit {
                server: peer,
                credit_bytes,
            }));
        }
    }

    /// By letter: how fit a serving peer of another core is.
    pub(crate) fn stands_elsewhere(&mut self, server: PeerId, standing: Standing) {
        let was_crowded = self.serving.standing_of(server).crowded;
        self.serving.set_standing(server, standing);
        if was_crowded != standing.crowded {
            self.crowded_changed(server, standing.crowded);
        }
    }

    /// Other rules from now on; what is open or waits stays where it is.
    pub fn set_routes(&mut self, routes: Arc<Routes>) {
        self.serving.set_routes(routes);
    }

    /// Each offer as this core sees it.
    pub fn services(&self) -> impl Iterator<Item = ServiceRow<'_>> {
        self.serving.rows()
    }

    /// Whether a peer offers something, or has something of this core's connections open.
    #[must_use]
    pub fn is_serving(&self, peer: PeerId) -> bool {
        self.serving
            .find(peer)
            .is_some_and(|at| self.serving[at].is_busy())
    }

    /// How much of this core's connections is open at a peer.
    #[must_use]
    pub fn has_open(&self, peer: PeerId) -> usize {
        self.serving
            .find(peer)
            .map_or(0, |at| self.serving[at].open.len())
    }

    /// Ends a subscription or an offer, for its peer cancelled it. Calls open at the peer go on;
    /// it hears of no new ones that the offer would have brought, wherever they are.
    pub fn end_subscription(&mut self, peer: PeerId, sub: Id) -> Option<Ended> {
        let at = self.subscriptions.find(peer, sub)?;
        if let Role::Server(_) = self.subscriptions[at].role {
            let pattern = self.serving.text_of(peer, sub);
            self.serving.withdraw_named(peer, sub);
            self.post
                .announce(News::Letter(Letter::Withdraw { server: peer, sub }));
            if let Some(pattern) = pattern {
                self.offer_withdrawn(peer, &pattern);
            }
        }
        let ended = self.unsubscribe(at);
        self.pump_log();
        Some(ended)
    }

    /// A connection of this core is gone, and with it its subscriptions and offers. Calls that it opened are
    /// cancelled onwards, calls open at it fail or go to another server ([`Shard::poll_outgoing`], on every core).
    pub fn peer_lost(&mut self, peer: PeerId) {
        self.crowded.remove(&peer);
        self.withdrew.remove(&peer);
        self.asker_lost(peer);
        self.absences.lost(peer);
        self.server_gone(peer);
        while let Some(&at) = self.subscriptions.of(peer).last() {
            self.unsubscribe(at);
        }
        self.readers_lost(peer);
        self.logged.order.forget(peer);
        self.pump_log();
    }

    /// Appends each subscription of the peer that missed events since the last time, with how many it missed ever.
    pub fn drop_notes(&mut self, peer: PeerId, out: &mut Vec<(Id, u64)>) {
        self.subscriptions.tell_missed(peer, out);
    }

    /// Another core wants plain events of a pattern, or no longer does.
    pub(crate) fn want(&mut self, core: u16, pattern: &str, wanted: bool) {
        let pattern = self.topics.patterns.entry(pattern);
        let cores = &mut self.topics.patterns[pattern].cores;
        cores.retain(|&other| other != core);
        if wanted {
            cores.push(core);
        }
        self.topics.forget(pattern);
        self.topics.release(pattern);
    }

    /// Another core has so many members of a group.
    pub(crate) fn members(
        &mut self,
        core: u16,
        pattern: &str,
        name: &str,
        handle: GroupHandle,
        members: u32,
    ) {
        let pattern = self.topics.patterns.entry(pattern);
        let group = self.group(pattern, name);
        self.groups[group].set_elsewhere(core, handle, members);
        self.release_group(group);
    }

    /// Words what the other cores are to be told, if it is news to them.
    pub(crate) fn word(&mut self, news: News) -> Option<Letter> {
        match news {
            News::Letter(letter) => Some(letter),
            News::Pattern(pattern) => {
                let interest = &mut self.topics.patterns[pattern];
                interest.is_queued = false;
                let wanted = !interest.plain.is_empty();
                let is_news = std::mem::replace(&mut interest.is_told, wanted) != wanted;
                let letter = is_news.then(|| Letter::Want {
                    pattern: self.topics.patterns.text(pattern).clone(),
                    wanted,
                });
                self.topics.release(pattern);
                letter
            }
            News::Group(at) => {
                let handle = self.groups.handle(at);
                let group = &mut self.groups[at];
                group.is_queued = false;
                let members = group.members_here() as u32;
                let is_news = std::mem::replace(&mut group.told, members) != members;
                let letter = is_news.then(|| Letter::Members {
                    pattern: self.topics.patterns.text(group.pattern).clone(),
                    group: group.name.clone(),
                    handle,
                    members,
                });
                self.release_group(at);
                letter
            }
        }
    }

    /// An id names one thing of its sender's at a time, whatever its kind [P-3.3].
    pub(crate) fn no_call_has(&self, peer: PeerId, id: Id) -> Result<(), Refusal> {
        match self.exchanges.find(peer, id) {
            None => Ok(()),
            Some(_) => Err(Refusal::fixed(
                Code::AlreadyExists,
                "a call or a stream with this id is open; use a new id",
            )),
        }
    }

    /// Says whether a connection's queue is full. A member of a group that is busy gets events only when every other
    /// member is busy too, so that each event of a group finds one that keeps up.
    pub fn set_busy(&mut self, peer: PeerId, busy: bool) {
        self.readers_busy(peer, busy);
        self.logged.queues.set_busy(peer, busy);
        for nth in 0..self.subscriptions.of(peer).len() {
            let at = self.subscriptions.of(peer)[nth];
            let sub = &self.subscriptions[at];
            if let Role::Reader(reader) = sub.role {
                self.reader_busy(reader, busy);
                continue;
            }
            let (Role::Member(group), seat) = (sub.role, sub.seat as usize) else {
                continue;
            };
            if sub.resting == busy {
                continue;
            }
            let group = &mut self.groups[group];
            let left = group.seats(!busy);
            left.swap_remove(seat);
            if let Some(&moved) = left.get(seat) {
                self.subscriptions.reseat(moved, seat as u32);
            }
            let taken = group.seats(busy);
            taken.push(at);
            self.subscriptions.rest(at, busy, taken.len() as u32 - 1);
        }
        self.pump_log();
    }

    /// Takes a subscription out of its list; an offer was withdrawn already.
    pub(crate) fn unsubscribe(&mut self, at: u32) -> Ended {
        let (sub, dropped) = self.subscriptions.remove(at);
        let seats = match sub.role {
            Role::Plain => &mut self.topics.patterns[sub.pattern].plain,
            Role::Member(group) => self.groups[group].seats(sub.resting),
            Role::Server(_) => return Ended { serve: true, dropped },
            Role::Reader(reader) => {
                self.reader_ended(reader);
                return Ended {
                    serve: false,
                    dropped,
                };
            }
            Role::Worker => {
                self.logged.queues.leave(sub.peer, sub.id);
                return Ended {
                    serve: false,
                    dropped,
                };
            }
            Role::AwayMember | Role::AwayServer => {
                return Ended {
                    serve: sub.role == Role::AwayServer,
                    dropped,
                };
            }
        };
        seats.swap_remove(sub.seat as usize);
        if let Some(&moved) = seats.get(sub.seat as usize) {
            self.subscriptions.reseat(moved, sub.seat);
        }
        match sub.role {
            Role::Member(group) => self.members_changed(group),
            _ => {
                self.topics.forget(sub.pattern);
                self.plain_changed(sub.pattern);
            }
        }
        Ended {
            serve: false,
            dropped,
        }
    }

    /// A member of a group is none for as long as its connection is away.
    pub(crate) fn give_up_seat(&mut self, at: u32) {
        let sub = &self.subscriptions[at];
        let (Role::Member(group), seat) = (sub.role, sub.seat) else {
            return;
        };
        let seats = self.groups[group].seats(sub.resting);
        seats.swap_remove(seat as usize);
        if let Some(&moved) = seats.get(seat as usize) {
            self.subscriptions.reseat(moved, seat);
        }
        self.subscriptions.rest(at, false, 0);
        self.members_changed(group);
    }

    /// The number of a group, new if it is not there.
    pub(crate) fn group(&mut self, pattern: u32, name: &str) -> u32 {
        if let Some(group) = self.groups.find(pattern, name) {
            return group;
        }
        let group = self.groups.add(pattern, name, self.ids.next());
        self.topics.patterns[pattern].groups.push(group);
        self.topics.forget(pattern);
        group
    }

    /// The plain subscriptions of a pattern are more or fewer: news, if there were none, or are none.
    fn plain_changed(&mut self, pattern: u32) {
        let interest = &mut self.topics.patterns[pattern];
        if interest.is_told == interest.plain.is_empty() && !interest.is_queued && !self.post.is_alone() {
            interest.is_queued = true;
            self.post.announce(News::Pattern(pattern));
        }
        self.topics.release(pattern);
    }

    pub(crate) fn members_changed(&mut self, at: u32) {
        let group = &mut self.groups[at];
        if !group.is_queued && !self.post.is_alone() {
            group.is_queued = true;
            self.post.announce(News::Group(at));
        }
        self.release_group(at);
    }

    fn release_group(&mut self, at: u32) {
        let pattern = self.groups[at].pattern;
        if self.groups.release(at) {
            self.topics.patterns[pattern].groups.retain(|&other| other != at);
            self.topics.forget(pattern);
            self.topics.release(pattern);
        }
    }
}

pub(crate) fn check_group(group: Option<&str>) -> Result<(), Refusal> {
    match group {
        Some(name) if name.is_empty() || name.len() > GROUP_BYTES_MAX => Err(Refusal::fixed(
            Code::InvalidArgument,
            "a group's name has 1 to 255 bytes",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn check_pattern(pattern: &str) -> Result<(), Refusal> {
    target::check_pattern(pattern)
        .map_err(|fault| Refusal::worded(Code::InvalidArgument, format!("the pattern `{pattern}`: {fault}")))
}
