//! Objects in frames: what goes to a remote compressed comes back as it was, or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use rift_cas::pack::Pack;
use rift_cas::remote::frames::Frames;
use rift_cas::remote::keys::TrustedKeys;
use rift_cas::remote::places::Places;
use rift_cas::remote::plan::{self, Plan};
use rift_cas::remote::{self, Error, Extent, Needs, Pruned, Traffic};
use rift_tree::sidecar::{ContainerKind, Sidecar};
use rift_tree::{Kind, TreeHash};
use support::shared::{Shared, text};
use support::{Files, publish, read_back, some_files};

fn bytes_of(files: &Files) -> u64 {
    files.values().map(|bytes| bytes.len() as u64).sum()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn text_goes_in_frames_and_noise_as_it_is() {
    let shared = Shared::new();
    let store = shared.store("store");
    let noise = some_files(3, 20, 20_000);
    let first = publish(&store, "first", &noise).unwrap();
    shared.push(&store, "deps", first);
    let plain = shared.object(".pack");
    assert_eq!(shared.objects().len(), 1, "no frames where they do not pay");
    // What is there in no frames stays, and is used.
    let mut files = text(1, 300, 5000);
    files.extend(noise.clone());
    let second = publish(&store, "second", &files).unwrap();
    let pushed = shared.push(&store, "deps", second);
    assert_eq!((pushed.blobs, pushed.objects), (300, 1));
    assert_eq!(shared.objects().len(), 2);
    let object = shared.object(".pack.zst");
    let text_bytes = bytes_of(&files) - bytes_of(&noise);
    assert!(len(&object) < text_bytes / 4, "{} of {text_bytes}", len(&object));
    let (got, traffic) = shared.pull("deps").unwrap();
    assert!(got == files);
    assert!(traffic.received_bytes < len(&plain) + text_bytes / 2, "{traffic:?}");
    assert!(traffic.unpacked_bytes > bytes_of(&files), "{traffic:?}");
    // Ref, deny-list, manifest, places and two packs.
    assert_eq!(traffic.requests(), 6);
    assert!(shared.push(&store, "deps", second).was_there);
    // What anybody else makes of it.
    let decoded = zstd::decode_all(fs::File::open(&object).unwrap()).unwrap();
    if let Ok(output) = Command::new("zstd").args(["-d", "-c"]).arg(&object).output() {
        assert!(output.status.success() && output.stdout == decoded);
    }
    let hex = object.file_name().unwrap().to_str().unwrap().strip_suffix(".pack.zst").unwrap();
    let path = shared.path("decoded.pack");
    fs::write(&path, &decoded).unwrap();
    let pack = Pack::open(&path).unwrap();
    pack.verify().unwrap();
    assert_eq!((pack.id().to_string().as_str(), pack.len()), (hex, 300));
    let (_, places) = shared.places("deps");
    let places = Places::parse(&places).unwrap();
    let kinds: Vec<_> =
        (0..2).map(|number| places.sidecar.container(number).unwrap().kind).collect();
    assert!(kinds.contains(&ContainerKind::Pack) && kinds.contains(&ContainerKind::PackInFrames));
}

#[test]
fn large_files_go_in_frames_as_well() {
    let shared = Shared::new();
    let store = shared.store("store");
    let mut files = text(1, 1, 9 << 20);
    // Noise and zeros: some frames are shorter than what they hold, some are not.
    let mut mixed = some_files(1, 1, 12 << 20).into_values().next().unwrap();
    mixed.truncate(5 << 20);
    mixed.resize(9 << 20, 0);
    files.insert("mixed".to_owned(), mixed);
    let tree = publish(&store, "large", &files).unwrap();
    shared.push(&store, "large", tree);
    let objects = shared.objects();
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert!(objects.iter().all(|name| name.ends_with(".blob.zst")), "{objects:?}");
    for name in &objects {
        let file = fs::File::open(shared.path("remote/data").join(name)).unwrap();
        let hash = blake3::hash(&zstd::decode_all(file).unwrap()).to_hex();
        assert_eq!(Some(hash.as_str()), name.strip_suffix(".blob.zst"));
    }
    assert!(shared.pull("large").unwrap().0 == files);
}

#[test]
fn a_damaged_object_is_refused() {
    let shared = Shared::new();
    let store = shared.store("store");
    let files = text(1, 400, 2000);
    let tree = publish(&store, "deps", &files).unwrap();
    shared.push(&store, "deps", tree);
    let object = shared.object(".pack.zst");
    let whole = fs::read(&object).unwrap();
    // Heads of frames, their middles, and nothing at all.
    for at in [0, 4, 9, 100, whole.len() / 3, whole.len() / 2] {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        fs::write(&object, &changed).unwrap();
        let error = shared.pull("deps").unwrap_err();
        assert!(matches!(error, Error::Wrong { .. }), "byte {at}: {error}");
    }
    for length in [0, 1, whole.len() / 2] {
        fs::write(&object, &whole[..length]).unwrap();
        assert!(shared.pull("deps").is_err(), "length {length}");
    }
    fs::write(&object, &whole).unwrap();
    assert!(shared.pull("deps").unwrap().0 == files);
}

/// Puts the checksum of a sidecar right.
fn checked(mut places: Vec<u8>) -> Vec<u8> {
    let length = Sidecar::split(&places).unwrap().0.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&places[..96]).update(&places[128..length]);
    places[96..128].copy_from_slice(hasher.finalize().as_bytes());
    places
}

