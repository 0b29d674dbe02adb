//! What a connection asks of the logs: of a publish, and of a subscription.

use fluxar_protocol::meta::Qos;

/// What is said of a subscription at qos 2 that names neither a cursor nor a group.
pub const QOS_2_UNNAMED: &str =
    "a subscription at qos 2 needs a `durable` name: without one nothing tells what was handled before";

/// How an event is to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoggedPublish {
    /// qos 2: an event with the same id that the partition took a moment ago is not stored again.
    pub once: bool,
    /// `meta.retain`: the last of each key is kept.
    pub retain: bool,
    /// It has `meta.ttl_ms`.
    pub expires: bool,
    /// Its publisher is told what became of it; `false` for qos 0 on a topic that is always logged.
    pub acked: bool,
}

/// A subscription at qos 1 or 2.
#[derive(Debug, Clone, Copy)]
pub struct LoggedWish<'a> {
    /// 1 or 2; the latter needs a name.
    pub qos: Qos,
    /// Share the events with the others of this group: a work queue.
    pub group: Option<&'a str>,
    /// The name of a cursor that outlives the session.
    pub durable: Option<&'a str>,
    /// Where to begin.
    pub from: From<'a>,
    /// The last event of each key first.
    pub retain: bool,
    /// With `retain`: what is damaged of those is left out, instead of ending the subscription.
    pub skip_damaged: bool,
    /// Of a group: how many events the member takes before it acknowledges; 0: as many as usual.
    pub in_flight: u32,
    /// Who asks, as authenticated; empty: nobody in particular. Part of a cursor's name.
    pub principal: &'a str,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum From<'a> {
    /// Behind what its cursor has acknowledged; as [`From::New`] if there is none.
    #[default]
    Default,
    /// With what is committed from now on.
    New,
    /// With the first event that is held.
    All,
    /// Behind these positions.
    Epoch {
        /// The incarnation of the logs that they were given out by.
        epoch: u64,
        /// Partition and offset; a partition that is not named begins behind offset 0.
        at: &'a [(u16, u64)],
    },
    /// With the first event that was appended at this time or later, ms since 1970.
    TimeMs(u64),
}
