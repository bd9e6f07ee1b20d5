//! What is ingested is what is materialized: names, bytes, modes, times, links, attributes; and a file
//! that is written while it is read is never stored torn.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rift_cas::hashes::FileStamp;
use rift_cas::secrets;
use rift_cas::{Error, Store, ingest, materialize};
use rift_tree::BlobHash;
use rift_tree::builder::Item;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use support::*;

#[derive(Debug, Clone)]
enum Node {
    File { bytes: Vec<u8>, mode: u32, attribute: Option<Vec<u8>> },
    Link(Vec<u8>),
    Directory { mode: u32, children: BTreeMap<Vec<u8>, (Node, i64)> },
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(1_u8..=255, 1..12),
        Just(vec![b'x'; 255]),
        Just(b"caf\xc3\xa9".to_vec()),
    ]
    .prop_map(|mut name| {
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
        if name == b"." || name == b".." { b"dots".to_vec() } else { name }
    })
}

/// Any mtime that every file system of today keeps: 1970 to 2242.
fn mtime() -> impl Strategy<Value = i64> {
    0..8_589_934_592_000_000_000_i64
}

fn node() -> impl Strategy<Value = Node> {
    let bytes = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => (any::<u8>(), 15_000_usize..40_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let attribute = proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..50));
    let file = (bytes, 0_u32..0o1000, attribute).prop_map(|(bytes, mode, attribute)| Node::File {
        bytes,
        mode,
        attribute,
    });
    let link = proptest::collection::vec(1_u8..=255, 1..60).prop_map(Node::Link);
    prop_oneof![3 => file, 1 => link].prop_recursive(4, 24, 6, |inner| {
        let children = proptest::collection::btree_map(name(), (inner, mtime()), 0..6);
        (0_u32..0o2000, children).prop_map(|(mode, children)| Node::Directory { mode, children })
    })
}

/// Modes with which the files can still be read by who is not root.
fn readable(mode: u32, always: u32) -> u32 {
    if rustix::process::geteuid().is_root() { mode } else { mode | always }
}

fn make(path: &Path, node: &Node, mtime_ns: i64) {
    match node {
        Node::File { bytes, mode, attribute } => {
            fs::write(path, bytes).unwrap();
            if let Some(value) = attribute {
                // Where there are no attributes there is nothing to keep.
                let _ = rustix::fs::setxattr(path, "user.rift", value, XattrFlags::empty());
            }
            let mode = fs::Permissions::from_mode(readable(*mode, 0o400));
            fs::set_permissions(path, mode).unwrap();
        }
        Node::Link(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), path).unwrap(),
        Node::Directory { mode, children } => {
            fs::create_dir(path).unwrap();
            for (name, (child, mtime_ns)) in children {
                make(&path.join(OsStr::from_bytes(name)), child, *mtime_ns);
            }
            let mode = fs::Permissions::from_mode(readable(*mode, 0o700));
            fs::set_permissions(path, mode).unwrap();
        }
    }
    let time = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What lstat(2) and reading tell of everything below a directory.
