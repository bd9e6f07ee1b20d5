//! Finds what a path means: which entry of which projection, or nothing of any.
//!
//! [`find`] takes names as they are written, which is right for all paths but those that lead into a projection
//! through links outside of it. [`find_through_links`] is for these: it walks as the kernel does, and is asked
//! where the kernel found nothing, and before anything is made or moved.

use linux_raw_sys::general as kernel;
use rift_tree::merge::{Place, States as _};
use rift_tree::name::PathKey;
use rift_tree::state::State;
use rift_tree::{EntryId, Kind};

use crate::answer;
use crate::caches::{self, Known, StandIn, Working};
use crate::quick;
use crate::real;
use crate::run::{self, Shown};
use crate::sys::{self, CWD, Errno, Result};
use crate::text::Text;

/// How many links may be followed, see path_resolution(7).
const LINKS_MAX: u32 = 40;

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Followed,
    Itself,
}

/// What a path means.
#[derive(Clone, Copy)]
pub(crate) enum Where {
    /// Nothing of a projection.
    Outside,
    /// Something in a projection.
    In(Spot),
}

/// A place in a projection.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) shown: &'static Shown,
    pub(crate) place: Place,
    /// The directory of the tree that the name is in, or would be in; what holds it where the kernel answers.
    pub(crate) directory: EntryId,
}

/// Where a relative path begins.
#[derive(Clone, Copy)]
enum Base {
    /// In nothing of a projection, but names may lead into one.
    Elsewhere,
    /// In a directory above this projection, and perhaps others, whose paths go on at this byte.
    Above(u32, usize),
    /// In a directory of the tree.
    At(&'static Shown, EntryId),
}

/// Returns how a path goes on from a directory that it is at, or below.
pub(crate) fn rest_below<'p>(path: &'p [u8], directory: &[u8]) -> Option<&'p [u8]> {
    match path.strip_prefix(directory)? {
        [] => Some(&[]),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Returns the projection that an absolute path is in, and the rest of the path.
fn rooted(path: &[u8]) -> Option<(u32, &[u8])> {
    run::directories().find_map(|(index, directory)| Some((index, rest_below(path, directory)?)))
}

/// Finds where a path begins.
fn begin(directory: i32, path: &[u8]) -> Result<Begun<'_>> {
    if path.first() == Some(&b'/') {
        return Ok(match rooted(path) {
            Some((index, rest)) => Begun::In(run::shown(index)?, EntryId::ROOT, rest),
            None => match through_descriptor(path)? {
                Some((shown, id, rest)) => Begun::Through(shown, id, rest),
                None => Begun::Outside,
            },
        });
    }
    Ok(match base(directory)? {
        Base::Elsewhere => Begun::Outside,
        Base::At(shown, id) => Begun::In(shown, id, path),
        Base::Above(index, at) => {
            let above = run::directory(index).and_then(|first| first.get(..at)).ok_or(Errno::IO)?;
            let path = path.strip_prefix(b"./").unwrap_or(path);
            let found = run::directories().find_map(|(index, directory)| {
                Some((index, rest_below(path, directory.strip_prefix(above)?)?))
            });
            match found {
                Some((index, rest)) => Begun::In(run::shown(index)?, EntryId::ROOT, rest),
                None => Begun::Above,
            }
        }
    })
}

/// Where a path begins.
#[derive(Clone, Copy)]
enum Begun<'p> {
    /// In nothing of a projection.
    Outside,
    /// Above one, which other words may lead into.
    Above,
    /// In this directory of a tree, from which the rest goes on.
    In(&'static Shown, EntryId, &'p [u8]),
    /// As `In`, at the stand-in that a path of proc(5) leads to.
    Through(&'static Shown, EntryId, &'p [u8]),
}

/// Returns the descriptor of this process that a path of proc(5) names, and how the path goes on.
pub(crate) fn own_descriptor(path: &[u8]) -> Option<(i32, &[u8])> {
    let digits = match path.strip_prefix(b"/dev/fd/") {
        Some(digits) => digits,
        None => {
            let (process, rest) = split_name(path.strip_prefix(b"/proc/")?);
            let is_own = matches!(process, b"self" | b"thread-self")
                || number(process).is_some_and(|pid| pid.cast_unsigned() == sys::pid());
            let rest = if is_own { rest } else { return None };
            match rest.strip_prefix(b"task/") {
                Some(threads) => split_name(threads).1.strip_prefix(b"fd/")?,
                None => rest.strip_prefix(b"fd/")?,
            }
        }
    };
    let (digits, rest) = split_name(digits);
    Some((number(digits)?, rest))
}

