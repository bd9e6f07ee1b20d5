//! What programs of a build have found besides what the build is known by: headers of the system, files of version control, what was not
//! there. What is kept of the whole build, see `plan::cargo::snapshot`, is made anew where that is something else now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rift_cas::hashes::Hashes;
use serde::{Deserialize, Serialize};

use super::entry::{Found, Observation};
use super::key::is_build_script;
use super::look::{holds, place};
use super::roots::Roots;
use crate::paths::normal;

/// What decides no more than the build's key says: its results, toolchains, what cargo keeps as it is, and temporary files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bounds(Vec<PathBuf>);

/// What programs have found, by what cargo calls what they make: the name of the package of a build script, or `-` and the hash of a crate.
pub type Watched = BTreeMap<String, BTreeSet<Observation>>;

/// [`Watched`], as it is kept: each observation once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    found: Vec<Observation>,
    /// Which were made for what.
    units: BTreeMap<String, Vec<usize>>,
}

impl Bounds {
    /// Takes the places of a build.
    #[must_use]
    pub fn new(target: &Path, sysroot: &Path, roots: &Roots) -> Self {
        let cargo = roots.place('C').map(|home| [home.join("registry"), home.join("git")]);
        let mut places = vec![target.to_owned(), sysroot.to_owned()];
        places.extend(target.canonicalize());
        places.extend(cargo.into_iter().flatten());
        places.extend(
            ['R', 'X'].into_iter().filter_map(|letter| roots.place(letter)).map(Path::to_owned),
        );
        // A project may lie in one of them.
        places.retain(|place| !roots.place('W').is_some_and(|root| root.starts_with(place)));
        Self(places)
    }

    /// Returns those observations that were made elsewhere.
    pub fn beyond<'o>(
        &self,
        roots: &Roots,
        observations: impl IntoIterator<Item = &'o Observation>,
    ) -> impl Iterator<Item = &'o Observation> {
        observations.into_iter().filter(move |one| {
            place(roots, &one.path).is_some_and(|path| {
                let path = normal(&path);
                !self.0.iter().any(|known| path.starts_with(known))
            })
        })
    }
}

impl Kept {
    /// Gathers what was found, and what was found before for what was not made now; without what tells nothing that `is_known` does not.
    #[must_use]
    pub fn new(now: Watched, before: Self, is_known: impl Fn(&Observation) -> bool) -> Self {
        let mut all = now;
        for (unit, numbers) in before.units {
            all.entry(unit).or_insert_with(|| {
                let found = numbers.iter().filter_map(|number| before.found.get(*number));
                found.cloned().collect()
            });
        }
        let (mut kept, mut numbers) = (Self::default(), HashMap::new());
        for (unit, observations) in all {
            let observations = observations.into_iter().filter(|one| !is_known(one));
            let numbered = observations.map(|one| {
                *numbers.entry(one).or_insert_with_key(|one| {
                    kept.found.push(one.clone());
                    kept.found.len() - 1
                })
            });
            let numbered: Vec<usize> = numbered.collect();
            if !numbered.is_empty() {
                kept.units.insert(unit, numbered);
            }
        }
        kept
    }

    /// Returns what is to be made anew, as something that it was made of is no more what it was.
    #[must_use]
    pub fn stale(&self, roots: &Roots, hashes: &Hashes) -> Vec<&str> {
        let differs: Vec<bool> = self.found.iter().map(|one| !holds(roots, hashes, one)).collect();
        let is_stale = |numbers: &[usize]| {
            numbers.iter().any(|number| differs.get(*number).copied().unwrap_or(true))
        };
        let stale = self.units.iter().filter(|(_, numbers)| is_stale(numbers));
        stale.map(|(unit, _)| unit.as_str()).collect()
    }
}

/// Tells whether an observation says nothing that is not known of the files of a workspace, which have these names.
#[must_use]
pub fn is_of_sources(
    roots: &Roots,
    root: &Path,
    is_source: impl Fn(&Path) -> bool,
    observation: &Observation,
) -> bool {
    let Some(path) = place(roots, &observation.path) else { return true };
    let path = normal(&path);
    // What else lies in a folder of sources, cargo's folder of results among it, is no source.
    path.strip_prefix(root)
        .is_ok_and(|below| is_source(below) || matches!(observation.found, Found::Names(_)))
}

