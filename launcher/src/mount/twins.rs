//! Entries of a tree that are names of one file, as cargo leaves them: shown as one as long as nothing has changed it.

use std::collections::HashMap;

use rift_tree::EntryId;

/// The groups of a view. A group is whole while its first name is pristine.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// Of each name, the first ones included, the first name of its file.
    first: HashMap<EntryId, EntryId>,
    others: HashMap<EntryId, Vec<EntryId>>,
}

impl Twins {
    /// Takes each further name with the first one of its file; only groups that are pristine count.
    pub(super) fn new(
        found: HashMap<EntryId, EntryId>,
        is_pristine: impl Fn(EntryId) -> bool,
    ) -> Self {
        let mut twins = Self::default();
        for (other, first) in found {
            twins.others.entry(first).or_default().push(other);
        }
        twins.others.retain(|first, others| {
            others.sort_unstable();
            is_pristine(*first) && others.iter().all(|other| is_pristine(*other))
        });
        for (first, others) in &twins.others {
            twins.first.extend(others.iter().chain([first]).map(|name| (*name, *first)));
        }
        twins
    }

    /// Returns the first name of the file that an entry is one of several names of.
    pub(super) fn first(&self, id: EntryId) -> Option<EntryId> {
        // Of most trees nothing is.
        if self.first.is_empty() { None } else { self.first.get(&id).copied() }
    }

    /// Returns the other names of a file.
    pub(super) fn others(&self, first: EntryId) -> &[EntryId] {
        self.others.get(&first).map_or(&[], Vec::as_slice)
    }
}
