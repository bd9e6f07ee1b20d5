//! What a program is told before it begins: two runs with the same key may do the same, if what they find is the same.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rift_cas::hashes::{FileStamp, Hashes};

use super::roots::Roots;

/// Grows when what is kept of an action, or how it is found, is another thing.
pub const RULES: u32 = 2;

/// Variables that rift sets, that shells count by, or that say what may run at once, and by which descriptors that is agreed on.
const OF_THE_RUN: &[&str] = &[
    "_",
    "OLDPWD",
    "SHLVL",
    "MAKEFLAGS",
    "MFLAGS",
    "CARGO_MAKEFLAGS",
    "MAKELEVEL",
    "MAKE_TERMOUT",
    "MAKE_TERMERR",
    "NUM_JOBS",
    "CARGO_BUILD_JOBS",
    "LD_PRELOAD",
    "UV_USE_IO_URING",
];

/// Variables that tell of a session, or of who builds where, and that compilers do not go by. Build scripts may.
const OF_A_SESSION: &[&str] = &[
    "LS_COLORS",
    "TERM_PROGRAM",
    "HISTFILE",
    "DISPLAY",
    "MAIL",
    "LOGNAME",
    "USER",
    "USERNAME",
    "HOSTNAME",
    "COLORTERM",
    "WINDOWID",
    "EDITOR",
    "PAGER",
    "RUST_TEST_THREADS",
    "RUST_BACKTRACE",
];

/// What the names of such variables begin with.
const OF_A_SESSION_STARTS: &[&str] = &[
    "SSH_",
    "XDG_",
    "DBUS_",
    "LC_TERMINAL",
    "GPG_",
    "VSCODE_",
    "TMUX",
    "GITHUB_",
    "RUNNER_",
    "CI_",
    "ACTIONS_",
    "CARGO_REGISTR",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_TERM_",
    "NPM_TOKEN",
];

/// Tells whether a program is one that cargo has made of a build script: it is called by the name of the source.
pub(super) fn is_build_script(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name.as_bytes().starts_with(b"build-script-"))
}

/// Tells whether a variable may decide what a program does.
pub(super) fn decides(program: &Path, name: &str) -> bool {
    let is_script = is_build_script(program);
    let is_of_session = OF_A_SESSION.contains(&name)
        || OF_A_SESSION_STARTS.iter().any(|start| name.starts_with(start));
    let is_of_run = OF_THE_RUN.contains(&name) || name.starts_with("RIFT_");
    !is_of_run && (is_script || !is_of_session)
}

/// A program that is about to run.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Its path, absolute.
    pub program: &'a Path,
    /// Its words, the first of which is its name.
    pub words: &'a [OsString],
    /// Its environment.
    pub variables: &'a [(OsString, OsString)],
    /// What is loaded before its own libraries, besides the shim; see `LD_PRELOAD` in ld.so(8).
    pub preloaded: &'a [u8],
    /// The working directory.
    pub cwd: &'a Path,
    /// What its stdin, stdout and stderr are: see [`shape`].
    pub streams: [String; 3],
}

/// A key, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub hash: String,
    /// What it is made of, for people: a name, `=` and the value, or what tells it from others where it may be a secret.
    pub told: Vec<String>,
}

impl Asked<'_> {
    /// Returns the key.
    ///
    /// # Errors
    /// Why the action has none.
    pub fn key(&self, roots: &Roots, hashes: &Hashes) -> anyhow::Result<Key> {
        let mut fields = blake3::Hasher::new();
        let mut enter = |name: &str, value: &[u8]| -> anyhow::Result<Vec<u8>> {
            let value = roots.shorten(value).context("a byte 1 is in what it is told")?;
            for part in [name.as_bytes(), &value] {
                fields.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            Ok(value)
        };
        // In what people see, what differs between checkouts is no difference.
        let text = |value: &[u8]| String::from_utf8_lossy(value).replace('\u{1}', "%");
        let stat = self.program.metadata().context("the program can't be looked at")?;
        let content = hashes.of(self.program, FileStamp::of(&stat))?.to_string();
        let rules = RULES.to_string();
        let mut told = Vec::new();
        for (name, value) in [
            ("rules", rules.as_bytes()),
            ("program", self.program.as_os_str().as_bytes()),
            ("content", content.as_bytes()),
        ] {
            told.push(format!("{name}={}", text(&enter(name, value)?)));
        }
        let shown = self.words.iter().map(|word| word.to_string_lossy().into_owned());
        let shown = crate::redact::words(shown);
        let mut told_words = Vec::with_capacity(self.words.len());
        for (at, (word, shown)) in self.words.iter().zip(shown).enumerate() {
            // It may read what nobody knows.
            let is_open = |start: &str| word.as_bytes().starts_with(start.as_bytes());
            if is_open("/dev/fd/") || is_open("/proc/self/fd/") {
                bail!("it reads what is open already");
            }
            if (word == "-" || word == "/dev/stdin") && self.streams[0] != NULL {
                bail!("it reads its stdin");
            }
            if is_of_output(word) {
                continue;
            }
            let value = enter("word", word.as_bytes())?;
            // Two words of which nothing is shown are told apart by what they are.
            let shown = match shown.as_bytes() == word.as_bytes() {
                true => text(&value),
                false => format!("{shown} ({})", short_hash(&value)),
            };
            told_words.push(format!("word {at}={shown}"));
        }
        let umask = format!("{:o}", rift_cas::materialize::umask());
        let user = rustix::process::geteuid().as_raw().to_string();
        // Make gives its stdin to one of those that run at once.
        let [_, stdout, stderr] = &self.streams;
        for (name, value) in [
            ("cwd", self.cwd.as_os_str().as_bytes()),
            ("preloaded", self.preloaded),
            ("umask", umask.as_bytes()),
            ("user", user.as_bytes()),
            ("stream", stdout.as_bytes()),
            ("stream", stderr.as_bytes()),
        ] {
            told.push(format!("{name}={}", text(&enter(name, value)?)));
        }
        // Where it works is told already; by another name for it, debug information names it.
        let is_told = |name: &OsStr, value: &OsStr| name == "PWD" && value == self.cwd;
        let decide = |(name, value): &&(OsString, OsString)| {
            decides(self.program, &name.to_string_lossy()) && !is_told(name, value)
        };
        let mut variables: Vec<_> = self.variables.iter().filter(decide).collect();
        variables.sort();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let value = enter(&name, value.as_bytes())?;
            told.push(format!("{name}={}", short_hash(&value)));
        }
        told.append(&mut told_words);
        let hash = fields.finalize().to_hex().to_string();
        Ok(Key { hash, told })
    }
}

