//! Every byte of a small store is flipped and every file cut at every length, one at a time: `verify`
//! finds it, nothing crashes, nothing wrong is served, and a repaired store verifies.
//!
//! `RIFT_TEST_FULL=1` repairs after hundreds of mutations of each file, and leaves out no byte of the pack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rift_cas::log::{Record, Topic};
use rift_cas::record::Kind;
use rift_cas::verify::{self, Report, Severity, verify};
use rift_cas::{Store, gc};
use rift_tree::TreeHash;
use support::*;

/// Mutations that `verify` does not find, each with the reason why that is right.
const HARMLESS: [(&str, Mutation, &str); 1] = [(
    "actions/00000001.log",
    Mutation::Cut(0),
    "a log that ends with a whole record, or has none, is a log: what it forgot is a miss",
)];

fn is_harmless(name: &str, mutation: Mutation) -> bool {
    HARMLESS.iter().any(|(file, known, _)| *file == name && *known == mutation)
}

/// A store with one of everything.
fn make(root: &Path, shown: &Path) -> (TreeHash, Files) {
    let store = Store::open(root).unwrap();
    let mut files = some_files(7, 4, 60);
    files.insert("empty".to_owned(), Vec::new());
    files.insert("aligned".to_owned(), some_files(8, 1, 16_400).into_values().next().unwrap());
    files.get_mut("aligned").unwrap().resize(16 << 10, 7);
    let tree = publish(&store, "plan", &files).unwrap();
    fs::create_dir_all(shown).unwrap();
    store.set_ref("name", tree).unwrap();
    project(&store, tree, shown);
    let open = store.open_tree(tree).unwrap().unwrap();
    store.linker(&open, options()).unwrap().unwrap();
    store.set_record(Kind::Run, "run", b"what a run did").unwrap();
    gc::maybe(&store, u64::MAX, 0).unwrap();
    assert_eq!(look(&store, false).findings, [], "the store is whole before it is damaged");
    (tree, files)
}

fn look(store: &Store, repair: bool) -> Report {
    verify(store, repair, &|_| ()).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    Flip(usize),
    Cut(usize),
}

struct Original {
    path: PathBuf,
    bytes: Vec<u8>,
    modified: SystemTime,
}

impl Original {
    fn read(path: PathBuf) -> Self {
        let modified = path.metadata().unwrap().modified().unwrap();
        Self { bytes: fs::read(&path).unwrap(), modified, path }
    }

    fn open(&self) -> File {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o644)).unwrap();
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }

    fn mutate(&self, mutation: Mutation) {
        let file = self.open();
        match mutation {
            Mutation::Flip(at) => {
                file.write_all_at(&[self.bytes[at] ^ 1 << (at % 8)], at as u64).unwrap();
            }
            Mutation::Cut(length) => file.set_len(length as u64).unwrap(),
        }
        // However coarse the file system's clock: a changed file has another time.
        file.set_modified(self.modified + Duration::from_secs(1)).unwrap();
    }

    /// Puts the bytes back in place, so that the file keeps its inode number.
    fn restore(&self) {
        let file = self.open();
        file.set_len(self.bytes.len() as u64).unwrap();
        file.write_all_at(&self.bytes, 0).unwrap();
        file.set_modified(self.modified).unwrap();
    }

    fn mutations(&self) -> impl Iterator<Item = Mutation> + use<> {
        let flips = (0..self.bytes.len()).map(Mutation::Flip);
        flips.chain((0..self.bytes.len()).map(Mutation::Cut))
    }
}

/// Tells whether a mutation is in the quick test: all but most of those inside the aligned blob.
fn is_quick(original: &Original, mutation: Mutation) -> bool {
    let (Mutation::Flip(at) | Mutation::Cut(at)) = mutation;
    let inside = 800..original.bytes.len().saturating_sub(3000);
    original.bytes.len() < 8000 || !inside.contains(&at) || at % 13 == 0
}

#[test]
fn every_changed_byte_and_length_is_found_and_never_served() {
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || mutate_all(part));
        }
    });
}

