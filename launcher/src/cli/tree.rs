//! What commands share that take a TREE: a ref, a tree hash, or the beginning of one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use anyhow::{Context as _, anyhow, bail};
use rift_cas::Store;
use rift_cas::blobs::BlobIndex;
use rift_cas::pack::{Pack, PackedKind};
use rift_cas::tree::OpenTree;
use rift_tree::builder::Built;
use rift_tree::{EntryId, Kind, Manifest, TreeHash};

use crate::cli::{pull, remote};
use crate::context::Context;
use crate::hint::Hint as _;

/// How many digits of a hash name it at least.
pub(crate) const PREFIX_MIN: usize = 6;
const NAME_BYTES_MAX: usize = 160;

/// Checks the name of a ref: no other meaning, no surprise in a shell or a terminal.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let problem = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        "it has 1 to 160 letters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/@+".contains(&byte)) {
        "it is made of ASCII letters, digits and ._-/@+"
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '@') {
        "it begins with a letter, a digit or @"
    } else if name.ends_with('/') || name.contains("//") {
        "its parts between slashes are not empty"
    } else if name.split('/').any(|part| part == "." || part == "..") {
        "no part of it is . or .."
    } else if name.len() >= PREFIX_MIN && is_hex(name) {
        "it must not look like a tree hash"
    } else {
        return Ok(());
    };
    let refused: anyhow::Result<()> = Err(anyhow!("`{name}` can't be the name of a ref"));
    refused.hint(format!("the rule: {problem}"))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the tree that TREE means.
pub(crate) fn resolve(store: &Store, text: &str) -> anyhow::Result<TreeHash> {
    if check_name(text).is_ok()
        && let Some(hash) = store.get_ref(text)?
    {
        return Ok(hash);
    }
    if let Ok(hash) = TreeHash::from_hex(text.as_bytes()) {
        return Ok(hash);
    }
    if !is_hex(text) || text.len() > 64 {
        let unknown: anyhow::Result<_> = Err(anyhow!("no tree or ref is called `{text}`"));
        return unknown.hint("`rift refs` lists the names there are");
    }
    if text.len() < PREFIX_MIN {
        bail!(
            "`{text}` is too short: the beginning of a tree hash has at least {PREFIX_MIN} digits"
        );
    }
    let found = with_prefix(store, text)?;
    let mut hashes = found.iter();
    match (hashes.next(), hashes.next()) {
        (None, _) => {
            let unknown: anyhow::Result<_> =
                Err(anyhow!("no tree in the store begins with `{text}`"));
            unknown.hint("`rift refs` lists the names there are")
        }
        (Some(only), None) => Ok(*only),
        (Some(one), Some(two)) => {
            let ambiguous: anyhow::Result<_> =
                Err(anyhow!("{} trees begin with `{text}`", found.len()));
            let digits =
                1 + one.to_hex().iter().zip(two.to_hex()).take_while(|(a, b)| **a == *b).count();
            ambiguous.hint(format!("give at least {digits} digits: {one} or {two}"))
        }
    }
}

/// Opens the store for who shows a tree, which may be one of a remote.
pub(crate) fn store(context: &Context) -> anyhow::Result<Store> {
    match context.config.remotes().is_empty() {
        true => context.existing_store(),
        false => context.store(),
    }
}

/// As [`resolve`]; a ref that the store does not know is that of the first remote, and its files come when they are read.
pub(crate) fn resolve_or_pull(
    store: &Store,
    text: &str,
    context: &Context,
) -> anyhow::Result<TreeHash> {
    let has_remote = !context.config.remotes().is_empty();
    if !has_remote || check_name(text).is_err() || store.get_ref(text)?.is_some() {
        return resolve(store, text);
    }
    // The beginning of a hash may look like a name.
    if is_hex(text)
        && let Ok(tree) = resolve(store, text)
    {
        return Ok(tree);
    }
    let remote = remote::open(&remote::address(None, context)?, false, context)?;
    Ok(pull::bring(&remote, store, (text, store.extent_shown()), context)?.tree)
}

