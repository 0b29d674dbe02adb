//! Logged events on the plain path: subscriptions at qos 0 get them when they are committed, from the owner's core, as they
//! get others from a publisher's core.

use super::pieces::topic_of;
use crate::log::Stored;
use crate::shard::Shard;

impl Shard {
    /// Gives newly committed events to plain subscriptions, here and on other cores, if there are any.
    pub(crate) fn publish_committed(&mut self, stored: &Stored) {
        if self.topics.patterns.len() == 0 {
            return;
        }
        self.flush_plain(); // a run of others is not mixed with these
        let mut last: Option<(&str, bool)> = None;
        for at in 0..stored.events.len() {
            let event = stored.events.get(at);
            let topic = topic_of(event);
            let is_wanted = match last {
                Some((same, is_wanted)) if same == topic => is_wanted,
                _ => self.is_wanted(topic),
            };
            last = Some((topic, is_wanted));
            if is_wanted {
                self.publish(topic, event);
            }
        }
        self.flush_plain();
    }

    fn is_wanted(&mut self, topic: &str) -> bool {
        let receivers = self.topics.resolve(topic, &self.subscriptions, &self.groups);
        !receivers.is_empty()
    }
}
