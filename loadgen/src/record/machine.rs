//! On what a campaign ran.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What a reader has to know before comparing figures with those of another machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Processors that are online.
    pub cores: usize,
    /// Physical memory, bytes.
    pub memory_bytes: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// What was measured: `git describe` where the campaign was started. Empty outside of a repository.
    pub commit: String,
}

impl Machine {
    /// This one. What cannot be found out is left empty: no campaign fails for it.
    #[must_use]
    pub fn here() -> Machine {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Machine {
            cpu: cpu_model(&cpuinfo).unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory_bytes: memory_bytes(&meminfo).unwrap_or(0),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
            commit: commit().unwrap_or_default(),
        }
    }
}

/// The first processor's model; processors of ARM do not tell it there.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn commit() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--tags"])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Processor @ 2.00GHz\nprocessor\t: 1\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("A Processor @ 2.00GHz"));
        assert_eq!(cpu_model("processor : 0\nCPU part : 0xd0c\n"), None);
        assert_eq!(
            memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"),
            Some(16 << 20)
        );
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let here = Machine::here();
        assert!(here.kernel.starts_with("Linux "), "{here:?}");
        assert!(here.cores > 0 && here.memory_bytes > 0, "{here:?}");
        assert!(!here.cpu.is_empty());
    }
}
