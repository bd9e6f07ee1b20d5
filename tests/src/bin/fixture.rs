//! `fixture NAME DIR`: makes DIR a real npm project, its lockfile pointing at the configured registry.

use std::path::PathBuf;

use clap::Parser;
use rift_tests::fixture::Fixture;

/// Makes a folder one of the fixture projects.
#[derive(Parser)]
#[command(name = "fixture")]
struct Arguments {
    /// `small` or `medium`.
    name: String,
    /// The folder, made when it is missing.
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    Fixture::named(&arguments.name)?.prepare(&arguments.dir)
}