/// Splits the first name of a path off, and the slashes behind it.
fn split_name(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    (name, rest.get(slashes..).unwrap_or_default())
}

/// Reads the number of a descriptor, or of a process.
fn number(digits: &[u8]) -> Option<i32> {
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0')))
}

/// What a path goes on from: this directory of a tree, and how.
type From<'p> = (&'static Shown, EntryId, &'p [u8]);

/// Finds what a path goes on from that leads through a stand-in of this process by a path of proc(5).
pub(crate) fn through_descriptor(path: &[u8]) -> Result<Option<From<'_>>> {
    let Some((descriptor, rest)) = own_descriptor(path) else { return Ok(None) };
    Ok(match entry_of(descriptor)? {
        Some((shown, id, true)) => Some((shown, id, rest)),
        _ => None,
    })
}

/// Finds what a path means, without a system call where that can be.
pub(crate) fn find(directory: i32, path: &[u8], last: Last) -> Result<Where> {
    match begin(directory, path)? {
        Begun::Above => find_through_links(directory, path, last),
        begun => find_from(begun, directory, path, last),
    }
}

/// As [`find`], of a path that leads into a projection by its very words: what leads there from above by others is outside,
/// until the kernel has found nothing.
pub(crate) fn find_as_written(directory: i32, path: &[u8], last: Last) -> Result<Where> {
    find_from(begin(directory, path)?, directory, path, last)
}

fn find_from(begun: Begun<'_>, directory: i32, path: &[u8], last: Last) -> Result<Where> {
    match begun {
        Begun::Outside | Begun::Above => Ok(Where::Outside),
        Begun::In(shown, id, rest) => match within(shown, id, rest, last, &mut 0)? {
            Some(spot) => Ok(Where::In(spot)),
            None => find_beyond(shown, id, directory, path, last),
        },
        // The link itself is the kernel's.
        Begun::Through(_, _, []) if last == Last::Itself => Ok(Where::Outside),
        Begun::Through(shown, id, rest) => {
            let foreign = Spot { shown, place: Place::Foreign, directory: id };
            Ok(Where::In(within(shown, id, rest, last, &mut 0)?.unwrap_or(foreign)))
        }
    }
}

/// Finds what a path means that leads out of the projection it begins in.
#[cold]
#[inline(never)]
fn find_beyond(
    shown: &'static Shown,
    begun: EntryId,
    directory: i32,
    path: &[u8],
    last: Last,
) -> Result<Where> {
    match find_through_links(directory, path, last)? {
        // What is open may be a stand-in, which is in no directory of the tree.
        Where::Outside if directory != CWD && path.first() != Some(&b'/') => {
            Ok(Where::In(Spot { shown, place: Place::Foreign, directory: begun }))
        }
        found => Ok(found),
    }
}

/// Finds where a relative path begins.
fn base(directory: i32) -> Result<Base> {
    if directory != CWD {
        return Ok(match entry_of(directory)? {
            Some((shown, id, _)) => Base::At(shown, id),
            None => Base::Elsewhere,
        });
    }
    let working = match caches::working() {
        Working::Unknown => {
            let found = look_where()?;
            let key = match found {
                Working::Inside { projection, directory } => {
                    key_of(run::shown(projection)?, directory).ok()
                }
                _ => None,
            };
            caches::set_working(found, key);
            found
        }
        known => known,
    };
    Ok(match working {
        Working::Unknown | Working::Outside => Base::Elsewhere,
        Working::Above { projection, rest } => Base::Above(projection, rest),
        Working::Inside { projection, directory } => Base::At(run::shown(projection)?, directory),
    })
}

