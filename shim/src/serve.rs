//! What each system call does where a projection is meant.
//!
//! Metadata of entries that the tree answers for is filled in. Everything else makes real what it needs, and then
//! the kernel does it, with the program's own words. `None` means just that: ask the kernel.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as kernel;
use rift_tree::merge::{Place, States as _};
use rift_tree::run::Count;
use rift_tree::state::{REPLACED, State};
use rift_tree::{EntryId, Kind};

use crate::answer;
use crate::caches::{self, Known, StandIn, Working};
use crate::counts;
use crate::exec::{self, Loads};
use crate::hot::HOT;
use crate::list;
use crate::place::{self, Last, Spot, Where};
use crate::quick;
use crate::real;
use crate::record;
use crate::room;
use crate::run::{self, Shown, WIDE_WORDS};
use crate::signals;
use crate::sys::{self, CWD, Errno, Result};
use crate::table::Way;
use crate::text::{OfRun, Path as _, Text};

/// A system call, as the program makes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) args: [usize; 6],
}

impl Call {
    /// Lets the kernel do it.
    pub(crate) fn pass(&self) -> isize {
        sys::call(self.number, self.args)
    }

    /// Returns an argument that is an `int`.
    pub(crate) fn int(&self, at: usize) -> i32 {
        self.args[at] as i32
    }

    pub(crate) fn word(&self, at: usize) -> u32 {
        self.args[at] as u32
    }

    fn path(&self, at: usize) -> Result<&'static [u8]> {
        sys::string(self.args[at])
    }
}

/// Where a call names a file: the argument with its directory, if there is one, and that with its path.
#[derive(Clone, Copy)]
struct Name {
    directory: Option<usize>,
    path: usize,
}

const fn at(directory: usize, path: usize) -> Name {
    Name { directory: Some(directory), path }
}

const fn plain(path: usize) -> Name {
    Name { directory: None, path }
}

/// Whether the kernel was asked already and found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    FoundNothing,
}

/// Serves a call that may mean something in a projection.
pub(crate) fn serve(call: &Call, asked: Asked) -> isize {
    let before = counts::passed_until();
    let decided = decide(call, asked);
    if !matches!(decided, Ok(None)) && counts::passed_until() == before {
        counts::answered();
    }
    let result = match decided {
        Ok(Some(result)) => result,
        Ok(None) if asked == Asked::FoundNothing => Errno::NOENT.returned(),
        Ok(None) => pass(call),
        Err(error) => error.returned(),
    };
    // The kernel may have found nothing where it was asked for a name that the tree does not have; a link that somebody made
    // may lead back into the tree.
    let looks_again = result == Errno::NOENT.returned() && asked == Asked::No && may_lead_in(call);
    if looks_again && !quick::is_nothing(call) {
        match decide(call, Asked::FoundNothing) {
            Ok(Some(again)) => again,
            Ok(None) => result,
            Err(error) => error.returned(),
        }
    } else {
        result
    }
}

/// Returns what kind of call it is, see [`Way`].
fn kind(call: &Call) -> u8 {
    HOT.ways.get(call.number).map_or(0, |way| way.kind())
}

/// Tells whether a call looks again where the kernel has found nothing.
fn may_lead_in(call: &Call) -> bool {
    (Way::LOOK..Way::OTHER).contains(&kind(call)) || call.number as u32 == kernel::__NR_openat2
}

/// Lets the kernel do a call that means nothing in a projection, as far as names go.
fn pass(call: &Call) -> isize {
    let result = call.pass();
    if result == 0 && kind(call) == Way::OTHER {
        note_names_of(call);
    }
    match (kind(call) == Way::STAT).then(|| keep_identity(call, result)) {
        Some(Err(error)) => error.returned(),
        _ => result,
    }
}

fn decide(call: &Call, asked: Asked) -> Result<Option<isize>> {
    let follow = |is_followed: bool| if is_followed { Last::Followed } else { Last::Itself };
    let flag = |at: usize, flag: u32| call.word(at) & flag != 0;
    let nofollow = kernel::AT_SYMLINK_NOFOLLOW;
    match call.number as u32 {
        // The kernel says what is wrong with flags that mean nothing to it, or something that is not known here.
        _ if quick::may_be_refused(call) => Ok(None),
        kernel::__NR_open => open(call, plain(0), call.word(1), asked),
        kernel::__NR_openat => open(call, at(0, 1), call.word(2), asked),
        kernel::__NR_openat2 => open_how(call, asked),
        kernel::__NR_creat => {
            open(call, plain(0), kernel::O_CREAT | kernel::O_WRONLY | kernel::O_TRUNC, asked)
        }
        kernel::__NR_stat => stat(call, plain(0), Last::Followed, asked),
        kernel::__NR_lstat => stat(call, plain(0), Last::Itself, asked),
        kernel::__NR_newfstatat => stat(call, at(0, 1), follow(!flag(3, nofollow)), asked),
        kernel::__NR_statx => stat(call, at(0, 1), follow(!flag(2, nofollow)), asked),
        kernel::__NR_access => access(call, plain(0), call.word(1), 0, asked),
        kernel::__NR_faccessat => access(call, at(0, 1), call.word(2), 0, asked),
        kernel::__NR_faccessat2 => access(call, at(0, 1), call.word(2), call.word(3), asked),
        kernel::__NR_readlink => read_link(call, plain(0), 1, asked),
        kernel::__NR_readlinkat => read_link(call, at(0, 1), 2, asked),
        kernel::__NR_getxattr => attribute(call, Last::Followed, asked),
        kernel::__NR_lgetxattr => attribute(call, Last::Itself, asked),
        kernel::__NR_listxattr => attributes(call, Last::Followed, asked),
        kernel::__NR_llistxattr => attributes(call, Last::Itself, asked),
        kernel::__NR_statfs => file_system(call, asked),
        kernel::__NR_chdir => change_directory(call),
        kernel::__NR_fchdir => change_directory_to(call),
        kernel::__NR_mkdir | kernel::__NR_mknod => make(call, plain(0)),
        kernel::__NR_mkdirat | kernel::__NR_mknodat => make(call, at(0, 1)),
        kernel::__NR_symlink => make(call, plain(1)),
        kernel::__NR_symlinkat => make(call, at(1, 2)),
        kernel::__NR_link => link(call, plain(0), plain(1), 0),
        kernel::__NR_linkat => link(call, at(0, 1), at(2, 3), call.word(4)),
        kernel::__NR_unlink => remove(call, plain(0), false),
        kernel::__NR_rmdir => remove(call, plain(0), true),
        kernel::__NR_unlinkat => remove(call, at(0, 1), flag(2, kernel::AT_REMOVEDIR)),
        kernel::__NR_rename => rename(call, plain(0), plain(1), 0),
        kernel::__NR_renameat => rename(call, at(0, 1), at(2, 3), 0),
        kernel::__NR_renameat2 => rename(call, at(0, 1), at(2, 3), call.word(4)),
        kernel::__NR_chmod => change_rights(call, plain(0), Last::Followed, Some(call.word(1))),
        kernel::__NR_chown => change_rights(call, plain(0), Last::Followed, None),
        kernel::__NR_lchown => change_rights(call, plain(0), Last::Itself, None),
        kernel::__NR_fchmodat => change_rights(call, at(0, 1), Last::Followed, Some(call.word(2))),
        kernel::__NR_fchmodat2 => {
            change_rights(call, at(0, 1), follow(!flag(3, nofollow)), Some(call.word(2)))
        }
        kernel::__NR_fchownat => change_rights(call, at(0, 1), follow(!flag(4, nofollow)), None),
        kernel::__NR_fchmod => change_rights_open(call, Some(call.word(1))),
        kernel::__NR_fchown => change_rights_open(call, None),
        kernel::__NR_chroot => change_root(call),
        kernel::__NR_utime
        | kernel::__NR_utimes
        | kernel::__NR_truncate
        | kernel::__NR_setxattr
        | kernel::__NR_removexattr
        | kernel::__NR_acct
        | kernel::__NR_swapon
        | kernel::__NR_swapoff
        | kernel::__NR_uselib
        | kernel::__NR_umount2 => change(call, plain(0), Last::Followed),
        kernel::__NR_lsetxattr | kernel::__NR_lremovexattr => change(call, plain(0), Last::Itself),
        kernel::__NR_futimesat => change(call, at(0, 1), Last::Followed),
        kernel::__NR_utimensat => change(call, at(0, 1), follow(!flag(3, nofollow))),
        kernel::__NR_name_to_handle_at => change(call, at(0, 1), follow(!flag(4, nofollow))),
        kernel::__NR_open_tree | kernel::__NR_open_tree_attr => {
            change(call, at(0, 1), follow(!flag(2, nofollow)))
        }
        kernel::__NR_setxattrat
        | kernel::__NR_getxattrat
        | kernel::__NR_listxattrat
        | kernel::__NR_removexattrat => change(call, at(0, 1), follow(!flag(2, nofollow))),
        kernel::__NR_file_getattr | kernel::__NR_file_setattr => {
            change(call, at(0, 1), follow(!flag(4, nofollow)))
        }
        kernel::__NR_mount_setattr => change(call, at(0, 1), follow(!flag(2, nofollow))),
        kernel::__NR_fspick => change(call, at(0, 1), follow(!flag(2, FSPICK_NOFOLLOW))),
        kernel::__NR_move_mount => move_mount(call),
        kernel::__NR_fsconfig => configure_mount(call),
        kernel::__NR_unshare => unshare(call),
        kernel::__NR_landlock_add_rule => allow_below(call),
        kernel::__NR_landlock_restrict_self => {
            exec::make_all_real()?;
            Ok(None)
        }
        kernel::__NR_pivot_root => {
            make_reachable(call, plain(1))?;
            change(call, plain(0), Last::Followed)
        }
        kernel::__NR_mount => mount(call),
        kernel::__NR_quotactl => change(call, plain(1), Last::Followed),
        kernel::__NR_fanotify_mark => change(call, at(3, 4), Last::Followed),
        kernel::__NR_inotify_add_watch => watch(call),
        kernel::__NR_execve => execute(call, plain(0)),
        kernel::__NR_execveat => execute(call, at(0, 1)),
        kernel::__NR_bind | kernel::__NR_connect => socket(call),
        kernel::__NR_io_uring_setup => Err(Errno::NOSYS),
        kernel::__NR_setuid
        | kernel::__NR_setreuid
        | kernel::__NR_setresuid
        | kernel::__NR_setfsuid => become_another(call),
        kernel::__NR_rt_sigaction
        | kernel::__NR_rt_sigprocmask
        | kernel::__NR_rt_sigsuspend
        | kernel::__NR_ppoll
        | kernel::__NR_pselect6
        | kernel::__NR_epoll_pwait
        | kernel::__NR_epoll_pwait2
        | kernel::__NR_io_pgetevents
        | kernel::__NR_prctl => signals::serve(call).map(Some),
        kernel::__NR_getdents64 => list(call),
        kernel::__NR_getdents => list_old(call),
        kernel::__NR_fstat => stat_descriptor(call, call.int(0)),
        kernel::__NR_lseek => seek(call),
        kernel::__NR_dup | kernel::__NR_dup2 | kernel::__NR_dup3 => double(call).map(Some),
        kernel::__NR_fsetxattr
        | kernel::__NR_fgetxattr
        | kernel::__NR_flistxattr
        | kernel::__NR_fremovexattr
        | kernel::__NR_flock
        | kernel::__NR_open_by_handle_at
        | kernel::__NR_quotactl_fd => change_open(call, 0),
        kernel::__NR_fcntl => control(call),
        kernel::__NR_ioctl => request(call),
        kernel::__NR_fsync | kernel::__NR_fdatasync => sync(call),
        kernel::__NR_syncfs => sync_all(call),
        kernel::__NR_fstatfs => file_system_of(call),
        _ => Ok(None),
    }
}

