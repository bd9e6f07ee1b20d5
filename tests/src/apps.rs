//! The small C programs in `tests/apps`, compiled where a test needs one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

/// Compiles `tests/apps/NAME.c` and returns the program. Needs `cc`.
///
/// # Errors
/// When it does not compile.
pub fn compiled(name: &str) -> Result<PathBuf> {
    compiled_with(name, name, &[])
}

/// As [`compiled`], with further words for the compiler; what it makes is called `program_name`.
///
/// # Errors
/// As [`compiled`].
pub fn compiled_with(name: &str, program_name: &str, words: &[&str]) -> Result<PathBuf> {
    compiled_by("cc", name, program_name, words)
}

/// As [`compiled_with`], by another compiler.
///
/// # Errors
/// As [`compiled`].
pub fn compiled_by(
    compiler: &str,
    name: &str,
    program_name: &str,
    words: &[&str],
) -> Result<PathBuf> {
    let folder = crate::target_folder()?.join("apps");
    fs::create_dir_all(&folder)?;
    let source = crate::repository().join("tests/apps").join(format!("{name}.c"));
    let program = folder.join(program_name);
    if crate::again::is_again() {
        // Who runs again may not write there; it was compiled before.
        return Ok(program);
    }
    // Tests run at once: each makes its own, and a name leads to a whole one at any time.
    let own = folder.join(format!("{program_name}.{}", std::process::id()));
    let mut cc = Command::new(compiler);
    cc.args(["-O1", "-Wall", "-Wextra"]).args(words);
    let status = cc.arg("-o").arg(&own).arg(&source).status()?;
    ensure!(status.success(), "{} does not compile", source.display());
    fs::rename(&own, &program)?;
    Ok(program)
}
