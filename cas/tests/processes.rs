//! Several processes use one store at once, and are killed at any instant.
//!
//! `RIFT_TEST_FULL=1` kills ten times as often.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rift_cas::materialize::{self, Writer};
use rift_cas::purge::{self, What};
use rift_cas::record::Kind;
use rift_cas::tree::OpenTree;
use rift_cas::verify::verify;
use rift_cas::{Error, Store, gc};
use rift_tree::BlobHash;
use support::*;

/// What the children of these tests do; a test of its own that has nothing to do otherwise.
#[test]
fn child_process() {
    let Some((task, root)) = child_task() else {
        return;
    };
    let store = Store::open(&root).unwrap();
    let (task, seed) = task.split_once(' ').unwrap();
    let seed: u64 = seed.parse().unwrap();
    match task {
        "ingest" => {
            for number in 0..12 {
                // Both children bring the even ones.
                let seed = if number % 2 == 0 { number } else { number + seed * 100 };
                publish(&store, &format!("plan{seed}"), &some_files(seed, 20, 6000)).unwrap();
            }
        }
        "churn" => {
            for round in 0..u64::MAX {
                churn(&store, seed + round);
            }
        }
        _ => panic!("no such task: {task}"),
    }
}

/// One round of everything that changes a store.
fn churn(store: &Store, seed: u64) {
    let name = format!("churn{}", seed % 7);
    let mut files = some_files(seed, 12, 4000);
    files.extend(some_files(seed % 3, 5, 9000));
    if seed.is_multiple_of(5) {
        files.insert("large".to_owned(), vec![seed as u8; 8 << 20]);
    }
    let tree = publish(store, &name, &files).unwrap();
    match store.set_ref(&format!("ref{}", seed % 3), tree) {
        // Another process has evicted it since.
        Ok(()) | Err(Error::Refused { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    store.touch_plan(&name).unwrap();
    store.set_record(Kind::Run, &format!("run{seed}"), b"a run").unwrap();
    let lease = store.lease(tree).unwrap();
    if let Some(open) = store.open_tree(tree).unwrap()
        && seed.is_multiple_of(2)
    {
        link_and_edit(store, &open, seed);
    }
    drop(lease);
    match seed % 4 {
        0 => drop(collect_all(store)),
        1 => {
            let max_bytes = Some(200_000);
            let options = gc::Options { max_bytes, grace: Duration::ZERO, ..Default::default() };
            gc::collect(store, &options).unwrap();
        }
        2 => {
            let bytes = files.values().next_back().unwrap();
            let what = What::Blob(BlobHash::from_bytes(*blake3::hash(bytes).as_bytes()));
            if seed % 8 == 2 {
                purge::purge(store, &what).unwrap();
            }
        }
        _ => drop(gc::maybe(store, 300_000, 100_000).unwrap()),
    }
}

/// Shows a tree with hard links, and edits it in place so that the next one mends the loose form.
fn link_and_edit(store: &Store, open: &OpenTree, seed: u64) {
    let out = store.root().with_file_name(format!("linked-{}", std::process::id()));
    for _ in 0..2 {
        let Some(linker) = store.linker(open, options()).unwrap() else { return };
        let writer = Writer::linking(open, &linker, options());
        materialize::replace(&writer, &out).unwrap();
        let edited = read_files(&out).into_keys().find(|name| name.contains('/')).unwrap();
        std::fs::write(out.join(edited), seed.to_string()).unwrap();
    }
    materialize::remove(&out, 1).unwrap();
}

fn wait(mut child: std::process::Child) {
    let status = child.wait().unwrap();
    if !status.success() {
        let mut text = String::new();
        for pipe in [child.stdout.take().map(reader), child.stderr.take().map(reader)] {
            std::io::Read::read_to_string(&mut pipe.unwrap(), &mut text).unwrap();
        }
        panic!("a child failed: {text}");
    }
}

fn reader(pipe: impl std::io::Read + 'static) -> Box<dyn std::io::Read> {
    Box::new(pipe)
}

#[test]
fn two_processes_ingest_while_gc_runs() {
    let folder = folder();
    let root = folder.path().join("store");
    let store = Store::open(&root).unwrap();
    let children = [1, 2].map(|seed| child("child_process", &format!("ingest {seed}"), &root));
    let done = AtomicBool::new(false);
    let collections = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                collect_all(&store);
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = StopOnDrop(&done);
        children.into_iter().for_each(wait);
    });
    assert!(collections.into_inner() > 0);
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    for number in 0..12 {
        for seed in if number % 2 == 0 { vec![number] } else { vec![number + 100, number + 200] } {
            let tree = plan(&store, &format!("plan{seed}")).unwrap();
            let read = read_back(&store, tree, &folder.path().join("out")).unwrap();
            assert_eq!(read, Some(some_files(seed, 20, 6000)), "plan{seed}");
        }
    }
}

#[test]
fn leased_trees_are_materialized_while_gc_rewrites_their_packs() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let small = some_files(1, 10, 3000);
    let start = Instant::now();
    let done = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done, reads, small) = (&store, &done, &reads, &small);
            let out = folder.path().join(format!("out{reader}"));
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let Some(tree) = plan(store, "small") else { continue };
                    let lease = store.lease(tree).unwrap();
                    if let Some(read) = read_back(store, tree, &out).unwrap() {
                        assert_eq!(&read, small);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    drop(lease);
                }
            });
        }
        let _stop = StopOnDrop(&done);
        let mut rewritten = 0;
        for round in 0.. {
            if start.elapsed() > Duration::from_secs(if is_full() { 60 } else { 3 }) {
                break;
            }
            // One pack for both, of which the larger part is not needed any more at once.
            let import = store.import().unwrap();
            let kept = build(&import, &small).unwrap();
            build(&import, &some_files(100 + round, 12, 20_000)).unwrap();
            let (_, index) = import.finish(&[]).unwrap();
            store.publish_located(&kept, &index).unwrap();
            set_plan(&store, "small", kept.hash).unwrap();
            drop(index);
            rewritten += collect_all(&store).packs_rewritten;
            if round % 4 == 3 {
                store.remove_record(Kind::Plan, "small").unwrap();
                collect_all(&store);
            }
        }
        assert!(rewritten > 0);
    });
    assert!(reads.into_inner() > 10);
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "{report:#?}");
}

