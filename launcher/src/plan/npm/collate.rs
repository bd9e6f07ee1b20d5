//! The order npm sorts by: `localeCompare` in English (the root collation of CLDR), for printable ASCII.
//!
//! Invariant: exact for strings that [`exact`] accepts; callers refuse all others. Primary weights decide over the whole
//! string, only then case (small letters first).

use std::cmp::Ordering;

/// Printable ASCII in collation order, small letters before capitals.
const ORDER: &[u8] = b" _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRsStTuUvVwWxXyYzZ";

const WEIGHTS: [u8; 128] = {
    let mut weights = [0; 128];
    let mut at = 0;
    while at < ORDER.len() {
        let byte = ORDER[at];
        // A capital weighs what its small letter weighs.
        weights[byte as usize] = if byte.is_ascii_uppercase() { at as u8 } else { at as u8 + 1 };
        at += 1;
    }
    weights
};

/// Returns whether `text` is of the kind whose order is known here.
pub(crate) fn exact(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Compares as `a.localeCompare(b, 'en')`.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let weight = |byte: u8| WEIGHTS[usize::from(byte & 0x7f)];
    let primary = a.bytes().map(weight).cmp(b.bytes().map(weight));
    // At the same letter the small one (the greater code) comes first.
    primary.then_with(|| b.bytes().cmp(a.bytes()))
}

/// A string that sorts by [`compare`].
#[derive(PartialEq, Eq)]
pub(crate) struct Sorted<'a>(pub(crate) &'a str);

impl Ord for Sorted<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.0, other.0)
    }
}

impl PartialOrd for Sorted<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_as_node_orders_them() {
        for (a, b) in [
            ("a-b", "ab"),
            ("ab", "aB"),
            ("aB", "abc"),
            ("Ab", "aC"),
            ("a", "A"),
            ("A", "aa"),
            ("node_modules/a-b", "node_modules/a/node_modules/b"),
            ("node_modules/@b/a", "node_modules/a"),
            ("9", "a"),
        ] {
            assert_eq!(compare(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} {a}");
            assert_eq!(compare(a, a), Ordering::Equal);
        }
    }
}
