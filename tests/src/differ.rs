//! The strict tree differ: says every way in which two folders are not the same.
//!
//! Compared are names, types, permission bits, symlink targets, sizes and bytes; modification times, hard-link
//! structure and extended attributes on request. Invariant: an empty answer means that no program that reads the two
//! trees could tell them apart by what was asked to be compared. Nothing is skipped; the hidden lockfile of
//! `node_modules` is compared as JSON, without the fields in [`NPM_VARIES`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Fields of `node_modules/.package-lock.json` that npm itself writes differently from run to run.
///
/// None: two runs of npm 11.19 wrote the same bytes, with a cold and with a warm cache.
pub const NPM_VARIES: &[&str] = &[];

const HIDDEN_LOCKFILE: &str = ".package-lock.json";

/// What is compared besides names, types, modes, link targets, sizes and bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Modification times of everything, to the nanosecond.
    pub mtimes: bool,
    /// Which names of one tree are hard links of each other.
    pub hard_links: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

/// One difference; its [`Display`](fmt::Display) form is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, relative to both roots; empty for the roots themselves.
    pub path: PathBuf,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_os_str().as_bytes().escape_ascii();
        write!(
            f,
            "{}: {}",
            if self.path.as_os_str().is_empty() { ".".to_owned() } else { path.to_string() },
            self.what
        )
    }
}

/// Compares two trees, or two single files, and returns every difference in order of path.
///
/// # Errors
/// When something cannot be read; the text names the path.
pub fn compare(left: &Path, right: &Path, options: Options) -> io::Result<Vec<Difference>> {
    let mut walk = Walk { options, found: Vec::new(), links: [BTreeMap::new(), BTreeMap::new()] };
    walk.entry(left, right, &PathBuf::new())?;
    Ok(walk.found)
}

/// The first name under which an inode was met, per side.
type FirstName = BTreeMap<(u64, u64), PathBuf>;

struct Walk {
    options: Options,
    found: Vec<Difference>,
    links: [FirstName; 2],
}

impl Walk {
    fn note(&mut self, path: &Path, what: String) {
        self.found.push(Difference { path: path.to_path_buf(), what });
    }

    fn entry(&mut self, left: &Path, right: &Path, at: &Path) -> io::Result<()> {
        let (l, r) = (stat(left)?, stat(right)?);
        if kind(&l) != kind(&r) {
            self.note(at, format!("is {} | {}", kind(&l), kind(&r)));
            return Ok(());
        }
        self.attributes(at, (left, &l), (right, &r))?;
        if l.is_dir() {
            self.folder(left, right, at)
        } else if l.is_symlink() {
            let (l, r) = (fs::read_link(left)?, fs::read_link(right)?);
            if l != r {
                self.note(at, format!("links to {} | {}", l.display(), r.display()));
            }
            Ok(())
        } else if l.is_file() {
            self.file((left, &l), (right, &r), at)
        } else {
            if l.rdev() != r.rdev() {
                self.note(at, format!("is device {:#x} | {:#x}", l.rdev(), r.rdev()));
            }
            Ok(())
        }
    }

    fn attributes(
        &mut self,
        at: &Path,
        left: (&Path, &Metadata),
        right: (&Path, &Metadata),
    ) -> io::Result<()> {
        let (l, r) = (left.1, right.1);
        if !l.is_symlink() && l.mode() != r.mode() {
            self.note(
                at,
                format!("has mode {:04o} | {:04o}", l.mode() & 0o7777, r.mode() & 0o7777),
            );
        }
        if self.options.mtimes && (l.mtime(), l.mtime_nsec()) != (r.mtime(), r.mtime_nsec()) {
            let what = format!(
                "has mtime {}.{:09} | {}.{:09}",
                l.mtime(),
                l.mtime_nsec(),
                r.mtime(),
                r.mtime_nsec()
            );
            self.note(at, what);
        }
        if self.options.xattrs {
            let (l, r) = (xattrs(left.0)?, xattrs(right.0)?);
            if l != r {
                self.note(at, format!("has attributes {l:?} | {r:?}"));
            }
        }
        if self.options.hard_links && !l.is_dir() {
            let [lefts, rights] = &mut self.links;
            let first = lefts.entry((l.dev(), l.ino())).or_insert_with(|| at.to_path_buf()).clone();
            let other =
                rights.entry((r.dev(), r.ino())).or_insert_with(|| at.to_path_buf()).clone();
            if first != other {
                self.note(at, format!("is the inode of {} | {}", first.display(), other.display()));
            }
        }
        Ok(())
    }

