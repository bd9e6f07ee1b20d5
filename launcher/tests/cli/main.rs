//! The finished command line: every test runs the built `rift` in a home of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod exec;
mod help;
mod home;
mod machine;
mod output;
mod trees;
