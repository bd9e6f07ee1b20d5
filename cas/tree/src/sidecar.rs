//! The location sidecar: where one store keeps the blobs of one tree.
//!
//! ```text
//! sidecar:   | header 128 | containers: count × 64 | locations: blobs × u64 |
//! header:    | magic 8 "RIFTLOCS" | version u32 | containers u32 | blobs u32 | zero 4
//!            | tree hash 32 | manifest stamp 24 | zero 16 | checksum 32 |
//! container: | name 32 | stamp 24 | kind u32 (0 pack, 1 loose, 2 data of a partial tree; on remotes 3 and 4: 0 and 1 in frames) | zero 4 |
//! stamp:     | size u64 | inode u64 | mtime i64 (ns) |
//! location:  container << 44 | offset in bytes
//! ```
//!
//! The checksum is the BLAKE3 of everything but itself. A stamp is what stat(2) said of a store file
//! when it was published: while it still says so, the file's structure is what was checked then; else
//! the store checks content again before it serves from it. The shim and FUSE find bytes here without
//! a database. A sidecar belongs to one machine and is never part of a tree's identity.

use crate::bytes::{hash_at, split_header, truncated, u32_at, u64_at};
use crate::{FormatError, TreeHash};

/// The first eight bytes of every sidecar.
pub const MAGIC: [u8; 8] = *b"RIFTLOCS";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// How many containers one sidecar can name.
pub const CONTAINERS_MAX: u32 = 1 << (64 - OFFSET_BITS);
/// The largest offset in a container, in bytes: 16 TiB.
pub const OFFSET_MAX: u64 = (1 << OFFSET_BITS) - 1;

const OFFSET_BITS: u32 = 44;
const HEADER_BYTES: usize = 128;
const CONTAINER_BYTES: usize = 64;
const CHECKSUM_AT: usize = 96;

