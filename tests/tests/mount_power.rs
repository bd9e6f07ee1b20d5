//! Power losses under mounted trees: what was synced is there, and what nobody touched is whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rift_tests::again::apart;
use rift_tests::fault::{CrashDisk, Dice};
use rift_tests::mounts::{
    eventually, kill, mounts_at, open, rift, servers_of, state, take_files_in, take_tree_in,
    uncover, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::repository;
use rift_tests::sandbox::{Sandbox, clear};

/// What there has to be after the loss.
#[derive(Debug, Clone, PartialEq)]
enum Then {
    /// These bytes.
    Bytes(String),
    /// These bytes, or nothing by that name.
    BytesOrNothing(String),
    /// Nothing by that name.
    Nothing,
    /// Whatever a native file system may leave of a file that was not synced.
    Anything,
}

fn sync(path: &Path) {
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// Does one thing to the mount and notes what follows from it.
fn change(mount: &Path, dice: &mut Dice, round: u64, expected: &mut Vec<(String, Then)>) {
    let mut then = |path: &str, then: Then| {
        expected.retain(|(known, _)| known != path);
        expected.push((path.to_owned(), then));
    };
    let number = dice.below(1_000);
    let is_synced = dice.below(2) == 0;
    match dice.below(6) {
        0 => {
            let (path, text) = (format!("lib/deep/new-{number}"), format!("text {number}\n"));
            let mut file = fs::File::create(mount.join(&path)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            if is_synced {
                file.sync_all().unwrap();
                sync(&mount.join("lib/deep"));
            }
            then(&path, if is_synced { Then::Bytes(text) } else { Then::Anything });
        }
        // Real for the sake of its mode alone: its bytes are the tree's, synced or not.
        1 => {
            for path in ["a", "lib/x.js", "lib/deep/er/numbers"] {
                let is_there = !expected.iter().any(|(known, _)| known == path);
                if is_there && dice.below(2) == 0 {
                    let mode = fs::Permissions::from_mode(0o600 + dice.below(0o77) as u32);
                    fs::set_permissions(mount.join(path), mode).unwrap();
                }
            }
        }
        2 if !expected.iter().any(|(known, _)| known == "a") => {
            let mut file = fs::File::options().append(true).open(mount.join("a")).unwrap();
            file.write_all(b"more\n").unwrap();
            if is_synced {
                file.sync_all().unwrap();
            }
            let text = "hello\nmore\n".to_owned();
            expected
                .push(("a".to_owned(), if is_synced { Then::Bytes(text) } else { Then::Anything }));
        }
        3 if !expected.iter().any(|(known, _)| known == "lib/x.js") => {
            fs::remove_file(mount.join("lib/x.js")).unwrap();
            if is_synced {
                sync(&mount.join("lib"));
            }
            let then = if is_synced { Then::Nothing } else { Then::BytesOrNothing("lib".into()) };
            expected.push(("lib/x.js".to_owned(), then));
        }
        4 if !expected.iter().any(|(known, _)| known == "d e/b") => {
            fs::rename(mount.join("d e/b"), mount.join("d e/c")).unwrap();
            if is_synced {
                sync(&mount.join("d e"));
            }
            let old = if is_synced { Then::Nothing } else { Then::Anything };
            let new = if is_synced { Then::Bytes(String::new()) } else { Then::Anything };
            expected.extend([("d e/b".to_owned(), old), ("d e/c".to_owned(), new)]);
        }
        _ => {
            let path = format!("made-{round}-{number}");
            fs::create_dir(mount.join(&path)).unwrap();
        }
    }
}

#[test]
fn a_mount_survives_power_losses() {
    let name = "a_mount_survives_power_losses";
    if !have(name, &[Need::Root, Need::Fuse, Need::PowerLoss]) || !apart(name) {
        return;
    }
    let outside = Sandbox::new("mount-power-disk").unwrap();
    let disk = CrashDisk::new(&outside.path("power"), 256 << 20).unwrap();
    let sandbox = Sandbox::in_folder(&disk.path().join("rift"), "mount-power").unwrap();
    take_tree_in(&sandbox);
    let mut dice = Dice::new(7);
    let tree = [
        ("a", "hello\n".to_owned()),
        ("lib/x.js", "lib".to_owned()),
        ("lib/deep/er/numbers", (0..3000).map(|number| format!("{number}\n")).collect()),
        ("d e/b", String::new()),
        ("shut/in", "shut".to_owned()),
    ];
    for round in 0..if rift_tests::full() { 120 } else { 5 } {
        let mount = open(&sandbox, "mount");
        assert!(Command::new("sync").status().unwrap().success());
        let mut expected = Vec::new();
        for _ in 0..dice.below(12) {
            change(&mount, &mut dice, round, &mut expected);
        }
        // Every third time the power goes while everything is being written.
        let words = ["close", &mount.display().to_string()].map(ToOwned::to_owned);
        let mut close = (round % 3 == 2).then(|| {
            let words = words.each_ref().map(String::as_str);
            let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(dice.below(30_000)));
            child
        });
        disk.cut_power(round % 2 == 0).unwrap();
        let is_closing = close.is_some();
        if let Some(child) = &mut close {
            child.wait().unwrap();
        }
        for server in servers_of(&mount) {
            kill(server);
        }
        eventually(|| servers_of(&mount).is_empty());
        let mut unmount = Command::new("umount");
        let is_unmounted = unmount.arg("--lazy").arg(&mount).stderr(Stdio::null()).status();
        assert!(is_unmounted.unwrap().success() || is_closing);
        disk.bring_back().unwrap();
        be_another_boot(&sandbox);
        let found = state(&sandbox, &mount);
        let is_closed = is_closing && found == "current";
        assert!(found == "unmounted" || is_closed, "round {round}: {found}");
        if !is_closed {
            rift(&sandbox, &sandbox.home(), &words.each_ref().map(String::as_str));
        }
        for (path, text) in &tree {
            if !expected.iter().any(|(known, _)| known == path) {
                expected.push(((*path).to_owned(), Then::Bytes(text.clone())));
            }
        }
        for (path, then) in expected {
            let found = fs::read_to_string(mount.join(&path)).ok();
            let is_right = match &then {
                Then::Bytes(text) => found.as_ref() == Some(text),
                Then::BytesOrNothing(text) => found.as_ref().is_none_or(|found| found == text),
                Then::Nothing => found.is_none(),
                Then::Anything => true,
            };
            assert!(is_right, "round {round}: {path} should be {then:?}, is {found:?}");
        }
        rift(&sandbox, &sandbox.home(), &["store", "verify"]);
        assert_eq!(mounts_at(&mount), 0);
        assert!(!mount.join(".rift-orphans").exists());
        clear(&mount).unwrap();
    }
}

/// A state on another disk knows of all that was done, and the directory's disk has lost some of it: what nobody has
/// changed is there all the same, and what was synced.
#[test]
fn a_state_on_another_disk_survives_power_losses() {
    let name = "a_state_on_another_disk_survives_power_losses";
    let needs = [Need::Root, Need::Fuse, Need::PowerLoss, Need::Tool("python3")];
    if !have(name, &needs) || !apart(name) {
        return;
    }
    let program = repository().join("tests/apps/before_power_loss.py").display().to_string();
    let sandbox = Sandbox::new("power-apart").unwrap();
    let disk = CrashDisk::new(&sandbox.path("power"), 256 << 20).unwrap();
    let file = |number: usize| {
        let path = format!("{}/{}/file-{number}", number % 5, number % 3);
        (path, format!("{number}\n").repeat(number * number * 3))
    };
    take_files_in(&sandbox, (0..60).map(file));
    let (view, notes) = (disk.path().join("view"), sandbox.path("notes"));
    let [shown, notes] = [&view, &notes].map(|path| path.display().to_string());
    let python = |words: &[&str]| {
        let mut command = sandbox.command(&sandbox.home(), "python3");
        sandbox.run(command.arg(&program).args(words)).unwrap().success().unwrap().stdout
    };
    let seed = u64::from(std::process::id());
    let mut dice = Dice::new(seed);
    for round in 0..if rift_tests::full() { 120 } else { 6 } {
        let context = format!("seed {seed}, round {round}");
        rift(&sandbox, &sandbox.home(), &["open", "tree", &shown]);
        rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
        let round_seed = dice.below(1 << 32).to_string();
        python(&["change", &shown, &notes, &round_seed, "40"]);
        disk.cut_power(round % 2 == 0).unwrap();
        servers_of(&view).into_iter().for_each(kill);
        uncover(&sandbox, &view);
        disk.bring_back().unwrap();
        be_another_boot(&sandbox);
        let tree = format!("tree={shown}");
        rift(&sandbox, &sandbox.home(), &["exec", "--as", "mount", "--tree", &tree, "true"]);
        assert_eq!(python(&["check", &shown, &notes]), "\n", "{context}, mounted");
        rift(&sandbox, &sandbox.home(), &["close", &shown]);
        assert_eq!(python(&["check", &shown, &notes]), "\n", "{context}, closed");
        assert_eq!(mounts_at(&view), 0);
        assert!(!view.join(".rift-orphans").exists());
        clear(&view).unwrap();
    }
    rift(&sandbox, &sandbox.home(), &["store", "verify"]);
}

/// The state files of a sandbox's store.
fn state_files(sandbox: &Sandbox) -> Vec<fs::File> {
    let listed = fs::read_dir(sandbox.store().join("states")).unwrap();
    let paths = listed.map(|file| file.unwrap().path()).filter(|path| path.extension().is_none());
    let open = |path| fs::File::options().read(true).write(true).open(path).unwrap();
    paths.map(open).collect()
}

/// After a loss of power the machine has booted again; this one has not.
fn be_another_boot(sandbox: &Sandbox) {
    for file in state_files(sandbox) {
        file.write_all_at(&[7; 16], 64).unwrap();
    }
}

/// The state may be on the disk when what it tells of is not. What another boot does not find was lost, unless it was
/// said to be removed; what the same boot does not find somebody removed.
#[test]
fn what_the_disk_never_heard_of_is_the_trees_again() {
    let name = "what_the_disk_never_heard_of_is_the_trees_again";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("rolled-back");
    for is_other_boot in [false, true] {
        let mount = open(&sandbox, "mount");
        let mode = fs::Permissions::from_mode(0o600);
        for path in ["a", "lib/x.js", "lib/deep/er/numbers"] {
            fs::set_permissions(mount.join(path), mode.clone()).unwrap();
        }
        fs::remove_file(mount.join("lib/x.js")).unwrap();
        fs::rename(mount.join("lib/deep/er/numbers"), mount.join("moved")).unwrap();
        fs::write(mount.join("other"), "other").unwrap();
        fs::rename(mount.join("other"), mount.join("d e/b")).unwrap();
        uncover(&sandbox, &mount);
        // What the disk would have lost: that `a` became real, and that `d e/b` was replaced.
        fs::remove_file(mount.join("a")).unwrap();
        fs::remove_file(mount.join("d e/b")).unwrap();
        if is_other_boot {
            be_another_boot(&sandbox);
        }
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        let found = |path: &str| fs::read_to_string(mount.join(path)).ok();
        let tree = |text: &str| is_other_boot.then(|| text.to_owned());
        assert_eq!(found("a"), tree("hello\n"), "lost: {is_other_boot}");
        assert_eq!(found("d e/b"), tree(""), "lost: {is_other_boot}");
        assert_eq!(found("lib/x.js"), None, "removed by the program");
        assert_eq!(found("lib/deep/er/numbers"), None, "moved by the program");
        assert_eq!(found("moved").unwrap().lines().count(), 3000);
        clear(&mount).unwrap();
    }
}

/// A state that a full disk or a crash has cut is as good as none: what is real is found again.
#[test]
fn a_state_that_was_cut_is_made_anew() {
    let name = "a_state_that_was_cut_is_made_anew";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("cut-state");
    for length in [0, 3, 80, 100] {
        let mount = open(&sandbox, "mount");
        fs::write(mount.join("a"), "changed").unwrap();
        uncover(&sandbox, &mount);
        state_files(&sandbox)[0].set_len(length).unwrap();
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "changed");
        assert_eq!(fs::read_to_string(mount.join("lib/x.js")).unwrap(), "lib");
        assert_eq!(mounts_at(&mount), 0);
        clear(&mount).unwrap();
    }
}
