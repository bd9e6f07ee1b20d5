//! Words that let compilers leave the places of checkouts out of what they make, for who asks for that: what names no place is of use in all.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::roots::Roots;

/// Compilers for C and C++, by what their names end with behind what they compile for.
const OF_C: &[&str] = &["cc", "c++", "gcc", "g++", "clang", "clang++", "c89", "c99"];
/// Where cargo's registry seems to be, for who reads what is compiled.
const CARGO: &str = "/cargo";

/// Returns the words that a program gets behind its own; none where they would mean nothing.
#[must_use]
pub(super) fn words(program: &Path, words: &[OsString], roots: &Roots) -> Vec<OsString> {
    let name = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let has = |wanted: &str| words.iter().any(|word| word == wanted);
    let flag = match name {
        // Else it is asked about itself.
        "rustc" | "clippy-driver" if has("--crate-name") => "--remap-path-prefix=",
        _ if is_of_c(name) && (has("-c") || has("-S")) => "-ffile-prefix-map=",
        _ => return Vec::new(),
    };
    let mut places: Vec<(&Path, &str)> = [('C', CARGO), ('W', ".")]
        .into_iter()
        .filter_map(|(letter, to)| Some((roots.place(letter)?, to)))
        .collect();
    // Of two that fit, the last one counts.
    places.sort_by_key(|(path, _)| path.as_os_str().len());
    let word = |(path, to): (&Path, &str)| {
        let bytes = [flag.as_bytes(), path.as_os_str().as_bytes(), b"=", to.as_bytes()].concat();
        OsString::from_vec(bytes)
    };
    places.into_iter().map(word).collect()
}

fn is_of_c(name: &str) -> bool {
    let is_it = |name: &str| OF_C.contains(&name);
    is_it(name) || name.rsplit_once('-').is_some_and(|(_, end)| is_it(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_get_words_where_they_compile() {
        let roots = Roots::new([('W', "/home/me/work".into()), ('C', "/home/me/.cargo".into())]);
        let given = |program: &str, own: &str| {
            let own: Vec<OsString> = own.split(' ').map(OsString::from).collect();
            let words = words(Path::new(program), &own, &roots);
            words.join(OsStr::new(" ")).into_string().unwrap()
        };
        assert_eq!(
            given("/x/rustc", "rustc --crate-name a"),
            "--remap-path-prefix=/home/me/work=. --remap-path-prefix=/home/me/.cargo=/cargo"
        );
        for (program, own) in [
            ("/x/rustc", "rustc -vV"),
            ("/usr/bin/cc", "cc -o app main.o"),
            ("/usr/bin/ar", "ar -c lib.a"),
        ] {
            assert_eq!(given(program, own), "", "{program} {own}");
        }
        let compiled = given("/usr/bin/x86_64-linux-gnu-gcc", "cc -c a.c");
        assert!(compiled.starts_with("-ffile-prefix-map=/home/me/work=. "), "{compiled}");
    }
}
