//! Plans: what a command line means, which inputs key its result, and which trees it makes.

pub mod cargo;
pub mod npm;
pub mod shareable;
pub mod show;

use std::ffi::OsStr;

/// What rift does for a program that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`npm`] is its plan.
    Npm,
    /// [`cargo`] is its plan.
    Cargo,
    /// It has no plan, but runs programs of trees that a plan may show to rift's commands alone.
    Runner,
}

/// What the hooks of shells wrap, and `rift exec` plans.
pub const TOOLS: [(&str, Kind); 3] =
    [("npm", Kind::Npm), ("npx", Kind::Runner), ("cargo", Kind::Cargo)];

/// Returns what rift does for a program that is named without a path.
#[must_use]
pub fn kind_of(program: &OsStr) -> Option<Kind> {
    TOOLS.iter().find(|(name, _)| program == *name).map(|(_, kind)| *kind)
}
