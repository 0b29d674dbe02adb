//! Mail between cores: bounded mailboxes, one for each ordered pair, and the rule by which a parked core is woken.
//!
//! ```text
//!   core a: post ─▶ [ring a→b] ─▶ core b: take          core b: spin ─ park: flag up, look once more, sleep
//!   core a: wake_receivers ── flag of b up? ── take it down ── wake b through the driver
//! ```
//!
//! # No letter is slept over
//! A sender publishes the letter, then reads the receiver's flag; a receiver that is about to sleep raises its flag,
//! then looks into the mailboxes. Each puts a sequentially consistent fence between its two steps, so of the two
//! reads at least one sees the other side's write (the fences have one order; whichever comes second, its thread's
//! read sees what the other thread wrote before its own fence):
//!
//! | sender's fence | receiver's look | sender's read of the flag | outcome |
//! |---|---|---|---|
//! | first | sees the letter | anything | it does not sleep; a wake, if any, is spurious |
//! | second | may miss the letter | sees the flag up | the sender takes the flag down and wakes |
//!
//! "Sees the flag up" may fail in one way only: another sender took it down between. That sender then wakes the
//! receiver, and it does so after the flag went up for this very sleep; a wake is sticky ([`Wake`]), so the receiver
//! does not sleep past it. Taking the flag down is a swap, so one of many senders pays for the wake.
//!
//! Letters of one sender arrive in the order in which they were posted. A full mailbox gives the letter back: the
//! sender then stops reading from the connections that fill it. A mailbox whose core has ended swallows what does not fit:
//! its senders have connections to say goodbye to, and would wait for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// Gives its content cache lines of its own, two of them because processors fetch in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

/// Wakes one core from any thread. A driver supplies it.
pub trait Wake: Send {
    /// Wakes the core if it is parked; if it is not, its next park returns at once.
    fn wake(&self);
}

/// Which cores are parked, or about to.
type Parked = Arc<[CachePadded<AtomicBool>]>;

/// The mailboxes of `cores` cores, with room for `capacity` letters each, and the main thread's side of them.
#[must_use]
pub fn mesh<T>(cores: usize, capacity: usize) -> (Control<T>, Vec<Endpoint<T>>) {
    let parked: Parked = (0..cores).map(|_| CachePadded::default()).collect();
    let mut inboxes: Vec<Vec<Consumer<T>>> = (0..cores).map(|_| Vec::with_capacity(cores + 1)).collect();
    // Sender by sender, the main thread last: an inbox is indexed by its sender.
    let mut senders: Vec<Vec<Producer<T>>> = (0..=cores)
        .map(|_| {
            let open = |inbox: &mut Vec<Consumer<T>>| {
                let (producer, consumer) = RingBuffer::new(capacity);
                inbox.push(consumer);
                producer
            };
            inboxes.iter_mut().map(open).collect()
        })
        .collect();
    let control = Control {
        outboxes: senders.pop().unwrap_or_default(),
        wakers: (0..cores).map(|_| None).collect(),
        parked: Arc::clone(&parked),
    };
    let endpoints = senders
        .into_iter()
        .zip(inboxes)
        .enumerate()
        .map(|(core, (outboxes, inboxes))| Endpoint {
            core,
            posted: vec![false; cores],
            any_posted: false,
            budgets: vec![0; inboxes.len()],
            budget: 0,
            turn: 0,
            outboxes,
            inboxes,
            flag_up: false,
            parked: Arc::clone(&parked),
        });
    (control, endpoints.collect())
}

/// Takes a core's flag down; true if it was up, and the caller has to wake the core.
fn take_flag(parked: &Parked, core: usize) -> bool {
    let flag = &parked[core].0;
    // The plain read first: cores that are awake are not disturbed by a write to their line.
    flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Relaxed)
}

/// A letter that finds a full mailbox comes back, unless its receiver has ended: then nobody ever makes room, and it is dropped.
fn push<T>(outbox: &mut Producer<T>, letter: T) -> Result<(), T> {
    match outbox.push(letter) {
        Err(PushError::Full(letter)) if !outbox.is_abandoned() => Err(letter),
        _ => Ok(()),
    }
}

/// One core's mailboxes.
#[derive(Debug)]
pub struct Endpoint<T> {
    core: usize,
    /// By receiver.
    outboxes: Vec<Producer<T>>,
    /// By sender; the main thread comes last.
    inboxes: Vec<Consumer<T>>,
    /// Who was posted to since [`Endpoint::wake_receivers`].
    posted: Vec<bool>,
    any_posted: bool,
    /// How many letters may still be taken in this turn, by sender.
    budgets: Vec<usize>,
    /// The sum of them, so that no mailbox is looked into once all were taken.
    budget: usize,
    /// Whose mailbox is looked into next.
    turn: usize,
    /// Whether this core raised its flag and did not take it down itself.
    flag_up: bool,
    parked: Parked,
}

