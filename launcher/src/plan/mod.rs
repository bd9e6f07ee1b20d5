//! Plans: what a command line means, which inputs key its result, and which trees it makes.

pub mod npm;
pub mod show;

use std::ffi::OsStr;

/// What rift does for a program that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`npm`] is its plan.
    Npm,
    /// It has no plan, but runs programs of trees that a plan may show to rift's commands alone.
    Runner,
}

/// Every program that rift knows: what `rift exec` plans, and what the hooks of shells wrap.
pub const TOOLS: [(&str, Kind); 2] = [("npm", Kind::Npm), ("npx", Kind::Runner)];

/// Returns what rift does for a program that is named without a path.
#[must_use]
pub fn kind_of(program: &OsStr) -> Option<Kind> {
    TOOLS.iter().find(|(name, _)| program == *name).map(|(_, kind)| *kind)
}
