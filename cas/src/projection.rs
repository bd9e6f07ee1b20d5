//! What is known of a projection: which tree was shown at which directory, and when that was done.
//!
//! The record is found by the directory's path and counts only while the directory there still is the
//! one it was made for, by device and inode. It is text, one `name value` a line:
//!
//! ```text
//! tree HEX
//! directory PATH, bytes outside printable ASCII and `%` as %XX
//! device N
//! inode N
//! born_ns N        when the directory was made, or `unknown`
//! stamp_ns N       the mtime of every entry of a stamped tree
//! done_ns N        no entry had a later ctime when the projection was finished
//! umask N
//! links 0|1        whether files may be hard links to the loose form of the tree
//! as WORD          files, mount or virtual, see [`ShownAs`]
//! ```

use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rift_tree::{EntryId, FormatError, TreeHash};
use rustix::fs::AtFlags;

use crate::error::{Error, Result};
use crate::materialize::Writer;
use crate::record::{Kind, decode_percent};
use crate::store::Store;

/// Tells whether an error is that of a mount whose server is gone, or goes just now, or has lost store files that it needs.
#[must_use]
pub fn is_dead(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO))
}

/// The inode number of the root of every mount that serves a tree, see fuse(4).
const SERVED_ROOT: u64 = 1;

/// How a tree is shown at a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownAs {
    /// All of it was written there.
    Files,
    /// It is mounted there; the directory's own entries, below the mount, are those that are real.
    Mount,
    /// Only runs that ask for it see the tree; the directory's own entries are those that are real.
    Virtual,
}

impl ShownAs {
    /// Returns the word for it, as in `--as`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Mount => "mount",
            Self::Virtual => "virtual",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Files, Self::Mount, Self::Virtual].into_iter().find(|how| how.word() == word)
    }

    /// Tells whether entries are pristine until they are needed, so that there is a state file.
    #[must_use]
    pub fn has_state(self) -> bool {
        self != Self::Files
    }
}

/// A tree shown at a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// The tree.
    pub tree: TreeHash,
    /// The directory, absolute.
    pub directory: PathBuf,
    /// Device of the directory.
    pub device: u64,
    /// Inode of the directory.
    pub inode: u64,
    /// When the directory was made, in nanoseconds since the epoch, where the file system knows.
    pub born_ns: Option<i64>,
    /// The mtime of every entry of a stamped tree, in nanoseconds since the epoch.
    pub stamp_ns: i64,
    /// No entry had a later ctime when the projection was finished, in nanoseconds since the epoch.
    pub done_ns: i64,
    /// The umask that the tree's modes lost.
    pub umask: u16,
    /// Whether files may be hard links to the loose form of the tree.
    pub has_links: bool,
    /// Whether twins are names of one file, see [`Options::links_twins`](crate::materialize::Options::links_twins).
    pub links_twins: bool,
    /// How it is shown.
    pub shown_as: ShownAs,
}

/// Returns when a file was made, in nanoseconds since the epoch, where the file system knows.
#[must_use]
pub fn born_ns(stat: &Metadata) -> Option<i64> {
    let age = stat.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(age.as_nanos()).ok()
}

impl Projection {
    /// Seals the projection that was just finished at `directory`, which is absolute: sets the
    /// directory's own mtime once more, so that no entry has a later ctime, and describes it. Where an edit may have the same
    /// ctime, the entry is compared by content.
    ///
    /// # Errors
    /// As utimensat(2) and [`OpenTree::intact`](crate::tree::OpenTree::intact).
    pub fn seal(writer: &Writer<'_>, directory: &Path) -> Result<Self> {
        writer.tree().intact()?;
        let options = writer.options();
        let times = writer.times(EntryId::ROOT);
        // Who was looked at gets a finer time with the next change, where the kernel has one (since Linux 6.13).
        directory.symlink_metadata().map_err(Error::io("look at", directory))?;
        rustix::fs::utimensat(rustix::fs::CWD, directory, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Error::io("set the time of", directory))?;
        let stat = directory.symlink_metadata().map_err(Error::io("look at", directory))?;
        let done_ns = stat.ctime().saturating_mul(1_000_000_000).saturating_add(stat.ctime_nsec());
        Ok(Self {
            tree: writer.tree().hash(),
            directory: directory.to_owned(),
            device: stat.dev(),
            inode: stat.ino(),
            born_ns: born_ns(&stat),
            stamp_ns: options.stamp_ns,
            done_ns,
            umask: options.umask,
            has_links: writer.has_links(),
            links_twins: options.links_twins,
            shown_as: ShownAs::Files,
        })
    }

