//! Plans: what a command line with known inputs produces, and what keeps these trees in the store.
//!
//! ```text
//! plan: a record of lines "tree HEX\n", an empty line, then what its writer wants to know
//! ```
//!
//! Only the lines matter here; the rest is the launcher's. The mtime of a plan's record tells when it
//! was last used: [`Plan::touch`] sets it, and gc evicts the plans that were not used for longest.

use rift_tree::TreeHash;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::record::Kind;
use crate::store::Store;

/// What a command line with known inputs produces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The trees that it needs.
    pub trees: Vec<TreeHash>,
    /// What else its writer wants to know.
    pub payload: Vec<u8>,
}

/// A line: its word and what follows.
type Field<'a> = (&'a [u8], &'a [u8]);

/// Splits the lines off that begin with known words, up to an empty line.
fn split_head(payload: &[u8]) -> (Vec<Field<'_>>, &[u8]) {
    let mut fields = Vec::new();
    let mut rest = payload;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        match line.iter().position(|byte| *byte == b' ') {
            Some(space) => fields.push((&line[..space], &line[space + 1..])),
            None => break,
        }
    }
    (fields, rest)
}

impl Plan {
    /// Returns the payload of its record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for tree in &self.trees {
            bytes.extend_from_slice(b"tree ");
            bytes.extend_from_slice(&tree.to_hex());
            bytes.push(b'\n');
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Reads the payload of a record; lines that it does not know are left to later versions.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Self {
        let (fields, rest) = split_head(payload);
        let trees = fields.iter().filter(|(word, _)| *word == b"tree");
        let trees = trees.filter_map(|(_, hex)| TreeHash::from_hex(hex).ok()).collect();
        Self { trees, payload: rest.to_vec() }
    }

    /// Notes that the plan `name` was used now; a plan that is not there is as good.
    ///
    /// # Errors
    /// As utimensat(2).
    pub fn touch(store: &Store, name: &str) -> Result<()> {
        let path = store.record_path(Kind::Plan, name);
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

impl Store {
    /// Reads a plan; `None` when there is none.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn plan(&self, name: &str) -> Result<Option<Plan>> {
        Ok(self.record(Kind::Plan, name)?.map(|payload| Plan::decode(&payload)))
    }

    /// Writes a plan, whose trees are here.
    ///
    /// # Errors
    /// As [`Store::set_record`].
    pub fn set_plan(&self, name: &str, plan: &Plan) -> Result<()> {
        self.set_record(Kind::Plan, name, &plan.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_survive_encoding() {
        let tree = |byte| TreeHash::from_bytes([byte; 32]);
        for payload in [&b""[..], b"\n", b"tree is a word\n\n"] {
            let plan = Plan { trees: vec![tree(1), tree(2)], payload: payload.to_vec() };
            assert_eq!(Plan::decode(&plan.encode()), plan);
        }
        assert_eq!(Plan::decode(b"later 1\n\nrest").payload, b"rest");
    }
}