impl<T> Endpoint<T> {
    /// This core.
    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.outboxes.len()
    }

    /// Puts a letter into a core's mailbox, this core's own included. It is woken at [`Endpoint::wake_receivers`].
    ///
    /// # Errors
    /// The letter, if the mailbox is full. One whose core has ended is never full.
    pub fn post(&mut self, core: usize, letter: T) -> Result<(), T> {
        push(&mut self.outboxes[core], letter)?;
        self.posted[core] = true;
        self.any_posted = true;
        Ok(())
    }

    /// Names the cores that were posted to and are parked: the caller wakes them. One fence for all of them.
    pub fn wake_receivers(&mut self, mut wake: impl FnMut(usize)) {
        if !self.any_posted {
            return;
        }
        self.any_posted = false;
        // Between publishing the letters and reading the flags: see the module's table.
        fence(Ordering::SeqCst);
        for core in 0..self.posted.len() {
            if std::mem::take(&mut self.posted[core]) && core != self.core && take_flag(&self.parked, core) {
                wake(core);
            }
        }
    }

    /// Begins a turn: what is in the mailboxes now may be taken in it, what comes later waits for the next, so that
    /// a busy neighbour cannot keep this core from its connections.
    pub fn begin_turn(&mut self) {
        for (budget, inbox) in self.budgets.iter_mut().zip(&self.inboxes) {
            *budget = inbox.slots();
        }
        self.budget = self.budgets.iter().sum();
    }

    /// The next letter of this turn and its sender (the number of cores: the main thread), one sender after another.
    #[inline]
    pub fn take(&mut self) -> Option<(usize, T)> {
        if self.budget == 0 {
            return None;
        }
        for _ in 0..self.inboxes.len() {
            let from = self.turn;
            self.turn = if from + 1 == self.inboxes.len() {
                0
            } else {
                from + 1
            };
            if self.budgets[from] > 0
                && let Ok(letter) = self.inboxes[from].pop()
            {
                self.budgets[from] -= 1;
                self.budget -= 1;
                return Some((from, letter));
            }
        }
        None
    }

    /// Whether any letter waits.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.inboxes.iter().any(|inbox| !inbox.is_empty())
    }

    /// Raises the flag of this core; true if it may sleep now, false (and the flag is down) if there is mail. While
    /// it is up, senders wake this core. It stays up until [`Endpoint::unpark`], over any number of sleeps.
    pub fn park(&mut self) -> bool {
        // A sender may have taken it down meanwhile, so it is raised anew for each sleep.
        self.parked[self.core].0.store(true, Ordering::Relaxed);
        self.flag_up = true;
        // Between raising the flag and looking into the mailboxes: see the module's table.
        fence(Ordering::SeqCst);
        if self.has_mail() {
            self.unpark();
            return false;
        }
        true
    }

    /// Takes the flag down: this core looks into its mailboxes before it sleeps again.
    pub fn unpark(&mut self) {
        if std::mem::take(&mut self.flag_up) {
            self.parked[self.core].0.store(false, Ordering::Relaxed);
        }
    }
}

/// The main thread's side: it sends to every core and receives from none.
pub struct Control<T> {
    outboxes: Vec<Producer<T>>,
    wakers: Vec<Option<Box<dyn Wake>>>,
    parked: Parked,
}

impl<T> Control<T> {
    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.outboxes.len()
    }

    /// Takes over how a core is woken, and wakes it once, since it may have parked over an earlier letter.
    pub fn attach(&mut self, core: usize, waker: Box<dyn Wake>) {
        waker.wake();
        self.wakers[core] = Some(waker);
    }

    /// Puts a letter into a core's mailbox and wakes the core if it is parked.
    ///
    /// # Errors
    /// The letter, if the mailbox is full; the core has not kept up. One that has ended is posted to in vain, and without error.
    pub fn post(&mut self, core: usize, letter: T) -> Result<(), T> {
        push(&mut self.outboxes[core], letter)?;
        fence(Ordering::SeqCst);
        // Without a waker the flag stays up: `attach` wakes.
        if let Some(waker) = &self.wakers[core]
            && take_flag(&self.parked, core)
        {
            waker.wake();
        }
        Ok(())
    }
}

