//! What is done in the place of a program: its result, where it is known; else it runs, and is recorded.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rift_cas::Store;
use rift_cas::hashes::{FileStamp, Hashes};
use rift_tree::BlobHash;
use rift_tree::journal::{ALLOCATED_FIRST, Chance, Header, JOURNAL_MAX};
use rift_tree::run::Run;

use super::entry::{Done, Entries, Kept, Left};
use super::key::{Asked, Key, is_build_script, shape};
use super::look::place;
use super::watch::unit_of;
use super::{
    ASKED, AskedFor, EVENTS, EntryName, Event, JOURNAL, Outcome, SETTINGS, Settings, keeper, remap,
};
use crate::env_vars;
use crate::exec::child;
use crate::paths::{decoded, escaped};

/// Tells whether this process stands for a program.
#[must_use]
pub fn is_asked() -> bool {
    std::env::var_os(env_vars::RIFT_REPLAY).is_some()
}

/// Programs that replace what they read.
const REPLACING: &[&str] = &["ranlib", "strip", "objcopy"];

/// A program in whose place this process is.
struct Stand {
    folder: PathBuf,
    settings: Settings,
    store: Store,
    hashes: Hashes,
    program: PathBuf,
    words: Vec<OsString>,
    /// What the program gets behind its own words.
    more_words: Vec<OsString>,
    cwd: PathBuf,
    key: Key,
}

/// Stands for a program: ends as it would, or becomes it.
#[must_use]
pub fn run() -> ExitCode {
    let program = PathBuf::from(std::env::var_os(env_vars::RIFT_REPLAY).unwrap_or_default());
    let words: Vec<OsString> = std::env::args_os().collect();
    match Stand::new(&program, &words) {
        Ok(stand) => match stand.replay() {
            Some(code) => code,
            None => {
                if REPLACING
                    .iter()
                    .any(|known| program.file_name().is_some_and(|name| name == *known))
                {
                    keeper::wait_for(&stand.folder);
                }
                let journal = stand.begin_journal();
                let words = [words, stand.more_words].concat();
                become_program(&program, &words, journal.as_deref())
            }
        },
        // It runs as if nobody had asked.
        Err(error) => {
            if let Some(Told { folder, .. }) = told() {
                let outcome = Outcome::Refused(format!("{error:#}"));
                note(&folder, &event(&program, &words, outcome));
            }
            become_program(&program, &words, None)
        }
    }
}

fn become_program(program: &Path, words: &[OsString], journal: Option<&Path>) -> ExitCode {
    child::replace_as(program, words, journal).into_exit_code()
}

/// What the run file tells.
struct Told {
    /// The folder of the run's journals.
    folder: PathBuf,
    /// What is loaded into the program, besides the shim.
    preloaded: Vec<u8>,
}

/// Reads the run file.
fn told() -> Option<Told> {
    let bytes = fs::read(std::env::var_os(env_vars::RIFT_RUN)?).ok()?;
    let run = Run::parse(&bytes).ok()?;
    let libraries = std::env::var_os(env_vars::RIFT_PRELOAD).unwrap_or_default();
    let libraries = libraries.as_bytes().split(|byte| matches!(byte, b':' | b' '));
    let others = libraries.filter(|one| !one.is_empty() && *one != run.shim());
    let preloaded = others.collect::<Vec<_>>().join(&b':');
    let folder = PathBuf::from(OsStr::from_bytes(run.actions()));
    (!run.actions().is_empty()).then_some(Told { folder, preloaded })
}

/// Returns what became of a program, of which no more is known.
pub(super) fn event(program: &Path, words: &[OsString], outcome: Outcome) -> Event {
    let unit = unit_of(program, words);
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (key, told) = (String::new(), Vec::new());
    Event { program, what: what(words), outcome, key, told, unit, entry: None }
}

/// Says what became of a program; who reads it does without, if need be.
fn note(folder: &Path, event: &Event) {
    if let Ok(mut line) = serde_json::to_vec(event) {
        line.push(b'\n');
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(EVENTS));
        let _written = file.and_then(|mut file| file.write_all(&line)).is_ok();
    }
}

