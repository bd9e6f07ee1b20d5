//! Runs a test a second time, as another user, in a mount and process namespace of its own.
//!
//! The namespace has a `/dev/fuse` that everybody may open, as distributions have it, and a `/etc/fuse.conf` of the
//! test's choice, so the machine stays as it was. Everything that the test leaves running or mounted in there ends with it.
//! Called by the tests of mounts, which look into a mount from their own process.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::npm_settings;
use crate::need::{self, Need, have};
use crate::sandbox::{clear, rift_binary};

/// Tells a test that it runs again, and where its sandboxes are.
pub const RIFT_TEST_AGAIN: &str = "RIFT_TEST_AGAIN";

/// The user and the group that own nothing, on every distribution.
pub const NOBODY: u32 = 65534;

/// Takes the projections of other tests out of a mount namespace that has just been made; the copies would keep their servers, which
/// are waited for, as long as it is there.
pub const LET_GO: &str = "umount --all --types fuse.rift --lazy";

/// What the namespace is made by: `sh -c SETUP sh LET_GO FOLDER COMMAND...`.
const SETUP: &str = r#"
set -e
$1
shift
mkdir "$1/dev"
mount -t tmpfs -o mode=755 rift-test "$1/dev"
mknod -m 666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
if [ -e "$1/fuse.conf" ]; then mount --bind "$1/fuse.conf" /etc/fuse.conf; fi
shift
exec "$@"
"#;

/// Who the test is when it runs again, and what it finds.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// The user, and the group of the same number.
    pub user: u32,
    /// What `/etc/fuse.conf` says.
    pub fuse_conf: &'a str,
}

impl Again<'_> {
    /// Returns the start of a command line that runs the rest of it in a namespace; `folder` is empty.
    fn command(self, folder: &Path) -> std::io::Result<Command> {
        // A bind mount needs a file to cover.
        if Path::new("/etc/fuse.conf").exists() {
            fs::write(folder.join("fuse.conf"), self.fuse_conf)?;
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        command.args(["--mount-proc", "sh", "-c", SETUP, "sh", LET_GO]).arg(folder);
        if self.user != 0 {
            let [user, group] = ["--reuid", "--regid"].map(|flag| format!("{flag}={}", self.user));
            command.args(["setpriv", &user, &group, "--clear-groups"]);
        }
        Ok(command)
    }
}

/// Returns why tests can't run again as `nobody`, or `None` when they can.
pub(crate) fn missing() -> Option<String> {
    let tools = ["unshare", "setpriv", "mknod", "fusermount3"].map(Need::Tool);
    if let Some(reason) = [Need::Root].into_iter().chain(tools).find_map(Need::missing) {
        return Some(reason);
    }
    let again = Again { user: NOBODY, fuse_conf: "" };
    let tried = std::env::current_exe().and_then(|test| {
        let folder = Folder::new("probe")?;
        let mut command = again.command(&folder.0)?;
        command.args(["test", "-r", "/dev/fuse", "-a", "-x"]).arg(test).output()
    });
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) if output.stderr.is_empty() => {
            Some("needs a target directory that nobody can read".to_owned())
        }
        Ok(output) => Some(format!(
            "needs a namespace for nobody: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("needs a namespace for nobody: {error}")),
    }
}

/// An empty folder of one process, below cargo's target directory; it goes with the value, or with the next one when
/// the process was killed.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> std::io::Result<Self> {
        let all = crate::target_folder().map_err(std::io::Error::other)?.join("again");
        fs::create_dir_all(&all)?;
        for entry in fs::read_dir(&all)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let owner = name.to_str().and_then(|name| name.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // Another test may be at it as well.
                let _is_gone = clear(&path).is_ok();
            }
        }
        let folder = all.join(format!("{}-{name}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let cleared = clear(&self.0);
        assert!(cleared.is_ok() || std::thread::panicking(), "{cleared:?}");
    }
}

/// Returns whether this process is the one that runs a test again.
#[must_use]
pub fn is_again() -> bool {
    std::env::var_os(RIFT_TEST_AGAIN).is_some()
}

/// Runs the test of that name again; the running binary has it.
///
/// # Panics
/// When it fails, or can't be started.
#[allow(clippy::expect_used, reason = "a test that cannot go on says where")]
#[allow(clippy::print_stderr, reason = "what the test said belongs to this one's output")]
pub fn run(test: &str, again: Again<'_>) {
    let folder = Folder::new(test).expect("a folder can be made");
    let [home, sandboxes] = ["home", "sandboxes"].map(|name| folder.0.join(name));
    for inner in [&home, &sandboxes] {
        fs::create_dir(inner).expect("a folder can be made");
        chown(inner, Some(again.user), Some(again.user)).expect("root gives folders away");
    }
    let mut command = again.command(&folder.0).expect("a file can be written");
    command.arg(std::env::current_exe().expect("a test has a binary"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
    command.env(RIFT_TEST_AGAIN, &sandboxes).env("HOME", &home).env("RUST_LIB_BACKTRACE", "0");
    command.env(crate::RIFT_TEST_BIN, rift_binary().expect("rift can be built"));
    // Another user does not read the settings of this one.
    for (key, value) in npm_settings().into_iter().flatten() {
        command.env(format!("npm_config_{}", key.replace('-', "_")), value);
    }
    let output = command.output().expect("unshare can be started");
    let [said, complained] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    for skipped in complained.lines().filter_map(|line| line.strip_prefix("SKIP ")) {
        let (test, reason) = skipped.split_once(": ").unwrap_or((skipped, ""));
        need::skip(&format!("{test} as user {}", again.user), reason);
    }
    let is_passed = output.status.success() && said.contains("1 passed");
    assert!(is_passed, "as user {}: {}\n{said}\n{complained}", again.user, output.status);
}

/// Returns whether a test that cuts the power of a disk is to go on in this process: it runs in a namespace of its own. A test beside
/// that copies the mounts of its own would else keep the disk as it is, off, for as long as it runs.
#[must_use]
pub fn apart(test: &str) -> bool {
    if is_again() || !have(test, &[Need::PowerLoss]) {
        return is_again();
    }
    run(test, Again { user: 0, fuse_conf: "" });
    false
}

/// Returns whether a test of mounts is to go on in this process: as root after it has passed as `nobody`, and else as
/// whoever runs the tests. What is missing for it is a skip.
#[must_use]
pub fn as_root_and_nobody(test: &str) -> bool {
    if is_again() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        return have(test, &[Need::Fuse, Need::Tool("fusermount3")]);
    }
    if !have(test, &[Need::Fuse]) {
        return false;
    }
    as_nobody_too(test);
    true
}

/// Runs a test as `nobody` as well, where root runs it.
///
/// # Panics
/// When it fails as `nobody`.
pub fn as_nobody_too(test: &str) {
    let is_first = !is_again() && rustix::process::geteuid().is_root();
    if is_first && have(&format!("{test} as nobody"), &[Need::Nobody]) {
        run(test, Again { user: NOBODY, fuse_conf: "" });
    }
}
