//! Libraries that the loader maps before the shim is there: those of a tree are made real before a program starts.
//!
//! It looks where ld.so(8) will look, for what each library needs that it finds, in the loader's order, and stops where the
//! loader will. Where it can't tell what the loader would take (capabilities of the processor, `$LIB`), all that may be
//! meant become real; where there are more libraries than it has room for, everything does.

use linux_raw_sys::general as kernel;
use rift_tree::merge::Place;

use crate::exec;
use crate::place::{self, Last, Spot, Where};
use crate::program::{self, Dynamic, HEAD_BYTES, Strings};
use crate::real;
use crate::run;
use crate::serve;
use crate::sys::{self, CWD, Errno, Result, Room};
use crate::text::Text;

/// How many libraries are looked at, and how much their paths and names may take together, in bytes.
const OBJECTS: usize = 384;
const TEXT_BYTES: usize = 48 << 10;

/// Said where there is no room for more.
const FULL: Errno = Errno(linux_raw_sys::errno::E2BIG);

/// What the loader will read of the environment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Settings {
    library_path: &'static [u8],
    preload: &'static [u8],
    audit: &'static [u8],
    is_musl: bool,
}

impl Settings {
    /// Reads them from an environment of the program's; of two variables of one name the last one counts.
    pub(crate) fn of(environment: usize, is_musl: bool) -> Result<Self> {
        let mut settings = Self { is_musl, ..Self::default() };
        let mut at = environment;
        while at != 0 {
            let entry: usize = sys::value(at)?;
            if entry == 0 {
                break;
            }
            // Most are not the loader's.
            if sys::may_read(entry) && sys::byte_at(entry) == b'L' {
                let text = sys::long_string(entry)?;
                for (name, value) in [
                    (&b"LD_LIBRARY_PATH="[..], &mut settings.library_path),
                    (b"LD_PRELOAD=", &mut settings.preload),
                    (b"LD_AUDIT=", &mut settings.audit),
                ] {
                    if let Some(found) = text.strip_prefix(name) {
                        *value = found;
                    }
                }
            }
            at += size_of::<usize>();
        }
        Ok(settings)
    }

    /// Returns the libraries that are asked for, but for the shim.
    fn libraries(&self) -> impl Iterator<Item = &'static [u8]> {
        let shim = run::run().map_or(&b""[..], |run| run.shim());
        let all = exec::names(self.preload).chain(exec::names(self.audit));
        all.filter(move |name| *name != shim)
    }
}

/// Tells whether the environment leads the loader into a projection.
pub(crate) fn may_lead_in(settings: &Settings) -> Result<bool> {
    let mut libraries = settings.libraries().filter(|name| name.contains(&b'/'));
    Ok(library_path_leads_in(settings)? || any(&mut libraries, leads_in)?)
}

fn library_path_leads_in(settings: &Settings) -> Result<bool> {
    any(&mut elements(settings.library_path), leads_in)
}

