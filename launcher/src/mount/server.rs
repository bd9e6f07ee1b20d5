//! The FUSE server: the kernel's requests, decoded, put to a [`View`], and the answers encoded.
//!
//! A mount for everybody has the *no-open* shape (fuse(4), measured in docs/benchmarks.md): open(2) and
//! opendir(3) are answered once, with ENOSYS, and never asked again; names and attributes stay in the
//! kernel for ever, because nobody but this server changes them. So a warm tree costs no request at all.
//! A private view is one of several that may change the projection: the kernel keeps nothing but data, and
//! files that were changed are held while they are open.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno as Code, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rift_cas::remote::access::AccessKey;
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::linger::Linger;
use super::modes::Way;
use super::view::{Maker, New, Result, Shown, View, following, path_of};

/// What the kernel may keep for ever: about 136 years, which it takes for that.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// The handle of an open file that the view holds.
const HELD: FileHandle = FileHandle(1);
/// The largest request.
const REQUEST_BYTES: u32 = 1 << 20;

/// Serves a view.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) view: Arc<View>,
    /// How long the kernel may keep names and attributes.
    ttl: Duration,
    /// Ends the projection when it was emptied.
    ending: Ending,
    /// Where requests come by the thousands, one after the other.
    linger: Linger,
    /// Tells the kernel of what it does not ask for; known once there is a session.
    pub(super) notifier: Arc<OnceLock<Notifier>>,
}

/// What ends an empty projection, which the process with this number has emptied.
pub(super) struct Ending(pub(super) Box<dyn Fn(u32) -> anyhow::Result<()> + Send + Sync>);

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ending")
    }
}

impl Server {
    /// Serves a view; what it shows is kept by the kernel where nobody else changes it.
    pub(super) fn new(view: Arc<View>, ending: Ending, linger: Linger) -> Self {
        let ttl = if view.parts.is_shared { Duration::ZERO } else { FOREVER };
        Self { view, ttl, ending, linger, notifier: Arc::default() }
    }

    /// Ends the projection when a name in `parent` was its last: whoever removes everything, and then
    /// the directory itself, must find an empty directory and no mount.
    fn end_if_empty(&self, request: &Request, parent: u64) {
        if parent != super::nodes::ROOT || !self.view.is_emptied() {
            return;
        }
        let ended = self.view.hold_orphans().map_err(anyhow::Error::from);
        if let Err(error) = ended.and_then(|()| (self.ending.0)(request.pid())) {
            super::say(&format!("the empty projection stays mounted: {error:#}"));
        }
    }

    /// Begins to bring what a command needed elsewhere.
    fn follow(&self, key: &[u8]) -> Result<()> {
        let key = AccessKey::from_bytes(key.try_into().map_err(|_| Errno::INVAL)?);
        if let Some(partial) = self.view.parts.tree.partial() {
            partial.serve().follow(key);
        }
        Ok(())
    }