/// Tells one run of a program from others, for people: the crate, the output, or the last word.
fn what(words: &[OsString]) -> String {
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1)
    };
    let word =
        after("--crate-name").or_else(|| after("-o")).or_else(|| words.iter().skip(1).last());
    word.map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Stand {
    fn new(program: &Path, words: &[OsString]) -> anyhow::Result<Self> {
        let Told { folder, preloaded } = told().context("this run records nothing")?;
        let settings = fs::read(folder.join(SETTINGS)).context("its settings can't be read")?;
        let settings: Settings = serde_json::from_slice(&settings)?;
        let store = Store::open_existing(&settings.store)?.context("there is no store")?;
        let hashes = store.hashes(settings.run);
        let cwd = std::env::current_dir()?;
        let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let streams = [0, 1, 2].map(shape);
        let more_words = match settings.remaps {
            true => remap::words(program, words, &settings.roots),
            false => Vec::new(),
        };
        let asked = Asked {
            program,
            words: &[words, &more_words].concat(),
            variables: &variables,
            preloaded: &preloaded,
            cwd: &cwd,
            streams,
        };
        let key = asked.key(&settings.roots, &hashes)?;
        let (program, words) = (program.to_owned(), words.to_vec());
        Ok(Self { folder, settings, store, hashes, program, words, more_words, cwd, key })
    }

    /// Does what the program would do; `None` where that is not known.
    fn replay(&self) -> Option<ExitCode> {
        if self.settings.only_records || self.settings.verifies {
            return None;
        }
        let entries = Entries::find(&self.store, &self.key.hash).ok()?;
        // Of what is known, the reason of that which fits best.
        let mut why: Option<(usize, String)> = None;
        for (name, kept) in entries.kept(&self.store, self.settings.bringer) {
            let done = match kept.done() {
                Ok(done) => done,
                Err(error) => {
                    why.get_or_insert_with(|| (usize::MAX, format!("{error:#}")));
                    continue;
                }
            };
            let differs = match done.elsewhere(&self.settings.roots) {
                Some(place) => Some((usize::MAX, format!("what it left names `{place}`"))),
                None => match kept.differs(&self.settings.roots, &self.hashes) {
                    Ok(differs) => differs,
                    Err(error) => Some((usize::MAX, format!("{error:#}"))),
                },
            };
            match differs {
                None if name.is_foreign && !stays_inside(&done) => {}
                None if !name.is_confirmed && Settings::is_opted(&self.program) => {
                    let agree = "no two runs have agreed yet (`rift exec --verify`)";
                    why = Some((0, agree.to_owned()));
                }
                None => match self.apply(&kept, &done) {
                    Ok(()) => {
                        Entries::touch(&self.store, &self.key.hash);
                        self.note(Outcome::Reused(done.cpu_ns), Some(name));
                        return Some(ExitCode::SUCCESS);
                    }
                    Err(error) => why = Some((0, format!("{error:#}"))),
                },
                Some(differs) => {
                    let is_better = why.as_ref().is_none_or(|(count, _)| differs.0 < *count);
                    why = if is_better { Some(differs) } else { why };
                }
            }
        }
        self.note(Outcome::Missed(why.map(|(_, why)| why)), None);
        None
    }

    fn note(&self, outcome: Outcome, entry: Option<&EntryName>) {
        let Key { hash, told } = self.key.clone();
        let event = event(&self.program, &self.words, outcome);
        note(&self.folder, &Event { key: hash, told, entry: entry.cloned(), ..event });
    }

    /// Leaves what the program would leave, and says what it would say.
    ///
    /// # Errors
    /// Why it can't; then the program runs, and writes all of it anew.
    fn apply(&self, kept: &Kept, done: &Done) -> anyhow::Result<()> {
        let roots = &self.settings.roots;
        let path_of = |path: &str| place(roots, path).context("it names a place that is not here");
        // All that may be missing is looked for before anything is changed.
        let (mut files, mut made) = (Vec::new(), HashSet::new());
        for left in &done.left {
            match left {
                Left::Directory(path) => {
                    made.insert(path_of(path)?);
                    continue;
                }
                Left::File { path, name, is_text, .. } => {
                    let path = path_of(path)?;
                    may_be_replaced(&path)?;
                    let folder = path.parent().context("it has no folder")?;
                    // The program would say that there is none.
                    if !made.contains(folder) && !folder.is_dir() {
                        bail!("`{}` is no folder", folder.display());
                    }
                    let (bytes, hash) = kept.bytes(name)?;
                    files.push(match is_text {
                        true => {
                            let text = roots.lengthen(bytes);
                            let text = text.context("it names a place that is not here")?;
                            let hash = BlobHash::from_bytes(*blake3::hash(&text).as_bytes());
                            (Cow::Owned(text), hash)
                        }
                        false => (Cow::Borrowed(bytes), hash),
                    });
                }
                _ => {}
            }
        }
        let mut said = Vec::new();
        for (stream, text) in &done.said {
            let bytes = decoded(text);
            let bytes = roots.lengthen(bytes.as_os_str().as_bytes());
            said.push((*stream, bytes.context("it names a place that is not here")?));
        }
        let mut files = files.into_iter();
        for left in &done.left {
            match left {
                Left::File { path, mode, .. } => {
                    let (bytes, hash) = files.next().context("a file was not looked for")?;
                    self.write(&path_of(path)?, *mode, &bytes, hash)?;
                }
                // In the order in which they were made, those above come first.
                Left::Directory(path) => match fs::create_dir(path_of(path)?) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made?,
                },
                Left::Link(path, target) => {
                    let (path, target) = (path_of(path)?, path_of(target)?);
                    remove(&path)?;
                    std::os::unix::fs::symlink(target, path)?;
                }
                Left::Nothing(path) => remove(&path_of(path)?)?,
            }
        }
        for (stream, bytes) in &said {
            // Nobody listens: the program would not have ended otherwise.
            let _heard = match stream {
                1 => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                _ => std::io::stderr().write_all(bytes),
            };
        }
        Ok(())
    }

    /// Writes a file under another name first, so that nobody sees a part of it.
    fn write(&self, path: &Path, mode: u32, bytes: &[u8], hash: BlobHash) -> anyhow::Result<()> {
        let folder = path.parent().context("it has no folder")?;
        let mut name = OsString::from(".rift-");
        name.push(std::process::id().to_string());
        let fresh = folder.join(name);
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        });
        let renamed = written.and_then(|()| fs::rename(&fresh, path));
        if renamed.is_err() {
            // The first failure is the one to report.
            drop(fs::remove_file(&fresh));
        }
        renamed.with_context(|| format!("could not write `{}`", path.display()))?;
        // Who comes next in this run has not to read it for its hash.
        if let Ok(stat) = path.symlink_metadata() {
            self.hashes.note(&FileStamp::of(&stat), hash);
        }
        Ok(())
    }

    /// Begins a journal for the program, if its result is worth keeping.
    fn begin_journal(&self) -> Option<PathBuf> {
        let goes_on = |word: &OsString| word.as_bytes().starts_with(b"incremental=");
        if self.settings.spares_edits && self.words.iter().any(goes_on) {
            let why = "it goes on with what it has compiled before";
            self.note(Outcome::Refused(why.to_owned()), None);
            return None;
        }
        self.journal().ok()
    }

    /// Begins a journal for the program.
    fn journal(&self) -> anyhow::Result<PathBuf> {
        // Another process may have had this number.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = self.folder.join(format!("{since}-{}.{JOURNAL}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let made = self.fill(&file, &path);
        if made.is_err() {
            drop(fs::remove_file(&path));
        }
        made?;
        Ok(path)
    }

    fn fill(&self, mut file: &File, path: &Path) -> anyhow::Result<()> {
        let streams = [0, 1, 2].map(|stream| {
            let stat = fs::metadata(format!("/proc/self/fd/{stream}"));
            stat.map_or((0, 0), |stat| (stat.dev(), stat.ino()))
        });
        let chance = chance_of(&self.program);
        let header = Header { root: std::process::id(), streams, chance };
        file.set_len(JOURNAL_MAX as u64)?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(file, flags, 0, ALLOCATED_FIRST as u64)?;
        let asked = AskedFor {
            key: self.key.hash.clone(),
            told: self.key.told.clone(),
            program: self.program.clone(),
            words: self.words.iter().map(|word| escaped(Path::new(word))).collect(),
            cwd: self.cwd.clone(),
        };
        fs::write(path.with_extension(ASKED), serde_json::to_vec(&asked)?)?;
        file.write_all(&header.encode())?;
        Ok(())
    }
}

