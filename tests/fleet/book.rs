//! What was asked and how it ended, what happened to the services, and what they wrote down: whether the promises held.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fluxar::Code;

const MS: u64 = 1_000;
const S: u64 = 1_000_000;

/// How late the gateway may notice that a peer is gone or silent (it pings after 500 ms and waits 500 ms), on a machine
/// that does other things as well, µs.
const NOTICE_US: u64 = 1_500 * MS;
/// How late anything may be written down or told, µs.
const LATE_US: u64 = 300 * MS;
/// From then on no misfortune may be felt, µs.
const RECOVERY_US: u64 = 2 * S;
/// Before the first misfortune, µs.
const CALM_US: u64 = 4 * S;

/// SplitMix64: the same misfortunes from the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The clock that all processes share, µs.
pub(crate) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Call { idempotent: bool, timeout_ms: u64 },
    Stream,
}

/// What happens to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// SIGKILL.
    Killed,
    /// SIGSTOP, and SIGCONT later.
    Stopped,
    /// It is told to end, and leaves in good order.
    Left,
    /// `$services.drain`.
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Answered,
    WrongAnswer,
    Failed(Code),
}

#[derive(Debug)]
struct Asked {
    kind: Kind,
    sent_us: u64,
    ended: Option<(u64, Ending)>,
}

impl Asked {
    fn took_us(&self) -> u64 {
        self.ended
            .map_or(u64::MAX, |(ended_us, _)| ended_us.saturating_sub(self.sent_us))
    }

    fn is_answered(&self) -> bool {
        matches!(self.ended, Some((_, Ending::Answered)))
    }
}

/// One misfortune. Its end is when the service is as before, or, of a killed one, at once.
#[derive(Debug, Clone, Copy)]
struct Event {
    what: What,
    index: usize,
    incarnation: u32,
    from_us: u64,
    until_us: u64,
}

/// What a service wrote down: where, and when.
#[derive(Debug, Clone, Copy)]
struct Served {
    index: usize,
    incarnation: u32,
    at_us: u64,
}

#[derive(Default)]
struct Pages {
    asked: Vec<Asked>,
    events: Vec<Event>,
    /// When the machine held this process up, and for how long, µs.
    held_up: Vec<(u64, u64)>,
}

