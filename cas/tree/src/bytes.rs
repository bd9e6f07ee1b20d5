//! Little-endian fields in byte slices.
//!
//! Every getter is checked and answers `None` outside the slice, which is what lets the readers of
//! this crate promise that no input makes them panic.

use crate::FormatError;

/// Splits a file into its header and the rest, if it begins with this magic and then this version.
///
/// # Errors
/// What of it is wrong.
pub(crate) fn split_header(
    bytes: &[u8],
    header_bytes: usize,
    magic: [u8; 8],
    version: u32,
) -> Result<(&[u8], &[u8]), FormatError> {
    let (head, rest) =
        bytes.split_at_checked(header_bytes).ok_or_else(|| truncated(bytes, header_bytes))?;
    if !head.starts_with(&magic) {
        return Err(FormatError::Magic);
    }
    match u32_at(head, 2) {
        Some(found) if found == version => Ok((head, rest)),
        found => Err(FormatError::Version { readable: version, found: found.unwrap_or_default() }),
    }
}

/// Says that a file has fewer bytes than `wanted`, or more.
pub(crate) fn truncated(bytes: &[u8], wanted: usize) -> FormatError {
    FormatError::Truncated { offset: bytes.len() as u64, wanted: wanted as u64 }
}

/// Returns the `u16` number `index` of a column.
#[inline]
pub(crate) fn u16_at(column: &[u8], index: usize) -> Option<u16> {
    let start = index.checked_mul(2)?;
    Some(u16::from_le_bytes(column.get(start..start.checked_add(2)?)?.try_into().ok()?))
}

/// Returns the `u32` number `index` of a column.
#[inline]
pub(crate) fn u32_at(column: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(4)?;
    Some(u32::from_le_bytes(column.get(start..start.checked_add(4)?)?.try_into().ok()?))
}

/// Returns the `u64` number `index` of a column.
#[inline]
pub(crate) fn u64_at(column: &[u8], index: usize) -> Option<u64> {
    let start = index.checked_mul(8)?;
    Some(u64::from_le_bytes(column.get(start..start.checked_add(8)?)?.try_into().ok()?))
}

/// Returns the 32 bytes number `index` of a column.
#[inline]
pub(crate) fn hash_at(column: &[u8], index: usize) -> Option<[u8; 32]> {
    let start = index.checked_mul(32)?;
    column.get(start..start.checked_add(32)?)?.try_into().ok()
}

/// Returns item `index` of a list of byte strings kept as ends (`u32` each) and one run of bytes.
#[inline]
pub(crate) fn string_at<'a>(ends: &[u8], run: &'a [u8], index: usize) -> Option<&'a [u8]> {
    let start = match index.checked_sub(1) {
        Some(before) => u32_at(ends, before)? as usize,
        None => 0,
    };
    run.get(start..u32_at(ends, index)? as usize)
}
