//! Reads a journal: what an action found before it changed anything, what it left, and whether anybody could do the same again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as kernel;
use rift_cas::hashes::FileStamp;
use rift_tree::journal::{EXISTED, Entry, Journal, Kind, NOFOLLOW, Stamp};

use crate::paths::normal;

/// Folders whose files tell of the machine and of this moment: what allow-listed programs ask of them decides nothing.
const OF_THE_MACHINE: &[&str] = &["/proc", "/sys", "/dev"];

/// What was found, with what tells whether it still is as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file was opened to be read, or run; nothing is known of when a library was loaded.
    File(Option<FileStamp>),
    /// Nothing was there.
    Nothing,
    /// Something was, of this `st_mode` and size.
    Kind(u32, u64),
    /// A symbolic link; the target is in [`Reading::targets`].
    Link,
    /// No symbolic link.
    NoLink,
    /// A directory was listed.
    Names(FileStamp),
}

/// What an action wrote, made, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// The path.
    pub(super) path: PathBuf,
    /// It was removed, and there before.
    pub(super) is_gone: bool,
    /// The inode of the file that was written, where it was opened for that.
    pub(super) inode: Option<u64>,
}

/// What an action did.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What it found, by path and by whether a link at the end was meant itself. Paths are compared as bytes: to do so part by part was a third
    /// of what there is to compute for a compiler, which looks at thousands.
    pub(super) seen: BTreeMap<(OsString, bool), Seen>,
    /// Where the links led that it asked for.
    pub(super) targets: HashMap<PathBuf, Vec<u8>>,
    /// What it wrote, made, or removed, in the order in which that was last done.
    pub(super) written: Vec<Written>,
    /// The files among that, as they were when it ended: the mode, see inode(7), and what tells the file.
    pub(super) left: HashMap<PathBuf, (u32, FileStamp)>,
    /// What it said.
    pub(super) said: Vec<(u64, Vec<u8>)>,
    /// Its exit status.
    pub(super) status: u64,
    /// The processor time that it took, in nanoseconds.
    pub(super) cpu_ns: u64,
    /// When it ended, in nanoseconds since the epoch.
    pub(super) ended_ns: i64,
}

/// Folders of a program's own, whose files are neither read nor written as far as anybody else goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    /// What is below is ignored.
    pub(super) ignored: Vec<PathBuf>,
    /// Their lists of names are.
    pub(super) unlisted: Vec<PathBuf>,
}

impl Scratch {
    /// Returns the folders that a program names as its own; of that of temporary files it goes by what it has put there.
    pub(super) fn of(
        program: &Path,
        words: &[OsString],
        cwd: &Path,
        temporary: Option<&Path>,
    ) -> Self {
        let mut scratch = Self::default();
        scratch.unlisted.extend(temporary.map(Path::to_owned));
        let name = program.file_name().unwrap_or_default();
        if name != "rustc" && name != "clippy-driver" {
            return scratch;
        }
        let mut words = words.iter().map(|word| word.as_bytes());
        let place = |path: &[u8]| normal(&cwd.join(OsStr::from_bytes(path))).into_owned();
        while let Some(word) = words.next() {
            // Both ways of writing it, see "rustc -C" in the rustc book.
            let option = match word {
                b"-C" | b"-L" | b"--out-dir" => words.next().map(|value| (word, value)),
                _ if word.starts_with(b"-C") => Some((&b"-C"[..], &word[2..])),
                _ if word.starts_with(b"-L") => Some((&b"-L"[..], &word[2..])),
                _ => word.strip_prefix(b"--out-dir=").map(|value| (&b"--out-dir"[..], value)),
            };
            match option {
                Some((b"-C", value)) => {
                    if let Some(path) = value.strip_prefix(b"incremental=") {
                        scratch.ignored.push(place(path));
                    }
                }
                // It looks there for the crates that it is told of, by names that have their hashes, and reads those.
                Some((b"-L", value)) => {
                    let path = value.strip_prefix(b"dependency=").unwrap_or(value);
                    scratch.unlisted.push(place(path));
                }
                Some((_, value)) => scratch.unlisted.push(place(value)),
                None => {}
            }
        }
        scratch
    }

