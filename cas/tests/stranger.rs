//! A program that knows `docs/format.md` only reads what this crate has written, and they agree.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rift_cas::log::{Record, Topic};
use rift_cas::materialize::{self, Options, Writer};
use rift_cas::projection::Projection;
use rift_cas::record::Kind as RecordKind;
use rift_cas::tree::OpenTree;
use rift_cas::{Store, ingest};
use rift_tree::builder::{Builder, Built, Item};
use rift_tree::{BlobHash, EntryId, Kind, Manifest};

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/apps/read_store.py")
}

fn has_python() -> bool {
    let works = Command::new("python3").arg("--version").output().is_ok();
    if !works {
        #[allow(clippy::print_stdout, reason = "who runs the tests has to see it")]
        {
            println!("SKIP stranger: python3 is not in PATH");
        }
    }
    works
}

fn run(store: &Path, arguments: &[&OsStr]) -> Output {
    Command::new("python3").arg(program()).arg(store).args(arguments).output().unwrap()
}

fn read(store: &Path, arguments: &[&str]) -> Vec<u8> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    let output = run(store, &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    output.stdout
}

/// Bytes as Python prints them in JSON when it takes them for Latin-1.
fn json(bytes: &[u8]) -> String {
    let escaped = bytes.iter().map(|&byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b'\n' => "\\n".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\u{byte:04x}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn path_of(manifest: &Manifest<'_>, mut id: EntryId) -> Vec<u8> {
    let mut names = Vec::new();
    while id != EntryId::ROOT {
        names.push(manifest.name(id).unwrap());
        id = manifest.parent(id).unwrap();
    }
    names.reverse();
    names.join(&b'/')
}

/// What the program should print of a tree, by this crate's own reader.
fn listing(manifest: &Manifest<'_>) -> String {
    let mut lines = String::new();
    for id in (0..manifest.len()).map(EntryId) {
        let entry = manifest.entry(id).unwrap();
        let what = match entry.kind {
            Kind::Directory { .. } => "null".to_owned(),
            Kind::File { size, blob } => {
                format!("[{size}, \"{}\"]", manifest.blob_hash(blob).unwrap())
            }
            Kind::Symlink { target } => json(target),
        };
        let mtime = entry.mtime_ns.map_or("null".to_owned(), |mtime| mtime.to_string());
        let pair = |(name, value)| format!("[{}, {}]", json(name), json(value));
        let xattrs: Vec<String> = manifest.xattrs(id).map(pair).collect();
        let (path, mode) = (json(&path_of(manifest, id)), entry.mode);
        let xattrs = xattrs.join(", ");
        lines.push_str(&format!("[{path}, \"0o{mode:o}\", {mtime}, {what}, [{xattrs}]]\n"));
    }
    lines
}

/// Writes a folder with everything that a tree can hold.
fn make_source(root: &Path) {
    let write = |path: &Path, bytes: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for number in 0..40_u8 {
        let package = root.join(format!("node_modules/package-{}", number % 7));
        write(&package.join(format!("{number}.js")), &vec![number; usize::from(number) * 150]);
    }
    for (number, length) in
        [0, 1, 63, 64, 65, 1023, 1024, 1025, 2049, 16_384, 70_000].iter().enumerate()
    {
        write(&root.join(format!("sizes/{number}")), &vec![b'a' + number as u8; *length]);
    }
    write(&root.join(OsStr::from_bytes(b"odd/\xff\xfe \"name\"\n")), b"odd");
    write(&root.join("large/blob"), &vec![7; (8 << 20) + 5]);
    write(&root.join("large/below"), &vec![8; (1 << 20) - 1]);
    fs::set_permissions(root.join("sizes/1"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    symlink(OsStr::from_bytes(b"../odd/\xff"), root.join("sizes/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
}

const SMALL: &[u8] = b"in a packed tree";

/// A tree that only a pack has.
fn small() -> Built {
    let mut small = Builder::stamped();
    let hash = BlobHash::from_bytes(*blake3::hash(SMALL).as_bytes());
    let size = SMALL.len() as u64;
    small.put(b"one", 0, Item::File { permissions: 0o644, size, hash }).unwrap();
    small.finish().unwrap()
}

/// Takes `source` in; `xattrs` go to one file, whatever the file system can hold.
fn take_in(store: &Store, source: &Path, is_stamped: bool, records: &[Record]) -> OpenTree {
    let import = store.import().unwrap();
    let mut builder = if is_stamped { Builder::stamped() } else { Builder::new() };
    for entry in ingest::directory(&import, source, 2, &|_| false).unwrap() {
        let mut xattrs = entry.xattrs;
        if entry.path == b"sizes/3" {
            xattrs =
                vec![(b"user.z".to_vec(), b"\0\xff".to_vec()), (b"user.a".to_vec(), Vec::new())];
        }
        builder.put_with_xattrs(&entry.path, entry.mtime_ns, entry.item, xattrs).unwrap();
    }
    let built = builder.finish().unwrap();
    let mut unit = import.unit();
    unit.add(SMALL).unwrap();
    import.add_manifest(&mut unit, &small()).unwrap();
    unit.flush().unwrap();
    drop(unit);
    let (_, index) = import.finish(records).unwrap();
    store.publish_located(&built, &index).unwrap();
    store.open_tree(built.hash).unwrap().unwrap()
}

#[test]
fn a_stranger_reads_what_we_write() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("source"), folder.path().join("store"));
    make_source(&source);
    let store = Store::open(&root).unwrap();
    let record = |topic, key: u8, length: usize| Record {
        topic,
        key: [key; 32],
        payload: (0..length).map(|at| at as u8).collect(),
    };
    let records = [
        record(Topic::Package, 1, 50),
        record(Topic::Scripts, 2, 32),
        record(Topic::Package, 1, 32),
    ];
    let exact = take_in(&store, &source, false, &records);
    fs::write(source.join("node_modules/later.js"), b"in a second pack").unwrap();
    let stamped = take_in(&store, &source.join("node_modules"), true, &[]);
    store.set_ref("npm/exact tree", exact.hash()).unwrap();
    store.set_ref(".stamped", stamped.hash()).unwrap();
    store.set_record(RecordKind::Run, "a-run", b"{}").unwrap();
    let lease = store.lease(exact.hash()).unwrap();
    let shown = folder.path().canonicalize().unwrap().join("shown here");
    let known = show_with_links(&store, &stamped, &shown);
    link_form(&store, &exact);

    for tree in [&exact, &stamped] {
        let (hash, manifest) = (tree.hash().to_string(), tree.manifest());
        let printed = String::from_utf8(read(&root, &["list", &hash])).unwrap();
        assert_eq!(printed, listing(&manifest));
        let paths = [
            &b"large/blob"[..],
            b"odd/\xff\xfe \"name\"\n",
            b"sizes/0",
            b"sizes/9",
            b"package-3/10.js",
        ];
        let found = paths.iter().filter_map(|path| Some((*path, manifest.lookup(path)?)));
        let mut compared = 0;
        for (path, id) in found {
            let Some(Kind::File { size, blob }) = manifest.kind(id) else { panic!("{path:?}") };
            for how in ["cat", "find"] {
                let output =
                    run(&root, &[OsStr::new(how), OsStr::new(&hash), OsStr::from_bytes(path)]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                assert_eq!(Some(&output.stdout[..]), tree.bytes(&tree.sidecar(), blob, size));
            }
            compared += 1;
        }
        assert!(compared > 0);
    }
    let packed = read(&root, &["find", &small().hash.to_string(), "one"]);
    assert_eq!(packed, b"in a packed tree");
    let printed = String::from_utf8(read(&root, &["projections"])).unwrap();
    let Projection { device, inode, stamp_ns, done_ns, umask, .. } = known;
    let place = format!("{} {}", shown.display(), stamped.hash());
    assert_eq!(printed, format!("{place} {device} {inode} {stamp_ns} {done_ns} {umask} 1\n"));
    let refs = String::from_utf8(read(&root, &["refs"])).unwrap();
    assert_eq!(
        refs,
        format!("%2Estamped {}\nnpm%2Fexact%20tree {}\n", stamped.hash(), exact.hash())
    );
    let log = String::from_utf8(read(&root, &["log"])).unwrap();
    let payload: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(log, format!("1 {} {payload}\n2 {} {payload}\n", "01".repeat(32), "02".repeat(32)));

    let checked = String::from_utf8(read(&root, &["check"])).unwrap();
    let blobs: usize = store.blobs().unwrap().packs().map(|pack| pack.len()).sum();
    let expected = format!(
        "{{\"packs\": 2, \"packed blobs\": {}, \"packed manifests\": 1, \"loose blobs\": 1, \"trees\": 2, \
         \"loose forms\": 2, \"records\": 4, \"frames\": 2}}\n",
        blobs - 1
    );
    assert_eq!(checked, expected);
    drop(lease);
}

fn options() -> Options {
    Options {
        threads: 2,
        stamp_ns: 1_700_000_000_123_456_789,
        umask: 0o027,
        verify: true,
        ..Options::default()
    }
}

fn link_form(store: &Store, tree: &OpenTree) {
    store.linker(tree, options()).unwrap().unwrap();
}

fn show_with_links(store: &Store, tree: &OpenTree, directory: &Path) -> Projection {
    let linker = store.linker(tree, options()).unwrap().unwrap();
    let writer = Writer::linking(tree, &linker, options());
    assert!(materialize::replace(&writer, directory).unwrap().linked > 0);
    let known = Projection::seal(&writer, directory).unwrap();
    store.set_projection(&known).unwrap();
    known
}

#[test]
fn a_stranger_notices_damage() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("source"), folder.path().join("store"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let store = Store::open(&root).unwrap();
    let tree = take_in(&store, &source, false, &[]);
    store.set_ref("name", tree.hash()).unwrap();
    link_form(&store, &tree);
    // What is there so far lies in packs that no table lists yet.
    drop(store.import().unwrap().finish(&[]).unwrap());
    read(&root, &["check"]);
    let hash = tree.hash().to_string();
    let form = root.join("loose").join(&hash[..2]).join(format!("{hash}-027"));
    let pack = fs::read_dir(root.join("packs")).unwrap().next().unwrap().unwrap().path();
    let files = [
        root.join("trees").join(&hash[..2]).join(&hash),
        pack,
        root.join("refs/name"),
        root.join("format"),
        root.join("trees").join(&hash[..2]).join(format!("{hash}.loc")),
        root.join("index/blobs"),
        form.join("file"),
    ];
    for file in files {
        let whole = fs::read(&file).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let mode = file.metadata().unwrap().permissions();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        for bytes in [&damaged[..], &whole[..whole.len() - 1]] {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&file, bytes).unwrap();
            let output = run(&root, &[OsStr::new("check")]);
            assert_eq!(output.status.code(), Some(1), "{}", file.display());
        }
        fs::write(&file, whole).unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        fs::set_permissions(&file, mode).unwrap();
        read(&root, &["check"]);
    }
}
