//! Trees by the command line: in, looked at, compared, out again, cared for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::home::Home;

const ODD: &[u8] = b"caf\xe9\n\x1b[31m";

/// Makes a home with the folder `source`, taken in as `site`.
fn with_site() -> Home {
    let home = Home::new();
    let folder = home.work("source");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    fs::write(folder.join("deep/tool"), b"#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(folder.join("deep/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("deep/er").join(OsStr::from_bytes(ODD)), b"odd\0\xff").unwrap();
    symlink("deep/tool", folder.join("link")).unwrap();
    home.run(["ingest", "source", "--name", "site"]).good();
    home
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let home = with_site();
    let hash = home.run(["ingest", "source"]).good();
    assert_eq!(hash.len(), 65);
    let hash = hash.trim_end();
    assert_eq!(home.run(["refs"]).good(), format!("{hash}\tsite\n"));
    home.run(["materialize", "site", "copy"]).good();
    let compared = home.command("diff").args(["-r", "--no-dereference", "source", "copy"]).output();
    let compared = compared.unwrap();
    assert!(compared.status.success(), "{compared:?}");
    for path in ["deep/tool", "deep", "deep/er"] {
        let (one, two) = (home.work("source").join(path), home.work("copy").join(path));
        let (one, two) = (fs::symlink_metadata(one).unwrap(), fs::symlink_metadata(two).unwrap());
        assert_eq!((one.mode(), one.mtime_nsec()), (two.mode(), two.mtime_nsec()), "{path}");
    }
    assert_eq!(home.run(["ingest", "copy"]).good().trim_end(), hash, "the same tree again");
    home.run(["materialize", "--via", "hardlink", &hash[..6], "linked"]).good();
    assert_eq!(home.run(["diff", "site", "./linked"]).good(), "");
}

#[test]
fn set_id_bits_are_left_out_of_a_tree_and_sticky_bits_are_kept() {
    let home = Home::new();
    let folder = home.work("source");
    fs::create_dir_all(folder.join("folder")).unwrap();
    fs::write(folder.join("file"), b"").unwrap();
    let modes = [("file", 0o7755, 0o1755), ("folder", 0o7777, 0o1777)];
    for (name, mode, _) in modes {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    home.run(["ingest", "source", "--name", "bits"]).good();
    home.run(["materialize", "bits", "copy"]).good();
    for (name, before, after) in modes {
        let mode = |tree: &str| fs::metadata(home.work(tree).join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("source"), mode("copy")), (before, after), "{name}");
    }
}

#[test]
fn owners_are_those_of_who_writes() {
    let home = Home::new();
    fs::create_dir(home.work("source")).unwrap();
    fs::write(home.work("source/file"), b"").unwrap();
    let stranger = std::os::unix::fs::chown(home.work("source/file"), Some(65_534), Some(65_534));
    if stranger.is_err() {
        eprintln!("skipped: only root may give files away");
        return;
    }
    home.run(["ingest", "source", "--name", "owned"]).good();
    home.run(["materialize", "owned", "copy"]).good();
    let stat = fs::metadata(home.work("copy/file")).unwrap();
    let own = fs::metadata(home.work("")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (own.uid(), own.gid()));
}

#[test]
fn names_of_one_file_become_files_of_their_own() {
    let home = Home::new();
    let folder = home.work("source");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one"), b"same").unwrap();
    fs::hard_link(folder.join("one"), folder.join("two")).unwrap();
    home.run(["ingest", "source", "--name", "links"]).good();
    home.run(["materialize", "links", "copy"]).good();
    fs::write(home.work("copy/one"), b"edited").unwrap();
    assert_eq!(fs::read(home.work("copy/two")).unwrap(), b"same");
    assert_eq!(fs::metadata(home.work("copy/two")).unwrap().nlink(), 1);
}

#[test]
fn pipes_and_sockets_are_refused_by_name() {
    let home = Home::new();
    fs::create_dir(home.work("pipes")).unwrap();
    fs::create_dir(home.work("sockets")).unwrap();
    let made = home.command("mkfifo").arg("pipes/it").status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(home.work("sockets/it")).unwrap();
    let mut folders = vec!["pipes", "sockets"];
    fs::create_dir(home.work("devices")).unwrap();
    let device = home.command("mknod").args(["devices/it", "c", "1", "3"]).output().unwrap();
    if device.status.success() {
        folders.push("devices");
    } else {
        eprintln!("devices are left out: mknod(1) may not make one here");
    }
    for folder in folders {
        let error = home.run(["ingest", folder, "--name", "refused"]).bad(125);
        assert!(error.contains(&format!("{folder}/it")), "{error}");
        assert!(error.contains("a tree holds no devices, pipes or sockets"), "{error}");
    }
    assert_eq!(home.run(["refs"]).good(), "", "nothing was taken in");
}

