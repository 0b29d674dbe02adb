//! A letter between an owner and a subscription's home core that does not come.

use std::collections::BTreeSet;
use std::sync::Arc;

use fluxar_protocol::meta::{MetaWriter, Qos};
use fluxar_protocol::position::Positions;
use fluxar_protocol::{Envelope, Form, Id, Kind};

use crate::log::class::{Level, TopicRule};
use crate::log::{Settings, owner_of, partition_of};
use crate::logged::{From, LogLetter, LoggedNews, LoggedPublish, LoggedWish};
use crate::{Letter, Limits, PeerId, Seed, Shard};

const EPOCH: u64 = 7 << 20 | 1;
const TOPIC: &str = "orders.new";
const CORES: u16 = 2;

/// Carries letters until there are none, but for those that tell of new events, if they get lost; the offsets that were handed
/// out.
fn carry(shards: &mut [Shard], tells: bool) -> Vec<u64> {
    let mut offsets = Vec::new();
    loop {
        let mut letters = Vec::new();
        for (core, shard) in shards.iter_mut().enumerate() {
            while let Some(news) = shard.poll_logged() {
                if let LoggedNews::Run { positions, .. } = news {
                    offsets.extend(Positions::read(&positions).expect("positions").offsets());
                }
            }
            while let Some((to, letter)) = shard.poll_letter() {
                letters.push((core as u16, to, letter));
            }
            while shard.poll_disk().is_some() {}
        }
        if letters.is_empty() {
            return offsets;
        }
        for (from, to, letter) in letters {
            if tells || !matches!(letter, Letter::Log(LogLetter::Logged { .. })) {
                let _ = shards[usize::from(to)].handle_letter(from, letter);
            }
        }
    }
}

#[test]
fn a_gap_in_what_a_core_hears_is_read_from_the_log() {
    let settings = Arc::new(Settings {
        topics: vec![TopicRule {
            pattern: ">".into(),
            level: Some(Level::Memory),
            always: None,
            deliveries_max: None,
            dead_letter: None,
        }],
        ..Settings::default()
    });
    let owner = owner_of(partition_of(TOPIC, settings.partitions), CORES);
    let home = 1 - owner;
    let mut shards: Vec<Shard> = (0..CORES)
        .map(|core| {
            let seed = Seed {
                hash: core.into(),
                ids: 5 + u64::from(core),
                epoch: EPOCH,
            };
            let mut shard = Shard::new(core, CORES, Limits::default(), seed);
            shard.set_log(Some(settings.clone()));
            shard.handle_empty_log(EPOCH);
            shard.set_unix_ms(1_700_000_000_000);
            shard.handle_time(1);
            shard
        })
        .collect();
    let peer = |core| PeerId {
        slot: 1,
        generation: 0,
        core,
    };
    for nth in 0..3 {
        let wish = LoggedWish {
            qos: Qos::AtLeastOnce,
            group: None,
            durable: None,
            from: From::Default,
            retain: false,
            skip_damaged: false,
            in_flight: 0,
            principal: "",
        };
        let pattern = ["orders.*", "orders.>", "other.*"][nth];
        let sub = Id([nth as u8 + 1; 16]);
        shards[usize::from(home)]
            .subscribe_logged(peer(home), sub, pattern, wish)
            .expect("room");
    }
    carry(&mut shards, true);
    let mut published = 0;
    let mut publish = |shards: &mut [Shard], tells| {
        published += 1;
        let meta = MetaWriter::new().uint("qos", 1).finish().expect("meta");
        let mut event = Vec::new();
        Envelope {
            kind: Kind::Event,
            id: Id([100 + published; 16]),
            reference: None,
            target: Some(TOPIC),
            meta: Some(fluxar_protocol::meta::Meta::from_checked(&meta)),
            payload: &[0x01],
            error: None,
        }
        .encode(Form::Compact, &mut event);
        let how = LoggedPublish {
            once: false,
            retain: false,
            expires: false,
            acked: true,
        };
        let shard = &mut shards[usize::from(owner)];
        shard.publish_logged(peer(owner), TOPIC, &event, how);
        shard.flush_run();
        carry(shards, tells)
    };
    assert_eq!(publish(&mut shards, true), [1, 1]);
    assert_eq!(publish(&mut shards, false), [], "nobody heard of it");
    assert_eq!(publish(&mut shards, false), []);
    let after: Vec<u64> = publish(&mut shards, true);
    assert_eq!(after.len(), 6, "each of the two, once: {after:?}");
    assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), [2, 3, 4].into());
    assert_eq!(shards[usize::from(home)].counts().log_gaps, 1);
    assert_eq!(publish(&mut shards, true), [5, 5], "they are live again");
    assert_eq!(shards[usize::from(home)].counts().log_gaps, 1);
}