/// The flag of fspick(2) that has no link followed at the end.
const FSPICK_NOFOLLOW: u32 = 2;

/// Finds what a call means.
fn find(call: &Call, name: Name, last: Last, asked: Asked) -> Result<Where> {
    let directory = name.directory.map_or(CWD, |at| call.int(at));
    let path = call.path(name.path)?;
    if path.is_empty() {
        return Ok(Where::Outside);
    }
    let found = place::find_as_written(directory, path, last)?;
    if asked == Asked::No {
        return Ok(found);
    }
    match (or_through_links(found, directory, path, last)?, found) {
        // The kernel has said so already.
        (Where::In(Spot { place: Place::Foreign | Place::Detached(_), .. }), Where::In(_)) => {
            Err(Errno::NOENT)
        }
        (again, _) => Ok(again),
    }
}

/// Looks again where only the kernel was to answer.
fn or_through_links(found: Where, directory: i32, path: &[u8], last: Last) -> Result<Where> {
    match found {
        Where::Outside => find_again(directory, path, last),
        // What is real there may be a link.
        Where::In(Spot { place: Place::Foreign | Place::Detached(_), .. }) => {
            match find_again(directory, path, last)? {
                Where::Outside => Ok(found),
                again => Ok(again),
            }
        }
        Where::In(_) => Ok(found),
    }
}

/// Finds what a path means, through links outside of projections as well.
pub(crate) fn find_anywhere(path: &[u8]) -> Result<Where> {
    find_any(CWD, path, Last::Followed)
}

fn find_any(directory: i32, path: &[u8], last: Last) -> Result<Where> {
    or_through_links(place::find(directory, path, last)?, directory, path, last)
}

/// Finds what a call means that the kernel found nothing for, or that must not be mistaken.
fn find_again(directory: i32, path: &[u8], last: Last) -> Result<Where> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) = slash.map_or((&b""[..], path), |slash| path.split_at(slash));
    let (itself, in_folder) = missed(directory, path, folder)?;
    if caches::is_missed(itself) {
        return Ok(Where::Outside);
    }
    // Where the directory leads nowhere only a link at the end does.
    let may_be_link = last == Last::Followed && !name.ends_with(b"/");
    let is_link = may_be_link && sys::is_link(directory, &Text::of(path)?);
    let found = match is_link || !caches::is_missed(in_folder) {
        true => walk(directory, path, last),
        false => Where::Outside,
    };
    if matches!(found, Where::Outside) {
        if may_be_link {
            caches::miss(itself);
        }
        if !is_link {
            caches::miss(in_folder);
        }
    }
    Ok(found)
}

fn walk(directory: i32, path: &[u8], last: Last) -> Where {
    // What the kernel would say to a path that can't be followed it says itself.
    place::find_through_links(directory, path, last).unwrap_or(Where::Outside)
}

/// Returns what a path is remembered by that leads nowhere, and what the names in its folder are.
fn missed(directory: i32, path: &[u8], folder: &[u8]) -> Result<(u64, u64)> {
    if path.first() == Some(&b'/') || directory == CWD {
        // A folder of the root is no path from elsewhere.
        let start = if path.first() == Some(&b'/') { 0 } else { caches::missed_below_working() };
        return Ok((quick::missed(path), quick::missed_from(!start, folder)));
    }
    // Asked each time, for it is asked only where the kernel found nothing.
    let stat = sys::stat_of(directory)?;
    let start = stat.st_ino.wrapping_mul(0x100_0000_01b3) ^ stat.st_dev;
    Ok((quick::missed_from(start, path), quick::missed_from(!start, folder)))
}

/// As [`find`], for calls that change names: a path that leads in through a link must not be missed.
fn find_surely(call: &Call, name: Name, last: Last) -> Result<Where> {
    let found = find(call, name, last, Asked::No)?;
    let directory = name.directory.map_or(CWD, |at| call.int(at));
    let path = call.path(name.path)?;
    if path.is_empty() { Ok(found) } else { or_through_links(found, directory, path, last) }
}

/// Makes the links of the tree real that a path leads through, and the directories that `..` is asked of, so that
/// the kernel can follow it.
pub(crate) fn make_way(directory: i32, path: &[u8], last: Last, links: u32) -> Result<()> {
    make_way_found(directory, path, last, links, place::find)
}

/// As [`make_way`], of a path that is known to lead into a projection, be it through links outside.
pub(crate) fn make_any_way(directory: i32, path: &[u8], last: Last) -> Result<()> {
    make_way_found(directory, path, last, LINKS_MAX, find_any)
}

fn make_way_found(
    directory: i32,
    path: &[u8],
    last: Last,
    links: u32,
    find: fn(i32, &[u8], Last) -> Result<Where>,
) -> Result<()> {
    if links == 0 {
        return Err(Errno::LOOP);
    }
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| slash);
    let whole = (last == Last::Followed).then_some(path.len());
    for end in ends.chain(whole) {
        let (above, rest) = path.split_at(end);
        if above.is_empty() || above.ends_with(b"/") {
            continue;
        }
        let Where::In(Spot { shown, place: Place::Pristine(id), directory: folder }) =
            find(directory, above, Last::Itself)?
        else {
            continue;
        };
        if let Some(Kind::Symlink { target }) = shown.manifest.kind(id) {
            real::make_real(shown, id)?;
            let mut text = Text::new();
            if target.first() != Some(&b'/') {
                shown.path(folder, &mut text)?;
                text.push(b"/")?;
            }
            text.push(target)?;
            make_way(CWD, text.bytes(), Last::Followed, links - 1)?;
            if !rest.is_empty()
                && let Where::In(Spot { shown, place: Place::Pristine(to), .. }) =
                    find(directory, above, Last::Followed)?
            {
                real::make_real(shown, to)?;
            }
        } else if rest.starts_with(b"/..") {
            real::make_real(shown, id)?;
        }
    }
    Ok(())
}