    fn entry(&self, reply: ReplyEntry, shown: Result<Option<Shown>>) {
        match shown {
            Ok(Some(shown)) => reply.entry(&self.ttl, &attributes(&shown), Generation(0)),
            // Node 0 is a name that is known to be missing.
            Ok(None) => reply.entry(&self.ttl, &NOTHING, Generation(0)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn attr(&self, reply: ReplyAttr, shown: Result<Shown>) {
        match shown {
            Ok(shown) => reply.attr(&self.ttl, &attributes(&shown)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn set(&self, node: u64, change: &Change) -> Result<Shown> {
        if let Some(size) = change.size {
            self.view.reach(&[Way::Into(node)], || {
                self.view.with_writer(node, |file| {
                    rustix::fs::ftruncate(file, size)?;
                    if change.by != 0 { kill_privileges(file) } else { Ok(()) }
                })
            })?;
        }
        self.view.reach(&[Way::To(node)], || self.set_attributes(node, change))
    }

    fn set_attributes(&self, node: u64, change: &Change) -> Result<Shown> {
        self.view.with_real(node, |real, path| {
            if change.uid.is_some() || change.gid.is_some() {
                let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
                rustix::fs::chownat(real, path, uid, gid, following(path))?;
            }
            if change.accessed.is_some() || change.modified.is_some() {
                let times = Timestamps {
                    last_access: time(change.accessed),
                    last_modification: time(change.modified),
                };
                rustix::fs::utimensat(real, path, &times, following(path))?;
            }
            // Last: it may close the way to a root.
            if let Some(mode) = change.mode {
                let mode = Mode::from_raw_mode(mode & 0o7777);
                let inode = rustix::fs::statat(real, path, following(path))?.st_ino;
                rustix::fs::chmodat(real, path, mode, AtFlags::empty())?;
                self.view.modes.choose(inode, mode);
            }
            Ok(())
        })?;
        self.view.show(node)
    }

    fn make(&self, request: &Request, parent: u64, name: &OsStr, new: New<'_>) -> Result<Shown> {
        let make = || self.view.make(parent, name.as_bytes(), new, maker(request));
        self.view.reach(&[Way::Into(parent)], make)
    }

    /// As [`View::list`]; what was listed before a mode got in the way is an answer, and the next one goes on behind it.
    fn list(
        &self,
        node: u64,
        offset: u64,
        counts: bool,
        mut emit: impl FnMut(&[u8], u64, &Shown) -> bool,
    ) -> Result<()> {
        let mut is_begun = false;
        self.view.reach(&[Way::Into(node)], || {
            let listed = self.view.list(node, offset, counts, |name, at, shown| {
                is_begun = true;
                emit(name, at, shown)
            });
            if is_begun && listed == Err(Errno::ACCESS) { Ok(()) } else { listed }
        })
    }

    fn bytes(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let id = match self.view.pristine(node) {
            Some(id) => id,
            None => {
                let mut read =
                    || self.view.with_reader(node, |file| read_all(file, offset, buffer));
                match self.view.reach(&[Way::Into(node)], &mut read)? {
                    Ok(count) => return Ok(count),
                    Err(id) => id,
                }
            }
        };
        self.view.intact()?;
        self.view.tree_bytes(id, offset, buffer)
    }

    fn stored(&self, node: u64, offset: u64, data: &[u8], kills: bool) -> Result<u32> {
        let write = |file: BorrowedFd<'_>| {
            // Before the write: where the server is no superuser, its own takes them away.
            let killed = if kills { privileges(file)? } else { 0 };
            let mut rest = data;
            let mut at = offset;
            while !rest.is_empty() {
                match rustix::io::pwrite(file, rest, at) {
                    Ok(0) => return Err(Errno::NOSPC),
                    Ok(count) => {
                        rest = &rest[count..];
                        at += count as u64;
                    }
                    Err(Errno::INTR) => {}
                    // What was written counts, as write(2) has it.
                    Err(_) if rest.len() < data.len() => break,
                    Err(error) => return Err(error),
                }
            }
            if killed != 0 {
                kill_privileges(file)?;
                // Of a write it takes a new size and times for granted, but not a new mode.
                let told =
                    self.notifier.get().map(|kernel| kernel.inval_inode(INodeNo(node), -1, 0));
                let _is_told = told.is_some_and(|told| told.is_ok());
            }
            // At most a request's size.
            Ok((data.len() - rest.len()) as u32)
        };
        self.view.reach(&[Way::Into(node)], || self.view.with_writer(node, write))
    }

    /// Returns the value of an attribute.
    fn attribute(&self, node: u64, name: &OsStr) -> Result<Vec<u8>> {
        if is_access_list(name) {
            return Err(Errno::OPNOTSUPP);
        }
        let read = |real: BorrowedFd<'_>, path: &[u8]| {
            let named = through(real, path);
            grown(|value| match &named {
                Named::File(path) => rustix::fs::getxattr(path, name, value),
                Named::Link(path) => rustix::fs::lgetxattr(path, name, value),
            })
        };
        let found = self.view.reach(&[Way::To(node)], || self.view.if_real(node, read))?;
        found.or_else(|id| {
            let manifest = self.view.manifest();
            let value = manifest.xattrs(id).find(|(one, _)| *one == name.as_bytes());
            value.map(|(_, value)| value.to_vec()).ok_or(Errno::NODATA)
        })
    }

    /// Returns the names of all attributes, each with a NUL.
    fn attributes(&self, node: u64) -> Result<Vec<u8>> {
        let read = |real: BorrowedFd<'_>, path: &[u8]| {
            let named = through(real, path);
            grown(|names| match &named {
                Named::File(path) => rustix::fs::listxattr(path, names),
                Named::Link(path) => rustix::fs::llistxattr(path, names),
            })
        };
        let found = self.view.reach(&[Way::To(node)], || self.view.if_real(node, read))?;
        found.or_else(|id| {
            let manifest = self.view.manifest();
            Ok(manifest.xattrs(id).flat_map(|(name, _)| [name, b"\0"].concat()).collect())
        })
    }

    fn sync(&self, node: u64, only_data: bool) -> Result<()> {
        self.view.settle_at(node)?;
        // What the tree answers for is in the store, on the disk.
        let sync = |file: BorrowedFd<'_>| match only_data {
            true => rustix::fs::fdatasync(file),
            false => rustix::fs::fsync(file),
        };
        let synced = self.view.reach(&[Way::Into(node)], || self.view.with_reader(node, sync))?;
        let _is_synced = synced.is_ok();
        self.view.sync_state()
    }
}

/// What setattr(2)'s relatives change.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    accessed: Option<TimeOrNow>,
    modified: Option<TimeOrNow>,
    /// Who asks.
    by: u32,
}

/// The largest value, and the largest list of names, see xattr(7).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Reads into as much room as is needed. Before each first write to a file the kernel asks for an attribute
/// that hardly any has.
fn grown(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// A path, and whether a symbolic link that it may end with is the file that is meant.
enum Named {
    /// A link is to be followed.
    File(Vec<u8>),
    /// It is meant itself.
    Link(Vec<u8>),
}

/// Names a file of the real directory by a path that leads to no other: there are no calls for
/// attributes that take a directory before Linux 6.13.
fn through(real: BorrowedFd<'_>, path: &[u8]) -> Named {
    if following(path).is_empty() {
        return Named::File(path.to_vec());
    }
    Named::Link([&*path_of(real), b"/", path].concat())
}

/// Access control lists would have to be obeyed by the kernel, which is not told of them.
fn is_access_list(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

/// Returns the bits that a write(2) by others takes away: set-user-id and set-group-id.
fn privileges(file: BorrowedFd<'_>) -> Result<u32> {
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777;
    let group = if mode & 0o010 == 0 { 0 } else { 0o2000 };
    Ok(mode & (0o4000 | group))
}

/// Takes them away.
fn kill_privileges(file: BorrowedFd<'_>) -> Result<()> {
    match privileges(file)? {
        0 => Ok(()),
        bits => {
            let mode = rustix::fs::fstat(file)?.st_mode & 0o7777;
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode & !bits))
        }
    }
}

fn read_all(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match rustix::io::pread(file, &mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn time(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timespec {
                tv_sec: after.as_secs() as i64,
                tv_nsec: i64::from(after.subsec_nanos()),
            },
            // Seconds before the epoch and nanoseconds after them, of which fuser makes a time that is both before.
            Err(before) => Timespec {
                tv_sec: -(before.duration().as_secs() as i64),
                tv_nsec: i64::from(before.duration().subsec_nanos()),
            },
        },
    }
}

fn system_time(time: Timespec) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.tv_nsec.unsigned_abs());
    match u64::try_from(time.tv_sec) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.tv_sec.unsigned_abs()) + nanoseconds,
    }
}

