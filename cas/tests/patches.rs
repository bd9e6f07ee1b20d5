//! Manifests that are patches of others: a tree that differs in little is told in few bytes, and is the same tree.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use rift_cas::Store;
use rift_cas::purge::{self, What};
use rift_cas::remote::reference::{Base, Located};
use rift_cas::remote::{self, Error, Extent, Needs, Pruned, Traffic, denied};
use rift_tree::TreeHash;
use support::shared::{Shared, text};
use support::{Files, publish};

/// Files whose manifest is long enough for patches.
fn many() -> Files {
    text(1, 2500, 40)
}

/// The same, and a little else.
fn more(step: usize) -> Files {
    let mut files = many();
    files.insert(format!("new/{step}"), vec![step as u8; 40]);
    files.insert("lib/1-00007.js".to_owned(), b"changed".to_vec());
    files
}

/// Pushes files, which are what a ref means from then on.
fn push(shared: &Shared, files: &Files) -> TreeHash {
    let store = shared.store("store");
    let tree = publish(&store, "deps", files).unwrap();
    shared.push(&store, "deps", tree);
    tree
}

fn at(shared: &Shared) -> Located {
    shared.places("deps").0.at
}

fn own(at: &Located) -> Base {
    Base { tree: at.tree, manifest_bytes: at.manifest_bytes }
}

/// Returns the names of the manifests.
fn manifests(shared: &Shared) -> BTreeSet<String> {
    let entries = fs::read_dir(shared.path("remote/trees")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Brings the names of a tree; returns what was asked for that.
fn show(shared: &Shared, store: &Store) -> Traffic {
    let (remote, wanted) = (shared.remote(), ("deps", Extent::Partial));
    let pulled = remote::pull(&remote, store, wanted, &shared.trusted, &|_| {}).unwrap();
    let shown = store.open_partial(pulled.tree).unwrap().unwrap();
    assert_eq!(shown.manifest().as_bytes().len() as u64, at(shared).manifest_bytes);
    remote.traffic()
}

#[test]
fn a_tree_that_differs_in_little_is_a_patch() {
    let shared = Shared::new();
    let first = push(&shared, &many());
    let whole = at(&shared);
    assert_eq!(whole.base, None);
    let here = shared.store("here");
    let wanted = ("deps", Extent::Whole);
    remote::pull(&shared.remote(), &here, wanted, &shared.trusted, &|_| {}).unwrap();
    for step in 1..4 {
        let files = more(step);
        push(&shared, &files);
        let patched = at(&shared);
        assert_eq!(patched.base, Some(own(&whole)), "never a patch of a patch");
        assert!(
            patched.places_bytes < whole.places_bytes + whole.manifest_bytes / 10,
            "{patched:?} {whole:?}"
        );
        assert_eq!(manifests(&shared), BTreeSet::from([first.to_string()]));
        assert!(shared.pull("deps").unwrap().0 == files);
        // Ref, deny-list, places and the manifest of the base.
        assert_eq!(show(&shared, &shared.store(&format!("empty-{step}"))).requests(), 4);
        let known = show(&shared, &here);
        assert_eq!(known.requests(), 3);
        assert!(known.received_bytes < patched.places_bytes + 1024, "{known:?}");
        let store = shared.store("store");
        assert!(shared.push(&store, "deps", patched.tree).was_there);
    }
    // Who has neither tree makes a patch as well.
    let other = shared.store("other");
    let tree = publish(&other, "deps", &more(7)).unwrap();
    shared.push(&other, "deps", tree);
    assert_eq!(at(&shared).base, Some(own(&whole)));
    assert!(shared.pull("deps").unwrap().0 == more(7));
    // What shares little is a base of its own, as is what is short.
    let others = text(5000, 2500, 40);
    let tree = push(&shared, &others);
    assert_eq!(at(&shared).base, None);
    assert!(manifests(&shared).contains(&tree.to_string()));
    assert!(shared.pull("deps").unwrap().0 == others);
    let few = text(5000, 100, 40);
    push(&shared, &few);
    assert_eq!(at(&shared).base, None);
    assert!(shared.pull("deps").unwrap().0 == few);
}

/// A trusted key has signed it, and still no wrong tree comes of it.
#[test]
fn a_patch_that_lies_is_refused() {
    let shared = Shared::new();
    let first = push(&shared, &many());
    let plain = shared.places("deps").1.len();
    let files = more(1);
    push(&shared, &files);
    let (_, places) = shared.places("deps");
    let refused = |what: &str| {
        let error = shared.pull("deps").unwrap_err();
        assert!(matches!(error, Error::Wrong { .. } | Error::Missing { .. }), "{what}: {error}");
    };
    for behind in [1, 5, 20, places.len() - plain - 100] {
        let mut lie = places.clone();
        let place = lie.len() - behind;
        lie[place] ^= 0x10;
        shared.set_places("deps", &lie);
        refused(&format!("{behind} bytes before the end"));
    }
    shared.set_places("deps", &places[..places.len() - 1]);
    refused("cut");
    shared.set_places("deps", &[&places[..], b"x"].concat());
    refused("longer");
    shared.set_places("deps", &places);
    let base = shared.path("remote/trees").join(first.to_string());
    let whole = fs::read(&base).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    fs::write(&base, changed).unwrap();
    refused("another base");
    fs::remove_file(&base).unwrap();
    refused("no base");
    // The next push does without.
    let files = more(2);
    push(&shared, &files);
    assert_eq!(at(&shared).base, None);
    assert!(shared.pull("deps").unwrap().0 == files);
}

/// A base that is here and damaged is read from the remote.
#[test]
fn a_damaged_base_of_a_store_is_not_used() {
    let shared = Shared::new();
    let first = push(&shared, &many());
    let here = shared.store("here");
    let wanted = ("deps", Extent::Whole);
    remote::pull(&shared.remote(), &here, wanted, &shared.trusted, &|_| {}).unwrap();
    let path = here.tree_path(first);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    push(&shared, &more(1));
    assert_eq!(show(&shared, &here).requests(), 4);
}

#[test]
fn a_base_is_kept_for_its_patches() {
    let shared = Shared::new();
    let first = push(&shared, &many());
    let files = more(1);
    push(&shared, &files);
    let needs = Needs { lineages: &["npm/"], ..Needs::default() };
    let prune = || remote::prune(&shared.remote(), &needs, &shared.trusted).unwrap();
    // The places of the tree that the ref meant before.
    assert_eq!(prune().removed, 1);
    assert!(matches!(prune(), Pruned { removed: 0, .. }));
    assert_eq!(manifests(&shared), BTreeSet::from([first.to_string()]));
    assert!(shared.pull("deps").unwrap().0 == files);
    // Its own tree may be purged: a manifest holds nothing but names.
    let mut less = more(1);
    less.remove("new/1");
    let store = shared.store("store");
    let pushed = publish(&store, "old", &many()).unwrap();
    assert_eq!(pushed, first);
    shared.push(&store, "old", first);
    let purged = purge::purge(&store, &What::Tree(first)).unwrap();
    let keys = (&shared.key, &shared.trusted);
    let denial = denied::deny(&shared.remote(), &store, &[purged], keys).unwrap();
    assert_eq!(denial.removed, 1, "the ref of the purged tree");
    assert!(shared.pull("deps").unwrap().0 == files);
}
