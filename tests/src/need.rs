//! What a test needs of the machine, and skips that nobody can overlook.
//!
//! A test that lacks root, a tool or a kernel feature says `SKIP name: reason` and ends well; the line is also kept in
//! a file below cargo's target directory, which `scripts/test` prints as a list when all tests are done.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One thing that not every machine has.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root, with the right to mount.
    Root,
    /// A program that can be found in PATH.
    Tool(&'static str),
    /// ext4 on a loop device that answers the shutdown request (`xfs_io -x -c shutdown`).
    PowerLoss,
    /// A process of its own without any network (`unshare --net`).
    NoNetwork,
    /// `/dev/fuse`, for who may mount.
    Fuse,
    /// A namespace in which `nobody` may mount with fusermount3; see [`crate::again`].
    Nobody,
    /// A library that `cc -l` links with.
    Library(&'static str),
    /// What has this name; a line of a shell ends well where it is there.
    Works(&'static str, &'static str),
    /// A compiler and a C library for programs of 32 bits.
    Narrow,
    /// `strace` that may trace.
    Strace,
    /// A PID namespace of its own for a process (`unshare --user --pid`).
    PidNamespace,
}

impl Need {
    /// Returns why the machine cannot give it, or `None` when it can.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Tool(name) => {
                find_in_path(name).is_none().then(|| format!("needs the program {name}"))
            }
            Self::PowerLoss => {
                [Self::Root, Self::Tool("xfs_io"), Self::Tool("mkfs.ext4"), Self::Tool("losetup")]
                    .into_iter()
                    .find_map(Self::missing)
                    .or_else(|| {
                        (!Path::new("/dev/loop-control").exists())
                            .then(|| "needs loop devices".to_owned())
                    })
            }
            Self::NoNetwork => fails(
                Command::new("unshare").args(["--net", "true"]),
                "needs unshare(1) with --net",
            ),
            Self::PidNamespace => fails(
                Command::new("unshare").args([
                    "--user",
                    "--map-root-user",
                    "--pid",
                    "--fork",
                    "true",
                ]),
                "needs unshare(1) with --user --pid",
            ),
            Self::Fuse => fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .is_err()
                .then(|| "needs /dev/fuse".to_owned()),
            Self::Nobody => crate::again::missing(),
            Self::Library(name) => (!links(&[&format!("-l{name}")]))
                .then(|| format!("needs the library {name} for cc")),
            Self::Works(what, line) => {
                fails(Command::new("sh").args(["-c", line]), &format!("needs {what}"))
            }
            Self::Narrow => (!links(&["-m32"])).then(|| "needs a compiler for 32 bits".to_owned()),
            Self::Strace => fails(
                Command::new("strace").args(["-f", "-qqq", "-e", "trace=none", "true"]),
                "needs strace(1)",
            ),
        }
    }
}

fn fails(command: &mut Command, reason: &str) -> Option<String> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!status.is_ok_and(|status| status.success())).then(|| reason.to_owned())
}

/// Returns whether `cc` makes a program with these words.
fn links(words: &[&str]) -> bool {
    let program = "echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null \"$@\"";
    fails(Command::new("sh").args(["-c", program, "sh"]).args(words), "").is_none()
}

/// Returns the first program of that name in `PATH`, `/usr/sbin` and `/sbin`.
#[must_use]
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// Returns whether the machine has all of it; otherwise says so as a skip of `test`.
#[must_use]
pub fn have(test: &str, needs: &[Need]) -> bool {
    match needs.iter().find_map(|need| need.missing()) {
        None => true,
        Some(reason) => {
            skip(test, &reason);
            false
        }
    }
}

/// Returns where skips are kept for the final list.
///
/// # Errors
/// When the running binary is not inside a target directory.
pub fn skips_file() -> anyhow::Result<PathBuf> {
    Ok(crate::target_folder()?.join("skipped"))
}

/// Says that a test, or a part of one, was skipped, and why.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    // Nothing better can be done when standard error is closed.
    let _written = std::io::stderr().write_all(line.as_bytes());
    if crate::again::is_again() {
        // Who ran the test again keeps it.
        return;
    }
    let kept = skips_file().and_then(|path| {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        Ok(OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())?)
    });
    assert!(kept.is_ok(), "a skip could not be kept for the final list: {kept:?}");
}
