//! Purged content is gone from every file of the store and does not come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::fs;

use rift_cas::purge::{Banned, What, has, purge, purge_banned};
use rift_cas::record::Kind;
use rift_cas::verify::verify;
use rift_cas::{Error, Store, stats};
use rift_tree::BlobHash;
use support::*;

/// Tells whether bytes stand anywhere in the store.
fn holds(store: &Store, bytes: &[u8]) -> bool {
    let files = store_files(store.root());
    files.iter().any(|path| fs::read(path).unwrap().windows(bytes.len()).any(|at| at == bytes))
}

#[test]
fn a_purged_blob_is_nowhere_and_is_refused() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let secret = b"a secret that should never have been packed".to_vec();
    let other = some_files(1, 5, 2000);
    let mut files = other.clone();
    files.insert("secret".to_owned(), secret.clone());
    let tree = publish(&store, "plan", &files).unwrap();
    store.set_ref("name", tree).unwrap();
    let kept = publish(&store, "other", &other).unwrap();
    assert!(holds(&store, &secret));
    let what = What::Blob(BlobHash::from_bytes(*blake3::hash(&secret).as_bytes()));
    let lease = store.lease(tree).unwrap();
    assert!(matches!(purge(&store, &what), Err(Error::Refused { .. })), "a run uses it");
    drop(lease);
    let purged = purge(&store, &what).unwrap();
    assert_eq!((purged.trees, purged.blobs, purged.records), (1, 1, 3), "{purged:?}");
    assert!(!holds(&store, &secret) && !has(&store, &what).unwrap());
    assert!(store.open_tree(tree).unwrap().is_none() && store.get_ref("name").unwrap().is_none());
    assert!(matches!(publish(&store, "plan", &files), Err(Error::Purged { .. })));
    assert!(!holds(&store, &secret));
    let read = read_back(&store, kept, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(other));
    assert!(verify(&store, false, &|_| ()).unwrap().is_whole());
    collect_all(&store);
    assert!(matches!(publish(&store, "plan", &files), Err(Error::Purged { .. })), "after gc");
}

#[test]
fn a_purged_package_takes_its_own_blobs_and_leaves_shared_ones() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let license = ("license".to_owned(), b"a license that many packages carry".to_vec());
    let code = b"the code of the package that is purged".to_vec();
    let package = Files::from([license.clone(), ("index.js".to_owned(), code.clone())]);
    let another = Files::from([license.clone(), ("main.js".to_owned(), b"another".to_vec())]);
    let tree = publish(&store, "package", &package).unwrap();
    let stays = publish(&store, "another", &another).unwrap();
    let mut both = package.clone();
    both.extend(another.clone());
    let composed = publish(&store, "composed", &both).unwrap();
    let what = What::Package { key: *blake3::hash(b"package").as_bytes(), tree: Some(tree) };
    let purged = purge(&store, &what).unwrap();
    assert_eq!((purged.trees, purged.blobs), (2, 1), "{purged:?}");
    assert!(!holds(&store, &code) && holds(&store, &license.1));
    assert!(store.open_tree(composed).unwrap().is_none());
    assert_eq!(plan(&store, "composed"), None);
    let read = read_back(&store, stays, &folder.path().join("out")).unwrap();
    assert_eq!(read, Some(another));
    assert!(matches!(publish(&store, "package", &package), Err(Error::Purged { .. })));
    assert!(verify(&store, false, &|_| ()).unwrap().is_whole());
}

#[test]
fn stats_count_what_is_there() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let files = some_files(1, 6, 4000);
    let tree = publish(&store, "plan", &files).unwrap();
    store.set_ref("name", tree).unwrap();
    let stats = stats::stats(&store).unwrap();
    let bytes: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!((stats.packs, stats.packed_blobs, stats.packed_manifests), (1, 6, 1));
    assert_eq!((stats.trees, stats.refs, stats.plans, stats.loose_blobs), (1, 1, 1, 0));
    let manifest = store.open_tree(tree).unwrap().unwrap().manifest().as_bytes().len() as u64;
    assert_eq!(stats.unique_bytes, bytes + manifest);
    assert_eq!(stats.pack_bytes, stats.unique_bytes + stats.padding_bytes);
    assert!(stats.disk_bytes >= stats.pack_bytes && store.records(Kind::Run).unwrap().is_empty());
}

#[test]
fn a_tree_that_holds_all_of_a_purged_one_is_refused() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let package = Files::from([
        ("license".to_owned(), b"a license that many packages carry".to_vec()),
        ("index.js".to_owned(), b"the code of the package".to_vec()),
    ]);
    let tree = publish(&store, "package", &package).unwrap();
    purge(&store, &What::Tree(tree)).unwrap();
    collect_all(&store);
    // Under other names, and with more beside it.
    let renamed = package.iter().map(|(name, bytes)| (format!("lib/{name}"), bytes.clone()));
    let mut composed: Files = renamed.collect();
    composed.insert("other.js".to_owned(), b"another".to_vec());
    assert!(matches!(publish(&store, "composed", &composed), Err(Error::Purged { .. })));
    composed.remove("lib/index.js");
    publish(&store, "composed", &composed).unwrap();
    // The same from the memory of it alone, as another store would have it.
    let other = Store::open(&folder.path().join("other")).unwrap();
    let again = purge(&store, &What::Tree(tree)).unwrap();
    assert!(matches!(&again.banned[..], [Banned::Tree { blobs, .. }] if blobs.len() == 2));
    let mine = package.clone().into_iter().chain([("mine".to_owned(), b"mine".to_vec())]).collect();
    let mine = publish(&other, "mine", &mine).unwrap();
    // A run that is under way keeps it; nothing names it any more.
    other.set_ref("name", mine).unwrap();
    let lease = other.lease(mine).unwrap();
    let purged = purge_banned(&other, again.banned.clone()).unwrap();
    assert_eq!((purged.in_use, purged.trees, purged.blobs), (1, 0, 0), "{purged:?}");
    assert_eq!((purged.plans, purged.refs), (vec!["mine".to_owned()], vec!["name".to_owned()]));
    assert!(other.open_tree(mine).unwrap().is_some() && plan(&other, "mine").is_none());
    drop(lease);
    let purged = purge_banned(&other, again.banned).unwrap();
    assert_eq!((purged.in_use, purged.trees, purged.blobs), (0, 1, 2), "{purged:?}");
    assert!(other.open_tree(mine).unwrap().is_none());
    assert!(verify(&other, false, &|_| ()).unwrap().is_whole());
}
