//! Mounted projections on disks with bad blocks: below the store, and below the directory that changes go to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{Error, Read as _, Write as _};
use std::path::Path;

use rift_tests::bad_disk::{BadDisk, bad_content};
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state, take_tree_in,
    with_tree,
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
    eventually(|| servers_of(&mount).is_empty());
    let mut unmount = sandbox.command(&sandbox.home(), "umount");
    assert!(unmount.arg("--lazy").arg(&mount).status().unwrap().success());
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
