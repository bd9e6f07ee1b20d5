//! What an action found, as it is kept: by folder, so that the way to each is gone once, and what lies in one that is not there needs no look.
//!
//! ```text
//! found:   folder…
//! folder:  | path string | count u32 | count × name |       its path, with tokens; an empty one where names are whole paths
//! name:    | name string | count u8 | count × finding |
//! finding: | kind u8 | what the kind has |                  the kind, or that + 128 where a link was not followed
//! kind:    | 0 nothing | 1 file: hash 32 | 2 kind: type u32, size u64 | 3 link: target string | 4 no link | 5 names: hash 32 |
//! string:  | length u32 | bytes |
//! ```
//!
//! All is little-endian. What is found of a name itself comes first: where that is no link, it answers what else is asked.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rift_cas::hashes::Hashes;
use rift_tree::BlobHash;

use super::entry::{Found, Observation};
use super::look::{Folder, Spot};
use super::roots::{MARK, Roots};
use crate::bytes::Reader;
use crate::paths::{decoded, escaped};

const NOTHING: u8 = 0;
const FILE: u8 = 1;
const KIND: u8 = 2;
const LINK: u8 = 3;
const NO_LINK: u8 = 4;
const NAMES: u8 = 5;
/// A link was not followed.
const ITSELF: u8 = 0x80;

/// Returns the bytes that say what was found.
pub(super) fn encode(observations: &[Observation]) -> Vec<u8> {
    let paths: Vec<PathBuf> = observations.iter().map(|one| decoded(&one.path)).collect();
    let mut folders: BTreeMap<&[u8], BTreeMap<&[u8], Vec<&Observation>>> = BTreeMap::new();
    for (path, observation) in paths.iter().zip(observations) {
        let (folder, name) = split(path.as_os_str().as_bytes());
        let names = folders.entry(folder).or_default();
        names.entry(name).or_default().push(observation);
    }
    let mut bytes = Vec::new();
    for (folder, names) in folders {
        put(&mut bytes, folder);
        bytes.extend((names.len() as u32).to_le_bytes());
        for (name, mut findings) in names {
            findings.sort_by_key(|one| !one.is_itself);
            put(&mut bytes, name);
            // There are as many as kinds, of the name itself or not.
            bytes.push(findings.len() as u8);
            findings.into_iter().for_each(|one| put_finding(&mut bytes, one));
        }
    }
    bytes
}

fn put_finding(bytes: &mut Vec<u8>, Observation { found, is_itself, .. }: &Observation) {
    let kind = match found {
        Found::Nothing => NOTHING,
        Found::File(_) => FILE,
        Found::Kind(..) => KIND,
        Found::Link(_) => LINK,
        Found::NoLink => NO_LINK,
        Found::Names(_) => NAMES,
    };
    bytes.push(if *is_itself { kind | ITSELF } else { kind });
    match found {
        Found::Nothing | Found::NoLink => {}
        Found::File(hash) | Found::Names(hash) => bytes.extend(hash.as_bytes()),
        Found::Kind(kind, size) => {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(size.to_le_bytes());
        }
        Found::Link(target) => put(bytes, target.as_bytes()),
    }
}

fn put(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.extend((string.len() as u32).to_le_bytes());
    bytes.extend(string);
}

/// Splits a path into that of its folder and its name there, which holds no token; the first is empty where there is none.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) if at > 0 && at + 1 < path.len() && !path[at..].contains(&MARK) => {
            (&path[..at], &path[at + 1..])
        }
        _ => (b"", path),
    }
}

/// Takes what was found of a name, and whether a link was not followed.
fn finding(reader: &mut Reader<'_>) -> Option<(Found, bool)> {
    let [kind] = reader.take()?;
    let found = match kind & !ITSELF {
        NOTHING => Found::Nothing,
        FILE => Found::File(BlobHash::from_bytes(reader.take()?)),
        KIND => {
            let kind = u32::from_le_bytes(reader.take()?);
            Found::Kind(kind, u64::from_le_bytes(reader.take()?))
        }
        LINK => Found::Link(reader.text()?),
        NO_LINK => Found::NoLink,
        NAMES => Found::Names(BlobHash::from_bytes(reader.take()?)),
        _ => return None,
    };
    Some((found, kind & ITSELF != 0))
}

