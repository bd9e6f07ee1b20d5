//! Plans: what a command line means, which inputs key its result, and which trees it makes.

pub mod npm;
pub mod show;
