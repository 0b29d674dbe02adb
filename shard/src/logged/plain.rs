//! Logged events on the plain path: subscriptions at qos 0 get them when they are committed, from the owner's core, as they
//! get others from a publisher's core.

use super::pieces::RunningTopic;
use crate::log::Stored;
use crate::shard::Shard;

impl Shard {
    /// Gives newly committed events to plain subscriptions, here and on other cores, if there are any.
    pub(crate) fn publish_committed(&mut self, stored: &Stored) {
        if self.topics.patterns.len() == 0 {
            return;
        }
        self.flush_plain(); // a run of others is not mixed with these
        let (mut topic, mut is_wanted) = (RunningTopic::default(), false);
        for at in 0..stored.events.len() {
            let event = stored.events.get(at);
            if topic.moves_to(event) {
                is_wanted = self.is_wanted(topic.text());
            }
            // One may have waited for the disk for longer than it is of worth.
            if is_wanted && !stored.has_expired(event, self.logged.unix_ms) {
                self.publish(topic.text(), event);
            }
        }
        self.flush_plain();
    }

    fn is_wanted(&mut self, topic: &str) -> bool {
        let receivers = self.topics.resolve(topic, &self.subscriptions, &self.groups);
        !receivers.is_empty()
    }
}
