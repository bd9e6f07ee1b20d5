//! The merge rule: what a path means where a tree and a real directory overlap.
//!
//! An entry of the tree is *pristine* (the tree answers for it) or *detached* (the kernel answers,
//! whatever that is: a real file, a changed one, nothing). Names the tree does not have are the
//! kernel's, and they can only exist below directories that are real.

use crate::manifest::{EntryId, Kind, Manifest};
use crate::state::State;

/// Who answers for a path of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The tree: this entry, as the manifest has it.
    Pristine(EntryId),
    /// The kernel, for an entry the tree once answered for.
    Detached(EntryId),
    /// The kernel, for a name that the tree does not have.
    Foreign,
    /// Nobody: the path does not exist, and the kernel needs not be asked.
    Missing,
    /// Nobody: a name on the way, this pristine entry, is not a directory.
    NotDirectory(EntryId),
}

/// What is known of every entry's state.
pub trait States {
    /// Returns the state of an entry.
    fn state(&self, id: EntryId) -> State;

    /// Tells whether the kernel answers for an entry.
    #[inline]
    fn is_detached(&self, id: EntryId) -> bool {
        matches!(self.state(id), State::Detached { .. })
    }
}

/// Decides who answers for `path`: relative to the projection, without `.`, `..` and links to follow.
///
/// A path through a symbolic link of the tree is [`Place::NotDirectory`]: who resolves paths follows
/// links name by name and asks again.
#[must_use]
pub fn place<S: States>(manifest: &Manifest<'_>, states: &S, path: &[u8]) -> Place {
    if let Some(id) = manifest.lookup(path) {
        return own_place(manifest, states, id);
    }
    // Names the tree does not have: the nearest name it has decides.
    let mut above = path;
    while let Some(slash) = above.iter().rposition(|&byte| byte == b'/') {
        above = &above[..slash];
        if let Some(id) = manifest.lookup(above) {
            return below(manifest, own_place(manifest, states, id));
        }
    }
    below(manifest, own_place(manifest, states, EntryId::ROOT))
}

/// Decides for an entry the tree has.
///
/// An entry whose directory was taken away or replaced went with it: whoever detaches a directory
/// for more than making it real detaches all that is below first, so the entry's own state is enough.
fn own_place<S: States>(_manifest: &Manifest<'_>, states: &S, id: EntryId) -> Place {
    if states.is_detached(id) { Place::Detached(id) } else { Place::Pristine(id) }
}

/// Decides for a name the tree does not have, given the nearest entry above that it has.
fn below(manifest: &Manifest<'_>, above: Place) -> Place {
    match above {
        Place::Pristine(id) => match manifest.kind(id) {
            Some(Kind::Directory { .. }) => Place::Missing,
            _ => Place::NotDirectory(id),
        },
        Place::Detached(_) => Place::Foreign,
        other => other,
    }
}

/// Tells whether a name that the kernel lists in a real directory belongs to the merged listing.
///
/// `child` is the tree's entry of that name, if any. The listing of a directory is its pristine
/// children from the tree, then the kernel's names for which this holds.
#[must_use]
pub fn lists_kernel_name<S: States>(states: &S, child: Option<EntryId>) -> bool {
    child.is_none_or(|id| states.is_detached(id))
}

/// Tells whether the tree lists `child`.
#[must_use]
pub fn lists_tree_child<S: States>(states: &S, child: EntryId) -> bool {
    !states.is_detached(child)
}
