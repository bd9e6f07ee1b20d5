//! State files: which entries of a projection without files are real by now.
//!
//! One file per projection, named like its record: a header and 16 bytes per entry of the tree, see
//! [`rift_tree::state`]. Every process that shows the projection maps it and holds a lock on it: a shared
//! one, or an exclusive one where nobody else may change what it shows. So the death of the last one is
//! noticed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rift_tree::merge::States;
use rift_tree::state::{
    BOOT_OFFSET, Claim, END_MARK, HEADER_BYTES, Header, Inodes, Real, State, StateWord, slot_count,
};
use rift_tree::{EntryId, FormatError};
use rustix::fs::{FallocateFlags, FlockOperation};

use crate::error::{Error, Result};
use crate::projection::record_name;
use crate::store::{Store, lock_open};
use crate::sys::Shared;

/// The mapped state of a projection.
#[derive(Debug)]
pub struct StateFile {
    file: File,
    path: PathBuf,
    header: Header,
    map: Shared,
}

impl StateFile {
    /// Returns what the file begins with.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// Returns the words, one per entry of the tree.
    #[must_use]
    pub fn words(&self) -> &[StateWord] {
        self.map.words(HEADER_BYTES, self.header.entries as usize)
    }

    /// Returns the word of an entry; `None` when the tree has no such entry.
    #[must_use]
    pub fn word(&self, id: EntryId) -> Option<&StateWord> {
        self.words().get(id.0 as usize)
    }

    /// Returns the entry that the real file with this inode was made of.
    #[must_use]
    pub fn entry(&self, inode: u64) -> Option<EntryId> {
        self.inodes().entry(inode)
    }

    /// Publishes that a claimed entry is real, or gone; `false` when the claim was lost.
    #[must_use]
    pub fn finish(&self, id: EntryId, claim: Claim, real: Real) -> bool {
        if !matches!(real, Real::NONE | Real::REPLACED) {
            self.inodes().add(real.inode, id);
        }
        self.word(id).is_some_and(|word| word.finish(claim, real))
    }

