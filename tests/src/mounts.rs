//! Mounted projections in tests: making them, and looking at what is left of them.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "part of tests, which say where they can't go on"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::differ::{Options, compare};
use crate::sandbox::{Ran, Sandbox};

/// Runs `rift WORDS` in a folder.
///
/// # Panics
/// When it can't be started, as every function here that can't go on.
#[must_use]
pub fn run(sandbox: &Sandbox, inside: &Path, words: &[&str]) -> Ran {
    sandbox.run(&mut sandbox.rift(inside, words).unwrap()).unwrap()
}

/// Runs `rift WORDS` in a folder; it has to succeed.
pub fn rift(sandbox: &Sandbox, inside: &Path, words: &[&str]) -> Ran {
    run(sandbox, inside, words).success().unwrap()
}

/// The word that `rift status` has for a directory.
#[must_use]
pub fn state(sandbox: &Sandbox, directory: &Path) -> String {
    let listed = rift(sandbox, &sandbox.home(), &["status"]).stdout;
    let suffix = format!(" {}", directory.display());
    let line = listed.lines().find(|line| line.ends_with(&suffix));
    line.and_then(|line| line.split(' ').next()).unwrap_or("none").to_owned()
}

/// How many mounts there are at a directory.
#[must_use]
pub fn mounts_at(directory: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = format!(" {} ", directory.display());
    mounts.lines().filter(|line| line.contains(&place)).count()
}

/// The processes that serve a mount at a directory.
#[must_use]
pub fn servers_of(directory: &Path) -> Vec<u32> {
    let serves = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.contains(&b"serve-mount".as_slice())
            && words.contains(&directory.as_os_str().as_encoded_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(serves).collect()
}

/// Waits until `holds`, for at most ten seconds.
#[track_caller]
pub fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A sandbox whose store knows a small tree of all kinds of entries as `tree`.
#[must_use]
pub fn with_tree(name: &str) -> Sandbox {
    let sandbox = Sandbox::new(name).unwrap();
    take_tree_in(&sandbox);
    sandbox
}

/// Makes a small tree of all kinds of entries at `source`, and takes it in as `tree`.
pub fn take_tree_in(sandbox: &Sandbox) {
    let source = sandbox.path("source");
    for folder in ["lib/deep/er", "bin", "empty", "d e"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    let numbers: String = (0..3000).map(|number| format!("{number}\n")).collect();
    for (path, text) in
        [("a", "hello\n"), ("lib/x.js", "lib"), ("lib/deep/er/numbers", &numbers), ("d e/b", "")]
    {
        fs::write(source.join(path), text).unwrap();
    }
    fs::set_permissions(source.join("lib/x.js"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../lib/x.js", source.join("bin/x")).unwrap();
    // Its owner may neither write to the file nor put another one beside it.
    fs::create_dir(source.join("shut")).unwrap();
    fs::write(source.join("shut/in"), "shut").unwrap();
    for (path, mode) in [("shut/in", 0o444), ("shut", 0o555)] {
        fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = sandbox
        .command(&source, "find")
        .args([".", "-exec", "touch", "-h", "-d", "@1400000000", "{}", "+"])
        .status();
    assert!(old.unwrap().success());
    rift(sandbox, &source, &["ingest", ".", "--name", "tree"]);
}

/// Opens that tree at a directory of the sandbox.
#[must_use]
pub fn open(sandbox: &Sandbox, name: &str) -> PathBuf {
    let directory = sandbox.path(name);
    rift(sandbox, &sandbox.home(), &["open", "tree", &directory.display().to_string()]);
    assert_eq!(state(sandbox, &directory), "mounted");
    directory
}

/// Takes a mount away and leaves what it covered, as a restart of the machine does.
pub fn uncover(sandbox: &Sandbox, mount: &Path) {
    let mut unmount = sandbox.command(&sandbox.home(), "umount");
    assert!(unmount.arg("--lazy").arg(mount).status().unwrap().success());
    eventually(|| servers_of(mount).is_empty());
}

/// Two trees are the same, times included.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    assert_same_as(expected, found, Options::default());
}

/// Two trees are the same but for their times, as programs leave them that ran one after the other.
#[track_caller]
pub fn assert_same_but_times(expected: &Path, found: &Path) {
    assert_same_as(expected, found, Options { mtimes: false, ..Options::default() });
}

#[track_caller]
fn assert_same_as(expected: &Path, found: &Path, options: Options) {
    let differences = compare(expected, found, options).unwrap();
    let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{expected:?} and {found:?} differ:\n{}", lines.join("\n"));
}

/// Two programs have said the same, line by line.
#[track_caller]
pub fn assert_lines(found: &str, expected: &str, context: &str) {
    for (number, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "{context}, line {number}");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{context}");
}

/// Takes files in as `tree`, each with its path and its text.
pub fn take_files_in(sandbox: &Sandbox, files: impl Iterator<Item = (String, String)>) {
    let source = sandbox.path("source");
    for (path, text) in files {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    rift(sandbox, &source, &["ingest", ".", "--name", "tree"]);
}

/// Kills a process; one that has ended is as good.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let _is_killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
}
