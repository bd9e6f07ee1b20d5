//! A tree's way back to the disk: materialize, compare, repair, change by difference, hard links.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rift_cas::ahead::Ahead;
use rift_cas::compare::{self, Differences};
use rift_cas::import::Unit;
use rift_cas::ingest;
use rift_cas::materialize::{self, Options, Writer};
use rift_cas::projection::Projection;
use rift_cas::store::Store;
use rift_cas::tree::OpenTree;
use rift_tree::Manifest;
use rift_tree::builder::{Builder, Built, Item};
use rift_tree::compose::Composer;
use support::stamped;

const STAMP_NS: i64 = 1_700_000_000_000_000_000;

/// What can be seen of an entry: mode, mtime, and bytes or target.
type Seen = (u32, i64, Vec<u8>);

fn options() -> Options {
    Options {
        threads: 2,
        stamp_ns: STAMP_NS,
        umask: materialize::umask(),
        verify: true,
        ..Options::default()
    }
}

/// As most runs have it: by size and time.
fn trusting() -> Options {
    Options { verify: false, ..options() }
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = path.symlink_metadata().unwrap();
        let bytes = if stat.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let relative = path.strip_prefix(root).unwrap().to_owned();
        seen.insert(
            relative,
            (stat.mode(), stat.mtime() * 1_000_000_000 + stat.mtime_nsec(), bytes),
        );
    }
    seen
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    tree: OpenTree,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let source = folder.path().join("source");
        for number in 0..60 {
            let package = source.join(format!("package-{number}"));
            write(&package.join("package.json"), format!("{{\"n\":{number}}}").as_bytes(), 0o644);
            write(&package.join("lib/index.js"), &vec![number; 500 * usize::from(number)], 0o644);
            write(&package.join("bin/run"), b"#!/bin/sh\n", 0o755);
        }
        fs::create_dir(source.join("empty")).unwrap();
        fs::create_dir(source.join(".bin")).unwrap();
        symlink("../package-1/bin/run", source.join(".bin/run")).unwrap();
        let tree = stamped(&store, &source);
        Self { folder, store, tree }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("shown")
    }

    fn show(&self) -> Projection {
        let writer = Writer::new(&self.tree, options());
        materialize::replace(&writer, &self.target()).unwrap();
        Projection::seal(&writer, &self.target()).unwrap()
    }
}

/// What cargo leaves: large files that have two names, in one folder or in two.
#[test]
fn twins_are_names_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("deps")).unwrap();
    let large = |byte: u8| vec![byte; 70_000];
    fs::write(source.join("deps/app-1"), large(1)).unwrap();
    fs::hard_link(source.join("deps/app-1"), source.join("app")).unwrap();
    fs::write(source.join("deps/script"), large(2)).unwrap();
    fs::hard_link(source.join("deps/script"), source.join("deps/script-1")).unwrap();
    // The same bytes, of another time; and too small for it.
    fs::write(source.join("deps/other"), large(2)).unwrap();
    for name in ["small", "smaller"] {
        fs::write(source.join(name), "small").unwrap();
    }
    let import = store.import().unwrap();
    let mut builder = Builder::new();
    let entries = ingest::directory(&import, &source, 2, &|_| false).unwrap();
    for entry in entries {
        builder.put_with_xattrs(&entry.path, entry.mtime_ns, entry.item, entry.xattrs).unwrap();
    }
    let built = builder.finish().unwrap();
    let (_, index) = import.finish(&[]).unwrap();
    store.publish_located(&built, &index).unwrap();
    drop(index);
    let tree = store.open_tree(built.hash).unwrap().unwrap();
    for links_twins in [true, false] {
        let target = folder.path().join(format!("target-{links_twins}"));
        let options = Options { links_twins, umask: 0, ..options() };
        let written = Writer::new(&tree, options).write_tree(&target).unwrap();
        assert_eq!(written.entries, 9);
        let inode = |name: &str| target.join(name).metadata().unwrap().ino();
        assert_eq!(inode("app") == inode("deps/app-1"), links_twins);
        assert_eq!(inode("deps/script") == inode("deps/script-1"), links_twins);
        assert!(inode("deps/script") != inode("deps/other") && inode("small") != inode("smaller"));
        for (name, path) in [("app", "app"), ("deps/script-1", "deps/script"), ("deps", "deps")] {
            let mtime = |root: &Path, name| root.join(name).metadata().unwrap().modified().unwrap();
            assert_eq!(mtime(&target, name), mtime(&source, path), "{name}");
        }
        assert_eq!(fs::read(target.join("app")).unwrap(), large(1));
    }
}