/// So much of a hash that it tells two values apart, for people.
fn short_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..12].to_owned()
}

/// Tells whether a word says only how wide messages may be: where there are none, it means nothing; where there are, they are said as
/// they were.
fn is_of_output(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"--diagnostic-width=")
}

/// The shape of what is always at its end.
const NULL: &str = "null";

/// Describes what a stream is, as far as programs behave otherwise for it.
#[must_use]
pub fn shape(descriptor: u32) -> String {
    let path = format!("/proc/self/fd/{descriptor}");
    let Ok(stat) = std::fs::metadata(&path) else { return "closed".to_owned() };
    let kind = stat.file_type();
    match () {
        // Major number 1 has /dev/null, see null(4); terminals have others.
        () if kind.is_char_device() && stat.rdev() >> 8 == 1 => NULL.to_owned(),
        () if kind.is_char_device() => {
            let size = File::open(&path).map(rustix::termios::tcgetwinsize);
            let columns = size.ok().and_then(Result::ok).map_or(0, |size| size.ws_col);
            format!("terminal {columns}")
        }
        // Colors and buffers are the same for these.
        () => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_session_decide_nothing_of_compilers() {
        for (name, of_compilers, of_scripts) in [
            ("CFLAGS", true, true),
            ("OUT_DIR", true, true),
            ("HOME", true, true),
            ("MAKEFLAGS", false, false),
            ("RIFT_RUN", false, false),
            ("SSH_AUTH_SOCK", false, true),
            ("GITHUB_SHA", false, true),
        ] {
            let decide = |program: &str| decides(Path::new(program), name);
            assert_eq!(decide("/usr/bin/cc"), of_compilers, "{name}");
            assert_eq!(decide("/target/x/build-script-build"), of_scripts, "{name}");
        }
    }

    #[test]
    fn a_key_is_of_all_that_is_told_and_of_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = rift_cas::Store::open(&folder.path().join("store")).unwrap();
        let hashes = store.hashes(1);
        let key = |place: &str, words: &[&str], variable: &str, preloaded: &[u8]| {
            let root = folder.path().join(place);
            std::fs::create_dir_all(&root).unwrap();
            let program = root.join("cc");
            std::fs::write(&program, "program").unwrap();
            let words: Vec<OsString> = words
                .iter()
                .map(|word| word.replace("ROOT", &root.to_string_lossy()).into())
                .collect();
            let variables = [("X".into(), variable.into()), ("PWD".into(), root.clone().into())];
            let asked = Asked {
                program: &program,
                words: &words,
                variables: &variables,
                preloaded,
                cwd: &root,
                streams: ["null", "other", "other"].map(str::to_owned),
            };
            let key = asked.key(&Roots::new([('W', root.clone())]), &hashes)?;
            let told = key.told.iter().find(|told| told.starts_with("X="));
            assert!(told.is_some_and(|told| !told.contains(variable)), "{key:?}");
            anyhow::Ok(key.hash)
        };
        let one = key("one", &["cc", "-IROOT/include"], "x", b"").unwrap();
        assert_eq!(key("other", &["cc", "-IROOT/include"], "x", b"").unwrap(), one);
        assert_ne!(key("one", &["cc", "-IROOT/includes"], "x", b"").unwrap(), one);
        assert_ne!(key("one", &["cc", "-IROOT/include"], "y", b"").unwrap(), one);
        assert_ne!(key("one", &["cc", "-IROOT/include"], "x", b"/a.so").unwrap(), one);
        assert!(key("one", &["cc", "-"], "x", b"").is_ok(), "its stdin is empty");
    }
}