/// Returns the trees of the store whose hash begins so, also those that lie in packs.
fn with_prefix(store: &Store, prefix: &str) -> anyhow::Result<BTreeSet<TreeHash>> {
    // gc moves manifests from pack to pack.
    let _guard = store.guard()?;
    let mut found = BTreeSet::new();
    let mut take = |name: &[u8]| {
        if name.starts_with(prefix.as_bytes())
            && let Ok(hash) = TreeHash::from_hex(name)
        {
            found.insert(hash);
        }
    };
    for name in names(&store.root().join("trees").join(&prefix[..2]))? {
        take(&name);
    }
    let packs = store.root().join("packs");
    for name in names(&packs)? {
        // A damaged pack is for `verify` to report.
        let Ok(pack) = Pack::open(&packs.join(std::ffi::OsStr::from_bytes(&name))) else {
            continue;
        };
        for packed in pack.entries().filter(|packed| packed.kind == PackedKind::Manifest) {
            take(&TreeHash::from_bytes(packed.hash).to_hex());
        }
    }
    Ok(found)
}

fn names(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let listed = || format!("could not list `{}`", folder.display());
    let mut names = Vec::new();
    for entry in entries.with_context(listed)? {
        names.push(entry.with_context(listed)?.file_name().as_bytes().to_vec());
    }
    Ok(names)
}

/// Opens the tree that TREE means.
pub(crate) fn open(store: &Store, text: &str) -> anyhow::Result<OpenTree> {
    open_hash(store, resolve(store, text)?)
}

/// Opens a tree by its hash.
pub(crate) fn open_hash(store: &Store, hash: TreeHash) -> anyhow::Result<OpenTree> {
    let opened = || format!("could not open the tree {hash}");
    if let Some(tree) = store.open_tree(hash).with_context(opened)? {
        return Ok(tree);
    }
    if let Some(tree) = store.open_partial(hash).with_context(opened)? {
        return Ok(tree);
    }
    // A package's manifest lies in a pack; it gets its file when it is first asked for.
    let index: BlobIndex = store.blobs()?;
    let bytes = rift_cas::import::manifest_bytes(store, &index, hash)?;
    let missing: anyhow::Result<_> = bytes.ok_or_else(|| anyhow!("the store has no tree {hash}"));
    let bytes = missing.hint("`rift refs` lists the names there are")?;
    store.publish_located(&Built { hash, bytes }, &index).with_context(opened)?;
    store.open_tree(hash).with_context(opened)?.context("the store changes while it is read")
}

/// Finds a path in a tree; the root when there is none.
pub(crate) fn find(
    manifest: &Manifest<'_>,
    path: Option<&Path>,
) -> anyhow::Result<(EntryId, Vec<u8>)> {
    let mut names: Vec<&[u8]> = Vec::new();
    for component in path.into_iter().flat_map(Path::components) {
        match component {
            Component::Normal(name) => names.push(name.as_bytes()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir if names.pop().is_some() => {}
            Component::ParentDir | Component::Prefix(_) => bail!("the path leads out of the tree"),
        }
    }
    let joined = names.join(&b'/');
    let shown = || crate::ui::printable(&String::from_utf8_lossy(&joined));
    if joined.is_empty() {
        return Ok((EntryId::ROOT, joined));
    }
    match manifest.lookup(&joined) {
        Some(id) => Ok((id, joined)),
        None => bail!("`{}` is not in the tree", shown()),
    }
}

/// Returns the letter that ls(1) shows for what an entry is.
pub(crate) fn letter(kind: &Kind<'_>) -> char {
    match kind {
        Kind::Directory { .. } => 'd',
        Kind::File { .. } => '-',
        Kind::Symlink { .. } => 'l',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_refs() {
        for good in ["site", "npm/small@1.2.3", "@scope/x+y", "cafe", "v1.0_rc-2", "a/b/c"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "n".repeat(161);
        for bad in [
            "",
            "-x",
            ".x",
            "/x",
            "x/",
            "a//b",
            "a/../b",
            "a/./b",
            "a b",
            "a\n",
            "ü",
            "deadbeef",
            "x*",
            long.as_str(),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
