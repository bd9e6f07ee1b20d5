//! Any bytes as a pack, a log segment, a record, a plan, a signed ref, a signed plan, a deny-list or places: no reader panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rift_cas::pack::Pack;
use rift_cas::remote::denied::SignedDenyList;
use rift_cas::remote::frames::Frames;
use rift_cas::remote::places::Places;
use rift_cas::remote::plan::SignedPlan;
use rift_cas::remote::reference::SignedRef;
use rift_cas::{log, record, roots};
use rift_tree::sidecar::Sidecar;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 8 {
        0 => pack(bytes),
        1 => {
            let check = log::check_segment(bytes);
            assert!(check.torn_bytes <= check.garbage_bytes && check.garbage_bytes <= bytes.len());
        }
        2 => {
            if let Ok(payload) = record::decode(bytes) {
                assert_eq!(record::encode(payload), bytes);
            }
        }
        3 => {
            let trees = roots::trees_of_plan(bytes);
            assert!(trees.len() * 64 <= bytes.len());
        }
        4 => {
            if let Ok(signed) = SignedRef::decode(bytes) {
                assert_eq!(signed.encode(), bytes);
            }
        }
        5 => {
            if let Ok(signed) = SignedPlan::decode(bytes) {
                assert_eq!(signed.encode(), bytes);
            }
        }
        6 => {
            if let Ok(signed) = SignedDenyList::decode(bytes) {
                assert_eq!(signed.encode(), bytes);
            }
        }
        _ => places(bytes),
    }
});

/// The checksum is put right, so that what is behind it is read.
fn places(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Ok((sidecar, _)) = Sidecar::split(&bytes) {
        let length = sidecar.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[..96]).update(&bytes[128..length]);
        bytes[96..128].copy_from_slice(hasher.finalize().as_bytes());
    }
    if let Ok(places) = Places::parse(&bytes) {
        assert!(places.sidecar.container_count() as usize <= bytes.len() / 64);
    }
    if let Ok((frames, rest)) = Frames::decode(&bytes) {
        assert_eq!([&frames.encode(), rest].concat(), bytes);
        assert!(frames.plain_bytes() <= (bytes.len() as u64) << 17);
    }
}

fn pack(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("rift-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("TMPDIR can be written");
    if let Ok(pack) = Pack::open(&path) {
        let is_whole = pack.verify().is_ok();
        for entry in pack.entries() {
            let found = pack.bytes(entry.offset, entry.length);
            assert!(found.is_some_and(|found| found.len() as u64 == entry.length));
        }
        assert!(!is_whole || pack.entry(pack.len()).is_none());
    }
}
