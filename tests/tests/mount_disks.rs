//! Mounted projections on disks that are full, have bad blocks or give errors: below the store, and below the directory that
//! changes go to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{Error, Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use rift_tests::again::apart;
use rift_tests::bad_disk::{BadDisk, bad_content};
use rift_tests::fault::{CrashDisk, Room, SmallDisk};
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state, take_tree_in,
    uncover, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{Sandbox, clear};

const NEEDS: [Need; 5] =
    [Need::Root, Need::Fuse, Need::Tool("mkfs.ext4"), Need::Tool("losetup"), Need::Tool("umount")];

const EIO: Option<i32> = Some(libc::EIO);

fn code<T>(result: Result<T, Error>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A file of the tree that can't be read any more is an error for who reads it; the others are there.
#[test]
fn a_bad_block_of_the_store_spoils_one_file() {
    let name = "a_bad_block_of_the_store_spoils_one_file";
    if !have(name, &NEEDS) {
        return;
    }
    let outside = Sandbox::new("bad-store").unwrap();
    let disk = BadDisk::new(&outside.path("ill"), 128 << 20).unwrap();
    let sandbox = Sandbox::in_folder(&disk.path().join("rift"), "bad-store").unwrap();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for folder in ["before", "behind"] {
        fs::create_dir(source.join(folder)).unwrap();
        fs::write(source.join(folder).join("good"), vec![b'g'; 1 << 20]).unwrap();
    }
    fs::write(source.join("before/bad"), bad_content()).unwrap();
    take_tree_in(&sandbox);
    let mount = outside.path("mount");
    let shown = mount.display().to_string();
    disk.remount().unwrap();
    disk.go_bad(true);
    rift(&sandbox, &outside.home(), &["open", "tree", &shown]);
    let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
    let bad = mount.join("before/bad");
    for _ in 0..3 {
        assert_eq!(code(fs::read(&bad)), EIO);
        for folder in ["before", "behind"] {
            let good = fs::read(mount.join(folder).join("good")).unwrap();
            assert!(good.len() == 1 << 20 && good.iter().all(|byte| *byte == b'g'));
        }
        // It can't be made real, and is not there by half.
        let appended = fs::File::options().append(true).open(&bad);
        assert_eq!(code(appended.and_then(|mut file| file.write_all(b"more"))), EIO);
        assert_eq!(fs::metadata(&bad).unwrap().len(), bad_content().len() as u64);
        fs::write(mount.join("lib/x.js"), "changed").unwrap();
        assert_eq!(fs::read_to_string(mount.join("lib/x.js")).unwrap(), "changed");
    }
    let ran = run(&sandbox, &outside.home(), &["close", &shown]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert!(ran.stderr.contains("Input/output error"), "{ran}");
    assert_eq!((state(&sandbox, &mount).as_str(), mounts_at(&mount)), ("mounted", 1));
    assert_eq!(servers_of(&mount), [server]);
    // As files it is not to be had either.
    let files = outside.path("files");
    let ran =
        run(&sandbox, &outside.home(), &["materialize", "tree", &files.display().to_string()]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert!(!files.exists(), "{ran}");
    // Once they are good again, nothing was lost.
    disk.go_bad(false);
    rift(&sandbox, &outside.home(), &["close", &shown]);
    assert_eq!(fs::read(&bad).unwrap(), bad_content());
    assert_eq!(fs::read_to_string(mount.join("lib/x.js")).unwrap(), "changed");
    eventually(|| servers_of(&mount).is_empty());
}

/// A change that the disk does not take is an error for who syncs it; and one that it does not give back, for who reads it.
#[test]
fn a_bad_block_below_a_mount_spoils_one_change() {
    let name = "a_bad_block_below_a_mount_spoils_one_change";
    if !have(name, &NEEDS) {
        return;
    }
    let sandbox = with_tree("bad-upper");
    let disk = BadDisk::new(&sandbox.path("ill"), 128 << 20).unwrap();
    let mount = open(&sandbox, "ill/disk/view");
    let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
    let put = |path: &str, bytes: &[u8]| {
        let mut file = fs::File::create(mount.join(path))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    put("lib/kept-bad", &bad_content()).unwrap();
    put("lib/kept", b"kept").unwrap();
    disk.go_bad(true);
    for round in 0..3 {
        assert_eq!(code(put("lib/new-bad", &bad_content())), EIO, "{round}");
        put("lib/new", b"new").unwrap();
        // One that the tree has, too.
        let mut numbers = fs::File::options().append(true).open(mount.join("lib/deep/er/numbers"));
        let numbers = numbers.as_mut().unwrap();
        let changed = numbers.write_all(&bad_content()).and_then(|()| numbers.sync_all());
        assert_eq!(code(changed), EIO, "{round}");
        let mut start = [0; 6];
        fs::File::open(mount.join("lib/deep/er/numbers")).unwrap().read_exact(&mut start).unwrap();
        assert_eq!(&start, b"0\n1\n2\n");
        assert_eq!(servers_of(&mount), [server]);
    }
    for gone in ["lib/new-bad", "lib/deep/er/numbers"] {
        fs::remove_file(mount.join(gone)).unwrap();
    }
    // Nothing of it stays in memory.
    kill(server);
    uncover(&sandbox, &mount);
    eventually(|| disk.remount().is_ok());
    let tree = format!("tree={}", mount.display());
    rift(&sandbox, &sandbox.home(), &["exec", "--as", "mount", "--tree", &tree, "true"]);
    assert_eq!((state(&sandbox, &mount).as_str(), mounts_at(&mount)), ("mounted", 1));
    assert_eq!(code(fs::read(mount.join("lib/kept-bad"))), EIO);
    let read = |path: &str| fs::read_to_string(mount.join(path)).unwrap();
    assert_eq!((read("lib/kept"), read("lib/new")), ("kept".to_owned(), "new".to_owned()));
    disk.go_bad(false);
    assert_eq!(fs::read(mount.join("lib/kept-bad")).unwrap(), bad_content());
    rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
    for gone in ["lib/kept-bad", "lib/kept", "lib/new"] {
        fs::remove_file(mount.join(gone)).unwrap();
    }
    let mut copy = sandbox.command(&sandbox.home(), "cp");
    copy.args(["-a", "."]).arg(&mount).current_dir(sandbox.path("source"));
    assert!(copy.status().unwrap().success());
    assert_same(&sandbox.path("source"), &mount);
    eventually(|| servers_of(&mount).is_empty());
    clear(Path::new(&mount)).unwrap();
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

/// The disk below gives EIO: the program hears of it, the server lives, and what was synced is there afterwards.
#[test]
fn errors_of_the_disk_are_told() {
    let name = "errors_of_the_disk_are_told";
    if !have(name, &[Need::Root, Need::Fuse, Need::PowerLoss]) || !apart(name) {
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
        uncover(&sandbox, &mount);
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
    if !have(name, &[Need::Root, Need::Fuse, Need::PowerLoss]) || !apart(name) {
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
    uncover(&outside, &mount);
    disk.bring_back().unwrap();
    assert_eq!(state(&sandbox, &mount), "unmounted");
    rift(&sandbox, &outside.home(), &["close", &mount.display().to_string()]);
    assert_same(&sandbox.path("source"), &mount);
}
