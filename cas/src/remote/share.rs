//! What of a tree may leave the machine: all of it but the files that `secrets` lists.

use rift_tree::builder::{Builder, Item};
use rift_tree::{EntryId, Kind, TreeHash};

use super::error::Result;
use crate::secrets;
use crate::store::Store;
use crate::tree::OpenTree;

/// A tree that may leave the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shareable {
    /// The tree: the one that was asked about, when it holds no secrets.
    pub tree: TreeHash,
    /// Paths that were left out, with what they hold.
    pub left_out: Vec<(Vec<u8>, &'static str)>,
}

/// Opens a tree that is to leave the machine: all of it has to be here, and intact.
pub(super) fn open_whole(store: &Store, tree: TreeHash) -> Result<OpenTree> {
    let opened = store.open_leased(tree)?.ok_or_else(|| crate::Error::Refused {
        path: store.tree_path(tree),
        reason: match store.is_partial(tree) {
            true => "not all of this tree has come: `rift pull` brings the rest",
            false => "the store does not have this tree",
        },
    })?;
    opened.intact()?;
    Ok(opened)
}

/// Returns a tree without its secrets. Where it has some, the store gets the tree without them.
///
/// # Errors
/// [`crate::Error::Refused`] when the store does not have the tree, or what it says otherwise.
pub fn without_secrets(store: &Store, tree: TreeHash) -> Result<Shareable> {
    let opened = open_whole(store, tree)?;
    let paths = paths(&opened);
    let secrets: Vec<Option<&'static str>> = paths
        .iter()
        .enumerate()
        .map(|(id, path)| secret(&opened, EntryId(id as u32), path))
        .collect();
    let left_out: Vec<_> = paths
        .iter()
        .zip(&secrets)
        .filter_map(|(path, holds)| holds.map(|holds| (path.clone(), holds)))
        .collect();
    if left_out.is_empty() {
        return Ok(Shareable { tree, left_out });
    }
    let manifest = opened.manifest();
    let mut builder = if manifest.is_stamped() { Builder::stamped() } else { Builder::new() };
    let refuse = |source| crate::Error::Build { path: store.tree_path(tree), source };
    for (id, path) in paths.iter().enumerate().filter(|(id, _)| secrets[*id].is_none()) {
        let id = EntryId(id as u32);
        let permissions = manifest.mode(id).unwrap_or(0) & 0o7777;
        let item = match manifest.kind(id) {
            Some(Kind::Directory { .. }) => Item::Directory { permissions },
            Some(Kind::Symlink { target }) => Item::Symlink { target: target.to_vec() },
            Some(Kind::File { size, blob }) => match manifest.blob_hash(blob) {
                Some(hash) => Item::File { permissions, size, hash },
                None => continue,
            },
            None => continue,
        };
        let xattrs = manifest.xattrs(id).map(|(name, value)| (name.to_vec(), value.to_vec()));
        let mtime_ns = manifest.mtime_ns(id).unwrap_or(0);
        builder.put_with_xattrs(path, mtime_ns, item, xattrs.collect()).map_err(refuse)?;
    }
    let built = builder.finish().map_err(refuse)?;
    // It was cut while it was copied, or it is whole.
    opened.intact()?;
    store.publish_located(&built, &store.blobs()?)?;
    Ok(Shareable { tree: built.hash, left_out })
}

/// Returns the path of every entry, by its number: parents come first.
fn paths(tree: &OpenTree) -> Vec<Vec<u8>> {
    let manifest = tree.manifest();
    let mut paths: Vec<Vec<u8>> = Vec::with_capacity(manifest.len() as usize);
    for id in (0..manifest.len()).map(EntryId) {
        let above = manifest.parent(id).filter(|_| id != EntryId::ROOT);
        let above = above.and_then(|parent| paths.get(parent.0 as usize)).cloned();
        let mut path = above.unwrap_or_default();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(manifest.name(id).unwrap_or_default());
        paths.push(path);
    }
    paths
}

/// Returns what an entry holds that must not leave the machine.
fn secret(tree: &OpenTree, id: EntryId, path: &[u8]) -> Option<&'static str> {
    let Some(Kind::File { size, blob }) = tree.manifest().kind(id) else {
        return None;
    };
    secrets::in_file(path, size, || tree.bytes(&tree.sidecar(), blob, size))
}
