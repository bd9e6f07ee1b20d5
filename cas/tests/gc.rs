//! What gc keeps, what it removes, and that a size is kept.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::time::{Duration, SystemTime};

use rift_cas::log::Topic;
use rift_cas::record::Kind;
use rift_cas::verify::verify;
use rift_cas::{Store, gc};
use rift_tree::TreeHash;
use support::*;

fn packs(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("packs")).unwrap().count()
}

fn age_plan(store: &Store, name: &str, seconds: u64) {
    let path = store.root().join("plans").join(name);
    let file = std::fs::OpenOptions::new().read(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// Publishes trees; plans `plan0`, `plan1`… name them.
fn publish_all(store: &Store, all: &[Files]) -> Vec<TreeHash> {
    let name = |(number, files)| publish(store, &format!("plan{number}"), files).unwrap();
    all.iter().enumerate().map(name).collect()
}

#[test]
fn what_a_root_names_stays_and_the_rest_goes() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let shown = folder.path().join("shown");
    std::fs::create_dir(&shown).unwrap();
    let files: Vec<Files> = (0..5).map(|seed| some_files(seed, 6, 3000)).collect();
    let trees = publish_all(&store, &files);
    store.set_ref("kept", trees[1]).unwrap();
    project(&store, trees[2], &shown);
    let lease = store.lease(trees[3]).unwrap();
    for number in 1..5 {
        store.remove_record(Kind::Plan, &format!("plan{number}")).unwrap();
    }
    for tree in [trees[0], trees[4]] {
        let open = store.open_tree(tree).unwrap().unwrap();
        store.linker(&open, options()).unwrap().unwrap();
    }
    let loose_forms = || rift_cas::stats::stats(&store).unwrap().loose_forms;
    assert_eq!(loose_forms(), 2);
    let foreseen = {
        let options = gc::Options { dry_run: true, grace: Duration::ZERO, ..Default::default() };
        gc::collect(&store, &options).unwrap()
    };
    let collected = collect_all(&store);
    assert_eq!((collected.trees, collected.packs, collected.log_records), (1, 1, 1));
    assert_eq!((foreseen.trees, foreseen.packs, foreseen.log_records), (1, 1, 1));
    assert_eq!(foreseen.bytes_before, collected.bytes_before);
    assert_eq!(loose_forms(), 1);
    assert_eq!(verify(&store, false, &|_| ()).unwrap().findings, []);
    for (number, tree) in trees.iter().enumerate().take(4) {
        let read = read_back(&store, *tree, &folder.path().join("out")).unwrap();
        assert_eq!(read.as_ref(), Some(&files[number]), "tree {number}");
    }
    assert!(read_back(&store, trees[4], &folder.path().join("out")).unwrap().is_none());
    assert_eq!(store.log().unwrap().topic(Topic::Package).count(), 4);
    drop(lease);
    std::fs::remove_dir(&shown).unwrap();
    store.remove_record(Kind::Ref, "kept").unwrap();
    let collected = collect_all(&store);
    assert_eq!((collected.trees, collected.projections), (3, 1));
    assert_eq!(packs(&store), 1);
    let read = read_back(&store, trees[0], &folder.path().join("out")).unwrap();
    assert_eq!(read.as_ref(), Some(&files[0]));
    assert_eq!(collect_all(&store).trees, 0);
}

#[test]
fn a_sparse_pack_is_rewritten_unless_a_run_leases_it() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let (small, large) = (some_files(1, 3, 2000), some_files(2, 40, 20_000));
    let import = store.import().unwrap();
    let kept = build(&import, &small).unwrap();
    let gone = build(&import, &large).unwrap();
    let (imported, index) = import.finish(&[]).unwrap();
    assert_eq!(imported.packs, 1);
    store.publish_located(&kept, &index).unwrap();
    store.publish_located(&gone, &index).unwrap();
    drop(index);
    set_plan(&store, "kept", kept.hash).unwrap();
    let lease = store.lease(kept.hash).unwrap();
    let leased = collect_all(&store);
    assert_eq!((leased.trees, leased.packs_rewritten, packs(&store)), (1, 0, 1));
    drop(lease);
    let collected = collect_all(&store);
    assert_eq!((collected.packs_rewritten, collected.packs, packs(&store)), (1, 1, 1));
    assert!(collected.bytes_after < collected.bytes_before / 10, "{collected:?}");
    let read = read_back(&store, kept.hash, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(small));
    assert_eq!(collect_all(&store).packs_rewritten, 0);
}