/// Makes what a name means real, following links, and the way to it.
fn make_reachable(call: &Call, name: Name) -> Result<()> {
    let Where::In(spot) = find_surely(call, name, Last::Followed)? else { return Ok(()) };
    need(spot)?;
    let directory = name.directory.map_or(CWD, |at| call.int(at));
    make_any_way(directory, call.path(name.path)?, Last::Followed)
}

/// How many links a path leads through at most, see path_resolution(7).
pub(crate) const LINKS_MAX: u32 = 40;

/// Lets the kernel do a call, whose paths it can follow by now. What is relative to a stand-in is named in full.
fn pass_named(call: &Call, names: &[(Name, Last)]) -> Result<isize> {
    counts::passed();
    let mut is_straight = true;
    for (name, _) in names {
        let directory = name.directory.map_or(CWD, |at| call.int(at));
        is_straight = is_straight && place::is_straight(directory, call.path(name.path)?)?;
    }
    if is_straight { Ok(call.pass()) } else { pass_rewritten(call, names) }
}

/// As [`pass_named`], of a call that looks at what is there: where the tree knows which entry that is, the way to it need
/// not become real, as that of `lib/..`, which a list of all names asks about.
fn pass_look(call: &Call, name: Name, last: Last, spot: Spot) -> Result<isize> {
    let path = call.path(name.path)?;
    let directory = name.directory.map_or(CWD, |at| call.int(at));
    match spot.place {
        // What a descriptor is open on may have been moved.
        Place::Detached(id)
            if (directory == CWD || path.starts_with(b"/"))
                && goes_up_in_tree(directory, path)? =>
        {
            pass_at(call, name, spot.shown, id)
        }
        _ => pass_named(call, &[(name, last)]),
    }
}

/// Tells whether a path goes up, and only from directories that the tree answers for, to a name that need be no directory.
fn goes_up_in_tree(directory: i32, path: &[u8]) -> Result<bool> {
    let mut goes_up = false;
    for (slash, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let (above, rest) = path.split_at(slash);
        if !matches!(rest, [b'/', b'.', b'.'] | [b'/', b'.', b'.', b'/', ..]) {
            continue;
        }
        match place::find(directory, above, Last::Followed)? {
            Where::In(Spot { place: Place::Pristine(_), .. }) => goes_up = true,
            _ => return Ok(false),
        }
    }
    Ok(goes_up && !path.ends_with(b"/"))
}

#[cold]
#[inline(never)]
fn pass_at(call: &Call, name: Name, shown: &Shown, id: EntryId) -> Result<isize> {
    counts::passed();
    let mut text = Text::new();
    shown.path(id, &mut text)?;
    let mut rewritten = *call;
    rewritten.args[name.path] = text.pointer().addr();
    Ok(rewritten.pass())
}

/// As [`pass_named`], of paths that need help.
#[cold]
#[inline(never)]
fn pass_rewritten(call: &Call, names: &[(Name, Last)]) -> Result<isize> {
    let mut rewritten = *call;
    let mut texts = [const { Text::new() }; 2];
    for ((name, last), text) in names.iter().zip(&mut texts) {
        let path = call.path(name.path)?;
        if path.is_empty() {
            continue;
        }
        make_way(name.directory.map_or(CWD, |at| call.int(at)), path, *last, LINKS_MAX)?;
        let directory = name.directory.map_or(CWD, |at| call.int(at));
        let from = match place::through_descriptor(path)? {
            Some((_, _, [])) if *last == Last::Itself => None,
            None if path.first() != Some(&b'/') && directory != CWD => {
                match place::entry_of(directory)? {
                    Some((shown, id, true)) => Some((shown, id, path)),
                    _ => None,
                }
            }
            other => other,
        };
        if let Some((shown, id, rest)) = from {
            match place::find(directory, path, *last)? {
                Where::In(Spot {
                    shown, place: Place::Pristine(id) | Place::Detached(id), ..
                }) => {
                    shown.path(id, text)?;
                }
                _ => {
                    if rest.starts_with(b"..") {
                        real::make_real(shown, id)?;
                    }
                    shown.path(id, text)?;
                    text.push_name(rest)?;
                }
            }
            if let Some(at) = name.directory {
                rewritten.args[at] = CWD as usize;
            }
            rewritten.args[name.path] = text.pointer().addr();
        }
    }
    Ok(rewritten.pass())
}

/// Makes the file that is meant real, following links, and lets the kernel do the rest.
fn change(call: &Call, name: Name, last: Last) -> Result<Option<isize>> {
    if !sys::may_read(call.args[name.path]) || call.path(name.path)?.is_empty() {
        // The descriptor itself is meant, as utimensat(2) has it.
        return name.directory.map_or(Ok(None), |at| change_open(call, at));
    }
    match find_surely(call, name, last)? {
        Where::Outside => Ok(None),
        Where::In(spot) => {
            show_what_is_wrong(spot)?;
            Ok(Some(pass_named(call, &[(name, last)])?))
        }
    }
}

/// The process goes on as another user, who may neither read the store nor put anything beside the entries: there must
/// be nothing left to make real.
fn become_another(call: &Call) -> Result<Option<isize>> {
    let user = caches::user();
    let users = match call.number as u32 {
        kernel::__NR_setresuid => 3,
        kernel::__NR_setreuid => 2,
        _ => 1,
    };
    let is_another = |at: usize| call.word(at) != u32::MAX && call.word(at) != user;
    if (0..users).any(is_another) {
        exec::make_all_real()?;
    }
    let result = call.pass();
    caches::forget_user();
    Ok(Some(result))
}

/// As [`change`], for who may do what: below a directory that its owner may not search any more, or that is another
/// user's, the kernel has to answer.
fn change_rights(call: &Call, name: Name, last: Last, mode: Option<u32>) -> Result<Option<isize>> {
    if sys::may_read(call.args[name.path])
        && !call.path(name.path)?.is_empty()
        && let Where::In(Spot { shown, place: Place::Pristine(id) | Place::Detached(id), .. }) =
            find_surely(call, name, last)?
    {
        close_off(shown, id, mode)?;
    }
    change(call, name, last)
}

/// As [`change_rights`], of what a descriptor is open on.
fn change_rights_open(call: &Call, mode: Option<u32>) -> Result<Option<isize>> {
    if let Some((shown, id, _)) = place::entry_of(call.int(0))? {
        close_off(shown, id, mode)?;
    }
    change_open(call, 0)
}

/// Makes what is in a directory real that will have this mode, or another owner.
fn close_off(shown: &'static Shown, id: EntryId, mode: Option<u32>) -> Result<()> {
    let is_directory = matches!(shown.manifest.kind(id), Some(Kind::Directory { .. }));
    let keeps = |bits: u32| mode.is_some_and(|mode| mode & bits == bits);
    // Root searches whatever it owns.
    if !is_directory || keeps(0o500) || !is_there(shown, id) || shown.record.uid == 0 {
        return Ok(());
    }
    match keeps(0o100) {
        true => real::make_real(shown, id)?,
        false => real::make_subtree_real(shown, id)?,
    }
    become_real(shown, id);
    Ok(())
}

/// Puts the real directories in the place of this process's stand-ins for what is at or below `id`: soon no path leads
/// there.
fn become_real(shown: &'static Shown, id: EntryId) {
    for (descriptor, entry) in stand_ins_below(shown, id) {
        if !shown.is_pristine(entry) {
            let _is_real = put_in_place(shown, entry, descriptor).is_ok();
        }
    }
}

/// Returns this process's stand-ins for what is at or below an entry.
fn stand_ins_below(shown: &'static Shown, id: EntryId) -> impl Iterator<Item = (i32, EntryId)> {
    caches::stand_ins().filter_map(move |descriptor| match place::entry_of(descriptor) {
        Ok(Some((found, entry, true)))
            if core::ptr::eq(found, shown) && is_below(shown, entry, id) =>
        {
            Some((descriptor, entry))
        }
        _ => None,
    })
}