impl<T> std::fmt::Debug for Control<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("cores", &self.cores())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, Thread};
    use std::time::Duration;

    use super::*;

    #[test]
    fn letters_of_a_pair_keep_their_order_and_a_turn_ends() {
        let (mut control, mut endpoints) = mesh(2, 4);
        let (left, right) = endpoints.split_at_mut(1);
        for n in 0..4 {
            left[0].post(1, n).unwrap();
        }
        assert_eq!(left[0].post(1, 9), Err(9));
        control.post(1, 100).unwrap();
        right[0].begin_turn();
        control.post(1, 101).unwrap();
        let mut taken = Vec::new();
        while let Some((from, n)) = right[0].take() {
            taken.push((from, n));
        }
        taken.sort_unstable();
        assert_eq!(taken, [(0, 0), (0, 1), (0, 2), (0, 3), (2, 100)]);
        assert!(
            right[0].has_mail(),
            "what came during the turn waits for the next"
        );
        left[0].post(1, 9).unwrap();
    }

    #[test]
    fn one_that_has_ended_keeps_nobody_waiting() {
        let (mut control, mut endpoints) = mesh(2, 2);
        let ended = endpoints.pop().expect("two");
        for n in 0..2 {
            control.post(1, n).unwrap();
            endpoints[0].post(1, n).unwrap();
        }
        assert_eq!((control.post(1, 2), endpoints[0].post(1, 2)), (Err(2), Err(2)));
        drop(ended);
        assert_eq!((control.post(1, 2), endpoints[0].post(1, 2)), (Ok(()), Ok(())));
    }

    #[test]
    fn only_parked_receivers_are_woken_and_once() {
        let (_control, mut endpoints) = mesh(3, 4);
        assert!(endpoints[1].park());
        let mut woken = Vec::new();
        for core in [1, 2, 1] {
            endpoints[0].post(core, ()).unwrap();
        }
        endpoints[0].wake_receivers(|core| woken.push(core));
        endpoints[0].wake_receivers(|core| woken.push(core));
        endpoints[2].post(1, ()).unwrap();
        endpoints[2].wake_receivers(|core| woken.push(core));
        assert_eq!(woken, [1]);
        assert!(!endpoints[1].park(), "there is mail");
    }

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(&self) {
            self.0.unpark();
        }
    }

    /// Cores in a ring hand letters around while the main thread injects them; every core sleeps whenever it may.
    /// A single missed wake stalls the ring for good, which the deadline of the sleep turns into a failure.
    #[test]
    fn no_letter_is_slept_over() {
        const CORES: usize = 3;
        const LETTERS: u64 = 300;
        const HOPS: u64 = 100;
        const STALLED: Duration = Duration::from_secs(20);
        let (mut control, endpoints) = mesh::<u64>(CORES, 512);
        let (introduce, introductions) = std::sync::mpsc::channel::<Vec<Thread>>();
        let introductions = Arc::new(std::sync::Mutex::new(introductions));
        let (done, finished) = std::sync::mpsc::channel();
        let threads: Vec<_> = endpoints
            .into_iter()
            .map(|mut mail| {
                let introductions = Arc::clone(&introductions);
                let done = done.clone();
                thread::spawn(move || {
                    let neighbours = introductions.lock().unwrap().recv().unwrap();
                    let next = (mail.core() + 1) % CORES;
                    loop {
                        mail.begin_turn();
                        while let Some((_, hops)) = mail.take() {
                            match hops {
                                u64::MAX => return,
                                HOPS => done.send(()).unwrap(),
                                _ => mail.post(next, hops + 1).unwrap(),
                            }
                        }
                        mail.wake_receivers(|core| neighbours[core].unpark());
                        if mail.park() {
                            let asleep = std::time::Instant::now();
                            thread::park_timeout(STALLED);
                            assert!(
                                asleep.elapsed() < STALLED || !mail.has_mail(),
                                "a letter was slept over"
                            );
                            mail.unpark();
                        }
                    }
                })
            })
            .collect();
        for (core, thread) in threads.iter().enumerate() {
            introduce
                .send(threads.iter().map(|t| t.thread().clone()).collect())
                .unwrap();
            control.attach(core, Box::new(Unpark(thread.thread().clone())));
        }
        for n in 0..LETTERS {
            control.post(n as usize % CORES, 0).unwrap();
        }
        for _ in 0..LETTERS {
            finished
                .recv_timeout(2 * STALLED)
                .expect("a letter was slept over");
        }
        for (core, thread) in threads.into_iter().enumerate() {
            control.post(core, u64::MAX).unwrap();
            thread.join().unwrap();
        }
    }
}
