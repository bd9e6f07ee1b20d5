//! Observe: runs a program and learns what it and its children change outside a folder of theirs.
//!
//! A seccomp filter stops every system call that can change a file or reach the network until this
//! process has looked at it; the call then goes on unchanged (seccomp_unotify(2)). Observation is for
//! deciding whether a result may be kept, never for keeping anybody from anything: a program that
//! wants to be missed can be missed. Where the filter can't be installed, nothing was observed, and
//! the caller must not believe that nothing happened.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use rift_cas::lock::lock;

use crate::sys::{self, Notification};

/// What was seen since it was last asked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Files and folders outside the folder that were made.
    made: HashSet<PathBuf>,
    /// The first thing outside the folder that was changed and had been there before.
    changed: Option<PathBuf>,
    /// The first address that was reached or may have been.
    network: Option<String>,
    /// The first call whose effect can't be seen.
    unseen: Option<&'static str>,
}

impl Seen {
    /// Returns the first reason why the result is not just what is in the folder; `None` when it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        if let Some(address) = &self.network {
            return Some(format!("it used the network ({address})"));
        }
        if let Some(path) = &self.changed {
            return Some(format!("it changed `{}`", path.display()));
        }
        if let Some(call) = self.unseen {
            return Some(format!("it used {call}, which can't be observed"));
        }
        let left = self.made.iter().filter(|path| path.symlink_metadata().is_ok()).min();
        left.map(|path| format!("it left `{}`", path.display()))
    }
}

/// Where changes are expected.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Changes below these are not reported,
    pub folders: Vec<PathBuf>,
    /// except below these.
    pub except: Vec<PathBuf>,
}

impl Own {
    fn has(&self, path: &Path) -> bool {
        let is_below = |folders: &[PathBuf]| folders.iter().any(|folder| path.starts_with(folder));
        is_below(&self.folders) && !is_below(&self.except)
    }
}

struct Shared {
    own: Own,
    seen: Seen,
}

/// An observed program.
#[derive(Debug)]
pub struct Observed {
    /// The program.
    pub child: Child,
    watch: Option<Watch>,
}

struct Watch {
    shared: Arc<Mutex<Shared>>,
    _thread: JoinHandle<()>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// Starts `command` without a watch.
///
/// # Errors
/// As spawning a process.
pub fn spawn_unwatched(mut command: Command) -> io::Result<Observed> {
    Ok(Observed { child: command.spawn()?, watch: None })
}

/// Starts `command` with a watch on it, or, where the system does not permit one, without.
///
/// A process without `CAP_SYS_ADMIN` may install a filter only after it has given up gaining rights by
/// set-user-ID programs (`PR_SET_NO_NEW_PRIVS`), so the command and its children can't gain any then.
///
/// # Errors
/// As spawning a process.
pub fn spawn(mut command: impl FnMut() -> Command) -> io::Result<Observed> {
    match spawn_watched(command()) {
        Ok(observed) => Ok(observed),
        Err(_) => spawn_unwatched(command()),
    }
}

/// Moves a descriptor above the numbers that programs give their descriptors.
///
/// # Errors
/// As fcntl(2) with `F_DUPFD_CLOEXEC`.
pub(crate) fn above_standard(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&descriptor, 10)?)
}

/// Occupies every free number up to `last`, above the standard ones, for as long as the result lives.
///
/// # Errors
/// As fcntl(2) with `F_DUPFD_CLOEXEC`.
pub(crate) fn occupy(descriptor: BorrowedFd<'_>, last: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut occupied = Vec::new();
    loop {
        let next = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?;
        if next.as_raw_fd() > last {
            return Ok(occupied);
        }
        occupied.push(next);
    }
}

/// Seccomp filters are a thread's own, and so is `no_new_privs`: one thread installs the filter and
/// starts the command, which inherits it, and ends. The listener is in this process from the start.
fn spawn_watched(mut command: Command) -> io::Result<Observed> {
    sys::try_listener(filter())?;
    let shared = Arc::new(Mutex::new(Shared { own: Own::default(), seen: Seen::default() }));
    let watched = Arc::clone(&shared);
    let (hand_over, listener) = mpsc::channel();
    // It would inherit the filter of a thread that has one, and wait for itself. It has to be there
    // before the command: starting that makes watched calls, such as opening /dev/null.
    let thread = std::thread::spawn(move || {
        // None comes when the filter is refused.
        if let Ok(listener) = listener.recv() {
            watch(&listener, &watched);
        }
    });
    let starter = std::thread::spawn(move || {
        let listener = sys::new_listener(&filter())?;
        // Without a receiver the listener is closed, and watched calls fail with ENOSYS.
        hand_over.send(listener).map_err(|_| io::ErrorKind::BrokenPipe)?;
        command.spawn()
    });
    let child = starter.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    Ok(Observed { child, watch: Some(Watch { shared, _thread: thread }) })
}