/// A trusted key has signed them, and still no wrong byte comes of them.
#[test]
fn places_that_lie_are_refused() {
    let shared = Shared::new();
    let store = shared.store("store");
    let files = text(1, 400, 2000);
    let tree = publish(&store, "deps", &files).unwrap();
    shared.push(&store, "deps", tree);
    let (_, places) = shared.places("deps");
    let table = Sidecar::split(&places).unwrap().0.len();
    let word = |at: usize| u32::from_le_bytes(places[at..at + 4].try_into().unwrap());
    let changed = |changes: &[(usize, u32)]| {
        let mut places = places.clone();
        for (at, value) in changes {
            places[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        places
    };
    // The first two frames: compressed and plain length of each.
    let [one, two] = [table + 8, table + 16];
    let shorter = |at: usize| changed(&[(at, word(at) - 1)]);
    let moved = |first: usize, second: usize| {
        changed(&[(first, word(first) - 1), (second, word(second) + 1)])
    };
    let lies = [
        ("sums", shorter(one + 4)),
        ("plain lengths", moved(one + 4, two + 4)),
        ("compressed lengths", moved(one, two)),
        ("a shorter frame", shorter(one)),
        ("a bomb", changed(&[(one + 4, u32::MAX)])),
        ("no table", places[..table].to_vec()),
        ("half a table", places[..table + 20].to_vec()),
        ("two tables", [&places[..], &places[table..]].concat()),
        ("a size", checked(changed(&[(128 + 32, word(128 + 32) + 1)]))),
        ("a huge size", checked(changed(&[(128 + 36, 1 << 11)]))),
        ("a plain pack with a table", checked(changed(&[(128 + 56, 0)]))),
        ("a large blob", checked(changed(&[(128 + 56, 4)]))),
        ("data of a partial tree", checked(changed(&[(128 + 56, 2)]))),
        ("no kind", checked(changed(&[(128 + 56, 5)]))),
    ];
    for (what, lie) in lies {
        assert!(lie != places, "{what}");
        shared.set_places("deps", &lie);
        let error = shared.pull("deps").unwrap_err();
        assert!(matches!(error, Error::Wrong { .. } | Error::Missing { .. }), "{what}: {error}");
    }
    shared.set_places("deps", &places);
    assert!(shared.pull("deps").unwrap().0 == files);
}

/// Compresses bytes as another version of zstd may.
fn other_frames(plain: &[u8]) -> Vec<u8> {
    let (mut object, mut records) = (Vec::new(), Vec::new());
    for piece in plain.chunks(100_000) {
        let frame = zstd::bulk::compress(piece, 1).unwrap();
        records.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        records.extend_from_slice(&(piece.len() as u32).to_le_bytes());
        object.extend_from_slice(&frame);
    }
    let length = records.len() as u32 + 9;
    object.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    object.extend_from_slice(&length.to_le_bytes());
    object.extend_from_slice(&records);
    object.extend_from_slice(&(records.len() as u32 / 8).to_le_bytes());
    object.push(0);
    object.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    object
}

#[test]
fn frames_of_another_writer_are_used_and_never_replaced() {
    let shared = Shared::new();
    let store = shared.store("store");
    let files = text(1, 300, 3000);
    let tree = publish(&store, "deps", &files).unwrap();
    shared.push(&store, "deps", tree);
    let object = shared.object(".pack.zst");
    let plain = zstd::decode_all(fs::File::open(&object).unwrap()).unwrap();
    let others = other_frames(&plain);
    assert!(others != fs::read(&object).unwrap());
    fs::remove_dir_all(shared.path("remote")).unwrap();
    fs::create_dir_all(object.parent().unwrap()).unwrap();
    fs::write(&object, &others).unwrap();
    assert_eq!(shared.push(&store, "deps", tree).objects, 0);
    assert!(fs::read(&object).unwrap() == others);
    assert!(shared.pull("deps").unwrap().0 == files);
    // One whose table is no good is left as well, and of no use.
    fs::remove_dir_all(shared.path("remote")).unwrap();
    fs::create_dir_all(object.parent().unwrap()).unwrap();
    for broken in [&others[..others.len() - 1], &others[1..], b""] {
        fs::write(&object, broken).unwrap();
        let pushed = shared.push(&store, "deps", tree);
        assert!(fs::read(&object).unwrap() == broken);
        assert!(shared.pull("deps").unwrap().0 == files);
        assert_eq!(len(&shared.object(".pack")), plain.len() as u64);
        assert!(pushed.objects <= 1);
    }
}

#[test]
fn a_push_that_was_cut_short_goes_on() {
    let shared = Shared::new();
    let store = shared.store("store");
    let mut files = text(1, 2, 9 << 20);
    files.extend(text(7, 100, 3000));
    let tree = publish(&store, "deps", &files).unwrap();
    assert_eq!(shared.push(&store, "deps", tree).objects, 3);
    let before = shared.objects();
    let inode = |name: &str| fs::metadata(shared.path("remote/data").join(name)).unwrap().ino();
    for lost in &before {
        for part in ["refs", "places", "trees"] {
            fs::remove_dir_all(shared.path("remote").join(part)).unwrap();
        }
        fs::remove_file(shared.path("remote/data").join(lost)).unwrap();
        let kept: Vec<_> = before.iter().filter(|name| *name != lost).collect();
        let inodes: Vec<u64> = kept.iter().map(|name| inode(name)).collect();
        let pushed = shared.push(&store, "deps", tree);
        assert_eq!(pushed.objects, 1);
        assert_eq!(kept.iter().map(|name| inode(name)).collect::<Vec<_>>(), inodes);
        assert_eq!(shared.objects(), before);
    }
    assert!(shared.pull("deps").unwrap().0 == files);
}

#[test]
fn what_is_in_frames_is_pruned_with_care() {
    let shared = Shared::new();
    let store = shared.store("store");
    let mut files = text(1, 300, 3000);
    files.extend(text(2, 1, 9 << 20));
    let tree = publish(&store, "deps", &files).unwrap();
    shared.push(&store, "deps", tree);
    let other = publish(&store, "other", &text(3, 100, 3000)).unwrap();
    shared.push(&store, "npm/other", other);
    assert_eq!(shared.objects().len(), 3);
    let needs = Needs { lineages: &["npm/"], ..Needs::default() };
    let prune = || remote::prune(&shared.remote(), &needs, &shared.trusted).unwrap();
    // A ref that plans leave behind, its manifest, places and pack.
    assert_eq!(prune().removed, 4);
    assert!(matches!(prune(), Pruned { removed: 0, .. }));
    assert!(shared.pull("deps").unwrap().0 == files);
    let object = shared.object(".blob.zst");
    let whole = fs::read(&object).unwrap();
    // In a frame, and in the table behind them.
    for at in [whole.len() / 2, whole.len() - 12] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&object, &changed).unwrap();
        assert_eq!(prune().removed, 5, "byte {at}");
        shared.push(&store, "deps", tree);
        assert!(fs::read(&object).unwrap() == whole);
    }
    assert!(shared.pull("deps").unwrap().0 == files);
}

