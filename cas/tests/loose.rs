//! Loose forms: what hard links are made to is checked, mended, kept from gc, and never half there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says why it is skipped"
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rift_cas::materialize::{self, Writer, Written};
use rift_cas::record::Kind;
use rift_cas::tree::OpenTree;
use rift_cas::verify::{Report, Severity, verify};
use rift_cas::{Error, Store};
use support::*;

/// A store with the loose form of one stamped tree, which a plan names, and a project linked to it.
struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    tree: OpenTree,
}

impl Scene {
    fn new() -> Self {
        let folder = folder();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("lib/deep")).unwrap();
        for (name, bytes) in
            [("top", "top"), ("lib/one", "one"), ("lib/two", "two"), ("lib/deep/run", "#!")]
        {
            fs::write(source.join(name), bytes).unwrap();
            fs::set_permissions(source.join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        symlink("lib/one", source.join("link")).unwrap();
        let tree = stamped(&store, &source);
        set_plan(&store, "plan", tree.hash()).unwrap();
        let scene = Self { folder, store, tree };
        assert_eq!(scene.link("project").linked, 4);
        assert_eq!(scene.look().findings, []);
        scene
    }

    fn link(&self, name: &str) -> Written {
        link(&self.store, &self.tree, &self.folder.path().join(name)).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Returns the folder of the loose form.
    fn form(&self) -> PathBuf {
        let hex = self.tree.hash().to_string();
        self.store.root().join("loose").join(&hex[..2]).join(format!("{hex}-022"))
    }

    fn files(&self) -> Files {
        read_files(&self.path("source"))
    }

    fn look(&self) -> Report {
        verify(&self.store, false, &|_| ()).unwrap()
    }
}

/// Writes a tree with hard links.
fn link(store: &Store, tree: &OpenTree, target: &Path) -> Result<Written, Error> {
    let linker = store.linker(tree, options())?.unwrap();
    materialize::replace(&Writer::linking(tree, &linker, options()), target)
}

/// Edits a file in place so that neither its size nor its mtime tells.
fn edit_secretly(path: &Path, bytes: &[u8]) {
    let before = path.metadata().unwrap();
    assert_eq!(before.len(), bytes.len() as u64);
    fs::write(path, bytes).unwrap();
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
}

#[test]
fn an_edit_that_sets_size_and_mtime_back_is_found_by_verify() {
    let scene = Scene::new();
    edit_secretly(&scene.path("project/lib/two"), b"TWO");
    let report = scene.look();
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    let finding = &report.findings[0];
    assert_eq!((&finding.path, finding.severity), (&scene.form(), Severity::Damage));
    assert!(finding.what.contains("`lib/two`"), "{finding:?}");
    assert!(verify(&scene.store, true, &|_| ()).unwrap().findings[0].is_repaired);
    assert_eq!(scene.look().findings, []);
    assert_eq!(scene.link("second").linked, 4);
    assert_eq!(fs::read(scene.path("second/lib/two")).unwrap(), b"two");
    assert_eq!(fs::read(scene.path("project/lib/two")).unwrap(), b"TWO", "the edit is the user's");
}

#[test]
fn everything_that_can_be_wrong_with_a_loose_form_is_found_and_mended() {
    type Wrong = (&'static str, fn(&Path));
    fn replace(path: &Path, make: impl Fn(&Path)) {
        materialize::remove(path, 1).unwrap();
        make(path);
    }
    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let wrongs: [Wrong; 15] = [
        ("content", |form| edit_secretly(&form.join("top"), b"pot")),
        ("a longer file", |form| fs::write(form.join("lib/one"), b"one and more").unwrap()),
        ("an empty file", |form| fs::write(form.join("lib/deep/run"), b"").unwrap()),
        ("another mtime", |form| {
            let file = File::options().write(true).open(form.join("lib/one")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(9)).unwrap();
        }),
        ("another mode", |form| mode(&form.join("lib/one"), 0o755)),
        ("another mode of a directory", |form| mode(&form.join("lib/deep"), 0o711)),
        ("another mode of the root", |form| mode(form, 0o700)),
        ("another mtime of the root", |form| {
            File::open(form).unwrap().set_modified(SystemTime::now()).unwrap();
        }),
        ("a missing file", |form| fs::remove_file(form.join("lib/two")).unwrap()),
        ("a missing directory", |form| fs::remove_dir_all(form.join("lib")).unwrap()),
        ("an extra file", |form| fs::write(form.join("lib/deep/more"), b"").unwrap()),
        ("an extra directory", |form| fs::create_dir(form.join("lib/more")).unwrap()),
        ("another link target", |form| {
            replace(&form.join("link"), |path| symlink("lib/two", path).unwrap());
        }),
        ("a link instead of a directory", |form| {
            replace(&form.join("lib"), |path| symlink("/etc", path).unwrap());
        }),
        ("a file instead of all", |form| replace(form, |path| fs::write(path, b"").unwrap())),
    ];
    for (name, spoil) in wrongs {
        let scene = Scene::new();
        spoil(&scene.form());
        let report = scene.look();
        assert_eq!(report.findings.len(), 1, "{name}: {report:#?}");
        assert_eq!(report.findings[0].path, scene.form(), "{name}");
        let is_noticed = !["content", "a file instead of all"].contains(&name);
        assert_eq!(report.is_whole(), is_noticed, "{name}");
        if is_noticed {
            scene.link("before");
            assert_eq!(read_files(&scene.path("before")), scene.files(), "{name} has spread");
        }
        verify(&scene.store, true, &|_| ()).unwrap();
        assert_eq!(scene.look().findings, [], "{name}");
        assert_eq!(scene.link("second").linked, 4, "{name}");
        assert_eq!(scene.look().findings, [], "{name}");
        assert_eq!(read_files(&scene.path("second")), scene.files(), "{name}");
    }
}

#[test]
fn every_byte_of_a_loose_form_counts() {
    let scene = Scene::new();
    let mut count = 0;
    for path in store_files(&scene.form()) {
        let bytes = path.symlink_metadata().unwrap().is_file().then(|| fs::read(&path).unwrap());
        for (at, length) in
            bytes.iter().flat_map(|bytes| (0..bytes.len()).map(|at| (at, bytes.len())))
        {
            let mut flipped = bytes.clone().unwrap();
            flipped[at] ^= 1 << (at % 8);
            edit_secretly(&path, &flipped);
            assert!(!scene.look().is_whole(), "{}: {at} of {length}", path.display());
            edit_secretly(&path, bytes.as_ref().unwrap());
            count += 1;
        }
    }
    assert_eq!(count, 11);
    assert_eq!(scene.look().findings, []);
}

#[test]
fn a_loose_form_whose_tree_is_gone_is_litter() {
    let scene = Scene::new();
    let hex = scene.tree.hash().to_string();
    for suffix in ["", ".loc"] {
        let name = format!("{hex}{suffix}");
        fs::remove_file(scene.store.root().join("trees").join(&hex[..2]).join(name)).unwrap();
    }
    scene.store.remove_record(Kind::Plan, "plan").unwrap();
    let report = scene.look();
    assert!(report.is_whole(), "{report:#?}");
    assert_eq!(report.findings[0].path, scene.form());
    verify(&scene.store, true, &|_| ()).unwrap();
    assert_eq!(scene.look().findings, []);
    assert!(!scene.form().exists());
}

#[test]
fn a_mended_form_is_whole_and_keeps_its_stamp() {
    let scene = Scene::new();
    let mtime = |path: &str| scene.path(path).metadata().unwrap().modified().unwrap();
    let stamp = mtime("project/lib/one");
    fs::write(scene.path("project/lib/one"), b"edited").unwrap();
    assert_eq!(scene.link("second").linked, 4);
    assert_eq!(scene.look().findings, [], "what was mended is whole again");
    fs::write(scene.path("project/top"), b"edited").unwrap();
    // To mend it would change the mtime of its directory, which is the stamp.
    assert_eq!(scene.link("third").linked, 3);
    assert_eq!(fs::read(scene.path("third/top")).unwrap(), b"top");
    assert_eq!((mtime("third/top"), mtime("third/lib/one")), (stamp, stamp));
    let inode = |path: &str| scene.path(path).metadata().unwrap().ino();
    assert_eq!(inode("second/lib/one"), inode("third/lib/one"));
    assert_eq!(fs::read_dir(scene.store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn linking_goes_on_while_gc_takes_what_nothing_names() {
    let folder = folder();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let done = AtomicBool::new(false);
    let (mut forms_gone, mut collections) = (0, 0);
    std::thread::scope(|scope| {
        let linkers: Vec<_> = (0..2)
            .map(|number| {
                let (store, done) = (&store, &done);
                let out = folder.path().join(format!("out{number}"));
                scope.spawn(move || {
                    let _stop = StopOnDrop(done);
                    let rounds = if is_full() { 2000 } else { 60 };
                    (0..rounds).map(|round| link_unnamed(store, &out, number, round)).sum::<usize>()
                })
            })
            .collect();
        while linkers.iter().any(|linker| !linker.is_finished()) && !done.load(Ordering::Relaxed) {
            let before = rift_cas::stats::stats(&store).unwrap().loose_forms;
            collect_all(&store);
            let after = rift_cas::stats::stats(&store).unwrap().loose_forms;
            forms_gone += before.saturating_sub(after);
            collections += 1;
        }
        // One that is gone before its linker leases it is written for itself.
        let linked: usize = linkers.into_iter().map(|linker| linker.join().unwrap()).sum();
        assert!(linked > 60, "{linked}");
    });
    assert!(forms_gone > 5 && collections > 20, "{forms_gone} forms gone in {collections}");
    // The last edits are in the forms.
    assert!(verify(&store, true, &|_| ()).unwrap().is_whole());
    collect_all(&store);
    let stats = rift_cas::stats::stats(&store).unwrap();
    assert_eq!((stats.trees, stats.packs, stats.loose_forms), (0, 0, 0));
    assert_eq!(verify(&store, false, &|_| ()).unwrap().findings, []);
}

/// Shows a tree twice with hard links, with an edit in between, while nothing but the linker names it.
/// Returns how often it could be linked: always when it was leased from the beginning.
fn link_unnamed(store: &Store, out: &Path, number: u64, round: u64) -> usize {
    let files = some_files(number * 10 + round % 3, 60, 900);
    let import = store.import().unwrap();
    let built = build(&import, &files).unwrap();
    let (_, index) = import.finish(&[]).unwrap();
    store.publish_located(&built, &index).unwrap();
    let is_leased = round.is_multiple_of(2);
    let open = match is_leased {
        true => store.open_leased(built.hash),
        false => store.open_tree(built.hash),
    };
    let open = open.unwrap().unwrap();
    drop(index);
    assert_eq!(open.is_leased(), is_leased);
    let linker = store.linker(&open, options()).unwrap();
    let Some(linker) = linker else {
        assert!(!is_leased, "a leased tree is gone");
        materialize::replace(&Writer::new(&open, options()), out).unwrap();
        assert_eq!(read_files(out), files);
        return 0;
    };
    let writer = Writer::linking(&open, &linker, options());
    for _ in 0..2 {
        let written = materialize::replace(&writer, out).unwrap();
        assert_eq!(written.linked, 60);
        assert_eq!(read_files(out), files);
        fs::write(out.join(files.keys().next().unwrap()), "edited").unwrap();
    }
    1
}
