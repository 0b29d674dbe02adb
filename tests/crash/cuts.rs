//! Connections between clients and a gateway are cut again and again, in the middle of what is being sent, while the
//! clients publish, subscribe, call and stream.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

use crate::Args;
use crate::cast::{Cast, wait_until};
use crate::proxy::{Cut, Proxy};
use crate::report::{conclude, line};
use crate::sessions::Sessions;
use crate::stage::{Gateway, Pace, Setup, Stage};

/// Something under way at every moment, and no more than can be remembered for a thousand cuts.
const PACE: Pace = Pace {
    window: 64,
    pause: Duration::from_millis(20),
};

/// Lives through it; whether all promises held.
pub(crate) fn live(args: &Args, setup: &Setup) -> io::Result<bool> {
    println!(
        "crash: {} cut connections, {} publishers at qos 2 and synced, {} cores, seed {}",
        args.cuts, args.publishers, args.cores, args.seed
    );
    let stage = Arc::new(Stage::new(PACE));
    let begun = Instant::now();
    let gateway = Gateway::start(setup)?;
    let proxy = Proxy::start(&gateway.address, args.seed)?;
    stage.set_address(Some(proxy.address.clone()));
    let cast = Cast::start(&stage, args.publishers, &Cast::HEARERS);
    let sessions = Sessions::start(&gateway.address, &proxy.address)?;
    // All of them have a connection before one is cut.
    let connections = args.publishers as usize + Cast::HEARERS.len() + Sessions::CONNECTIONS;
    if !wait_until(Duration::from_secs(20), || proxy.whole_count() >= connections) {
        let fault = format!("only {} clients connected", proxy.whole_count());
        stage.book.open().fault(fault);
    }
    let mut random = Random::new(args.seed);
    let mut made: BTreeMap<Cut, u32> = BTreeMap::new();
    let mut total = 0;
    let mut acked = (0, Instant::now());
    while total < args.cuts && stage.book.open().fault_count == 0 {
        thread::sleep(Duration::from_millis(random.below(160)));
        let cut = match random.below(10) {
            0..4 => Cut::Fin,
            4..8 => Cut::Reset,
            _ => Cut::Hole,
        };
        // Now and then all of them, as when a switch fails.
        let at_once = if random.chance(0.01) { connections } else { 1 };
        for _ in 0..at_once {
            if proxy.cut(cut, &mut random) {
                *made.entry(cut).or_default() += 1;
                total += 1;
                if total.is_multiple_of(100) {
                    println!(
                        "  {total} cuts, {} acknowledged, {} s",
                        stage.acked.load(Ordering::Relaxed),
                        begun.elapsed().as_secs()
                    );
                }
            }
        }
        let now = stage.acked.load(Ordering::Relaxed);
        if now > acked.0 {
            acked = (now, Instant::now());
        } else if acked.1.elapsed() > Duration::from_secs(20) {
            let fault = "nothing was acknowledged for 20 s".into();
            stage.book.open().fault(fault);
        }
    }
    let account = sessions.finish();
    cast.finish(&stage);
    for fault in &account.faults {
        stage.book.open().fault(fault.clone());
    }
    drop(proxy);
    gateway.stop()?;

    println!();
    for (cut, times) in &made {
        line(&format!("connections cut: {cut}"), times);
    }
    account.print();
    Ok(conclude(&stage, begun.elapsed()))
}