fn mutate_all(part: usize) {
    let folder = folder();
    let root = folder.path().join("store");
    let (tree, files) = make(&root, &folder.path().join("shown"));
    let originals: Vec<Original> = store_files(&root).into_iter().map(Original::read).collect();
    let mut count = 0;
    for original in &originals {
        let name = original.path.strip_prefix(&root).unwrap().display().to_string();
        for mutation in original.mutations() {
            count += 1;
            if count % 2 != part || !is_full() && !is_quick(original, mutation) {
                continue;
            }
            original.mutate(mutation);
            let label = format!("{name}: {mutation:?}");
            match Store::open_existing(&root) {
                // Only the format file can keep a store from being opened.
                Err(error) => assert_eq!(name, "format", "{label}: {error}"),
                Ok(store) => {
                    let store = store.unwrap();
                    let report = look(&store, false);
                    let is_harmless = is_harmless(&name, mutation);
                    assert!(!report.is_clean() || is_harmless, "{label} is not found");
                    // Nobody can tell a torn record at the log's end from one that was damaged, nor
                    // an edit through a hard link from damage when size or mtime tell of it.
                    let is_known = name.starts_with("actions/") || name.starts_with("loose/");
                    assert!(!report.is_whole() || is_known || is_harmless, "{label}: {report:?}");
                    if let Ok(read) = read_back(&store, tree, &folder.path().join("out")) {
                        assert_eq!(read.as_ref(), Some(&files), "{label} is served");
                    }
                }
            }
            original.restore();
            // Opening a tree makes sidecar and caches again.
            let remade = |one: &&Original| {
                let path = one.path.to_string_lossy();
                path.ends_with(".loc") || path.contains("/index/")
            };
            originals.iter().filter(remade).for_each(Original::restore);
        }
    }
    assert!(count > 40_000, "{count} mutations");
    let store = Store::open(&root).unwrap();
    assert_eq!(look(&store, false).findings, [], "everything was restored");
}

#[test]
fn a_repaired_store_verifies_and_serves_nothing_wrong() {
    let folder = folder();
    let root = folder.path().join("store");
    let shown = folder.path().join("shown");
    make(&root, &shown);
    let names: Vec<(PathBuf, usize)> = store_files(&root)
        .into_iter()
        .map(|path| {
            let length = path.metadata().unwrap().len() as usize;
            (path.strip_prefix(&root).unwrap().to_owned(), length)
        })
        .filter(|(name, length)| name != Path::new("format") && *length > 0)
        .collect();
    for (name, length) in names {
        // A repair needs a store of its own: every byte of all files would take hours.
        let step = length.div_ceil(if is_full() { 300 } else { 10 });
        let places = (0..length).step_by(step).chain([length - 1]);
        for mutation in places.flat_map(|at| [Mutation::Flip(at), Mutation::Cut(at)]) {
            repair_one(&root, &shown, &name, mutation);
        }
    }
}

fn repair_one(root: &Path, shown: &Path, name: &Path, mutation: Mutation) {
    fs::remove_dir_all(root).unwrap();
    let (tree, files) = make(root, shown);
    let label = format!("{}: {mutation:?}", name.display());
    Original::read(root.join(name)).mutate(mutation);
    let store = Store::open(root).unwrap();
    let repaired = look(&store, true);
    assert!(!repaired.is_clean() || is_harmless(&name.to_string_lossy(), mutation), "{label}");
    let after = look(&store, false);
    assert_eq!(after.findings, [], "{label}, after {repaired:#?}");
    let out = root.with_file_name("out");
    match read_back(&store, tree, &out).unwrap() {
        Some(read) => assert_eq!(read, files, "{label}"),
        // Gone with its plan, so a run misses it and brings it back.
        None => assert_eq!(plan(&store, "plan"), None, "{label}"),
    }
    publish(&store, "plan", &files).unwrap();
    assert_eq!(read_back(&store, tree, &out).unwrap(), Some(files), "{label}");
    assert!(look(&store, false).is_whole(), "{label}: {:?}", look(&store, false));
}

