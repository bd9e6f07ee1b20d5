//! The binary `rift`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    rift_launcher::cli::main()
}
