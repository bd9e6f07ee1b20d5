//! Patches: a manifest told by what it shares with another one, its base, so that a tree which differs in one package needs few bytes.
//!
//! A patch is one frame of zstd whose dictionary is the base, as `zstd --patch-from` makes it. It stands at the end of a tree's
//! `places`, and the signed record that locates the tree names the base, whose own manifest is an object: so whoever has the
//! record asks for both at once. Nothing of base and patch is believed, as what they make has the hash of the tree.

use std::io::{self, Read as _, Write as _};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

const LEVEL: i32 = 3;
/// No reader has more than 2 to this of a base in view.
const WINDOW_LOG_MAX: u32 = 27;
/// zstd has no smaller window.
const WINDOW_LOG_MIN: u32 = 10;
/// A patch is less than this part of the manifest, else the next base is made.
const PAYS_PART: usize = 8;

/// Returns the patch that makes a manifest of its base; `None` where it saves too little, or they are too long.
///
/// # Errors
/// What zstd says.
pub(super) fn make(manifest: &[u8], base: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let window_log = usize::BITS - (manifest.len() + base.len()).leading_zeros();
    if window_log > WINDOW_LOG_MAX {
        return Ok(None);
    }
    let mut encoder = Encoder::with_ref_prefix(Vec::new(), LEVEL, base)?;
    encoder.window_log(window_log.max(WINDOW_LOG_MIN))?;
    encoder.long_distance_matching(true)?;
    encoder.include_checksum(false)?;
    encoder.set_pledged_src_size(Some(manifest.len() as u64))?;
    encoder.write_all(manifest)?;
    let patch = encoder.finish()?;
    Ok(Some(patch).filter(|patch| patch.len() < manifest.len() / PAYS_PART))
}

/// Makes a manifest of this length of its base.
///
/// # Errors
/// The patch is damaged, belongs to another base, or makes another number of bytes.
pub(super) fn apply(patch: &[u8], base: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_ref_prefix(patch, base)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut manifest = Vec::new();
    (&mut decoder).take(length.saturating_add(1)).read_to_end(&mut manifest)?;
    let is_right = manifest.len() as u64 == length && decoder.finish().is_empty();
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it makes another number of bytes");
    is_right.then_some(manifest).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_bytes() -> Vec<u8> {
        let numbers = 0..100_000_u32;
        numbers.flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
    }

    #[test]
    fn a_patch_makes_what_it_was_made_of() {
        let base = some_bytes();
        let mut manifest = base.clone();
        manifest.splice(1000..1010, *b"another length");
        manifest.truncate(manifest.len() - 77);
        let patch = make(&manifest, &base).unwrap().unwrap();
        assert!(patch.len() < 400, "{}", patch.len());
        let length = manifest.len() as u64;
        assert_eq!(apply(&patch, &base, length).unwrap(), manifest);
        assert!(apply(&patch, &base, length - 1).is_err());
        assert!(apply(&patch, &base, length + 1).is_err());
        assert!(apply(&patch[..patch.len() - 1], &base, length).is_err());
        assert!(apply(&[&patch[..], b"x"].concat(), &base, length).is_err());
        let other = apply(&patch, &base[8..], length);
        assert!(other.is_err() || other.is_ok_and(|other| other != manifest));
    }

    #[test]
    fn what_shares_nothing_has_no_patch() {
        let mut other = some_bytes();
        other.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(167).rotate_left(3) ^ 0x5a);
        other.reverse();
        assert_eq!(make(&other, &some_bytes()).unwrap(), None);
    }
}
