//! Builder and reader agree, composing equals building, and no bytes make the reader panic.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

mod support;

use proptest::prelude::*;
use rift_tree::builder::{BuildError, Builder, Item};
use rift_tree::compose::{BlobSource, Composer};
use rift_tree::name::PathKey;
use rift_tree::{EntryId, FormatError, Kind, Manifest};
use support::{Model, build, hash, model};

/// Reads every entry back by walking from the root.
fn read(manifest: &Manifest<'_>) -> Model {
    let mut found = Model::new();
    let mut stack = vec![(EntryId::ROOT, Vec::new())];
    while let Some((id, path)) = stack.pop() {
        let entry = manifest.entry(id).unwrap();
        let permissions = entry.mode & 0o7777;
        let item = match entry.kind {
            Kind::Directory { .. } => {
                for child in manifest.children(id) {
                    let mut below = path.clone();
                    if !path.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(manifest.name(child).unwrap());
                    stack.push((child, below));
                }
                Item::Directory { permissions }
            }
            Kind::File { size, blob } => {
                Item::File { permissions, size, hash: manifest.blob_hash(blob).unwrap() }
            }
            Kind::Symlink { target } => Item::Symlink { target: target.to_vec() },
        };
        if id != EntryId::ROOT {
            found.insert(path, item);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn builder_then_reader_is_the_identity(model in model()) {
        let built = build(&model);
        let manifest = Manifest::parse(&built.bytes).unwrap();
        prop_assert_eq!(manifest.validate(), Ok(()));
        prop_assert_eq!(read(&manifest), model.clone());
        prop_assert_eq!(manifest.len() as usize, model.len() + 1);
        for path in model.keys() {
            let id = manifest.lookup(path).unwrap();
            let mut key = PathKey::ROOT;
            let mut parent = EntryId::ROOT;
            for name in path.split(|byte| *byte == b'/') {
                parent = manifest.child(parent, key, name).unwrap();
                key = key.child(name);
            }
            prop_assert_eq!(parent, id);
            let mut absent = path.clone();
            absent.extend_from_slice(b"/absent");
            prop_assert_eq!(manifest.lookup(&absent), None);
        }
        prop_assert_eq!(built.hash, build(&model).hash);
    }

    #[test]
    fn below_a_directory_is_one_range(model in model()) {
        let built = build(&model);
        let manifest = Manifest::parse(&built.bytes).unwrap();
        for (path, item) in &model {
            if !matches!(item, Item::Directory { .. }) {
                continue;
            }
            let id = manifest.lookup(path).unwrap();
            let mut prefix = path.clone();
            prefix.push(b'/');
            let below: Vec<u32> = model
                .keys()
                .filter(|other| other.starts_with(&prefix))
                .map(|other| manifest.lookup(other).unwrap().0)
                .collect();
            let end = manifest.subtree_end(id).unwrap().0;
            let Some(Kind::Directory { first, .. }) = manifest.kind(id) else { unreachable!() };
            prop_assert_eq!(below.iter().min().copied().unwrap_or(end), if below.is_empty() { end } else { first.0 });
            prop_assert!(below.iter().all(|id| (first.0..end).contains(id)));
            prop_assert!(below.is_empty() || below.len() as u32 == end - first.0);
        }
    }

    /// A tree cut at some of its directories and composed again is the same manifest.
    #[test]
    fn composing_equals_building(model in model(), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let whole = build(&model);
        let directories: Vec<&Vec<u8>> = model
            .iter()
            .filter(|(_, item)| matches!(item, Item::Directory { .. }))
            .map(|(path, _)| path)
            .collect();
        let mut cuts: Vec<&Vec<u8>> = Vec::new();
        if !directories.is_empty() {
            cuts = picks.iter().map(|pick| directories[pick.index(directories.len())]).collect();
            cuts.sort();
            cuts.dedup();
        }
        let owner = |path: &[u8]| {
            cuts.iter()
                .filter(|cut| path == cut.as_slice() || path.starts_with(&[cut.as_slice(), b"/"].concat()))
                .max_by_key(|cut| cut.len())
                .copied()
        };
        let mut parts = Vec::new();
        for cut in &cuts {
            let mut builder = Builder::stamped();
            for (path, item) in &model {
                if owner(path) == Some(cut) {
                    let local = path.get(cut.len() + 1..).unwrap_or_default();
                    builder.put(local, 0, item.clone()).unwrap();
                }
                // A directory on the way to a deeper cut is the deeper graft's to imply.
            }
            match builder.finish() {
                Ok(part) => parts.push(part),
                // A deeper cut took a directory that this part's entries need: not a composition.
                Err(BuildError::Parent(_)) => return Ok(()),
                Err(error) => panic!("{error}"),
            }
        }
        let mut composer = Composer::new(0o755);
        for (path, item) in &model {
            if owner(path).is_none() {
                composer.put(path, item.clone()).unwrap();
            }
        }
        for (cut, part) in cuts.iter().zip(&parts) {
            composer.graft(cut, Manifest::parse(&part.bytes).unwrap()).unwrap();
        }
        let composed = composer.finish().unwrap();
        prop_assert_eq!(composed.built.hash, whole.hash);
        prop_assert!(composed.built.bytes == whole.bytes);
        let manifest = Manifest::parse(&whole.bytes).unwrap();
        prop_assert_eq!(composed.sources.len() as u32, manifest.blob_count());
        for (blob, source) in composed.sources.iter().enumerate() {
            if let BlobSource::Graft { graft, blob: local } = source {
                let part = Manifest::parse(&parts[*graft as usize].bytes).unwrap();
                prop_assert_eq!(part.blob_hash(*local), manifest.blob_hash(blob as u32));
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic(
        model in model(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = build(&model).bytes;
        for (place, value) in hits {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(manifest) = Manifest::parse(&bytes) {
            let _ = manifest.validate();
            let _ = manifest.lookup(b"a/b/a.js");
            for id in (0..manifest.len()).map(EntryId) {
                let _ = (manifest.entry(id), manifest.subtree_end(id));
                manifest.xattrs(id).for_each(drop);
                manifest.children(id).take(64).for_each(drop);
            }
        }
    }
}

#[test]
fn grafts_merge_with_the_skeleton() {
    let mut package = Builder::stamped();
    let file = |seed| Item::File { permissions: 0o644, size: 3, hash: hash(seed) };
    let directory = || Item::Directory { permissions: 0o755 };
    package.put(b"package.json", 0, file(1)).unwrap();
    package.put(b"node_modules", 0, directory()).unwrap();
    package.put(b"node_modules/bundled", 0, directory()).unwrap();
    package.put(b"node_modules/bundled/index.js", 0, file(2)).unwrap();
    package.put(b"node_modules/replaced", 0, directory()).unwrap();
    package.put(b"node_modules/replaced/old.js", 0, file(3)).unwrap();
    let package = package.finish().unwrap();
    let mut nested = Builder::stamped();
    nested.put(b"new.js", 0, file(4)).unwrap();
    let nested = nested.finish().unwrap();

    let mut composer = Composer::new(0o755);
    composer.graft(b"node_modules/outer", Manifest::parse(&package.bytes).unwrap()).unwrap();
    let inner = b"node_modules/outer/node_modules/replaced";
    composer.graft(inner, Manifest::parse(&nested.bytes).unwrap()).unwrap();
    composer.put(b"node_modules/.package-lock.json", file(5)).unwrap();
    let composed = composer.finish().unwrap();
    let manifest = Manifest::parse(&composed.built.bytes).unwrap();
    assert_eq!(manifest.validate(), Ok(()));
    let paths: Vec<String> =
        read(&manifest).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "node_modules",
            "node_modules/.package-lock.json",
            "node_modules/outer",
            "node_modules/outer/node_modules",
            "node_modules/outer/node_modules/bundled",
            "node_modules/outer/node_modules/bundled/index.js",
            "node_modules/outer/node_modules/replaced",
            "node_modules/outer/node_modules/replaced/new.js",
            "node_modules/outer/package.json",
        ]
    );
    assert!(!composed.sources.is_empty());
}

#[test]
fn what_no_tree_can_hold_is_refused() {
    let directory = || Item::Directory { permissions: 0o755 };
    let path = |path: &[u8]| Builder::new().put(path, 0, directory()).unwrap_err();
    for bad in [&b"/a"[..], b"a/", b"a//b", b"..", b"a/./b", b"a\0", &[b'x'; 256]] {
        assert_eq!(path(bad), BuildError::Path(bad.to_vec()));
    }
    let build = |paths: &[&[u8]]| {
        let mut builder = Builder::new();
        for path in paths {
            let hash = hash(0);
            builder.put(path, 0, Item::File { permissions: 0, size: 0, hash }).unwrap();
        }
        builder.finish().unwrap_err()
    };
    assert_eq!(build(&[b"a", b"a"]), BuildError::Duplicate(b"a".to_vec()));
    assert_eq!(build(&[b"a/b"]), BuildError::Parent(b"a/b".to_vec()));
    assert_eq!(build(&[b"a", b"a/b"]), BuildError::Parent(b"a/b".to_vec()));
    let deep = |depth: usize| {
        let mut builder = Builder::new();
        let names = vec![&b"d"[..]; depth];
        for depth in 1..=depth {
            builder.put(&names[..depth].join(&b'/'), 0, directory()).unwrap();
        }
        builder.finish()
    };
    assert!(deep(2040).is_ok());
    let mut builder = Builder::new();
    let link = builder.put(b"l", 0, Item::Symlink { target: b"a\0b".to_vec() });
    assert_eq!(link, Err(BuildError::Target(b"l".to_vec())));
}

#[test]
fn attributes_that_no_tree_can_hold_are_refused() {
    let pair = |name: &[u8], length: usize| (name.to_vec(), vec![0; length]);
    let put = |xattrs| {
        let item = Item::Directory { permissions: 0o755 };
        Builder::new().put_with_xattrs(b"a", 0, item, xattrs)
    };
    assert_eq!(put(vec![pair(&[b'n'; 255], 0xffff), pair(b"m", 0)]), Ok(()));
    for bad in [
        vec![pair(b"", 1)],
        vec![pair(&[b'n'; 256], 1)],
        vec![pair(b"n\0", 1)],
        vec![pair(b"n", 0x1_0000)],
        vec![pair(b"n", 1), pair(b"m", 1), pair(b"n", 2)],
    ] {
        assert_eq!(put(bad), Err(BuildError::Xattrs(b"a".to_vec())));
    }
}

#[test]
fn mtimes_and_xattrs_round_trip() {
    let mut builder = Builder::new();
    let item = Item::File { permissions: 0o4755, size: 1, hash: hash(9) };
    let xattrs = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), vec![0; 300])];
    builder.put_with_xattrs(b"f", -5_000_000_001, item, xattrs).unwrap();
    let built = builder.finish().unwrap();
    let manifest = Manifest::parse(&built.bytes).unwrap();
    assert_eq!(manifest.validate(), Ok(()));
    let id = manifest.lookup(b"f").unwrap();
    let entry = manifest.entry(id).unwrap();
    assert_eq!((entry.mtime_ns, entry.mode), (Some(-5_000_000_001), 0o100_755));
    let found: Vec<(&[u8], usize)> =
        manifest.xattrs(id).map(|(name, value)| (name, value.len())).collect();
    assert_eq!(found, [(&b"user.a"[..], 300), (&b"user.b"[..], 1)]);
    assert_eq!(manifest.xattrs(EntryId::ROOT).count(), 0);
}

/// The bytes of version 1 stay readable, and building the same tree gives the same bytes.
/// Writes a manifest's tree anew from what its reader says.
fn rebuild(manifest: &Manifest<'_>) -> Vec<u8> {
    let mut builder = if manifest.is_stamped() { Builder::stamped() } else { Builder::new() };
    let mut paths: Vec<Vec<u8>> = Vec::new();
    for id in (0..manifest.len()).map(EntryId) {
        let entry = manifest.entry(id).unwrap();
        let parent = paths.get(entry.parent.0 as usize).map_or(&b""[..], Vec::as_slice);
        let path = match parent {
            b"" => entry.name.to_vec(),
            _ => [parent, b"/", entry.name].concat(),
        };
        let permissions = entry.mode & 0o7777;
        let item = match entry.kind {
            Kind::Directory { .. } => Item::Directory { permissions },
            Kind::File { size, blob } => {
                Item::File { permissions, size, hash: manifest.blob_hash(blob).unwrap() }
            }
            Kind::Symlink { target } => Item::Symlink { target: target.to_vec() },
        };
        let pairs = manifest.xattrs(id).map(|(name, value)| (name.to_vec(), value.to_vec()));
        let xattrs = pairs.collect();
        builder.put_with_xattrs(&path, entry.mtime_ns.unwrap_or(0), item, xattrs).unwrap();
        paths.push(path);
    }
    builder.finish().unwrap().bytes
}

#[test]
fn what_is_valid_is_what_the_builder_writes() {
    let golden = include_bytes!("golden/v1.tree");
    let (mut refused, mut other_trees) = (0, 0);
    for at in 0..golden.len() {
        // Hashes of sections are checked by who has BLAKE3.
        let in_table = (64..64 + 12 * 56).contains(&at);
        if in_table && (at - 64) % 56 >= 24 {
            continue;
        }
        for bit in 0..8 {
            let mut bytes = golden.to_vec();
            bytes[at] ^= 1 << bit;
            let manifest = Manifest::parse(&bytes);
            match manifest.and_then(|manifest| manifest.validate().map(|()| manifest)) {
                Err(_) => refused += 1,
                Ok(manifest) => {
                    other_trees += 1;
                    let rebuilt = rebuild(&manifest);
                    let hashless = |bytes: &[u8]| [&bytes[..64], &bytes[64 + 12 * 56..]].concat();
                    assert_eq!(hashless(&rebuilt), hashless(&bytes), "byte {at}, bit {bit}");
                }
            }
        }
    }
    assert!(refused > 0 && other_trees > 0, "{refused} and {other_trees}");
}

#[test]
fn golden_manifest_of_version_1() {
    let mut builder = Builder::new();
    let file = |seed, size| Item::File { permissions: 0o644, size, hash: hash(seed) };
    builder.put(b"", 1_700_000_000_000_000_001, Item::Directory { permissions: 0o755 }).unwrap();
    builder.put(b"bin", 2, Item::Directory { permissions: 0o700 }).unwrap();
    builder.put(b"bin/tool", 3, Item::Symlink { target: b"../lib/tool.js".to_vec() }).unwrap();
    builder.put(b"lib", 4, Item::Directory { permissions: 0o755 }).unwrap();
    builder.put(b"lib/tool.js", -5, file(1, 10)).unwrap();
    builder.put(b"lib/t\xff", 6, file(2, 1 << 40)).unwrap();
    let xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
    builder.put_with_xattrs(b"same", 7, file(1, 10), xattrs).unwrap();
    let built = builder.finish().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.tree");
    if std::env::var_os("RIFT_TEST_WRITE_GOLDEN").is_some() {
        std::fs::write(path, &built.bytes).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert_eq!(built.bytes, golden);
    assert_eq!(
        built.hash.to_string(),
        "6d8c64bd32d333e64509d15b80000010488ff884d0269abf544656e6dd97298c"
    );
    let mut future = golden.clone();
    future[8] = 2;
    assert_eq!(
        Manifest::parse(&future).unwrap_err(),
        FormatError::Version { readable: 1, found: 2 }
    );
    assert_eq!(
        Manifest::parse(b"RIFT").unwrap_err().to_string(),
        "truncated at byte 4 (wanted 736 bytes in all)"
    );
}
