//! Power loss and full disks, with the real thing: an ext4 image on a loop device that is shut down
//! under the store, and small tmpfs mounts. What can't be done here is skipped, and says so.
//!
//! `RIFT_TEST_FULL=1` pulls the plug twenty times as often.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rift_cas::record::Kind;
use rift_cas::verify::verify;
use rift_cas::{Error, Store, gc};
use support::*;

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    match output {
        Err(error) => Err(format!("{program}: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{program} {}: {text}", arguments.join(" ")))
        }
    }
}

/// A mounted file system, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, arguments: &[&str]) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        let path = at.to_str().unwrap().to_owned();
        run("mount", &[arguments, &[&path]].concat()).map(|()| Self(at))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[self.path()]) {
            println!("{error}");
            run("umount", &["-l", self.path()]).unwrap();
        }
    }
}

/// What the children of these tests do; a test of its own that has nothing to do otherwise.
#[test]
fn child_process() {
    let Some((task, root)) = child_task() else {
        return;
    };
    let mut seed: u64 = task.parse().unwrap();
    // The disk goes away at some point; that is the end.
    while publish_and_report(&root, seed).is_ok() {
        seed += 1;
    }
}

fn publish_and_report(root: &Path, seed: u64) -> Result<(), Error> {
    let store = Store::open(root)?;
    let mut files = some_files(seed, 10, 4000);
    if seed.is_multiple_of(6) {
        files.insert("large".to_owned(), vec![seed as u8; 8 << 20]);
    }
    let name = format!("plan{seed}");
    let tree = publish(&store, &name, &files)?;
    store.set_ref(&format!("ref{seed}"), tree)?;
    println!("published {seed}");
    if let Some(open) = store.open_tree(tree)?
        && seed.is_multiple_of(4)
    {
        store.linker(&open, options())?;
    }
    if seed.is_multiple_of(3) {
        publish(&store, "passing", &some_files(seed + 500_000, 10, 9000))?;
        store.remove_record(Kind::Plan, "passing")?;
        let options = gc::Options { grace: Duration::ZERO, ..Default::default() };
        gc::collect(&store, &options)?;
    }
    if seed.is_multiple_of(6) {
        // Large ones would fill the image.
        store.remove_record(Kind::Ref, &format!("ref{seed}"))?;
        store.remove_record(Kind::Plan, &name)?;
        println!("removed {seed}");
    }
    Ok(())
}

