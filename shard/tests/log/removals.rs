//! Files of segments that retention has let go of, and that the disk does not remove.

use fluxar_shard::log::Settings;

use crate::world::{World, fill, settings};

fn segments(world: &World) -> usize {
    let names = world.disk.lengths().into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".log")).count()
}

#[test]
fn a_file_that_could_not_be_removed_is_tried_again() {
    let settings = Settings {
        retain_events: 10,
        ..settings()
    };
    let mut world = World::new(3, settings);
    world.disk.keeps_files = true;
    for round in 0..3 {
        fill(&mut world, 1, 60);
        for _ in 0..30 {
            world.pass(1_100_000);
            world.settle();
        }
        assert_eq!(world.log.counts().segments_removed, 0, "round {round}");
    }
    let left_over = segments(&world) - world.log.counts().segments;
    assert!(left_over > 5, "{left_over}");
    world.disk.keeps_files = false;
    // Longer than from one look to the next.
    for _ in 0..12 {
        world.pass(1_100_000);
        world.settle();
    }
    let counts = world.log.counts();
    assert!(counts.segments_removed > 5, "{counts:?}");
    // One is made ahead of need.
    assert!(segments(&world) <= counts.segments + 1, "{counts:?}");
    world.stop();
    world.start();
    world.check_recovered(false);
}