#[test]
fn an_untouched_projection_has_no_differences() {
    let scene = Scene::new();
    let known = scene.show();
    assert!(compare::compare(&scene.tree, &known, 2).unwrap().is_empty());
    for (path, (_, mtime_ns, _)) in look(&scene.target()) {
        assert_eq!(mtime_ns, STAMP_NS, "{}", path.display());
    }
}

/// What it is called, and what it does to a projection.
type Edit = (&'static str, fn(&Path));

#[test]
fn every_edit_is_found_and_mended() {
    let scene = Scene::new();
    let edits: [Edit; 14] = [
        ("content", |root| fs::write(root.join("package-3/package.json"), b"edited").unwrap()),
        ("content with the old size and mtime", |root| {
            let path = root.join("package-3/package.json");
            fs::write(&path, b"{\"n\":9}").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            let nanoseconds = u64::try_from(STAMP_NS).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds);
            file.set_modified(time).unwrap();
        }),
        ("mode", |root| {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(root.join("package-4/bin/run"), mode).unwrap();
        }),
        ("mode of a directory", |root| {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root.join("package-4/bin"), mode).unwrap();
        }),
        ("deleted file", |root| fs::remove_file(root.join("package-5/lib/index.js")).unwrap()),
        ("deleted directory", |root| fs::remove_dir_all(root.join("package-6")).unwrap()),
        ("deleted empty directory", |root| fs::remove_dir(root.join("empty")).unwrap()),
        ("deleted link", |root| fs::remove_file(root.join(".bin/run")).unwrap()),
        ("another link target", |root| {
            fs::remove_file(root.join(".bin/run")).unwrap();
            symlink("../package-2/bin/run", root.join(".bin/run")).unwrap();
        }),
        ("extra file", |root| fs::write(root.join("package-7/lib/extra"), b"x").unwrap()),
        ("extra tree", |root| write(&root.join(".cache/deep/er"), b"x", 0o644)),
        ("directory became a file", |root| {
            fs::remove_dir_all(root.join("package-8/lib")).unwrap();
            fs::write(root.join("package-8/lib"), b"").unwrap();
        }),
        ("directory became a link that leads out", |root| {
            let outside = root.parent().unwrap().join("outside");
            write(&outside.join("lib/keep"), b"keep", 0o644);
            fs::remove_dir_all(root.join("package-9")).unwrap();
            symlink(&outside, root.join("package-9")).unwrap();
        }),
        ("mtime", |root| {
            let file = fs::File::open(root.join("package-1")).unwrap();
            file.set_modified(std::time::SystemTime::now()).unwrap();
        }),
    ];
    let mut known = scene.show();
    let pristine = look(&scene.target());
    for (name, edit) in edits {
        edit(&scene.target());
        assert_ne!(look(&scene.target()), pristine, "{name}");
        let found = compare::compare(&scene.tree, &known, 2).unwrap();
        assert!(!found.is_empty(), "{name} was not found");
        let writer = Writer::new(&scene.tree, options());
        compare::repair(&writer, &scene.target(), &found).unwrap();
        known = Projection::seal(&writer, &scene.target()).unwrap();
        assert_eq!(look(&scene.target()), pristine, "{name}");
        let again = compare::compare(&scene.tree, &known, 2).unwrap();
        assert_eq!(again, Differences::default(), "{name}");
    }
    let kept = fs::read(scene.target().with_file_name("outside").join("lib/keep")).unwrap();
    assert_eq!(kept, b"keep", "a link was followed");
}

#[test]
fn an_entry_that_was_only_linked_elsewhere_is_unchanged() {
    let scene = Scene::new();
    let known = scene.show();
    let backup = scene.target().with_file_name("backup");
    fs::hard_link(scene.target().join("package-3/package.json"), backup).unwrap();
    assert!(compare::compare(&scene.tree, &known, 2).unwrap().is_empty());
}

