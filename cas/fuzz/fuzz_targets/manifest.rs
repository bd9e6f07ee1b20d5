//! Any bytes as a manifest: no reader panics or hangs, and what validates is consistent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rift_tree::name::PathKey;
use rift_tree::{EntryId, Kind, Manifest};

/// Entries looked at where bytes break the rules: enough to reach every reader.
const ENTRIES_MAX: u32 = 64;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::parse(bytes) else {
        return;
    };
    let is_valid = manifest.validate().is_ok();
    let last = manifest.len().min(ENTRIES_MAX);
    for id in (0..last).chain([manifest.len(), u32::MAX]).map(EntryId) {
        let entry = manifest.entry(id);
        assert!(!is_valid || entry.is_some() == (id.0 < manifest.len()));
        let children: Vec<EntryId> = manifest.children(id).take(64).collect();
        let _ = (manifest.subtree_end(id), manifest.xattrs(id).take(64).count());
        if is_valid && entry.is_some() {
            check_valid(&manifest, id, &children);
        }
    }
    for path in [&b""[..], b"a", b"a/b", b"bin/tool", b"/", b"a//b", &bytes[..bytes.len().min(40)]]
    {
        let found = manifest.lookup(path);
        assert!(!is_valid || found.is_none_or(|id| id.0 < manifest.len()));
    }
    let mut number = 0;
    while manifest.section_and_hash(number).is_some() {
        number += 1;
    }
    let _ = manifest.blob_hash(0);
});

/// Every entry of a valid manifest is found by its path and as a child of its parent.
fn check_valid(manifest: &Manifest<'_>, id: EntryId, children: &[EntryId]) {
    let mut path = Vec::new();
    let mut at = id;
    while at != EntryId::ROOT {
        let name = manifest.name(at).expect("a valid entry has a name");
        let mut longer = name.to_vec();
        if !path.is_empty() {
            longer.push(b'/');
        }
        longer.extend_from_slice(&path);
        path = longer;
        at = manifest.parent(at).expect("a valid entry has a parent");
    }
    assert_eq!(manifest.lookup(&path), Some(id));
    if let Some(Kind::Directory { .. }) = manifest.kind(id) {
        let key = match path.is_empty() {
            true => PathKey::ROOT,
            false => path.split(|byte| *byte == b'/').fold(PathKey::ROOT, PathKey::child),
        };
        for child in children {
            let name = manifest.name(*child).expect("a child has a name");
            assert_eq!(manifest.child(id, key, name), Some(*child));
        }
        assert!(manifest.subtree_end(id).is_some_and(|end| end.0 <= manifest.len()));
    }
}
