//! Velo Rift's launcher: the command line, configuration and plans behind the binary `rift`.

pub mod actions;
mod bytes;
pub mod ci;
pub mod cli;
pub mod config;
pub mod context;
pub mod env_vars;
pub mod exec;
pub mod hint;
pub mod hook;
pub mod job;
pub mod keys;
pub mod machine;
pub mod mount;
pub mod observe;
mod paths;
pub mod place;
pub mod plan;
pub mod probe;
pub mod redact;
mod remotes;
pub mod report;
pub mod shim;
mod sys;
pub mod ui;
