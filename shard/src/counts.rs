//! How much there is of everything, and what went wrong quietly.

/// A shard in numbers. When all connections are gone and all letters have arrived, all but the `Ever` ones are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections of this core that subscribe or serve.
    pub subscribers: usize,
    /// Subscriptions and offers of this core's connections.
    pub subscriptions: usize,
    /// Connections of this core that are lost and whose sessions may go on.
    pub away: usize,
    /// Bytes of their pattern and group texts.
    pub pattern_bytes: usize,
    /// Distinct topic patterns known, other cores' included.
    pub topic_patterns: usize,
    /// Distinct method patterns known, other cores' included.
    pub method_patterns: usize,
    /// Groups known, other cores' included.
    pub groups: usize,
    /// Serving peers known, other cores' included.
    pub servers: usize,
    /// Connections of this core with calls or streams open.
    pub askers: usize,
    /// Calls open by this core's connections, second copies and mirrors included.
    pub open_calls: usize,
    /// Streams opened by this core's connections.
    pub open_streams: usize,
    /// Of both, how many wait for a serving peer to have room.
    pub queued: usize,
    /// Calls and opens of all cores that wait at this core's gates.
    pub gated: usize,
    /// Those of other cores that have passed one.
    pub passed: usize,
    /// Bytes of calls and opens that wait or may be sent again.
    pub held_bytes: usize,
    /// Subscriptions at qos 1 and 2 of this core's connections.
    pub logged_subscriptions: usize,
    /// Distinct patterns that they have, and that cores follow at this one.
    pub logged_patterns: usize,
    /// Durable cursors of this core's partitions that somebody holds.
    pub cursor_holders: usize,
    /// Bytes handed to them and not acknowledged, or being read for them.
    pub unacked_bytes: usize,
    /// Events that were refused for a moment and have to come again before others, and connections that are shut out until
    /// then.
    pub refused_events: usize,
    /// Members of work queues: among this core's connections, and of the queues over its partitions.
    pub queue_members: usize,
    /// Ever: answers that were late or made up.
    pub late_answers: u64,
    /// Ever: events that nobody wanted.
    pub unheard_events: u64,
    /// Ever: events for a group whose members had left in the meantime.
    pub orphaned_events: u64,
    /// Ever: events of qos 0 on topics that are always logged, which the log did not take.
    pub unlogged_events: u64,
    /// Ever: gaps in what this core heard of partitions, which subscriptions then read from the log: a fault of the gateway.
    pub log_gaps: u64,
}