    fn ignores(&self, path: &Path) -> bool {
        self.ignored.iter().any(|folder| path.starts_with(folder)) && !is_open_already(path)
            || is_of_machine(path) && !path.starts_with("/dev/shm") && !is_open_already(path)
    }
}

/// Tells whether a normal path lies below [`OF_THE_MACHINE`]: asked of each that a journal names, most of which lie elsewhere.
fn is_of_machine(path: &Path) -> bool {
    OF_THE_MACHINE.iter().any(|folder| {
        let rest = path.as_os_str().as_bytes().strip_prefix(folder.as_bytes());
        rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
    })
}

/// Tells whether a normal path leads to what a process has open, see proc(5): who opened that, and what it gives, nobody knows here.
fn is_open_already(path: &Path) -> bool {
    if !is_of_machine(path) {
        return false;
    }
    let is_of_process = path.starts_with("/proc")
        && path.components().nth(3).is_some_and(|part| part.as_os_str() == "fd");
    is_of_process
        || path.starts_with("/dev/fd")
        || ["/dev/stdin", "/dev/tty"].iter().any(|known| path == Path::new(known))
}

/// What became of a path.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    /// When it was last written, made or removed: a count.
    at: usize,
    /// It was there before, or may have been.
    was_there: bool,
    is_gone: bool,
    inode: Option<u64>,
}

struct Reader<'s> {
    scratch: &'s Scratch,
    own: HashMap<PathBuf, Own>,
    /// Some of these may be folders, or lead to some.
    has_folders: bool,
    reading: Reading,
    /// Processes that have not ended.
    running: BTreeSet<u32>,
    /// What a process is about to become.
    becoming: HashMap<u32, PathBuf>,
    /// Processes that open their descriptors once more, or a pipe with a name, to agree with others on how many run at once.
    agreeing: BTreeSet<u32>,
    count: usize,
}

/// Reads a journal; tells also why nobody could do the same again, where nobody could.
pub(super) fn read(journal: &Journal<'_>, scratch: &Scratch) -> (Reading, Option<String>) {
    let root = journal.header.root;
    let mut reader = Reader {
        scratch,
        own: HashMap::new(),
        has_folders: false,
        reading: Reading::default(),
        running: BTreeSet::new(),
        becoming: HashMap::new(),
        agreeing: BTreeSet::new(),
        count: 0,
    };
    let (mut has_root, mut why) = (false, None);
    for entry in journal.entries() {
        let Ok(entry) = entry else {
            why.get_or_insert("its journal is not whole".to_owned());
            break;
        };
        if let Err(refused) = reader.take(&entry) {
            why.get_or_insert(refused);
        }
        if entry.kind == Kind::Ends && entry.process == root {
            has_root = true;
            let reading = &mut reader.reading;
            reading.status = entry.word;
            reading.cpu_ns = entry.stamp.size;
            reading.ended_ns = entry.stamp.mtime_ns;
            break;
        }
    }
    let left = match reader.becoming.values().next() {
        _ if !has_root || !journal.has_ended => Some("it did not end by itself".to_owned()),
        _ if !reader.running.is_empty() => Some("a process of it went on".to_owned()),
        Some(path) => Some(format!("`{}` could not be observed", path.display())),
        None => None,
    };
    (reader.end(), why.or(left))
}

