//! Descriptors of real files that were used last: requests come without open(2) before them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rift_cas::lock::lock;

use super::nodes::Node;

/// How many descriptors are kept.
const KEPT: usize = 64;

/// A few open real files; the one used last stands last.
#[derive(Debug, Default)]
pub(super) struct Opened {
    files: Mutex<Vec<File>>,
}

#[derive(Debug)]
struct File {
    node: Node,
    can_write: bool,
    file: Arc<OwnedFd>,
}

impl Opened {
    /// Returns an open file of a node; one that can be written to when that is asked for.
    pub(super) fn get(&self, node: Node, to_write: bool) -> Option<Arc<OwnedFd>> {
        let mut files = lock(&self.files);
        let is_it = |file: &File| file.node == node && (file.can_write || !to_write);
        let at = files.iter().rposition(is_it)?;
        let last = files.len() - 1;
        files.swap(at, last);
        Some(Arc::clone(&files[last].file))
    }

    /// Keeps an open file of a node.
    pub(super) fn put(&self, node: Node, can_write: bool, file: OwnedFd) -> Arc<OwnedFd> {
        let file = Arc::new(file);
        let mut files = lock(&self.files);
        if files.len() == KEPT {
            files.remove(0);
        }
        files.push(File { node, can_write, file: Arc::clone(&file) });
        file
    }

    /// Lets go of the files of a node.
    pub(super) fn close(&self, node: Node) {
        lock(&self.files).retain(|file| file.node != node);
    }
}
