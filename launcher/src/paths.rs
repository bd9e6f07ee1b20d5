//! Paths, which are any bytes: as text, and without what means nothing.

use std::borrow::Cow;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Returns a path as text: bytes that are no UTF-8, and `%`, as `%XX`.
pub(crate) fn escaped(path: &Path) -> String {
    let mut name = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        name.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("%{byte:02X}")));
    }
    name
}

/// Returns the path that [`escaped`] has made a name of.
pub(crate) fn decoded(name: &str) -> PathBuf {
    if !name.contains('%') {
        return PathBuf::from(name);
    }
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                &after[2..]
            }
            _ => {
                bytes.push(*byte);
                after
            }
        };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Returns a path without `.`, `..` and slashes that mean nothing.
pub(crate) fn normal(path: &Path) -> Cow<'_, Path> {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/').enumerate();
    let means_itself = |(at, part): (usize, &[u8])| match part {
        b"" => at == 0,
        b"." | b".." => false,
        _ => true,
    };
    if parts.into_iter().all(means_itself) {
        return Cow::Borrowed(path);
    }
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    Cow::Owned(normal)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn any_path_is_text_and_back() {
        for bytes in [&b"a/b c"[..], b"100%", b"%41", b"\xff%\x00", "ä%C3".as_bytes(), b""] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(decoded(&escaped(path)), path, "{}", escaped(path));
        }
    }

    #[test]
    fn a_normal_path_has_nothing_that_means_nothing() {
        for (path, wanted) in [
            ("/a/b.c", "/a/b.c"),
            ("/a/../b", "/b"),
            ("/a/./b//c/", "/a/b/c"),
            ("./a/..", ""),
            ("a", "a"),
            ("/..", "/"),
            ("/", "/"),
            ("", ""),
            ("/a/..b/c...", "/a/..b/c..."),
        ] {
            // Compared as bytes: as paths, `a/` and `a` are the same.
            assert_eq!(normal(Path::new(path)).as_os_str(), wanted, "{path}");
        }
    }
}