/// Puts the real directory in the place of a stand-in for it; its list goes on where it was.
fn put_in_place(shown: &Shown, id: EntryId, descriptor: i32) -> Result<()> {
    let next = list::real_offset(caches::offset(descriptor)?);
    let opened = open_real(shown, id)?;
    let is_put = sys::seek(opened, next, kernel::SEEK_SET);
    sys::replace(opened, descriptor);
    sys::close(opened);
    caches::remember(descriptor, if next == 0 { Known::Inside } else { Known::Mixed });
    is_put.map(drop)
}

/// Tells whether an entry is another one, or below it.
fn is_below(shown: &Shown, entry: EntryId, above: EntryId) -> bool {
    let mut at = entry;
    while at != above && at != EntryId::ROOT {
        at = shown.manifest.parent(at).unwrap_or(EntryId::ROOT);
    }
    at == above
}

/// Makes what is meant real; what is missing is an error.
fn need(spot: Spot) -> Result<()> {
    match spot.place {
        Place::Pristine(id) => real::make_real(spot.shown, id),
        Place::Missing => Err(Errno::NOENT),
        Place::NotDirectory(_) => Err(Errno::NOTDIR),
        Place::Detached(_) | Place::Foreign => Ok(()),
    }
}

/// As [`need`], for calls that may be wrong in several ways: the kernel knows which it looks at first.
fn show_what_is_wrong(spot: Spot) -> Result<()> {
    match spot.place {
        Place::Pristine(id) | Place::NotDirectory(id) => real::make_real(spot.shown, id),
        Place::Missing => real::make_real(spot.shown, spot.directory),
        Place::Detached(_) | Place::Foreign => Ok(()),
    }
}

/// As [`change`], of what a descriptor is open on: a stand-in has to become the directory.
fn change_open(call: &Call, at: usize) -> Result<Option<isize>> {
    let Some((shown, id, true)) = place::entry_of(call.int(at))? else { return Ok(None) };
    real::make_real(shown, id)?;
    put_in_place(shown, id, call.int(at))?;
    counts::passed();
    Ok(Some(call.pass()))
}

fn open_real(shown: &Shown, id: EntryId) -> Result<i32> {
    let mut path = Text::new();
    shown.path(id, &mut path)?;
    sys::open(&path, kernel::O_RDONLY | kernel::O_DIRECTORY, 0)
}

// ---- what is answered

fn stat(call: &Call, name: Name, last: Last, asked: Asked) -> Result<Option<isize>> {
    let is_wide = call.number as u32 == kernel::__NR_statx;
    let empty = kernel::AT_EMPTY_PATH;
    let flags = if is_wide { call.word(2) } else { call.word(3) };
    if let Some(at) = name.directory
        && flags & empty != 0
        && (call.args[name.path] == 0 || call.path(name.path)?.is_empty())
    {
        return if call.int(at) == CWD { Ok(None) } else { stat_descriptor(call, call.int(at)) };
    }
    let Where::In(spot) = find(call, name, last, asked)? else { return Ok(None) };
    match spot.place {
        Place::Pristine(id) => give_stat(call, spot.shown, id).map(Some),
        Place::Missing => Err(Errno::NOENT),
        Place::NotDirectory(_) => Err(Errno::NOTDIR),
        Place::Detached(_) | Place::Foreign => {
            let result = pass_look(call, name, last, spot)?;
            keep_identity(call, result)?;
            Ok(Some(result))
        }
    }
}

/// Where a call wants what it asks for.
fn stat_room(call: &Call) -> usize {
    match call.number as u32 {
        kernel::__NR_statx => call.args[4],
        kernel::__NR_newfstatat => call.args[2],
        _ => call.args[1],
    }
}

fn give_stat(call: &Call, shown: &Shown, id: EntryId) -> Result<isize> {
    let stat = answer::stat(shown, id)?;
    if call.number as u32 != kernel::__NR_statx {
        sys::give(stat_room(call), stat)?;
        return Ok(0);
    }
    let mut wide = match call.word(3) & !WIDE_KNOWN {
        0 => known_wide(shown)?,
        _ => ask_wide(shown, call.word(3))?,
    };
    answer::widen(&stat, &mut wide);
    wide.stx_mask = wide.stx_mask & !kernel::STATX_BTIME | kernel::STATX_BASIC_STATS;
    wide.stx_attributes = 0;
    sys::give(call.args[4], wide)?;
    Ok(0)
}

/// What programs mostly ask statx(2) for.
const WIDE_KNOWN: u32 = kernel::STATX_BASIC_STATS | kernel::STATX_BTIME | kernel::STATX_MNT_ID;

/// Asks statx(2) about the directory of a projection: what the kernel alone knows of an entry, such as the mount, is the same.
fn ask_wide(shown: &Shown, mask: u32) -> Result<kernel::statx> {
    let mut wide = core::mem::MaybeUninit::<kernel::statx>::zeroed();
    let (path, room) = (OfRun(shown.record.directory), wide.as_mut_ptr().addr());
    let args = [CWD as usize, path.pointer().addr(), 0, mask as usize, room, 0];
    match sys::call(kernel::__NR_statx as usize, args) {
        0 => sys::value(room),
        error => Err(Errno(error.unsigned_abs() as u32)),
    }
}

/// As [`ask_wide`], once, as long as nothing is mounted.
fn known_wide(shown: &Shown) -> Result<kernel::statx> {
    let names = counts::names() + 1;
    if shown.wide_names.load(Ordering::Acquire) == names {
        return sys::value(shown.wide.as_ptr().addr());
    }
    let wide = ask_wide(shown, kernel::STATX_BASIC_STATS)?;
    let words: [u64; WIDE_WORDS] = sys::value(core::ptr::from_ref(&wide).addr())?;
    for (place, word) in shown.wide.iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    shown.wide_names.store(names, Ordering::Release);
    Ok(wide)
}

/// Sees to what stat(2) has said of a file that may be a projection's, or of a stand-in.
pub(crate) fn fix_up(call: &Call) -> isize {
    let fixed = match quick::descriptor_of(call) {
        Some(_) if is_stand_in(call) => return serve(call, Asked::No),
        _ => keep_identity(call, 0),
    };
    match fixed {
        Ok(()) => 0,
        Err(error) => error.returned(),
    }
}

/// Tells whether stat(2) has said what it says of a stand-in.
fn is_stand_in(call: &Call) -> bool {
    let found = match call.number as u32 {
        kernel::__NR_statx => sys::value(call.args[4]).map(|wide| answer::narrow(&wide)),
        _ => sys::value(stat_room(call)),
    };
    let is_one = |stat: sys::Stat| {
        let mut all = crate::run::each_shown().map(|shown| &shown.record);
        all.any(|one| (stat.st_dev, stat.st_ino) == (one.stand_in_device, one.stand_in_inode))
    };
    found.is_ok_and(is_one)
}

/// Gives a real file of a projection the identity that its entry had.
fn keep_identity(call: &Call, result: isize) -> Result<()> {
    if result != 0 {
        return Ok(());
    }
    let room = stat_room(call);
    if call.number as u32 == kernel::__NR_statx {
        let mut wide: kernel::statx = sys::value(room)?;
        let mut stat = answer::narrow(&wide);
        if fix(&mut stat)? {
            let (attributes, mask) = (wide.stx_attributes, wide.stx_mask);
            answer::widen(&stat, &mut wide);
            (wide.stx_attributes, wide.stx_mask) = (attributes, mask);
            sys::give(room, wide)?;
        }
        return Ok(());
    }
    let mut stat: sys::Stat = sys::value(room)?;
    if fix(&mut stat)? { sys::give(room, stat) } else { Ok(()) }
}

fn fix(stat: &mut sys::Stat) -> Result<bool> {
    for shown in crate::run::each_shown() {
        if stat.st_dev == shown.record.device
            && let Some(id) = place::entry_with(shown, stat.st_ino)
        {
            answer::keep_identity(shown, id, stat);
            return Ok(true);
        }
    }
    Ok(false)
}

fn stat_descriptor(call: &Call, descriptor: i32) -> Result<Option<isize>> {
    match place::entry_of(descriptor) {
        Ok(Some((shown, id, true))) if shown.is_pristine(id) => {
            give_stat(call, shown, id).map(Some)
        }
        Ok(Some((shown, id, true))) => {
            let mut path = Text::new();
            shown.path(id, &mut path)?;
            let mut stat = sys::stat_at(CWD, &path, kernel::AT_SYMLINK_NOFOLLOW)?;
            answer::keep_identity(shown, id, &mut stat);
            if call.number as u32 == kernel::__NR_statx {
                let mut wide: kernel::statx = sys::value(call.args[4])?;
                answer::widen(&stat, &mut wide);
                wide.stx_mask = kernel::STATX_BASIC_STATS;
                sys::give(call.args[4], wide)?;
            } else {
                sys::give(stat_room(call), stat)?;
            }
            Ok(Some(0))
        }
        Ok(Some((_, _, false))) => {
            counts::passed();
            let result = call.pass();
            keep_identity(call, result)?;
            Ok(Some(result))
        }
        Ok(None) | Err(_) => Ok(None),
    }
}

