//! Any bytes as the store's table of blobs: it can hide a blob, but never crash or give a wrong one.
//!
//! The first byte says what is put right first, because nobody guesses a checksum: 1 the packs' ids and
//! stamps, 2 the checksum, 4 the length. The rest is the file.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rift_cas::pack::PackedKind;
use rift_cas::{Store, gc};

/// How many packs the store has, and how many blobs each of them.
const PACKS: u32 = 3;
const BLOBS: u32 = 5;
const PACK_BYTES: usize = 56;

/// A store below `TMPDIR` whose table is replaced by each input.
struct Scene {
    store: Store,
    table: PathBuf,
    /// Ids and stamps, as a right table has them.
    packs: Vec<u8>,
    hashes: Vec<[u8; 32]>,
}

fn blob(number: u32) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

impl Scene {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("rift-fuzz-index-{}", std::process::id()));
        let store = Store::open(&root).expect("TMPDIR can be written");
        for pack in 0..PACKS {
            let import = store.import().expect("an import begins");
            let mut unit = import.unit();
            for number in pack * BLOBS..(pack + 1) * BLOBS {
                unit.add(&blob(number)).expect("a blob is taken in");
            }
            unit.flush().expect("a unit is written");
            drop(unit);
            import.finish(&[]).expect("an import ends");
        }
        // gc writes a table over all packs.
        gc::collect(&store, &gc::Options::default()).expect("the store is collected");
        let table = root.join("index/blobs");
        fs::remove_file(&table).expect("there is a table");
        drop(store.import().and_then(|import| import.finish(&[])).expect("a table is written"));
        let bytes = fs::read(&table).expect("there is a table again");
        let packs = bytes[64..64 + PACKS as usize * PACK_BYTES].to_vec();
        let hashes = (0..PACKS * BLOBS).map(|number| *blake3::hash(&blob(number)).as_bytes());
        Self { table, packs, hashes: hashes.collect(), store }
    }

    /// Puts right what the flags say.
    fn correct(&self, flags: u8, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() < 64 {
            return bytes;
        }
        let word = |bytes: &[u8], at| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if flags & 4 != 0 {
            let (packs, slots) = (word(&bytes, 8) % 8, 1_u32 << (word(&bytes, 12) % 8));
            bytes[8..12].copy_from_slice(&packs.to_le_bytes());
            bytes[12..16].copy_from_slice(&slots.to_le_bytes());
            bytes.resize(64 + packs as usize * PACK_BYTES + slots as usize * 8, 0);
        }
        let slots_at =
            64_usize.saturating_add((word(&bytes, 8) as usize).saturating_mul(PACK_BYTES));
        if let Some(records) = bytes.get_mut(64..slots_at) {
            if flags & 1 != 0 {
                for (at, byte) in records.iter_mut().enumerate() {
                    *byte = self.packs[at % self.packs.len()];
                }
            }
            if flags & 2 != 0 {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&bytes[..24]).update(&bytes[56..slots_at]);
                let checksum = *hasher.finalize().as_bytes();
                bytes[24..56].copy_from_slice(&checksum);
            }
        }
        bytes
    }
}

fuzz_target!(|bytes: &[u8]| {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    let scene = SCENE.get_or_init(Scene::new);
    let Some((flags, bytes)) = bytes.split_first() else {
        return;
    };
    // As the store replaces it: a mapped file is never written.
    let fresh = scene.table.with_file_name("fresh");
    fs::write(&fresh, scene.correct(*flags, bytes.to_vec())).expect("TMPDIR can be written");
    fs::rename(&fresh, &scene.table).expect("TMPDIR can be written");
    let index = scene.store.blobs().expect("a table is never an error");
    for (number, hash) in scene.hashes.iter().enumerate() {
        if let Some(found) = index.find(hash, PackedKind::Blob) {
            assert_eq!(found.bytes(), blob(number as u32));
        }
        assert!(index.find(hash, PackedKind::Manifest).is_none());
    }
    assert!(index.find(&[0; 32], PackedKind::Blob).is_none());
    assert!(index.packs().count() <= PACKS as usize);
});