#[test]
fn the_least_recently_used_plans_go_until_the_store_fits() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let trees: Vec<_> = (0..6)
        .map(|seed| {
            let name = format!("plan{seed}");
            let tree = publish(&store, &name, &some_files(seed, 20, 10_000)).unwrap();
            age_plan(&store, &name, 1000 - seed * 100);
            tree
        })
        .collect();
    store.touch_plan("plan0").unwrap();
    let max = gc::measure(&store).unwrap() / 2;
    let options = gc::Options { max_bytes: Some(max), grace: Duration::ZERO, ..Default::default() };
    let collected = gc::collect(&store, &options).unwrap();
    assert!(collected.bytes_after <= max, "{collected:?}");
    assert!(collected.bytes_after > max / 2, "{collected:?}");
    let names: Vec<String> =
        store.records(Kind::Plan).unwrap().into_iter().map(|(name, _)| name).collect();
    assert!(
        names.contains(&"plan0".to_owned()) && names.contains(&"plan5".to_owned()),
        "{names:?}"
    );
    assert!(!names.contains(&"plan1".to_owned()), "{names:?}");
    assert!(store.open_tree(trees[0]).unwrap().is_some());
    assert!(store.open_tree(trees[1]).unwrap().is_none());
}

#[test]
fn automatic_collection_keeps_the_cap_and_waits_for_nobody() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    for seed in 0..6 {
        let name = format!("plan{seed}");
        publish(&store, &name, &some_files(seed, 20, 10_000)).unwrap();
        age_plan(&store, &name, 10_000 - seed * 100);
    }
    let size = gc::measure(&store).unwrap();
    assert_eq!(gc::maybe(&store, size * 2, 0).unwrap(), None);
    assert_eq!(gc::maybe(&store, size * 2, size / 2).unwrap(), None, "the cached figure fits");
    let import = store.import().unwrap();
    assert_eq!(gc::maybe(&store, size / 2, size).unwrap(), None, "an import is going on");
    drop(import);
    // Packs and trees are younger than the grace period, so only plans go at first.
    let collected = gc::maybe(&store, size / 2, 0).unwrap().unwrap();
    assert!(!collected.is_busy && !collected.plans.is_empty(), "{collected:?}");
    assert_eq!(gc::maybe(&store, size / 2, 0).unwrap(), None, "it pauses");
}

#[test]
fn what_is_younger_than_the_grace_period_stays() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let files = some_files(1, 4, 1000);
    let tree = publish(&store, "plan", &files).unwrap();
    store.remove_record(Kind::Plan, "plan").unwrap();
    let collected = gc::collect(&store, &gc::Options::default()).unwrap();
    assert_eq!((collected.trees, collected.packs, collected.log_records), (0, 0, 0));
    let read = read_back(&store, tree, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(files));
}

#[test]
fn runs_stay_for_a_day_and_the_last_ones_longer() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let name = |number: u32| format!("run{number:03}");
    for number in 0..300 {
        store.set_record(Kind::Run, &name(number), b"{}").unwrap();
    }
    let names = || -> Vec<String> {
        store.records(Kind::Run).unwrap().into_iter().map(|(name, _)| name).collect()
    };
    let options = gc::Options { grace: Duration::ZERO, ..Default::default() };
    assert_eq!(gc::collect(&store, &options).unwrap().runs, 0);
    assert_eq!(names().len(), 300);
    for number in 0..250 {
        let path = store.root().join("runs").join(name(number));
        let file = std::fs::OpenOptions::new().read(true).open(path).unwrap();
        let age = Duration::from_secs(2 * 86_400 - u64::from(number));
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    assert_eq!(gc::collect(&store, &options).unwrap().runs, 100);
    assert_eq!(names(), (100..300).map(name).collect::<Vec<_>>());
}

#[test]
fn a_damaged_table_of_blobs_costs_no_blob() {
    let folder = folder();
    let root = folder.path().join("store");
    let store = Store::open(&root).unwrap();
    let all: Vec<Files> = (0..3).map(|seed| some_files(seed, 6, 3000)).collect();
    let trees = publish_all(&store, &all);
    collect_all(&store);
    let table = root.join("index/blobs");
    let mut bytes = std::fs::read(&table).unwrap();
    let packs = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    assert!(packs > 0);
    // The header still checks, and every blob is hidden.
    bytes[64 + packs * 56..].fill(0);
    std::fs::remove_file(&table).unwrap();
    std::fs::write(&table, bytes).unwrap();
    let collected = collect_all(&store);
    assert_eq!((collected.packs, collected.trees), (0, 0), "{collected:?}");
    for (tree, files) in trees.iter().zip(&all) {
        let read = read_back(&store, *tree, &folder.path().join("out")).unwrap();
        assert_eq!(read.as_ref(), Some(files));
    }
}
