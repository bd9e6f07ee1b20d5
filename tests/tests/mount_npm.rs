//! `npm ci` on mounts where something is in the way: a container's filter, no device, a busy tree, a full store, a disk that
//! gives errors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rift_tests::again::as_root_and_nobody;
use rift_tests::fault::{CrashDisk, Room, SmallDisk};
use rift_tests::fixture::Fixture;
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state, take_tree_in,
    with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::npm_project::add_package;
use rift_tests::refused::{REFUSALS, Refusal};
use rift_tests::sandbox::{Sandbox, clear, rift_binary};
use rift_tests::warm::{Scripts, Warm};
use serde_json::json;

const CI: [&str; 6] = ["exec", "--as", "mount", "--", "npm", "ci"];

/// Where a sandbox has the small project, whose packages npm has in its cache.
fn project(sandbox: &Sandbox, warm: &Warm) -> PathBuf {
    warm.fill_npm_cache(sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    project
}

/// Where mounts are refused, in whatever way a container does it, the tree is there as files, which is said once; also where
/// it was mounted when that was permitted.
#[test]
fn npm_ci_makes_files_where_mounts_are_refused() {
    let name = "npm_ci_makes_files_where_mounts_are_refused";
    let tools = ["cc", "setpriv", "unshare"].map(Need::Tool);
    if !have(name, &[&[Need::Root, Need::Fuse][..], &tools].concat()) {
        return;
    }
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let binary = rift_binary().unwrap();
    let ways =
        if rift_tests::full() { &REFUSALS[..] } else { &[Refusal::Calls, Refusal::Container] };
    for way in ways {
        let sandbox = Sandbox::new("npm-refused").unwrap();
        let project = project(&sandbox, &warm);
        let tree = project.join("node_modules");
        let words = way.words().unwrap();
        let refused = |strict: &str| {
            let mut command = sandbox.command(&project, &words[0]);
            command.args(&words[1..]).arg(&binary).args(CI).arg("--ignore-scripts");
            sandbox.run(command.env("RIFT_STRICT", strict)).unwrap()
        };
        for was_mounted in [false, true] {
            if was_mounted {
                rift(&sandbox, &project, &[&CI[..], &["--ignore-scripts"]].concat());
                assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1));
                fs::write(tree.join("extra"), "").unwrap();
                // As after a restart of the machine.
                let mut unmount = sandbox.command(&sandbox.home(), "umount");
                assert!(unmount.arg("--lazy").arg(&tree).status().unwrap().success());
                eventually(|| servers_of(&tree).is_empty());
            }
            let context = format!("{way:?}, mounted before: {was_mounted}");
            let ran = refused("1");
            assert_eq!(ran.status.code(), Some(125), "{context}: {ran}");
            let ran = refused("0");
            assert_eq!(ran.status.code(), Some(0), "{context}: {ran}");
            assert_eq!(ran.stderr.matches("warning:").count(), 1, "{context}: {ran}");
            let found = (state(&sandbox, &tree), mounts_at(&tree));
            assert_eq!(found, ("current".to_owned(), 0), "{context}: {ran}");
            assert_same(&warm.project(), &project);
            assert!(servers_of(&tree).is_empty(), "{context}");
        }
    }
}

/// A process that works in the tree, and has one of its files open.
struct Busy(std::process::Child);

impl Busy {
    fn inside(sandbox: &Sandbox, tree: &Path) -> Self {
        let mut shell = sandbox.command(&tree.join("react"), "sh");
        shell.args(["-c", "exec 3< index.js; echo go; read line; cat <&3"]);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        Self(child)
    }