fn access(call: &Call, name: Name, mode: u32, flags: u32, asked: Asked) -> Result<Option<isize>> {
    let last = if flags & kernel::AT_SYMLINK_NOFOLLOW != 0 { Last::Itself } else { Last::Followed };
    let Where::In(spot) = find(call, name, last, asked)? else { return Ok(None) };
    match spot.place {
        Place::Pristine(id) => {
            answer::access(spot.shown, id, mode, flags & kernel::AT_EACCESS != 0)?;
            Ok(Some(0))
        }
        Place::Missing => Err(Errno::NOENT),
        Place::NotDirectory(_) => Err(Errno::NOTDIR),
        Place::Detached(_) | Place::Foreign => pass_look(call, name, last, spot).map(Some),
    }
}

fn read_link(call: &Call, name: Name, room: usize, asked: Asked) -> Result<Option<isize>> {
    if let Some((shown, id, [])) = place::through_descriptor(named_in_full(call, name)?.bytes())? {
        let mut text = Text::new();
        shown.path(id, &mut text)?;
        return give_bytes(call, room, text.bytes()).map(Some);
    }
    let Where::In(spot) = find(call, name, Last::Itself, asked)? else { return Ok(None) };
    match spot.place {
        Place::Pristine(id) => match spot.shown.manifest.kind(id) {
            Some(Kind::Symlink { target }) => give_bytes(call, room, target).map(Some),
            _ => Err(Errno::INVAL),
        },
        Place::Missing => Err(Errno::NOENT),
        Place::NotDirectory(_) => Err(Errno::NOTDIR),
        Place::Detached(_) | Place::Foreign => pass_named(call, &[(name, Last::Itself)]).map(Some),
    }
}

fn give_bytes(call: &Call, room: usize, bytes: &[u8]) -> Result<isize> {
    if call.int(room + 1) <= 0 {
        return Err(Errno::INVAL);
    }
    let room = sys::room(call.args[room], bytes.len().min(call.args[room + 1]))?;
    room.copy_from_slice(bytes.get(..room.len()).unwrap_or_default());
    Ok(room.len() as isize)
}

/// Returns a path; one that may be the number of a descriptor, with its directory.
fn named_in_full(call: &Call, name: Name) -> Result<Text> {
    let path = call.path(name.path)?;
    let mut text = Text::new();
    match name.directory {
        Some(at) if call.int(at) != CWD && path.iter().all(u8::is_ascii_digit) => {
            let link = Text::of_descriptor(call.int(at))?;
            if !path.is_empty() && sys::link_target(&link, &mut text).is_ok() {
                text.push_name(path)?;
            }
        }
        _ => text.push(path)?,
    }
    Ok(text)
}

fn attribute(call: &Call, last: Last, asked: Asked) -> Result<Option<isize>> {
    // Before the file is looked for, see `import_xattr_name` of the kernel.
    let wanted = call.path(1)?;
    if wanted.is_empty() || wanted.len() > 255 {
        return Ok(None);
    }
    let Where::In(spot) = find(call, plain(0), last, asked)? else { return Ok(None) };
    let Place::Pristine(id) = spot.place else {
        need(spot)?;
        return pass_look(call, plain(0), last, spot).map(Some);
    };
    let found = spot.shown.manifest.xattrs(id).find(|(name, _)| *name == wanted);
    let Some((_, value)) = found else { return Err(no_attribute(spot.shown, wanted)) };
    give_value(call, 2, value).map(Some)
}

/// Returns the error for an attribute that an entry does not have: the kernel knows which kinds of them there are.
fn no_attribute(shown: &Shown, wanted: &[u8]) -> Errno {
    let is = |kind: &[u8]| wanted.starts_with(kind);
    if is(b"user.") || is(b"security.") || is(b"trusted.") || is(b"system.posix_acl_") {
        return Errno::NODATA;
    }
    let texts = Text::of(shown.record.directory).and_then(|path| Ok((path, Text::of(wanted)?)));
    let Ok((path, name)) = texts else { return Errno::RANGE };
    let args = [path.pointer().addr(), name.pointer().addr(), 0, 0, 0, 0];
    let result = sys::call(kernel::__NR_getxattr as usize, args);
    if result < 0 { Errno(result.unsigned_abs() as u32) } else { Errno::NODATA }
}

fn give_value(call: &Call, room: usize, value: &[u8]) -> Result<isize> {
    match call.args[room + 1] {
        0 => {}
        size if size < value.len() => return Err(Errno::RANGE),
        _ => sys::room(call.args[room], value.len())?.copy_from_slice(value),
    }
    Ok(value.len() as isize)
}

fn attributes(call: &Call, last: Last, asked: Asked) -> Result<Option<isize>> {
    let Where::In(spot) = find(call, plain(0), last, asked)? else { return Ok(None) };
    let Place::Pristine(id) = spot.place else {
        need(spot)?;
        return pass_look(call, plain(0), last, spot).map(Some);
    };
    if spot.shown.manifest.xattrs(id).next().is_none() {
        return Ok(Some(0));
    }
    // Rare: the kernel lists those of the real file.
    real::make_real(spot.shown, id)?;
    pass_named(call, &[(plain(0), last)]).map(Some)
}

fn file_system(call: &Call, asked: Asked) -> Result<Option<isize>> {
    let Where::In(spot) = find(call, plain(0), Last::Followed, asked)? else { return Ok(None) };
    match spot.place {
        Place::Pristine(_) => {
            let path = Text::of(spot.shown.record.directory)?;
            let mut rewritten = *call;
            rewritten.args[0] = path.pointer().addr();
            Ok(Some(rewritten.pass()))
        }
        _ => {
            need(spot)?;
            pass_named(call, &[(plain(0), Last::Followed)]).map(Some)
        }
    }
}

// ---- opening and listing

fn open_how(call: &Call, asked: Asked) -> Result<Option<isize>> {
    if call.args[3] < size_of::<kernel::open_how>() {
        return Ok(None);
    }
    // Whatever is wrong with its arguments is said before a path is looked at, be it none.
    let mut of_none = *call;
    of_none.args[1] = c"".as_ptr().addr();
    if of_none.pass() != Errno::NOENT.returned() {
        return Ok(None);
    }
    let how: kernel::open_how = sys::value(call.args[2])?;
    if how.resolve == 0 {
        return open(call, at(0, 1), how.flags as u32, asked);
    }
    // What is real the kernel resolves by its own rules, which count from the very directory.
    let is_root = how.resolve & u64::from(kernel::RESOLVE_IN_ROOT) != 0;
    let mut path = call.path(1)?;
    while is_root && let Some(rest) = path.strip_prefix(b"/").or(path.strip_prefix(b"../")) {
        path = rest;
    }
    let found = if path.is_empty() {
        Where::Outside
    } else {
        place::find(call.int(0), path, Last::Followed)?
    };
    if let Where::In(spot) = or_through_links_of(found, call.int(0), path)? {
        show_what_is_wrong(spot)?;
        make_way(call.int(0), path, Last::Followed, LINKS_MAX)?;
    }
    match call.path(1)?.starts_with(b"/") && !is_root {
        true => Ok(None),
        false => change_open(call, 0),
    }
}

/// As [`or_through_links`], of a path that may be empty.
fn or_through_links_of(found: Where, directory: i32, path: &[u8]) -> Result<Where> {
    if path.is_empty() {
        return Ok(found);
    }
    or_through_links(found, directory, path, Last::Followed)
}

