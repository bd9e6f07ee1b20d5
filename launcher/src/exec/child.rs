//! A child that runs as if rift were not there.
//!
//! The program is found as execvp(3) finds it and gets our standard streams. Rift outlives it: signals
//! that a process sends to rift are handed on, and those that the terminal sends to the whole
//! foreground group are left to reach the child by themselves, so that it gets each of them once. A
//! child that dies of a signal makes rift die of the same one, and a rift that is killed takes the
//! child with it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::Context as _;

use crate::hook::shims;
use crate::{env_vars, sys};

/// Rift itself failed.
pub const FAILED: u8 = 125;
/// The program was found but can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
pub const NOT_FOUND: u8 = 127;

/// Where execvp(3) looks when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

impl Ending {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            // wait(2) gives the low 8 bits of a status.
            (Some(code), _) => Self::Exited((code & 0xff) as u8),
            (None, Some(signal)) => Self::Killed(signal),
            (None, None) => Self::Exited(FAILED),
        }
    }

    /// Tells whether the command succeeded.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// Ends rift as the command ended: dies of its signal, or returns its status.
    #[must_use]
    pub fn into_exit_code(self) -> ExitCode {
        match self {
            Self::Exited(status) => ExitCode::from(status),
            Self::Killed(signal) => {
                sys::die_of(signal);
                // The signal did not kill us: 128 + N is what shells report for one that did.
                ExitCode::from(128_u8.saturating_add(u8::try_from(signal).unwrap_or(127)))
            }
        }
    }
}

/// What a search for a program found.
enum Search {
    Found(PathBuf),
    Denied(PathBuf),
    Missing,
}

/// Finds a program as execvp(3) does, but no shim of rift's: it would start rift again.
fn search(program: &OsStr, path: Option<&OsStr>) -> Search {
    if program.is_empty() {
        return Search::Missing;
    }
    if program.as_bytes().contains(&b'/') {
        return look(PathBuf::from(program));
    }
    let mut denied = None;
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes();
    for folder in path.split(|byte| *byte == b':') {
        // An empty element means the working directory.
        let folder = if folder.is_empty() { &b"."[..] } else { folder };
        let folder = Path::new(OsStr::from_bytes(folder));
        match look(folder.join(program)) {
            Search::Found(_) if shims::is_shims(folder) => {}
            Search::Found(found) => return Search::Found(found),
            Search::Denied(found) => {
                denied.get_or_insert(found);
            }
            Search::Missing => {}
        }
    }
    denied.map_or(Search::Missing, Search::Denied)
}

fn look(path: PathBuf) -> Search {
    match std::fs::metadata(&path) {
        Ok(stat) if stat.is_dir() => Search::Denied(path),
        Ok(_) if sys::may_execute(&path) => Search::Found(path),
        Ok(_) => Search::Denied(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Search::Denied(path),
        Err(_) => Search::Missing,
    }
}

/// Finds the program that a command names; `None` when there is none that can be executed.
#[must_use]
pub fn find(program: &OsStr) -> Option<PathBuf> {
    match search(program, std::env::var_os(env_vars::PATH).as_deref()) {
        Search::Found(path) => Some(path),
        Search::Denied(_) | Search::Missing => None,
    }
}

/// Says why a command did not start, as shells do, and with which status rift ends.
#[allow(clippy::print_stderr, reason = "the words of env(1) and of shells, which callers look for")]
fn refuse(program: &OsStr, why: &str, status: u8) -> Ending {
    let program = crate::ui::printable(&program.to_string_lossy());
    eprintln!("rift: {program}: {why}");
    Ending::Exited(status)
}

/// Runs a command to its end.
///
/// # Errors
/// What the system says when it can't be waited for.
pub fn run(command: &[OsString]) -> anyhow::Result<Ending> {
    run_with(command, |_| {})
}

/// As [`run`], with something set before.
///
/// # Errors
/// As [`run`].
pub fn run_with(command: &[OsString], set: impl Fn(&mut Command)) -> anyhow::Result<Ending> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(refuse(OsStr::new(""), "no command", NOT_FOUND));
    };
    let found = match search(program, std::env::var_os(env_vars::PATH).as_deref()) {
        Search::Found(found) => found,
        Search::Denied(_) => return Ok(refuse(program, "Permission denied", NOT_EXECUTABLE)),
        Search::Missing => return Ok(refuse(program, "No such file or directory", NOT_FOUND)),
    };
    let mut direct = Command::new(&found);
    direct.arg0(program).args(arguments);
    set(&mut direct);
    match supervise(&mut direct) {
        // A script without `#!`: execvp(3) hands it to the shell.
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            let mut shell = through_shell(&found, arguments);
            set(&mut shell);
            supervise(&mut shell).context("could not start /bin/sh")
        }
        Err(error) => Ok(start_failure(program, &error)),
        Ok(ending) => Ok(ending),
    }
}

