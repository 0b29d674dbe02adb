//! What happens to the services, drawn from a seed.

use std::time::{Duration, Instant};

use fluxar::Client;
use serde_json::{Value, json};

use crate::SERVICES;
use crate::book::{Book, Random, What, now_us};
use crate::processes::{Fleet, states};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Services that something is happening to at most: the others carry the load.
const AT_A_TIME_MAX: usize = 3;
/// Before the first misfortune: so long everything is calm, for comparison.
const CALM: Duration = Duration::from_secs(4);
/// Behind the last one: so long it is looked whether everything is as before.
const AFTER: Duration = Duration::from_secs(5);

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Up,
    /// To be started at this time.
    Dead {
        until: Instant,
    },
    /// To be continued at this time.
    Stopped {
        until: Instant,
    },
    /// Drained by the administrator until this time, then fit again.
    Drained {
        until: Instant,
    },
    /// Drained by the administrator, to be ended at this time, and started again.
    Ending {
        at: Instant,
    },
    /// It has been told to end, and finishes what it has.
    Leaving {
        since: Instant,
    },
    /// Started: it is looked for in the list of services.
    Starting,
}

/// Misfortunes until this time.
pub(crate) async fn go_on(
    until: Instant,
    seed: u64,
    fleet: &mut Fleet,
    administrator: &Client,
    book: &Book,
) -> Outcome<()> {
    let mut random = Random(seed);
    let mut lives = [Life::Up; SERVICES];
    tokio::time::sleep(CALM).await;
    let mut next = Instant::now();
    while Instant::now() < until {
        for (index, life) in lives.iter_mut().enumerate() {
            *life = step(*life, index, fleet, administrator, book).await?;
        }
        if lives.contains(&Life::Starting) {
            let states = states(administrator).await?;
            for (index, life) in lives.iter_mut().enumerate() {
                if *life == Life::Starting
                    && states
                        .iter()
                        .any(|(name, state)| *name == fleet.name(index) && state == "fit")
                {
                    *life = Life::Up;
                }
            }
        }
        let up: Vec<usize> = (0..SERVICES).filter(|index| lives[*index] == Life::Up).collect();
        if Instant::now() >= next && Instant::now() + AFTER < until && SERVICES - up.len() < AT_A_TIME_MAX {
            let index = up[random.below(up.len() as u64) as usize];
            lives[index] = strike(index, &mut random, fleet, administrator, book).await?;
            // One in two is left alone for so long that its end can be seen.
            let pause_ms = if random.below(2) == 0 {
                300 + random.below(1_500)
            } else {
                3_200 + random.below(1_000)
            };
            next = Instant::now() + Duration::from_millis(pause_ms);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever is stopped goes on, so that what it has can end.
    for (index, life) in lives.iter().enumerate() {
        if matches!(life, Life::Stopped { .. }) {
            fleet.signal(index, "CONT")?;
            book.resumes(index);
        }
    }
    Ok(())
}

async fn strike(
    index: usize,
    random: &mut Random,
    fleet: &mut Fleet,
    administrator: &Client,
    book: &Book,
) -> Outcome<Life> {
    let now = Instant::now();
    let ms = |ms: u64| now + Duration::from_millis(ms);
    let incarnation = fleet.incarnation(index);
    Ok(match random.below(10) {
        0..3 => {
            // Of kills one in three comes back at once.
            let away_ms = if random.below(3) == 0 {
                0
            } else {
                200 + random.below(3_000)
            };
            book.befalls(What::Killed, index, incarnation);
            fleet.signal(index, "KILL")?;
            Life::Dead { until: ms(away_ms) }
        }
        3..6 => {
            book.befalls(What::Stopped, index, incarnation);
            fleet.signal(index, "STOP")?;
            Life::Stopped {
                until: ms(100 + random.below(4_000)),
            }
        }
        6..8 if fleet.dials(index) => {
            book.befalls(What::Left, index, incarnation);
            fleet.signal(index, "TERM")?;
            Life::Leaving { since: now }
        }
        6..8 => {
            book.befalls(What::Drained, index, incarnation);
            drain(administrator, &fleet.name(index), true).await?;
            Life::Ending { at: ms(1_500) }
        }
        _ => {
            book.befalls(What::Drained, index, incarnation);
            drain(administrator, &fleet.name(index), true).await?;
            Life::Drained {
                until: ms(500 + random.below(1_500)),
            }
        }
    })
}

async fn step(
    life: Life,
    index: usize,
    fleet: &mut Fleet,
    administrator: &Client,
    book: &Book,
) -> Outcome<Life> {
    let now = Instant::now();
    Ok(match life {
        Life::Dead { until } if now >= until && fleet.has_ended(index)? => {
            fleet.spawn(index)?;
            Life::Starting
        }
        Life::Stopped { until } if now >= until => {
            fleet.signal(index, "CONT")?;
            book.resumes(index);
            Life::Starting
        }
        Life::Drained { until } if now >= until => {
            book.returns(index);
            drain(administrator, &fleet.name(index), false).await?;
            Life::Starting
        }
        Life::Ending { at } if now >= at => {
            if is_busy(administrator, &fleet.name(index)).await? {
                return Ok(life);
            }
            fleet.signal(index, "TERM")?;
            Life::Leaving { since: now }
        }
        Life::Leaving { since } => {
            if fleet.has_ended(index)? {
                book.returns(index);
                if !fleet.dials(index) {
                    drain(administrator, &fleet.name(index), false).await?;
                }
                fleet.spawn(index)?;
                return Ok(Life::Starting);
            }
            if now > since + Duration::from_secs(20) {
                return Err(format!("service {index} does not leave").into());
            }
            life
        }
        other => other,
    })
}

/// `$services.drain`; its answer means that it has happened.
async fn drain(administrator: &Client, name: &str, on: bool) -> Outcome<()> {
    let answer: Value = administrator
        .call("$services.drain", &json!({ "peer": name, "on": on }))
        .await?;
    match answer["matched"].as_u64() {
        Some(matched) if matched > 0 => Ok(()),
        _ => Err(format!(
            "at {}: $services.drain {name} {on} matched nobody: {answer}",
            now_us()
        )
        .into()),
    }
}

/// Whether something is open at it.
async fn is_busy(administrator: &Client, name: &str) -> Outcome<bool> {
    let list: Value = administrator.call("$services.list", &()).await?;
    let rows = list["services"].as_array().ok_or("the list has no services")?;
    Ok(rows
        .iter()
        .any(|row| row["name"] == name && row["in_flight"].as_u64() > Some(0)))
}
