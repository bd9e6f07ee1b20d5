//! Composes `node_modules` out of the trees of its packages.

use std::sync::Arc;

use anyhow::{Context, Result};
use rift_cas::blobs::Found;
use rift_cas::import::{Import, Unit};
use rift_cas::sys::Mapped;
use rift_tree::builder::{Built, Item};
use rift_tree::compose::Composer;
use rift_tree::{Manifest, TreeHash};

/// What npm gives to mkdir(2) and open(2); the umask takes from it when the tree is shown.
const FOLDER_PERMISSIONS: u16 = 0o777;
const FILE_PERMISSIONS: u16 = 0o666;

/// A package's tree and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Graft {
    /// The path below `node_modules`.
    pub(crate) path: String,
    /// The tree.
    pub(crate) tree: TreeHash,
    /// Its manifest, when it came with this import.
    pub(crate) built: Option<Arc<Built>>,
}

/// Everything in one `node_modules`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// The folder, relative to the project.
    pub(crate) folder: String,
    /// The packages.
    pub(crate) grafts: Vec<Graft>,
    /// Symbolic links below the folder, and their targets.
    pub(crate) links: Vec<(String, String)>,
    /// Entries that stand in for those of a package.
    pub(crate) instead: Vec<(String, Item)>,
    /// Files that belong to no package, with their bytes: the hidden lockfile.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// A manifest and what keeps its bytes.
enum Source {
    Built(Arc<Built>),
    Packed(Found),
    File(Mapped),
}

impl Source {
    fn find(import: &Import<'_>, tree: TreeHash, built: Option<&Arc<Built>>) -> Result<Self> {
        if let Some(built) = built {
            return Ok(Self::Built(Arc::clone(built)));
        }
        if let Some(found) = rift_cas::tree::packed_manifest(import.index(), tree) {
            return Ok(Self::Packed(found));
        }
        let file = import.store().map_manifest(tree)?;
        file.map(Self::File).with_context(|| format!("the store lost tree {tree}"))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Built(built) => &built.bytes,
            Self::Packed(found) => found.bytes(),
            Self::File(mapped) => mapped,
        }
    }
}

/// Composes one `node_modules`; bytes of files that belong to no package go to `unit`.
///
/// # Errors
/// When the store lost a package's tree, or the parts do not fit together.
pub(crate) fn compose(import: &Import<'_>, unit: &mut Unit<'_>, parts: &Parts) -> Result<Built> {
    let find = |graft: &Graft| Source::find(import, graft.tree, graft.built.as_ref());
    let sources: Vec<Source> = parts.grafts.iter().map(find).collect::<Result<_>>()?;
    let mut composer = Composer::new(FOLDER_PERMISSIONS);
    for (graft, source) in parts.grafts.iter().zip(&sources) {
        let manifest = Manifest::parse(source.bytes())
            .with_context(|| format!("the tree of `{}` is damaged", graft.path))?;
        composer.graft(graft.path.as_bytes(), manifest).context("could not place a package")?;
    }
    for (path, target) in &parts.links {
        let target = target.clone().into_bytes();
        composer
            .put(path.as_bytes(), Item::Symlink { target })
            .context("could not place a link")?;
    }
    for (path, item) in &parts.instead {
        composer.put(path.as_bytes(), item.clone()).context("could not place a file")?;
    }
    for (path, bytes) in &parts.files {
        let hash = unit.add(bytes)?;
        let size = bytes.len() as u64;
        let item = Item::File { permissions: FILE_PERMISSIONS, size, hash };
        composer.put(path.as_bytes(), item).context("could not place a file")?;
    }
    let composed = composer.finish().context("could not compose the packages")?;
    Ok(composed.built)
}

/// Tells whether a package's tree has an entry at `path`.
///
/// # Errors
/// When the store lost the tree.
pub(crate) fn lookup(
    import: &Import<'_>,
    tree: TreeHash,
    built: Option<&Arc<Built>>,
    path: &str,
) -> Result<bool> {
    let source = Source::find(import, tree, built)?;
    let manifest = Manifest::parse(source.bytes()).context("the tree of a package is damaged")?;
    Ok(manifest.lookup(path.as_bytes()).is_some())
}

/// Returns the manifest of a tree that the store has.
#[must_use]
pub(crate) fn manifest_bytes(import: &Import<'_>, tree: TreeHash) -> Option<Vec<u8>> {
    Source::find(import, tree, None).ok().map(|source| source.bytes().to_vec())
}
