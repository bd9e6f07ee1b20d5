//! Where the entries of a package's tarball go, and what npm's tar does where they meet.
//!
//! [`target`] turns a name into a path below the package, or refuses it: the first part is stripped,
//! then roots of any system, and whatever has `..` is left out. [`Layout`] keeps what a directory on
//! disk would hold. So no path here can lead out of the package: there are no links to follow, and no
//! `..` comes through.

use std::collections::HashMap;

use rift_tree::BlobHash;
use rift_tree::builder::{Builder, Built, Item};
use rift_tree::name::{NAME_BYTES_MAX, PATH_BYTES_MAX};

use super::error::{PackageError, Result};

/// npm's tar leaves out what lies deeper.
const DEPTH_MAX: usize = 1024;
/// More files than any package has; what is kept of each is in memory.
const FILES_MAX: usize = 1 << 20;
/// More bytes of paths than any package has.
const PATHS_BYTES_MAX: usize = 128 << 20;

/// Returns the path below the package at which an entry goes; `None` when npm leaves it out.
///
/// # Errors
/// A name with NUL, on which npm stops.
pub(super) fn target(path: &str, linkpath: Option<&str>) -> Result<Option<String>> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if parts.len() > DEPTH_MAX {
        return Ok(None);
    }
    let stripped = parts.join("/");
    let inside = strip_roots(&stripped);
    if has_dot_dot(inside) || linkpath.is_some_and(|link| link_escapes(inside, link)) {
        return Ok(None);
    }
    let names = inside.split('/').filter(|name| !name.is_empty() && *name != ".");
    let target = names.collect::<Vec<_>>().join("/");
    if target.contains('\0') {
        return Err(PackageError::Corrupt("a name has a NUL"));
    }
    Ok(Some(target).filter(|target| !target.is_empty() && target.len() <= PATH_BYTES_MAX))
}

/// Tells whether a part is `..`, whichever way the slashes lean.
fn has_dot_dot(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| part == "..")
}

