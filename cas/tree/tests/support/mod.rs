//! Random trees for the property tests, and the plain map that they are compared with.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use rift_tree::BlobHash;
use rift_tree::builder::{Builder, Built, Item};

/// Path → item, root left out.
pub(crate) type Model = BTreeMap<Vec<u8>, Item>;

pub(crate) fn hash(seed: u8) -> BlobHash {
    BlobHash::from_bytes([seed; 32])
}

/// A name out of few, so that collisions and shared prefixes happen; some are not UTF-8.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = vec(prop::sample::select(b"ab-.\xff\n ".as_slice()), 1..4)
        .prop_filter("a valid name", |name| rift_tree::name::is_valid(name));
    prop_oneof![
        4 => prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"a-b".to_vec(), b"a.js".to_vec()]),
        2 => odd,
        1 => Just(vec![b'n'; 255]),
    ]
}

fn leaf() -> impl Strategy<Value = Item> {
    let permissions = prop::sample::select(vec![0o644_u16, 0o755, 0o600]);
    prop_oneof![
        5 => (permissions, 0..6_u8).prop_map(|(permissions, seed)| {
            Item::File { permissions, size: u64::from(seed) * 7, hash: hash(seed) }
        }),
        1 => vec(any::<u8>().prop_filter("no NUL", |byte| *byte != 0), 1..9)
            .prop_map(|target| Item::Symlink { target }),
        1 => Just(Item::Directory { permissions: 0o700 }),
    ]
}

/// A tree: leaves at random paths, and the directories that they need.
pub(crate) fn model() -> impl Strategy<Value = Model> {
    vec((vec(name(), 1..5), leaf()), 0..40).prop_map(|leaves| {
        let mut model = Model::new();
        for (names, item) in leaves {
            let path = names.join(&b'/');
            let above: Vec<Vec<u8>> =
                (1..names.len()).map(|depth| names[..depth].join(&b'/')).collect();
            let fits = above
                .iter()
                .all(|path| matches!(model.get(path), None | Some(Item::Directory { .. })));
            if !fits || model.contains_key(&path) {
                continue;
            }
            for path in above {
                model.entry(path).or_insert(Item::Directory { permissions: 0o755 });
            }
            model.insert(path, item);
        }
        model
    })
}

/// Builds the model's tree, stamped.
pub(crate) fn build(model: &Model) -> Built {
    let mut builder = Builder::stamped();
    for (path, item) in model {
        builder.put(path, 0, item.clone()).unwrap();
    }
    builder.finish().unwrap()
}
