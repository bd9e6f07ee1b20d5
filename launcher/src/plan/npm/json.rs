//! JSON as npm sees it: order kept, duplicate keys refused, written back as `json-stringify-nice` writes it.
//!
//! Invariant: a parsed value holds no duplicate key, no `__proto__` and only printable ASCII keys, so that sorting it
//! the way npm does ([`super::collate`]) is exact. Nesting is bounded by serde_json. Lockfile, manifests and the hidden
//! lockfile all go through here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::collate;

/// A JSON value that borrows from the bytes it was read from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    /// An integer; npm's files hold no other numbers, and JavaScript would print those differently.
    Integer(i64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// An object's entries in file order.
pub(crate) type Object<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// Parses `bytes` (a leading byte order mark is skipped, as npm does).
pub(crate) fn parse(bytes: &[u8]) -> Result<Json<'_>, serde_json::Error> {
    serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// Returns the member `key`.
pub(crate) fn get<'o, 'a>(
    object: &'o [(Cow<'a, str>, Json<'a>)],
    key: &str,
) -> Option<&'o Json<'a>> {
    object.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

impl<'a> Json<'a> {
    /// Returns the member `key` when this is an object.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        get(self.as_object()?, key)
    }

    pub(crate) fn as_object(&self) -> Option<&[(Cow<'a, str>, Json<'a>)]> {
        match self {
            Json::Object(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns what JavaScript's `if (value)` decides.
    pub(crate) fn truthy(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Bool(value) => *value,
            Json::Integer(value) => *value != 0,
            Json::Text(text) => !text.is_empty(),
            Json::List(_) | Json::Object(_) => true,
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Json::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        // 2^53: beyond it JavaScript rounds.
        if value > 1 << 53 {
            return Err(E::custom("a number too large to be exact"));
        }
        Ok(Json::Integer(value.cast_signed()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom("a number that is not an integer"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Json::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        /// Up to this many keys a scan is faster than a set.
        const SCAN: usize = 12;
        let mut entries: Object<'de> = Vec::new();
        let mut seen: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            if key == "__proto__" || !collate::exact(&key) {
                return Err(de::Error::custom(format_args!("the key {key:?}")));
            }
            let twice = if entries.len() < SCAN {
                entries.iter().any(|(other, _)| *other == key)
            } else {
                if seen.is_empty() {
                    seen.extend(entries.iter().map(|(other, _)| other.clone()));
                }
                !seen.insert(key.clone())
            };
            if twice {
                return Err(de::Error::custom(format_args!("the key {key:?} twice")));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(Json::Object(entries))
    }
}

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// How a file is laid out: npm writes its lockfiles with the indentation and line ends of the project's package.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// At most ten characters, as `JSON.stringify` takes them.
    pub(crate) indent: String,
    pub(crate) newline: String,
}

impl Default for Format {
    fn default() -> Self {
        Format { indent: "  ".to_owned(), newline: "\n".to_owned() }
    }
}

impl Format {
    /// Reads the format off a JSON file, by the rules of `json-parse-even-better-errors` and of npm's use of it
    /// (nothing found means two spaces and a line feed). `None`: a form that isn't worth imitating.
    pub(crate) fn of(bytes: &[u8]) -> Option<Format> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let rest = bytes.trim_ascii_start();
        let rest = match rest.first() {
            Some(b'{') => &rest[1..],
            _ => return None,
        };
        let newline = line_ends(rest);
        if newline.is_empty() {
            return Some(Format::default());
        }
        let after = &rest[newline.len()..];
        let space = after.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if after.get(space) == Some(&b'}')
            || after[..space].iter().any(|byte| !matches!(byte, b' ' | b'\t'))
        {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let indent =
            if space == 0 { Format::default().indent } else { text(&after[..space.min(10)]) };
        Some(Format { indent, newline: text(newline) })
    }
}

fn line_ends(bytes: &[u8]) -> &[u8] {
    let mut end = 0;
    loop {
        if bytes[end..].starts_with(b"\n") {
            end += 1;
        } else if bytes[end..].starts_with(b"\r\n") {
            end += 2;
        } else {
            return &bytes[..end];
        }
    }
}

/// Writes `value` as `json-stringify-nice` does with npm's preferred keys: in every object the scalars and lists first,
/// then the objects, each part by preferred key and then by collation; array-index keys before all (JavaScript's order).
pub(crate) fn write(value: &Json<'_>, format: &Format) -> String {
    let mut out = String::new();
    write_value(value, format, 0, &mut out);
    out.push('\n');
    if format.newline == "\n" { out } else { out.replace('\n', &format.newline) }
}

const PREFERRED: [&str; 8] = [
    "name",
    "version",
    "lockfileVersion",
    "resolved",
    "integrity",
    "requires",
    "packages",
    "dependencies",
];

fn write_value(value: &Json<'_>, format: &Format, level: usize, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Integer(value) => out.push_str(&value.to_string()),
        Json::Text(text) => write_text(text, out),
        Json::List(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                break_line(at > 0, format, level + 1, out);
                write_value(value, format, level + 1, out);
            }
            close(']', values.is_empty(), format, level, out);
        }
        Json::Object(entries) => {
            let mut order: Vec<&(Cow<'_, str>, Json<'_>)> = entries.iter().collect();
            order.sort_by_cached_key(|(key, value)| {
                let preferred =
                    PREFERRED.iter().position(|name| name == key).unwrap_or(PREFERRED.len());
                let index = array_index(key).map_or(u64::MAX, u64::from);
                (index, matches!(value, Json::Object(_)), preferred, collate::Sorted(key))
            });
            out.push('{');
            for (at, (key, value)) in order.into_iter().enumerate() {
                break_line(at > 0, format, level + 1, out);
                write_text(key, out);
                out.push_str(": ");
                write_value(value, format, level + 1, out);
            }
            close('}', entries.is_empty(), format, level, out);
        }
    }
}

fn array_index(key: &str) -> Option<u32> {
    let canonical =
        key == "0" || (key.starts_with(|c: char| c.is_ascii_digit()) && !key.starts_with('0'));
    key.parse().ok().filter(|index| canonical && *index != u32::MAX)
}

fn break_line(comma: bool, format: &Format, level: usize, out: &mut String) {
    if comma {
        out.push(',');
    }
    out.push('\n');
    for _ in 0..level {
        out.push_str(&format.indent);
    }
}

fn close(bracket: char, empty: bool, format: &Format, level: usize, out: &mut String) {
    if !empty {
        break_line(false, format, level, out);
    }
    out.push(bracket);
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_written_in_npms_order() {
        let text =
            br#"{"z":{"b":1},"name":"n","a":[],"A":{},"10":1,"packages":{"x":null},"version":"1"}"#;
        let value = parse(text).unwrap();
        let expected = "{\n\t\"10\": 1,\n\t\"name\": \"n\",\n\t\"version\": \"1\",\n\t\"a\": [],\n\t\"packages\": {\n\t\t\"x\": null\n\t},\n\t\"A\": {},\n\t\"z\": {\n\t\t\"b\": 1\n\t}\n}\n";
        assert_eq!(write(&value, &Format { indent: "\t".into(), newline: "\n".into() }), expected);
    }

    #[test]
    fn strings_are_escaped_as_javascript_does() {
        let value = Json::Text("a\"\\\n\u{1}\u{7f}é/\u{2028}".into());
        assert_eq!(write(&value, &Format::default()), "\"a\\\"\\\\\\n\\u0001\u{7f}é/\u{2028}\"\n");
    }

    #[test]
    fn doubtful_input_is_refused() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"__proto__":1}"#,
            r#"{"é":1}"#,
            r#"{"a":1.5}"#,
            r#"{"a":99999999999999999}"#,
            "{",
            "{} x",
            "<<<<<<< ours",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(parse(deep.as_bytes()).is_err());
        let many: String = (0..40).map(|n| format!("\"k{n}\":1,")).collect();
        assert!(parse(format!("{{{many}\"k3\":2}}").as_bytes()).is_err());
    }

    #[test]
    fn formats() {
        let format = |indent: &str, newline: &str| {
            Some(Format { indent: indent.into(), newline: newline.into() })
        };
        for (text, expected) in [
            ("{\"a\":1}", format("  ", "\n")),
            ("{\n    \"a\": 1\n}", format("    ", "\n")),
            ("\u{feff}{\r\n\t\"a\": 1\r\n}", format("\t", "\r\n")),
            ("{\n\"a\":1}", format("  ", "\n")),
            ("{\n\n  \"a\":1}", format("  ", "\n\n")),
            ("{\n  \n \"a\":1}", None),
            ("[]", None),
        ] {
            assert_eq!(Format::of(text.as_bytes()), expected, "{text:?}");
        }
    }
}