#[test]
fn attributes_of_files_are_kept_and_those_of_folders_are_not() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let home = Home::new();
    fs::create_dir_all(home.work("source/folder")).unwrap();
    fs::write(home.work("source/file"), b"").unwrap();
    let places = ["source/file", "source/folder"];
    let set =
        |place: &str, name: &str| setxattr(home.work(place), name, b"value", XattrFlags::empty());
    if places.iter().any(|place| set(place, "user.mine").is_err()) {
        eprintln!("skipped: the file system of the temporary folder has no user.* attributes");
        return;
    }
    // Only root may set one that is not user.*.
    let has_trusted = set("source/file", "trusted.mine").is_ok();
    home.run(["ingest", "source", "--name", "attributes"]).good();
    home.run(["materialize", "attributes", "copy"]).good();
    let get = |place: &str, name: &str| {
        let mut value = [0; 16];
        getxattr(home.work(place), name, &mut value[..]).ok().map(|length| value[..length].to_vec())
    };
    assert_eq!(get("copy/file", "user.mine").as_deref(), Some(&b"value"[..]));
    assert_eq!(get("source/file", "trusted.mine").is_some(), has_trusted);
    assert_eq!(get("copy/file", "trusted.mine"), None);
    assert!(get("source/folder", "user.mine").is_some());
    assert_eq!(get("copy/folder", "user.mine"), None);
}

/// What linking misses by default, `rift diff` finds, and `RIFT_VERIFY=always` keeps from spreading.
#[test]
fn a_hidden_edit_of_a_linked_file_is_found_by_diff() {
    let home = with_site();
    let link = |name: &str, verify: &str| {
        let mut rift = home.rift();
        rift.args(["materialize", "--via", "hardlink", "site", name]).env("RIFT_VERIFY", verify);
        assert!(rift.status().unwrap().success());
    };
    link("one", "touched");
    let tool = home.work("one/deep/tool");
    let time = fs::metadata(&tool).unwrap().modified().unwrap();
    fs::write(&tool, b"#!/bin/sh\nexit 1\n").unwrap();
    let edited = fs::File::options().write(true).open(&tool).unwrap();
    edited.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    link("two", "touched");
    let found = home.run(["diff", "site", "./two"]);
    assert_eq!((found.code(), found.out().as_str()), (Some(1), "M deep/tool\n"));
    link("three", "always");
    assert_eq!(home.run(["diff", "site", "./three"]).good(), "");
}

