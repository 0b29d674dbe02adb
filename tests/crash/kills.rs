//! A gateway is killed again and again while publishers publish at full speed at `synced`, and one topic in four at `written`:
//! at any moment, while it starts and reads its log as well. Behind each kill the kernel is asked whether what was told was
//! synced; and the end of the log is cut or spoilt as a power cut may leave it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

use crate::Args;
use crate::cast::{Cast, PATIENCE, wait_until};
use crate::power;
use crate::report::{conclude, line, spread};
use crate::stage::{Gateway, Pace, Setup, Stage};
use crate::subscriber::How;
use crate::syncs::Syncs;

/// As fast as it goes: there is to be something unsynced at every moment.
const PACE: Pace = Pace {
    window: 512,
    pause: Duration::ZERO,
};

/// Lives that end wherever they are within this time, from before the gateway listens to full flight.
const EARLY: f64 = 1.0 / 3.0;
const EARLY_MS: u64 = 700;
/// Lives in which something is acknowledged and then stays so for long enough to be safe whatever happens.
const LONG: f64 = 0.1;
const LONG_MS: u64 = 3_200;

/// Acknowledged events behind which everything that came before them has found its place in the log of every core.
const SETTLED_EVENTS: u64 = 4_000;

/// What is counted on the way.
#[derive(Default)]
struct Tally {
    kills: u32,
    /// Before anything was waited for.
    early: u32,
    /// Of these, before it was ready.
    unready: u32,
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
        "crash: {} kills, {} publishers at qos 2, {} cores, seed {}",
        args.kills, args.publishers, args.cores, args.seed
    );
    let stage = Arc::new(Stage::new(PACE));
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut syncs = Syncs::new(&setup.folder)?;
    let mut hearers = Cast::HEARERS.to_vec();
    hearers.push(("forgetful", How::Forgetful));
    let cast = Cast::start(&stage, args.publishers, &hearers);
    let mut random = Random::new(args.seed);
    let log = setup.folder.join("log");
    while tally.kills < args.kills && stage.book.open().fault_count == 0 {
        let mut gateway = Gateway::spawn(setup)?;
        if tally.kills > 0 && random.chance(EARLY) {
            live_shortly(&stage, &mut gateway, random.below(EARLY_MS), &mut tally)?;
        } else if !live_on(&stage, &mut gateway, &mut random, &mut tally)? {
            break;
        }
        stage.set_address(None);
        gateway.kill()?;
        tally.kills += 1;
        stage.wait_for_silence();
        let told_until = stage.book.open().told_until.clone();
        for fault in syncs.look(&log, &told_until)? {
            stage.book.open().fault(fault);
        }
        if random.chance(0.5) {
            let cut = power::cut(&log, &told_until, &mut random)?;
            tally.cuts += u32::from(cut.bytes > 0);
            tally.spoilt += u32::from(cut.is_spoilt);
            tally.cut_bytes += cut.bytes;
        }
        if tally.kills.is_multiple_of(10) {
            println!(
                "  {} kills, {} acknowledged, {:.0} s",
                tally.kills,
                stage.acked.load(Ordering::Relaxed),
                begun.elapsed().as_secs_f64()
            );
        }
    }
    let gateway = Gateway::start(setup)?;
    stage.set_address(Some(gateway.address.clone()));
    cast.finish(&stage);
    gateway.stop()?;

    println!();
    line("kills", tally.kills);
    line(
        "of these, within 0.7 s of a start; not ready",
        format!("{}, {}", tally.early, tally.unready),
    );
    line("segments looked at for syncs, bytes told", syncs.told());
    line("ends of the log cut", tally.cuts);
    line("of these, with rubbish behind", tally.spoilt);
    line("bytes cut", tally.cut_bytes);
    line("ms to ready, p50 / p99 / most", spread(&mut tally.ready_ms));
    line("ms to the first acknowledgement", spread(&mut tally.acking_ms));
    Ok(conclude(&stage, begun.elapsed()))
}

/// A life that ends at some moment, whether anybody has noticed it or not.
fn live_shortly(stage: &Stage, gateway: &mut Gateway, ms: u64, tally: &mut Tally) -> io::Result<()> {
    let end = Instant::now() + Duration::from_millis(ms);
    tally.early += 1;
    if gateway.is_ready_by(end)? {
        tally.ready_ms.push(gateway.ready_ms);
        stage.set_address(Some(gateway.address.clone()));
        thread::sleep(end.saturating_duration_since(Instant::now()));
    } else {
        tally.unready += 1;
    }
    Ok(())
}

/// A life in which events are acknowledged. False: there were none.
fn live_on(stage: &Stage, gateway: &mut Gateway, random: &mut Random, tally: &mut Tally) -> io::Result<bool> {
    let is_first = tally.kills == 0;
    let started = Instant::now();
    let acked = stage.acked.load(Ordering::Relaxed);
    let is_acking = |beyond: u64| wait_until(PATIENCE, || stage.acked.load(Ordering::Relaxed) > beyond);
    let mut has_lived = gateway.is_ready_by(started + PATIENCE)?;
    if has_lived {
        stage.set_address(Some(gateway.address.clone()));
        has_lived = is_acking(acked);
    }
    if is_first {
        // From here on the beginning of each subscription lies in front of what was told: no cut takes it away.
        has_lived = has_lived && wait_until(PATIENCE, || stage.book.open().has_everybody_handled());
        has_lived = has_lived && is_acking(stage.acked.load(Ordering::Relaxed) + SETTLED_EVENTS);
    } else {
        tally.ready_ms.push(gateway.ready_ms);
        tally.acking_ms.push(started.elapsed().as_millis() as u64);
    }
    if !has_lived {
        let fault = format!("nothing was acknowledged or handled for {} s", PATIENCE.as_secs());
        stage.book.open().fault(fault);
        return Ok(false);
    }
    // When it is killed is what is random here: soon after its first word, or in full flight.
    let long_ms = if random.chance(LONG) { LONG_MS } else { 0 };
    thread::sleep(Duration::from_millis(long_ms + random.below(400)));
    Ok(true)
}