#[test]
fn a_projection_changes_by_the_difference_of_its_trees() {
    let scene = Scene::new();
    let known = scene.show();
    let source = scene.folder.path().join("source");
    fs::remove_dir_all(source.join("package-10")).unwrap();
    fs::write(source.join("package-11/lib/index.js"), b"changed").unwrap();
    write(&source.join("package-12/lib/deep/new.js"), b"new", 0o644);
    fs::remove_file(source.join(".bin/run")).unwrap();
    symlink("../package-2/bin/run", source.join(".bin/run")).unwrap();
    let changed = stamped(&scene.store, &source);
    let found = compare::between(&scene.tree.manifest(), &changed.manifest());
    assert_eq!(found.extra, [PathBuf::from("package-10")]);
    assert_eq!(found.changed.len(), 3);
    let untouched = scene.target().join("package-20/lib/index.js");
    let inode = untouched.metadata().unwrap().ino();
    let later = Options { stamp_ns: STAMP_NS + 1_000_000_000, ..options() };
    let writer = Writer::new(&changed, later);
    compare::repair(&writer, &scene.target(), &found).unwrap();
    compare::restamp(&writer, &scene.target()).unwrap();
    let sealed = Projection::seal(&writer, &scene.target()).unwrap();
    assert!(compare::compare(&changed, &sealed, 2).unwrap().is_empty());
    assert!(known.is_in_place() && untouched.metadata().unwrap().ino() == inode);
    let beside = scene.target().with_file_name("fresh");
    writer.write_tree(&beside).unwrap();
    assert_eq!(look(&scene.target()), look(&beside));
}

#[test]
fn links_share_inodes_and_an_edited_source_is_mended_instead_of_spread() {
    let scene = Scene::new();
    let linker = scene.store.linker(&scene.tree, trusting()).unwrap().unwrap();
    let writer = Writer::linking(&scene.tree, &linker, trusting());
    let (first, second) = (scene.target(), scene.target().with_file_name("second"));
    let written = materialize::replace(&writer, &first).unwrap();
    assert_eq!(written.linked, 180);
    let pristine = look(&first);
    let known = Projection::seal(&writer, &first).unwrap();
    let edited = first.join("package-3/package.json");
    fs::write(&edited, b"{\"n\":9}").unwrap();
    materialize::replace(&writer, &second).unwrap();
    assert_eq!(look(&second), pristine, "the edit has spread");
    let shared = |path: &str| {
        let inode = |root: &Path| root.join(path).metadata().unwrap().ino();
        inode(&first) == inode(&second)
    };
    assert!(shared("package-5/package.json") && !shared("package-3/package.json"));
    let found = compare::compare(&scene.tree, &known, 2).unwrap();
    assert_eq!(found.changed.len(), 1);
    compare::repair(&writer, &first, &found).unwrap();
    assert_eq!(look(&first), pristine);
}

/// Neither linking nor checking reads a linked file's content; [`Options::verify`] and a comparison by content do.
#[test]
fn an_edit_of_a_linked_file_with_size_and_time_put_back_is_found_by_content_only() {
    let scene = Scene::new();
    let linker = scene.store.linker(&scene.tree, trusting()).unwrap().unwrap();
    let writer = Writer::linking(&scene.tree, &linker, trusting());
    let named = |name: &str| scene.target().with_file_name(name);
    let first = scene.target();
    materialize::replace(&writer, &first).unwrap();
    let known = Projection::seal(&writer, &first).unwrap();
    let path = "package-3/package.json";
    let pristine = fs::read(first.join(path)).unwrap();
    let time = fs::metadata(first.join(path)).unwrap().modified().unwrap();
    fs::write(first.join(path), b"{\"n\":X}").unwrap();
    let edited = fs::File::options().write(true).open(first.join(path)).unwrap();
    edited.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    assert!(compare::compare(&scene.tree, &known, 2).unwrap().is_empty(), "it is missed");
    materialize::replace(&writer, &named("second")).unwrap();
    assert_eq!(fs::read(named("second").join(path)).unwrap(), b"{\"n\":X}", "it spreads");

    let careful = Writer::linking(&scene.tree, &linker, options());
    let written = materialize::replace(&careful, &named("third")).unwrap();
    assert_eq!(written.linked, 180);
    assert_eq!(fs::read(named("third").join(path)).unwrap(), pristine);
    materialize::replace(&writer, &named("fourth")).unwrap();
    assert_eq!(fs::read(named("fourth").join(path)).unwrap(), pristine, "the source was mended");
}

