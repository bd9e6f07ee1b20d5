//! The system calls that the shim owns: each has the same answers for a tree as for real files, and none is left out.
//!
//! What is owned is read from the source of the shim, what passes from `shim_calls.pass`: lines of names, below lines with
//! `#` that give the reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::as_root_and_nobody;
use rift_tests::apps::{compiled, compiled_with};
use rift_tests::mounts::{assert_lines, assert_same_but_times, rift, run};
use rift_tests::need::{Need, have};
use rift_tests::repository;
use rift_tests::sandbox::Sandbox;

/// The calls that the shim owns, with what they are given, in the order of its table; those apart that it owns only where
/// stray calls are trapped, which `system_calls_of_the_programs_own_are_trapped` makes.
fn owned() -> Vec<(String, String)> {
    table().into_iter().filter(|(_, shape)| shape != "Masking").collect()
}

/// The rows of the shim's table.
fn table() -> Vec<(String, String)> {
    let table = fs::read_to_string(repository().join("shim/src/table.rs")).unwrap();
    let rows = table.lines().filter_map(|line| line.trim().strip_prefix("(kernel::__NR_"));
    let found: Vec<_> = rows
        .filter_map(|row| row.strip_suffix("),")?.split_once(", Shape::"))
        .map(|(name, shape)| (name.to_owned(), shape.to_owned()))
        .collect();
    assert!(found.len() > 100, "{found:?}");
    found
}

/// The calls that pass, with why.
fn passing() -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for line in include_str!("shim_calls.pass").lines() {
        match (line.strip_prefix("# "), groups.last_mut()) {
            (Some(reason), _) => groups.push((reason.to_owned(), Vec::new())),
            (None, group) => {
                group.unwrap().1.extend(line.split_whitespace().map(str::to_owned));
            }
        }
    }
    groups
}

/// Every call of the kernel's that Rust has a number for, by its name.
fn known() -> BTreeMap<String, u32> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["metadata", "--offline", "--locked", "--format-version", "1"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = cargo.current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let of_all = packages.iter().filter(|package| package["name"] == "linux-raw-sys");
    // The newest knows the most calls.
    let manifests = of_all.filter_map(|package| package["manifest_path"].as_str());
    let manifest = manifests.max().unwrap();
    let source = PathBuf::from(manifest).with_file_name("src/x86_64/general.rs");
    let source = fs::read_to_string(source).unwrap();
    let numbers = source.lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("pub const __NR_")?.split_once(": u32 = ")?;
        Some((name.to_owned(), number.strip_suffix(';')?.parse().ok()?))
    });
    numbers.collect()
}

/// Makes a folder for each call that `probe_calls` makes.
fn fill(source: &Path) {
    let program = fs::read_to_string(repository().join("tests/apps/probe_calls.c")).unwrap();
    let names: BTreeSet<&str> = program
        .split("begin(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap_or_default())
        .collect();
    for name in names {
        let folder = source.join(name);
        for directory in ["d", "d2", "e"] {
            fs::create_dir_all(folder.join(directory)).unwrap();
        }
        for file in ["f", "f2", "f3", "d/in", "d2/in"] {
            fs::write(folder.join(file), "hello\n").unwrap();
        }
        let attribute = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(folder.join("f"), "user.kept", b"yes", attribute).unwrap();
        fs::write(folder.join("x"), "#!/bin/sh\necho ran \"$@\"\n").unwrap();
        fs::set_permissions(folder.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("f3", folder.join("l")).unwrap();
        symlink("d2", folder.join("dl")).unwrap();
    }
}

/// Every call that the shim owns is made of files that nothing has touched before, by number and with flags that mean nothing
/// too, and has the same answers and consequences in real files, in a projection, and in real files beside one.
#[test]
fn every_owned_call_has_the_same_answers() {
    let name = "every_owned_call_has_the_same_answers";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let quiet = ["-Wno-unused-result", "-Wno-unused-value", "-pthread"];
    let probes = [
        compiled_with("probe_calls", "probe_calls", &quiet).unwrap(),
        compiled_with("probe_calls", "probe_calls-static", &[&quiet[..], &["-static"]].concat())
            .unwrap(),
    ];
    if !as_root_and_nobody(name) {
        return;
    }
    for probe in probes {
        let sandbox = Sandbox::new("calls").unwrap();
        let (home, source) = (sandbox.home(), sandbox.path("source"));
        fill(&source);
        let mut old = sandbox.command(&source, "find");
        old.args([".", "-exec", "touch", "-h", "-d", "@1400000000", "{}", "+"]);
        assert!(old.status().unwrap().success());
        rift(&sandbox, &source, &["ingest", ".", "--name", "tree"]);
        let probe = probe.display().to_string();
        let [native, beside] = ["native", "beside"].map(|name| sandbox.path(name));
        for real in [&native, &beside] {
            rift(&sandbox, &home, &["materialize", "tree", &real.display().to_string()]);
        }
        let mut command = sandbox.command(&home, &probe);
        let expected = sandbox.run(command.arg(&native)).unwrap().success().unwrap().stdout;
        let made: BTreeSet<&str> = expected
            .lines()
            .filter(|line| !line.starts_with(['-', ' ']))
            .filter_map(|line| line.split([' ', ':']).next())
            .collect();
        let owned = owned();
        let missing: Vec<_> = owned
            .iter()
            .map(|(name, _)| name)
            .filter(|name| !made.contains(name.as_str()))
            .collect();
        assert!(missing.is_empty(), "tests/apps/probe_calls.c makes no {missing:?}");
        let view = home.join("view");
        for place in [&view, &beside] {
            let place = place.display().to_string();
            let words = ["exec", "--as", "virtual", "--tree", "tree=view", "--", &probe, &place];
            let found = run(&sandbox, &home, &words).success().unwrap().stdout;
            assert_lines(&found, &expected, &format!("{probe} {place}"));
        }
        rift(&sandbox, &home, &["close", "view"]);
        assert_same_but_times(&native, &view);
    }
}

/// A call that the kernel has is owned, or there is a reason to let it pass.
#[test]
fn every_call_is_owned_or_passes_for_a_reason() {
    let name = "every_call_is_owned_or_passes_for_a_reason";
    if !have(name, &[Need::Tool("cargo")]) {
        return;
    }
    let owned: BTreeSet<String> = owned().into_iter().map(|(name, _)| name).collect();
    let listed: Vec<String> = passing().into_iter().flat_map(|(_, names)| names).collect();
    let passing: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), passing.len(), "a call passes for two reasons");
    let both: Vec<_> = owned.intersection(&passing).collect();
    assert!(both.is_empty(), "{both:?} are owned and pass");
    let known: BTreeSet<String> = known().into_keys().collect();
    let all: BTreeSet<String> = owned.union(&passing).cloned().collect();
    let (forgotten, unknown) = (known.difference(&all), all.difference(&known));
    assert_eq!(forgotten.collect::<Vec<_>>(), [""; 0], "neither owned nor listed to pass");
    assert_eq!(unknown.collect::<Vec<_>>(), [""; 0], "no such calls");
}

