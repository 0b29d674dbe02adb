//! What a subscription asks of the log, and what a subscriber acknowledges.

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::meta::{Meta, Qos};
use fluxar_protocol::position::Begin;
use fluxar_protocol::{Fault, Id, Kind};
use fluxar_shard::Refusal;
use fluxar_shard::logged::{From, LoggedWish, QOS_2_UNNAMED};

use crate::front::Front;

/// What a subscription at qos 1 or 2 asks for.
#[derive(Debug)]
pub(crate) struct LogWish<'a> {
    qos: Qos,
    group: Option<&'a str>,
    durable: Option<&'a str>,
    begin: Option<Begin<'a>>,
    retain: bool,
    skip_damaged: bool,
    in_flight: u32,
}

/// Why a wish cannot be had, by what it asks for alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WishFault {
    /// A value of the wrong kind.
    Meta(Fault),
    /// These do not go together.
    Together(&'static str),
}

impl std::convert::From<Fault> for WishFault {
    fn from(fault: Fault) -> Self {
        Self::Meta(fault)
    }
}

impl<'a> LogWish<'a> {
    /// Reads it; `None` if the subscription is one at qos 0, which has nothing to do with the log.
    pub(crate) fn read(meta: &Meta<'a>) -> Result<Option<Self>, WishFault> {
        let qos = meta.qos()?;
        if qos == Qos::AtMostOnce {
            let needs = ["durable", "from", "retain", "skip_damaged"]
                .into_iter()
                .find(|key| meta.get(key).is_some_and(|value| value != [0xf4]));
            return match needs {
                Some("durable") => Err(WishFault::Together(
                    "`durable` needs the log: subscribe at qos 1 or 2",
                )),
                Some("from") => Err(WishFault::Together(
                    "`from` needs the log: subscribe at qos 1 or 2",
                )),
                Some("retain") => Err(WishFault::Together(
                    "`retain` needs the log: subscribe at qos 1 or 2",
                )),
                Some(_) => Err(WishFault::Together(
                    "`skip_damaged` needs the log: subscribe at qos 1 or 2, with `retain`",
                )),
                None => Ok(None),
            };
        }
        let wish = Self {
            qos,
            group: meta.text("group")?,
            durable: meta.text("durable")?,
            begin: meta.begin()?,
            retain: meta.flag("retain")?,
            skip_damaged: meta.flag("skip_damaged")?,
            in_flight: meta
                .uint("in_flight")?
                .map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX)),
        };
        if wish.qos == Qos::ExactlyOnce && wish.durable.is_none() && wish.group.is_none() {
            return Err(WishFault::Together(QOS_2_UNNAMED));
        }
        if wish.skip_damaged && !wish.retain {
            return Err(WishFault::Together(
                "`skip_damaged` is about the table that comes first: it needs `retain`",
            ));
        }
        Ok(Some(wish))
    }
}

impl Front {
    /// A subscription at qos 1 or 2. It is accepted, or refused, by what the shard tells later.
    pub(crate) fn subscribe_logged(&mut self, slot: usize, id: Id, pattern: &str, wish: &LogWish<'_>) {
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        let (peer, busy) = (session.peer, session.busy);
        let at: Vec<(u16, u64)> = match &wish.begin {
            Some(Begin::Epoch { at, .. }) => at.iter().map(|at| (at.partition, at.offset)).collect(),
            _ => Vec::new(),
        };
        let from = match &wish.begin {
            None => From::Default,
            Some(Begin::New) => From::New,
            Some(Begin::All) => From::All,
            Some(Begin::Epoch { epoch, .. }) => From::Epoch {
                epoch: *epoch,
                at: &at,
            },
            Some(Begin::TimeMs(time_ms)) => From::TimeMs(*time_ms),
        };
        let asked = LoggedWish {
            qos: wish.qos,
            group: wish.group,
            durable: wish.durable,
            from,
            retain: wish.retain,
            skip_damaged: wish.skip_damaged,
            in_flight: wish.in_flight,
            principal: "", // sessions are not authenticated yet
        };
        match self.shard.subscribe_logged(peer, id, pattern, asked) {
            Ok(()) => {
                if busy {
                    self.shard.set_busy(peer, true);
                }
                self.after_shard();
            }
            Err(Refusal { code, message }) => {
                self.refuse(slot, Kind::Subscribe, id, code, &message);
                self.charge_refusal(slot);
            }
        }
    }

    /// A subscriber has handled events.
    pub(crate) fn acknowledge(&mut self, slot: usize, subscription: Id, envelope: &Envelope<'_>) {
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        // Whatever else has a ref and is wrong, or about nothing, is ignored [P-3.10].
        if let Some(meta) = &envelope.meta
            && let Ok(Some(ack)) = meta.ack()
        {
            self.shard.acknowledge(
                session.peer,
                subscription,
                ack.partition(),
                ack.first(),
                ack.deltas(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::meta::MetaWriter;

    use super::*;

    fn fault(meta: MetaWriter) -> String {
        let meta = meta.finish().expect("it fits");
        match LogWish::read(&Meta::from_checked(&meta)) {
            Err(WishFault::Together(message)) => message.to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_needs_the_log_is_not_had_at_qos_0() {
        for (key, meta) in [
            ("durable", MetaWriter::new().text("durable", "a")),
            ("from", MetaWriter::new().text("from", "all")),
            ("retain", MetaWriter::new().flag("retain", true)),
            ("skip_damaged", MetaWriter::new().flag("skip_damaged", true)),
        ] {
            assert!(fault(meta).contains(key), "{key}");
        }
        let plain = MetaWriter::new().flag("retain", false).finish().expect("it fits");
        assert!(matches!(LogWish::read(&Meta::from_checked(&plain)), Ok(None)));
    }

    #[test]
    fn only_a_table_can_come_without_what_is_damaged() {
        let wish = || MetaWriter::new().uint("qos", 1).flag("skip_damaged", true);
        assert!(fault(wish()).contains("needs `retain`"));
        let table = wish().flag("retain", true).finish().expect("it fits");
        assert!(matches!(
            LogWish::read(&Meta::from_checked(&table)),
            Ok(Some(LogWish {
                retain: true,
                skip_damaged: true,
                ..
            }))
        ));
        let table = MetaWriter::new().uint("qos", 1).flag("retain", true);
        let table = table.finish().expect("it fits");
        assert!(matches!(
            LogWish::read(&Meta::from_checked(&table)),
            Ok(Some(LogWish {
                skip_damaged: false,
                ..
            }))
        ));
    }

    #[test]
    fn exactly_once_has_a_name() {
        let said = fault(MetaWriter::new().uint("qos", 2));
        assert!(said.contains("durable"), "{said}");
        let named = MetaWriter::new().uint("qos", 2).text("durable", "a");
        let named = named.finish().expect("it fits");
        let wish = LogWish::read(&Meta::from_checked(&named));
        assert!(matches!(
            wish,
            Ok(Some(LogWish {
                durable: Some("a"),
                ..
            }))
        ));
    }
}