#[test]
fn what_a_killed_run_left_beside_the_target_is_swept() {
    let scene = Scene::new();
    let target = scene.target();
    write(&target.with_file_name(".shown.rift-new-1").join("half/file"), b"x", 0o644);
    scene.show();
    let names: Vec<_> = fs::read_dir(target.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("rift-")), "{names:?}");
}

#[test]
fn a_record_counts_while_its_directory_is_the_same() {
    let scene = Scene::new();
    let known = scene.show();
    scene.store.set_projection(&known).unwrap();
    let target = scene.target();
    assert_eq!(scene.store.projection(&target).unwrap(), Some(known.clone()));
    assert_eq!(scene.store.projections().unwrap(), [known]);
    fs::rename(&target, target.with_file_name("moved")).unwrap();
    fs::create_dir(&target).unwrap();
    assert_eq!(scene.store.projection(&target).unwrap(), None);
    scene.store.forget_projection(&target).unwrap();
    assert_eq!(scene.store.projections().unwrap(), []);
}

/// Brings a package of these files; returns its tree.
fn package(unit: &mut Unit<'_>, files: &[(&str, &[u8], u16)]) -> Built {
    let mut builder = Builder::stamped();
    for (path, bytes, permissions) in files {
        let hash = unit.add(bytes).unwrap();
        let item = Item::File { permissions: *permissions, size: bytes.len() as u64, hash };
        for (at, _) in path.match_indices('/') {
            let item = Item::Directory { permissions: 0o777 };
            builder.put(&path.as_bytes()[..at], 0, item).unwrap();
        }
        builder.put(path.as_bytes(), 0, item).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn what_was_written_ahead_ends_as_the_tree_itself() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let store = Store::open(&root.join("store")).unwrap();
    let (large, loose) = (vec![1; 5 << 20], vec![2; 9 << 20]);
    for (is_in_the_way, is_bundled) in [(false, false), (true, false), (false, true)] {
        let target = root.join("shown");
        write(&root.join(".shown.rift-new-1/leftover"), b"of a killed run", 0o644);
        let ahead = Ahead::start(&store, &target, options()).unwrap();
        assert!(!root.join(".shown.rift-new-1").exists());
        let import = store.import().unwrap();
        let (mut unit, mut other) = (import.unit(), import.unit());
        unit.remember();
        let a = package(
            &mut unit,
            &[("index.js", b"a", 0o666), ("large", &large, 0o666), ("loose", &loose, 0o666)],
        );
        let b = package(&mut unit, &[("bin/run", b"#!/bin/sh\r\n", 0o777), ("b", b"", 0o644)]);
        let shared = package(&mut other, &[("only/elsewhere", b"other unit", 0o666)]);
        let gone = package(&mut unit, &[("gone", b"gone", 0o666)]);
        ahead.write(&unit, &b, Path::new("a/node_modules/b"));
        ahead.write(&unit, &a, Path::new("a"));
        let bundling = package(&mut unit, &[("node_modules/b/gone", b"bundled", 0o666)]);
        if is_bundled {
            ahead.write(&unit, &bundling, Path::new("c"));
            ahead.write(&unit, &b, Path::new("c/node_modules/b"));
        }
        ahead.write(&unit, &shared, Path::new("@scope/shared"));
        ahead.write(&unit, &gone, Path::new("gone"));
        let beside = root.join(format!(".shown.rift-new-{}", std::process::id()));
        assert_eq!(fs::metadata(beside.join("a/large")).unwrap().len(), 5 << 20);
        if is_in_the_way {
            write(&beside.join("b/bin/run"), b"somebody else's", 0o644);
            ahead.write(&unit, &b, Path::new("b"));
        }
        let mut composer = Composer::new(0o777);
        for (path, built) in
            [("a", &a), ("a/node_modules/b", &b), ("@scope/shared", &shared), ("b", &b)]
                .into_iter()
                .chain([("c", &bundling), ("c/node_modules/b", &b)])
        {
            composer.graft(path.as_bytes(), Manifest::parse(&built.bytes).unwrap()).unwrap();
        }
        let hash = unit.add(b"#!/bin/sh\n").unwrap();
        let item = Item::File { permissions: 0o755, size: 10, hash };
        composer.put(b"a/node_modules/b/bin/run", item).unwrap();
        let link = Item::Symlink { target: b"../a/index.js".to_vec() };
        composer.put(b".bin/a", link).unwrap();
        let built = composer.finish().unwrap().built;
        unit.flush().unwrap();
        other.flush().unwrap();
        drop((unit, other));
        let (_, index) = import.finish(&[]).unwrap();
        store.publish_located(&built, &index).unwrap();
        let tree = store.open_tree(built.hash).unwrap().unwrap();
        let writer = Writer::new(&tree, options());

        // Another tree is there by now: it goes, as ever.
        write(&target.join("old"), b"old", 0o644);
        let written = ahead.complete(&writer).unwrap();
        assert_eq!(written.entries, u64::from(tree.manifest().len()));
        materialize::replace(&writer, &root.join("expected")).unwrap();
        assert_eq!(look(&target), look(&root.join("expected")));
        assert!(!beside.exists());
    }
}

/// A byte of a pack has changed on the disk, and nothing that stat(2) says of the pack.
#[test]
fn damaged_bytes_are_not_written_ahead_when_they_are_to_be_verified() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let store = Store::open(&root.join("store")).unwrap();
    let import = store.import().unwrap();
    let mut unit = import.unit();
    unit.add(b"the bytes of a file").unwrap();
    unit.flush().unwrap();
    drop(unit);
    import.finish(&[]).unwrap();
    let pack = fs::read_dir(root.join("store/packs")).unwrap().next().unwrap().unwrap().path();
    let modified = fs::metadata(&pack).unwrap().modified().unwrap();
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().write(true).open(&pack).unwrap();
    let held = fs::read(&pack).unwrap();
    let at = held.windows(19).position(|bytes| bytes == b"the bytes of a file").unwrap();
    file.write_all_at(b"T", at as u64).unwrap();
    file.set_modified(modified).unwrap();

    let target = root.join("shown");
    let ahead = Ahead::start(&store, &target, options()).unwrap();
    let import = store.import().unwrap();
    let mut unit = import.unit();
    unit.remember();
    let tree =
        package(&mut unit, &[("old", b"the bytes of a file", 0o666), ("new", b"new", 0o666)]);
    ahead.write(&unit, &tree, Path::new("a"));
    unit.flush().unwrap();
    drop(unit);
    let (_, index) = import.finish(&[]).unwrap();
    let mut composer = Composer::new(0o777);
    composer.graft(b"a", Manifest::parse(&tree.bytes).unwrap()).unwrap();
    let built = composer.finish().unwrap().built;
    store.publish_located(&built, &index).unwrap();
    let tree = store.open_tree(built.hash).unwrap().unwrap();
    let completed = ahead.complete(&Writer::new(&tree, options()));
    assert!(matches!(completed, Err(rift_cas::Error::HashMismatch { .. })), "{completed:?}");
    assert!(!target.exists());
}