/// What strace knows to take the name of a file is owned.
#[test]
fn calls_that_name_files_are_owned() {
    let name = "calls_that_name_files_are_owned";
    if !have(name, &[Need::Strace, Need::Tool("cc")]) {
        return;
    }
    let sandbox = Sandbox::new("names-files").unwrap();
    let trace = sandbox.path("trace");
    let mut traced = sandbox.command(&sandbox.home(), "strace");
    traced.args(["-qqq", "-e", "trace=%file", "-o"]).arg(&trace);
    sandbox.run(traced.arg(compiled("all_calls").unwrap())).unwrap().success().unwrap();
    let lines = fs::read_to_string(&trace).unwrap();
    let names: BTreeSet<&str> = lines.lines().filter_map(|line| line.split('(').next()).collect();
    assert!(names.len() > 60, "{names:?}");
    let owned: BTreeSet<String> = owned().into_iter().map(|(name, _)| name).collect();
    // The working directory is always a real one; what strace has no name for it knows nothing of.
    let is_ours = |name: &&&str| owned.contains(**name);
    let is_none = |name: &&&str| **name == "getcwd" || name.starts_with("syscall_");
    let others: Vec<_> = names.iter().filter(|name| !is_ours(name) && !is_none(name)).collect();
    assert!(others.is_empty(), "{others:?} name files and pass");
}

/// What is done with calls of each shape, for who reads of it.
const SHAPES: &[(&str, &[&str], &str)] = &[
    (
        "Look",
        &["Path", "At", "Stat", "StatAt"],
        "The tree answers for what is pristine or missing in it; the kernel for what is real.",
    ),
    (
        "Open",
        &["Open"],
        "A pristine file becomes real first. A pristine directory is opened as its stand-in.",
    ),
    (
        "Change, start, name",
        &["Change"],
        "What is named becomes real, with the way to it; then the kernel does it.",
    ),
    (
        "Ask a descriptor",
        &["Descriptor"],
        "Of a stand-in the tree answers, or the directory becomes real and takes its place.",
    ),
    ("Close", &["Closing"], "What was remembered of the descriptors is forgotten."),
    (
        "Copy a descriptor",
        &["Doubling"],
        "The copy of a stand-in is known as well, and has the same offset.",
    ),
    (
        "Send",
        &["Sending"],
        "The kernel gets the offsets of stand-ins back, which another process may soon have open.",
    ),
    (
        "Become another",
        &["Becoming"],
        "Everything becomes real before the process may not make it so any more.",
    ),
    (
        "Mount, forbid",
        &["Doubting"],
        "From here on nothing is taken for missing that openat2(2) finds neither a file nor a link for.",
    ),
    ("End", &["Ending"], "What was counted is kept."),
    (
        "Keep SIGSYS open",
        &["Masking"],
        "With `--trap` only: the signal is in no mask, and the program's own action for it is remembered.",
    ),
    ("Fork", &["Starting"], "It is noted who shares memory from here on."),
];

fn rows<'n>(title: &str, what: &str, names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    format!("| {title} | {what} | {} |\n", names.join(" "))
}

/// `docs/system-calls.md` tells what the table has.
#[test]
fn the_documented_calls_are_those_of_the_table() {
    let owned = table();
    let mut text = String::from("| Kind | What the shim does | System calls |\n|---|---|---|\n");
    let mut told = 0;
    for (title, shapes, what) in SHAPES {
        let is_one = |shape: &str| shapes.contains(&shape.split('(').next().unwrap_or_default());
        let names = owned.iter().filter(|(_, shape)| is_one(shape)).map(|(name, _)| name);
        told += names.clone().count();
        text += &rows(title, what, names);
    }
    assert_eq!(told, owned.len(), "a shape is told of nowhere");
    text.push_str("\n| They pass because | System calls |\n|---|---|\n");
    for (reason, names) in passing() {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        writeln!(text, "| {reason} | {} |", names.join(" ")).unwrap();
    }
    let documented = fs::read_to_string(repository().join("docs/system-calls.md")).unwrap();
    let found = documented.find("| Kind |").map(|start| &documented[start..]).unwrap_or_default();
    assert_eq!(found, text, "docs/system-calls.md has to end with:\n{text}");
}