/// Tells whether a test is to go on in this process: as root it runs in a mount namespace of its own, for a program beside that
/// copied its mounts would keep a disk that was shut down as it is.
fn apart(test: &str) -> bool {
    const APART: &str = "RIFT_TEST_APART";
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let words = ["--mount", "--propagation", "private"];
    if let Err(reason) = run("unshare", &[&words[..], &["true"]].concat()) {
        println!("skipped: needs a mount namespace: {reason}");
        return false;
    }
    let mut again = Command::new("unshare");
    again.args(words).arg(std::env::current_exe().unwrap());
    let status = again.args(["--exact", test, "--nocapture"]).env(APART, "1").status().unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

#[test]
fn what_was_reported_published_survives_a_power_loss() {
    if !apart("what_was_reported_published_survives_a_power_loss") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
    let image = image.to_str().unwrap().to_owned();
    let at = folder.path().join("disk");
    let mount = || Mount::new(at.clone(), &["-o", "loop", &image]);
    let ready = run("mkfs.ext4", &["-q", "-F", &image])
        .and_then(|()| run("xfs_io", &["-V"]))
        .and_then(|()| mount());
    let mut disk = match ready {
        Ok(disk) => disk,
        Err(reason) => {
            println!("skipped: needs root, loop devices, mkfs.ext4 and xfs_io: {reason}");
            return;
        }
    };
    let root = at.join("store");
    let mut published: Vec<u64> = Vec::new();
    let rounds = if is_full() { 120 } else { 6 };
    for round in 0..rounds {
        let mut child = child("child_process", &(round * 10_000).to_string(), &root);
        std::thread::sleep(Duration::from_millis(80 + round * 37 % 400));
        // Nothing that was not synced reaches the disk any more, in some rounds not even metadata.
        let how = if round.is_multiple_of(2) { "shutdown" } else { "shutdown -f" };
        run("xfs_io", &["-x", "-c", how, disk.path()]).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        disk = bring_back(disk, mount);
        for line in text.lines() {
            let seed = |word| line.strip_prefix(word).map(|seed: &str| seed.parse().unwrap());
            published.extend(seed("published "));
            let removed: Option<u64> = seed("removed ");
            published.retain(|seed| Some(*seed) != removed);
        }
        // One that was on its way out may be either.
        let last_large = published.iter().copied().rfind(|seed| seed % 6 == 0);
        published.retain(|seed| Some(*seed) != last_large);
        check_after_loss(&root, round, &published);
        if is_full() && round % 10 == 9 {
            published.drain(..).for_each(|seed| forget(&root, seed));
        }
    }
    assert!(!published.is_empty() || is_full(), "no child got anything done");
}

/// Mounts a file system anew that was shut down.
fn bring_back(disk: Mount, mount: impl Fn() -> Result<Mount, String>) -> Mount {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut before = disk;
    loop {
        drop(before);
        let disk = mount().unwrap();
        // Until the last process that was killed has closed its files the file system lives on as it was left: off.
        let probe = disk.0.join("probe");
        let tried = std::fs::File::create(&probe).and_then(|file| file.sync_all());
        match tried.and_then(|()| std::fs::remove_file(&probe)) {
            Ok(()) => return disk,
            Err(error) => assert!(Instant::now() < deadline, "it stays off: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
        before = disk;
    }
}

/// Makes room: removes what a round has brought.
fn forget(root: &Path, seed: u64) {
    let store = Store::open(root).unwrap();
    store.remove_record(Kind::Ref, &format!("ref{seed}")).unwrap();
    store.remove_record(Kind::Plan, &format!("plan{seed}")).unwrap();
}

fn check_after_loss(root: &Path, round: u64, published: &[u64]) {
    let store = Store::open(root).unwrap();
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "round {round}: {report:#?}");
    let out = root.with_file_name("out");
    for seed in published {
        let tree = store.get_ref(&format!("ref{seed}")).unwrap();
        let tree = tree.unwrap_or_else(|| panic!("round {round}: ref{seed} is lost"));
        let read = read_back(&store, tree, &out).unwrap();
        assert_eq!(read, Some(some_files(*seed, 10, 4000)), "round {round}: {seed}");
    }
    let files = some_files(900_000 + round, 5, 2000);
    let tree = publish(&store, "next", &files).unwrap();
    assert_eq!(read_back(&store, tree, &out).unwrap(), Some(files), "round {round}");
}

/// Mounts a tmpfs below `folder`; says why not where that can't be.
fn memory_disk(folder: &Path, options: &str) -> Option<Mount> {
    Mount::new(folder.join("disk"), &["-t", "tmpfs", "-o", options, "t"])
        .inspect_err(|reason| println!("skipped: needs root to mount a tmpfs: {reason}"))
        .ok()
}

/// Fills a store on a small tmpfs until it refuses, and checks that it is whole, says why, and works
/// again once there is room.
fn fill(options: &str, count: usize, size: usize) {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = memory_disk(folder.path(), options) else {
        return;
    };
    let root = disk.0.join("store");
    let store = Store::open(&root).unwrap();
    let out = folder.path().join("out");
    let mut trees = Vec::new();
    let error = (0..).find_map(|seed| {
        let files = some_files(seed, count, size);
        match publish(&store, &format!("plan{seed}"), &files) {
            Ok(tree) => {
                trees.push((tree, files));
                None
            }
            Err(error) => Some(error),
        }
    });
    let error = error.unwrap();
    assert_eq!(error.errno(), 28, "{error:?}");
    assert!(error.to_string().starts_with("could not "), "{error}");
    assert!(trees.len() > 1, "the first ones fit");
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    assert_eq!(plan(&store, &format!("plan{}", trees.len())), None, "half published");
    for (tree, files) in &trees {
        assert_eq!(read_back(&store, *tree, &out).unwrap().as_ref(), Some(files));
    }
    // gc frees a disk that is full to the last byte.
    let filler = disk.0.join("filler");
    drop(std::fs::write(&filler, vec![0; 64 << 20]));
    store.remove_record(Kind::Plan, "plan0").unwrap();
    store.remove_record(Kind::Plan, "plan1").unwrap();
    let collected = collect_all(&store);
    assert!(collected.trees >= 2 && collected.packs >= 1, "{collected:?}");
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    // Without a free inode there is none.
    drop(std::fs::remove_file(&filler));
    for (tree, files) in &trees[2..] {
        assert_eq!(read_back(&store, *tree, &out).unwrap().as_ref(), Some(files));
    }
    let (_, files) = &trees[0];
    let tree = publish(&store, "again", files).unwrap();
    assert_eq!(read_back(&store, tree, &out).unwrap().as_ref(), Some(files));
    collect_all(&store);
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    fill("size=2m,mode=755", 10, 20_000);
}

#[test]
fn a_disk_without_inodes_is_an_error_and_no_damage() {
    fill("size=64m,nr_inodes=60,mode=755", 5, 1000);
}

#[test]
fn a_store_on_a_read_only_disk_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = memory_disk(folder.path(), "mode=755") else {
        return;
    };
    let root = disk.0.join("store");
    let files = some_files(1, 5, 1000);
    let tree = publish(&Store::open(&root).unwrap(), "plan", &files).unwrap();
    run("mount", &["-o", "remount,ro", disk.path()]).unwrap();
    let store = Store::open_existing(&root).unwrap().unwrap();
    assert_eq!(read_back(&store, tree, &folder.path().join("out")).unwrap(), Some(files));
    assert!(verify(&store, false, &|_| ()).unwrap().is_clean());
    let error = publish(&store, "other", &some_files(2, 5, 1000)).unwrap_err();
    assert_eq!(error.errno(), 30, "{error:?}");
}