#[test]
fn whole_blobs_of_a_damaged_pack_are_salvaged() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let (one, two) = (some_files(1, 5, 5000), some_files(2, 5, 5000));
    let import = store.import().unwrap();
    let trees = [&one, &two].map(|files| build(&import, files).unwrap());
    let (_, index) = import.finish(&[]).unwrap();
    trees.iter().for_each(|tree| store.publish_located(tree, &index).unwrap());
    drop(index);
    let pack = fs::read_dir(store.root().join("packs")).unwrap().next().unwrap().unwrap().path();
    // Inside the pack's first blob, which is the first tree's.
    Original::read(pack).mutate(Mutation::Flip(4100));
    assert!(!look(&store, false).is_whole());
    let report = look(&store, true);
    assert!(report.findings.iter().all(|finding| finding.is_repaired));
    assert!(report.findings.iter().any(|finding| finding.severity == Severity::Damage));
    assert_eq!(look(&store, false).findings, []);
    assert_eq!(store.open_tree(trees[0].hash).unwrap().map(|_| ()), None);
    let read = read_back(&store, trees[1].hash, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(two));
}

#[test]
fn a_loose_blob_that_was_touched_is_checked_and_mended_by_the_next_import() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let large = (0..9 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let files = Files::from([("large".to_owned(), large), ("small".to_owned(), b"s".to_vec())]);
    let tree = publish(&store, "plan", &files).unwrap();
    let out = folder.path().join("out");
    let blob = store_files(&store.root().join("blobs")).pop().unwrap();
    for mutation in [Mutation::Flip(0), Mutation::Flip(9_000_000), Mutation::Cut(9_000_000)] {
        let original = Original::read(blob.clone());
        original.mutate(mutation);
        assert!(read_back(&store, tree, &out).is_err(), "{mutation:?} is served");
        assert!(!look(&store, false).is_whole());
        publish(&store, "plan", &files).unwrap();
        assert_eq!(read_back(&store, tree, &out).unwrap().as_ref(), Some(&files), "{mutation:?}");
        assert!(look(&store, false).is_whole());
    }
    Original::read(blob).mutate(Mutation::Cut(0));
    look(&store, true);
    assert_eq!(look(&store, false).findings, []);
    assert!(store.open_tree(tree).unwrap().is_none());
}

#[test]
fn strays_and_litter_are_reported_and_moved_away() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    publish(&store, "plan", &some_files(1, 3, 100)).unwrap();
    let strays = [
        "note",
        "packs/note",
        "blobs/note",
        "trees/zz",
        "refs/%zz",
        "actions/x.log",
        "index/old",
        "packs/0000000000000000000000000000000000000000000000000000000000000000.pack.bak",
    ];
    for stray in strays {
        fs::write(store.root().join(stray), b"stray").unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", store.root().join("runs/link")).unwrap();
    fs::write(store.root().join("tmp/999999999-0"), b"left by a killed process").unwrap();
    fs::write(store.root().join("leases/999999999-0"), b"tree ").unwrap();
    let report = look(&store, false);
    assert_eq!(report.findings.len(), strays.len() + 3, "{report:#?}");
    assert!(report.is_whole() && !report.is_clean());
    look(&store, true);
    assert_eq!(look(&store, false).findings, []);
    assert_eq!(fs::read_dir(store.root().join("quarantine")).unwrap().count(), strays.len() + 1);
}

#[test]
fn a_segment_that_is_gone_from_the_log_is_found() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let segment = |number: u32| store.root().join(format!("actions/{number:08}.log"));
    for number in 1..=4 {
        let key = [number as u8; 32];
        let payload = vec![1; 33];
        store.append(&[Record { topic: Topic::Purged, key, payload }]).unwrap();
        // Behind a torn frame the next record begins a segment.
        OpenOptions::new().append(true).open(segment(number)).unwrap().write_all(b"RFA1").unwrap();
    }
    verify(&store, false, &|_| ()).unwrap();
    for gone in [2, 3] {
        fs::remove_file(segment(gone)).unwrap();
    }
    let report = look(&store, false);
    assert!(!report.is_whole(), "{report:#?}");
    let is_gap = |finding: &&verify::Finding| finding.what == "2 segments before it are missing";
    assert_eq!(report.findings.iter().filter(is_gap).count(), 1, "{report:#?}");
    look(&store, true);
    assert_eq!(look(&store, false).findings, []);
    let log = store.log().unwrap();
    let has = |key: u8| log.get(Topic::Purged, &[key; 32]).is_some();
    assert_eq!([1, 2, 3, 4].map(has), [true, false, false, true]);
}