    fn folder(&mut self, left: &Path, right: &Path, at: &Path) -> io::Result<()> {
        let mut names: BTreeMap<OsString, [bool; 2]> = BTreeMap::new();
        for (side, folder) in [left, right].into_iter().enumerate() {
            for entry in fs::read_dir(folder).map_err(|error| named(&error, folder))? {
                names.entry(entry?.file_name()).or_default()[side] = true;
            }
        }
        for (name, sides) in names {
            let at = at.join(&name);
            match sides {
                [true, true] => self.entry(&left.join(&name), &right.join(&name), &at)?,
                [true, false] => {
                    self.note(&at, format!("{} only on the left", kind(&stat(&left.join(&name))?)))
                }
                [false, _] => self
                    .note(&at, format!("{} only on the right", kind(&stat(&right.join(&name))?))),
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        left: (&Path, &Metadata),
        right: (&Path, &Metadata),
        at: &Path,
    ) -> io::Result<()> {
        if is_hidden_lockfile(left.0) {
            return self.hidden_lockfile(left.0, right.0, at);
        }
        if left.1.len() != right.1.len() {
            self.note(at, format!("has {} bytes | {}", left.1.len(), right.1.len()));
        }
        if let Some(offset) = first_different_byte(left.0, right.0)? {
            self.note(at, format!("differs from byte {offset}"));
        }
        Ok(())
    }

    fn hidden_lockfile(&mut self, left: &Path, right: &Path, at: &Path) -> io::Result<()> {
        let read = |path: &Path| -> io::Result<Value> {
            let mut value = serde_json::from_slice(&fs::read(path)?)
                .map_err(|error| named(&error.into(), path))?;
            drop_varying(&mut value);
            Ok(value)
        };
        let mut places = Vec::new();
        different_values(&read(left)?, &read(right)?, "", &mut places);
        for place in places {
            self.note(at, format!("differs at {place}"));
        }
        Ok(())
    }
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn stat(path: &Path) -> io::Result<Metadata> {
    fs::symlink_metadata(path).map_err(|error| named(&error, path))
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symlink",
        () if kind.is_file() => "a file",
        () if kind.is_fifo() => "a fifo",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() => "a character device",
        () => "a block device",
    }
}

fn is_hidden_lockfile(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == HIDDEN_LOCKFILE)
        && path.parent().and_then(Path::file_name).is_some_and(|name| name == "node_modules")
}

fn drop_varying(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !NPM_VARIES.contains(&name.as_str()));
            fields.values_mut().for_each(drop_varying);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_varying),
        _ => {}
    }
}

/// Collects the JSON pointers (RFC 6901) at which two values differ.
fn different_values(left: &Value, right: &Value, at: &str, places: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            let names: std::collections::BTreeSet<_> = l.keys().chain(r.keys()).collect();
            for name in names {
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                match (l.get(name), r.get(name)) {
                    (Some(l), Some(r)) => different_values(l, r, &at, places),
                    (Some(l), None) => places.push(format!("{at}: {l} | nothing")),
                    (None, r) => {
                        places.push(format!("{at}: nothing | {}", r.unwrap_or(&Value::Null)))
                    }
                }
            }
        }
        _ if left == right => {}
        _ => places.push(format!("{at}: {left} | {right}")),
    }
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0_u8; 65_536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(named(&error.into(), path)),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])
            .map_err(|error| named(&error.into(), path))?;
        value.truncate(length);
        found.insert(std::ffi::OsStr::from_bytes(name).to_owned(), value);
    }
    Ok(found)
}

