//! Each promise of a stream once in plain sight.

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::stream::{Note, Part};
use fluxar_protocol::{Code, envelope};
use fluxar_shard::Standing;

use super::{Pair, WINDOW, chunk, end, fail, grant, heard, open_with, opened, said, serve, world};
use crate::promises::assert_nothing_is_left;
use crate::world::{Heard, id};

fn code(heard: &Heard) -> Option<Code> {
    match heard {
        Heard::Note(Note::Fail(failure)) => Some(failure.code),
        _ => None,
    }
}

#[test]
fn chunks_pass_both_ways_and_each_side_ends_by_itself() {
    for core in 0..2 {
        for opener_first in [true, false] {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let server = serve(&mut world, core, 1, u32::MAX, 200);
            let of_server = opened(
                &mut world,
                opener,
                server,
                1,
                MetaWriter::new().uint("credit", 100),
            );
            let first = heard(&mut world, opener);
            assert_eq!(first, [(id(1), Heard::Note(Note::Grant { bytes: 200 }))]);
            let up = chunk(id(1), 0, 64, false);
            said(&mut world, opener, up.clone());
            let down = chunk(of_server, 0, 32, false);
            said(&mut world, server, down.clone());
            let Heard::Part(part, _) = &heard(&mut world, server)[0].1 else {
                panic!("a chunk");
            };
            assert_eq!(*part, up.0);
            let (reference, Heard::Part(part, bytes)) = heard(&mut world, opener).remove(0) else {
                panic!("a chunk");
            };
            assert_eq!((reference, part), (id(1), down.0));
            assert_eq!(bytes.len(), down.1.len());
            let ends = [(opener, end(id(1))), (server, end(of_server))];
            for at in if opener_first { [0, 1] } else { [1, 0] } {
                said(&mut world, ends[at].0, ends[at].1.clone());
            }
            assert!(matches!(
                heard(&mut world, opener)[..],
                [(_, Heard::Part(Part::End, _))]
            ));
            assert!(matches!(
                heard(&mut world, server)[..],
                [(_, Heard::Part(Part::End, _))]
            ));
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn an_open_carries_the_credit_and_never_more_than_the_window() {
    for (meta, told) in [
        (MetaWriter::new(), 300),
        (MetaWriter::new().uint("credit", 70), 70),
        (MetaWriter::new().uint("credit", 0), 0),
        (MetaWriter::new().uint("credit", u64::MAX), 1_000),
    ] {
        let mut world = world(1, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, 0, 1, u32::MAX, u32::MAX);
        open_with(
            &mut world,
            opener,
            1,
            meta.text("trace", "00-ab").flag("end", true),
        )
        .unwrap();
        let Heard::Open(bytes) = &heard(&mut world, server)[0].1 else {
            panic!("an open");
        };
        let meta = envelope::decode(bytes).unwrap().envelope.meta.unwrap();
        assert_eq!(meta.uint("credit"), Ok(Some(told)));
        assert_eq!(
            (meta.text("trace"), meta.flag("end")),
            (Ok(Some("00-ab")), Ok(true))
        );
        assert_eq!(
            heard(&mut world, opener),
            [],
            "it sends nothing, and needs no credit"
        );
    }
}

#[test]
fn beyond_credit_and_behind_the_end_fail_that_stream_alone() {
    for core in 0..2 {
        let mut world = world(2, 1);
        let opener = world.connect(0, 0, 0);
        let server = serve(&mut world, core, 1, u32::MAX, 100);
        let ids = [1, 2, 3].map(|nth| opened(&mut world, opener, server, nth, MetaWriter::new()));
        heard(&mut world, opener);
        said(&mut world, opener, chunk(id(1), 0, 101, false));
        said(&mut world, server, end(ids[1]));
        heard(&mut world, opener);
        said(&mut world, server, chunk(ids[1], 0, 10, false));
        let told = heard(&mut world, opener);
        assert_eq!((told[0].0, code(&told[0].1)), (id(2), Some(Code::Aborted)));
        let told = heard(&mut world, server);
        assert_eq!((told[0].0, code(&told[0].1)), (ids[0], Some(Code::Aborted)));
        assert_eq!(
            (told[1].0, code(&told[1].1)),
            (ids[1], Some(Code::FailedPrecondition))
        );
        said(&mut world, opener, chunk(id(3), 0, 10, false));
        assert!(
            matches!(heard(&mut world, server)[..], [(_, Heard::Part(..))]),
            "the third lives"
        );
        assert_eq!(world.shards[0].counts().open_streams, 1);
    }
}

#[test]
fn who_does_not_end_what_was_cancelled_is_ended() {
    for core in 0..2 {
        for by_opener in [true, false] {
            for ends in [true, false] {
                let pair = Pair::new(core, 100, MetaWriter::new());
                let [(canceller, theirs), (other, its)] = pair.sides(by_opener);
                let mut world = pair.world;
                world.cancel_any(canceller, theirs);
                world.settle();
                world.cancel_any(canceller, theirs);
                world.settle();
                assert_eq!(heard(&mut world, other), [(its, Heard::Note(Note::Cancel))]);
                if ends {
                    said(&mut world, other, end(its));
                    assert!(matches!(
                        heard(&mut world, canceller)[..],
                        [(_, Heard::Part(Part::End, _))]
                    ));
                } else {
                    world.pass(4_900_000);
                    assert_eq!(world.shards[0].counts().open_streams, 1);
                    world.pass(200_000);
                    world.settle();
                    let told = heard(&mut world, canceller);
                    assert_eq!(code(&told[0].1), Some(Code::Cancelled));
                    let told = heard(&mut world, other);
                    assert_eq!(code(&told[0].1), Some(Code::Cancelled));
                }
                assert_nothing_is_left(&world);
            }
        }
    }
}

#[test]
fn a_lost_side_and_a_time_that_is_over_end_it() {
    for core in 0..2 {
        for way in 0..3 {
            let timeout = MetaWriter::new().uint("timeout_ms", 1_000);
            let Pair {
                mut world,
                opener,
                server,
                ..
            } = Pair::new(core, 100, timeout);
            match way {
                0 => world.lose(opener),
                1 => world.lose(server),
                _ => {
                    world.pass(990_000);
                    assert_eq!(world.shards[0].counts().open_streams, 1);
                    world.pass(20_000);
                }
            }
            world.settle();
            if way != 0 {
                let told = heard(&mut world, opener);
                let expected = [Code::Unknown, Code::Unavailable, Code::DeadlineExceeded][way];
                assert_eq!(code(&told[0].1), Some(expected));
            }
            if way == 0 {
                assert_eq!(heard(&mut world, server)[0].1, Heard::Note(Note::Cancel));
            } else if way == 2 {
                assert_eq!(
                    code(&heard(&mut world, server)[0].1),
                    Some(Code::DeadlineExceeded)
                );
            }
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn an_error_of_one_side_reaches_the_other_and_ends_both() {
    for by_opener in [true, false] {
        let pair = Pair::new(1, 100, MetaWriter::new());
        let [(from, its), (other, _)] = pair.sides(by_opener);
        let mut world = pair.world;
        said(&mut world, from, fail(its));
        assert!(matches!(
            heard(&mut world, other)[..],
            [(_, Heard::Part(Part::Fail, _))]
        ));
        assert_nothing_is_left(&world);
    }
}

#[test]
fn an_open_that_waits_remembers_what_was_said_meanwhile() {
    // In the queue of its core, at the gate of another.
    for core in 0..2 {
        for way in 0..4 {
            let mut world = world(2, 1);
            let opener = world.connect(0, 0, 0);
            let other = world.connect(1, 7, 0);
            let server = serve(&mut world, core, 1, 1, 100);
            let running = opened(&mut world, other, server, 1, MetaWriter::new());
            open_with(&mut world, opener, 1, MetaWriter::new().uint("credit", 10)).unwrap();
            world.settle();
            assert_eq!(heard(&mut world, server), []);
            assert_eq!(
                heard(&mut world, opener),
                [],
                "no credit before there is a server"
            );
            said(&mut world, opener, grant(id(1), 5));
            said(&mut world, opener, grant(id(1), 6));
            match way {
                0 => {}
                1 => {
                    said(&mut world, opener, end(id(1)));
                }
                2 => {
                    world.cancel_any(opener, id(1));
                    world.settle();
                    assert_eq!(code(&heard(&mut world, opener)[0].1), Some(Code::Cancelled));
                }
                _ => {
                    said(&mut world, opener, chunk(id(1), 0, 10, false));
                    assert_eq!(
                        code(&heard(&mut world, opener)[0].1),
                        Some(Code::FailedPrecondition)
                    );
                }
            }
            said(&mut world, server, fail(running));
            let told = heard(&mut world, server);
            if way >= 2 {
                assert!(told.is_empty(), "it never hears of it: {told:?}");
            } else {
                assert!(matches!(told[0].1, Heard::Open(_)));
                assert_eq!(told[1].1, Heard::Note(Note::Grant { bytes: 11 }));
                assert_eq!(told.len(), 2 + way);
                let granted = Heard::Note(Note::Grant { bytes: 100 });
                let credit = heard(&mut world, opener);
                assert_eq!(credit.iter().any(|(_, heard)| *heard == granted), way == 0);
                world.lose(opener);
                world.settle();
            }
            assert_nothing_is_left(&world);
        }
    }
}

#[test]
fn who_does_not_read_gets_no_more_than_the_window() {
    for core in 0..2 {
        for opener_stops in [true, false] {
            let credit = MetaWriter::new().uint("credit", u32::MAX.into());
            let pair = Pair::new(core, u32::MAX, credit);
            let [(reader, _), (writer, its)] = pair.sides(opener_stops);
            let mut world = pair.world;
            let standing = |crowded| Standing {
                crowded,
                ..Standing::default()
            };
            world.shard(reader).set_standing(reader, standing(true));
            world.settle();
            for nth in 0..10 {
                said(&mut world, writer, chunk(its, nth, 100, false));
            }
            assert_eq!(heard(&mut world, writer), [], "no more credit");
            assert_eq!(heard(&mut world, reader).len(), 10);
            world.shard(reader).set_standing(reader, standing(false));
            world.settle();
            let told = heard(&mut world, writer);
            assert_eq!(told, [(its, Heard::Note(Note::Grant { bytes: WINDOW.into() }))]);
        }
    }
}

#[test]
fn a_server_on_another_connection_announces_its_credit_to_all_cores() {
    for core in 0..2 {
        let mut world = world(2, 1);
        let opener = world.connect(core, 0, 0);
        let server = serve(&mut world, 0, 1, 9, 100);
        world.shard(server).set_credit(server, 40);
        world.drain(0);
        world.settle();
        opened(
            &mut world,
            opener,
            server,
            1,
            MetaWriter::new().uint("credit", 10),
        );
        let granted = Heard::Note(Note::Grant { bytes: 40 });
        let credit = heard(&mut world, opener);
        assert!(credit.iter().any(|(_, heard)| *heard == granted), "{credit:?}");
    }
}
