//! What programs of this machine ask of the C library, and what they ask of the kernel without it.
//!
//! The shim hears of a system call where the C library makes it. So a function that programs import is either known to be
//! about files, by itself or inside, or known not to be; and a program that makes calls of its own is known to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::need::{Need, have};

const NAMES: &str = include_str!("../fixtures/libc-names");
const RAW: &str = include_str!("../fixtures/raw-calls");

/// Runs a command; what it has said, or nothing where it failed.
fn said(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Programs that are there and are no scripts, by their names.
fn tools() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for name in ["node", "git", "python3", "bash", "dash", "tar", "rsync", "perl", "make", "find"] {
        if let Some(path) = said("sh", &["-c", &format!("command -v {name}")]) {
            found.insert(name.to_owned(), PathBuf::from(path.trim()));
        }
    }
    if let Some(path) = said("cc", &["-print-prog-name=cc1"]) {
        found.insert("cc1".to_owned(), PathBuf::from(path.trim()));
    }
    if let Some(root) = said("rustc", &["--print", "sysroot"]) {
        let root = Path::new(root.trim());
        for name in ["rustc", "cargo"] {
            found.insert(name.to_owned(), root.join("bin").join(name));
        }
        for library in std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten() {
            if library.file_name().to_string_lossy().starts_with("librustc_driver") {
                found.insert("librustc_driver".to_owned(), library.path());
            }
        }
    }
    found.retain(|_, path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")));
    found
}

/// The dynamic symbols that nm(1) lists.
fn symbols(path: &Path, which: &str) -> BTreeSet<String> {
    let listed = said("nm", &["-D", which, &path.display().to_string()]).unwrap_or_default();
    let name = |line: &str| Some(line.split_whitespace().last()?.split('@').next()?.to_owned());
    // Of what is defined, only code: `T`, `W` and `i`.
    let is_code = |line: &&str| {
        which == "--undefined-only" || [" T ", " W ", " i "].iter().any(|kind| line.contains(kind))
    };
    listed.lines().filter(is_code).filter_map(name).collect()
}

/// Every function of the C library that a program imports is in a group that is known, and those that are about files are
/// found by what they do.
#[test]
fn what_programs_import_is_known() {
    let name = "what_programs_import_is_known";
    if !have(name, &[Need::Tool("nm"), Need::Tool("cc")]) {
        return;
    }
    let library = said("cc", &["-print-file-name=libc.so.6"]).unwrap();
    let exported = symbols(Path::new(library.trim()), "--defined-only");
    assert!(exported.len() > 1000, "{library} exports {}", exported.len());
    let known: BTreeSet<&str> = NAMES
        .lines()
        .filter(|line| !line.starts_with("# "))
        .flat_map(str::split_whitespace)
        .collect();
    let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let tools = tools();
    assert!(tools.len() > 5, "{tools:?}");
    for (tool, path) in &tools {
        let imported = symbols(path, "--undefined-only");
        for function in imported.intersection(&exported).filter(|one| !known.contains(one.as_str()))
        {
            unknown.entry(function.clone()).or_default().push(tool.clone());
        }
    }
    assert!(unknown.is_empty(), "tests/fixtures/libc-names does not tell of {unknown:#?}");
}

/// System calls that programs make by instructions of their own are expected.
#[test]
fn programs_make_no_other_calls_of_their_own() {
    let name = "programs_make_no_other_calls_of_their_own";
    if !have(name, &[Need::Tool("objdump")]) {
        return;
    }
    let expected: BTreeMap<&str, usize> = RAW
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(tool, rest)| (tool, rest.split(' ').next().unwrap().parse().unwrap()))
        .collect();
    // Those of tens of megabytes take minutes.
    let is_small = |path: &PathBuf| path.metadata().unwrap().len() < 8 << 20;
    for (tool, path) in tools().iter().filter(|(_, path)| rift_tests::full() || is_small(path)) {
        let line = "objdump -d --no-show-raw-insn \"$0\" | grep -cE '[[:space:]](syscall|sysenter|int +\\$0x80)[[:space:]]*$'";
        let output = Command::new("sh").args(["-c", line]).arg(path).output().unwrap();
        let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        let most = expected.get(tool.as_str()).copied().unwrap_or(0);
        assert!(count <= most, "{tool} ({}) has {count} instead of {most}", path.display());
    }
}