/// Returns the offset of the first byte that differs, up to the shorter file's end.
fn first_different_byte(left: &Path, right: &Path) -> io::Result<Option<u64>> {
    const STEP_BYTES: usize = 128 << 10;
    let mut files = [
        File::open(left).map_err(|e| named(&e, left))?,
        File::open(right).map_err(|e| named(&e, right))?,
    ];
    let mut steps = [Vec::with_capacity(STEP_BYTES), Vec::with_capacity(STEP_BYTES)];
    let mut offset = 0;
    loop {
        for (file, step) in files.iter_mut().zip(&mut steps) {
            step.clear();
            file.by_ref().take(STEP_BYTES as u64).read_to_end(step)?;
        }
        let [l, r] = &steps;
        let common = l.len().min(r.len());
        if l[..common] != r[..common] {
            let within = l.iter().zip(r).position(|(l, r)| l != r).unwrap_or(common);
            return Ok(Some(offset + within as u64));
        }
        if common < STEP_BYTES {
            return Ok(None);
        }
        offset += common as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Sandbox;
    use std::os::unix::fs::{PermissionsExt, symlink};

    type Change = fn(&Path);

    fn tree(at: &Path) {
        fs::create_dir_all(at.join("node_modules/a")).unwrap();
        fs::write(at.join("node_modules/a/f"), vec![7; 300_000]).unwrap();
        fs::write(
            at.join("node_modules/.package-lock.json"),
            r#"{"packages":{"node_modules/a":{"version":"1"}}}"#,
        )
        .unwrap();
        symlink("a/f", at.join("node_modules/l")).unwrap();
        fs::hard_link(at.join("node_modules/a/f"), at.join("node_modules/a/g")).unwrap();
        fs::set_permissions(at.join("node_modules/a/f"), fs::Permissions::from_mode(0o644))
            .unwrap();
        let times = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        File::open(at.join("node_modules/a/f")).unwrap().set_times(times).unwrap();
    }

    /// Every kind of change is found, and named as it should be.
    #[test]
    fn each_change_is_one_line() {
        let cases: &[(Change, &str)] = &[
            (|at| fs::write(at.join("x"), "").unwrap(), "x: a file only on the right"),
            (
                |at| fs::remove_file(at.join("node_modules/l")).unwrap(),
                "node_modules/l: a symlink only on the left",
            ),
            (
                |at| {
                    fs::remove_file(at.join("node_modules/l")).unwrap();
                    fs::create_dir(at.join("node_modules/l")).unwrap();
                },
                "node_modules/l: is a symlink | a directory",
            ),
            (
                |at| {
                    fs::remove_file(at.join("node_modules/l")).unwrap();
                    symlink("a/g", at.join("node_modules/l")).unwrap();
                },
                "node_modules/l: links to a/f | a/g",
            ),
            (
                |at| {
                    fs::set_permissions(
                        at.join("node_modules/a"),
                        fs::Permissions::from_mode(0o700),
                    )
                    .unwrap()
                },
                "node_modules/a: has mode 0755 | 0700",
            ),
            (
                |at| {
                    let path = at.join("node_modules/a/g");
                    fs::remove_file(&path).unwrap();
                    let mut bytes = vec![7; 300_000];
                    bytes[299_999] = 8;
                    fs::write(&path, bytes).unwrap();
                },
                "node_modules/a/g: differs from byte 299999",
            ),
            (
                |at| {
                    let path = at.join("node_modules/a/g");
                    fs::remove_file(&path).unwrap();
                    fs::write(&path, vec![7; 300_001]).unwrap();
                },
                "node_modules/a/g: has 300000 bytes | 300001",
            ),
            (
                |at| {
                    fs::write(
                        at.join("node_modules/.package-lock.json"),
                        r#"{"packages":{"node_modules/a":{"version":"2"}}}"#,
                    )
                    .unwrap();
                },
                "node_modules/.package-lock.json: differs at /packages/node_modules~1a/version: \"1\" | \"2\"",
            ),
        ];
        let sandbox = Sandbox::new("differ").unwrap();
        for (number, (change, expected)) in cases.iter().enumerate() {
            let (left, right) =
                (sandbox.path(&format!("l{number}")), sandbox.path(&format!("r{number}")));
            tree(&left);
            tree(&right);
            assert_eq!(compare(&left, &right, Options::default()).unwrap(), []);
            change(&right);
            let lines: Vec<_> = compare(&left, &right, Options::default())
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(lines, [*expected]);
        }
    }

    #[test]
    fn reordered_json_is_the_same_lockfile() {
        let sandbox = Sandbox::new("differ").unwrap();
        for (side, text) in [("l", r#"{"a":1,"b":[2]}"#), ("r", r#"{ "b": [2], "a": 1 }"#)] {
            fs::create_dir_all(sandbox.path(side).join("node_modules")).unwrap();
            fs::write(sandbox.path(side).join("node_modules/.package-lock.json"), text).unwrap();
        }
        assert_eq!(
            compare(&sandbox.path("l"), &sandbox.path("r"), Options::default()).unwrap(),
            []
        );
    }

    #[test]
    fn times_links_and_attributes_on_request() {
        let sandbox = Sandbox::new("differ").unwrap();
        let (left, right) = (sandbox.path("l"), sandbox.path("r"));
        tree(&left);
        tree(&right);
        let twin = right.join("node_modules/a/g");
        fs::remove_file(&twin).unwrap();
        fs::write(&twin, vec![7; 300_000]).unwrap();
        assert_eq!(compare(&left, &right, Options::default()).unwrap(), []);
        let links =
            compare(&left, &right, Options { hard_links: true, ..Options::default() }).unwrap();
        assert_eq!(links.len(), 1);
        assert_eq!(
            links[0].to_string(),
            "node_modules/a/g: is the inode of node_modules/a/f | node_modules/a/g"
        );
        let times = compare(&left, &right, Options { mtimes: true, ..Options::default() }).unwrap();
        assert!(times.iter().any(|one| one.path == Path::new("node_modules/a/g")), "{times:?}");
        assert!(times.iter().all(|one| one.path != Path::new("node_modules/a/f")), "{times:?}");
        rustix::fs::setxattr(&twin, "user.rift", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let xattrs =
            compare(&left, &right, Options { xattrs: true, ..Options::default() }).unwrap();
        assert_eq!(xattrs.len(), 1);
    }
}
