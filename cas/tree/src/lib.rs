//! The format and the meaning of Velo Rift trees.
//!
//! This crate is the one place that knows the bytes of a manifest, a location sidecar and a state
//! word, and the rule by which a tree and a real directory are merged. The shim, the FUSE server
//! and the store all ask it, so they cannot disagree. It does no I/O, holds no global state and
//! contains no `unsafe`; readers need no heap and never panic on any input bytes.
//!
//! * [`manifest`]: zero-copy reader of an immutable directory tree.
//! * [`builder`], [`compose`] (feature `alloc`): make manifests, from entries or from other trees.
//! * [`sidecar`]: where a store keeps the blobs of one tree.
//! * [`run`]: what the launcher tells the processes of a run.
//! * [`stub`]: what a system call of a library becomes under the shim.
//! * [`state`]: the 16-byte word that tells who answers for an entry of a projection.
//! * [`arrival`]: which blobs of a partial tree are here.
//! * [`merge`]: pristine, detached, and what a path or a listing means then.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arrival;
#[cfg(feature = "alloc")]
pub mod builder;
mod bytes;
#[cfg(feature = "alloc")]
pub mod compose;
mod error;
mod hash;
pub mod journal;
pub mod manifest;
pub mod merge;
pub mod mode;
pub mod name;
pub mod run;
pub mod sidecar;
pub mod state;
pub mod stub;

pub use error::FormatError;
pub use hash::{BlobHash, PackId, ParseHashError, TreeHash};
pub use manifest::{Entry, EntryId, Kind, Manifest};
