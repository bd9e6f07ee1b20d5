//! Keeps the results of a run's actions: reads their journals as they end, and takes what they left into the store.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rift_cas::Store;
use rift_cas::hashes::{FileStamp, Hashes};
use rift_cas::import::{Import, Unit};
use rift_cas::lock::lock;
use rift_tree::BlobHash;
use rift_tree::builder::{Builder, Item};
use rift_tree::journal::{
    END_OFFSET, HEADER_BYTES, JOURNAL_MAX, Journal, STATE_ENDED, STATE_OFFSET,
};

use super::bell::Bell;
use super::compare::Made;
use super::entry::{DONE, Done, Entries, Entry, FOUND, Found, Left, Observation};
use super::found;
use super::key::decides;
use super::look::names_of;
use super::reading::{self, Reading, Scratch, Seen, Written};
use super::replay::event;
use super::roots::Roots;
use super::watch::{Watched, unit_of};
use super::{ASKED, AskedFor, EVENTS, EntryName, Event, JOURNAL, Outcome, SETTINGS, Settings};
use crate::paths::{decoded, escaped, normal};

/// How long a program waits at most that may replace what another has made: else neither is kept.
const PATIENCE: Duration = Duration::from_millis(500);
/// Files from this size on are no text that names places.
const TEXT_MAX: usize = 4 << 20;

/// What the programs that were kept have found, see [`Settings::watched`], and by how many bytes the store grew.
type Kept = anyhow::Result<(Watched, u64)>;

/// A run's folder of journals, and who reads them.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    is_over: Arc<AtomicBool>,
    worker: Option<JoinHandle<Kept>>,
    events: Arc<Mutex<Vec<Event>>>,
}

/// What became of a run's actions.
#[derive(Debug, Default)]
pub struct Ended {
    /// All that was said of them.
    pub events: Vec<Event>,
    /// What those have found that ran, see [`Settings::watched`].
    pub watched: Watched,
    /// Bytes that the store grew by.
    pub stored_bytes: u64,
}

impl Keeper {
    /// Makes the folder, and begins to wait for journals.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(store: &Store, settings: &Settings) -> anyhow::Result<Self> {
        let folder = store.live_folder()?;
        fs::write(folder.join(SETTINGS), serde_json::to_vec(settings)?)?;
        let (is_over, events) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let work = Work {
            folder: folder.clone(),
            settings: settings.clone(),
            is_over: Arc::clone(&is_over),
            events: Arc::clone(&events),
            clocks: Clocks::default(),
            watched: Watched::new(),
        };
        let worker = std::thread::Builder::new().name("keeper".to_owned()).spawn(|| work.run())?;
        Ok(Self { folder, is_over, worker: Some(worker), events })
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps what has ended by now.
    ///
    /// # Errors
    /// What could not be kept.
    pub fn end(mut self) -> anyhow::Result<Ended> {
        let kept = match self.stop() {
            Some(kept) => kept.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(Default::default()),
        };
        let mut events = read_events(&self.folder);
        events.append(&mut lock(&self.events));
        kept.map(|(watched, stored_bytes)| Ended { events, watched, stored_bytes })
    }

