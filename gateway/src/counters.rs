//! What happened on a core, counted. Plain numbers of one thread; nobody else reads them while it runs.

/// Totals since start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub opened: u64,
    /// Connections dialled, whatever became of them. Those are among the opened, too.
    pub dialled: u64,
    /// Connections gone.
    pub closed: u64,
    /// Envelopes received.
    pub received: u64,
    /// Runs handed to connections.
    pub runs: u64,
    /// Events handed to connections.
    pub delivered: u64,
    /// Events dropped because their receiver's queue was full, or because they were too large for it.
    pub dropped: u64,
    /// Events that were handed to the log.
    pub logged: u64,
    /// Events at qos 0 on topics that are always logged, which the log did not take: nobody was given them.
    pub unlogged: u64,
    /// Publishes that were acknowledged.
    pub acknowledged: u64,
    /// Events of work queues that no member could handle, and that went nowhere.
    pub given_up: u64,
    /// Envelopes that were malformed.
    pub rejected: u64,
    /// Envelopes that were answered with an error.
    pub refused: u64,
    /// Calls that were taken: forwarded to a serving peer, or waiting for one.
    pub calls: u64,
    /// Opens of streams, likewise.
    pub streams: u64,
    /// Answers that named no open call.
    pub late_answers: u64,
    /// Connections closed because they did not read.
    pub overrun: u64,
    /// Connections closed because a handshake or a frame was not completed.
    pub timed_out: u64,
    /// Connections lost to silence.
    pub lost: u64,
    /// Sessions whose connection was lost and that waited for another.
    pub put_away: u64,
    /// Of these, those for which nobody came in time.
    pub away_over: u64,
    /// Sessions that went on over another connection, whether they had been put away or not.
    pub resumed: u64,
    /// Hellos that wanted to resume, and got a new session.
    pub not_resumed: u64,
    /// Hellos that wanted to resume while too many did, and were told when to come again.
    pub returns_put_off: u64,
    /// Sessions that had to forget something of what they kept because all together kept too much, as often as one had to.
    pub kept_forgotten: u64,
    /// Serving peers that did not answer a ping in time, and got nothing new until they spoke.
    pub silent: u64,
    /// Pauses because a connection sent more than its rate.
    pub rate_pauses: u64,
}