impl Reader<'_> {
    fn take(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        match entry.kind {
            Kind::Began | Kind::Loaded => {
                if entry.kind == Kind::Began {
                    let path = path_of(entry.text);
                    let name = path.file_name().unwrap_or_default().as_bytes();
                    let agrees = name.starts_with(b"rustc") || name == b"cargo" || name == b"make";
                    self.agreeing.remove(&entry.process);
                    self.agreeing.extend(agrees.then_some(entry.process));
                }
                self.running.insert(entry.process);
                // What it was asked for by may lead to another program the next time.
                if let Some(path) = self.becoming.remove(&entry.process) {
                    self.file(path, None);
                }
                // What a child of vfork(2) begins, it began with the words of its parent.
                self.file(path_of(entry.text), None);
            }
            Kind::Forked => {
                self.running.insert(entry.process);
            }
            Kind::Ends => {
                self.running.remove(&entry.process);
                self.becoming.remove(&entry.process);
            }
            Kind::Executes => {
                self.running.insert(entry.process);
                self.becoming.insert(entry.process, path_of(entry.text));
            }
            Kind::NotExecuted => {
                self.becoming.remove(&entry.process);
                self.look(path_of(entry.text), false, entry)?;
            }
            Kind::Opened => self.open(entry)?,
            Kind::Looked => self.look(path_of(entry.text), entry.word & NOFOLLOW != 0, entry)?,
            Kind::Link => self.link(entry)?,
            Kind::Listed => self.list(entry)?,
            Kind::Changed => self.change(entry)?,
            Kind::Said => self.reading.said.push((entry.word, entry.text.to_vec())),
            Kind::Refused => return Err(refused(entry.word)),
            Kind::Left => {
                let path = normal(&path_of(entry.text)).into_owned();
                let left = ((entry.word >> 32) as u32, stamp_of(&entry.stamp));
                self.reading.left.insert(path, left);
            }
        }
        Ok(())
    }

    /// Tells whether what is at a path is the action's own by now, or nobody's business.
    fn is_own(&self, path: &Path) -> bool {
        let path = normal(path);
        self.scratch.ignores(&path) || self.own.contains_key(&*path) || self.is_in_own_folder(&path)
    }

    /// Tells whether a folder above was made by the action.
    fn is_in_own_folder(&self, path: &Path) -> bool {
        self.has_folders
            && path
                .ancestors()
                .skip(1)
                .any(|folder| self.own.get(folder).is_some_and(|own| !own.was_there))
    }

    fn see(&mut self, path: PathBuf, is_itself: bool, seen: Seen) {
        if self.is_own(&path) {
            return;
        }
        match self.reading.seen.entry((path.into_os_string(), is_itself)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(seen);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                // What was read tells more than that something is there.
                if matches!(place.get(), Seen::Kind(..)) {
                    place.insert(seen);
                }
            }
        }
    }

    fn file(&mut self, path: PathBuf, stamp: Option<FileStamp>) {
        self.see(path, false, Seen::File(stamp));
    }

    fn look(&mut self, path: PathBuf, is_itself: bool, entry: &Entry<'_>) -> Result<(), String> {
        match entry.error {
            0 => {
                let mode = (entry.word >> 32) as u32;
                // access(2) tells that something is there.
                if mode != 0 {
                    self.see(path, is_itself, Seen::Kind(mode, entry.stamp.size));
                } else {
                    self.see(path, false, Seen::Kind(0, 0));
                }
            }
            error if super::look::is_nothing(error.cast_signed()) => {
                self.see(path, is_itself, Seen::Nothing);
            }
            // A terminal that nobody has tells nothing.
            _ if self.is_own(&path) || path == Path::new("/dev/tty") => {}
            error => return Err(format!("`{}` gave error {error}", path.display())),
        }
        Ok(())
    }

    fn open(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let (path, flags) = (path_of(entry.text), entry.word as u32);
        let writes = flags & kernel::O_ACCMODE != kernel::O_RDONLY;
        let has = |flag: u32| flags & flag != 0;
        let mode = (entry.word >> 32) as u32;
        if entry.error != 0 {
            // A name that is taken is tried with another one next.
            if has(kernel::O_EXCL) {
                return Ok(());
            }
            return self.look(path, has(kernel::O_NOFOLLOW), entry);
        }
        if is_open_already(&normal(&path)) && self.agreeing.contains(&entry.process) {
            return Ok(());
        }
        if path.starts_with("/dev/shm") {
            return Err("it uses memory that others may share".to_owned());
        }
        if has(kernel::O_PATH) {
            self.see(path, has(kernel::O_NOFOLLOW), Seen::Kind(mode, entry.stamp.size));
            return Ok(());
        }
        // What has no name yet gets one by linkat(2).
        if flags & kernel::__O_TMPFILE != 0 {
            return Ok(());
        }
        let kind = mode & libc::S_IFMT;
        if kind == libc::S_IFDIR {
            self.see(path, false, Seen::Kind(mode, 0));
            return Ok(());
        }
        if kind == libc::S_IFIFO && self.agreeing.contains(&entry.process) {
            return Ok(());
        }
        if kind != libc::S_IFREG {
            return match self.is_own(&path) {
                true => Ok(()),
                false => Err(format!("it opens `{}`, which is no file", path.display())),
            };
        }
        let was_there = entry.word & EXISTED != 0;
        let begins_anew = has(kernel::O_TRUNC) || has(kernel::O_EXCL) && has(kernel::O_CREAT);
        let makes = has(kernel::O_CREAT) && !was_there && !has(kernel::O_TRUNC);
        if !writes && !has(kernel::O_TRUNC) {
            if has(kernel::O_CREAT) && !was_there {
                self.write(&path, false);
                self.set_inode(&path, Some(entry.stamp.inode));
            } else {
                self.file(path, Some(stamp_of(&entry.stamp)));
            }
            return Ok(());
        }
        if begins_anew || makes {
            let is_new = has(kernel::O_CREAT) && !was_there;
            self.write(&path, !is_new);
        } else if !self.is_own(&path) {
            return Err(format!("it changes `{}` in place", path.display()));
        }
        self.set_inode(&path, Some(entry.stamp.inode));
        Ok(())
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let (path, target) = split(entry.text);
        match entry.error.cast_signed() {
            0 => {
                if !self.is_own(&path) {
                    self.reading.targets.insert(path.clone(), target.to_vec());
                }
                self.see(path, true, Seen::Link);
            }
            libc::EINVAL => self.see(path, true, Seen::NoLink),
            _ => self.look(path, true, entry)?,
        }
        Ok(())
    }

    fn list(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let path = path_of(entry.text);
        let folder = normal(&path);
        if self.scratch.unlisted.iter().any(|known| *known == folder)
            || self.scratch.ignores(&folder)
        {
            return Ok(());
        }
        let is_own = self.own.get(&*folder).is_some_and(|own| !own.was_there)
            || self.is_in_own_folder(&folder);
        if is_own {
            return Ok(());
        }
        if self.own.keys().any(|own| own.parent() == Some(&*folder)) {
            return Err(format!("it lists `{}`, which it has changed", path.display()));
        }
        let seen = Seen::Names(stamp_of(&entry.stamp));
        // It was opened before, and that tells less.
        self.reading.seen.insert((path.into_os_string(), false), seen);
        Ok(())
    }

    fn change(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let (path, other) = split(entry.text);
        let other = (!other.is_empty()).then(|| path_of(other));
        let number = entry.word as u32;
        if entry.error != 0 {
            return match number {
                kernel::__NR_mkdir | kernel::__NR_mkdirat
                    if entry.error.cast_signed() == libc::EEXIST =>
                {
                    self.see(path, false, Seen::Kind(0, 0));
                    Ok(())
                }
                _ => self.look(path, true, entry),
            };
        }
        self.has_folders |= !matches!(number, kernel::__NR_unlink | kernel::__NR_unlinkat);
        match number {
            kernel::__NR_unlink | kernel::__NR_unlinkat | kernel::__NR_rmdir => {
                let was_own = self.own.contains_key(&*normal(&path));
                self.write(&path, !was_own);
                self.set_gone(&path);
            }
            kernel::__NR_rename | kernel::__NR_renameat | kernel::__NR_renameat2 => {
                let to = other.unwrap_or_default();
                self.moves(&path, &to)?;
            }
            kernel::__NR_link | kernel::__NR_linkat => {
                let to = other.unwrap_or_default();
                // What has no name yet is named by its descriptor.
                let is_own = self.is_own(&path) || path.starts_with("/proc");
                if !is_own {
                    return Err(format!("it links `{}`, which it has not made", path.display()));
                }
                let inode = self.own.get(&*normal(&path)).and_then(|own| own.inode);
                self.write(&to, false);
                self.set_inode(&to, inode);
            }
            kernel::__NR_mkdir | kernel::__NR_mkdirat => self.write(&path, false),
            kernel::__NR_symlink | kernel::__NR_symlinkat => self.write(&path, false),
            _ if self.is_own(&path) => {
                self.write(&path, true);
            }
            _ => return Err(format!("it changes `{}`, which it has not made", path.display())),
        }
        Ok(())
    }

    fn moves(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        let (from, to) = (normal(from).into_owned(), normal(to).into_owned());
        if !self.is_own(&from) {
            return Err(format!("it renames `{}`, which it has not made", from.display()));
        }
        if self.scratch.ignores(&from) && !self.scratch.ignores(&to) {
            return Err(format!("it takes `{}` from what is not looked at", to.display()));
        }
        // What was made below goes along.
        let below: Vec<PathBuf> =
            self.own.keys().filter(|path| path.starts_with(&from)).cloned().collect();
        for path in below {
            let place = path.strip_prefix(&from).map_or_else(|_| to.clone(), |rest| to.join(rest));
            let place = if path == from { to.clone() } else { place };
            let own = self.own.get(&path).copied().unwrap_or_default();
            if own.is_gone {
                continue;
            }
            self.write(&place, path == from || own.was_there);
            self.set_inode(&place, own.inode);
            self.set_gone(&path);
        }
        Ok(())
    }

    /// Notes that the action writes to a path.
    fn write(&mut self, path: &Path, was_there: bool) {
        let path = normal(path);
        if self.scratch.ignores(&path) {
            return;
        }
        self.count += 1;
        let at = self.count;
        // In a folder that it has made there was nothing.
        let was_there = was_there && !self.is_in_own_folder(&path);
        let own = self.own.entry(path.into_owned()).or_insert(Own {
            at,
            was_there,
            is_gone: false,
            inode: None,
        });
        own.at = at;
        own.is_gone = false;
    }

    /// Notes which file it is that was written.
    fn set_inode(&mut self, path: &Path, inode: Option<u64>) {
        if let Some(own) = self.own.get_mut(&*normal(path)) {
            own.inode = inode;
        }
    }

    fn set_gone(&mut self, path: &Path) {
        if let Some(own) = self.own.get_mut(&*normal(path)) {
            own.is_gone = true;
        }
    }

    fn end(mut self) -> Reading {
        let mut written: Vec<(usize, Written)> = self
            .own
            .iter()
            // What was neither there before nor is now was nobody's business.
            .filter(|(_, own)| !own.is_gone || own.was_there)
            .map(|(path, own)| {
                let (is_gone, inode) = (own.is_gone, own.inode);
                (own.at, Written { path: path.clone(), is_gone, inode })
            })
            .collect();
        written.sort_by_key(|(at, _)| *at);
        let written = written.into_iter().map(|(_, written)| written).collect();
        // Whether an output was there before decides nothing for who writes all of it; what it held, where it was read, does.
        let own = &self.own;
        self.reading.seen.retain(|(path, _), seen| {
            matches!(seen, Seen::File(_) | Seen::Names(_))
                || !own.contains_key(&*normal(Path::new(path)))
        });
        self.reading.written = written;
        self.reading
    }
}

