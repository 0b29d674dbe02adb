//! What a server is given to live in: ports that are free, a directory, files; and how its program is found.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::scratch;
use crate::campaign::StartPlan;
use crate::scenario::Target;

/// Where Debian keeps servers, which is not on every user's PATH.
const SYSTEM_DIRECTORIES: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Ports and a directory, which is removed with what is in it when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    /// `{port}` first, `{port2}` second, …
    ports: Vec<u16>,
}

impl Place {
    /// Makes the directory with the plan's files, and finds as many free ports as are spoken of.
    pub(super) fn new(plan: &StartPlan, target: &Target) -> io::Result<Place> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let directory = scratch().join(format!("loadgen-{}-{number}", std::process::id()));
        // Servers that give up being root must still be able to read it.
        DirBuilder::new().mode(0o755).create(&directory)?;
        let mut place = Place {
            directory,
            ports: Vec::new(),
        };
        let texts = plan
            .command
            .iter()
            .chain(plan.env.values())
            .chain(plan.files.values());
        let texts = texts
            .chain([&target.url])
            .chain(&target.subscriber_url)
            .chain(&target.service_url);
        let count = texts.map(|text| ports_named(text)).max().unwrap_or(0);
        // All are held until all are found, so that none is found twice.
        let held: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()?;
        place.ports = held
            .iter()
            .map(|socket| socket.local_addr().map(|address| address.port()))
            .collect::<io::Result<_>>()?;
        drop(held);
        for (name, text) in &plan.files {
            let path = place.directory.join(name);
            fs::write(&path, place.fill(text))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(place)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where its output is kept.
    pub(super) fn output(&self) -> PathBuf {
        self.directory.join("output.log")
    }

    /// Fills in `{port}`, `{port2}`… and `{dir}`; other braces stay as they are, since configurations have their own.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut filled = text.replace("{dir}", &self.directory.display().to_string());
        for (at, port) in self.ports.iter().enumerate() {
            let name = if at == 0 {
                "{port}".to_owned()
            } else {
                format!("{{port{}}}", at + 1)
            };
            filled = filled.replace(&name, &port.to_string());
        }
        filled
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it is in the system's temporary directory, where it does no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// How many ports a text speaks of: the highest number.
fn ports_named(text: &str) -> usize {
    /// More are a slip.
    const PORTS_MAX: usize = 64;
    text.match_indices("{port")
        .filter_map(|(at, found)| {
            let (number, _) = text[at + found.len()..].split_once('}')?;
            if number.is_empty() {
                Some(1)
            } else {
                number.parse().ok()
            }
        })
        .max()
        .unwrap_or(0)
        .min(PORTS_MAX)
}

/// Finds a program: by its path (relative to `directory`, else to where we are), or by its name beside this program, in
/// the `examples` there, on the PATH, and where Debian keeps servers.
#[must_use]
pub fn find_program(name: &str, directory: &Path) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.contains('/') {
        return [directory.join(name), PathBuf::from(name)]
            .into_iter()
            .find(|path| is_program(path));
    }
    let own = env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    let examples = own.as_ref().map(|own| own.join("examples"));
    let path = env::var_os("PATH").unwrap_or_default();
    own.into_iter()
        .chain(examples)
        .chain(env::split_paths(&path))
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Asks a program for its version, and takes what looks like one out of what it says.
#[must_use]
pub fn version(command: &[String], directory: &Path) -> Option<String> {
    let (name, arguments) = command.split_first()?;
    let output = Command::new(find_program(name, directory)?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| !line.trim().is_empty())?.trim();
    let looks = said
        .split(|c: char| c.is_whitespace() || c == ',')
        .find_map(number_of);
    Some(looks.unwrap_or_else(|| line.to_owned()))
}

/// `v=7.0.15` → `7.0.15`
fn number_of(word: &str) -> Option<String> {
    let number = word
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .trim_end_matches(['.', ')', ';']);
    let is_version =
        number.split('.').count() >= 2 && number.split('.').take(2).all(|part| part.parse::<u32>().is_ok());
    is_version.then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_and_filled_in() {
        assert_eq!(ports_named("tcp://127.0.0.1:9000"), 0);
        assert_eq!(ports_named("-p {port} -m {port3}"), 3);
        assert_eq!(ports_named("{portable} {port"), 0);
        let place = Place {
            directory: PathBuf::from("/nowhere/at/all"),
            ports: vec![7, 8],
        };
        assert_eq!(
            place.fill("{port} {port2} {dir}/x { port } {}"),
            "7 8 /nowhere/at/all/x { port } {}"
        );
    }

    #[test]
    fn versions_are_taken_out_of_what_servers_say() {
        assert_eq!(number_of("v=7.0.15"), Some("7.0.15".into()));
        assert_eq!(number_of("v2.10.0-beta.1"), Some("2.10.0-beta.1".into()));
        assert_eq!(number_of("(0.1.0)"), Some("0.1.0".into()));
        assert_eq!(number_of("server:"), None);
        assert_eq!(number_of("64"), None);
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let here = Path::new("");
        assert!(find_program("sh", here).is_some());
        assert!(find_program("/bin/sh", here).is_some());
        assert!(find_program("sh/nowhere", here).is_none());
        assert!(find_program("no-such-program-anywhere", here).is_none());
        assert!(find_program("/etc/passwd", here).is_none());
    }
}
