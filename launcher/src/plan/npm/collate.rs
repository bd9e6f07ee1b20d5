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
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::process::Command;

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

    #[test]
    fn the_order_of_names_is_nodes() {
        let words: Vec<String> = (0..4000_u64)
            .map(|n| {
                let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let letters = (0..1 + n % 9).map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    char::from(b' ' + u8::try_from((state >> 33) % 95).unwrap())
                });
                letters.collect()
            })
            .collect::<BTreeSet<String>>()
            .into_iter()
            .collect();
        let script = "const l=JSON.parse(require('fs').readFileSync(0));\
                      process.stdout.write(JSON.stringify(l.sort((a,b)=>a.localeCompare(b,'en'))))";
        let mut child = Command::new("node")
            .args(["-e", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(serde_json::to_string(&words).unwrap().as_bytes())
            .unwrap();
        let mut sorted = String::new();
        child.stdout.take().unwrap().read_to_string(&mut sorted).unwrap();
        assert!(child.wait().unwrap().success());
        let sorted: Vec<String> = serde_json::from_str(&sorted).unwrap();
        let mut ours = words;
        ours.sort_by(|a, b| compare(a, b));
        assert_eq!(ours, sorted);
    }
}
