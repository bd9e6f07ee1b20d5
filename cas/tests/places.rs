//! Where a store may be, and which stores are opened.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rift_cas::{Error, Store};
use support::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_refused(root: &Path) -> bool {
    match Store::open(root) {
        Err(Error::UnsafePlace { .. }) => true,
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    }
}

#[test]
fn a_place_that_strangers_may_write_to_is_refused() {
    let folder = folder();
    let root = folder.path().join("above/store");
    fs::create_dir(folder.path().join("above")).unwrap();
    Store::open(&root).unwrap();
    for (path, mode, refused) in [
        ("above/store", 0o777, true),
        ("above/store", 0o1777, true),
        ("above/store", 0o707, true),
        ("above/store", 0o700, false),
        ("above/store", 0o755, false),
        ("above", 0o777, true),
        ("above", 0o1777, false),
        ("above", 0o755, false),
        ("above/store/packs", 0o777, true),
        ("above/store/packs", 0o1777, true),
        ("above/store/index", 0o722, true),
        ("above/store/tmp", 0o720, true),
    ] {
        let path = folder.path().join(path);
        let before = path.metadata().unwrap().permissions();
        chmod(&path, mode);
        assert_eq!(is_refused(&root), refused, "{} with mode {mode:o}", path.display());
        fs::set_permissions(&path, before).unwrap();
    }
    assert!(!is_refused(&root), "everything is as it was");
}

#[test]
fn other_peoples_folders_are_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: giving a folder away needs root");
        return;
    }
    let folder = folder();
    let root = folder.path().join("above/store");
    fs::create_dir(folder.path().join("above")).unwrap();
    Store::open(&root).unwrap();
    for path in ["above/store", "above", "above/store/refs"] {
        let path = folder.path().join(path);
        std::os::unix::fs::chown(&path, Some(12_345), Some(12_345)).unwrap();
        assert!(is_refused(&root), "{} is another user's", path.display());
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
    }
    let above = folder.path().join("above");
    std::os::unix::fs::chown(&above, Some(0), Some(12_345)).unwrap();
    chmod(&above, 0o775);
    assert!(is_refused(&root), "a group of others may write");
}

#[test]
fn links_are_judged_by_where_they_lead() {
    let folder = folder();
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    Store::open(&open.join("store")).unwrap();
    chmod(&open, 0o777);
    symlink(open.join("store"), folder.path().join("link")).unwrap();
    assert!(is_refused(&folder.path().join("link")), "the link leads to an open folder");
    chmod(&open, 0o755);
    assert!(!is_refused(&folder.path().join("link")));
    let store = open.join("store");
    fs::rename(store.join("packs"), folder.path().join("packs")).unwrap();
    symlink(folder.path().join("packs"), store.join("packs")).unwrap();
    assert!(is_refused(&store), "a folder of the store is a link");
}

#[test]
fn another_format_is_refused_by_its_name() {
    let folder = folder();
    let root = folder.path().join("store");
    Store::open(&root).unwrap();
    let format = root.join("format");
    fs::remove_file(&format).unwrap();
    for (text, found) in [("2\n", "2"), ("10\n", "10"), ("next\u{7}\n", "next\\u{7}"), ("", "")] {
        fs::write(&format, text).unwrap();
        match Store::open(&root) {
            Err(error @ Error::Version { .. }) => {
                let wanted = format!("has format {found}, but this rift reads format 1");
                assert!(error.to_string().ends_with(&wanted), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    fs::write(&format, "1\n").unwrap();
    Store::open(&root).unwrap();
}