fn open(call: &Call, name: Name, flags: u32, asked: Asked) -> Result<Option<isize>> {
    let has = |flag: u32| flags & flag == flag;
    let makes = has(kernel::O_CREAT);
    let is_followed = !(has(kernel::O_NOFOLLOW) || makes && has(kernel::O_EXCL));
    let last = if is_followed { Last::Followed } else { Last::Itself };
    let found = if makes { find_surely(call, name, last)? } else { find(call, name, last, asked)? };
    let Where::In(spot) = found else { return Ok(None) };
    let shown = spot.shown;
    match spot.place {
        Place::NotDirectory(_) => return Err(Errno::NOTDIR),
        Place::Missing if makes => real::make_real(shown, spot.directory)?,
        Place::Missing => return Err(Errno::NOENT),
        Place::Pristine(_) if makes && has(kernel::O_EXCL) => return Err(Errno::EXIST),
        Place::Pristine(id) => match shown.manifest.kind(id).ok_or(Errno::IO)? {
            Kind::Directory { .. } if has(kernel::O_PATH) || has(kernel::O_TMPFILE) => {
                real::make_real(shown, id)?;
            }
            // The kernel knows whether it refuses both at once.
            _ if makes && has(kernel::O_DIRECTORY) => real::make_real(shown, id)?,
            Kind::Directory { .. } if makes => return Err(Errno::ISDIR),
            Kind::Directory { .. } if flags & kernel::O_ACCMODE != kernel::O_RDONLY => {
                return Err(Errno::ISDIR);
            }
            Kind::Directory { .. } => return open_stand_in(shown, id, flags).map(Some),
            Kind::File { .. } if has(kernel::O_DIRECTORY) => return Err(Errno::NOTDIR),
            Kind::Symlink { .. } if !has(kernel::O_PATH) => {
                return Err(if has(kernel::O_DIRECTORY) { Errno::NOTDIR } else { Errno::LOOP });
            }
            Kind::File { .. } | Kind::Symlink { .. } => real::make_real(shown, id)?,
        },
        Place::Detached(_) | Place::Foreign => {}
    }
    let result = pass_named(call, &[(name, last)])?;
    if let Ok(descriptor) = usize::try_from(result) {
        caches::forget(descriptor, descriptor);
    }
    Ok(Some(result))
}

/// Opens a stand-in for a directory that is not real.
fn open_stand_in(shown: &'static Shown, id: EntryId, flags: u32) -> Result<isize> {
    answer::access(shown, id, kernel::R_OK, true)?;
    // With its NUL, as it lies in the run file.
    let path = shown.record.stand_in.as_ptr().addr();
    let args = [CWD as usize, path, (flags & !kernel::O_NOFOLLOW) as usize, 0, 0, 0];
    let result = sys::call(kernel::__NR_openat as usize, args);
    let Ok(descriptor) = usize::try_from(result) else { return Ok(result) };
    let (opened, offset) = (descriptor as i32, list::offset_of(id, 0));
    caches::remember_stand_in(opened, StandIn { projection: shown.index, entry: id });
    caches::remember_key(opened, place::key_of(shown, id)?);
    // Whoever gets the descriptor in a way that nobody hears of finds the right directory.
    if sys::seek(opened, offset, kernel::SEEK_SET).is_err() {
        caches::forget(descriptor, descriptor);
        sys::close(opened);
        return Err(Errno::IO);
    }
    caches::keep_offset(opened, offset);
    Ok(result)
}

/// Makes another descriptor mean what a stand-in's means.
fn double(call: &Call) -> Result<isize> {
    let result = call.pass();
    if let Ok(descriptor) = i32::try_from(result)
        && descriptor >= 0
    {
        caches::double(call.int(0), descriptor);
    }
    Ok(result)
}

fn list(call: &Call) -> Result<Option<isize>> {
    let room = sys::room(call.args[1], call.args[2].min(1 << 20))?;
    match place::entry_of(call.int(0)) {
        Ok(Some((shown, _, true))) => {
            list::list_stand_in(shown, call.int(0), room).map(|used| Some(used as isize))
        }
        Ok(Some((shown, id, false)))
            if matches!(shown.manifest.kind(id), Some(Kind::Directory { .. })) =>
        {
            list::list_real(shown, id, call.int(0), room).map(|used| Some(used as isize))
        }
        _ => Ok(None),
    }
}

/// As [`list`], in the form of getdents(2).
fn list_old(call: &Call) -> Result<Option<isize>> {
    let listed = list(call)?;
    if let Some(used) = listed.and_then(|used| usize::try_from(used).ok()) {
        list::make_old(sys::room(call.args[1], used)?);
    }
    Ok(listed)
}

fn seek(call: &Call) -> Result<Option<isize>> {
    let (descriptor, offset) = (call.int(0), call.args[1].cast_signed() as i64);
    let Ok(Some((_, id, true))) = place::entry_of(descriptor) else { return Ok(None) };
    let to_start = list::offset_of(id, 0);
    match call.word(2) {
        // To the start: but the entry must not be lost.
        kernel::SEEK_SET if offset == 0 => move_to(descriptor, to_start)?,
        kernel::SEEK_SET if list::entry_at(offset) == id => move_to(descriptor, offset)?,
        kernel::SEEK_CUR if offset == 0 => {
            let found = caches::offset(descriptor)?;
            return Ok(Some(if found == to_start { 0 } else { found as isize }));
        }
        _ => {
            caches::give_offset_back(descriptor);
            return Ok(None);
        }
    }
    Ok(Some(call.args[1].cast_signed()))
}

fn move_to(descriptor: i32, offset: i64) -> Result<()> {
    while !caches::move_on(descriptor, caches::offset(descriptor)?, offset)? {}
    Ok(())
}

/// Of what fcntl(2) does, all but this is the same for a stand-in.
fn control(call: &Call) -> Result<Option<isize>> {
    match call.word(1) {
        kernel::F_NOTIFY | kernel::F_SETLEASE => change_open(call, 0),
        kernel::F_DUPFD | kernel::F_DUPFD_CLOEXEC => double(call).map(Some),
        _ => Ok(None),
    }
}

/// As [`control`], of ioctl(2): what file systems answer, see ioctl_iflags(2).
fn request(call: &Call) -> Result<Option<isize>> {
    // The letters of requests to file systems: `f`, `v` and `X`.
    match (call.word(1) >> 8) as u8 {
        b'f' | b'v' | b'X' => change_open(call, 0),
        _ => Ok(None),
    }
}

/// Names in a directory that has become real have to be kept.
fn sync(call: &Call) -> Result<Option<isize>> {
    match place::entry_of(call.int(0)) {
        Ok(Some((shown, id, true))) if !shown.is_pristine(id) => change_open(call, 0),
        _ => Ok(None),
    }
}

/// The store may be on another file system than the projection.
fn file_system_of(call: &Call) -> Result<Option<isize>> {
    let Some((shown, _, true)) = place::entry_of(call.int(0))? else { return Ok(None) };
    let path = Text::of(shown.record.directory)?;
    let args = [path.pointer().addr(), call.args[1], 0, 0, 0, 0];
    Ok(Some(sys::call(kernel::__NR_statfs as usize, args)))
}

fn change_directory(call: &Call) -> Result<Option<isize>> {
    if let Where::In(spot) = find_surely(call, plain(0), Last::Followed)? {
        need(spot)?;
    }
    let result = pass_named(call, &[(plain(0), Last::Followed)])?;
    caches::set_working(Working::Unknown, None);
    Ok(Some(result))
}

fn change_directory_to(call: &Call) -> Result<Option<isize>> {
    let result = match place::entry_of(call.int(0)) {
        Ok(Some((shown, id, true))) => {
            real::make_real(shown, id)?;
            let mut path = Text::new();
            shown.path(id, &mut path)?;
            sys::call(kernel::__NR_chdir as usize, [path.pointer().addr(), 0, 0, 0, 0, 0])
        }
        _ => call.pass(),
    };
    caches::set_working(Working::Unknown, None);
    Ok(Some(result))
}

/// Below another root the tree has another name, and neither the store nor the shim may have one.
fn change_root(call: &Call) -> Result<Option<isize>> {
    let root = plain(0);
    make_reachable(call, root)?;
    let mut canonical = Text::new();
    if let Ok(folder) = sys::open(&Text::of(call.path(root.path)?)?, kernel::O_PATH, 0) {
        let found =
            Text::of_descriptor(folder).and_then(|link| sys::link_target(&link, &mut canonical));
        sys::close(folder);
        found?;
    }
    let path = canonical.bytes();
    let is_at = |path, above| place::rest_below(path, above).is_some();
    let is_seen = crate::run::records()
        .any(|(_, record)| is_at(record.directory, path) || is_at(path, record.directory));
    if is_seen && !path.is_empty() {
        exec::make_all_real()?;
    }
    change(call, root, Last::Followed)
}

fn watch(call: &Call) -> Result<Option<isize>> {
    let last = if call.word(2) & 0x0200_0000 != 0 { Last::Itself } else { Last::Followed };
    let Where::In(spot) = find_surely(call, plain(1), last)? else { return Ok(None) };
    match spot.place {
        Place::Pristine(id) | Place::Detached(id)
            if matches!(spot.shown.manifest.kind(id), Some(Kind::Directory { .. }))
                && spot.shown.state(id) != (State::Detached { inode: 0 }) =>
        {
            real::make_children_real(spot.shown, id)?;
        }
        _ => show_what_is_wrong(spot)?,
    }
    pass_named(call, &[(plain(1), last)]).map(Some)
}