impl Observed {
    /// Tells whether there is a watch.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Begins anew: the changes in `own` are expected from here on.
    pub fn expect(&self, own: Own) {
        if let Some(watch) = &self.watch {
            *lock(&watch.shared) = Shared { own, seen: Seen::default() };
        }
    }

    /// Returns what was seen since [`Observed::expect`]; `None` when there is no watch.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.watch.as_ref().map(|watch| lock(&watch.shared).seen.clone())
    }
}

fn watch(listener: &OwnedFd, shared: &Mutex<Shared>) {
    // An error of the listener means that the processes are gone, or that their calls fail with
    // ENOSYS from now on: a script that fails so is not recorded.
    while let Ok(Some(call)) = sys::next_notification(listener) {
        // Locked until it is known whether the call went on: nobody asks in between.
        let mut shared = lock(shared);
        let memory = File::open(format!("/proc/{}/mem", call.pid));
        if let Ok(memory) = &memory {
            look(&call, memory, &mut shared);
        }
        // ENOENT: the caller was killed while we looked.
        let is_gone = sys::let_continue(listener, call.id).is_err();
        // Of another user's process, say, which takes CAP_SYS_PTRACE: proc_pid_mem(5).
        if memory.is_err() && !is_gone {
            shared.seen.unseen.get_or_insert("a process that rift may not look into");
        }
    }
}

/// What a system call does to a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Opens for writing, or creates.
    Open,
    /// Makes a name.
    Make,
    /// Changes or removes what has the name.
    Change,
}

/// Where a call's path is: the number of the argument, and of the one with its directory, if any.
type PathAt = (Option<usize>, usize, Effect);

/// A system call that is looked at.
struct Watched {
    number: libc::c_long,
    paths: &'static [PathAt],
}

const fn watched(number: libc::c_long, paths: &'static [PathAt]) -> Watched {
    Watched { number, paths }
}

use Effect::{Change, Make, Open};

/// The calls with directory descriptors, which every Linux has.
const CALLS: &[Watched] = &[
    watched(libc::SYS_openat, &[(Some(0), 1, Open)]),
    watched(libc::SYS_openat2, &[(Some(0), 1, Open)]),
    watched(libc::SYS_mkdirat, &[(Some(0), 1, Make)]),
    watched(libc::SYS_mknodat, &[(Some(0), 1, Make)]),
    watched(libc::SYS_symlinkat, &[(Some(1), 2, Make)]),
    watched(libc::SYS_linkat, &[(Some(2), 3, Make)]),
    watched(libc::SYS_renameat, &[(Some(0), 1, Change), (Some(2), 3, Make)]),
    watched(libc::SYS_renameat2, &[(Some(0), 1, Change), (Some(2), 3, Make)]),
    watched(libc::SYS_unlinkat, &[(Some(0), 1, Change)]),
    watched(libc::SYS_fchmodat, &[(Some(0), 1, Change)]),
    watched(libc::SYS_fchownat, &[(Some(0), 1, Change)]),
    watched(libc::SYS_utimensat, &[(Some(0), 1, Change)]),
    watched(libc::SYS_truncate, &[(None, 0, Change)]),
    watched(libc::SYS_setxattr, &[(None, 0, Change)]),
    watched(libc::SYS_lsetxattr, &[(None, 0, Change)]),
    watched(libc::SYS_connect, &[]),
    watched(libc::SYS_sendto, &[]),
    watched(libc::SYS_sendmsg, &[]),
    watched(libc::SYS_sendmmsg, &[]),
    watched(libc::SYS_io_uring_setup, &[]),
];

/// The older calls of x86-64.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Watched] = &[
    watched(libc::SYS_open, &[(None, 0, Open)]),
    watched(libc::SYS_creat, &[(None, 0, Open)]),
    watched(libc::SYS_mkdir, &[(None, 0, Make)]),
    watched(libc::SYS_mknod, &[(None, 0, Make)]),
    watched(libc::SYS_symlink, &[(None, 1, Make)]),
    watched(libc::SYS_link, &[(None, 1, Make)]),
    watched(libc::SYS_rename, &[(None, 0, Change), (None, 1, Make)]),
    watched(libc::SYS_unlink, &[(None, 0, Change)]),
    watched(libc::SYS_rmdir, &[(None, 0, Change)]),
    watched(libc::SYS_chmod, &[(None, 0, Change)]),
    watched(libc::SYS_chown, &[(None, 0, Change)]),
    watched(libc::SYS_lchown, &[(None, 0, Change)]),
    watched(libc::SYS_utime, &[(None, 0, Change)]),
    watched(libc::SYS_utimes, &[(None, 0, Change)]),
    watched(libc::SYS_futimesat, &[(Some(0), 1, Change)]),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Watched] = &[];

// linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: u32 = 0;

const WRITING: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// Returns the filter: every watched call waits for an answer, all others go on.
///
/// `open` and `openat` wait only when their flags write. See seccomp(2) and bpf(4).
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const ALLOW: u32 = 0x7fff_0000;
    const NOTIFY: u32 = 0x7fc0_0000;
    const NUMBER_AT: u32 = 0;
    const ARCH_AT: u32 = 4;
    // The low half of an argument, on a little-endian machine.
    let argument_at = |number: u32| 16 + 8 * number;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Another architecture's call always waits: it is answered with "can't be observed".
    let mut program = vec![
        step(LOAD, 0, 0, ARCH_AT),
        step(JUMP_EQUAL, 1, 0, ARCH),
        step(RETURN, 0, 0, NOTIFY),
        step(LOAD, 0, 0, NUMBER_AT),
    ];
    for call in CALLS.iter().chain(OLD_CALLS) {
        // Numbers of system calls are small.
        let number = call.number as u32;
        let flags_at = match call.number {
            libc::SYS_openat => Some(argument_at(2)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => Some(argument_at(1)),
            _ => None,
        };
        match flags_at {
            Some(at) => program.extend([
                step(JUMP_EQUAL, 0, 4, number),
                step(LOAD, 0, 0, at),
                step(JUMP_SET, 0, 1, WRITING.cast_unsigned()),
                step(RETURN, 0, 0, NOTIFY),
                step(RETURN, 0, 0, ALLOW),
            ]),
            None => {
                program.extend([step(JUMP_EQUAL, 0, 1, number), step(RETURN, 0, 0, NOTIFY)]);
            }
        }
    }
    program.push(step(RETURN, 0, 0, ALLOW));
    program
}

/// Looks at a call before it goes on.
fn look(call: &Notification, memory: &File, shared: &mut Shared) {
    if call.arch != ARCH {
        shared.seen.unseen.get_or_insert("system calls of another architecture");
        return;
    }
    let number = libc::c_long::from(call.number);
    match number {
        libc::SYS_io_uring_setup => {
            shared.seen.unseen.get_or_insert("io_uring");
        }
        libc::SYS_connect => look_at_address(memory, call.args[1], call.args[2], shared),
        // sendto(2) without an address sends where connect(2) went.
        libc::SYS_sendto if call.args[4] != 0 => {
            look_at_address(memory, call.args[4], call.args[5], shared);
        }
        // A struct mmsghdr begins with a struct msghdr.
        libc::SYS_sendmsg | libc::SYS_sendmmsg => look_at_message(call, memory, shared),
        _ => {}
    }
    let found = CALLS.iter().chain(OLD_CALLS).find(|watched| watched.number == number);
    for (directory, path, effect) in found.map_or(&[][..], |watched| watched.paths) {
        // Otherwise the call fails with EFAULT, or its caller is gone.
        if let Some(path) = read_path(call, memory, *directory, *path) {
            look_at_path(&path, *effect, flags(call, memory), shared);
        }
    }
}

