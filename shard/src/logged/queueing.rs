//! Where work queues meet the rest of the shard: who joins, what other cores hear, where dead letters go.

use fluxar_protocol::{Code, Id};

use super::letters::Start;
use super::wish::LoggedWish;
use super::{GivenUp, LogLetter, LoggedNews, QueueLetter};
use crate::letter::Letter;
use crate::log::{ReaderId, owner_of};
use crate::logged::queue::{DeadLetter, QUEUE_READERS};
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::subscriptions::Role;

/// The slot of the publisher of dead letters, which is no connection.
const DEAD_LETTERS_SLOT: u32 = u32::MAX;

/// Whether these events are dead letters of a core's queues.
pub(crate) fn is_of_queues(from: PeerId) -> bool {
    from.slot == DEAD_LETTERS_SLOT
}

/// Whether something was read for a queue.
pub(crate) fn is_queue_reader(reader: ReaderId) -> bool {
    reader.0 & QUEUE_READERS != 0
}

impl Shard {
    /// The next event that no member of its queue could handle and for which the rules name no dead-letter topic: it is
    /// done with, and somebody should know.
    pub fn poll_given_up(&mut self) -> Option<GivenUp> {
        self.logged.queues.poll_given_up()
    }

    /// A connection of this core joins a work queue. Its texts were checked.
    pub(crate) fn join_queue(
        &mut self,
        peer: PeerId,
        sub: Id,
        pattern: &str,
        group: &str,
        start: Start,
        wish: &LoggedWish<'_>,
    ) -> Result<(), Refusal> {
        if wish.retain {
            return Err(Refusal::fixed(
                Code::InvalidArgument,
                "`retain` sends a table to each subscriber, and a group's events go to one member each: subscribe \
                 without a group",
            ));
        }
        let text_bytes = pattern.len() + group.len() + wish.durable.map_or(0, str::len);
        self.subscriptions.admit(peer, sub, text_bytes, true)?;
        self.subscriptions.add(peer, sub, Role::Worker, 0, 0, text_bytes);
        let queues = &mut self.logged.queues;
        queues.join(peer, sub, (pattern, group, wish.durable), start, wish.in_flight);
        if self.logged.readers.is_busy(peer) {
            queues.set_busy(peer, true);
        }
        Ok(())
    }

    /// A letter about a member of a queue.
    pub(crate) fn queue_letter(&mut self, from: u16, letter: QueueLetter) {
        let logged = &mut self.logged;
        logged.queues.handle_letter(from, letter, &mut logged.log);
    }

    /// Has the queues do what they can; whether anything came of it.
    pub(crate) fn pump_queues(&mut self) -> bool {
        let logged = &mut self.logged;
        logged.queues.work(&mut logged.log);
        let mut came = false;
        while let Some((to, letter)) = self.logged.queues.poll_letter() {
            self.post.send(to, Letter::Queue(letter));
        }
        while let Some(news) = self.logged.queues.poll_news(self.epoch) {
            if let LoggedNews::RefusedSub { to, sub, .. } | LoggedNews::Ended { to, sub, .. } = &news
                && let Some(at) = self.subscriptions.find(*to, *sub)
            {
                self.unsubscribe(at);
            }
            self.logged.news.push_back(news);
            came = true;
        }
        while let Some(letter) = self.logged.queues.poll_append() {
            let DeadLetter {
                partition,
                class,
                events,
            } = letter;
            let from = PeerId {
                slot: DEAD_LETTERS_SLOT,
                generation: 0,
                core: self.core,
            };
            // To itself as to others: what comes of it comes later.
            let owner = owner_of(partition, self.post.cores());
            self.say(
                owner,
                LogLetter::Append {
                    from: Some(from),
                    partition,
                    class,
                    events,
                },
            );
            came = true;
        }
        came
    }
}