/// As [`sync`], of the file system that the projection is on.
fn sync_all(call: &Call) -> Result<Option<isize>> {
    match place::entry_of(call.int(0)) {
        Ok(Some((_, _, true))) => change_open(call, 0),
        _ => Ok(None),
    }
}

/// Threads have places to work in, or descriptors, of their own from here on: nothing of either is remembered any more.
fn unshare(call: &Call) -> Result<Option<isize>> {
    let own = kernel::CLONE_FS | kernel::CLONE_FILES | kernel::CLONE_NEWNS | kernel::CLONE_NEWUSER;
    if call.word(0) & own != 0 {
        room::share_for_good();
    }
    Ok(None)
}

/// What landlock(7) allows below a directory it allows below that very one.
fn allow_below(call: &Call) -> Result<Option<isize>> {
    const PATH_BENEATH: u32 = 1;
    /// Where the descriptor is in `landlock_path_beneath_attr`.
    const DESCRIPTOR_OFFSET: usize = 8;
    if call.word(1) == PATH_BENEATH {
        let descriptor = sys::value::<i32>(call.args[2] + DESCRIPTOR_OFFSET)?;
        if let Some((shown, id, true)) = place::entry_of(descriptor)? {
            real::make_real(shown, id)?;
            put_in_place(shown, id, descriptor)?;
        }
    }
    Ok(None)
}

/// Files are named in the strings for an overlay, see fsconfig(2), and by paths and descriptors for others.
fn configure_mount(call: &Call) -> Result<Option<isize>> {
    const STRING: u32 = 1;
    const PATHS: core::ops::RangeInclusive<u32> = 3..=5;
    let is_layer = || Ok(matches!(call.path(2)?, [.., b'd', b'i', b'r'] | [.., b'+']));
    if PATHS.contains(&call.word(1)) || call.word(1) == STRING && is_layer()? {
        exec::make_all_real()?;
    }
    Ok(None)
}

/// What is moved may be named as well as the place.
fn move_mount(call: &Call) -> Result<Option<isize>> {
    for name in [at(0, 1), at(2, 3)] {
        if sys::may_read(call.args[name.path]) && !call.path(name.path)?.is_empty() {
            make_reachable(call, name)?;
        }
    }
    let (from, to) = ((at(0, 1), Last::Followed), (at(2, 3), Last::Followed));
    pass_named(call, &[from, to]).map(Some)
}

/// Only where something is mounted once more, or elsewhere, is its source a path, see mount(2).
fn mount(call: &Call) -> Result<Option<isize>> {
    if call.word(3) & (kernel::MS_BIND | kernel::MS_MOVE) != 0 {
        make_reachable(call, plain(0))?;
    }
    // Its layers are named in its options.
    if sys::may_read(call.args[2]) && call.path(2)? == b"overlay" {
        exec::make_all_real()?;
    }
    let changed = change(call, plain(1), Last::Followed)?;
    note_names(changed == Some(0));
    Ok(changed)
}

fn execute(call: &Call, name: Name) -> Result<Option<isize>> {
    let path = call.path(name.path)?;
    let is_outside = matches!(find(call, name, Last::Followed, Asked::No)?, Where::Outside);
    if !is_outside {
        make_reachable(call, name)?;
    }
    let program = program(call, name, path)?;
    let at = if name.directory.is_some() { 3 } else { 2 };
    let mut loads = exec::prepare(&program, call.args[at])?;
    // What the kernel can open is what is meant; else a link may lead into the tree.
    if loads == Loads::Unseen && is_outside && !path.is_empty() {
        make_reachable(call, name)?;
        loads = exec::prepare(&program, call.args[at])?;
    }
    let has_shim = matches!(loads, Loads::Shim | Loads::Sanitizer);
    let mut absolute = Text::new();
    let replaced = has_shim && is_replayed(call, name, &program, &mut absolute);
    let replaced = replaced.then(|| absolute.bytes());
    // The launcher has it not, and what it becomes has a journal to begin.
    let is_expected = has_shim && replaced.is_none();
    let environment = exec::environment(call.args[at], loads, replaced)?;
    let mut started = *call;
    if let Some(environment) = &environment {
        started.args[at] = environment.address();
    }
    let mut name = name;
    if let Some(run) = run::run().filter(|_| replaced.is_some()) {
        // It is told by the environment what it stands for, so that the words stay as they are.
        let arguments = [run.launcher().as_ptr().addr(), call.args[at - 1], started.args[at]];
        started = Call { number: kernel::__NR_execve as usize, args: [0; 6] };
        started.args[..arguments.len()].copy_from_slice(&arguments);
        name = plain(0);
    }
    counts::flush();
    caches::give_offsets_back();
    if is_expected {
        counts::add(Count::Expected);
    }
    let result =
        signals::leaving(|| room::leaving(|| pass_named(&started, &[(name, Last::Followed)])));
    // It comes back only when nothing was started.
    if is_expected {
        counts::take_back(Count::Expected);
    }
    result.map(Some)
}

/// Tells whether the launcher is to be started in the place of a program, which need not run if it is known what it would do; puts the
/// program's absolute path into `text` then.
fn is_replayed(call: &Call, name: Name, program: &Text, text: &mut Text) -> bool {
    let has_actions =
        run::run().is_some_and(|run| !run.actions().is_empty() && run.is_recorded(program.bytes()));
    // What an action starts is a part of it.
    if !has_actions || record::is_recording() || name.directory.is_some() {
        return false;
    }
    let Ok(path) = call.path(name.path) else { return false };
    if path.first() == Some(&b'/') {
        return text.push(path).is_ok();
    }
    sys::working_directory(text).and_then(|()| text.push_name(path)).is_ok()
}

/// Returns a path that leads to the program that a call starts.
fn program(call: &Call, name: Name, path: &[u8]) -> Result<Text> {
    match name.directory {
        Some(at) if path.first() != Some(&b'/') && call.int(at) != CWD => {
            let mut text = Text::of_descriptor(call.int(at))?;
            if !path.is_empty() {
                text.push_name(path)?;
            }
            Ok(text)
        }
        _ => Text::of(path),
    }
}

/// The offset of the path in a `sockaddr_un`, see unix(7).
const PATH_OFFSET: usize = 2;

fn socket(call: &Call) -> Result<Option<isize>> {
    let length = call.args[2];
    if !sys::may_read(call.args[1])
        || length <= PATH_OFFSET
        || sys::value::<u16>(call.args[1])? != 1
    {
        return Ok(None);
    }
    let path = sys::room(call.args[1] + PATH_OFFSET, length - PATH_OFFSET)?;
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    let Some(path) = path.get(..end).filter(|path| !path.is_empty()) else { return Ok(None) };
    if let Where::In(spot) =
        or_through_links_of(place::find(CWD, path, Last::Followed)?, CWD, path)?
    {
        match spot.place {
            Place::Missing => real::make_real(spot.shown, spot.directory)?,
            _ => need(spot)?,
        }
        make_way(CWD, path, Last::Followed, LINKS_MAX)?;
    }
    Ok(None)
}

// ---- names

fn make(call: &Call, name: Name) -> Result<Option<isize>> {
    let Where::In(spot) = find_surely(call, name, Last::Itself)? else { return Ok(None) };
    let is_plain = matches!(call.number as u32, kernel::__NR_mkdir | kernel::__NR_mkdirat);
    match spot.place {
        // As `mkdir -p` asks of each directory on the way.
        Place::Pristine(_) if is_plain => return Err(Errno::EXIST),
        _ => show_what_is_wrong(spot)?,
    }
    let result = pass_named(call, &[(name, Last::Itself)])?;
    note_names(result == 0);
    Ok(Some(result))
}

/// Notes that names have changed on which paths may lead elsewhere.
fn note_names(have_changed: bool) {
    if have_changed {
        counts::add(Count::Names);
    }
}

/// As [`note_names`], of a call that the kernel has done: paths lead elsewhere only through directories and links.
fn note_names_of(call: &Call) {
    let to = match call.number as u32 {
        kernel::__NR_mkdir
        | kernel::__NR_mkdirat
        | kernel::__NR_symlink
        | kernel::__NR_symlinkat
        | kernel::__NR_mount
        | kernel::__NR_move_mount => return note_names(true),
        kernel::__NR_renameat2 if call.word(4) & kernel::RENAME_EXCHANGE != 0 => {
            return note_names(true);
        }
        kernel::__NR_rename | kernel::__NR_link => plain(1),
        kernel::__NR_renameat | kernel::__NR_renameat2 | kernel::__NR_linkat => at(2, 3),
        _ => return,
    };
    let directory = to.directory.map_or(CWD, |at| call.int(at));
    let path = call.path(to.path).and_then(Text::of);
    let stat = path.and_then(|path| sys::stat_at(directory, &path, kernel::AT_SYMLINK_NOFOLLOW));
    note_names(stat.is_ok_and(|stat| stat.st_mode & kernel::S_IFMT != kernel::S_IFREG));
}