    fn inodes(&self) -> Inodes<'_> {
        let slots = self.map.slots(self.header.slots_offset(), slot_count(self.header.entries));
        Inodes::new(self.words(), slots)
    }

    /// Notes that the state is up to date in the boot of this id.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn set_boot(&self, boot: [u8; 16]) -> Result<()> {
        let written = self.file.write_all_at(&boot, BOOT_OFFSET as u64);
        written.map_err(Error::io("write", &self.path))
    }

    /// Tells whether the file still has its end: one that somebody has cut says that entries are pristine which are not.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let end = self.map.slots(self.header.end_offset(), 1);
        u32::from_le(end[0].load(Ordering::Relaxed)) == END_MARK
    }

    /// Tells whether the projection was forgotten, so that nobody will look at the state again.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.file.metadata().is_ok_and(|stat| stat.nlink() == 0)
    }

    /// Writes what changed to the disk.
    ///
    /// # Errors
    /// As msync(2).
    pub fn sync(&self) -> Result<()> {
        self.map.sync().map_err(Error::io("write to the disk", &self.path))
    }

    /// Becomes the only process that shows the projection, until the process ends; `false` when another
    /// one does.
    ///
    /// # Errors
    /// As flock(2).
    pub fn hold_alone(&self) -> Result<bool> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Becomes one of the processes that show the projection, until the process ends; `false` when one
    /// holds it alone.
    ///
    /// # Errors
    /// As flock(2).
    pub fn hold_shared(&self) -> Result<bool> {
        self.lock(FlockOperation::NonBlockingLockShared)
    }

    fn lock(&self, operation: FlockOperation) -> Result<bool> {
        match lock_open(&self.file, &self.path, operation) {
            Ok(()) => Ok(true),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn map(file: File, path: PathBuf) -> Result<Self> {
        let found = file.metadata().map_err(Error::io("look at", &path))?.len();
        if found < HEADER_BYTES as u64 {
            let wrong = FormatError::Truncated { offset: found, wanted: HEADER_BYTES as u64 };
            return Err(Error::damaged(&path)(wrong));
        }
        let mut bytes = [0; HEADER_BYTES];
        (&file).read_exact(&mut bytes).map_err(Error::io("read", &path))?;
        let header = Header::decode(&bytes).map_err(Error::damaged(&path))?;
        let length = header.file_bytes();
        if found != length as u64 {
            let wrong = FormatError::Truncated { offset: found, wanted: length as u64 };
            return Err(Error::damaged(&path)(wrong));
        }
        let map = Shared::new(&file, length).map_err(Error::io("map", &path))?;
        let state = Self { file, path, header, map };
        if !state.is_whole() {
            return Err(Error::damaged(&state.path)(FormatError::Checksum { part: "end" }));
        }
        Ok(state)
    }
}

impl States for StateFile {
    fn state(&self, id: EntryId) -> State {
        // An entry that the tree does not have is not the tree's to answer.
        self.word(id).map_or(State::Detached { inode: 0 }, StateWord::load)
    }
}

impl Store {
    /// Returns where the state of the projection at `directory` is.
    #[must_use]
    pub fn state_path(&self, directory: &Path) -> PathBuf {
        self.path("states").join(record_name(directory))
    }

    /// Returns where the server of the projection at `directory` writes what it has to say.
    #[must_use]
    pub fn state_log_path(&self, directory: &Path) -> PathBuf {
        self.state_path(directory).with_extension("log")
    }

    fn stand_in_path(&self, directory: &Path) -> PathBuf {
        self.state_path(directory).with_extension("d")
    }

    /// Makes an empty directory that stands for those of the projection at `directory` that are not real.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn stand_in(&self, directory: &Path) -> Result<PathBuf> {
        let path = self.stand_in_path(directory);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("make", &path)(error))
            }
            _ => Ok(path),
        }
    }

    /// Makes the state of a projection of which every entry is pristine, in place of any other.
    ///
    /// Nothing waits for the disk: what a power loss takes is found again from the real directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_state(&self, directory: &Path, header: Header) -> Result<StateFile> {
        let path = self.state_path(directory);
        let length = header.file_bytes() as u64;
        self.ask(length)?;
        let mut temporary = self.temporary()?;
        rustix::fs::fallocate(&temporary.file, FallocateFlags::empty(), 0, length)
            .map_err(Error::io("make room for", &path))?;
        temporary.file.write_all(&header.encode()).map_err(Error::io("write", &path))?;
        let end = temporary.file.write_all_at(&END_MARK.to_le_bytes(), header.end_offset() as u64);
        end.map_err(Error::io("write", &path))?;
        temporary.put(&path)?;
        self.open_state(directory)?.ok_or(Error::Refused { path, reason: "it is gone again" })
    }

    /// Opens the state of the projection at `directory`; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::Damaged`], or what the system says.
    pub fn open_state(&self, directory: &Path) -> Result<Option<StateFile>> {
        let path = self.state_path(directory);
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => StateFile::map(file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path)(error)),
        }
    }

    /// Gives the state of a projection whose directory was moved its new name; none is as good.
    pub(crate) fn move_state(&self, from: &Path, to: &Path) -> Result<()> {
        let states = (self.state_path(from), self.state_path(to));
        let logs = (self.state_log_path(from), self.state_log_path(to));
        for (from, to) in [states, logs] {
            match fs::rename(&from, to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("rename", &from)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets the state of the projection at `directory`; who has it mapped goes on with it.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn forget_state(&self, directory: &Path) -> Result<()> {
        for path in [self.state_path(directory), self.state_log_path(directory)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        let stand_in = self.stand_in_path(directory);
        match fs::remove_dir(&stand_in) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &stand_in)(error))
            }
            _ => Ok(()),
        }
    }
}