    /// What it reads in the end.
    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Who is in the tree while it is installed again goes on with what was there, or hears that it is gone.
#[test]
fn npm_ci_replaces_a_busy_mount() {
    let name = "npm_ci_replaces_a_busy_mount";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let is_wanted = || match rift_tests::full() {
        true => as_root_and_nobody(name),
        false => have(name, &[Need::Root, Need::Fuse]),
    };
    if !is_wanted() {
        return;
    }
    let sandbox = Sandbox::new("npm-busy").unwrap();
    let project = project(&sandbox, &warm);
    let tree = project.join("node_modules");
    let ci = [&CI[..], &["--ignore-scripts"]].concat();
    rift(&sandbox, &project, &ci);
    let text = fs::read_to_string(tree.join("react/index.js")).unwrap();
    let mut expected = warm.project();
    for way in ["unchanged", "edited", "emptied", "removed", "another lockfile"] {
        let busy = Busy::inside(&sandbox, &tree);
        match way {
            "edited" => fs::write(tree.join("react/package.json"), "{}").unwrap(),
            "emptied" => {
                for entry in fs::read_dir(&tree).unwrap() {
                    let path = entry.unwrap().path();
                    let is_folder = path.symlink_metadata().unwrap().is_dir();
                    if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                        .unwrap();
                }
            }
            "removed" => fs::remove_dir_all(&tree).unwrap(),
            "another lockfile" => {
                let files = [("index.js", "module.exports = 1;\n")];
                add_package(&sandbox, &project, "one-more", json!({}), &files).unwrap();
                expected = sandbox.path("expected");
                fs::create_dir(&expected).unwrap();
                for file in ["package.json", "package-lock.json"] {
                    fs::copy(project.join(file), expected.join(file)).unwrap();
                }
                let mut npm = sandbox.npm(&expected, &["ci", "--ignore-scripts"]);
                sandbox.run(&mut npm).unwrap().success().unwrap();
            }
            _ => {}
        }
        rift(&sandbox, &project, &ci);
        assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1), "{way}");
        assert_same(&expected.join("node_modules"), &tree);
        assert_eq!(busy.end(), text, "{way}");
        eventually(|| servers_of(&tree).len() == 1);
    }
    rift(&sandbox, &project, &["close", "--discard", "node_modules"]);
    eventually(|| servers_of(&tree).is_empty());
}