/// Asks the kernel where the process works.
fn look_where() -> Result<Working> {
    let mut text = Text::new();
    sys::working_directory(&mut text)?;
    let path = text.bytes();
    if let Some((projection, rest)) = rooted(path) {
        let shown = run::shown(projection)?;
        // It is a real directory without links; one that the tree does not have is the kernel's.
        return Ok(match shown.manifest.lookup(rest) {
            Some(directory) => Working::Inside { projection, directory },
            None => Working::Outside,
        });
    }
    let above = |(projection, record): (u32, rift_tree::run::Projection<'static>)| {
        let rest = record.directory.strip_prefix(path)?;
        match (rest, path) {
            (_, b"/") => Some(Working::Above { projection, rest: 1 }),
            ([b'/', ..], _) => Some(Working::Above { projection, rest: path.len() + 1 }),
            _ => None,
        }
    };
    Ok(run::records().find_map(above).unwrap_or(Working::Outside))
}

/// Finds the entry that a descriptor is open on, and whether only a stand-in is.
pub(crate) fn entry_of(descriptor: i32) -> Result<Option<(&'static Shown, EntryId, bool)>> {
    if caches::is_outside(descriptor) {
        return Ok(None);
    }
    if let Some(one) = caches::stand_in(descriptor) {
        return Ok(Some((run::shown(one.projection)?, one.entry, true)));
    }
    // What is wrong with a descriptor the kernel says to the very call: a browser asks it whether its sandbox forbids one.
    let Ok(stat) = sys::stat_of(descriptor) else { return Ok(None) };
    for (projection, shown) in run::each_numbered() {
        let record = &shown.record;
        if (stat.st_dev, stat.st_ino) == (record.stand_in_device, record.stand_in_inode) {
            let offset = sys::seek(descriptor, 0, linux_raw_sys::general::SEEK_CUR)?;
            let entry = crate::list::entry_at(offset);
            caches::remember_stand_in(descriptor, StandIn { projection, entry });
            caches::remember_key(descriptor, key_of(shown, entry)?);
            return Ok(Some((shown, entry, true)));
        }
        if stat.st_dev == record.device
            && let Some(id) = entry_with(shown, stat.st_ino)
        {
            if caches::known(descriptor) != Known::Mixed {
                caches::remember(descriptor, Known::Inside);
            }
            return Ok(Some((shown, id, false)));
        }
    }
    caches::remember(descriptor, Known::Outside);
    Ok(None)
}

/// Finds the entry that a real file was made of.
pub(crate) fn entry_with(shown: &Shown, inode: u64) -> Option<EntryId> {
    if inode == shown.record.inode {
        return Some(EntryId::ROOT);
    }
    shown.inodes().entry(inode)
}

/// Tells whether the process may search all directories of a tree: as the tree has them, and those that are real are
/// kept so by who changes their modes.
fn searches_all(shown: &'static Shown) -> bool {
    let user = caches::user();
    let searches_all = user == 0 || shown.record.is_searchable && user == shown.record.uid;
    if searches_all {
        run::note_searched(shown);
    }
    searches_all
}

/// Returns the directory of the tree that a path of which the tree has only the last name not is in, written straight.
fn folder_of_missing(shown: &Shown, path: &[u8]) -> Option<EntryId> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let (folder, name) =
        slash.map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
    if matches!(name, b"" | b"." | b"..") || name.len() > 255 {
        return None;
    }
    let folder = shown.manifest.lookup(folder)?;
    matches!(shown.manifest.kind(folder), Some(Kind::Directory { .. })).then_some(folder)
}

/// Tells whether the kernel can follow a path without help: no link or `..` of the tree is on the way.
pub(crate) fn is_straight(directory: i32, path: &[u8]) -> Result<bool> {
    let (shown, rest) = match begin(directory, path)? {
        Begun::Outside => return Ok(true),
        Begun::In(shown, EntryId::ROOT, rest) if directory == CWD || path.starts_with(b"/") => {
            (shown, rest)
        }
        Begun::Above | Begun::In(..) | Begun::Through(..) => return Ok(false),
    };
    match shown.manifest.lookup(rest) {
        Some(id) => {
            let is_link = matches!(shown.manifest.kind(id), Some(Kind::Symlink { .. }));
            Ok(!(is_link && shown.is_pristine(id)))
        }
        None => Ok(folder_of_missing(shown, rest).is_some()),
    }
}

