//! Waits for blobs of partial trees, which the run's supervisor brings: see `rift_tree::arrival`.

use core::sync::atomic::Ordering;

use rift_tree::arrival::Arrivals;
use rift_tree::{EntryId, Kind};

use crate::run::Shown;
use crate::sys::{self, Errno, Result};
use crate::text::Text;

/// How long is slept until somebody looks whether the supervisor still lives, in nanoseconds.
const PATIENCE_NS: i64 = 1_000_000_000;

/// The name of the file, which lies beside the data.
const ARRIVALS: &[u8] = b"arrivals";

fn path_beside(data: &[u8]) -> Result<Text> {
    let end = data.iter().rposition(|byte| *byte == b'/').ok_or(Errno::IO)?;
    let mut path = Text::of(data.get(..end).unwrap_or_default())?;
    path.push_name(ARRIVALS)?;
    Ok(path)
}

/// Maps the file that lies beside the data of a partial tree.
pub(crate) fn map(data: &[u8], blobs: u32) -> Result<Arrivals<'static>> {
    Arrivals::new(sys::map_words(&path_beside(data)?)?, blobs).ok_or(Errno::IO)
}

/// Waits until a blob is here.
pub(crate) fn wait_for(shown: &Shown, arrivals: &Arrivals<'static>, blob: u32) -> Result<()> {
    arrivals.note_used(blob);
    if arrivals.has(blob) {
        return Ok(());
    }
    let word = arrivals.word_of(blob).ok_or(Errno::IO)?;
    arrivals.want(blob);
    ring(arrivals);
    loop {
        let seen = word.load(Ordering::Acquire);
        if arrivals.has(blob) {
            return Ok(());
        }
        if arrivals.has_failed(blob) {
            return Err(Errno::IO);
        }
        sys::sleep_on(word, seen, PATIENCE_NS);
        if word.load(Ordering::Acquire) == seen && !arrivals.has_failed(blob) {
            if !sys::is_locked(&path_beside(shown.container_path(0)?)?)? {
                return Err(Errno::IO);
            }
            // Who took the wish may be gone, and another supervisor here.
            arrivals.want(blob);
            ring(arrivals);
        }
    }
}

/// Asks for all blobs of some entries at once; nobody waits yet.
pub(crate) fn ask_for(shown: &Shown, entries: impl Iterator<Item = EntryId>) {
    let Some(arrivals) = &shown.arrivals else { return };
    let mut has_any = false;
    for id in entries {
        if let Some(Kind::File { blob, .. }) = shown.manifest.kind(id)
            && !arrivals.has(blob)
        {
            arrivals.want(blob);
            has_any = true;
        }
    }
    if has_any {
        ring(arrivals);
    }
}

fn ring(arrivals: &Arrivals<'static>) {
    arrivals.ring();
    if let Some(bell) = arrivals.bell() {
        sys::wake(bell);
    }
}