/// A store without room for a state leaves the user's folder alone, and works again when there is some.
#[test]
fn a_full_store_refuses_and_harms_nothing() {
    let name = "a_full_store_refuses_and_harms_nothing";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = Sandbox::new("full-store").unwrap();
    let disk = SmallDisk::mount(&sandbox.store(), 64 << 20, 10_000).unwrap();
    take_tree_in(&sandbox);
    let view = sandbox.home().join("view");
    let filler = sandbox.store().join("filler");
    let error = fs::write(&filler, vec![b'x'; 64 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    for words in [
        &["open", "tree", "view"][..],
        &["exec", "--as", "mount", "--private", "--tree", "tree=view", "--", "true"],
    ] {
        let ran = run(&sandbox, &sandbox.home(), words);
        assert_eq!(ran.status.code(), Some(125), "{ran}");
        assert!(ran.stderr.contains("No space left"), "{ran}");
        assert!(!view.exists() && mounts_at(&view) == 0, "{words:?}");
        assert_eq!(state(&sandbox, &view), "none");
    }
    fs::create_dir(&view).unwrap();
    fs::write(view.join("own"), "own").unwrap();
    let ran = run(&sandbox, &sandbox.home(), &["open", "tree", "view"]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert_eq!(fs::read_to_string(view.join("own")).unwrap(), "own");
    fs::remove_file(&filler).unwrap();
    clear(&view).unwrap();
    rift(&sandbox, &sandbox.home(), &["open", "tree", "view"]);
    assert_eq!(fs::read_to_string(view.join("a")).unwrap(), "hello\n");
    rift(&sandbox, &sandbox.home(), &["close", "view"]);
    assert_same(&sandbox.path("source"), &view);
    drop(disk);
}

/// The same wherever the room ends: block by block and file by file, until there is enough. Nothing half-made is left.
#[test]
fn a_store_that_fills_up_leaves_nothing_half_made() {
    let name = "a_store_that_fills_up_leaves_nothing_half_made";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = Sandbox::new("filling-store").unwrap();
    let disk = SmallDisk::mount(&sandbox.store(), 64 << 20, 10_000).unwrap();
    take_tree_in(&sandbox);
    let view = sandbox.home().join("view");
    let rooms: [fn(u64) -> Room; 2] = [
        |count| Room { blocks: count, inodes: 1_000 },
        |count| Room { blocks: 1_000, inodes: count },
    ];
    let open = &["open", "tree", "view"][..];
    let privately = &["exec", "--as", "mount", "--private", "--tree", "tree=view", "true"];
    for room in rooms {
        for words in [open, privately] {
            let mut refused = 0;
            loop {
                disk.leave(room(refused)).unwrap();
                let ran = run(&sandbox, &sandbox.home(), words);
                let context = format!("{:?}: {ran}", room(refused));
                disk.resize(64 << 20, 10_000).unwrap();
                if ran.status.success() {
                    break;
                }
                refused += 1;
                assert_eq!(ran.status.code(), Some(125), "{context}");
                assert!(ran.stderr.contains("No space left"), "{context}");
                assert_eq!(mounts_at(&view), 0, "{context}");
                // A projection that was made as a whole stays, where it was only not shown.
                let found = state(&sandbox, &view);
                let is_whole = words.len() > 3 && found == "virtual";
                assert!(is_whole || found == "none", "{found}: {context}");
                assert_eq!(view.exists(), is_whole, "{context}");
                for folder in ["tmp", "states"].iter().take(if is_whole { 1 } else { 2 }) {
                    let left = sandbox.store().join(folder).read_dir().map_or(0, Iterator::count);
                    assert_eq!(left, 0, "{folder}: {context}");
                }
            }
            assert!(refused > 0);
            rift(&sandbox, &sandbox.home(), &["close", "view"]);
            assert_same(&sandbox.path("source"), &view);
            clear(&view).unwrap();
            rift(&sandbox, &sandbox.home(), &["store", "verify"]);
        }
    }
}

/// An install into a store without room ends with npm's tree, mounted or not, and the next one with room is mounted.
#[test]
fn npm_ci_ends_with_npms_tree_however_full_the_store_is() {
    let name = "npm_ci_ends_with_npms_tree_however_full_the_store_is";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let sandbox = Sandbox::new("npm-full").unwrap();
    let disk = SmallDisk::mount(&sandbox.store(), 512 << 20, 10_000).unwrap();
    let project = project(&sandbox, &warm);
    let tree = project.join("node_modules");
    let ci = [&CI[..], &["--ignore-scripts"]].concat();
    rift(&sandbox, &project, &ci);
    let mut mounted = 0;
    for count in if rift_tests::full() { 0..40 } else { 0..2 } {
        let blocks = count * if rift_tests::full() { 4 } else { 80 };
        for room in [Room { blocks, inodes: 1_000 }, Room { blocks: 100_000, inodes: count }] {
            // What was there goes: with a new state, or by the fallback.
            fs::write(tree.join("extra"), "").unwrap();
            disk.leave(room).unwrap();
            let ran = rift(&sandbox, &project, &ci);
            let context = format!("{room:?}: {ran}");
            assert!(ran.stderr.matches("warning:").count() <= 1, "{context}");
            let is_mounted = mounts_at(&tree) == 1;
            assert_eq!(mounts_at(&tree), usize::from(is_mounted), "{context}");
            assert_eq!(ran.stderr.contains("warning:"), !is_mounted, "{context}");
            mounted += u32::from(is_mounted);
            assert_same(&warm.project(), &project);
            disk.resize(512 << 20, 10_000).unwrap();
            rift(&sandbox, &project, &ci);
            assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1));
            assert_same(&warm.project(), &project);
            eventually(|| servers_of(&tree).len() == 1);
        }
    }
    assert!(mounted > 0, "there was never enough room");
    rift(&sandbox, &project, &["store", "verify"]);
    rift(&sandbox, &project, &["close", "--discard", "node_modules"]);
}

/// The disk below gives EIO: the program hears of it, the server lives, and what was synced is there afterwards.
#[test]
fn errors_of_the_disk_are_told() {
    let name = "errors_of_the_disk_are_told";
    if !have(name, &[Need::Root, Need::Fuse, Need::PowerLoss]) {
        return;
    }
    let sandbox = with_tree("disk-errors");
    let disk = CrashDisk::new(&sandbox.path("ill"), 64 << 20).unwrap();
    let name = disk.path().strip_prefix(sandbox.path("")).unwrap().join("view");
    for round in 0..if rift_tests::full() { 20 } else { 3 } {
        let mount = open(&sandbox, name.to_str().unwrap());
        let kept = format!("kept {round}");
        let mut synced = fs::File::create(mount.join("lib/kept")).unwrap();
        synced.write_all(kept.as_bytes()).unwrap();
        synced.sync_all().unwrap();
        fs::File::open(mount.join("lib")).unwrap().sync_all().unwrap();
        disk.cut_power(round % 2 == 0).unwrap();
        let code = |error: std::io::Error| error.raw_os_error();
        let eio = Some(Some(libc::EIO));
        assert_eq!(fs::write(mount.join("lib/new"), "new").map_err(code).err(), eio);
        assert_eq!(fs::create_dir(mount.join("empty/new")).map_err(code).err(), eio);
        let late = synced.write_all(b"late").and_then(|()| synced.sync_all());
        assert_eq!(late.map_err(code).err(), eio);
        drop(synced);
        // The tree's own bytes are in the store, on another disk.
        let numbers = fs::read_to_string(mount.join("lib/deep/er/numbers")).unwrap();
        assert!(numbers.ends_with("2999\n"));
        let [server] = servers_of(&mount)[..] else { panic!("the server is gone") };
        kill(server);
        eventually(|| servers_of(&mount).is_empty());
        assert!(Command::new("umount").arg("--lazy").arg(&mount).status().unwrap().success());
        disk.bring_back().unwrap();
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        let found = fs::read_to_string(mount.join("lib/kept")).unwrap();
        assert!(found.starts_with(&kept), "{found}");
        assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "hello\n");
        clear(&mount).unwrap();
    }
}

