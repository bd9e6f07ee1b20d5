//! Compares what a program did with what is known of it: what would have been put in its place.

use std::fs;

use rift_cas::Store;
use rift_cas::hashes::Hashes;

use super::Outcome;
use super::entry::{Done, Entries, Entry, Kept, Left, Observation};
use super::keeper::Files;
use super::look::place;
use super::roots::Roots;

/// What a program has made.
pub(super) struct Made<'m> {
    /// Its key.
    pub(super) key: &'m str,
    /// What it found and left.
    pub(super) entry: &'m Entry,
    /// The files of that.
    pub(super) files: &'m Files,
}

impl Made<'_> {
    /// Compares it with what is known; `None` where nothing is.
    pub(super) fn compare(&self, store: &Store, roots: &Roots, hashes: &Hashes) -> Option<Outcome> {
        let entries = Entries::find(store, self.key).ok()?;
        for (name, kept) in entries.kept(store, None) {
            let Ok(known) = kept.entry() else { continue };
            // Nobody would take it for this one.
            if known.done.elsewhere(roots).is_some() {
                continue;
            }
            // What it reads may be what it has written since.
            let mut found: Vec<&Observation> = self.entry.observations.iter().collect();
            let mut wanted: Vec<&Observation> = known.observations.iter().collect();
            found.sort();
            wanted.sort();
            if found != wanted && !matches!(kept.differs(roots, hashes), Ok(None)) {
                continue;
            }
            if let Some(how) = self.differs(&known.done, &kept, roots) {
                return Some(Outcome::Mismatch(how));
            }
            // Who only asks can do without.
            let _noted = name.is_confirmed || Entries::confirm(store, self.key, name).is_ok();
            return Some(Outcome::Confirmed);
        }
        None
    }

    /// Says what is the first thing that is another one.
    fn differs(&self, known: &Done, kept: &Kept, roots: &Roots) -> Option<String> {
        let done = &self.entry.done;
        if known.left.len() != done.left.len() {
            return Some("it leaves other files".to_owned());
        }
        for (was, is) in known.left.iter().zip(&done.left) {
            let how = match (was, is) {
                (
                    Left::File { path, mode, .. },
                    Left::File { path: path_now, mode: mode_now, .. },
                ) if mode == mode_now && is_same_probe(path, path_now) => continue,
                (
                    Left::File { path, mode, name, .. },
                    Left::File { path: path_now, mode: mode_now, name: name_now, .. },
                ) if (path, mode) == (path_now, mode_now) => {
                    let hash = self.files.iter().find(|(name, ..)| name == name_now);
                    let hash = hash.map(|(_, hash, _)| *hash);
                    match kept.bytes(name) {
                        Ok((_, held)) if Some(held) == hash => continue,
                        Ok((bytes, _)) => {
                            // Hashed a moment ago.
                            let now = place(roots, path).and_then(|path| fs::read(path).ok());
                            match differing(bytes, &now.unwrap_or_default()) {
                                None => continue,
                                Some(how) => how,
                            }
                        }
                        Err(error) => format!(" ({error:#})"),
                    }
                }
                _ if was == is => continue,
                _ => String::new(),
            };
            let (Left::File { path, .. }
            | Left::Directory(path)
            | Left::Link(path, _)
            | Left::Nothing(path)) = is;
            let place = place(roots, path).unwrap_or_default();
            let place = crate::ui::printable(&place.display().to_string());
            return Some(format!("`{place}` is another one{how}"));
        }
        (known.said != done.said).then(|| "it says something else".to_owned())
    }
}

/// Tells whether two paths are of what autocfg has compiled to see whether it can be, which nobody reads again: all that their names differ in was
/// drawn by lot, see `new_uuid` in its source.
fn is_same_probe(was: &str, is: &str) -> bool {
    let split = |path: &str| -> Option<(String, String)> {
        let (folder, drawn) = path.rsplit_once("/autocfg_")?;
        let (drawn, rest) = drawn.split_at_checked(16)?;
        let is_drawn = drawn.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_drawn.then(|| (folder.to_owned(), rest.to_owned()))
    };
    split(was).is_some_and(|was| Some(was) == split(is))
}

/// What the names of rustc's objects end with.
const OBJECT: &[u8] = b".rcgu.o";
/// How many letters stand before that which rustc draws for each run that goes on with what it has compiled before, see `invocation_temp` in its
/// source.
const DRAWN: usize = 7;

/// Says where two files begin to differ; `None` where they are the same but for what rustc draws by lot.
fn differing(was: &[u8], is: &[u8]) -> Option<String> {
    const ARCHIVE: &[u8] = b"!<arch>\n";
    let (mut was_drawn, mut is_drawn) = (was.to_vec(), is.to_vec());
    if was.starts_with(ARCHIVE) && was.len() == is.len() {
        blank(&mut was_drawn);
        blank(&mut is_drawn);
    }
    let same = was_drawn.iter().zip(&is_drawn).take_while(|(one, other)| one == other).count();
    if same == was.len() && same == is.len() {
        return None;
    }
    Some(format!(", from byte {same} of {} on, which were {}", is.len(), was.len()))
}

/// Puts blanks in the place of what rustc draws.
fn blank(archive: &mut [u8]) {
    let ends: Vec<usize> = memchr::memmem::find_iter(archive, OBJECT).collect();
    for end in ends {
        let Some(start) = end.checked_sub(DRAWN) else { continue };
        let is_drawn = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_alphanumeric);
        if let Some(drawn) = archive.get_mut(start..end).filter(|drawn| is_drawn(drawn)) {
            drawn.fill(b' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_autocfg_has_tried_has_a_drawn_name() {
        let is_same = |is: &str| is_same_probe("\u{1}W/out/autocfg_162e9a8280472889_0.ll", is);
        assert!(is_same("\u{1}W/out/autocfg_61576acf84242fe7_0.ll"));
        for other in [
            "\u{1}W/out/autocfg_61576acf84242fe7_1.ll",
            "\u{1}W/autocfg_61576acf84242fe7_0.ll",
            "\u{1}W/out/autocfg_7_0.ll",
            "",
        ] {
            assert!(!is_same(other), "{other}");
        }
        assert!(!is_same_probe("a", "a"), "no probe");
    }

    #[test]
    fn archives_of_rustc_are_the_same_but_for_a_drawn_name() {
        let archive = |name: &str, rest: &str| format!("!<arch>\nlib-1.{name}.rcgu.o/ {rest}");
        let differ = |one: &str, other: &str| differing(one.as_bytes(), other.as_bytes());
        let one = archive("0eez2ef", "x");
        assert_eq!(differ(&one, &archive("1bb0zql", "x")), None);
        let how = differ(&one, &archive("1bb0zql", "y")).unwrap();
        let length = one.len();
        assert_eq!(how, format!(", from byte {} of {length} on, which were {length}", length - 1));
        assert!(differ(&one, &archive("1bb0zqlx", "x")).is_some());
        assert!(differ("a.0eez2ef.rcgu.o", "a.1bb0zql.rcgu.o").is_some(), "no archive");
        assert_eq!(differ("same", "same"), None);
    }
}
