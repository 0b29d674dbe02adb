//! The second half of `bench/counts`: reads what gungraun counted from standard input, and compares it with
//! `bench/counts.toml`, or writes that.
//!
//! Ends with 0 if nothing takes more instructions than recorded, also, with a remark, on a processor whose counts are not
//! recorded; with 1 if something does; with 2 if what was counted cannot be read.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use fluxar_bench::counts::{self, Record, Tools};

fn main() -> ExitCode {
    let write = env::args().skip(1).any(|argument| argument == "--write");
    match check(write) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench/counts: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether the counts are kept.
fn check(write: bool) -> Result<bool, String> {
    let mut lines = String::new();
    io::stdin()
        .read_to_string(&mut lines)
        .map_err(|error| format!("standard input: {error}"))?;
    let measured = Record {
        made_with: tools()?,
        instructions: counts::measured(&lines)?,
    };
    if measured.instructions.is_empty() {
        return Err("gungraun counted nothing".to_owned());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.toml");
    if write {
        fs::write(&path, measured.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("wrote {}", path.display());
        return Ok(true);
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let recorded = Record::read(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let (there, here) = (&recorded.made_with.processor, &measured.made_with.processor);
    if there != here {
        println!("nothing compared: the counts are recorded for {there}, this machine is {here}");
        return Ok(true);
    }
    let report = counts::compare(&recorded, &measured);
    print!("{report}");
    Ok(!report.has_failed())
}

fn tools() -> Result<Tools, String> {
    Ok(Tools {
        rustc: said_by(&["rustc", "--version"])?,
        valgrind: said_by(&["valgrind", "--version"])?,
        libc: said_by(&["getconf", "GNU_LIBC_VERSION"])?,
        processor: processor(),
    })
}

fn said_by(command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.map_err(|error| format!("{}: {error}", command.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What decides which payload walk runs. Valgrind knows AVX2 and nothing beyond it.
fn processor() -> String {
    let architecture = env::consts::ARCH;
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return format!("{architecture} with avx2");
    }
    architecture.to_owned()
}
