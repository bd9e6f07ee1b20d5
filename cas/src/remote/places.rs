//! Places: in which objects of a remote the blobs of a tree are.
//!
//! ```text
//! places/HEX: | sidecar | of each object in frames, in the order of the containers: its seek table (see `frames`) | a patch or nothing |
//! ```
//!
//! The sidecar counts in plain bytes: stamps and offsets are those of packs and blobs whether their objects are in frames or not.

use std::collections::HashMap;
use std::ops::Range;

use rift_tree::FormatError;
use rift_tree::sidecar::{Container, ContainerKind, Sidecar};

use super::error::Result;
use super::frames::Frames;
use super::{Remote, data_object};
use crate::tree::checked_sidecar;

/// The places of a tree, checked.
#[derive(Debug, Clone)]
pub struct Places<'a> {
    /// The sidecar, of which each container is a pack or a blob.
    pub sidecar: Sidecar<'a>,
    /// Of the containers in frames, by their numbers.
    frames: HashMap<u32, Frames>,
    /// What makes the tree's manifest of another one; mostly nothing.
    pub patch: &'a [u8],
}

impl<'a> Places<'a> {
    /// Reads the bytes of an object.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (head, mut tables) = Sidecar::split(bytes)?;
        let sidecar = checked_sidecar(head).ok_or(FormatError::Checksum { part: "sidecar" })?;
        let broken = |rule, index| FormatError::Rule { rule, index };
        let mut frames = HashMap::new();
        for number in 0..sidecar.container_count() {
            let container = sidecar.container(number);
            let container = container.filter(|one| one.kind != ContainerKind::Partial);
            let container =
                container.ok_or_else(|| broken("a remote has packs and blobs", number))?;
            if container.kind.is_in_frames() {
                let (table, rest) = Frames::decode(tables)?;
                if table.plain_bytes() != container.stamp.size {
                    return Err(broken("frames hold as many bytes as their container", number));
                }
                frames.insert(number, table);
                tables = rest;
            }
        }
        Ok(Self { sidecar, frames, patch: tables })
    }

    /// Returns the frames of a container that has some.
    pub(super) fn frames(&self, number: u32) -> Option<&Frames> {
        self.frames.get(&number)
    }

    /// Returns the object of a container, which has this number.
    pub(super) fn object(&self, number: u32, container: &Container) -> Object {
        let name = data_object(&container.name, container.kind);
        Object { name, size: container.stamp.size, frames: self.frames(number).cloned() }
    }
}

/// An object of a remote that holds blobs. Ranges are of what it holds.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) name: String,
    /// How many bytes it holds.
    pub(super) size: u64,
    pub(super) frames: Option<Frames>,
}

impl Object {
    /// Returns how long it is.
    pub(super) fn length(&self) -> u64 {
        self.frames.as_ref().map_or(self.size, Frames::object_bytes)
    }

    /// Returns the bytes of the object that have to be read for some that it holds.
    pub(super) fn sent(&self, range: &Range<u64>) -> Range<u64> {
        self.frames.as_ref().map_or_else(|| range.clone(), |frames| frames.compressed(range))
    }

    /// Returns what comes when some of what it holds is read.
    pub(super) fn around(&self, range: &Range<u64>) -> Range<u64> {
        self.frames.as_ref().map_or_else(|| range.clone(), |frames| frames.around(range))
    }

    /// Reads some of what it holds, by one request, in order; more may come before and behind. `take` is told where bytes are.
    pub(super) fn read(
        &self,
        remote: &Remote,
        range: &Range<u64>,
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let sent = self.sent(range);
        let length = sent.end - sent.start;
        // Any server can send a whole object, not each knows ranges.
        let is_whole = length >= self.length() / 10 * 9;
        let mut at = if is_whole { 0 } else { sent.start };
        let (asked, max) = match is_whole {
            true => (None, self.length()),
            false => (Some(sent), length),
        };
        let Some(frames) = &self.frames else {
            let mut plain = |chunk: &[u8]| {
                let start = at;
                at += chunk.len() as u64;
                take(start, chunk)
            };
            return remote.read(&self.name, asked, max, &mut plain).map(drop);
        };
        let mut decoding = frames.decoding(&self.name, range, is_whole)?;
        let mut plain_bytes = 0;
        let mut plain = |at: u64, bytes: &[u8]| {
            plain_bytes += bytes.len() as u64;
            take(at, bytes)
        };
        let mut push = |chunk: &[u8]| decoding.push(chunk, &mut plain);
        let read = remote.read(&self.name, asked, max, &mut push);
        remote.unpacked(plain_bytes.saturating_sub(length));
        read.map(drop)
    }
}
