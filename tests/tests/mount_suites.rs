//! Suites of others, natively and in a mount: a test that passes in real files passes in a mount, but for a committed list
//! of reasons, and no reason outlives its difference.
//!
//! Each runs in an empty tree, where it writes all its files, and in a tree of its own files, where it finds them pristine;
//! as root and as `nobody`; and all of them in private views too. `tests/apps/suites.sh` knows the suites.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::as_root_and_nobody;
use rift_tests::mounts::{mounts_at, rift};
use rift_tests::need::{Need, have, skip};
use rift_tests::sandbox::Sandbox;
use rift_tests::{full, repository, target_folder};

/// One line per difference: `SUITE | USER | TEST | in real files | in a mount | reason`; the user is root, nobody or both.
const REASONS: &str = include_str!("mount_suites.reasons");

fn script() -> PathBuf {
    repository().join("tests/apps/suites.sh")
}

/// Where `scripts/test --full` puts the sources.
fn sources() -> PathBuf {
    target_folder().unwrap().join("suites")
}

/// Returns whether a suite is there. `scripts/test --full` gets them; without it, what was never got is left to that.
fn is_prepared(test: &str, needed: &str) -> bool {
    let is_there = sources().join(needed).exists();
    if !is_there && full() {
        skip(test, "needs what tests/apps/suites.sh prepares, as scripts/test --full does");
    }
    is_there
}

/// Where a suite finds its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It is there for everybody.
    ByAll,
    /// The tree is shown there to the suite alone.
    Privately,
    /// Only the shim shows the tree there.
    Virtually,
}

impl Seen {
    /// The words of rift that let a command see a tree so, if it needs any.
    fn words(self) -> Option<&'static [&'static str]> {
        match self {
            Self::ByAll => None,
            Self::Privately => Some(&["exec", "--as", "mount", "--private", "--tree"]),
            Self::Virtually => Some(&["exec", "--as", "virtual", "--tree"]),
        }
    }
}

/// Starts a command line that does something with a suite in a folder.
fn command(sandbox: &Sandbox, words: [&str; 2], folder: &Path, seen: Seen) -> Command {
    let mut command = match seen.words() {
        None => sandbox.command(&sandbox.home(), script()),
        Some(seen) => {
            let tree = format!("tree={}", folder.display());
            let script = script().display().to_string();
            let words = [seen, &[&tree, "--", &script]].concat();
            sandbox.rift(&sandbox.home(), &words).unwrap()
        }
    };
    command.args(words).args([&sources(), folder]);
    command
}

/// Puts the files of a suite into an empty folder.
fn lay(sandbox: &Sandbox, suite: &str, folder: &Path, seen: Seen) {
    let mut command = command(sandbox, ["lay", suite], folder, seen);
    sandbox.run(&mut command).unwrap().success().unwrap();
}

/// Runs a suite on its files: test by test what came of it.
fn outcomes(
    sandbox: &Sandbox,
    suite: &str,
    (folder, seen): (&Path, Seen),
    parts: &[&str],
) -> BTreeMap<String, String> {
    let mut command = command(sandbox, ["run", suite], folder, seen);
    command.args(parts);
    command.env("FSX_STEPS", if full() { "2000" } else { "200" });
    let ran = sandbox.run(&mut command).unwrap().success().unwrap();
    let lines = ran.stdout.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(outcome, test)| (test.to_owned(), outcome.to_owned())).collect()
}

