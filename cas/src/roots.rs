//! What keeps trees in the store: which trees the record of a plan needs, and when it was last used.
//!
//! What a plan's record says is its writer's. So that gc and verify know what it needs, it writes the
//! word `tree`, then at most eight bytes of punctuation, then the hash in hexadecimal, wherever it names
//! a tree: `tree HEX` in a line does, and so does `"tree": "HEX"` in JSON. The mtime of the record tells
//! when the plan was last used: [`Store::touch_plan`] sets it at each use, and gc evicts the plans that
//! were not used for longest.

use rift_tree::TreeHash;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::record::Kind;
use crate::store::Store;

const WORD: &[u8] = b"tree";
/// How many bytes may stand between the word and the hash.
const PUNCTUATION_MAX: usize = 8;

/// Returns the trees that the payload of a plan's record names, in its order.
#[must_use]
pub fn trees_of_plan(payload: &[u8]) -> Vec<TreeHash> {
    let mut trees = Vec::new();
    for (at, _) in payload.windows(WORD.len()).enumerate().filter(|(_, bytes)| *bytes == WORD) {
        let rest = &payload[at + WORD.len()..];
        let is_digit = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        let Some(start) = rest.iter().take(PUNCTUATION_MAX + 1).position(is_digit) else {
            continue;
        };
        let length = rest[start..].iter().take_while(|byte| is_digit(byte)).count();
        let is_apart = start > 0 && !rest[..start].iter().any(u8::is_ascii_alphanumeric);
        if is_apart && length == 64 {
            trees.extend(TreeHash::from_hex(&rest[start..start + length]));
        }
    }
    trees
}

impl Store {
    /// Notes that the plan `name` is used now; a plan that is not there is as good.
    ///
    /// # Errors
    /// As utimensat(2).
    pub fn touch_plan(&self, name: &str) -> Result<()> {
        self.touch(Kind::Plan, name)
    }

    /// Gives a record the time of now; one that is not there is as good.
    pub(crate) fn touch(&self, kind: Kind, name: &str) -> Result<()> {
        let path = self.record_path(kind, name);
        let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let times = Timestamps {
            last_access: time(rustix::fs::UTIME_OMIT),
            last_modification: time(rustix::fs::UTIME_NOW),
        };
        match rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("set the time of", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_found_in_text_and_in_json() {
        let (one, two) = (TreeHash::from_bytes([0x1a; 32]), TreeHash::from_bytes([2; 32]));
        for text in [
            format!("tree {one}\ntree {two}\n"),
            format!("{{\"roots\": [{{\"tree\": \"{one}\"}}, {{\"tree\":\"{two}\"}}]}}"),
            format!("subtree {one}, tree: '{two}' blob {one}"),
        ] {
            assert_eq!(trees_of_plan(text.as_bytes()), [one, two], "{text}");
        }
        for text in [format!("tree{one}"), format!("tree of {one}"), format!("tree {one}0")] {
            assert_eq!(trees_of_plan(text.as_bytes()), [], "{text}");
        }
        assert_eq!(trees_of_plan(b"tree"), []);
    }
}
