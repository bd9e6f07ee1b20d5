//! Programs in C, in Rust and of shells that ask for files by way of their libraries: the same answers natively, in a
//! projection, and under the shim beside one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::apps::compiled_with;
use rift_tests::need::{Need, have};
use rift_tests::pair::Pair;
use rift_tests::sandbox::clear;
use rift_tests::{repository, target_folder};

/// The tree that the probes ask about.
fn fill(source: &Path) {
    for folder in ["dir/deep", "libs/deep", "many", "gone", "zones", "programs"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    for (path, text) in [
        ("text", "hello\n"),
        ("dir/one", "one\n"),
        ("dir/two", "two\n"),
        ("dir/deep/three", "three\n"),
        ("table", "x /there y z 0 0\n"),
        ("gone/x", "x\n"),
        ("programs/tool", "#!/bin/sh\necho tool \"$@\"\n"),
        ("programs/bare", "echo bare \"$@\"\n"),
    ] {
        fs::write(source.join(path), text).unwrap();
    }
    for number in 0..40 {
        fs::write(source.join(format!("many/{number}")), format!("{number}\n")).unwrap();
    }
    symlink("dir", source.join("link")).unwrap();
    fs::copy("/bin/sh", source.join("programs/real")).unwrap();
    for program in ["tool", "bare", "real"] {
        let may = fs::Permissions::from_mode(0o755);
        fs::set_permissions(source.join("programs").join(program), may).unwrap();
    }
    // A zone of its own: three hours behind, without a summer.
    let mut zone = b"TZif".to_vec();
    zone.extend([0; 16]);
    for count in [0_u32, 0, 0, 0, 1, 4] {
        zone.extend(count.to_be_bytes());
    }
    zone.extend((-3 * 3600_i32).to_be_bytes());
    zone.extend(b"\0\0TST\0");
    fs::write(source.join("zones/Test"), zone).unwrap();
    let line = "echo 'int two(void) { return 2; }' | cc -xc - -shared -fPIC -o libs/deep/libtwo.so; \
                echo 'int two(void); int one(void) { return 1 + two(); }' | \
                cc -xc - -shared -fPIC -Llibs/deep -ltwo '-Wl,-rpath,$ORIGIN/deep' -o libs/libone.so";
    let mut command = Command::new("sh");
    assert!(command.args(["-ec", line]).current_dir(source).status().unwrap().success());
}

/// Compiles the probe in Rust.
fn rust_probe(name: &str, words: &[&str]) -> PathBuf {
    let folder = target_folder().unwrap().join("apps");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(name);
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-O"]).args(words).arg("-o").arg(&program);
    assert!(rustc.arg(repository().join("tests/apps/probe_std.rs")).status().unwrap().success());
    program
}

fn assert_same_everywhere(probes: &[&[&str]], wanted: &str) {
    let pair = Pair::new("apis", |_, source| fill(source));
    for probe in probes {
        pair.copy();
        let expected = pair.assert_same(&[probe, &["view"][..]].concat(), wanted);
        pair.end();
        clear(&pair.shim.join("view")).unwrap();
        let beside = pair.shim.join("beside");
        clear(&beside).unwrap();
        let mut copy = pair.sandbox.command(&pair.shim, "cp");
        let source = pair.sandbox.path("source");
        assert!(copy.arg("-a").arg(source).arg(&beside).status().unwrap().success());
        let mut command = pair.command("view", &[probe, &["beside"][..]].concat());
        let ran = pair.sandbox.run(&mut command).unwrap().success().unwrap();
        assert!(expected.contains(&ran.stdout), "{probe:?} beside: {expected}\n{ran}");
        pair.begin_again();
    }
}

/// The calls of a C library that make system calls of their own: stdio, temporary files, lists, locales and time zones,
/// programs that are started in each way, streams that are shared, sent and sought in, libraries that bring others.
#[test]
fn the_c_library_has_the_same_answers() {
    let name = "the_c_library_has_the_same_answers";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let quiet = ["-Wno-unused-result", "-Wno-unused-value", "-pthread"];
    let fixed = [&quiet[..], &["-static", "-DSTATIC", "-w"]].concat();
    let probes = [
        compiled_with("probe_libc", "probe_libc", &quiet).unwrap(),
        compiled_with("probe_libc", "probe_libc-static", &fixed).unwrap(),
    ];
    let [dynamic, fixed] = probes.map(|probe| probe.display().to_string());
    assert_same_everywhere(&[&[&dynamic]], "dlopen: 3\nmapped 3");
    assert_same_everywhere(&[&[&fixed]], "threads went wrong 0 times");
}

/// Rust's library, linked with the C library of the machine and without any.
#[test]
fn rusts_library_has_the_same_answers() {
    let name = "rusts_library_has_the_same_answers";
    if !have(name, &[Need::Tool("rustc"), Need::Tool("cc")]) {
        return;
    }
    let probes = [
        rust_probe("probe_std", &[]),
        rust_probe("probe_std-static", &["-C", "target-feature=+crt-static"]),
    ];
    let [dynamic, fixed] = probes.map(|probe| probe.display().to_string());
    assert_same_everywhere(&[&[&dynamic], &[&fixed]], "tool y");
}

/// Shells: tests, globs, redirections, substitutions, programs on a path of the tree.
#[test]
fn shells_have_the_same_answers() {
    let name = "shells_have_the_same_answers";
    if !have(name, &["cc", "dash", "bash"].map(Need::Tool)) {
        return;
    }
    let script = repository().join("tests/apps/probe.sh").display().to_string();
    assert_same_everywhere(&[&["dash", &script], &["bash", &script]], "tool one two");
}