/// Why bytes are not what [`encode`] has made.
const DAMAGED: &str = "what it found can't be read";

/// Reads what [`encode`] has made, in the order of the paths.
///
/// # Errors
/// It has made no such thing.
pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<Vec<Observation>> {
    let mut reader = Reader(bytes);
    let mut observations = Vec::new();
    while !reader.0.is_empty() {
        let folder = reader.string().context(DAMAGED)?;
        for _ in 0..reader.count().context(DAMAGED)? {
            let name = reader.string().context(DAMAGED)?;
            let path =
                if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() };
            let path = escaped(Path::new(OsStr::from_bytes(&path)));
            let [findings] = reader.take().context(DAMAGED)?;
            for _ in 0..findings {
                let (found, is_itself) = finding(&mut reader).context(DAMAGED)?;
                observations.push(Observation { path: path.clone(), found, is_itself });
            }
        }
    }
    observations.sort();
    Ok(observations)
}

/// Tells how many things are not as they were found, and how the first of them differs, for people; nothing where all are.
///
/// # Errors
/// These bytes say nothing.
pub(super) fn differing(
    bytes: &[u8],
    roots: &Roots,
    hashes: &Hashes,
) -> anyhow::Result<Option<(usize, String)>> {
    let mut reader = Reader(bytes);
    let (mut count, mut first) = (0, None);
    let path_of = |short: &[u8]| {
        let path = roots.lengthen(short).context("it names a place that is not here")?;
        anyhow::Ok(PathBuf::from(OsString::from_vec(path)))
    };
    while !reader.0.is_empty() {
        let path = path_of(reader.string().context(DAMAGED)?)?;
        let names = reader.count().context(DAMAGED)?;
        let has_path = !path.as_os_str().is_empty();
        let folder = Folder::open(path, names);
        for _ in 0..names {
            let name = reader.string().context(DAMAGED)?;
            let whole = if has_path { None } else { Some(path_of(name)?) };
            let name = whole.as_deref().map_or(OsStr::from_bytes(name), Path::as_os_str);
            let mut spot = Spot::new(&folder, name);
            let [findings] = reader.take().context(DAMAGED)?;
            for _ in 0..findings {
                let (found, is_itself) = finding(&mut reader).context(DAMAGED)?;
                if !spot.holds(&found, is_itself, roots, hashes) {
                    count += 1;
                    first.get_or_insert_with(|| (spot.path().into_owned(), found.differs()));
                }
            }
        }
    }
    Ok(first.map(|(path, how)| {
        let path = crate::ui::printable(&path.to_string_lossy());
        (count, format!("`{path}` {how}"))
    }))
}

#[cfg(test)]
mod tests {
    use rift_cas::Store;

    use super::*;