fn code(error: Errno) -> Code {
    Code::from_i32(error.raw_os_error())
}

fn kind(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 4096,
    flags: 0,
};

fn attributes(shown: &Shown) -> FileAttr {
    FileAttr {
        ino: INodeNo(shown.node),
        size: shown.size,
        blocks: shown.blocks,
        atime: system_time(shown.accessed),
        mtime: system_time(shown.modified),
        ctime: system_time(shown.changed),
        kind: kind(shown.mode),
        // Twelve bits.
        perm: (shown.mode & 0o7777) as u16,
        nlink: shown.links,
        uid: shown.uid,
        gid: shown.gid,
        rdev: shown.device,
        ..NOTHING
    }
}

fn maker(request: &Request) -> Maker {
    Maker { uid: request.uid(), gid: request.gid() }
}

fn done(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(error)),
    }
}

fn value(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
    match value {
        // At most 64 KiB.
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Code::ERANGE),
        Err(error) => reply.error(code(error)),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let kept = match self.view.parts.is_shared {
            true => InitFlags::FUSE_AUTO_INVAL_DATA,
            false => InitFlags::FUSE_EXPLICIT_INVAL_DATA | InitFlags::FUSE_CACHE_SYMLINKS,
        };
        let wanted = kept
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_ASYNC_DIO;
        // The kernel takes what it knows of these.
        let known = wanted & config.capabilities();
        // Where a value is refused, the kernel's own holds.
        let _are_set = [
            config.add_capabilities(known).is_ok(),
            config.set_max_write(REQUEST_BYTES).is_ok(),
            config.set_max_readahead(REQUEST_BYTES).is_ok(),
            config.set_max_background(64).is_ok(),
        ];
        Ok(())
    }

    fn destroy(&mut self) {
        // Who has forgotten the projection removes its directory; who has lost the state has nothing to say.
        if !self.view.parts.state.is_forgotten()
            && self.view.intact().is_ok()
            && let Err(error) = self.view.settle()
        {
            super::say(&format!("times of directories are lost: {error}"));
        }
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let look = || self.view.lookup(parent.0, name.as_bytes());
        self.entry(reply, self.view.reach(&[Way::Into(parent.0)], look));
        self.linger.wait();
    }

    fn forget(&self, _request: &Request, node: INodeNo, times: u64) {
        self.view.forget(node.0, times);
        self.linger.wait();
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(reply, self.view.reach(&[Way::To(node.0)], || self.view.show(node.0)));
        self.linger.wait();
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let by = request.uid();
        let change = Change { mode, uid, gid, size, accessed, modified, by };
        self.attr(reply, self.set(node.0, &change));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.view.reach(&[Way::To(node.0)], || self.view.target(node.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        // The kernel's own encoding of device numbers.
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
        let new = New::Node { mode, device: rustix::fs::makedev(major, minor) };
        self.entry(reply, self.make(request, parent.0, name, new).map(Some));
        self.linger.wait();
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = New::Directory { mode };
        self.entry(reply, self.make(request, parent.0, name, new).map(Some));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = New::Symlink { target: target.as_os_str().as_bytes() };
        self.entry(reply, self.make(request, parent.0, name, new).map(Some));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.view.unlink(parent.0, name.as_bytes());
        let removed = self.view.reach(&[Way::Into(parent.0)], remove);
        if removed.is_ok() {
            self.end_if_empty(request, parent.0);
        }
        done(reply, removed);
        self.linger.wait();
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.view.rmdir(parent.0, name.as_bytes());
        let removed = self.view.reach(&[Way::Into(parent.0)], remove);
        if removed.is_ok() {
            self.end_if_empty(request, parent.0);
        }
        done(reply, removed);
        self.linger.wait();
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let from = (parent.0, name.as_bytes());
        let to = (new_parent.0, new_name.as_bytes());
        let ways = [from, to].map(|(parent, name)| Way::Named(parent, name));
        done(reply, self.view.reach(&ways, || self.view.rename(from, to, flags)));
    }

    fn link(
        &self,
        _request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let link = || self.view.link(node.0, parent.0, name.as_bytes());
        let linked = self.view.reach(&[Way::To(node.0), Way::Into(parent.0)], link);
        self.entry(reply, linked.map(Some));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if !self.view.parts.is_shared {
            return reply.error(Code::ENOSYS);
        }
        let to_write = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
        match self.view.reach(&[Way::Into(node.0)], || self.view.hold(node.0, to_write)) {
            Ok(true) => reply.opened(HELD, FopenFlags::empty()),
            Ok(false) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(code(error)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if handle == HELD {
            self.view.release(node.0);
        }
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.view.parts.is_shared {
            // Listings are not kept.
            true => reply.opened(FileHandle(0), FopenFlags::empty()),
            false => reply.error(Code::ENOSYS),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            match self.bytes(node.0, offset, &mut buffer[..size as usize]) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(code(error)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _open_flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kills = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.stored(node.0, offset, data, kills) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(code(error)),
        }
        self.linger.wait();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        done(reply, self.sync(node.0, datasync));
    }

    fn fsyncdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        done(reply, self.sync(node.0, datasync));
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(node.0, offset, false, |name, at, shown| {
            reply.add(INodeNo(shown.node), at, kind(shown.mode), OsStr::from_bytes(name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
        self.linger.wait();
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.list(node.0, offset, true, |name, at, shown| {
            let (name, attributes) = (OsStr::from_bytes(name), attributes(shown));
            reply.add(attributes.ino, at, name, &self.ttl, &attributes, Generation(0))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(code(error)),
        }
        self.linger.wait();
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let found = self.view.intact().and_then(|()| rustix::fs::fstatvfs(&self.view.parts.real));
        match found {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_bsize as u32,
                stat.f_namemax as u32,
                stat.f_frsize as u32,
            ),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        if is_access_list(name) {
            return reply.error(Code::EOPNOTSUPP);
        }
        if node.0 == super::nodes::ROOT && name == super::MAKE_REAL {
            return done(reply, self.view.make_all_real());
        }
        if node.0 == super::nodes::ROOT && name == super::FOLLOW {
            return done(reply, self.follow(value));
        }
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        let set = |real: BorrowedFd<'_>, path: &[u8]| match through(real, path) {
            Named::File(path) => rustix::fs::setxattr(path, name, value, flags),
            Named::Link(path) => rustix::fs::lsetxattr(path, name, value, flags),
        };
        let ways = [Way::Into(node.0)];
        done(reply, self.view.reach(&ways, || self.view.with_real(node.0, set)));
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        value(reply, size, self.attribute(node.0, name));
        self.linger.wait();
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        value(reply, size, self.attributes(node.0));
    }

    fn removexattr(&self, _request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = |real: BorrowedFd<'_>, path: &[u8]| match through(real, path) {
            Named::File(path) => rustix::fs::removexattr(path, name),
            Named::Link(path) => rustix::fs::lremovexattr(path, name),
        };
        let ways = [Way::Into(node.0)];
        done(reply, self.view.reach(&ways, || self.view.with_real(node.0, remove)));
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let make = |file: BorrowedFd<'_>| rustix::fs::fallocate(file, mode, offset, length);
        let ways = [Way::Into(node.0)];
        done(reply, self.view.reach(&ways, || self.view.with_writer(node.0, make)));
    }

    fn lseek(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let find = || {
            let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            let from = match whence {
                libc::SEEK_DATA => rustix::fs::SeekFrom::Data(from),
                libc::SEEK_HOLE => rustix::fs::SeekFrom::Hole(from),
                _ => return Err(Errno::INVAL),
            };
            let found = self.view.with_reader(node.0, |file| {
                // A descriptor of its own: others read through this one.
                let own = rustix::fs::openat(
                    rustix::fs::CWD,
                    path_of(file),
                    rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                rustix::fs::seek(&own, from)
            })?;
            match found {
                Ok(found) => Ok(found),
                // Files of the tree have no holes but the one at their end.
                Err(id) => {
                    let size = self.view.show_entry(id).size;
                    match from {
                        rustix::fs::SeekFrom::Data(at) if at < size => Ok(at),
                        rustix::fs::SeekFrom::Hole(at) if at < size => Ok(size),
                        _ => Err(Errno::NXIO),
                    }
                }
            }
        };
        match find() {
            Ok(at) => reply.offset(at.cast_signed()),
            Err(error) => reply.error(code(error)),
        }
    }
}