/// Follows a path from a directory of the tree; `None` when it leaves the projection.
fn within(
    shown: &'static Shown,
    start: EntryId,
    path: &[u8],
    last: Last,
    links: &mut u32,
) -> Result<Option<Spot>> {
    let manifest = &shown.manifest;
    let spot = |place, directory| Ok(Some(Spot { shown, place, directory }));
    let own = |id| if shown.is_pristine(id) { Place::Pristine(id) } else { Place::Detached(id) };
    let up = |id| manifest.parent(id).unwrap_or(EntryId::ROOT);
    let searches_all = searches_all(shown);
    if start == EntryId::ROOT && searches_all {
        if let Some(id) = manifest.lookup(path) {
            let is_link = matches!(manifest.kind(id), Some(Kind::Symlink { .. }));
            if !(is_link && last == Last::Followed && shown.is_pristine(id)) {
                return spot(own(id), up(id));
            }
        } else if let Some(folder) = folder_of_missing(shown, path) {
            // Only real directories hold names that the tree does not have.
            let is_pristine = shown.is_pristine(folder);
            return spot(if is_pristine { Place::Missing } else { Place::Foreign }, folder);
        }
    }
    let mut id = start;
    let mut key = key_of(shown, start)?;
    let mut rest = path;
    loop {
        let (name, after) = match rest.iter().position(|byte| *byte == b'/') {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        // Slashes at the end ask for a directory, and follow a link.
        let is_last = after.is_none_or(|after| after.iter().all(|byte| *byte == b'/'));
        if !searches_all && !name.is_empty() && shown.is_pristine(id) {
            answer::access(shown, id, kernel::X_OK, true)?;
        } else if !searches_all && !name.is_empty() {
            let mut path = Text::new();
            shown.path(id, &mut path)?;
            sys::may(&path, kernel::X_OK)?;
        }
        match name {
            b"" | b"." => {}
            b".." if id == EntryId::ROOT => return Ok(None),
            b".." => {
                id = up(id);
                key = key_of(shown, id)?;
            }
            name => match manifest.child(id, key, name) {
                None if shown.is_pristine(id) => {
                    if name.len() > 255 {
                        return Err(Errno::NAMETOOLONG);
                    }
                    return spot(Place::Missing, id);
                }
                // Only real directories hold names that the tree does not have.
                None => return spot(Place::Foreign, id),
                Some(child) if !shown.is_pristine(child) => {
                    let is_directory = matches!(manifest.kind(child), Some(Kind::Directory { .. }));
                    let is_there = shown.state(child) != State::Detached { inode: 0 };
                    if is_last || !(is_directory && is_there) {
                        let place = if is_last { Place::Detached(child) } else { Place::Foreign };
                        return spot(place, id);
                    }
                    (id, key) = (child, key.child(name));
                }
                Some(child) => match manifest.kind(child).ok_or(Errno::IO)? {
                    Kind::Directory { .. } => (id, key) = (child, key.child(name)),
                    Kind::File { .. } if after.is_some() => {
                        return spot(Place::NotDirectory(child), id);
                    }
                    Kind::File { .. } => return spot(Place::Pristine(child), id),
                    Kind::Symlink { .. } if after.is_none() && last == Last::Itself => {
                        return spot(Place::Pristine(child), id);
                    }
                    Kind::Symlink { target } => {
                        *links += 1;
                        if *links > LINKS_MAX {
                            return Err(Errno::LOOP);
                        }
                        if target.first() == Some(&b'/') {
                            return Ok(None);
                        }
                        let Some(found) = within(shown, id, target, Last::Followed, links)? else {
                            return Ok(None);
                        };
                        if after.is_none() {
                            return Ok(Some(found));
                        }
                        match found.place {
                            Place::Pristine(target) | Place::Detached(target)
                                if matches!(
                                    manifest.kind(target),
                                    Some(Kind::Directory { .. })
                                ) =>
                            {
                                id = target;
                                key = key_of(shown, id)?;
                            }
                            Place::Pristine(target) => {
                                return spot(Place::NotDirectory(target), id);
                            }
                            // The kernel goes on from there, or there is nothing.
                            Place::Detached(_) | Place::Foreign => {
                                return spot(Place::Foreign, found.directory);
                            }
                            _ if is_last => return Ok(Some(found)),
                            _ => return Ok(Some(found)),
                        }
                    }
                },
            },
        }
        match after {
            Some(after) => rest = after,
            None => return spot(own(id), up(id)),
        }
    }
}

/// Returns the path key of a directory of the tree.
pub(crate) fn key_of(shown: &Shown, id: EntryId) -> Result<PathKey> {
    if id == EntryId::ROOT {
        return Ok(PathKey::ROOT);
    }
    // Names from the root on; deeper directories than that are rare, and found from the nearest above.
    let mut above = [EntryId::ROOT; 64];
    let mut count = 0;
    let mut at = id;
    while at != EntryId::ROOT {
        *above.get_mut(count).ok_or(Errno::NAMETOOLONG)? = at;
        count += 1;
        at = shown.manifest.parent(at).ok_or(Errno::IO)?;
    }
    let names = above.iter().take(count).rev();
    Ok(names.fold(PathKey::ROOT, |key, id| key.child(shown.manifest.name(*id).unwrap_or_default())))
}

/// Finds what a path means, following links outside of projections as well, as the kernel would do.
///
/// What the way leads through of a tree and out of it becomes real, for the kernel has to go it. The result is
/// [`Place::Foreign`] then, and also where the way ends at what is only the kernel's in a directory of a tree: the kernel is to
/// be asked, again if it was.
pub(crate) fn find_through_links(directory: i32, path: &[u8], last: Last) -> Result<Where> {
    let mut passed = None;
    let found = walk(directory, path, last, &mut passed)?;
    Ok(match (found, passed) {
        (Where::Outside, Some(shown)) => {
            Where::In(Spot { shown, place: Place::Foreign, directory: EntryId::ROOT })
        }
        (found, _) => found,
    })
}

/// What the hashes of paths begin with that are remembered as neither links nor other names of a projection's directories.
const PLAIN: u64 = 0x9ae1_6a3b_2f90_404f;

/// As [`find_through_links`]; tells which tree the way led through and out of.
fn walk(
    directory: i32,
    path: &[u8],
    last: Last,
    passed: &mut Option<&'static Shown>,
) -> Result<Where> {
    let mut done = Text::new();
    let mut to_do = Text::of(path)?;
    if path.first() == Some(&b'/') {
        done.push(b"/")?;
    } else if directory == CWD {
        sys::working_directory(&mut done)?;
    } else if let Some((shown, id, _)) = entry_of(directory)? {
        shown.path(id, &mut done)?;
    } else {
        sys::link_target(&Text::of_descriptor(directory)?, &mut done)?;
        if done.bytes().first() != Some(&b'/') {
            return Ok(Where::Outside);
        }
    }
    let mut links = 0;
    loop {
        // Inside, the tree knows; it says so when the path leads out again.
        if let Some((index, rest)) = rooted(done.bytes()) {
            let shown = run::shown(index)?;
            if let Some(id) = shown.manifest.lookup(rest)
                && (id == EntryId::ROOT || shown.is_pristine(id) || is_real_directory(shown, id))
            {
                let mut rest = Text::of(to_do.bytes())?;
                let trimmed = rest.bytes().iter().take_while(|byte| **byte == b'/').count();
                let kept = Text::of(rest.bytes().get(trimmed..).unwrap_or_default())?;
                rest = kept;
                let found = if rest.bytes().is_empty() {
                    within(shown, id, b".", last, &mut links)?
                } else {
                    within(shown, id, rest.bytes(), last, &mut links)?
                };
                // What is real there may be a link, which leads anywhere.
                let is_sure = |spot: &Spot| match spot.place {
                    Place::Foreign => false,
                    Place::Detached(_) => last == Last::Itself,
                    _ => true,
                };
                if let Some(spot) = found.filter(is_sure) {
                    return Ok(Where::In(spot));
                }
            }
        }
        let whole = to_do.bytes();
        let start = whole.iter().take_while(|byte| **byte == b'/').count();
        let name = whole.get(start..).unwrap_or_default();
        let length = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
        let (name, after) = name.split_at(length);
        if name.is_empty() {
            note_inside(&done, passed)?;
            return Ok(Where::Outside);
        }
        let is_last = after.iter().all(|byte| *byte == b'/');
        let is_followed = !after.is_empty() || last == Last::Followed;
        if name == b"." || name == b".." {
            if name == b".." {
                if let Some((shown, id)) = pristine(done.bytes())? {
                    *passed = Some(shown);
                    real::make_real(shown, id)?;
                }
                done.pop();
            }
            to_do = Text::of(after)?;
            continue;
        }
        done.push_name(name)?;
        // Seen before, and neither a link nor a projection's under another name.
        let key = quick::missed_from(PLAIN, done.bytes());
        if (is_followed || !is_last) && caches::is_missed(key) {
            to_do = Text::of(after)?;
            continue;
        }
        let mut target = Text::new();
        match pristine_link(done.bytes(), &mut target)? {
            Some((shown, id)) => {
                *passed = Some(shown);
                real::make_real(shown, id)?;
            }
            None => match sys::link_target(&done, &mut target) {
                // Another process may have made it real after the kernel was asked.
                Ok(()) => note_inside(&done, passed)?,
                Err(Errno::INVAL) => {
                    to_do = Text::of(after)?;
                    match aliased(&done)? {
                        Some(path) => done = path,
                        None if rooted(done.bytes()).is_none() => caches::miss(key),
                        None => {}
                    }
                    continue;
                }
                // Missing, or not to be looked at: a projection's entry may be there still.
                Err(_) if rooted(done.bytes()).is_some() => {
                    to_do = Text::of(after)?;
                    continue;
                }
                Err(_) => return Ok(Where::Outside),
            },
        }
        if is_last && !is_followed {
            note_inside(&done, passed)?;
            return Ok(Where::Outside);
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        done.pop();
        if target.bytes().first() == Some(&b'/') {
            done.cut(0);
            done.push(b"/")?;
        }
        target.push(after)?;
        to_do = target;
    }
}

/// Notes the tree that a path ends in, at something that is only the kernel's: its directory is no place where all is.
fn note_inside(path: &Text, passed: &mut Option<&'static Shown>) -> Result<()> {
    if let Some((index, _)) = rooted(path.bytes()) {
        *passed = Some(run::shown(index)?);
    }
    Ok(())
}

/// Tells whether a directory of the tree is there as a real one.
fn is_real_directory(shown: &Shown, id: EntryId) -> bool {
    matches!(shown.manifest.kind(id), Some(Kind::Directory { .. }))
        && shown.state(id) != State::Detached { inode: 0 }
}

/// Returns the entry of a path that the tree answers for.
fn pristine(path: &[u8]) -> Result<Option<(&'static Shown, EntryId)>> {
    let Some((index, rest)) = rooted(path) else { return Ok(None) };
    let shown = run::shown(index)?;
    let found = shown.manifest.lookup(rest).filter(|id| shown.is_pristine(*id));
    Ok(found.map(|id| (shown, id)))
}

/// Reads a link of a tree, and returns which it is.
fn pristine_link(path: &[u8], target: &mut Text) -> Result<Option<(&'static Shown, EntryId)>> {
    let Some((shown, id)) = pristine(path)? else { return Ok(None) };
    match shown.manifest.kind(id) {
        Some(Kind::Symlink { target: found }) => {
            target.cut(0);
            target.push(found)?;
            Ok(Some((shown, id)))
        }
        _ => Ok(None),
    }
}

/// Returns the path of the directory of a projection that is there under another name too, as a bind mount shows it.
fn aliased(path: &Text) -> Result<Option<Text>> {
    if rooted(path.bytes()).is_some() {
        return Ok(None);
    }
    let Ok(stat) = sys::stat_at(CWD, path, linux_raw_sys::general::AT_SYMLINK_NOFOLLOW) else {
        return Ok(None);
    };
    for shown in run::each_shown().filter(|shown| shown.record.device == stat.st_dev) {
        if let Some(id) = entry_with(shown, stat.st_ino) {
            let mut path = Text::new();
            shown.path(id, &mut path)?;
            return Ok(Some(path));
        }
    }
    Ok(None)
}