/// Tells whether a program's use of the clock and of random numbers matters: compilers name their scratch by them, and a build script may
/// keep them.
fn chance_of(program: &Path) -> Chance {
    if is_build_script(program) { Chance::Suspected } else { Chance::Trusted }
}

/// Tells whether an action writes below the workspace and the folder of temporary files only.
fn stays_inside(done: &Done) -> bool {
    done.left.iter().all(|left| {
        let (Left::File { path, .. }
        | Left::Directory(path)
        | Left::Link(path, _)
        | Left::Nothing(path)) = left;
        let path = decoded(path);
        let mut parts = path.components();
        let root = parts.next().map(|root| root.as_os_str().as_bytes().to_owned());
        root.is_some_and(|root| root == b"\x01W" || root == b"\x01X")
            && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    })
}

/// Tells whether a file may come in the place of what is there.
///
/// # Errors
/// Why not: a program would write through what a name in its place would hide.
fn may_be_replaced(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(stat) if !stat.is_file() => bail!("`{}` is no file", path.display()),
        Ok(stat) if stat.nlink() > 1 && !is_cargos(path) => {
            bail!("`{}` has other names", path.display())
        }
        _ => Ok(()),
    }
}

/// Cargo gives what is in `deps` another name, and replaces both.
fn is_cargos(path: &Path) -> bool {
    path.parent().and_then(Path::file_name).is_some_and(|name| name == "deps")
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(stat) if stat.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