/// The book.
pub(crate) struct Book {
    begun_us: u64,
    pages: Mutex<Pages>,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self {
            begun_us: now_us(),
            pages: Mutex::default(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is asked; its number.
    pub(crate) fn asks(&self, kind: Kind) -> u64 {
        let mut pages = self.pages();
        pages.asked.push(Asked {
            kind,
            sent_us: now_us(),
            ended: None,
        });
        pages.asked.len() as u64 - 1
    }

    /// It has ended: by the right answer, a wrong one, or an error.
    pub(crate) fn ends(&self, number: u64, outcome: fluxar::Result<bool>) {
        let ending = match outcome {
            Ok(true) => Ending::Answered,
            Ok(false) => Ending::WrongAnswer,
            Err(error) => Ending::Failed(error.code()),
        };
        let asked = &mut self.pages().asked[number as usize];
        assert_eq!(asked.ended, None, "{number} ends twice");
        asked.ended = Some((now_us(), ending));
    }

    /// This process was held up for so long.
    pub(crate) fn is_held_up(&self, late: Duration) {
        let late_us = late.as_micros() as u64;
        if late_us > 5 * MS {
            self.pages().held_up.push((now_us(), late_us));
        }
    }

    pub(crate) fn open(&self) -> usize {
        self.pages()
            .asked
            .iter()
            .filter(|asked| asked.ended.is_none())
            .count()
    }

    pub(crate) fn befalls(&self, what: What, index: usize, incarnation: u32) {
        let from_us = now_us();
        let until_us = if what == What::Killed { from_us } else { u64::MAX };
        self.pages().events.push(Event {
            what,
            index,
            incarnation,
            from_us,
            until_us,
        });
    }

    /// A stopped one goes on, a drained one is taken back, one that left is away.
    pub(crate) fn returns(&self, index: usize) {
        let mut pages = self.pages();
        if let Some(event) = pages.events.iter_mut().rev().find(|event| event.index == index) {
            event.until_us = now_us();
        }
    }

    pub(crate) fn resumes(&self, index: usize) {
        self.returns(index);
    }

    /// Everything is over: prints what was, and says whether the promises held.
    pub(crate) fn judge(&self, served: &[String], resident_kib: u64) -> bool {
        let pages = self.pages();
        let served = read(served);
        let mut faults = Vec::new();
        let mut judge = |number: usize, what: &str| {
            let asked = &pages.asked[number];
            let none = Vec::new();
            let by = served.get(&(number as u64)).unwrap_or(&none);
            faults.push(format!("{number} {what}: {asked:?}, written down by {by:?}"));
        };
        let mut endings: BTreeMap<String, [u64; 2]> = BTreeMap::new();
        let (mut once_twice, mut repeated, mut in_flight) = (0, 0, 0);
        for (number, asked) in pages.asked.iter().enumerate() {
            let by = served.get(&(number as u64)).map_or(&[][..], Vec::as_slice);
            let is_stream = asked.kind == Kind::Stream;
            let name = match asked.ended {
                None => "never ended".to_owned(),
                Some((_, Ending::Failed(code))) => code.to_string(),
                Some((_, ending)) => format!("{ending:?}").to_lowercase(),
            };
            endings.entry(name).or_default()[usize::from(is_stream)] += 1;
            let most = if matches!(asked.kind, Kind::Call { idempotent: true, .. }) {
                2
            } else {
                1
            };
            if by.len() > most {
                once_twice += usize::from(most == 1);
                judge(number, "was served too often");
            }
            repeated += usize::from(by.len() == 2 && most == 2);
            for served in by {
                if let Some(why) = pages.is_unwelcome(asked, served) {
                    judge(number, &why);
                }
            }
            match asked.ended {
                None => judge(number, "never ended"),
                Some((_, Ending::Answered)) if by.is_empty() => judge(number, "was answered by nobody"),
                Some((_, Ending::Answered)) => {}
                Some((_, Ending::WrongAnswer)) => judge(number, "was answered wrongly"),
                Some((ended_us, Ending::Failed(Code::Unavailable))) => {
                    in_flight += 1;
                    if !pages.was_lost(asked, by, ended_us) {
                        judge(number, "failed `unavailable`, and nobody who had it was killed");
                    }
                }
                Some((ended_us, Ending::Failed(Code::DeadlineExceeded))) => {
                    let timeout_us = match asked.kind {
                        Kind::Call { timeout_ms, .. } => timeout_ms * MS,
                        Kind::Stream => 0,
                    };
                    if asked.took_us() + MS < timeout_us || asked.took_us() > timeout_us + S {
                        judge(number, "was overdue at the wrong time");
                    }
                    if !pages.was_held_up(asked, by, ended_us) {
                        judge(number, "was overdue, and nobody who had it was stopped");
                    }
                }
                Some((_, Ending::Failed(_))) => judge(number, "failed for no reason of this life"),
            }
        }
        let calm_us = pages.calm_p99_us(self.begun_us);
        let bound_us = (5 * calm_us).max(150 * MS);
        pages.print_misfortunes(self.begun_us, bound_us, &served, &mut faults);

        println!("\n{:<22}{:>10}{:>10}", "ended by", "calls", "streams");
        for (name, [calls, streams]) in &endings {
            println!("{name:<22}{calls:>10}{streams:>10}");
        }
        println!(
            "{} services written down; not idempotent and served twice: {once_twice}; idempotent and served twice: {repeated}",
            served.values().map(Vec::len).sum::<usize>()
        );
        println!(
            "failed because they were with one that was killed: {in_flight}; p99 before all misfortunes: {}",
            in_ms(calm_us)
        );
        println!(
            "the machine held this process up for {} at most",
            in_ms(pages.held_up_us(0, u64::MAX))
        );
        println!("the gateway's memory at its most: {} MiB", resident_kib / 1024);
        let kills = pages
            .events
            .iter()
            .filter(|event| event.what == What::Killed)
            .count();
        if kills == 0 || pages.events.len() < 4 {
            faults.push(format!(
                "only {} misfortunes, {kills} of them kills: this shows nothing",
                pages.events.len()
            ));
        }
        for fault in faults.iter().take(20) {
            println!("BROKEN: {fault}");
        }
        println!(
            "{}",
            if faults.is_empty() {
                "all promises held"
            } else {
                "promises were broken"
            }
        );
        faults.is_empty()
    }
}

impl Pages {
    /// Whether one that had it was killed, or, if nobody wrote it down, one that may have had it.
    fn was_lost(&self, asked: &Asked, by: &[Served], ended_us: u64) -> bool {
        let kills = || {
            self.events
                .iter()
                .filter(|event| event.what == What::Killed && event.from_us <= ended_us)
        };
        if by.is_empty() {
            return kills().any(|kill| kill.from_us + NOTICE_US >= asked.sent_us);
        }
        kills().any(|kill| {
            let had_it =
                |served: &Served| (served.index, served.incarnation) == (kill.index, kill.incarnation);
            by.iter().any(had_it)
        })
    }

    /// Whether one that had it was stopped while it was open; or, if nobody wrote it down, one that may have had it was
    /// stopped or killed. Of what may go out twice, the second copy may be with one that was stopped before it read it:
    /// if the first one was killed.
    fn was_held_up(&self, asked: &Asked, by: &[Served], ended_us: u64) -> bool {
        let is_meanwhile = |event: &&Event, late_us: u64| {
            event.from_us <= ended_us && event.until_us.saturating_add(late_us) >= asked.sent_us
        };
        let had_it = |event: &Event| {
            by.iter()
                .any(|served| (served.index, served.incarnation) == (event.index, event.incarnation))
        };
        let mut stops = self.events.iter().filter(|event| event.what == What::Stopped);
        let mut kills = self.events.iter().filter(|event| event.what == What::Killed);
        if by.is_empty() {
            return stops.chain(kills).any(|event| is_meanwhile(&event, NOTICE_US));
        }
        let may_be_copied = matches!(asked.kind, Kind::Call { idempotent: true, .. }) && by.len() == 1;
        let is_copied = may_be_copied && kills.any(|kill| had_it(kill) && is_meanwhile(&kill, 0));
        stops.any(|stop| (is_copied || had_it(stop)) && is_meanwhile(&stop, LATE_US))
    }

    /// Why a service should not have got this any more.
    fn is_unwelcome(&self, asked: &Asked, served: &Served) -> Option<String> {
        let events = self
            .events
            .iter()
            .filter(|event| event.index == served.index && event.incarnation == served.incarnation);
        for event in events {
            let known_us = event.from_us
                + if event.what == What::Stopped {
                    NOTICE_US
                } else {
                    LATE_US
                };
            let is_away = known_us < asked.sent_us && asked.sent_us.saturating_add(LATE_US) < event.until_us;
            if is_away && served.at_us >= asked.sent_us {
                return Some(format!("reached one that was away: {event:?}"));
            }
        }
        None
    }

    /// How much it had of calls and streams when it happened.
    fn had(&self, event: &Event, served: &HashMap<u64, Vec<Served>>) -> usize {
        let is_open = |asked: &Asked| asked.ended.is_none_or(|(ended_us, _)| ended_us > event.from_us);
        let has_it = |by: &Served| {
            (by.index, by.incarnation) == (event.index, event.incarnation) && by.at_us <= event.from_us
        };
        let open = served.iter().filter(|(number, by)| {
            by.iter().any(has_it) && self.asked.get(**number as usize).is_some_and(is_open)
        });
        open.count()
    }

    fn calm_p99_us(&self, begun_us: u64) -> u64 {
        let first_us = self
            .events
            .first()
            .map_or(begun_us + CALM_US, |event| event.from_us);
        let mut calm: Vec<u64> = self
            .calls(0, first_us.saturating_sub(500 * MS))
            .map(Asked::took_us)
            .collect();
        percentile(&mut calm, 99)
    }

    /// How long the machine held somebody up at most, around these times.
    fn held_up_us(&self, from_us: u64, until_us: u64) -> u64 {
        let around = from_us.saturating_sub(S)..until_us.saturating_add(S);
        let held_up = self.held_up.iter().filter(|(at_us, _)| around.contains(at_us));
        held_up.map(|(_, late_us)| *late_us).max().unwrap_or(0)
    }

    fn calls(&self, from_us: u64, until_us: u64) -> impl Iterator<Item = &Asked> {
        let is_one =
            move |asked: &&Asked| asked.kind != Kind::Stream && (from_us..until_us).contains(&asked.sent_us);
        self.asked.iter().filter(is_one)
    }

    /// A line for each, with the calls that were sent around it; and whether its end came in time.
    fn print_misfortunes(
        &self,
        begun_us: u64,
        bound_us: u64,
        served: &HashMap<u64, Vec<Served>>,
        faults: &mut Vec<String>,
    ) {
        println!(
            "\np50/p99 in ms (failed) of the calls that were sent in the second before each misfortune, and in those behind it;"
        );
        println!(
            "had: calls and streams that were with the service then; recovery: until the last call was sent that failed or took more than {}\n",
            in_ms(bound_us)
        );
        print!("{:>8}  {:<9}{:<4}{:>5}", "at", "what", "who", "had");
        for second in [-1, 0, 1, 2, 3] {
            print!("{:>17}", format!("{second:+} s"));
        }
        println!("{:>12}", "recovery");
        for (at, event) in self.events.iter().enumerate() {
            let what = format!("{:?}", event.what).to_lowercase();
            let next_us = self.events.get(at + 1).map_or(u64::MAX, |next| next.from_us);
            print!(
                "{:>7.1}s  {what:<9}{:<4}{:>5}",
                (event.from_us - begun_us) as f64 / S as f64,
                event.index,
                self.had(event, served)
            );
            for second in -1i64..4 {
                let from_us = event.from_us.saturating_add_signed(second * S as i64);
                // What is sent behind the next misfortune belongs to that one.
                let until_us = (from_us + S).min(next_us);
                let mut took: Vec<u64> = self.calls(from_us, until_us).map(Asked::took_us).collect();
                let failed = self
                    .calls(from_us, until_us)
                    .filter(|asked| !asked.is_answered())
                    .count();
                let cell = if took.len() < 20 {
                    "-".into()
                } else {
                    let (p50, p99) = (percentile(&mut took, 50), percentile(&mut took, 99));
                    let failed = if failed > 0 {
                        format!(" ({failed})")
                    } else {
                        String::new()
                    };
                    format!("{}/{}{failed}", p50 / MS, p99 / MS)
                };
                print!("{cell:>17}");
            }
            let is_felt = |asked: &&Asked| !asked.is_answered() || asked.took_us() > bound_us;
            // What is open when the next thing happens belongs to that one.
            let until_us = next_us.saturating_sub(bound_us).min(event.from_us + 4 * S);
            let last = self
                .calls(event.from_us, until_us)
                .filter(is_felt)
                .max_by_key(|asked| asked.sent_us);
            let recovery_us = last.map_or(0, |asked| asked.sent_us - event.from_us);
            println!("{:>12}", in_ms(recovery_us));
            // From two seconds on nothing fails, and all but one in a hundred are as fast as before.
            let behind = || self.calls(event.from_us + RECOVERY_US, until_us);
            let failed = behind().filter(|asked| !asked.is_answered()).count();
            let mut took: Vec<u64> = behind().map(Asked::took_us).collect();
            if failed > 0 {
                faults.push(format!(
                    "{failed} calls failed that were sent more than 2 s after {event:?}"
                ));
            }
            // A call goes through four processes and back.
            let bound_us = bound_us + 8 * self.held_up_us(event.from_us + RECOVERY_US, until_us);
            if took.len() >= 100 && percentile(&mut took, 99) > bound_us {
                faults.push(format!(
                    "2 s after {event:?} p99 is {}",
                    in_ms(percentile(&mut took, 99))
                ));
            }
        }
    }
}

/// What the services wrote down, by number: `C NUMBER INDEX INCARNATION µs`.
fn read(lines: &[String]) -> HashMap<u64, Vec<Served>> {
    let mut served: HashMap<u64, Vec<Served>> = HashMap::new();
    for line in lines {
        let words: Vec<u64> = line
            .split(' ')
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        // One that was killed in the middle of a line has served nothing yet.
        let [number, index, incarnation, at_us] = words[..] else {
            continue;
        };
        served.entry(number).or_default().push(Served {
            index: index as usize,
            incarnation: incarnation as u32,
            at_us,
        });
    }
    served
}

fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(at).copied().unwrap_or(0)
}

fn in_ms(us: u64) -> String {
    format!("{:.1} ms", us as f64 / MS as f64)
}