/// Holds a mount against real files by one suite, of which only `parts` run in private views and where not all was asked
/// for; without `parts` all of it. Returns what came of it in the mount, per tree.
fn hold(suite: &str, parts: &[&str], seen: Seen) -> [BTreeMap<String, String>; 2] {
    let user = if rustix::process::geteuid().is_root() { "root" } else { "nobody" };
    let is_whole = full() && seen == Seen::ByAll;
    let parts = if is_whole { &[] } else { parts };
    ["empty", "own"].map(|tree| {
        let sandbox = Sandbox::new(&format!("{suite}-{tree}")).unwrap();
        let [native, source, mount] = ["native", "source", "mount"].map(|name| sandbox.path(name));
        for folder in [&native, &source] {
            fs::create_dir(folder).unwrap();
        }
        lay(&sandbox, suite, &native, Seen::ByAll);
        if tree == "own" {
            lay(&sandbox, suite, &source, Seen::ByAll);
        }
        rift(&sandbox, &source, &["ingest", ".", "--name", "tree"]);
        if seen == Seen::ByAll {
            rift(&sandbox, &sandbox.home(), &["open", "tree", &mount.display().to_string()]);
        }
        if tree == "empty" {
            lay(&sandbox, suite, &mount, seen);
        }
        let expected = outcomes(&sandbox, suite, (&native, Seen::ByAll), parts);
        let found = outcomes(&sandbox, suite, (&mount, seen), parts);
        assert_eq!(mounts_at(&mount), usize::from(seen == Seen::ByAll));
        rift(&sandbox, &sandbox.home(), &["close", "--discard", &mount.display().to_string()]);
        assert!(expected.len() >= 4, "only {} tests of {suite} were run", expected.len());

        let missing = "missing".to_owned();
        let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        let line = |name: &&String| {
            let [expected, found] = [&expected, &found].map(|map| map.get(*name).unwrap_or(&missing));
            (expected != found).then(|| format!("{name} | {expected} | {found}"))
        };
        let differences: BTreeSet<String> = names.iter().filter_map(line).collect();
        let reasons: BTreeSet<String> = REASONS
            .lines()
            .filter_map(|line| line.split(" | ").collect::<Vec<_>>().try_into().ok())
            .filter(|[of, by, ..]: &[&str; 6]| *of == suite && (*by == user || *by == "both"))
            // Under the shim files are the file system's own.
            .filter(|_| seen != Seen::Virtually)
            .filter(|[_, _, name, ..]| is_whole || expected.contains_key(*name))
            .map(|[_, _, name, native, mounted, _]| format!("{name} | {native} | {mounted}"))
            .collect();
        let unexplained: Vec<_> = differences.difference(&reasons).collect();
        let outlived: Vec<_> = reasons.difference(&differences).collect();
        assert!(
            unexplained.is_empty() && outlived.is_empty(),
            "{suite} as {user} in {tree}: without a reason {unexplained:#?}, without a difference {outlived:#?}"
        );
        found
    })
}

/// pjdfstest changes owners and users, so it is for root.
#[test]
fn pjdfstest_passes_in_a_mount() {
    let name = "pjdfstest_passes_in_a_mount";
    if !have(name, &[Need::Root, Need::Fuse]) || !is_prepared(name, "bin/pjdfstest") {
        return;
    }
    hold_pjdfstest(Seen::ByAll);
}

fn hold_pjdfstest(seen: Seen) {
    for found in hold("pjdfstest", &[], seen) {
        let passed = found.values().filter(|outcome| *outcome == "ok").count();
        assert!(passed >= 370, "only {passed} pass");
    }
}

#[test]
fn fsx_passes_in_a_mount() {
    let name = "fsx_passes_in_a_mount";
    if !is_prepared(name, "bin/fsx") || !as_root_and_nobody(name) {
        return;
    }
    for found in hold("fsx", &[], Seen::ByAll) {
        assert!(found.len() == 10 && found.values().all(|outcome| outcome == "ok"), "{found:?}");
    }
}

#[test]
fn busybox_passes_in_a_mount() {
    let name = "busybox_passes_in_a_mount";
    if !is_prepared(name, "busybox") || !as_root_and_nobody(name) {
        return;
    }
    hold("busybox", &["cp", "mv", "rm", "ln", "mkdir", "rmdir", "touch"], Seen::ByAll);
}

#[test]
fn nodes_file_tests_pass_in_a_mount() {
    let name = "nodes_file_tests_pass_in_a_mount";
    if !is_prepared(name, "nodejs") || !as_root_and_nobody(name) {
        return;
    }
    hold("node-fs", &["fs-rename", "fs-sym", "fs-stat"], Seen::ByAll);
}

/// The same, but for what takes long, each seen by itself alone.
#[test]
fn suites_pass_in_private_views() {
    let name = "suites_pass_in_private_views";
    if !full() || !is_prepared(name, "bin/fsx") || !as_root_and_nobody(name) {
        return;
    }
    hold_all(Seen::Privately);
}

fn hold_all(seen: Seen) {
    hold("fsx", &[], seen);
    hold("busybox", &["cp", "mv", "rm", "ln", "mkdir", "rmdir", "touch"], seen);
    hold("node-fs", &["fs-rename", "fs-sym", "fs-stat"], seen);
    if rustix::process::geteuid().is_root() {
        hold_pjdfstest(seen);
    }
}

/// The same under the shim.
#[test]
fn suites_pass_under_the_shim() {
    let name = "suites_pass_under_the_shim";
    if !full() || !is_prepared(name, "bin/fsx") || !as_root_and_nobody(name) {
        return;
    }
    hold_all(Seen::Virtually);
}