    fn hash(bytes: &[u8]) -> BlobHash {
        BlobHash::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    fn observation(path: &str, found: Found, is_itself: bool) -> Observation {
        Observation { path: path.to_owned(), found, is_itself }
    }

    fn observations() -> Vec<Observation> {
        let mut all = vec![
            observation("/", Found::Kind(libc::S_IFDIR, 0), false),
            observation("/\u{1}W", Found::Nothing, true),
            observation("\u{1}W", Found::Names(hash(b"a\0")), false),
            observation("\u{1}W/a", Found::File(hash(b"one")), false),
            observation("\u{1}W/a", Found::NoLink, true),
            observation("\u{1}W/%FF", Found::Nothing, false),
            observation("\u{1}W/./b/c", Found::Nothing, false),
            observation("\u{1}W/l", Found::Link("\u{1}W/a".to_owned()), true),
            observation("\u{1}W/l", Found::Kind(libc::S_IFREG, 3), false),
            observation("\u{1}W/d/", Found::Kind(0, 0), false),
        ];
        all.sort();
        all
    }

    #[test]
    fn what_is_kept_is_read_and_damage_is_never_a_panic() {
        let bytes = encode(&observations());
        assert_eq!(decode(&bytes).unwrap(), observations());
        assert_eq!(decode(b"").unwrap(), []);
        let whole = |bytes: &[u8]| decode(bytes).ok().filter(|found| *found == observations());
        for length in 0..bytes.len() {
            assert_eq!(whole(&bytes[..length]), None, "{length}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x81;
            assert_eq!(whole(&flipped), None, "{at}");
        }
    }

    /// Each thing that was found, and what makes it another one.
    #[test]
    fn whatever_is_another_one_differs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let root = folder.path().join("root");
        let roots = Roots::new([('W', root.clone())]);
        let at = |name: &str| root.join(name);
        let fill = || {
            drop(std::fs::remove_dir_all(&root));
            std::fs::create_dir_all(at("in")).unwrap();
            std::fs::write(at("in/file"), "one").unwrap();
            std::fs::write(at("alone"), "two").unwrap();
            std::os::unix::fs::symlink(at("in"), at("link")).unwrap();
        };
        let found = [
            ("\u{1}W/alone", Found::File(hash(b"two")), false),
            ("\u{1}W/in", Found::Names(hash(b"file\0")), false),
            ("\u{1}W/in/file", Found::NoLink, true),
            ("\u{1}W/in/file", Found::File(hash(b"one")), false),
            ("\u{1}W/in/other", Found::Nothing, false),
            ("\u{1}W/in/third", Found::Nothing, true),
            ("\u{1}W/gone/a", Found::Nothing, false),
            ("\u{1}W/gone/b", Found::Nothing, false),
            ("\u{1}W/gone/c", Found::Nothing, true),
            ("\u{1}W/link", Found::Link("\u{1}W/in".to_owned()), true),
            ("\u{1}W/link", Found::Kind(libc::S_IFDIR, 0), false),
            ("\u{1}W/link/file", Found::Kind(libc::S_IFREG, 3), false),
        ];
        let all = found.map(|(path, found, is_itself)| observation(path, found, is_itself));
        let bytes = encode(&all);
        let differ = |roots: &Roots| differing(&bytes, roots, &store.hashes(1));
        fill();
        assert_eq!(differ(&roots).unwrap(), None);
        type Change<'c> = &'c dyn Fn() -> std::io::Result<()>;
        let changes: [(&str, &str, Change<'_>); 10] = [
            ("alone", "holds something else", &|| std::fs::write(at("alone"), "too")),
            ("in/file", "holds something else", &|| std::fs::write(at("in/file"), "uno")),
            ("in/file", "holds something else", &|| {
                std::fs::remove_file(at("in/file"))?;
                std::fs::create_dir(at("in/file"))
            }),
            ("in/file", "leads elsewhere", &|| {
                std::fs::rename(at("in/file"), at("moved"))?;
                std::os::unix::fs::symlink("../moved", at("in/file"))
            }),
            ("in", "has other names", &|| std::fs::write(at("in/new"), "")),
            ("in", "has other names", &|| std::fs::write(at("in/third"), "")),
            ("gone/b", "is there now", &|| {
                std::fs::create_dir(at("gone"))?;
                std::fs::write(at("gone/b"), "")
            }),
            ("gone/c", "is there now", &|| {
                std::fs::create_dir(at("gone"))?;
                std::os::unix::fs::symlink("nowhere", at("gone/c"))
            }),
            ("link", "leads elsewhere", &|| {
                std::fs::remove_file(at("link"))?;
                std::os::unix::fs::symlink("in", at("link"))
            }),
            ("link", "leads elsewhere", &|| std::fs::remove_file(at("link"))),
        ];
        for (number, (path, how, change)) in changes.into_iter().enumerate() {
            fill();
            change().unwrap();
            let (count, why) = differ(&roots).unwrap().unwrap();
            assert_eq!(why, format!("`{}` {how}", at(path).display()), "{number}");
            assert!(count > 0);
        }
        fill();
        assert!(differ(&Roots::default()).is_err(), "there is no such place");
    }
}