fn describe(path: &Path, relative: &[u8], out: &mut BTreeMap<Vec<u8>, String>) {
    let stat = path.symlink_metadata().unwrap();
    let content = match () {
        () if stat.is_symlink() => format!("{:?}", fs::read_link(path).unwrap()),
        () if stat.is_dir() => String::new(),
        () => {
            let mut value = [0; 100];
            let length = rustix::fs::getxattr(path, "user.rift", &mut value[..]).ok();
            format!("{:?} {:?}", length.map(|length| &value[..length]), fs::read(path).unwrap())
        }
    };
    let line = format!("{:o} {}.{} {content}", stat.mode(), stat.mtime(), stat.mtime_nsec());
    out.insert(relative.to_vec(), line);
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let below = [relative, b"/", entry.file_name().as_bytes()].concat();
            describe(&entry.path(), &below, out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_full() { 2000 } else { 60 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ingest_then_materialize_is_the_identity(
        children in proptest::collection::btree_map(name(), (node(), mtime()), 0..8),
        mtime_ns in mtime(),
    ) {
        let folder = folder();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        make(&from, &Node::Directory { mode: 0o755, children }, mtime_ns);
        let (mut wanted, mut found) = (BTreeMap::new(), BTreeMap::new());
        describe(&from, b"", &mut wanted);
        let tree = support::ingest(&store, "plan", &from).unwrap();
        let open = store.open_tree(tree).unwrap().unwrap();
        materialize::replace(&materialize::Writer::new(&open, options()), &to).unwrap();
        describe(&to, b"", &mut found);
        prop_assert_eq!(wanted, found);
        prop_assert_eq!(support::ingest(&store, "again", &to).unwrap(), tree);
    }
}

#[test]
fn a_file_that_changes_under_ingest_is_never_torn() {
    let folder = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    const LENGTH: usize = 700_000;
    for number in 0..4 {
        fs::write(from.join(format!("f{number}")), vec![0; LENGTH]).unwrap();
    }
    let stop = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let path = from.join(format!("f{}", round % 4));
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                // One write(2) in place: each state of the file is one byte throughout.
                file.write_all_at(&vec![round as u8; LENGTH], 0).unwrap();
                std::thread::sleep(Duration::from_millis(if round % 5 == 0 { 300 } else { 7 }));
            }
        });
        let start = Instant::now();
        let seconds = if is_full() { 60 } else { 4 };
        while start.elapsed() < Duration::from_secs(seconds) {
            match support::ingest(&store, "plan", &from) {
                Err(Error::Refused { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
                Ok(tree) => {
                    whole += 1;
                    let out = folder.path().join("out");
                    for (name, bytes) in read_back(&store, tree, &out).unwrap().unwrap() {
                        let is_one_state = bytes.iter().all(|byte| *byte == bytes[0]);
                        assert!(is_one_state && bytes.len() == LENGTH, "{name} is torn");
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(whole > 0, "{whole} whole, {refused} refused");
}

#[test]
fn secrets_are_left_out_and_reported_when_asked() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let from = folder.path().join("from");
    fs::create_dir_all(from.join(".aws")).unwrap();
    for (name, bytes) in [
        (".env", "A=1"),
        (".env.example", "A="),
        (".npmrc", "//registry.example/:_authToken=abc"),
        (".aws/credentials", "key"),
        ("index.js", "1"),
        ("tls.pem", "key"),
    ] {
        fs::write(from.join(name), bytes).unwrap();
    }
    let import = store.import().unwrap();
    let options =
        ingest::Options { threads: 2, skip: &|_| false, without_secrets: true, hashes: None };
    let read = ingest::directory_with(&import, &from, options).unwrap();
    let names: Vec<&[u8]> = read.secrets.iter().map(|(path, _)| path.as_slice()).collect();
    assert_eq!(names, [&b".aws/credentials"[..], b".env", b".npmrc", b"tls.pem"]);
    let mut kept: Vec<&[u8]> = read.entries.iter().map(|entry| entry.path.as_slice()).collect();
    kept.sort();
    assert_eq!(kept, [&b""[..], b".aws", b".env.example", b"index.js"]);
    assert!(secrets::by_path(b"index.js").is_none());
    let all = ingest::directory(&import, &from, 1, &|_| false).unwrap();
    assert_eq!(all.len(), 8);
}

#[test]
fn what_is_known_is_not_read_again() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let hash_of = |bytes: &[u8]| BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
    // What must be a file of its own in the store is of that size.
    let large = vec![7; 9 << 20];
    let hashes = store.hashes(7);
    let read = |from: &Path, known: bool, without_secrets: bool| {
        let hashes = known.then_some(&hashes);
        let options = ingest::Options { threads: 2, skip: &|_| false, without_secrets, hashes };
        let import = store.import().unwrap();
        let read = ingest::directory_with(&import, from, options).unwrap();
        import.finish(&[]).unwrap();
        let hash = |entry: &ingest::Ingested| match entry.item {
            Item::File { hash, .. } => Some((entry.path.clone(), hash)),
            _ => None,
        };
        read.entries.iter().filter_map(hash).collect::<BTreeMap<_, _>>()
    };
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    let stamp_of = |name: &str| FileStamp::of(&from.join(name).metadata().unwrap());
    let held = [("one", &b"one"[..]), ("two", b"two"), ("large", &large)];
    held.iter().for_each(|(name, bytes)| fs::write(from.join(name), bytes).unwrap());
    let all = read(&from, true, false);
    let held = held.map(|(name, bytes)| (name.as_bytes().to_vec(), hash_of(bytes)));
    assert_eq!(all, BTreeMap::from(held));
    assert_eq!(hashes.known(&stamp_of("large")), Some(hash_of(&large)));
    assert_eq!(hashes.known(&stamp_of("one")), None, "who reads one may write it at once");
    // Nobody else would say so: it shows who has read the file.
    hashes.note(&stamp_of("one"), hash_of(b"two"));
    hashes.note(&stamp_of("two"), hash_of(b"what no store has"));
    let known: BTreeMap<_, _> =
        all.clone().into_iter().chain([(b"one".to_vec(), hash_of(b"two"))]).collect();
    assert_eq!(read(&from, true, false), known);
    assert_eq!(read(&from, false, false), all);
    assert_eq!(read(&from, true, true), all, "it may be a secret");
    // What was changed is read, also under the old size and time.
    let stat = from.join("one").metadata().unwrap();
    fs::write(from.join("one"), "two").unwrap();
    fs::write(from.join("one"), "0ne").unwrap();
    let file = fs::File::options().write(true).open(from.join("one")).unwrap();
    file.set_modified(stat.modified().unwrap()).unwrap();
    assert_eq!(read(&from, true, false)[&b"one"[..]], hash_of(b"0ne"));
}
