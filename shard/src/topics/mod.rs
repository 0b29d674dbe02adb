//! Topics of events: which connections, groups and cores get what is published to one.
//!
//! [`table`] finds the patterns that match a name, [`cache`] remembers what was found, [`receivers`] makes equal sets
//! of receivers one set, so that consecutive events of different topics can share a run.

pub(crate) mod cache;
pub(crate) mod receivers;
pub(crate) mod table;
mod trie;

use std::rc::Rc;

use foldhash::fast::FixedState;

use crate::groups::Groups;
use crate::peer::PeerId;
use crate::subscriptions::Subscriptions;
use cache::NameCache;
use receivers::{ReceiverSets, Receivers};
use table::PatternTable;

/// Who wants the topics of one pattern.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Plain subscriptions of this core's connections.
    pub(crate) plain: Vec<u32>,
    /// Groups, with members here or on other cores.
    pub(crate) groups: Vec<u32>,
    /// Other cores with plain subscriptions.
    pub(crate) cores: Vec<u16>,
    /// What the other cores know: that there are plain subscriptions here.
    pub(crate) is_told: bool,
    /// It waits to be told to them.
    pub(crate) is_queued: bool,
}

impl Interest {
    fn is_idle(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty() && self.cores.is_empty() && !self.is_queued
    }
}

/// One core's topic table.
#[derive(Debug)]
pub(crate) struct Topics {
    pub(crate) patterns: PatternTable<Interest>,
    remembered: NameCache<Rc<Receivers>>,
    sets: ReceiverSets,
    /// Changes whenever anything remembered may have become wrong.
    version: u64,
    /// Receivers that are being gathered; empty between two calls.
    gathered: Vec<PeerId>,
    matched: Vec<u32>,
}

impl Topics {
    pub(crate) fn new(hasher: &FixedState, names_remembered: usize) -> Self {
        Self {
            patterns: PatternTable::new(hasher),
            remembered: NameCache::new(names_remembered),
            sets: ReceiverSets::new(hasher),
            version: 0,
            gathered: Vec::new(),
            matched: Vec::new(),
        }
    }

    /// A number that stays while every topic keeps its receivers.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Who gets the events of a topic.
    #[inline]
    pub(crate) fn resolve(
        &mut self,
        topic: &str,
        subscriptions: &Subscriptions,
        groups: &Groups,
    ) -> &Rc<Receivers> {
        let hash = self.patterns.hash(topic);
        let at = match self.remembered.find(hash, topic) {
            Some(at) => at,
            None => {
                let receivers = self.find(topic, subscriptions, groups);
                self.remembered.insert(hash, topic, receivers)
            }
        };
        self.remembered.at(at).expect("it was found or entered above")
    }

    /// What receives the events of a pattern has changed.
    pub(crate) fn forget(&mut self, pattern: u32) {
        self.version += 1;
        if self.patterns.is_wild(pattern) {
            self.remembered.clear();
        } else {
            let topic = self.patterns.text(pattern);
            self.remembered.remove(self.patterns.hash(topic), topic);
        }
    }

    /// Lets a pattern go that nobody wants any more.
    pub(crate) fn release(&mut self, pattern: u32) {
        if self.patterns[pattern].is_idle() {
            self.patterns.remove(pattern);
        }
    }

    /// The patterns that match a topic. Give the list back with [`Topics::matched_done`].
    pub(crate) fn matched(&mut self, topic: &str) -> Vec<u32> {
        let mut matched = std::mem::take(&mut self.matched);
        matched.clear();
        self.patterns.each_match(topic, |pattern| matched.push(pattern));
        matched
    }

    pub(crate) fn matched_done(&mut self, matched: Vec<u32>) {
        self.matched = matched;
    }

    fn find(&mut self, topic: &str, subscriptions: &Subscriptions, groups: &Groups) -> Rc<Receivers> {
        let matched = self.matched(topic);
        let mut plain = std::mem::take(&mut self.gathered);
        let (mut cores, mut handles) = (Vec::new(), Vec::new());
        for &pattern in &matched {
            let interest = &self.patterns[pattern];
            plain.extend(interest.plain.iter().map(|&sub| subscriptions[sub].peer));
            cores.extend_from_slice(&interest.cores);
            handles.extend(interest.groups.iter().map(|&group| groups.handle(group)));
        }
        self.matched_done(matched);
        plain.sort_unstable();
        plain.dedup(); // a connection with several matching subscriptions gets the event once
        cores.sort_unstable();
        cores.dedup();
        handles.sort_unstable();
        let receivers = self.sets.intern(&plain, &cores, &handles);
        plain.clear();
        self.gathered = plain;
        receivers
    }
}
