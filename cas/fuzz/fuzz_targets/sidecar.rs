//! Any bytes as a sidecar: no reader panics, and locations stay inside what was announced.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rift_tree::sidecar::{OFFSET_MAX, Sidecar};

fuzz_target!(|bytes: &[u8]| {
    let _ = Sidecar::checked_parts(bytes);
    let Ok(sidecar) = Sidecar::parse(bytes) else {
        return;
    };
    for number in (0..sidecar.container_count().min(64)).chain([u32::MAX]) {
        let container = sidecar.container(number);
        assert!(number < sidecar.container_count() || container.is_none());
    }
    for blob in (0..sidecar.blob_count().min(64)).chain([sidecar.blob_count(), u32::MAX]) {
        let location = sidecar.location(blob);
        assert_eq!(location.is_some(), blob < sidecar.blob_count());
        assert!(location.is_none_or(|location| location.offset <= OFFSET_MAX));
    }
    let _ = (sidecar.tree(), sidecar.manifest_stamp());
});
