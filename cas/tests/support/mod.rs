//! What the store's tests share: making stores and trees, and reading trees back.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod shared;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rift_cas::ingest;
use rift_cas::log::{Record, Topic};
use rift_cas::materialize::{self, Options};
use rift_cas::projection::{Projection, ShownAs};
use rift_cas::record::Kind;
use rift_cas::roots::trees_of_plan;
use rift_cas::tree::OpenTree;
use rift_cas::{Error, Store, gc};
use rift_tree::TreeHash;
use rift_tree::builder::{Builder, Built, Item};

/// Files by relative path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Returns a folder for a test's stores: in memory where that is possible, for fsync(2) is free there.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = tempfile::tempdir_in(memory);
    made.or_else(|_| tempfile::tempdir()).expect("no folder for temporary files can be written")
}

/// Returns `count` files of roughly `size` bytes whose content follows from `seed`.
pub(crate) fn some_files(seed: u64, count: usize, size: usize) -> Files {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut files = Files::new();
    for number in 0..count {
        let length = size / 2 + (next() as usize) % size.max(1);
        let bytes = (0..length).map(|_| (next() >> 32) as u8).collect();
        files.insert(format!("d{}/f{number}-{seed}", number % 3), bytes);
    }
    files
}

/// Builds the manifest of a tree.
pub(crate) fn build(import: &rift_cas::import::Import<'_>, files: &Files) -> Result<Built, Error> {
    let mut unit = import.unit();
    let mut builder = Builder::new();
    let directory = || Item::Directory { permissions: 0o755 };
    let mut folders = std::collections::BTreeSet::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            if folders.insert(path[..at].to_owned()) {
                builder.put(&path.as_bytes()[..at], 1_000_000_000, directory()).unwrap();
            }
        }
        let hash = unit.add(bytes)?;
        let item = Item::File { permissions: 0o644, size: bytes.len() as u64, hash };
        builder.put(path.as_bytes(), 2_000_000_000, item).unwrap();
    }
    let built = builder.finish().unwrap();
    import.add_manifest(&mut unit, &built)?;
    unit.flush()?;
    Ok(built)
}

/// Takes `folder` in as a stamped tree, as packages are.
pub(crate) fn stamped(store: &Store, folder: &Path) -> OpenTree {
    let import = store.import().unwrap();
    let mut builder = Builder::stamped();
    for entry in ingest::directory(&import, folder, 2, &|_| false).unwrap() {
        builder.put_with_xattrs(&entry.path, 0, entry.item, entry.xattrs).unwrap();
    }
    let built = builder.finish().unwrap();
    let (_, index) = import.finish(&[]).unwrap();
    store.publish_located(&built, &index).unwrap();
    store.open_tree(built.hash).unwrap().unwrap()
}

/// Imports a tree and names it by a plan.
pub(crate) fn publish(store: &Store, name: &str, files: &Files) -> Result<TreeHash, Error> {
    let import = store.import()?;
    let built = build(&import, files)?;
    let key = *blake3::hash(name.as_bytes()).as_bytes();
    let payload = [&[1][..], built.hash.as_bytes()].concat();
    let (_, index) = import.finish(&[Record { topic: Topic::Package, key, payload }])?;
    store.publish_located(&built, &index)?;
    set_plan(store, name, built.hash)?;
    Ok(built.hash)
}

/// Names a tree by a plan.
pub(crate) fn set_plan(store: &Store, name: &str, tree: TreeHash) -> Result<(), Error> {
    store.set_record(Kind::Plan, name, format!("{{\"tree\": \"{tree}\"}}").as_bytes())
}

/// Returns the tree that a plan names.
pub(crate) fn plan(store: &Store, name: &str) -> Option<TreeHash> {
    let payload = store.record(Kind::Plan, name).unwrap()?;
    trees_of_plan(&payload).pop()
}

/// Writes down that a tree is shown at a folder.
pub(crate) fn project(store: &Store, tree: TreeHash, directory: &Path) {
    let stat = directory.symlink_metadata().unwrap();
    let projection = Projection {
        tree,
        directory: directory.to_owned(),
        device: stat.dev(),
        inode: stat.ino(),
        stamp_ns: 0,
        born_ns: None,
        done_ns: 0,
        umask: 0o022,
        has_links: false,
        links_twins: false,
        shown_as: ShownAs::Files,
    };
    store.set_projection(&projection).unwrap();
}

/// How the tests materialize.
pub(crate) fn options() -> Options {
    Options { threads: 2, stamp_ns: 0, umask: 0o022, ..Options::default() }
}

/// Writes a tree to `target` and reads it back; `None` when the store does not have it.
pub(crate) fn read_back(
    store: &Store,
    tree: TreeHash,
    target: &Path,
) -> Result<Option<Files>, Error> {
    let Some(open) = store.open_tree(tree)? else {
        return Ok(None);
    };
    let written = materialize::replace(&materialize::Writer::new(&open, options()), target);
    let files = written.map(|_| read_files(target));
    materialize::remove(target, 1)?;
    files.map(Some)
}

/// Reads all files below a folder.
pub(crate) fn read_files(root: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Collects everything that nothing needs, however young.
pub(crate) fn collect_all(store: &Store) -> gc::Collected {
    let options = gc::Options { grace: Duration::ZERO, ..gc::Options::default() };
    gc::collect(store, &options).unwrap()
}

/// Returns every file of a store but its locks, sorted.
pub(crate) fn store_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap().as_bytes() != b"lock" {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Copies a store with all times, as `cp -a` does.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Ingests a directory as it is and names its tree by a plan.
pub(crate) fn ingest(store: &Store, name: &str, root: &Path) -> Result<TreeHash, Error> {
    let import = store.import()?;
    let mut builder = Builder::new();
    for entry in rift_cas::ingest::directory(&import, root, 2, &|_| false)? {
        builder.put_with_xattrs(&entry.path, entry.mtime_ns, entry.item, entry.xattrs).unwrap();
    }
    let built = builder.finish().unwrap();
    let (_, index) = import.finish(&[])?;
    store.publish_located(&built, &index)?;
    set_plan(store, name, built.hash)?;
    Ok(built.hash)
}

/// Starts this test binary again as a child that runs only the test `name`, told by `RIFT_TEST_CHILD`
/// what to do; see [`child_task`].
pub(crate) fn child(name: &str, task: &str, root: &Path) -> std::process::Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("RIFT_TEST_CHILD", task)
        .env("RIFT_TEST_ROOT", root)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns what a child was told to do, and on which store.
pub(crate) fn child_task() -> Option<(String, PathBuf)> {
    let task = std::env::var("RIFT_TEST_CHILD").ok()?;
    Some((task, std::env::var_os("RIFT_TEST_ROOT")?.into()))
}

/// Tells whether the long form of the tests was asked for.
pub(crate) fn is_full() -> bool {
    std::env::var_os("RIFT_TEST_FULL").is_some()
}

/// Tells other threads to stop when it goes, even by a panic.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
