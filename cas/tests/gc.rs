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
    // Packs and trees are younger than the grace period, which does not count over the cap.
    let collected = gc::maybe(&store, size / 2, 0).unwrap().unwrap();
    assert!(!collected.is_busy && !collected.plans.is_empty(), "{collected:?}");
    assert!(collected.bytes_after <= size / 2, "{collected:?}");
    assert_eq!(gc::maybe(&store, size / 2, 0).unwrap(), None, "it fits");
    // What a ref names stays, and that is not tried again soon.
    let tree = publish(&store, "last", &some_files(9, 20, 10_000)).unwrap();
    store.set_ref("kept", tree).unwrap();
    let collected = gc::maybe(&store, 1000, size).unwrap().unwrap();
    assert!(collected.bytes_after > 1000, "{collected:?}");
    assert_eq!(gc::maybe(&store, 1000, 0).unwrap(), None, "it pauses");
    assert!(store.open_tree(tree).unwrap().is_some());
    let plans = store.records(Kind::Plan).unwrap();
    let names: Vec<_> = plans.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["last"], "a plan whose tree stays anyway stays as well");
}

#[test]
fn young_results_make_room_where_it_is_needed() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let files = some_files(7, 20, 10_000);
    let unnamed = {
        let import = store.import().unwrap();
        let built = build(&import, &files).unwrap();
        let (_, index) = import.finish(&[]).unwrap();
        store.publish_located(&built, &index).unwrap();
        built.hash
    };
    let all: Vec<Files> = (0..4).map(|seed| some_files(seed, 20, 10_000)).collect();
    let trees = publish_all(&store, &all);
    let lease = store.lease(trees[0]).unwrap();
    let max_bytes = gc::measure(&store).unwrap() * 7 / 10;
    let options = gc::Options { max_bytes: Some(max_bytes), ..gc::Options::default() };
    assert_eq!(gc::collect(&store, &options).unwrap().trees, 0, "all of it is young");
    let options = gc::Options { is_pressed: true, ..options };
    let collected = gc::collect(&store, &options).unwrap();
    assert!(collected.bytes_after <= max_bytes, "{collected:?}");
    // The first is leased, and nothing names the one yet; of the others the last was used last.
    let is_here = |tree: &TreeHash| store.open_tree(*tree).unwrap().is_some();
    let here: Vec<bool> = trees.iter().map(is_here).collect();
    assert_eq!(here, [true, false, false, true]);
    let read = read_back(&store, unnamed, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(files));
    assert_eq!(verify(&store, false, &|_| ()).unwrap().findings, []);
    drop(lease);
}

#[test]
fn a_limited_store_does_not_grow_over_its_size() {
    const LIMIT: u64 = 8_000_000;
    let folder = folder();
    let root = folder.path().join("store");
    let open = || Store::open(&root).unwrap();
    let used = || rift_cas::stats::stats(&open()).unwrap().disk_bytes;
    let files = |seed| some_files(seed, 20, 50_000);
    let store = open().limited(LIMIT);
    assert_eq!(store.max_bytes(), Some(LIMIT));
    let mut published = Vec::new();
    let full = loop {
        let seed = published.len() as u64;
        match publish(&store, &format!("plan{seed}"), &files(seed)) {
            Ok(tree) => published.push((tree, files(seed))),
            Err(error) => break error,
        }
        assert!(used() <= LIMIT && seed < 50, "{}", used());
    };
    assert!(store.is_out_of_room(&full), "{full}");
    assert!(published.len() >= 4 && used() <= LIMIT, "{} of {}", used(), published.len());
    let large = Files::from([("large".to_owned(), vec![7; 9 << 20])]);
    let error = publish(&store, "large", &large).unwrap_err();
    assert!(store.is_out_of_room(&error), "{error}");
    assert_eq!(verify(&store, false, &|_| ()).unwrap().findings, []);
    let out = folder.path().join("out");
    for (tree, files) in &published {
        assert_eq!(read_back(&store, *tree, &out).unwrap().as_ref(), Some(files));
    }
    assert!(store.make_room().unwrap());
    assert!(used() <= LIMIT / 2 + 1_000_000, "{}", used());
    publish(&store, "again", &files(99)).unwrap();
    let (last, files_of_last) = published.last().unwrap();
    assert_eq!(read_back(&store, *last, &out).unwrap().as_ref(), Some(files_of_last));
    // What others write counts, too.
    let other = open();
    for seed in 100..110 {
        publish(&other, &format!("other{seed}"), &files(seed)).unwrap();
    }
    let error = publish(&open().limited(LIMIT), "more", &files(200)).unwrap_err();
    assert!(store.is_out_of_room(&error), "{error}");
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