fn any(
    paths: &mut dyn Iterator<Item = &[u8]>,
    holds: impl Fn(&[u8]) -> Result<bool>,
) -> Result<bool> {
    for path in paths {
        if holds(path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn leads_in(path: &[u8]) -> Result<bool> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    // What it means is known when the program is.
    Ok(path.contains(&b'$') || matches!(serve::find_anywhere(path), Ok(Where::In(_))))
}

/// Returns the directories of a list. An empty one is the working directory; an empty list has none.
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let separated = list.split(|byte| matches!(byte, b':' | b';'));
    separated.filter(move |_| !list.is_empty())
}

/// Makes the libraries real that a program will have loaded at its start.
pub(crate) fn make_ready(program: &Text, settings: &Settings) -> Result<()> {
    let mut closure = Closure {
        text: Room::new(),
        objects: [Object::NONE; OBJECTS],
        count: 0,
        leads_in: library_path_leads_in(settings)?,
        settings,
    };
    match closure.follow(program) {
        Err(FULL) => exec::make_all_in_sight_real(),
        other => other,
    }
}

/// A piece of [`Closure::text`].
#[derive(Clone, Copy)]
struct Piece {
    start: u32,
    end: u32,
}

/// A library, or the program itself.
#[derive(Clone, Copy)]
struct Object {
    /// Where it is, as the loader will name it.
    path: Piece,
    /// How it was asked for.
    name: Piece,
    /// Where libraries are looked for that it needs, and that those need, and so on.
    paths: Piece,
    /// Where libraries are looked for that it needs itself; what it has for all does not count then.
    own_paths: Piece,
    /// What asked for it.
    by: u16,
}

impl Object {
    const NONE: Self = {
        let none = Piece { start: 0, end: 0 };
        Self { path: none, name: none, paths: none, own_paths: none, by: 0 }
    };
}

/// What an object says of others, beside their names.
struct Opened {
    file: i32,
    head: [u8; HEAD_BYTES],
    length: usize,
}

impl Opened {
    /// Opens an object of this processor; `None` where the loader would go on looking.
    fn at(path: &Text) -> Option<Self> {
        let file = sys::open(path, kernel::O_RDONLY, 0).ok()?;
        let mut head = [0; HEAD_BYTES];
        let length = sys::read(file, &mut head).unwrap_or(0);
        let opened = Self { file, head, length };
        // 64 bits, little-endian, for this processor, see elf(5).
        let is_ours = opened.head.starts_with(b"\x7fELF\x02\x01") && opened.head[18..20] == [62, 0];
        is_ours.then_some(opened)
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> usize {
        sys::read_at(self.file, bytes, offset).unwrap_or(0)
    }

    fn dynamic(&self) -> Option<Dynamic> {
        let head = self.head.get(..self.length)?;
        Dynamic::of(head, &|offset, bytes: &mut [u8]| self.read(offset, bytes))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        sys::close(self.file);
    }
}

/// The program and the libraries that were found, each of which is asked for more in its turn.
struct Closure<'s> {
    text: Room<TEXT_BYTES>,
    objects: [Object; OBJECTS],
    count: usize,
    /// Whether the environment has the loader look in a projection for everything.
    leads_in: bool,
    settings: &'s Settings,
}

/// Directories that a processor with more than the least has its own libraries in, see ld.so(8); older loaders know those
/// of the second line.
const CAPABILITIES: &[u8] =
    b"glibc-hwcaps/x86-64-v4:glibc-hwcaps/x86-64-v3:glibc-hwcaps/x86-64-v2:\
    tls/haswell/x86_64:tls/haswell:tls/x86_64:tls:\
    haswell/avx512_1/x86_64:haswell/avx512_1:haswell/x86_64:haswell:x86_64";

/// What `$LIB` and `$PLATFORM` may mean: each of the first with each of the others.
const LIB: &[u8] = b"lib/x86_64-linux-gnu:lib64:lib";
const PLATFORM: &[u8] = b"x86_64:haswell";
const VARIANTS: usize = 6;

/// Returns one part of a list.
fn part(list: &[u8], at: usize) -> &[u8] {
    parts(list).nth(at).unwrap_or_default()
}

/// Returns the parts of a list.
fn parts(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b':')
}

/// Where loaders look for everything.
const SYSTEM: &[u8] =
    b"/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu:/lib64:/usr/lib64:/lib:/usr/lib:\
    /usr/local/lib:/lib/x86_64-linux-musl:/usr/lib/x86_64-linux-musl";

