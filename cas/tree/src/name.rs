//! Names and relative paths: bytes, never text.
//!
//! A name is 1 to 255 bytes without NUL and `/`, and neither `.` nor `..`. A relative path is names
//! joined by single slashes; the empty path is the root of a tree.

/// The longest name, in bytes: `NAME_MAX` of limits.h(0p) on Linux.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest relative path in a tree, in bytes: `PATH_MAX` less the final NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Tells whether `name` may stand for an entry of a directory.
#[must_use]
pub fn is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == 0 || byte == b'/')
}

/// Tells whether `path` is a relative path of valid names.
#[must_use]
pub fn is_valid_path(path: &[u8]) -> bool {
    path.is_empty()
        || path.len() <= PATH_BYTES_MAX && path.split(|&byte| byte == b'/').all(is_valid)
}

/// Splits a path into its parent and its last name: `a/b` gives `a` and `b`, `a` gives `` and `a`.
#[must_use]
pub fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// A place in the path hash: the key of a directory, from which those of its children follow.
///
/// The hash is part of the manifest format. It is built to be cheap, not to withstand an opponent:
/// who can choose the names of a tree can make its own look-ups slow, never wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathKey(u64);

impl PathKey {
    /// The key of a tree's root.
    pub const ROOT: Self = Self(0x9e37_79b9_7f4a_7c15);

    /// Returns the key of the child called `name`.
    #[must_use]
    #[inline]
    pub fn child(self, name: &[u8]) -> Self {
        let (words, rest) = name.as_chunks::<8>();
        let mut hash = NameHash::new();
        for word in words {
            hash.add(u64::from_le_bytes(*word));
        }
        let tail = rest.iter().rev().fold(0_u64, |tail, &byte| tail << 8 | u64::from(byte));
        self.child_hashed(hash.finish(tail, name.len()))
    }

    /// Returns the key of the child whose name has this hash, see [`NameHash`].
    #[must_use]
    #[inline(always)]
    pub fn child_hashed(self, hash: u64) -> Self {
        Self(fold(self.0 ^ hash, 0xd6e8_feb8_6659_fd93))
    }

    /// Returns the key as a number.
    #[must_use]
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Returns the key of a number that [`Self::bits`] gave.
    #[must_use]
    #[inline(always)]
    pub fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the first slot to look into, of a table of `mask + 1` slots.
    #[must_use]
    #[inline]
    pub(crate) fn slot(self, mask: u32) -> u32 {
        // Deliberate truncation: the low half of a mixed hash.
        (self.0 ^ self.0 >> 32) as u32 & mask
    }
}

/// Returns both halves of the 128-bit product of `a` and `b`, xored.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    // Deliberate truncation: each half of the product is used.
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// The hash of one name: eight bytes at a time, then the rest, then the length.
#[derive(Debug, Clone, Copy)]
pub struct NameHash(u64);

impl NameHash {
    /// Returns the hash of nothing yet.
    #[must_use]
    #[inline(always)]
    #[allow(clippy::new_without_default, reason = "no name is empty")]
    pub fn new() -> Self {
        Self(0x517c_c1b7_2722_0a95)
    }

    /// Takes the next eight bytes, the first one lowest.
    #[inline(always)]
    pub fn add(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, 0xa076_1d64_78bd_642f);
    }

    /// Takes what is left, fewer than eight bytes, and how many bytes there were in all.
    #[must_use]
    #[inline(always)]
    pub fn finish(self, tail: u64, bytes: usize) -> u64 {
        fold(self.0 ^ tail, 0xe703_7ed1_a0b4_28db ^ bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_their_bytes() {
        for good in [&b"a"[..], b"...", b".a", b"\xff\xfe", b"a\nb", &[b'x'; 255]] {
            assert!(is_valid(good), "{good:?}");
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn paths_are_judged_name_by_name() {
        for good in [&b""[..], b"a", b"a/b", b"\xff/..."] {
            assert!(is_valid_path(good), "{good:?}");
        }
        for bad in [&b"/"[..], b"/a", b"a/", b"a//b", b"a/../b", b"./a", &[b'x'; 4096]] {
            assert!(!is_valid_path(bad), "{bad:?}");
        }
        assert_eq!(split_last(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split_last(b"a"), (&b""[..], &b"a"[..]));
    }

    #[test]
    fn path_hash_is_part_of_the_format() {
        let key = PathKey::ROOT.child(b"node_modules").child(b"react").child(b"index.js");
        assert_eq!(key.slot(u32::MAX), 762_330_555);
    }
}