/// Returns what cargo calls that which a program makes, see [`Watched`].
#[must_use]
pub fn unit_of(program: &Path, words: &[OsString]) -> Option<String> {
    if is_build_script(program) {
        let (package, _) = program.parent()?.file_name()?.to_str()?.rsplit_once('-')?;
        return Some(package.to_owned());
    }
    let hash = words.iter().find_map(|word| word.as_bytes().strip_prefix(b"extra-filename=-"))?;
    Some(unit_of_crate(&String::from_utf8_lossy(hash)))
}

/// Returns what cargo calls a crate whose files have this hash in their names, see [`Watched`].
#[must_use]
pub fn unit_of_crate(hash: &str) -> String {
    format!("-{hash}")
}

/// Tells whether cargo's record of something, by its name, is of this.
#[must_use]
pub fn is_record_of(record: &str, unit: &str) -> bool {
    match unit.strip_prefix('-') {
        Some(hash) => record.rsplit_once('-').is_some_and(|(_, own)| own == hash),
        None => record.rsplit_once('-').is_some_and(|(package, _)| package == unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rift_cas::Store;
    use rift_tree::BlobHash;

    fn observation(path: &Path, found: Found) -> Observation {
        Observation { path: path.display().to_string(), found, is_itself: false }
    }

    #[test]
    fn what_is_another_thing_is_told_by_what_was_made_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let hashes = store.hashes(1);
        let (there, gone) = (folder.path().join("there"), folder.path().join("gone"));
        std::fs::write(&there, "one").unwrap();
        let hash = BlobHash::from_bytes(*blake3::hash(b"one").as_bytes());
        let now = Watched::from([
            (
                "lib".to_owned(),
                [observation(&there, Found::File(hash)), observation(&gone, Found::Nothing)].into(),
            ),
            ("-12".to_owned(), [observation(&gone, Found::Nothing)].into()),
        ]);
        let kept = Kept::new(now, Kept::default(), |_| false);
        assert_eq!(kept.found.len(), 2);
        let roots = Roots::default();
        let stale = |kept: &Kept| kept.stale(&roots, &hashes).join(" ");
        assert_eq!(stale(&kept), "");
        std::fs::write(&there, "two").unwrap();
        assert_eq!(stale(&kept), "lib");
        std::fs::write(&gone, "").unwrap();
        assert_eq!(stale(&kept), "-12 lib");
        // What was made now counts, and what was not stays as it was.
        let now = Watched::from([("lib".to_owned(), BTreeSet::new())]);
        let kept = Kept::new(now, kept, |_| false);
        assert_eq!(stale(&kept), "-12");
        let kept = Kept::new(Watched::new(), kept, |one| one.path == gone.display().to_string());
        assert_eq!(kept, Kept::default());
    }

    #[test]
    fn what_decides_nothing_more_is_left_out() {
        let roots = |root: &str| {
            Roots::new([('W', root.into()), ('X', "/tmp".into()), ('C', "/h/c".into())])
        };
        let paths = [
            "/tmp/a",
            "/tmp/w/.git/HEAD",
            "/h/c/config.toml",
            "/h/c/registry/a",
            "/usr/a.h",
            "/w/target/a",
        ];
        let found = paths.map(|path| observation(Path::new(path), Found::Nothing));
        let beyond = |root: &str| {
            let roots = roots(root);
            let bounds = Bounds::new(Path::new("/w/target"), Path::new("/sysroot"), &roots);
            let beyond = bounds.beyond(&roots, &found).map(|one| one.path.clone());
            beyond.collect::<Vec<_>>()
        };
        assert_eq!(beyond("/w"), ["/h/c/config.toml", "/usr/a.h"]);
        assert_eq!(
            beyond("/tmp/w"),
            ["/tmp/a", "/tmp/w/.git/HEAD", "/h/c/config.toml", "/usr/a.h"]
        );
    }

    #[test]
    fn units_are_called_as_cargo_calls_them() {
        let words = ["-C", "metadata=1", "-C", "extra-filename=-0a9b"].map(OsString::from);
        let rustc = unit_of(Path::new("/bin/rustc"), &words).unwrap();
        assert!(is_record_of("serde_json-0a9b", &rustc) && is_record_of("serde-json-0a9b", &rustc));
        assert!(!is_record_of("serde-0a9c", &rustc));
        let script = unit_of(Path::new("/t/build/generic-array-0b/build-script-build"), &[]);
        let script = script.unwrap();
        assert!(is_record_of("generic-array-77", &script) && !is_record_of("generic-77", &script));
        assert_eq!(unit_of(Path::new("/bin/cc"), &words[..2]), None);
    }
}