fn through_shell(script: &Path, arguments: &[OsString]) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg(script).args(arguments);
    shell
}

fn start_failure(program: &OsStr, error: &io::Error) -> Ending {
    // The file was there: what is missing is its interpreter, or the right to execute it.
    let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    let text = error.to_string();
    let why = text.split(" (os error").next().unwrap_or(&text);
    refuse(program, why, status)
}

/// Starts a command and stands in for it until it ends.
///
/// # Errors
/// As spawning a process and waitpid(2).
pub fn supervise(command: &mut Command) -> io::Result<Ending> {
    supervise_from(command, || {})
}

/// As [`supervise`], and calls `started` once the command runs, or can't be started.
///
/// # Errors
/// As [`supervise`].
pub fn supervise_from(command: &mut Command, started: impl FnOnce()) -> io::Result<Ending> {
    sys::restore_start(command);
    sys::die_together(command);
    let relay = sys::Relay::start()?;
    let child = command.spawn();
    started();
    let mut child = child?;
    // Process ids are positive.
    relay.hand_on_to(child.id().cast_signed());
    let status = relay.wait_until_ended(child.id().cast_signed()).and_then(|()| child.wait())?;
    Ok(Ending::of(status))
}

/// Becomes a program in whose place this process was started, whose words begin with its name; what it does goes to the journal, where
/// there is one.
#[must_use]
pub fn replace_as(program: &Path, words: &[OsString], journal: Option<&Path>) -> Ending {
    let (name, arguments) = words
        .split_first()
        .map_or((OsStr::new(""), &[][..]), |(name, rest)| (name.as_os_str(), rest));
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env_remove(env_vars::RIFT_REPLAY);
    if let Some(libraries) = std::env::var_os(env_vars::RIFT_PRELOAD) {
        command.env_remove(env_vars::RIFT_PRELOAD).env(env_vars::LD_PRELOAD, libraries);
    }
    if let Some(journal) = journal {
        command.env(env_vars::RIFT_RECORD, journal);
    }
    sys::restore_start(&mut command);
    start_failure(program.as_os_str(), &command.exec())
}

/// Becomes the command, see exec(2); returns only when that fails.
#[must_use]
pub fn replace(command: &[OsString]) -> Ending {
    let Some((program, arguments)) = command.split_first() else {
        return refuse(OsStr::new(""), "no command", NOT_FOUND);
    };
    let found = match search(program, std::env::var_os(env_vars::PATH).as_deref()) {
        Search::Found(found) => found,
        Search::Denied(_) => return refuse(program, "Permission denied", NOT_EXECUTABLE),
        Search::Missing => return refuse(program, "No such file or directory", NOT_FOUND),
    };
    let mut direct = Command::new(&found);
    direct.arg0(program).args(arguments);
    sys::restore_start(&mut direct);
    let error = direct.exec();
    if error.raw_os_error() != Some(libc::ENOEXEC) {
        return start_failure(program, &error);
    }
    let mut shell = through_shell(&found, arguments);
    sys::restore_start(&mut shell);
    start_failure(program, &shell.exec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        make("one/tool", 0o644);
        let tool = make("two/tool", 0o755);
        make("one/denied", 0o644);
        std::fs::create_dir(folder.path().join("two/denied")).unwrap();
        let place = folder.path().display();
        let path = OsString::from(format!("/no/such:{place}/one:{place}/two"));
        let find = |program: &str| match search(OsStr::new(program), Some(&path)) {
            Search::Found(found) => Ok(found),
            Search::Denied(_) => Err(NOT_EXECUTABLE),
            Search::Missing => Err(NOT_FOUND),
        };
        assert_eq!(find("tool"), Ok(tool.clone()), "the first that may be executed");
        assert_eq!(find("denied"), Err(NOT_EXECUTABLE));
        assert_eq!(find("missing"), Err(NOT_FOUND));
        assert_eq!(find(""), Err(NOT_FOUND));
        assert_eq!(find(tool.to_str().unwrap()), Ok(tool));
        assert_eq!(find(&format!("{place}/one/tool")), Err(NOT_EXECUTABLE));
        assert!(matches!(search(OsStr::new("sh"), None), Search::Found(_)), "the default path");
    }
}
