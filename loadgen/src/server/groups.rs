//! The process groups that this process started and has not ended yet: known outside of [`super::Server`] too, so that
//! a signal can end them while the campaign is in the middle of a run.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};

struct Group {
    id: u32,
    directory: PathBuf,
}

static GROUPS: Mutex<Vec<Group>> = Mutex::new(Vec::new());

fn groups() -> MutexGuard<'static, Vec<Group>> {
    // A list of numbers is whole whatever happened to the thread that held it.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a group. It is known before anybody else can ask, so that none escapes [`end_all`].
pub(super) fn start(directory: &Path, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Child> {
    let mut groups = groups();
    let child = spawn()?;
    groups.push(Group {
        id: child.id(),
        directory: directory.to_owned(),
    });
    Ok(child)
}

/// It is gone.
pub(super) fn ended(id: u32) {
    groups().retain(|group| group.id != id);
}

/// Sends a signal to a group; that it is gone already is no fault.
pub(super) fn signal(id: u32, signal: Signal) {
    if let Some(group) = pid(id) {
        let _ = kill_process_group(group, signal);
    }
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// The processes of a group that still run.
pub(super) fn members(id: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return vec![id];
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| is_member(*process, id))
        .collect()
}

fn is_member(process: u32, group: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which stands in parentheses and may hold anything: state, parent, group.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut words = behind.split_ascii_whitespace();
    let is_dead = matches!(words.next(), Some("Z" | "X") | None);
    !is_dead && words.nth(1).and_then(|word| word.parse().ok()) == Some(group)
}

/// Ends everything that was started, from any thread: told first, killed after `patience`. For the way out of the
/// process: whoever would start or end a server afterwards waits for ever.
pub fn end_all(patience: Duration) {
    let mut groups = groups();
    for group in &*groups {
        signal(group.id, Signal::TERM);
    }
    let told = Instant::now();
    while told.elapsed() < patience && groups.iter().any(|group| !members(group.id).is_empty()) {
        thread::sleep(super::LOOK_EVERY);
    }
    for group in groups.drain(..) {
        signal(group.id, Signal::KILL);
        if let Some(id) = pid(group.id) {
            let _ = waitpgid(id, WaitOptions::NOHANG);
        }
        let _ = fs::remove_dir_all(&group.directory);
    }
    mem::forget(groups);
}
