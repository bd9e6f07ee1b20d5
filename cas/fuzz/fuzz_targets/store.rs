//! Any bytes as a pack, a log segment, a record, a plan, a signed ref, a signed plan or a deny-list: no reader panics.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use rift_cas::pack::Pack;
use rift_cas::remote::denied::SignedDenyList;
use rift_cas::remote::plan::SignedPlan;
use rift_cas::remote::reference::SignedRef;
use rift_cas::{log, record, roots};

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 7 {
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
        _ => {
            if let Ok(signed) = SignedDenyList::decode(bytes) {
                assert_eq!(signed.encode(), bytes);
            }
        }
    }
});

fn pack(bytes: &[u8]) {
    let path = PathBuf::from(format!("/dev/shm/rift-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("/dev/shm can be written");
    if let Ok(pack) = Pack::open(&path) {
        let is_whole = pack.verify().is_ok();
        for entry in pack.entries() {
            let found = pack.bytes(entry.offset, entry.length);
            assert!(found.is_some_and(|found| found.len() as u64 == entry.length));
        }
        assert!(!is_whole || pack.entry(pack.len()).is_none());
    }
}
