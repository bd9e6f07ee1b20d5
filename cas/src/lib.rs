//! The Velo Rift store: bytes at rest, and their way in and out.
//!
//! A store is a local directory of immutable, self-checking files (see [`store`] for the layout).
//! [`import`] brings blobs and trees in, [`ingest`] reads a directory, [`materialize`] writes a tree,
//! [`ahead`] writes its files while others are still on their way, [`compare`] finds how a directory
//! differs from a tree, [`remote`] shares trees with other machines, [`partial`] shows those that have not come whole, [`gc`] and [`verify`] keep the store
//! small and whole. Several processes use one store at once without a daemon.

pub mod ahead;
pub mod blobs;
pub mod compare;
pub mod error;
pub mod gc;
pub mod hashes;
pub mod import;
pub mod ingest;
mod inventory;
pub mod leases;
pub mod lock;
pub mod log;
pub mod loose;
pub mod materialize;
pub mod pack;
pub mod partial;
mod parts;
pub mod projection;
pub mod purge;
pub mod record;
pub mod remote;
pub mod remove;
mod room;
pub mod roots;
pub mod secrets;
pub mod state;
pub mod stats;
pub mod store;
pub mod sys;
pub mod tree;
pub mod used;
pub mod verify;

pub use error::{Error, Result};
pub use leases::Lease;
pub use store::Store;