#[test]
fn a_process_killed_at_any_instant_leaves_a_whole_store() {
    // On a real disk, where an instant inside fsync(2) is likely.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let rounds: u64 = if is_full() { 250 } else { 25 };
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    for round in 0..rounds {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut children = vec![child("child_process", &format!("churn {}", round * 1000), &root)];
        if round.is_multiple_of(3) {
            children.push(child("child_process", &format!("churn {}", round * 1000 + 500), &root));
        }
        std::thread::sleep(Duration::from_millis(10 + (state >> 33) % 250));
        for mut child in children {
            assert_eq!(child.try_wait().unwrap(), None, "the child stopped by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        check_after_kill(&root, round);
    }
}

fn check_after_kill(root: &Path, round: u64) {
    let store = Store::open(root).unwrap();
    let report = verify(&store, false, &|_| ()).unwrap();
    assert!(report.is_whole(), "round {round}: {report:#?}");
    let files = some_files(1_000_000 + round, 5, 1000);
    let tree = match publish(&store, "next", &files) {
        Err(Error::Purged { .. }) => panic!("nobody purged these"),
        other => other.unwrap(),
    };
    let out = root.with_file_name("out");
    assert_eq!(read_back(&store, tree, &out).unwrap(), Some(files), "round {round}");
    if round % 5 == 4 {
        verify(&store, true, &|_| ()).unwrap();
        let report = verify(&store, false, &|_| ()).unwrap();
        assert!(report.is_clean(), "round {round}: {report:#?}");
        collect_all(&store);
        let leftovers = std::fs::read_dir(root.join("tmp")).unwrap().count();
        assert_eq!(leftovers, 0, "round {round}");
    }
}
