//! Places that differ between checkouts and machines: in what is kept of an action they are tokens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan;

/// What a token begins with; no path that is recorded holds it.
pub(super) const MARK: u8 = 1;

/// The places of a run, each with the letter that its token has; longer ones first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Roots(Vec<(char, PathBuf)>);

impl Roots {
    /// Takes the places; of two that are the same the first counts. The root of the file system is none.
    #[must_use]
    pub fn new(places: impl IntoIterator<Item = (char, PathBuf)>) -> Self {
        let mut roots: Vec<(char, PathBuf)> = Vec::new();
        for (letter, path) in places {
            let is_new = !roots.iter().any(|(_, known)| *known == path);
            if is_new && path.is_absolute() && path.parent().is_some() {
                roots.push((letter, path));
            }
        }
        roots.sort_by_key(|(_, path)| std::cmp::Reverse(path.as_os_str().len()));
        Self(roots)
    }

    /// Returns the places here of a project: `W` is its folder, `C` and `R` the homes of cargo and rustup, `H` the user's, `X` the folder of
    /// temporary files.
    #[must_use]
    pub fn here(root: &Path) -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let home = variable("HOME");
        let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let rustup = variable("RUSTUP_HOME").or_else(|| below_home(".rustup"));
        let temporary = variable("TMPDIR").unwrap_or_else(std::env::temp_dir);
        let places = [
            ('W', Some(root.to_owned())),
            ('C', plan::cargo::home()),
            ('R', rustup),
            ('H', home),
            ('X', Some(temporary)),
        ];
        Self::new(places.into_iter().filter_map(|(letter, path)| Some((letter, path?))))
    }

    /// Returns the place of a token.
    #[must_use]
    pub fn place(&self, letter: char) -> Option<&Path> {
        self.0.iter().find(|(known, _)| *known == letter).map(|(_, path)| path.as_path())
    }

    /// Puts tokens in the place of all places that a text names; `None` where it could not be told from a token.
    #[must_use]
    pub fn shorten(&self, text: &[u8]) -> Option<Vec<u8>> {
        if text.contains(&MARK) {
            return None;
        }
        let mut short = Vec::with_capacity(text.len());
        let mut rest = text;
        'all: while let Some((byte, after)) = rest.split_first() {
            // Most bytes begin no path.
            if *byte == b'/' {
                for (letter, path) in &self.0 {
                    if let Some(behind) = begins(rest, path) {
                        short.extend([MARK, *letter as u8]);
                        rest = behind;
                        continue 'all;
                    }
                }
            }
            short.push(*byte);
            rest = after;
        }
        Some(short)
    }

    /// Puts the places back that [`Roots::shorten`] has made tokens of; `None` where one has no place here.
    #[must_use]
    pub fn lengthen(&self, short: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(short.len());
        let mut bytes = short.iter();
        while let Some(byte) = bytes.next() {
            if *byte == MARK {
                let place = self.place(char::from(*bytes.next()?))?;
                text.extend_from_slice(place.as_os_str().as_encoded_bytes());
            } else {
                text.push(*byte);
            }
        }
        Some(text)
    }

    /// Returns the places that some bytes name, by their letters: what holds them is of use only where they are the same.
    #[must_use]
    pub fn named_in(&self, bytes: &[u8]) -> Vec<char> {
        let names = |path: &Path| {
            let wanted = path.as_os_str().as_encoded_bytes();
            memchr::memmem::find_iter(bytes, wanted)
                .any(|at| is_end(bytes.get(at + wanted.len()).copied()))
        };
        self.0.iter().filter(|(_, path)| names(path)).map(|(letter, _)| *letter).collect()
    }
}

/// Returns what comes behind a place that a text begins with.
fn begins<'t>(text: &'t [u8], place: &Path) -> Option<&'t [u8]> {
    let rest = text.strip_prefix(place.as_os_str().as_encoded_bytes())?;
    is_end(rest.first().copied()).then_some(rest)
}

/// Tells whether a name can't go on so.
fn is_end(byte: Option<u8>) -> bool {
    !byte.is_some_and(|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | 0x80..)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_tokens_and_back() {
        let roots = |work: &str| {
            Roots::new([
                ('W', PathBuf::from(work)),
                ('H', PathBuf::from("/h/me")),
                ('C', PathBuf::from("/h/me/.cargo")),
                ('X', PathBuf::from("/h/me")),
                ('R', PathBuf::from("/")),
            ])
        };
        let (here, there) = (roots("/h/me/code"), roots("/w"));
        for (text, short) in [
            ("/h/me/code/src:/h/me/coders", "\u{1}W/src:\u{1}H/coders"),
            ("-L/h/me/.cargo/x=/h/me", "-L\u{1}C/x=\u{1}H"),
            ("/h/mean /h/me.x", "/h/mean /h/me.x"),
            ("", ""),
        ] {
            assert_eq!(here.shorten(text.as_bytes()).unwrap(), short.as_bytes(), "{text}");
            assert_eq!(here.lengthen(short.as_bytes()).unwrap(), text.as_bytes(), "{text}");
        }
        assert_eq!(here.shorten(b"a\x01"), None);
        assert_eq!(here.lengthen(b"\x01Z"), None);
        assert_eq!(there.lengthen(b"\x01W/src").unwrap(), b"/w/src");
        assert_eq!(here.named_in(b"..\0/h/me/code\0/h/me2"), ['W', 'H']);
        assert_eq!(here.place('R'), None);
    }
}
