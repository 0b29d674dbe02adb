//! A gateway is killed again and again while publishers publish at full speed at `synced`, and the end of its log is cut or
//! spoilt as a power cut may leave it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

use crate::Args;
use crate::cast::{Cast, wait_until};
use crate::power;
use crate::report::{conclude, line, spread};
use crate::stage::{Gateway, Pace, Setup, Stage};

/// As fast as it goes: there is to be something unsynced at every moment.
const PACE: Pace = Pace {
    window: 512,
    pause: Duration::ZERO,
};

/// What is counted on the way.
#[derive(Default)]
struct Tally {
    kills: u32,
    cuts: u32,
    spoilt: u32,
    cut_bytes: u64,
    ready_ms: Vec<u64>,
    /// From the start of a gateway behind a kill to the first acknowledgement.
    acking_ms: Vec<u64>,
}

/// Lives through it; whether all promises held.
pub(crate) fn live(args: &Args, setup: &Setup) -> io::Result<bool> {
    println!(
        "crash: {} kills, {} publishers at qos 2 and synced, {} cores, seed {}",
        args.kills, args.publishers, args.cores, args.seed
    );
    let stage = Arc::new(Stage::new(PACE));
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut gateway = Gateway::start(setup)?;
    let mut started = Instant::now();
    stage.set_address(Some(gateway.address.clone()));
    let cast = Cast::start(&stage, args.publishers);
    let mut random = Random::new(args.seed);
    while tally.kills < args.kills {
        let acked = stage.acked.load(Ordering::Relaxed);
        if !wait_until(Duration::from_secs(20), || {
            stage.acked.load(Ordering::Relaxed) > acked
        }) {
            let fault = "nothing was acknowledged for 20 s".into();
            stage.book.open().fault(fault);
            break;
        }
        if tally.kills > 0 {
            tally
                .acking_ms
                .push(started.elapsed().as_millis() as u64 + gateway.ready_ms);
        }
        // When it is killed is what is random here: soon after its start, or in full flight.
        thread::sleep(Duration::from_millis(random.below(400)));
        stage.set_address(None);
        gateway.kill()?;
        tally.kills += 1;
        stage.wait_for_silence();
        if random.chance(0.5) {
            let cut = power::cut(
                &setup.folder.join("log"),
                &stage.book.open().told_until,
                &mut random,
            )?;
            tally.cuts += u32::from(cut.bytes > 0);
            tally.spoilt += u32::from(cut.is_spoilt);
            tally.cut_bytes += cut.bytes;
        }
        gateway = Gateway::start(setup)?;
        started = Instant::now();
        tally.ready_ms.push(gateway.ready_ms);
        stage.set_address(Some(gateway.address.clone()));
        if tally.kills.is_multiple_of(10) {
            println!(
                "  {} kills, {} acknowledged, {:.0} s",
                tally.kills,
                stage.acked.load(Ordering::Relaxed),
                begun.elapsed().as_secs_f64()
            );
        }
        if stage.book.open().fault_count > 0 {
            break;
        }
    }
    cast.finish(&stage);
    gateway.stop()?;

    println!();
    line("kills", tally.kills);
    line("ends of the log cut", tally.cuts);
    line("of these, with rubbish behind", tally.spoilt);
    line("bytes cut", tally.cut_bytes);
    line("ms to ready, p50 / p99 / most", spread(&mut tally.ready_ms));
    line("ms to the first acknowledgement", spread(&mut tally.acking_ms));
    Ok(conclude(&stage, begun.elapsed()))
}
