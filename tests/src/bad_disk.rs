//! A disk with bad blocks, on an ordinary machine: ext4 on a loop device over a file that answers EIO.
//!
//! ```text
//! FOLDER/image   the disk's bytes
//! FOLDER/raw     the same file, served by this process over FUSE: all but the bad blocks
//! FOLDER/disk    ext4 on a loop device over `raw`
//! ```
//! Which blocks are bad is told by what is in them, so nobody has to know where a file lies. Called by the tests of mounts;
//! root is needed, and a FUSE device.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request,
    Session, SessionACL, WriteFlags,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::fault::{done, root_command};

/// What makes a block bad that holds it.
pub const MARK: &[u8] = b"this block is bad";

const BLOCK: usize = 4096;

/// Returns the content of a file with a bad block between good ones.
#[must_use]
pub fn bad_content() -> Vec<u8> {
    let mut bytes = vec![b'x'; 16 * BLOCK];
    bytes[9 * BLOCK..][..MARK.len()].copy_from_slice(MARK);
    bytes
}

/// See the module; its drop unmounts.
#[derive(Debug)]
pub struct BadDisk {
    folder: PathBuf,
    is_bad: Arc<AtomicBool>,
    _session: BackgroundSession,
}

impl BadDisk {
    /// Makes and mounts one below `folder`, on which all blocks are good.
    ///
    /// # Errors
    /// When FUSE, a loop device or ext4 can't be had.
    pub fn new(folder: &Path, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder.join("disk"))?;
        let image = folder.join("image");
        File::create_new(&image)?.set_len(bytes)?;
        done(root_command("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&image))?;
        let image = File::options().read(true).write(true).open(&image)?;
        let raw = folder.join("raw");
        File::create_new(&raw)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
        let options = format!("fd={},rootmode=100000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options)?;
        let none = MountFlags::empty();
        rustix::mount::mount("rift-test", &raw, "fuse", none, Some(options.as_c_str()))
            .context("could not mount the bytes of the disk")?;
        let is_bad = Arc::new(AtomicBool::new(false));
        let bytes = Bytes { image, is_bad: Arc::clone(&is_bad), size: bytes };
        let config = fuser::Config::default();
        let session = Session::from_fd(bytes, device, SessionACL::Owner, config)?.spawn()?;
        let disk = Self { folder: folder.to_owned(), is_bad, _session: session };
        disk.attach()?;
        Ok(disk)
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// Lets blocks with the mark be bad, or good again.
    pub fn go_bad(&self, is_bad: bool) {
        self.is_bad.store(is_bad, Ordering::SeqCst);
    }

    /// Mounts it anew, so that nothing of it is in memory.
    ///
    /// # Errors
    /// When a process still uses it.
    pub fn remount(&self) -> Result<()> {
        done(root_command("umount").arg(self.path()))?;
        self.attach()
    }

    fn attach(&self) -> Result<()> {
        let mut mount = root_command("mount");
        mount.args(["-t", "ext4", "-o", "loop"]).arg(self.folder.join("raw")).arg(self.path());
        done(&mut mount)
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        self.go_bad(false);
        for mount in [self.path(), self.folder.join("raw")] {
            // The sandbox unmounts whatever is left, and says so when it cannot.
            let _left_to_the_sandbox = done(root_command("umount").arg("--lazy").arg(mount));
        }
    }
}

/// The one file of the FUSE mount, which is its root.
struct Bytes {
    image: File,
    is_bad: Arc<AtomicBool>,
    size: u64,
}

impl Bytes {
    fn are_bad(&self, bytes: &[u8]) -> bool {
        self.is_bad.load(Ordering::SeqCst) && bytes.windows(MARK.len()).any(|window| window == MARK)
    }
}

impl Filesystem for Bytes {
    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let time = SystemTime::UNIX_EPOCH;
        let attr = FileAttr {
            ino,
            size: self.size,
            blocks: self.size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attr);
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel keeps nothing, so each request comes here.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.image.read_at(&mut bytes, offset) {
            Ok(read) if !self.are_bad(&bytes[..read]) => reply.data(&bytes[..read]),
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.are_bad(data) {
            return reply.error(Errno::EIO);
        }
        match self.image.write_all_at(data, offset).map(|()| u32::try_from(data.len())) {
            Ok(Ok(written)) => reply.written(written),
            _ => reply.error(Errno::EIO),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