/// A store whose disk gives EIO: files that are not in memory can't be read, the others can, and the server lives.
#[test]
fn errors_of_the_stores_disk_are_told() {
    let name = "errors_of_the_stores_disk_are_told";
    if !have(name, &[Need::Root, Need::Fuse, Need::PowerLoss]) {
        return;
    }
    let outside = Sandbox::new("ill-store").unwrap();
    let disk = CrashDisk::new(&outside.path("ill"), 256 << 20).unwrap();
    let sandbox = Sandbox::in_folder(&disk.path().join("rift"), "ill-store").unwrap();
    take_tree_in(&sandbox);
    let mount = outside.path("mount");
    rift(&sandbox, &outside.home(), &["open", "tree", &mount.display().to_string()]);
    assert!(Command::new("sync").status().unwrap().success());
    disk.cut_power(true).unwrap();
    let error = fs::read_to_string(mount.join("lib/deep/er/numbers")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read_link(mount.join("bin/x")).unwrap(), Path::new("../lib/x.js"));
    let [server] = servers_of(&mount)[..] else { panic!("the server is gone") };
    kill(server);
    eventually(|| servers_of(&mount).is_empty());
    assert!(Command::new("umount").arg("--lazy").arg(&mount).status().unwrap().success());
    disk.bring_back().unwrap();
    assert_eq!(state(&sandbox, &mount), "unmounted");
    rift(&sandbox, &outside.home(), &["close", &mount.display().to_string()]);
    assert_same(&sandbox.path("source"), &mount);
}