impl Closure<'_> {
    fn follow(&mut self, program: &Text) -> Result<()> {
        let Some(opened) = Opened::at(program) else { return Ok(()) };
        // Its own place is the one without links, as proc(5) tells it.
        let mut path = Text::new();
        sys::link_target(&Text::of_descriptor(opened.file)?, &mut path)?;
        self.add(&path, b"", 0, &opened)?;
        drop(opened);
        for name in self.settings.libraries() {
            self.look_for(name, 0)?;
        }
        let mut at = 0;
        while at < self.count {
            self.ask(at)?;
            at += 1;
        }
        Ok(())
    }

    fn piece(&self, piece: Piece) -> &[u8] {
        self.text.bytes().get(piece.start as usize..piece.end as usize).unwrap_or_default()
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Piece> {
        let start = self.text.bytes().len() as u32;
        if self.text.add(bytes) {
            Ok(Piece { start, end: start + bytes.len() as u32 })
        } else {
            Err(FULL)
        }
    }

    fn object(&self, at: usize) -> Object {
        self.objects.get(at).copied().unwrap_or(Object::NONE)
    }

    /// Adds an object that was found.
    fn add(&mut self, path: &Text, name: &[u8], by: usize, opened: &Opened) -> Result<()> {
        let mut object =
            Object { path: self.keep(path.bytes())?, name: self.keep(name)?, ..Object::NONE };
        object.by = by as u16;
        if let Some(dynamic) = opened.dynamic() {
            if !dynamic.is_whole() {
                return Err(FULL);
            }
            let read = |offset, bytes: &mut [u8]| opened.read(offset, bytes);
            let mut strings = Strings::new();
            if let Some(at) = dynamic.strings(program::PATHS).next() {
                object.paths = self.keep(strings.at(at, &read).ok_or(FULL)?)?;
            }
            if let Some(at) = dynamic.strings(program::OWN_PATHS).next() {
                object.own_paths = self.keep(strings.at(at, &read).ok_or(FULL)?)?;
                object.paths = Object::NONE.paths;
            }
            // musl knows no difference.
            if self.settings.is_musl && object.own_paths.start != object.own_paths.end {
                object.paths = object.own_paths;
            }
        }
        *self.objects.get_mut(self.count).ok_or(FULL)? = object;
        self.count += 1;
        Ok(())
    }

    /// Looks for all that an object needs.
    fn ask(&mut self, at: usize) -> Result<()> {
        let mut path = Text::new();
        path.push(self.piece(self.object(at).path))?;
        let Some(opened) = Opened::at(&path) else { return Ok(()) };
        let Some(dynamic) = opened.dynamic() else { return Ok(()) };
        let read = |offset, bytes: &mut [u8]| opened.read(offset, bytes);
        let mut strings = Strings::new();
        for tag in [program::NEEDED, program::AUXILIARY, program::FILTER] {
            for place in dynamic.strings(tag) {
                let mut name = Text::new();
                name.push(strings.at(place, &read).ok_or(FULL)?)?;
                self.look_for(name.bytes(), at)?;
            }
        }
        Ok(())
    }

    /// Looks for a library as the loader will do.
    fn look_for(&mut self, name: &[u8], by: usize) -> Result<()> {
        if name.contains(&b'/') {
            for variant in variants(name) {
                let mut path = Text::new();
                if self.expand(name, by, variant, &mut path).is_ok() {
                    self.take(&path, name, by)?;
                }
            }
            return Ok(());
        }
        if name.is_empty() || (0..self.count).any(|at| self.piece(self.object(at).name) == name) {
            return Ok(());
        }
        let library_path = self.settings.library_path;
        let own = self.object(by).own_paths;
        let mut is_inherited = self.leads_in;
        if self.settings.is_musl && self.look_in(library_path, 0, name, by, &mut false)? {
            return Ok(());
        }
        if self.settings.is_musl || own.start == own.end {
            let mut at = by;
            loop {
                let mut list = Text::new();
                list.push(self.piece(self.object(at).paths))?;
                if self.look_in(list.bytes(), at, name, by, &mut is_inherited)? {
                    return Ok(());
                }
                if at == 0 {
                    break;
                }
                at = self.object(at).by.into();
            }
        }
        if !self.settings.is_musl && self.look_in(library_path, 0, name, by, &mut false)? {
            return Ok(());
        }
        let mut list = Text::new();
        list.push(self.piece(own))?;
        if self.look_in(list.bytes(), by, name, by, &mut false)? {
            return Ok(());
        }
        // What is the system's own counts only where what it needs in turn may be a tree's.
        if is_inherited && !self.look_in_cache(name, by)? {
            self.look_in(SYSTEM, 0, name, by, &mut false)?;
        }
        Ok(())
    }

    /// Looks in the directories of a list, which an object has; tells whether the loader will look no further. Sets
    /// `leads_in` where one of them is in a projection.
    fn look_in(
        &mut self,
        list: &[u8],
        has: usize,
        name: &[u8],
        by: usize,
        leads_in: &mut bool,
    ) -> Result<bool> {
        for element in elements(list) {
            for variant in variants(element) {
                let mut path = Text::new();
                if self.expand(element, has, variant, &mut path).is_err() {
                    continue;
                }
                if path.bytes().is_empty() {
                    path.push(b".")?;
                }
                let length = path.bytes().len();
                if let Ok(Where::In(_)) = place::find(CWD, path.bytes(), Last::Followed) {
                    *leads_in = true;
                    for folder in parts(CAPABILITIES) {
                        path.cut(length);
                        if path.push_name(folder).and_then(|()| path.push_name(name)).is_ok() {
                            self.take(&path, name, by)?;
                        }
                    }
                    path.cut(length);
                }
                let is_found = path.push_name(name).is_ok() && self.take(&path, name, by)?;
                if is_found && !has_variants(element) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Looks where ldconfig(8) has found a library.
    fn look_in_cache(&mut self, name: &[u8], by: usize) -> Result<bool> {
        let mut path = Text::new();
        if path.push(cached(name).unwrap_or_default()).is_err() || path.bytes().is_empty() {
            return Ok(false);
        }
        self.take(&path, name, by)
    }

    /// Makes a library real that is a tree's, and the way to it; tells whether there is one.
    fn take(&mut self, path: &Text, name: &[u8], by: usize) -> Result<bool> {
        let spot = match place::find(CWD, path.bytes(), Last::Followed) {
            Ok(Where::In(spot)) => Some(spot),
            Ok(Where::Outside) => None,
            Err(_) => return Ok(false),
        };
        if let Some(spot) = spot
            && !make_real(spot, path.bytes())?
        {
            return Ok(false);
        }
        let mut opened = Opened::at(path);
        let is_sure = spot.is_some_and(|spot| matches!(spot.place, Place::Pristine(_)));
        // What is real, or outside, may be a link to what is not.
        if opened.is_none()
            && !is_sure
            && let Ok(Where::In(spot)) = serve::find_anywhere(path.bytes())
            && make_real(spot, path.bytes())?
        {
            opened = Opened::at(path);
        }
        let Some(opened) = opened else { return Ok(false) };
        self.add(path, name, by, &opened)?;
        Ok(true)
    }

    /// Replaces what ld.so(8) calls dynamic string tokens in a path that an object has.
    fn expand(&self, path: &[u8], has: usize, variant: usize, into: &mut Text) -> Result<()> {
        let own = self.piece(self.object(has).path);
        let slash = own.iter().rposition(|byte| *byte == b'/');
        let origin = slash.map_or(&b"."[..], |slash| own.get(..slash.max(1)).unwrap_or_default());
        let (lib, platform) = (part(LIB, variant % 3), part(PLATFORM, variant / 3));
        let mut rest = path;
        while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
            let (before, token) = rest.split_at(at);
            into.push(before)?;
            let known = [(&b"ORIGIN"[..], origin), (b"LIB", lib), (b"PLATFORM", platform)];
            let mut after = None;
            for (name, value) in known {
                if let Some(behind) = behind_token(token, name) {
                    into.push(value)?;
                    after = Some(behind);
                }
            }
            rest = match after {
                Some(after) => after,
                None => {
                    into.push(b"$")?;
                    token.get(1..).unwrap_or_default()
                }
            };
        }
        into.push(rest)
    }
}

/// Returns what is behind a token of this name, in braces or not.
fn behind_token<'p>(token: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let token = token.strip_prefix(b"$")?;
    match token.strip_prefix(b"{") {
        Some(inside) => inside.strip_prefix(name)?.strip_prefix(b"}"),
        None => token.strip_prefix(name),
    }
}

fn has_variants(path: &[u8]) -> bool {
    let mut tokens = path.iter().enumerate().filter(|(_, byte)| **byte == b'$');
    tokens.any(|(at, _)| {
        let token = path.get(at..).unwrap_or_default();
        [&b"LIB"[..], b"PLATFORM"].iter().any(|name| behind_token(token, name).is_some())
    })
}

/// Returns which of [`VARIANTS`] a path has.
fn variants(path: &[u8]) -> core::ops::Range<usize> {
    0..if has_variants(path) { VARIANTS } else { 1 }
}

/// Makes what is at a spot real, and the way to it; tells whether there may be something.
fn make_real(spot: Spot, path: &[u8]) -> Result<bool> {
    match spot.place {
        Place::Missing | Place::NotDirectory(_) => return Ok(false),
        Place::Pristine(id) => real::make_real(spot.shown, id)?,
        Place::Detached(_) | Place::Foreign => {}
    }
    serve::make_any_way(CWD, path, Last::Followed)?;
    Ok(true)
}

/// Returns the path that the cache of ldconfig(8) has for a library of this processor.
fn cached(name: &[u8]) -> Option<&'static [u8]> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    /// An ELF library of glibc, for x86-64.
    const KIND: u32 = 0x0303;
    let bytes = sys::loader_cache()?;
    // An older form may come before it.
    let start = bytes.windows(MAGIC.len()).position(|some| some == MAGIC)?;
    let bytes = bytes.get(start..)?;
    let word = |at: usize| {
        let field = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(field.try_into().ok()?))
    };
    let string = |at: u32| {
        let rest = bytes.get(at as usize..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    };
    (0..word(MAGIC.len())? as usize).find_map(|index| {
        let entry = HEADER_BYTES + index * ENTRY_BYTES;
        let is_it = word(entry)? == KIND && string(word(entry + 4)?)? == name;
        is_it.then(|| string(word(entry + 8)?)).flatten()
    })
}