/// Says what a process did that nobody could do again for it, by the number of the system call: see `RECORDED` of the shim.
fn refused(call: u64) -> String {
    let what = match call as u32 {
        kernel::__NR_read | kernel::__NR_readv => {
            "reads what is told to it, or can't be observed all the time"
        }
        kernel::__NR_clock_gettime => "asks for the time of day (clock_gettime)",
        kernel::__NR_getrandom => "asks for random numbers (getrandom)",
        kernel::__NR_connect | kernel::__NR_bind => "talks to other programs (connect, bind)",
        kernel::__NR_shmat => "shares memory with other programs (shmat)",
        kernel::__NR_ptrace => "watches another program (ptrace)",
        kernel::__NR_setsid => "leaves its session (setsid)",
        kernel::__NR_sendfile | kernel::__NR_splice => {
            "writes what can't be seen (sendfile, splice)"
        }
        kernel::__NR_setuid | kernel::__NR_setreuid | kernel::__NR_setresuid => {
            "becomes another user (setuid)"
        }
        kernel::__NR_chown | kernel::__NR_lchown | kernel::__NR_fchown | kernel::__NR_fchownat => {
            "changes who owns a file (chown)"
        }
        _ => return format!("it made system call {call}"),
    };
    format!("it {what}")
}

fn path_of(text: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(text))
}

/// Splits a text at the NUL in it.
fn split(text: &[u8]) -> (PathBuf, &[u8]) {
    match text.iter().position(|byte| *byte == 0) {
        Some(at) => (path_of(&text[..at]), &text[at + 1..]),
        None => (path_of(text), &[]),
    }
}

fn stamp_of(stamp: &Stamp) -> FileStamp {
    let Stamp { device, inode, size, mtime_ns, ctime_ns } = *stamp;
    FileStamp { device, inode, size, mtime_ns, ctime_ns }
}