    /// Tells whether the directory is still the one that the projection was made at.
    ///
    /// What covers the directory of a mounted projection, a server that has died included, hides whether
    /// it is; it counts as in place then.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match self.directory.symlink_metadata() {
            Ok(stat) if stat.is_dir() => {
                self.is_of(&stat) || self.shown_as.has_state() && stat.ino() == SERVED_ROOT
            }
            Ok(_) => false,
            Err(error) => self.shown_as.has_state() && is_dead(&error),
        }
    }

    /// Tells whether this is the directory that the projection was made at.
    ///
    /// The number of one that was removed is soon another one's, but that is younger. Device numbers change
    /// when the machine is started anew, so they count only where the file system knows no births.
    #[must_use]
    pub fn is_of(&self, stat: &Metadata) -> bool {
        let is_born = match (self.born_ns, born_ns(stat)) {
            (Some(known), Some(found)) => known == found,
            _ => stat.dev() == self.device,
        };
        is_born && stat.ino() == self.inode
    }

    fn encode(&self) -> String {
        let mut text = format!("tree {}\ndirectory ", self.tree);
        for &byte in self.directory.as_os_str().as_bytes() {
            let written = match byte {
                b'!'..=b'$' | b'&'..=b'~' => write!(text, "{}", char::from(byte)),
                _ => write!(text, "%{byte:02X}"),
            };
            debug_assert!(written.is_ok(), "writing to a string can't fail");
        }
        text.push_str(&format!(
            "\ndevice {}\ninode {}\nborn_ns {}\nstamp_ns {}\ndone_ns {}\numask {}\nlinks {}\nas {}\n",
            self.device,
            self.inode,
            self.born_ns.map_or_else(|| "unknown".to_owned(), |born| born.to_string()),
            self.stamp_ns,
            self.done_ns,
            self.umask,
            u8::from(self.has_links),
            self.shown_as.word()
        ));
        if self.links_twins {
            text.push_str("twins 1\n");
        }
        text
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Some(Self {
            tree: TreeHash::from_hex(field("tree")?.as_bytes()).ok()?,
            directory: unescape(field("directory")?)?,
            device: field("device")?.parse().ok()?,
            inode: field("inode")?.parse().ok()?,
            born_ns: match field("born_ns")? {
                "unknown" => None,
                born => Some(born.parse().ok()?),
            },
            stamp_ns: field("stamp_ns")?.parse().ok()?,
            done_ns: field("done_ns")?.parse().ok()?,
            umask: field("umask")?.parse().ok()?,
            has_links: field("links")? == "1",
            links_twins: field("twins") == Some("1"),
            shown_as: ShownAs::from_word(field("as")?)?,
        })
    }
}

fn unescape(text: &str) -> Option<PathBuf> {
    decode_percent(text).map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Returns the name of the record, and of the state, of a projection at `directory`.
pub(crate) fn record_name(directory: &Path) -> String {
    blake3::hash(directory.as_os_str().as_bytes()).to_hex().to_string()
}

impl Store {
    /// Returns what is known of a projection at `directory`, which is absolute; `None` when nothing
    /// is, or when the directory there is another one by now.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn projection(&self, directory: &Path) -> Result<Option<Projection>> {
        let found = self.read_projection(&record_name(directory))?;
        Ok(found.filter(|known| known.directory == directory && known.is_in_place()))
    }

    fn read_projection(&self, name: &str) -> Result<Option<Projection>> {
        let Some(payload) = self.record(Kind::Projection, name)? else {
            return Ok(None);
        };
        let path = self.path(Kind::Projection.folder()).join(name);
        let rule = "a projection record has all its fields";
        let wrong = FormatError::Rule { rule, index: 0 };
        Projection::decode(&payload).map(Some).ok_or(wrong).map_err(Error::damaged(&path))
    }

    /// Records a projection.
    ///
    /// # Errors
    /// As [`Store::set_record`].
    pub fn set_projection(&self, projection: &Projection) -> Result<()> {
        let name = record_name(&projection.directory);
        self.set_record(Kind::Projection, &name, projection.encode().as_bytes())
    }

    /// Records that the directory of a projection, which has a state, was moved to `directory` with what is
    /// above it; returns what is known then.
    ///
    /// # Errors
    /// What the system says; a run that is cut short leaves the old record, with or without the state.
    pub fn move_projection(&self, known: &Projection, directory: &Path) -> Result<Projection> {
        let moved = Projection { directory: directory.to_owned(), ..known.clone() };
        self.move_state(&known.directory, directory)?;
        self.set_projection(&moved)?;
        self.forget_projection(&known.directory)?;
        Ok(moved)
    }

    /// Forgets what is known of a projection at `directory`.
    ///
    /// # Errors
    /// As [`Store::remove_record`].
    pub fn forget_projection(&self, directory: &Path) -> Result<()> {
        self.remove_record(Kind::Projection, &record_name(directory))
    }

    /// Returns every recorded projection, also those whose directory is gone.
    ///
    /// # Errors
    /// What the system says; damaged records are left out, `verify` reports them.
    pub fn projections(&self) -> Result<Vec<Projection>> {
        let mut found = Vec::new();
        for (name, _) in self.records(Kind::Projection)? {
            match self.read_projection(&name) {
                Ok(projection) => found.extend(projection),
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|a, b| a.directory.cmp(&b.directory));
        Ok(found)
    }
}