fn link(call: &Call, from: Name, to: Name, flags: u32) -> Result<Option<isize>> {
    let last = if flags & kernel::AT_SYMLINK_FOLLOW != 0 { Last::Followed } else { Last::Itself };
    let source = find_surely(call, from, last)?;
    let target = find_surely(call, to, Last::Itself)?;
    if let Where::In(spot) = source {
        show_what_is_wrong(spot)?;
    }
    if let Where::In(spot) = target {
        match spot.place {
            // The kernel says so, unless something else is wrong as well.
            Place::Pristine(id) | Place::NotDirectory(id) => real::make_real(spot.shown, id)?,
            Place::Missing => real::make_real(spot.shown, spot.directory)?,
            Place::Detached(_) | Place::Foreign => {}
        }
    }
    match (source, target) {
        (Where::Outside, Where::Outside) => Ok(None),
        _ => {
            let result = pass_named(call, &[(from, last), (to, Last::Itself)])?;
            note_names(result == 0);
            Ok(Some(result))
        }
    }
}

fn remove(call: &Call, name: Name, is_directory: bool) -> Result<Option<isize>> {
    let path = call.path(name.path)?;
    let Where::In(spot) = find_surely(call, name, Last::Itself)? else { return Ok(None) };
    let shown = spot.shown;
    let kind = |id| shown.manifest.kind(id).ok_or(Errno::IO);
    let id = match spot.place {
        Place::Missing => return Err(Errno::NOENT),
        Place::NotDirectory(_) => return Err(Errno::NOTDIR),
        Place::Foreign => {
            let lost = lost_at(call, name)?;
            let result = pass_named(call, &[(name, Last::Itself)])?;
            if result == 0 {
                lose(shown, lost, None)?;
            }
            return Ok(Some(result));
        }
        Place::Pristine(EntryId::ROOT) | Place::Detached(EntryId::ROOT) => {
            return remove_root(call, shown, is_directory);
        }
        Place::Pristine(id) | Place::Detached(id) => id,
    };
    let is_one = matches!(kind(id)?, Kind::Directory { .. });
    if is_one && stand_ins_below(shown, id).next().is_some() {
        // Who has it open has to see that it is gone.
        real::make_real(shown, id)?;
        become_real(shown, id);
        if spot.place == Place::Pristine(id) {
            return remove(call, name, is_directory);
        }
    }
    let holds_some = is_one && shown.manifest.children(id).any(|child| shown.is_pristine(child));
    if let Place::Detached(id) = spot.place {
        if is_directory && holds_some && is_there(shown, id) {
            return Err(Errno::NOTEMPTY);
        }
        let lost = lost_at(call, name)?;
        let result = pass_named(call, &[(name, Last::Itself)])?;
        if result == 0 {
            lose(shown, lost, None)?;
            shown.word(id)?.forget_inode(REPLACED);
        }
        return Ok(Some(result));
    }
    let changes = kernel::W_OK | kernel::X_OK;
    let mut folder = Text::new();
    shown.path(spot.directory, &mut folder)?;
    match shown.is_pristine(spot.directory) {
        true => answer::access(shown, spot.directory, changes, true)?,
        false => sys::may(&folder, changes)?,
    }
    match (is_one, is_directory) {
        (true, false) => return Err(Errno::ISDIR),
        (false, true) => return Err(Errno::NOTDIR),
        (false, false) if path.ends_with(b"/") => return Err(Errno::NOTDIR),
        (true, true) if path.ends_with(b"/.") || path == b"." => return Err(Errno::INVAL),
        (true, true) if holds_some => return Err(Errno::NOTEMPTY),
        _ => {}
    }
    real::make_real(shown, spot.directory)?;
    real::take_away(shown, id)?;
    sys::touch(&folder)?;
    Ok(Some(0))
}

/// The inode of a real file that a call takes the last name from, if it does.
type Lost = Option<u64>;

/// Looks which file a call is about to take a name from.
fn lost_at(call: &Call, name: Name) -> Result<Lost> {
    let mut stat = core::mem::MaybeUninit::<sys::Stat>::zeroed();
    let directory = name.directory.map_or(CWD as usize, |at| call.args[at]);
    let (path, room) = (call.args[name.path], stat.as_mut_ptr().addr());
    let number = kernel::__NR_newfstatat as usize;
    let flags = kernel::AT_SYMLINK_NOFOLLOW as usize;
    let look = Call { number, args: [directory, path, room, flags, 0, 0] };
    if pass_named(&look, &[(at(0, 1), Last::Itself)])? != 0 {
        return Ok(None);
    }
    let stat: sys::Stat = sys::value(room)?;
    let is_directory = stat.st_mode & kernel::S_IFMT == kernel::S_IFDIR;
    Ok((is_directory || stat.st_nlink == 1).then_some(stat.st_ino))
}

/// Notes that a real file is gone, so that the next one with its number is not taken for its entry. `place` is the entry
/// at whose place another file is now.
fn lose(shown: &Shown, lost: Lost, place: Option<EntryId>) -> Result<()> {
    if let Some(inode) = lost
        && let Some(id) = place::entry_with(shown, inode)
    {
        if place == Some(id) {
            shown.word(id)?.replace_inode(inode);
        } else {
            shown.word(id)?.forget_inode(inode);
        }
    }
    Ok(())
}

fn is_there(shown: &Shown, id: EntryId) -> bool {
    shown.state(id) != State::Detached { inode: 0 }
}

/// The directory of the projection itself: empty of what the tree answers for, it goes as any other.
fn remove_root(call: &Call, shown: &'static Shown, is_directory: bool) -> Result<Option<isize>> {
    if is_directory && shown.manifest.children(EntryId::ROOT).any(|child| shown.is_pristine(child))
    {
        return Err(Errno::NOTEMPTY);
    }
    let mut scratch = Text::of(shown.record.directory)?;
    scratch.push_name(real::ORPHANS)?;
    sys::remove(&scratch);
    Ok(Some(call.pass()))
}

fn rename(call: &Call, from: Name, to: Name, flags: u32) -> Result<Option<isize>> {
    let source = find_surely(call, from, Last::Itself)?;
    let target = find_surely(call, to, Last::Itself)?;
    if let Where::In(spot) = source {
        match spot.place {
            Place::Pristine(id) | Place::Detached(id) if is_there(spot.shown, id) => {
                real::make_subtree_real(spot.shown, id)?;
                become_real(spot.shown, id);
            }
            _ => show_what_is_wrong(spot)?,
        }
    }
    let mut replaced = None;
    // Of a file that takes its own name nothing is lost.
    let lost_to = || {
        let (lost, moved) = (lost_at(call, to)?, lost_at(call, from)?);
        Ok(lost.filter(|_| lost != moved))
    };
    if let Where::In(spot) = target {
        match spot.place {
            Place::Missing => real::make_real(spot.shown, spot.directory)?,
            // The kernel says so, unless something else is wrong as well.
            Place::NotDirectory(id) => real::make_real(spot.shown, id)?,
            Place::Pristine(id) if flags & kernel::RENAME_NOREPLACE != 0 => {
                real::make_real(spot.shown, id)?;
            }
            Place::Pristine(id) | Place::Detached(id) => {
                if is_there(spot.shown, id) {
                    real::make_subtree_real(spot.shown, id)?;
                }
                replaced = Some((spot.shown, lost_to()?, Some(id)));
            }
            Place::Foreign => replaced = Some((spot.shown, lost_to()?, None)),
        }
    }
    if let (Where::Outside, Where::Outside) = (source, target) {
        return Ok(None);
    }
    let result = pass_named(call, &[(from, Last::Itself), (to, Last::Itself)])?;
    note_names(result == 0);
    if result == 0 && flags & kernel::RENAME_EXCHANGE == 0 {
        if let Some((shown, lost, place)) = replaced {
            lose(shown, lost, place)?;
        }
        if let Where::In(Spot { shown, place: Place::Pristine(id) | Place::Detached(id), .. }) =
            source
        {
            shown.word(id)?.forget_inode(REPLACED);
        }
    }
    Ok(Some(result))
}