/// A tree of which nothing is here but names: what lies in one frame comes with one request, however many want it.
#[test]
fn a_frame_is_asked_for_once() {
    let shared = Shared::new();
    let store = shared.store("store");
    // Three frames: two of small files, and one that begins with the end of a longer one.
    let mut files = text(1, 120, 2000);
    files.extend(text(5, 1, 200_000));
    files.extend(text(8, 1, 9 << 20));
    let tree = publish(&store, "deps", &files).unwrap();
    let key = TreeHash::from_bytes([1; 32]);
    let record = format!("{{\"tree\": \"{tree}\"}}");
    let plan = Plan { key, trees: &[tree], record: record.as_bytes(), lineage: "npm/app" };
    let keys = (&shared.key, &shared.trusted);
    plan::push_plan(&shared.remote(), &store, &plan, keys, &|_| {}).unwrap();
    let consumer = shared.store("consumer");
    let signing: (&TrustedKeys, plan::Accepts<'_>) = (&shared.trusted, &|_| true);
    let remote = shared.remote();
    plan::pull_plan(&remote, &consumer, key, Extent::Partial, signing, &|_| {}).unwrap().unwrap();
    let opened = consumer.open_partial(tree).unwrap().unwrap();
    let (manifest, sidecar) = (opened.manifest(), opened.sidecar());
    let blob = |name: &str| {
        let id = manifest.lookup(name.as_bytes()).unwrap();
        match manifest.kind(id) {
            Some(Kind::File { size, blob }) => (blob, size),
            other => panic!("{name}: {other:?}"),
        }
    };
    let read = |name: &str| {
        let (blob, size) = blob(name);
        assert!(opened.bytes(&sidecar, blob, size).unwrap() == files[name], "{name}");
    };
    // What was unpacked is counted when all of a frame is done, and who waits for a part of it need not wait for that.
    let traffic = || Traffic { unpacked_bytes: 0, ..opened.partial().unwrap().serve().traffic() };
    let small: Vec<&String> = files.keys().filter(|name| name.starts_with("lib/1-")).collect();
    std::thread::scope(|scope| {
        let read = &read;
        for name in &small[..50] {
            scope.spawn(move || read(name));
        }
    });
    let first = traffic();
    assert_eq!(first.gets, 1, "{first:?}");
    assert!(first.received_bytes < 40_000, "{first:?}");
    // All that was in the frame is here.
    small[..50].iter().for_each(|name| read(name));
    assert_eq!(traffic(), first);
    for name in &small[50..] {
        read(name);
    }
    assert!(traffic().gets <= 3, "{:?}", traffic());
    for name in files.keys() {
        read(name);
    }
    let all = traffic();
    assert!(all.gets <= 6, "{all:?}");
    assert!(all.received_bytes < bytes_of(&files) / 4, "{all:?}");
}

/// A store has no frames: a sidecar that says so is as good as none.
#[test]
fn a_store_has_nothing_in_frames() {
    let shared = Shared::new();
    let store = shared.store("store");
    let files = text(1, 20, 3000);
    let tree = publish(&store, "deps", &files).unwrap();
    let path = store.sidecar_path(tree);
    let right = fs::read(&path).unwrap();
    for kind in [3, 4] {
        let mut changed = right.clone();
        changed[128 + 56] = kind;
        fs::remove_file(&path).unwrap();
        fs::write(&path, checked(changed)).unwrap();
        let got = read_back(&store, tree, &shared.path("written")).unwrap().unwrap();
        assert!(got == files);
        assert!(fs::read(&path).unwrap() == right, "it is made again");
    }
}

/// The frames of a pack begin with blobs: a small blob is in one of them.
#[test]
fn small_files_are_in_one_frame() {
    let shared = Shared::new();
    let store = shared.store("store");
    let mut files = text(1, 200, 7000);
    files.extend(text(3, 5, 300_000));
    let tree = publish(&store, "deps", &files).unwrap();
    shared.push(&store, "deps", tree);
    let object = fs::read(shared.object(".pack.zst")).unwrap();
    let (_, places) = shared.places("deps");
    let (_, table) = Sidecar::split(&places).unwrap();
    let (frames, rest) = Frames::decode(table).unwrap();
    assert!(rest.is_empty() && object.ends_with(table));
    assert_eq!(frames.object_bytes(), object.len() as u64);
    let mut edges = vec![0_u64];
    for record in table[8..table.len() - 9].chunks_exact(8) {
        let plain = u32::from_le_bytes(record[4..].try_into().unwrap());
        edges.push(edges.last().unwrap() + u64::from(plain));
    }
    let decoded = zstd::decode_all(&object[..]).unwrap();
    assert_eq!(edges.last(), Some(&(decoded.len() as u64)));
    let path = shared.path("decoded.pack");
    fs::write(&path, &decoded).unwrap();
    for entry in Pack::open(&path).unwrap().entries() {
        let end = entry.offset + entry.length;
        let is_cut = edges.iter().any(|edge| entry.offset < *edge && *edge < end);
        assert_eq!(is_cut, entry.length > 128 << 10, "{entry:?}");
    }
}
