//! Faults on an ordinary machine, without device-mapper: full disks, power loss, sudden death.
//!
//! Each is a value whose drop undoes it, so that no mount and no loop device outlives a test. Called by the fault tests
//! of the store and of the npm plan. Root is needed for mounts; ask [`crate::need::have`] first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub(crate) fn root_command(program: &str) -> Command {
    Command::new(crate::need::find_in_path(program).unwrap_or_else(|| program.into()))
}

pub(crate) fn done(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A memory file system that is soon full: `ENOSPC` by bytes or by inodes.
#[derive(Debug)]
pub struct SmallDisk {
    point: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` bytes and `inodes` inodes at `point`, which is made.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(point: &Path, bytes: u64, inodes: u64) -> Result<Self> {
        fs::create_dir_all(point)?;
        let options = format!("size={bytes},nr_inodes={inodes},mode=0755");
        done(root_command("mount").args(["-t", "tmpfs", "-o", &options, "rift-test"]).arg(point))?;
        Ok(Self { point: point.to_path_buf() })
    }

    /// Gives it another size, as an administrator who makes room.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resize(&self, bytes: u64, inodes: u64) -> Result<()> {
        let options = format!("remount,size={bytes},nr_inodes={inodes}");
        done(root_command("mount").args(["-o", &options]).arg(&self.point))
    }

    /// Lets nothing on it be executed, as `/dev/shm` of containers does.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub fn forbid_execution(&self) -> Result<()> {
        done(root_command("mount").args(["-o", "remount,noexec"]).arg(&self.point))
    }

    /// Leaves so much room on it.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub fn leave(&self, room: Room) -> Result<()> {
        let stat = self.settled()?;
        let blocks = stat.f_blocks - stat.f_bfree + room.blocks;
        self.resize(blocks * stat.f_frsize, stat.f_files - stat.f_ffree + room.inodes)
    }

    /// Returns what is used, once that is the same for a while: a server that ends gives its files back last.
    fn settled(&self) -> Result<rustix::fs::StatVfs> {
        let free = |stat: &rustix::fs::StatVfs| (stat.f_bfree, stat.f_ffree);
        let mut stat = rustix::fs::statvfs(&self.point)?;
        loop {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let now = rustix::fs::statvfs(&self.point)?;
            if free(&now) == free(&stat) {
                return Ok(now);
            }
            stat = now;
        }
    }
}

/// What is free on a [`SmallDisk`].
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Blocks of a page each.
    pub blocks: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The sandbox unmounts whatever is left, and says so when it cannot.
        let _left_to_the_sandbox = done(root_command("umount").arg("--lazy").arg(&self.point));
    }
}

/// An ext4 file system on a loop device whose power can fail: what was not synced is then gone.
#[derive(Debug)]
pub struct CrashDisk {
    image: PathBuf,
    point: PathBuf,
}

impl CrashDisk {
    /// Makes and mounts one below `folder`.
    ///
    /// # Errors
    /// When a loop device or ext4 cannot be had.
    pub fn new(folder: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let disk = Self { image: folder.join("disk.img"), point: folder.join("disk") };
        fs::create_dir_all(&disk.point)?;
        fs::File::create(&disk.image)?.set_len(bytes)?;
        done(root_command("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.attach()?;
        Ok(disk)
    }

    /// Makes one to measure on: its blocks are there already, and the loop device does not keep a second copy of
    /// everything in the page cache of its image.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when there is no room.
    pub fn to_measure_on(folder: &Path, bytes: u64) -> Result<Self> {
        let disk = Self::new(folder, bytes)?;
        done(root_command("fallocate").arg("--length").arg(bytes.to_string()).arg(&disk.image))?;
        let source = root_command("findmnt")
            .args(["--noheadings", "--output", "SOURCE"])
            .arg(&disk.point)
            .output()
            .context("could not start findmnt")?;
        let device = String::from_utf8(source.stdout)?;
        done(root_command("losetup").arg("--direct-io=on").arg(device.trim()))?;
        Ok(disk)
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Fails the power and brings the machine back: the journal's state is kept, everything later is lost.
    ///
    /// # Errors
    /// When the kernel refuses the shutdown (ext4's `EXT4_IOC_SHUTDOWN`) or the file system does not come back.
    pub fn lose_power(&self) -> Result<()> {
        self.cut_power(false)?;
        self.bring_back()
    }

    /// As [`lose_power`](Self::lose_power), with the journal written out: names are kept, data is lost.
    ///
    /// # Errors
    /// As there.
    pub fn lose_power_after_journal(&self) -> Result<()> {
        self.cut_power(true)?;
        self.bring_back()
    }

    /// Fails the power, with the journal written out or not, and leaves the machine off: processes go on and get
    /// errors, to be killed before [`bring_back`](Self::bring_back).
    ///
    /// # Errors
    /// As [`lose_power`](Self::lose_power).
    pub fn cut_power(&self, keeps_journal: bool) -> Result<()> {
        let how = if keeps_journal { "shutdown -f" } else { "shutdown" };
        done(root_command("xfs_io").args(["-x", "-c", how]).arg(&self.point))
    }

    /// Brings the machine back.
    ///
    /// # Errors
    /// When a process still uses the disk, or it does not come back.
    pub fn bring_back(&self) -> Result<()> {
        // A process that was killed is gone before its files are closed. And where another test has copied the mount into
        // a namespace of its own, the file system lives on, and comes back as it was left: off.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let unmounted = done(root_command("umount").arg(&self.point));
            let is_back = unmounted.and_then(|()| self.attach()).and_then(|()| self.probe());
            match is_back {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// Fails when the file system is off.
    fn probe(&self) -> Result<()> {
        let path = self.point.join("probe");
        fs::File::create(&path)?.sync_all()?;
        Ok(fs::remove_file(&path)?)
    }

    fn attach(&self) -> Result<()> {
        done(
            root_command("mount")
                .args(["-t", "ext4", "-o", "loop"])
                .arg(&self.image)
                .arg(&self.point),
        )
    }
}

impl Drop for CrashDisk {
    fn drop(&mut self) {
        // As above; unmounting frees the loop device.
        let _left_to_the_sandbox = done(root_command("umount").arg("--lazy").arg(&self.point));
    }
}

/// A small deterministic source of instants and choices; the seed is printed by the test that fails.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `bound`, which is not 0 (splitmix64).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Starts a command and kills it, and every process of its group, at a random instant.
///
/// The instants are spread over `usual`, the time that the command takes when it is left alone. Returns whether it was
/// killed before its end.
///
/// # Errors
/// When it cannot be started.
pub fn kill_at_random(command: &mut Command, usual: Duration, dice: &mut Dice) -> Result<bool> {
    use std::os::unix::process::CommandExt;
    let delay_us = dice.below(u64::try_from(usual.as_micros())?.max(1));
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start {command:?}"))?;
    std::thread::sleep(Duration::from_micros(delay_us));
    let group = rustix::process::Pid::from_raw(child.id().cast_signed())
        .context("a child has a process id")?;
    let ended = child.try_wait()?.is_some();
    match rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error).context("could not kill the group"),
    }
    child.wait()?;
    Ok(!ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::need::{Need, have};
    use crate::sandbox::Sandbox;

    /// The fault is real: without a sync nothing is left, with one everything is.
    #[test]
    fn power_loss_takes_what_was_not_synced() {
        if !have("power_loss_takes_what_was_not_synced", &[Need::PowerLoss]) {
            return;
        }
        let sandbox = Sandbox::new("power").unwrap();
        let disk = CrashDisk::new(&sandbox.path("disk"), 64 << 20).unwrap();
        fs::write(disk.path().join("kept"), "kept").unwrap();
        fs::File::open(disk.path().join("kept")).unwrap().sync_all().unwrap();
        fs::File::open(disk.path()).unwrap().sync_all().unwrap();
        fs::write(disk.path().join("lost"), "lost").unwrap();
        disk.lose_power().unwrap();
        assert_eq!(fs::read(disk.path().join("kept")).unwrap(), b"kept");
        assert!(fs::read(disk.path().join("lost")).map_or(true, |bytes| bytes.is_empty()));
    }

    #[test]
    fn a_small_disk_is_full_by_bytes_and_by_inodes() {
        if !have("a_small_disk_is_full_by_bytes_and_by_inodes", &[Need::Root]) {
            return;
        }
        let sandbox = Sandbox::new("small-disk").unwrap();
        let point = sandbox.path("disk");
        let disk = SmallDisk::mount(&point, 64 << 10, 10).unwrap();
        let full = |result: std::io::Result<()>| {
            result.unwrap_err().kind() == std::io::ErrorKind::StorageFull
        };
        assert!(full(fs::write(point.join("large"), vec![1; 1 << 20])));
        fs::remove_file(point.join("large")).unwrap();
        assert!(full((0..20).try_for_each(|n| fs::write(point.join(n.to_string()), ""))));
        disk.resize(1 << 20, 100).unwrap();
        (0..20).for_each(|n| fs::write(point.join(n.to_string()), "").unwrap());
    }

    #[test]
    fn a_killed_command_is_gone_with_its_children() {
        let sandbox = Sandbox::new("kill").unwrap();
        let mut command = sandbox.command(&sandbox.path("tmp"), "sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        assert!(
            kill_at_random(&mut command, Duration::from_millis(20), &mut Dice::new(1)).unwrap()
        );
        sandbox.settle().unwrap();
    }

    #[test]
    fn a_sandbox_ends_what_it_started() {
        let sandbox = Sandbox::new("leftover").unwrap();
        let root = sandbox.path("");
        let mut command = sandbox.command(&root, "sh");
        sandbox
            .run(command.args(["-c", "setsid sleep 60 >/dev/null 2>&1 &"]))
            .unwrap()
            .success()
            .unwrap();
        fs::create_dir(root.join("closed")).unwrap();
        fs::write(root.join("closed/file"), "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o500);
        fs::set_permissions(root.join("closed"), mode).unwrap();
        // It has no environment for the moment in which it becomes another program.
        let left = loop {
            let left = sandbox.processes();
            if !left.is_empty() {
                break left;
            }
        };
        assert_eq!(left.len(), 1);
        drop(sandbox);
        assert!(!root.exists());
        let gone = |pid: &u32| {
            fs::read(format!("/proc/{pid}/environ")).map_or(true, |bytes| bytes.is_empty())
        };
        assert!(left.iter().all(gone));
    }
}
