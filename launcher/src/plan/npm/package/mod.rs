//! From a package's `integrity` to a tree of its files in the store, laid out as npm would.
//!
//! A tarball comes from npm's own cache ([`cacache`]) or from a registry ([`registry`]); [`tarball`]
//! verifies, unpacks and stores it in one pass, [`bins`] does to it what npm does when it links the
//! package's commands, and [`fetch`] does all that for a whole lockfile. What was learnt is kept in the
//! action log as [`facts`]. Nothing is known under an integrity before the whole tarball had it.

pub mod bins;
pub mod cacache;
pub mod error;
pub mod facts;
pub mod fetch;
mod header;
pub mod integrity;
mod layout;
pub mod registry;
pub mod tarball;

pub use error::{PackageError, Result};
pub use facts::{Known, PackageFacts};
pub use integrity::Integrity;