/// Tells whether a link target that was given to what is no link leads out, for which npm drops it.
fn link_escapes(path: &str, link: &str) -> bool {
    let link = strip_roots(link);
    if !has_dot_dot(link) {
        return false;
    }
    let parent = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut depth = 0_usize;
    for part in parent.split('/').chain(link.split(['/', '\\'])) {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Takes off what makes a path absolute on any system, as often as there is something.
fn strip_roots(mut path: &str) -> &str {
    loop {
        let root = windows_root(path);
        if root == 0 {
            return path;
        }
        let is_slash = path.starts_with('/') && !path.starts_with("//?/");
        path = &path[if is_slash { 1 } else { root }..];
    }
}

/// Returns the length of the root that Windows sees: `\`, `C:`, `C:\`, `\\server\share\`.
fn windows_root(path: &str) -> usize {
    let bytes = path.as_bytes();
    let is_slash = |at: usize| matches!(bytes.get(at), Some(b'/' | b'\\'));
    let run = |from: usize, slashes: bool| {
        (from..bytes.len()).find(|at| is_slash(*at) != slashes).unwrap_or(bytes.len())
    };
    if is_slash(0) {
        if !is_slash(1) {
            return 1;
        }
        let server = run(2, false);
        let gap = run(server, true);
        if server == 2 || server == bytes.len() || gap == bytes.len() {
            return 1;
        }
        let share = run(gap, false);
        return if share == bytes.len() { share } else { share + 1 };
    }
    match (bytes.first(), bytes.get(1)) {
        (Some(letter), Some(b':')) if letter.is_ascii_alphabetic() => 2 + usize::from(is_slash(2)),
        _ => 0,
    }
}

/// A file as it lies in the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    pub(super) permissions: u16,
    pub(super) size: u64,
    pub(super) hash: BlobHash,
}

#[derive(Debug)]
enum Node {
    Directory {
        children: usize,
    },
    /// `None` while its bytes are still coming.
    File {
        permissions: u16,
        content: Option<(u64, BlobHash)>,
    },
}

/// What a directory on disk would hold.
#[derive(Debug, Default)]
pub(super) struct Layout {
    nodes: HashMap<String, Node>,
    path_bytes: usize,
}

impl Layout {
    /// Makes room for a file as npm would: tells whether its bytes are wanted there.
    ///
    /// A file keeps the mode that it was made with when another one overwrites it, unless that one
    /// `replaces` it. An empty directory gives way; what is in a file's place or too long stays out.
    ///
    /// # Errors
    /// More files than any package has.
    pub(super) fn begin(&mut self, path: &str, permissions: u16, replaces: bool) -> Result<bool> {
        if self.nodes.len() >= FILES_MAX || self.path_bytes >= PATHS_BYTES_MAX {
            return Err(PackageError::TooLarge("it has over a million files"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let has_parent = matches!(self.nodes.get(parent), Some(Node::Directory { .. }));
        if !has_parent {
            for (end, _) in path.match_indices('/') {
                if !self.make_directory(&path[..end]) {
                    return Ok(false);
                }
            }
        }
        if name.len() > NAME_BYTES_MAX {
            return Ok(false);
        }
        match self.nodes.get_mut(path) {
            Some(Node::Directory { children: 1.. }) => return Ok(false),
            Some(Node::File { permissions: kept, content }) => {
                *content = None;
                if replaces {
                    *kept = permissions;
                }
            }
            Some(node @ Node::Directory { .. }) => {
                *node = Node::File { permissions, content: None };
            }
            None => self.add(path, Node::File { permissions, content: None }),
        }
        Ok(true)
    }

    /// Tells what the file that was begun at `path` holds.
    pub(super) fn end(&mut self, path: &str, size: u64, hash: BlobHash) {
        if let Some(Node::File { content, .. }) = self.nodes.get_mut(path) {
            *content = Some((size, hash));
        }
    }

    fn make_directory(&mut self, path: &str) -> bool {
        match self.nodes.get(path) {
            Some(Node::Directory { .. }) => true,
            Some(Node::File { .. }) => false,
            None => {
                let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
                if name.len() > NAME_BYTES_MAX {
                    return false;
                }
                self.add(path, Node::Directory { children: 0 });
                true
            }
        }
    }

    fn add(&mut self, path: &str, node: Node) {
        self.nodes.insert(path.to_owned(), node);
        self.path_bytes += path.len();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if let Some(Node::Directory { children }) = self.nodes.get_mut(parent) {
            *children += 1;
        }
    }

    /// Returns the file at `path`.
    pub(super) fn file(&self, path: &str) -> Option<File> {
        match self.nodes.get(path)? {
            Node::File { permissions, content: Some((size, hash)) } => {
                Some(File { permissions: *permissions, size: *size, hash: *hash })
            }
            _ => None,
        }
    }

    /// Replaces the file at `path`.
    pub(super) fn set_file(&mut self, path: &str, file: File) {
        if let Some(Node::File { permissions, content }) = self.nodes.get_mut(path) {
            *permissions = file.permissions;
            *content = Some((file.size, file.hash));
        }
    }

    /// Returns the paths of all files, in no order.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(|(_, node)| matches!(node, Node::File { .. }))
            .map(|(path, _)| path.as_str())
    }

    /// Returns how many files there are and how many bytes they hold.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.nodes.values().fold((0, 0), |(files, bytes), node| match node {
            Node::File { content, .. } => (files + 1, bytes + content.map_or(0, |(size, _)| size)),
            Node::Directory { .. } => (files, bytes),
        })
    }

    /// Builds the tree, with the modes that npm asks for before the umask is applied.
    ///
    /// # Errors
    /// What no tree can hold.
    pub(super) fn build(self) -> Result<Built> {
        let mut builder = Builder::stamped();
        builder.put(b"", 0, Item::Directory { permissions: 0o777 })?;
        for (path, node) in self.nodes {
            let item = match node {
                Node::Directory { .. } => Item::Directory { permissions: 0o777 },
                Node::File { permissions, content: Some((size, hash)) } => {
                    Item::File { permissions, size, hash }
                }
                Node::File { content: None, .. } => {
                    return Err(PackageError::Corrupt("a file ends before its bytes do"));
                }
            };
            builder.put(path.as_bytes(), 0, item)?;
        }
        Ok(builder.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Option<String> {
        target(path, None).unwrap()
    }

    #[test]
    fn names_lead_below_the_package_or_nowhere() {
        for (name, path) in [
            ("package/a", Some("a")),
            ("package/a/./b//c", Some("a/b/c")),
            ("/abs/a", Some("abs/a")),
            ("///etc/passwd", Some("etc/passwd")),
            ("package//etc/passwd", Some("etc/passwd")),
            ("package/C:\\x", Some("x")),
            ("package/c:x", Some("x")),
            ("package/c:d:/x", Some("x")),
            ("package/\\\\server\\share\\x", Some("x")),
            ("package///?/C:/x", Some("x")),
            ("package/a\\b", Some("a\\b")),
            ("package", None),
            ("package/", None),
            ("package/.", None),
            ("package/..", None),
            ("package/a/../../b", None),
            ("package/a\\..\\b", None),
            ("package/c:../b", None),
            ("package/..a/...", Some("..a/...")),
        ] {
            assert_eq!(at(name).as_deref(), path, "{name}");
        }
        assert!(target("package/a\0b", None).is_err());
        assert_eq!(at(&format!("p{}", "/d".repeat(1024))).map(|path| path.len()), Some(2047));
        assert_eq!(at(&format!("p{}", "/d".repeat(1025))), None);
        assert_eq!(target("package/a/b", Some("../../x")).unwrap(), None);
        assert_eq!(target("package/a/b", Some("../x")).unwrap().as_deref(), Some("a/b"));
    }

    #[test]
    fn what_meets_at_a_path_is_settled_as_on_disk() {
        let hash = BlobHash::from_bytes([1; 32]);
        let mut layout = Layout::default();
        assert!(layout.begin("a/b", 0o666, false).unwrap());
        layout.end("a/b", 1, hash);
        assert!(!layout.begin("a", 0o666, false).unwrap(), "a directory with entries stays");
        assert!(!layout.begin("a/b/c", 0o666, false).unwrap(), "a file is no directory");
        assert!(layout.begin("a/b", 0o777, false).unwrap());
        layout.end("a/b", 2, hash);
        assert_eq!(layout.file("a/b"), Some(File { permissions: 0o666, size: 2, hash }));
        assert!(layout.begin("a/b", 0o777, true).unwrap());
        layout.end("a/b", 3, hash);
        assert_eq!(layout.file("a/b").map(|file| file.permissions), Some(0o777));
        let long = "x".repeat(256);
        assert!(!layout.begin(&format!("empty/{long}"), 0o666, false).unwrap());
        assert!(layout.begin("empty", 0o666, false).unwrap(), "an empty directory gives way");
        layout.end("empty", 4, hash);
        assert!(!layout.begin(&format!("d/{long}/x"), 0o666, false).unwrap());
        assert_eq!(layout.totals(), (2, 7));
        layout.build().unwrap();
    }
}
