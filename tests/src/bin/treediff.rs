//! `treediff [--mtimes] [--hard-links] [--xattrs] A B`: one line per difference; exit status 0 same, 1 different, 2 error.

#![allow(clippy::print_stdout, reason = "the differences are this program's data")]
#![allow(clippy::print_stderr, reason = "errors of a command-line program")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rift_tests::differ::{Options, compare};

/// Compares two trees strictly: paths, types, modes, link targets, sizes, bytes.
#[derive(Parser)]
#[command(name = "treediff")]
struct Arguments {
    /// Compare modification times too.
    #[arg(long)]
    mtimes: bool,
    /// Compare which names are hard links of each other too.
    #[arg(long)]
    hard_links: bool,
    /// Compare extended attributes too.
    #[arg(long)]
    xattrs: bool,
    /// The tree on the left.
    a: PathBuf,
    /// The tree on the right.
    b: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { mtimes, hard_links, xattrs, .. } = arguments;
    match compare(&arguments.a, &arguments.b, Options { mtimes, hard_links, xattrs }) {
        Ok(differences) if differences.is_empty() => ExitCode::SUCCESS,
        Ok(differences) => {
            differences.iter().for_each(|difference| println!("{difference}"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("error: could not compare the trees\n  caused by: {error}");
            ExitCode::from(2)
        }
    }
}