/// What stat(2) says of a store file; equal stamps mean an untouched file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// `st_size`, in bytes.
    pub size: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_mtim`, in nanoseconds since the epoch.
    pub mtime_ns: i64,
}

/// How a container holds blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// A pack: many blobs, each at its offset.
    Pack,
    /// A loose blob: one blob at offset 0.
    Loose,
    /// The data file of a partial tree, where blobs get their bytes as they arrive. Its mtime says nothing.
    Partial,
    /// A pack in compressed frames. Only remotes have it; its stamp's size is that of the pack.
    PackInFrames,
    /// A loose blob in compressed frames, likewise.
    LooseInFrames,
}

impl ContainerKind {
    /// Tells whether it holds one blob.
    #[must_use]
    pub fn is_loose(self) -> bool {
        matches!(self, Self::Loose | Self::LooseInFrames)
    }

    /// Tells whether its bytes are in compressed frames.
    #[must_use]
    pub fn is_in_frames(self) -> bool {
        matches!(self, Self::PackInFrames | Self::LooseInFrames)
    }
}

/// A store file that holds blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// The pack's id, the loose blob's hash or the partial tree's.
    pub name: [u8; 32],
    /// What stat(2) said of it when it was published.
    pub stamp: Stamp,
    /// What it is.
    pub kind: ContainerKind,
}

/// Where a blob's bytes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The number of its container in the sidecar.
    pub container: u32,
    /// Its first byte.
    pub offset: u64,
}

/// A sidecar over the bytes of its file.
#[derive(Debug, Clone, Copy)]
pub struct Sidecar<'a> {
    tree: TreeHash,
    manifest: Stamp,
    containers: &'a [u8],
    locations: &'a [u8],
}

fn stamp_at(bytes: &[u8], at: usize) -> Option<Stamp> {
    let fields = bytes.get(at..)?;
    Some(Stamp {
        size: u64_at(fields, 0)?,
        inode: u64_at(fields, 1)?,
        mtime_ns: u64_at(fields, 2)?.cast_signed(),
    })
}

impl<'a> Sidecar<'a> {
    /// Reads the header and checks every length.
    ///
    /// # Errors
    /// What is wrong with the first part that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (head, body) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let word = |index: usize| u32_at(head, index).unwrap_or(0);
        let (containers, blobs) = (word(3) as usize, word(4) as usize);
        let middle = containers.saturating_mul(CONTAINER_BYTES);
        let wanted = middle.saturating_add(blobs.saturating_mul(8));
        if body.len() != wanted {
            return Err(truncated(bytes, wanted.saturating_add(HEADER_BYTES)));
        }
        let (containers, locations) = body.split_at(middle);
        let tree = head.get(24..).and_then(|rest| hash_at(rest, 0)).unwrap_or_default();
        Ok(Self {
            tree: TreeHash::from_bytes(tree),
            manifest: stamp_at(head, 56).unwrap_or_default(),
            containers,
            locations,
        })
    }

    /// Returns the sidecar at the beginning of some bytes, not checked, and what is behind it: remotes have the tables of frames there.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), for a header that can't be read and for too few bytes.
    pub fn split(bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FormatError> {
        let (head, _) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let word = |index: usize| u32_at(head, index).unwrap_or(0) as usize;
        let length = word(3).saturating_mul(CONTAINER_BYTES);
        let length = length.saturating_add(word(4).saturating_mul(8)).saturating_add(HEADER_BYTES);
        bytes.split_at_checked(length).ok_or_else(|| truncated(bytes, length))
    }

    /// Returns the two parts that the checksum covers, and the checksum.
    #[must_use]
    pub fn checked_parts(bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8], [u8; 32])> {
        let checksum = bytes.get(CHECKSUM_AT..HEADER_BYTES)?.try_into().ok()?;
        Some((&bytes[..CHECKSUM_AT], &bytes[HEADER_BYTES..], checksum))
    }

    /// Returns the tree that the sidecar belongs to.
    #[must_use]
    pub fn tree(&self) -> TreeHash {
        self.tree
    }

    /// Returns the stamp of the manifest when the sidecar was written.
    #[must_use]
    pub fn manifest_stamp(&self) -> Stamp {
        self.manifest
    }

    /// Returns how many containers there are.
    #[must_use]
    pub fn container_count(&self) -> u32 {
        (self.containers.len() / CONTAINER_BYTES) as u32
    }

    /// Returns how many blobs have a location.
    #[must_use]
    pub fn blob_count(&self) -> u32 {
        (self.locations.len() / 8) as u32
    }

    /// Returns container `number`.
    #[must_use]
    pub fn container(&self, number: u32) -> Option<Container> {
        let start = (number as usize).checked_mul(CONTAINER_BYTES)?;
        let record = self.containers.get(start..start.checked_add(CONTAINER_BYTES)?)?;
        Some(Container {
            name: hash_at(record, 0)?,
            stamp: stamp_at(record, 32)?,
            kind: match u32_at(record, 14)? {
                0 => ContainerKind::Pack,
                1 => ContainerKind::Loose,
                2 => ContainerKind::Partial,
                3 => ContainerKind::PackInFrames,
                4 => ContainerKind::LooseInFrames,
                _ => return None,
            },
        })
    }

    /// Returns where blob `blob` of the manifest begins.
    #[must_use]
    #[inline]
    pub fn location(&self, blob: u32) -> Option<Location> {
        let word = u64_at(self.locations, blob as usize)?;
        // The shift leaves 20 bits.
        Some(Location { container: (word >> OFFSET_BITS) as u32, offset: word & OFFSET_MAX })
    }
}

/// Writes a sidecar. Locations are given in the order of the manifest's blobs.
///
/// # Errors
/// [`FormatError::Rule`] when there are too many containers or an offset is too large.
#[cfg(feature = "alloc")]
pub fn write(
    tree: TreeHash,
    manifest: Stamp,
    containers: &[Container],
    locations: &[Location],
) -> Result<alloc::vec::Vec<u8>, FormatError> {
    let limits = FormatError::Rule { rule: "2^20 containers of 16 TiB at most", index: 0 };
    let blobs = u32::try_from(locations.len()).map_err(|_| limits)?;
    let count = u32::try_from(containers.len()).map_err(|_| limits)?;
    let length = HEADER_BYTES + containers.len() * CONTAINER_BYTES + locations.len() * 8;
    let mut bytes = alloc::vec::Vec::with_capacity(length);
    bytes.extend_from_slice(&MAGIC);
    for word in [VERSION, count, blobs, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(tree.as_bytes());
    put_stamp(&mut bytes, manifest);
    bytes.resize(HEADER_BYTES, 0);
    for container in containers {
        bytes.extend_from_slice(&container.name);
        put_stamp(&mut bytes, container.stamp);
        let kind = match container.kind {
            ContainerKind::Pack => 0_u64,
            ContainerKind::Loose => 1,
            ContainerKind::Partial => 2,
            ContainerKind::PackInFrames => 3,
            ContainerKind::LooseInFrames => 4,
        };
        bytes.extend_from_slice(&kind.to_le_bytes());
    }
    for location in locations {
        if location.container >= count || count > CONTAINERS_MAX || location.offset > OFFSET_MAX {
            return Err(limits);
        }
        let word = u64::from(location.container) << OFFSET_BITS | location.offset;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..CHECKSUM_AT]).update(&bytes[HEADER_BYTES..]);
    bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(hasher.finalize().as_bytes());
    Ok(bytes)
}

#[cfg(feature = "alloc")]
fn put_stamp(bytes: &mut alloc::vec::Vec<u8>, stamp: Stamp) {
    bytes.extend_from_slice(&stamp.size.to_le_bytes());
    bytes.extend_from_slice(&stamp.inode.to_le_bytes());
    bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
}
