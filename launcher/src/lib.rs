//! Velo Rift's launcher: the command line, configuration and plans behind the binary `rift`.

pub mod observe;
pub mod plan;
mod sys;