    /// Waits until the worker has kept what has ended by now, if it was not waited for before.
    fn stop(&mut self) -> Option<std::thread::Result<Kept>> {
        let worker = self.worker.take()?;
        self.is_over.store(true, Ordering::Release);
        // It looks by itself where that fails.
        drop(Bell::ring(&self.folder.join(SETTINGS)));
        Some(worker.join())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop());
        // gc removes what is left of a run that was killed.
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn read_events(folder: &Path) -> Vec<Event> {
    let text = fs::read_to_string(folder.join(EVENTS)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

struct Work {
    folder: PathBuf,
    settings: Settings,
    is_over: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Event>>>,
    clocks: Clocks,
    watched: Watched,
}

/// An action whose result is in the import, and has no name yet.
struct Pending {
    asked: AskedFor,
    folder: String,
}

impl Work {
    /// Keeps what ends until the run is over.
    fn run(mut self) -> Kept {
        let store = Store::open_existing(&self.settings.store)?.context("there is no store")?;
        let hashes = store.hashes(self.settings.run);
        let import = store.import()?;
        let mut unit = import.unit();
        let mut builder = Builder::new();
        let mut pending = Vec::new();
        let mut open = Open::default();
        let bell = Bell::of(&self.folder);
        loop {
            // Whatever has ended before this is seen by the look that follows.
            let is_last = self.is_over.load(Ordering::Acquire);
            if is_last {
                open.seen = None;
            }
            for path in open.ended(&self.folder)? {
                let kept = self.keep(&path, &store, &hashes, &mut unit, &mut builder);
                match kept {
                    Ok((asked, Ok(folder))) => pending.push(Pending { asked, folder }),
                    Ok((asked, Err(outcome))) => self.note(asked, outcome, None),
                    // Nobody knows what it was.
                    Err(_) => {}
                }
                drop(fs::remove_file(&path));
                drop(fs::remove_file(path.with_extension(ASKED)));
            }
            if is_last {
                break;
            }
            bell.wait();
        }
        unit.flush()?;
        drop(unit);
        let stored_bytes = match pending.is_empty() {
            true => 0,
            false => self.finish(&store, import, builder, pending)?,
        };
        Ok((self.watched, stored_bytes))
    }

    fn note(&self, asked: AskedFor, outcome: Outcome, entry: Option<EntryName>) {
        let words: Vec<_> = asked.words.iter().map(|word| decoded(word).into_os_string()).collect();
        let event = event(&asked.program, &words, outcome);
        let event = Event { key: asked.key, told: asked.told, entry, ..event };
        lock(&self.events).push(event);
    }

    /// Takes an action into a folder of the import, whose name is returned; `Err` inside tells why it is not kept.
    fn keep(
        &mut self,
        path: &Path,
        store: &Store,
        hashes: &Hashes,
        unit: &mut Unit<'_>,
        builder: &mut Builder,
    ) -> anyhow::Result<(AskedFor, Result<String, Outcome>)> {
        let asked: AskedFor = serde_json::from_slice(&fs::read(path.with_extension(ASKED))?)?;
        let words: Vec<_> = asked.words.iter().map(|word| decoded(word).into_os_string()).collect();
        let temporary = self.settings.roots.place('X');
        let scratch = Scratch::of(&asked.program, &words, &asked.cwd, temporary);
        let bytes = journal_bytes(path)?;
        let journal = Journal::parse(&bytes).map_err(|error| anyhow::anyhow!("{error}"))?;
        let (reading, refused) = reading::read(&journal, &scratch);
        let has_failed =
            (reading.status != 0).then(|| format!("it ended with status {}", reading.status));
        let refused = refused
            .or(has_failed)
            .or_else(|| self.clocks.named(&asked, &reading))
            .or_else(|| variable(&asked, &reading));
        let mut taking = Taking { roots: &self.settings.roots, hashes, unit, reading: &reading };
        let name = asked.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let taken = match refused {
            Some(why) => Err(why),
            None => taking.entry(name).map_err(|error| format!("{error:#}")),
        };
        if let Some(bounds) = &self.settings.watched
            && let Some(unit) = unit_of(&asked.program, &words)
        {
            // What has no result to be kept was made of something all the same.
            let found = match &taken {
                Ok((entry, _)) => &entry.observations,
                Err(_) => &taking.observations().filter_map(Result::ok).collect(),
            };
            let beyond = bounds.beyond(&self.settings.roots, found).cloned();
            self.watched.entry(unit).or_default().extend(beyond);
        }
        let (entry, files) = match taken {
            Ok(taken) => taken,
            Err(why) => return Ok((asked, Err(Outcome::Refused(why)))),
        };
        if self.settings.verifies {
            let made = Made { key: &asked.key, entry: &entry, files: &files };
            let outcome = made.compare(store, &self.settings.roots, hashes);
            if let Some(outcome) = outcome {
                return Ok((asked, Err(outcome)));
            }
        }
        let (done, found) = (serde_json::to_vec(&entry.done)?, found::encode(&entry.observations));
        // The same may run twice in a build.
        let folder = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = format!("{folder}-{}", asked.key);
        let put = |builder: &mut Builder, name: &str, hash: BlobHash, size: u64| {
            let item = Item::File { permissions: 0o644, size, hash };
            builder.put(format!("{folder}/{name}").as_bytes(), 0, item)
        };
        builder.put(folder.as_bytes(), 0, Item::Directory { permissions: 0o755 })?;
        for (name, bytes) in [(DONE, done), (FOUND, found)] {
            put(builder, name, unit.add(&bytes)?, bytes.len() as u64)?;
        }
        for (name, hash, size) in files {
            put(builder, &name, hash, size)?;
        }
        Ok((asked, Ok(folder)))
    }

    /// Names what was taken in, and tells by how many bytes the store grew.
    fn finish(
        &self,
        store: &Store,
        import: Import<'_>,
        builder: Builder,
        pending: Vec<Pending>,
    ) -> anyhow::Result<u64> {
        let built = builder.finish()?;
        let (imported, index) = import.finish(&[])?;
        store.publish_located(&built, &index)?;
        // gc waits while the index lives.
        for Pending { asked, folder } in pending {
            let name = EntryName { tree: built.hash.to_string(), folder, ..EntryName::default() };
            Entries::add(store, &asked.key, name.clone())?;
            self.note(asked, Outcome::Kept, Some(name));
        }
        drop(index);
        Ok(imported.bytes())
    }
}

/// Which files name the time of day; most are read by one compiler after the other.
#[derive(Debug, Default)]
struct Clocks(HashMap<FileStamp, Option<&'static str>>);

impl Clocks {
    /// Tells which source of a compiler for C, or of what a build script may have compiled, names the time of day, if one does and nobody has
    /// set that; such a macro is looked for in all bytes, also in comments.
    fn named(&mut self, asked: &AskedFor, reading: &Reading) -> Option<String> {
        const OTHERS: [&str; 5] = ["rustc", "clippy-driver", "rustdoc", "ar", "ranlib"];
        // What the system's own libraries and objects hold was compiled before.
        const COMPILED: [&str; 6] = ["o", "a", "so", "d", "rlib", "rmeta"];
        let program = asked.program.file_name().unwrap_or_default();
        if OTHERS.iter().any(|other| program == *other) {
            return None;
        }
        for ((path, _), seen) in &reading.seen {
            let (path, Seen::File(Some(stamp))) = (Path::new(path), seen) else { continue };
            let is_compiled = path
                .extension()
                .is_some_and(|extension| COMPILED.iter().any(|known| extension == *known));
            if is_compiled || stamp.size > TEXT_MAX as u64 {
                continue;
            }
            let named = match self.0.get(stamp) {
                Some(named) => *named,
                None => {
                    let named = clock_in(path);
                    // What was written just now may be written again under the same times.
                    if stamp.is_settled(reading.ended_ns) {
                        self.0.insert(*stamp, named);
                    }
                    named
                }
            };
            if let Some(name) = named {
                return Some(format!("`{}` names {name}", path.display()));
            }
        }
        None
    }
}

/// Returns the macro of the time of day that a file names, if it is no program.
fn clock_in(path: &Path) -> Option<&'static str> {
    const NAMES: [&str; 3] = ["__TIME__", "__DATE__", "__TIMESTAMP__"];
    const PROGRAM: &[u8; 4] = b"\x7fELF";
    let mut file = fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.by_ref().take(PROGRAM.len() as u64).read_to_end(&mut bytes).ok()?;
    if bytes == PROGRAM {
        return None;
    }
    file.read_to_end(&mut bytes).ok()?;
    NAMES.into_iter().find(|name| memchr::memmem::find(&bytes, name.as_bytes()).is_some())
}

/// Tells which variable rustc says that it has compiled in, see "env!" in its dependency files, that is no part of the key.
fn variable(asked: &AskedFor, reading: &Reading) -> Option<String> {
    let is_told = |path: &&Path| path.extension().is_some_and(|extension| extension == "d");
    for path in reading.written.iter().map(|written| written.path.as_path()).filter(is_told) {
        let text = fs::read(path).unwrap_or_default();
        for line in text.split(|byte| *byte == b'\n') {
            let Some(told) = line.strip_prefix(b"# env-dep:") else { continue };
            let name = told.split(|byte| *byte == b'=').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            if !decides(&asked.program, &name) {
                return Some(format!("it holds the variable {name}"));
            }
        }
    }
    None
}

/// Waits until nothing is left to be read of what has ended by now, for who may replace what another has made; not for long.
pub(super) fn wait_for(folder: &Path) {
    let since = Instant::now();
    let ended = || Open::default().ended(folder);
    while since.elapsed() < PATIENCE && ended().is_ok_and(|ended| !ended.is_empty()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The journals of actions that have not ended when they were last looked at.
#[derive(Debug, Default)]
struct Open {
    files: BTreeMap<PathBuf, fs::File>,
    /// When a name came or went last, where that was seen and no other can have come since under the same time.
    seen: Option<SystemTime>,
}

impl Open {
    /// Returns the journals in a folder whose actions have ended since, the one that began first before others.
    fn ended(&mut self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let changed = folder.metadata()?.modified()?;
        // Names that come in one tick of the file system's clock leave the same time; some count in seconds.
        let counts_seconds =
            changed.duration_since(UNIX_EPOCH).is_ok_and(|time| time.subsec_nanos() == 0);
        let tick = Duration::from_millis(if counts_seconds { 2100 } else { 100 });
        if self.seen != Some(changed) {
            let is_settled = changed.elapsed().is_ok_and(|age| age >= tick);
            self.seen = is_settled.then_some(changed);
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let is_journal = path.extension().is_some_and(|extension| extension == JOURNAL);
                if is_journal
                    && !self.files.contains_key(&path)
                    && let Ok(file) = fs::File::open(&path)
                {
                    self.files.insert(path, file);
                }
            }
        }
        // Names begin with the time.
        Ok(self.files.extract_if(.., |_, file| has_ended(file)).map(|(path, _)| path).collect())
    }
}

fn has_ended(journal: &fs::File) -> bool {
    let mut state = [0; 4];
    let read = journal.read_exact_at(&mut state, STATE_OFFSET as u64);
    read.is_ok() && u32::from_le_bytes(state) == STATE_ENDED
}

/// Reads so much of a journal as was written.
fn journal_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let mut bytes = vec![0; HEADER_BYTES];
    file.read_exact(&mut bytes)?;
    let end: [u8; 8] = bytes[END_OFFSET..END_OFFSET + 8].try_into()?;
    let end = u64::from_le_bytes(end);
    if end > JOURNAL_MAX as u64 {
        bail!("its journal has no room");
    }
    file.take(end.saturating_sub(HEADER_BYTES as u64)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an action left, in the import: each file's name there, its hash and its size.
pub(super) type Files = Vec<(String, BlobHash, u64)>;

struct Taking<'t, 'i> {
    roots: &'t Roots,
    hashes: &'t Hashes,
    unit: &'t mut Unit<'i>,
    reading: &'t Reading,
}

impl Taking<'_, '_> {
    fn entry(&mut self, program: String) -> anyhow::Result<(Entry, Files)> {
        let observations = self.observations().collect::<anyhow::Result<_>>()?;
        let (mut left, mut files, mut pinned) = (Vec::new(), Files::new(), Vec::new());
        for written in &self.reading.written {
            self.take(written, &mut left, &mut files, &mut pinned)?;
        }
        let mut said: Vec<(u64, Vec<u8>)> = Vec::new();
        for (stream, bytes) in &self.reading.said {
            match said.last_mut().filter(|(last, _)| last == stream) {
                Some((_, all)) => all.extend_from_slice(bytes),
                None => said.push((*stream, bytes.clone())),
            }
        }
        let said = said
            .into_iter()
            .map(|(stream, bytes)| {
                let short = self.roots.shorten(&bytes).context("it says a byte 1")?;
                Ok((stream, escaped(Path::new(OsStr::from_bytes(&short)))))
            })
            .collect::<anyhow::Result<_>>()?;
        pinned.sort_unstable();
        pinned.dedup();
        let pinned = pinned
            .into_iter()
            .filter_map(|letter| Some((letter, escaped(self.roots.place(letter)?))))
            .collect();
        let cpu_ns = self.reading.cpu_ns;
        let done = Done { program, left, said, pinned, cpu_ns };
        Ok((Entry { observations, done }, files))
    }

    fn short(&self, path: &Path) -> anyhow::Result<String> {
        let short =
            self.roots.shorten(path.as_os_str().as_bytes()).context("a path has a byte 1")?;
        Ok(escaped(Path::new(OsStr::from_bytes(&short))))
    }

    fn has_written(&self, path: &Path) -> bool {
        let path = normal(path);
        self.reading.written.iter().any(|written| written.path == path)
    }

    fn observations(&self) -> impl Iterator<Item = anyhow::Result<Observation>> {
        self.reading.seen.iter().map(|((path, is_itself), seen)| {
            let path = Path::new(path);
            let changed = || format!("`{}` was changed meanwhile", path.display());
            let found = match seen {
                Seen::Nothing => Found::Nothing,
                Seen::NoLink => Found::NoLink,
                Seen::Kind(mode, size) => {
                    let kind = mode & libc::S_IFMT;
                    Found::Kind(kind, if kind == libc::S_IFREG { *size } else { 0 })
                }
                Seen::Link => {
                    let target = self.reading.targets.get(path).context("a link has no target")?;
                    let short = self.roots.shorten(target).context("a link has a byte 1")?;
                    Found::Link(escaped(Path::new(OsStr::from_bytes(&short))))
                }
                Seen::Names(then) => {
                    let stat = path.metadata().with_context(changed)?;
                    let now = FileStamp::of(&stat);
                    if (now.inode, now.mtime_ns) != (then.inode, then.mtime_ns) {
                        bail!(changed());
                    }
                    Found::Names(names_of(path)?)
                }
                Seen::File(then) => {
                    let stat = path.metadata().with_context(changed)?;
                    let now = FileStamp::of(&stat);
                    let is_same = match then {
                        Some(then) => now == *then,
                        // A library was loaded before its stamp could be seen.
                        None => now.mtime_ns.max(now.ctime_ns) < self.reading.ended_ns,
                    };
                    let hash = if is_same {
                        self.hashes.of(path, now)?
                    } else {
                        // What it has replaced itself is known where somebody has made it just before.
                        let before = then.filter(|_| self.has_written(path));
                        before.and_then(|then| self.hashes.known(&then)).with_context(changed)?
                    };
                    Found::File(hash)
                }
            };
            Ok(Observation { path: self.short(path)?, found, is_itself: *is_itself })
        })
    }

    /// Reads a file that was left, with what stat(2) says of it, if nobody has changed it since.
    fn unchanged(
        &self,
        path: &Path,
        mut stat: fs::Metadata,
    ) -> anyhow::Result<(Vec<u8>, fs::Metadata)> {
        /// So often somebody may give it another name while it is read.
        const ATTEMPTS: usize = 4;
        let changed = || format!("`{}` was changed after it ended", path.display());
        let (mode, left) = self.reading.left.get(path).with_context(changed)?;
        // Cargo sets the time of metadata that it has checked, to one before.
        let is_checked = path.extension().is_some_and(|end| end == "rmeta");
        let mut before = None;
        for _ in 0..ATTEMPTS {
            let stamp = FileStamp::of(&stat);
            let is_timed = is_checked && stamp.mtime_ns < left.mtime_ns;
            // Cargo and make give what is done other names, which changes the ctime.
            let is_touched = is_checked || stat.nlink() > 1;
            let is_same = stat.mode() == *mode
                && (stamp.device, stamp.inode, stamp.size) == (left.device, left.inode, left.size)
                && (stamp.mtime_ns == left.mtime_ns || is_timed)
                && (stamp.ctime_ns == left.ctime_ns || is_touched);
            if !is_same {
                break;
            }
            let bytes = fs::read(path)?;
            let now = path.symlink_metadata()?;
            let stamp_now = FileStamp::of(&now);
            // Make may give it a hundred names, one after the other: what is read twice is what it holds.
            let is_renamed = FileStamp { ctime_ns: stamp.ctime_ns, ..stamp_now } == stamp;
            if stamp_now == stamp || is_renamed && is_touched && before.as_ref() == Some(&bytes) {
                return Ok((bytes, now));
            }
            (stat, before) = (now, Some(bytes));
        }
        bail!(changed())
    }

    fn take(
        &mut self,
        written: &Written,
        left: &mut Vec<Left>,
        files: &mut Files,
        pinned: &mut Vec<char>,
    ) -> anyhow::Result<()> {
        let path = written.path.as_path();
        let short = self.short(path)?;
        let stat = match path.symlink_metadata() {
            Ok(stat) => stat,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && written.is_gone => {
                left.push(Left::Nothing(short));
                return Ok(());
            }
            // Whoever asked for it may have used it and removed it by now.
            Err(error) => return Err(error).with_context(|| format!("`{}`", path.display())),
        };
        let is_another = written.inode.is_some_and(|inode| inode != stat.ino());
        if written.is_gone || is_another {
            bail!("`{}` is another one by now", path.display());
        }
        if stat.is_dir() {
            left.push(Left::Directory(short));
            return Ok(());
        }
        if stat.is_symlink() {
            let target = fs::read_link(path)?;
            left.push(Left::Link(short, self.short(&target)?));
            return Ok(());
        }
        let (bytes, stat) = self.unchanged(path, stat)?;
        let stamp = FileStamp::of(&stat);
        let named = self.roots.named_in(&bytes);
        let is_text = !named.is_empty()
            && path.extension().is_some_and(|extension| extension == "d")
            && bytes.len() < TEXT_MAX;
        let bytes = match is_text {
            true => self.roots.shorten(&bytes).context("it holds a byte 1")?,
            false => {
                pinned.extend(named);
                bytes
            }
        };
        let hash = self.unit.add(&bytes)?;
        if !is_text {
            // Who reads it next in this run has not to.
            self.hashes.note(&stamp, hash);
        }
        let name = files.len().to_string();
        left.push(Left::File {
            path: short,
            mode: stat.mode() & 0o7777,
            name: name.clone(),
            is_text,
        });
        files.push((name, hash, bytes.len() as u64));
        Ok(())
    }
}