/// Returns the flags of a call that opens.
fn flags(call: &Notification, memory: &File) -> i32 {
    // Flags are an int: the upper half means nothing.
    let int = |argument: u64| argument as i32;
    match libc::c_long::from(call.number) {
        libc::SYS_openat => int(call.args[2]),
        libc::SYS_openat2 => {
            let mut how = [0; 8];
            match memory.read_at(&mut how, call.args[2]) {
                // openat2(2): flags beyond int are refused.
                Ok(8) => u64::from_ne_bytes(how) as i32,
                _ => 0,
            }
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => int(call.args[1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => WRITING,
        _ => 0,
    }
}

fn look_at_path(path: &Path, effect: Effect, flags: i32, shared: &mut Shared) {
    if effect == Effect::Open && flags & WRITING == 0 {
        return;
    }
    let Some(place) = real_place(path, effect) else {
        // Its folder is not there: the call fails.
        return;
    };
    if shared.own.has(&place) || place.starts_with("/proc") {
        return;
    }
    let there = place.symlink_metadata();
    let is_stream = there.as_ref().is_ok_and(|stat| {
        let kind = stat.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_socket()
    });
    if shared.seen.made.contains(&place) || is_stream {
        return;
    }
    match (effect, there.is_ok()) {
        (Effect::Open | Effect::Make, false) => {
            shared.seen.made.insert(place);
        }
        // What is there already makes mkdir(2) and the like fail; rename(2) replaces it.
        (Effect::Make, true) if place.is_dir() => {}
        (Effect::Open | Effect::Make | Effect::Change, true) => {
            shared.seen.changed.get_or_insert(place);
        }
        (Effect::Change, false) => {}
    }
}

/// Returns where a path leads: without symbolic links, except for the last name of what is not opened.
fn real_place(path: &Path, effect: Effect) -> Option<PathBuf> {
    if effect == Effect::Open
        && let Ok(place) = path.canonicalize()
    {
        return Some(place);
    }
    match path.file_name() {
        Some(name) => Some(path.parent()?.canonicalize().ok()?.join(name)),
        None => path.canonicalize().ok(),
    }
}

/// Reads the path that argument `at` points to, made absolute.
fn read_path(
    call: &Notification,
    memory: &File,
    directory: Option<usize>,
    at: usize,
) -> Option<PathBuf> {
    let mut bytes = [0; libc::PATH_MAX as usize];
    let mut length = 0;
    // A path may end just before memory that is not there.
    while length < bytes.len() {
        let address = call.args[at].checked_add(length as u64)?;
        let rest_of_page = 4096 - (address % 4096) as usize;
        let end = (length + rest_of_page).min(bytes.len());
        let read = memory.read_at(&mut bytes[length..end], address).ok()?;
        if let Some(nul) = bytes[length..length + read].iter().position(|byte| *byte == 0) {
            length += nul;
            break;
        }
        length += read;
        if read == 0 {
            return None;
        }
    }
    let path = Path::new(OsStr::from_bytes(&bytes[..length]));
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let base = match directory.map(|number| call.args[number] as i32) {
        Some(descriptor) if descriptor != libc::AT_FDCWD => format!("fd/{descriptor}"),
        _ => "cwd".to_owned(),
    };
    let base = std::fs::read_link(format!("/proc/{}/{base}", call.pid)).ok()?;
    // An empty path means the descriptor itself (AT_EMPTY_PATH).
    if path.as_os_str().is_empty() { Some(base) } else { Some(base.join(path)) }
}

/// Looks at the address that a process connects or sends to.
fn look_at_address(memory: &File, at: u64, length: u64, shared: &mut Shared) {
    let mut address = [0; 28];
    let length = usize::try_from(length).unwrap_or(0).min(address.len());
    if !memory.read_at(&mut address[..length], at).is_ok_and(|read| read == length) {
        return;
    }
    if let Some(reached) = reached(&address[..length]) {
        shared.seen.network.get_or_insert(reached);
    }
}

/// Looks at the address in the `struct msghdr` of sendmsg(2) or sendmmsg(2).
fn look_at_message(call: &Notification, memory: &File, shared: &mut Shared) {
    let mut header = [0; 16];
    if !memory.read_at(&mut header, call.args[1]).is_ok_and(|read| read == header.len()) {
        return;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = header;
    let name = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let length = u64::from(u32::from_ne_bytes([i, j, k, l]));
    if name != 0 {
        look_at_address(memory, name, length, shared);
    }
}

/// Returns the address when reaching it brings something from outside: names that are looked up do
/// not, since an answer leads nowhere without a connection.
fn reached(address: &[u8]) -> Option<String> {
    let family = u16::from_ne_bytes([*address.first()?, *address.get(1)?]);
    let port = u16::from_be_bytes([*address.get(2)?, *address.get(3)?]);
    if port == 53 {
        return None;
    }
    let ip = match i32::from(family) {
        libc::AF_INET => {
            let bytes: [u8; 4] = address.get(4..8)?.try_into().ok()?;
            std::net::IpAddr::from(bytes)
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = address.get(8..24)?.try_into().ok()?;
            std::net::IpAddr::from(bytes)
        }
        _ => return None,
    };
    // getaddrinfo(3) connects datagram sockets to port 0 to sort addresses; nothing is sent.
    (port != 0).then(|| format!("{ip} port {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(folder: &Path, script: &str) -> Option<String> {
        let observed = spawn(|| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("read go; {script}")]).current_dir(folder);
            command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
            command
        });
        let mut observed = observed.unwrap();
        assert!(observed.is_watched());
        let own = folder.join("own").canonicalize().unwrap();
        let except = vec![own.join("node_modules")];
        observed.expect(Own { folders: vec![own], except });
        drop(observed.child.stdin.take());
        observed.child.wait().unwrap();
        observed.seen().unwrap().reason()
    }

    #[test]
    fn what_happens_outside_the_own_folder_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("own")).unwrap();
        std::fs::write(folder.join("old"), b"old").unwrap();
        std::os::unix::fs::symlink("../old", folder.join("own/way-out")).unwrap();
        let harmless = [
            "echo x > own/file; mkdir -p own/deep/er; mv own/file own/deep/er/file",
            "cat old > /dev/null",
            "echo x > scratch; rm scratch",
            "mkdir dir; echo x > dir/file; rm -r dir",
            "mkdir -p own",
            "(cd own && ln -s ../old link && touch file)",
        ];
        for script in harmless {
            assert_eq!(observe(&folder, script), None, "{script}");
        }
        let changed = format!("it changed `{}`", folder.join("old").display());
        let left = format!("it left `{}`", folder.join("left").display());
        let nested = format!("it left `{}`", folder.join("own/node_modules").display());
        let telling = [
            ("echo x >> old", &changed),
            ("echo x > own/way-out", &changed),
            ("chmod 600 old", &changed),
            ("touch old", &changed),
            ("cd own && echo x > ../old", &changed),
            ("(true && echo x > left)", &left),
            ("mkdir -p own/node_modules", &nested),
            ("mkdir left", &left),
            ("ln -s old left", &left),
            ("ln old left", &left),
            ("mv old left", &changed),
        ];
        for (script, reason) in telling {
            assert_eq!(observe(&folder, script).as_ref(), Some(reason), "{script}");
            let left = folder.join("left");
            if left.is_dir() {
                std::fs::remove_dir(left).unwrap();
            } else if left.symlink_metadata().is_ok() {
                std::fs::remove_file(left).unwrap();
            }
        }
    }

    /// The filter ends with the thread that started the command, and the command gets no listener.
    #[test]
    fn a_watch_leaves_nothing_in_either_process() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("own")).unwrap();
        let state = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let is_told =
                |line: &&str| line.starts_with("NoNewPrivs") || line.starts_with("Seccomp");
            status.lines().filter(is_told).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = state();
        assert_eq!(observe(folder.path(), "ls -l /proc/$$/fd > own/descriptors"), None);
        assert_eq!(state(), before);
        let descriptors = std::fs::read_to_string(folder.path().join("own/descriptors")).unwrap();
        assert!(descriptors.contains("pipe:"), "{descriptors}");
        assert!(!descriptors.contains("seccomp"), "{descriptors}");
    }

    #[test]
    fn what_cannot_be_started_is_an_error_and_holds_nobody_up() {
        let missing = spawn_watched(Command::new("/nowhere/at/all")).map(drop);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn connections_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("own")).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = {
            let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap().port()
        };
        let is_v6 = std::net::UdpSocket::bind("[::1]:0").is_ok();
        let send = |family: &str, port: u16, host: &str| {
            format!(
                "node -e \"const s = require('dgram').createSocket('{family}'); \
                 s.send('x', {port}, '{host}', () => s.close())\""
            )
        };
        let telling = [
            (
                format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'"),
                format!("127.0.0.1 port {port}"),
            ),
            (
                format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{closed}'"),
                format!("127.0.0.1 port {closed}"),
            ),
            (
                format!("bash -c 'exec 3<>/dev/udp/127.0.0.1/{port}'"),
                format!("127.0.0.1 port {port}"),
            ),
            // A datagram without a connection.
            (send("udp4", port, "127.0.0.1"), format!("127.0.0.1 port {port}")),
            (send("udp6", port, "::1"), format!("::1 port {port}")),
        ];
        for (script, address) in telling.iter().take(if is_v6 { 5 } else { 4 }) {
            let reason = observe(folder.path(), script);
            assert_eq!(reason, Some(format!("it used the network ({address})")), "{script}");
        }
    }

    #[test]
    fn looking_a_name_up_is_no_connection() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("own")).unwrap();
        let socket = folder.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let local = format!(
            "node -e \"const s = require('net').connect('{}', () => s.destroy())\"",
            socket.display()
        );
        for script in [
            "bash -c 'exec 3<>/dev/udp/127.0.0.1/53; echo x >&3'",
            // What getaddrinfo(3) does to sort addresses.
            "bash -c 'exec 3<>/dev/udp/127.0.0.1/0'",
            &local,
        ] {
            assert_eq!(observe(&folder, script), None, "{script}");
        }
        assert!(listener.accept().is_ok(), "the local socket was reached");
    }
}