#[test]
fn trees_are_listed_and_read() {
    let home = with_site();
    assert_eq!(home.run(["ls", "site"]).good(), "deep\nlink\n");
    let all = home.run(["ls", "-R", "site", "deep"]).0.stdout;
    let odd = [b"deep/er/", ODD].concat();
    assert_eq!(all, [b"deep/er\n", &odd[..], b"\ndeep/tool\n"].concat());
    let long = home.run(["ls", "-l", "site"]).good();
    assert!(long.starts_with("drwx") && long.ends_with("link -> deep/tool\n"), "{long}");
    assert_eq!(home.run(["ls", "site", "link"]).good(), "link\n");
    assert_eq!(home.run(["ls", "site", "./deep/../deep/tool"]).good(), "deep/tool\n");
    let read = home.run([OsStr::new("cat"), OsStr::new("site"), OsStr::from_bytes(&odd)]);
    assert_eq!(read.0.stdout, b"odd\0\xff");
    for (args, said) in [
        (["cat", "site", "deep"], "is a directory"),
        (["cat", "site", "link"], "hint: it points to `deep/tool`"),
        (["cat", "site", "missing"], "`missing` is not in the tree"),
        (["cat", "site", "../etc/passwd"], "leads out of the tree"),
        (["ls", "site", "deep/../../x"], "leads out of the tree"),
    ] {
        let error = home.run(args).bad(125);
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn differences_are_shown_between_trees_and_with_directories() {
    let home = with_site();
    assert_eq!(home.run(["diff", "site", "source"]).good(), "");
    fs::write(home.work("source/deep/tool"), b"#!/bin/sh\nexit 1\n").unwrap();
    fs::write(home.work("source/new"), b"").unwrap();
    fs::remove_file(home.work("source/link")).unwrap();
    fs::set_permissions(home.work("source/deep/er"), fs::Permissions::from_mode(0o700)).unwrap();
    let expected = "M deep/er\nM deep/tool\nD link\nA new\n";
    let with_directory = home.run(["diff", "site", "source"]);
    assert_eq!((with_directory.code(), with_directory.out().as_str()), (Some(1), expected));
    home.run(["ingest", "source", "--name", "next"]).good();
    let with_tree = home.run(["diff", "site", "next"]);
    assert_eq!((with_tree.code(), with_tree.out().as_str()), (Some(1), expected));
    let below = home.run(["diff", "site", "source", "deep"]);
    assert_eq!(below.out(), "M deep/er\nM deep/tool\n");
    let reversed = home.run(["diff", "next", "site"]);
    assert_eq!(reversed.out(), "M deep/er\nM deep/tool\nA link\nD new\n");
    assert!(home.run(["diff", "site", "nothing"]).bad(125).contains("nothing"));
}

#[test]
fn refs_have_names_without_surprises() {
    let home = with_site();
    for name in ["", "-x", "a b", "../x", "a//b", "deadbeef", "x\n"] {
        let error = home.run(["ingest", "source", &format!("--name={name}")]).bad(125);
        assert!(error.contains("can't be the name of a ref"), "{name:?}: {error}");
    }
    assert_eq!(home.run(["refs"]).good().lines().count(), 1);
    assert!(home.run(["refs", "--delete", "other"]).bad(125).contains("no ref is called `other`"));
    home.run(["refs", "--delete", "site"]).good();
    assert_eq!(home.run(["refs"]).good(), "");
}

#[test]
fn the_beginning_of_a_hash_means_one_tree_or_none() {
    let home = with_site();
    let hash = home.run(["refs"]).good();
    assert_eq!(home.run(["ls", &hash[..6]]).good(), "deep\nlink\n");
    assert_eq!(home.run(["ls", &hash[..64]]).good(), "deep\nlink\n");
    assert!(home.run(["ls", &hash[..5]]).bad(125).contains("at least 6 digits"));
    assert!(home.run(["ls", "Nothing"]).bad(125).contains("no tree or ref is called"));
    let unknown = if hash.starts_with("000000") { "111111" } else { "000000" };
    assert!(home.run(["ls", unknown]).bad(125).contains("no tree in the store begins with"));
    // Two more trees that begin alike: only their names are looked at before one is chosen.
    let folder = home.path().join(".local/share/rift/trees/ab");
    fs::create_dir_all(&folder).unwrap();
    for end in ["0", "1"] {
        fs::write(folder.join(format!("abcdef77{}{end}", "0".repeat(55))), b"").unwrap();
    }
    let error = home.run(["ls", "abcdef"]).bad(125);
    assert!(error.contains("2 trees begin with `abcdef`"), "{error}");
    assert!(error.contains("hint: give at least 64 digits"), "{error}");
}

#[test]
fn materialize_replaces_only_what_it_may() {
    let home = with_site();
    fs::create_dir(home.work("empty")).unwrap();
    home.run(["materialize", "site", "empty"]).good();
    assert!(home.work("empty/deep/tool").is_file());
    fs::create_dir(home.work("full")).unwrap();
    fs::write(home.work("full/mine"), b"mine").unwrap();
    let error = home.run(["materialize", "site", "full"]).bad(125);
    assert!(error.contains("is not empty") && error.contains("hint: `--force`"), "{error}");
    assert_eq!(fs::read(home.work("full/mine")).unwrap(), b"mine");
    home.run(["materialize", "--force", "site", "full"]).good();
    assert!(!home.work("full/mine").exists() && home.work("full/link").is_symlink());
    symlink("full", home.work("symlink")).unwrap();
    fs::write(home.work("file"), b"").unwrap();
    fs::create_dir(home.work("project")).unwrap();
    fs::write(home.work("project/rift.toml"), b"").unwrap();
    for target in ["symlink", "file", ".", "..", "../..", "/", "project", "no/such/parent"] {
        let said = home.run(["materialize", "--force", "site", target]);
        assert_eq!(said.code(), Some(125), "{target}: {}", said.err());
    }
    assert!(home.work("full/link").is_symlink() && home.work("project/rift.toml").is_file());
}

#[test]
fn status_tells_what_became_of_projections() {
    let home = with_site();
    for name in ["current", "replaced", "gone"] {
        home.run(["materialize", "site", name]).good();
    }
    fs::rename(home.work("replaced"), home.work("moved")).unwrap();
    fs::create_dir(home.work("replaced")).unwrap();
    fs::rename(home.work("gone"), home.work("moved too")).unwrap();
    let hash = home.run(["refs"]).good()[..12].to_owned();
    let folder = home.work("").canonicalize().unwrap();
    let line = |state: &str| format!("{state:<9} {hash} {}\n", folder.join(state).display());
    let expected = ["current", "gone", "replaced"].map(line).concat();
    assert_eq!(home.run(["status"]).good(), expected);
    let json: serde_json::Value =
        serde_json::from_str(&home.run(["status", "--json"]).good()).unwrap();
    assert_eq!(json["schema"], 1);
    let states: Vec<_> =
        json["projections"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["current", "gone", "replaced"]);
    let nothing = Home::new().run(["status"]);
    assert_eq!(nothing.good(), "");
}

#[test]
fn a_store_below_the_directory_is_not_taken_in() {
    let home = Home::new();
    fs::write(home.work("file"), b"x").unwrap();
    let store = home.work("store");
    let ingest = |name: &str| {
        let mut rift = home.rift();
        rift.args(["ingest", ".", "--name", name]).env("RIFT_STORE", &store);
        let ran = rift.output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    ingest("one");
    let listed = home.rift().args(["ls", "one"]).env("RIFT_STORE", &store).output().unwrap();
    assert_eq!(listed.stdout, b"file\n");
}

#[test]
fn what_strangers_may_write_to_is_refused() {
    let home = Home::new();
    fs::create_dir(home.work("open")).unwrap();
    fs::set_permissions(home.work("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut rift = home.rift();
    rift.args(["ingest", "."]).env("RIFT_STORE", home.work("open"));
    let ran = rift.output().unwrap();
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(125));
    assert!(
        error.contains("anybody may write to it") && error.contains("hint: set RIFT_STORE"),
        "{error}"
    );
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn a_store_is_counted_verified_mended_and_collected() {
    let home = with_site();
    let stats: serde_json::Value =
        serde_json::from_str(&home.run(["store", "stats", "--json"]).good()).unwrap();
    assert_eq!((&stats["refs"], &stats["packed_blobs"]), (&1.into(), &2.into()));
    assert!(home.run(["store", "stats"]).good().contains("on the disk"));
    assert_eq!(home.run(["store", "verify"]).good(), "");
    let pack = only_file(&home.path().join(".local/share/rift/packs"));
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(4).position(|window| window == b"exit").unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let found = home.run(["store", "verify"]);
    assert_eq!(found.code(), Some(1));
    assert!(found.out().contains("damage  packs/"), "{}", found.out());
    assert!(home.run(["store", "verify", "--repair"]).good().contains("(mended)"));
    assert_eq!(home.run(["store", "verify"]).good(), "");
    assert!(home.run(["store", "gc", "--dry-run"]).good().contains("size "));
    let collected = home.run(["store", "gc", "--max-size", "1kB"]);
    assert!(collected.good().contains("size "));
    assert!(
        collected.err().contains("what is needed takes more than 1.0 kB"),
        "{}",
        collected.err()
    );
    assert!(home.run(["store", "gc", "--max-size", "much"]).bad(2).contains("expected a size"));
}

#[test]
fn purged_content_is_gone_and_stays_away() {
    let home = with_site();
    let hash = home.run(["refs"]).good()[..64].to_owned();
    for (what, said) in
        [("lodash", "neither NAME@VERSION"), ("lodash@4", "the store has no package")]
    {
        assert!(home.run(["store", "purge", what]).bad(125).contains(said), "{what}");
    }
    assert!(home.run(["store", "purge", &hash]).good().starts_with("removed  1 trees"));
    assert_eq!(home.run(["refs"]).good(), "");
    let error = home.run(["ingest", "source"]).bad(125);
    assert!(error.contains("was purged from this store"), "{error}");
}
