//! Room: a size over which a store does not grow, for stores in memory, where what is full is full for everybody.
//!
//! Who writes asks first. The store is measured anew whenever this process has written [`STRIDE_BYTES`] since, so what
//! others write counts as well, and several that write at once pass the size by no more than that each. Records and
//! other small files are not asked for: they are what room is made with.

use std::sync::Mutex;

use crate::error::{Error, Result, is_full};
use crate::gc;
use crate::inventory::{StoreFile, inventory};
use crate::lock::lock;
use crate::remote::Extent;
use crate::store::Store;

/// The store is measured again after so many bytes.
const STRIDE_BYTES: u64 = 16 << 20;
/// Files below this size are written without asking.
pub(crate) const ASK_FROM: u64 = 64 << 10;

/// How large a store may be, and what this process knows of its size.
#[derive(Debug)]
pub(crate) struct Room {
    max_bytes: u64,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    used_bytes: u64,
    since_bytes: u64,
}

impl Room {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, known: Mutex::new(None) }
    }

    fn ask(&self, store: &Store, bytes: u64) -> Result<()> {
        let mut known = lock(&self.known);
        let kept = known.take().filter(|now| now.since_bytes < STRIDE_BYTES);
        let mut now = kept.map_or_else(|| measure(store), Ok)?;
        let is_over = |now: Known| {
            let used_bytes = now.used_bytes.saturating_add(now.since_bytes);
            used_bytes.saturating_add(bytes) > self.max_bytes
        };
        if is_over(now) && kept.is_some() {
            // What was asked for need not have been written, and may be gone again.
            now = measure(store)?;
        }
        if is_over(now) {
            return Err(store.full());
        }
        now.since_bytes = now.since_bytes.saturating_add(bytes);
        *known = Some(now);
        Ok(())
    }
}

fn measure(store: &Store) -> Result<Known> {
    let used_bytes = used(store)?;
    Ok(Known { used_bytes, since_bytes: 0 })
}

fn used(store: &Store) -> Result<u64> {
    Ok(inventory(store)?.iter().map(StoreFile::disk_bytes).sum())
}

impl Store {
    /// Keeps the store from growing over a size: what would is refused with [`Error::Full`].
    #[must_use]
    pub fn limited(mut self, max_bytes: u64) -> Self {
        self.room = Some(Room::new(max_bytes));
        self
    }

    /// Returns over which size the store does not grow; `None` where that is the disk's affair.
    #[must_use]
    pub fn max_bytes(&self) -> Option<u64> {
        self.room.as_ref().map(|room| room.max_bytes)
    }

    /// Returns how much of a tree comes that is to be shown without files: what comes later asks nobody for room.
    #[must_use]
    pub fn extent_shown(&self) -> Extent {
        if self.room.is_none() { Extent::Partial } else { Extent::Whole }
    }

    /// Tells whether an error is that this store, which has a limit, has no room left: by that, or on its disk.
    #[must_use]
    pub fn is_out_of_room(&self, error: &Error) -> bool {
        let is_here = match error {
            Error::Full { path, .. } => path == self.root(),
            Error::Io { path, source, .. } => path.starts_with(self.root()) && is_full(source),
            _ => false,
        };
        self.room.is_some() && is_here
    }

    /// Returns the error that says that there is no more room.
    #[must_use]
    pub fn full(&self) -> Error {
        let max_bytes = self.max_bytes().unwrap_or(0);
        Error::Full { path: self.root().to_owned(), max_bytes }
    }

    /// Asks whether so many bytes may be written.
    ///
    /// # Errors
    /// [`Error::Full`], and what the system says.
    pub(crate) fn ask(&self, bytes: u64) -> Result<()> {
        match &self.room {
            Some(room) => room.ask(self, bytes),
            None => Ok(()),
        }
    }

    /// Removes the least recently used results, down to half of what the store may have, or has where its disk is
    /// smaller. Tells whether that made any room; a store that others use is left alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_room(&self) -> Result<bool> {
        let Some(max_bytes) = self.max_bytes() else { return Ok(false) };
        let max_bytes = Some(max_bytes.min(used(self)?) / 2);
        let options =
            gc::Options { max_bytes, wait: false, is_pressed: true, ..Default::default() };
        let collected = gc::collect(self, &options)?;
        Ok(collected.bytes_after < collected.bytes_before && !collected.is_busy)
    }
}