#[test]
fn nothing_is_left_of_what_was_written_ahead_in_vain() {
    let scene = Scene::new();
    let ahead = Ahead::start(&scene.store, &scene.target(), options()).unwrap();
    let import = scene.store.import().unwrap();
    let mut unit = import.unit();
    unit.remember();
    let tree = package(&mut unit, &[("index.js", b"a", 0o666)]);
    ahead.write(&unit, &tree, Path::new("../outside"));
    ahead.write(&unit, &tree, Path::new("inside"));
    drop(unit);
    drop((import, ahead));
    let names = fs::read_dir(scene.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["source", "store"]);
}

/// The clock of files stands still for milliseconds, so an edit may have the very ctime of the end of the projection.
#[test]
fn an_edit_in_the_moment_of_the_end_is_found() {
    let scene = Scene::new();
    scene.show();
    let file = scene.target().join("package-1/package.json");
    let content = fs::read(&file).unwrap();
    let other = vec![b'x'; content.len()];
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let writer = Writer::new(&scene.tree, options());
    for round in 0..300 {
        let known = Projection::seal(&writer, &scene.target()).unwrap();
        let mut opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
        std::io::Write::write_all(&mut opened, &other).unwrap();
        opened.set_modified(modified).unwrap();
        let found = compare::compare(&scene.tree, &known, 1).unwrap();
        assert_eq!(found.changed.len(), 1, "round {round}");
        compare::repair(&writer, &scene.target(), &found).unwrap();
    }
}
