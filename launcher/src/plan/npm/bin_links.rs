//! A package's commands: the `bin` field as npm reads it, and who gets a name in `.bin` when several want it.
//!
//! Invariant: a command's name is one path part and its file is relative, inside the package. [`super::layout`] calls.

use super::json::Json;
use super::package::bins::normalize;
use super::why::Why;

/// A command: its name and its file inside the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bin {
    pub(crate) name: String,
    pub(crate) file: String,
}

/// Reads `bin` of the package called `name`, as npm normalizes it.
pub(crate) fn read(bin: Option<&Json<'_>>, name: &str) -> Result<Vec<Bin>, Why> {
    let doubtful = || Why::new(format!("the `bin` of {name} is not understood"));
    let pairs: Vec<(&str, &Json<'_>)> = match bin {
        None => return Ok(Vec::new()),
        Some(bin) if !bin.truthy() => return Ok(Vec::new()),
        Some(bin @ Json::Text(_)) if !name.is_empty() => vec![(name, bin)],
        Some(Json::List(files)) => {
            let mut pairs = Vec::new();
            for file in files {
                pairs.push((base_of(file.as_str().ok_or_else(doubtful)?), file));
            }
            pairs
        }
        Some(Json::Object(entries)) => entries.iter().map(|(key, file)| (&**key, file)).collect(),
        Some(_) => return Ok(Vec::new()),
    };
    let mut bins: Vec<Bin> = Vec::new();
    for (key, file) in pairs {
        let Some(file) = file.as_str() else { continue };
        if key.contains('\0') || file.contains('\0') {
            return Err(doubtful());
        }
        let key = secure(key);
        let bin = Bin { name: base_of(&key).to_owned(), file: secure(file) };
        if bin.name.is_empty() || bin.file.is_empty() {
            continue;
        }
        // Which of two wins depends on the order in which JavaScript visits changed keys.
        if bins.iter().any(|other| other.name == bin.name) {
            return Err(doubtful());
        }
        bins.push(bin);
    }
    Ok(bins)
}

fn base_of(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// Makes a path relative and keeps it inside.
fn secure(path: &str) -> String {
    normalize(&path.replace(['\\', ':'], "/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::npm::json;

    #[test]
    fn forms() {
        for (text, expected) in [
            (r#""cli.js""#, &[("@s/p", "cli.js")][..]),
            (
                r#"{"a":"./bin/a.js","b":"../../etc/passwd"}"#,
                &[("a", "bin/a.js"), ("b", "etc/passwd")],
            ),
            (r#"{"../../x":"x.js"}"#, &[("x", "x.js")]),
            (r#"{"..":"x.js","a":"","b":1}"#, &[]),
            (r#"{"a\\b":"c\\d.js"}"#, &[("b", "c/d.js")]),
            (r#"["bin/one.js","two"]"#, &[("one.js", "bin/one.js"), ("two", "two")]),
            (r#"false"#, &[]),
            (r#"{}"#, &[]),
        ] {
            let bin = json::parse(text.as_bytes()).unwrap();
            let bins = read(Some(&bin), "@s/p").unwrap();
            let found: Vec<_> =
                bins.iter().map(|bin| (bin.name.as_str(), bin.file.as_str())).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, file)| (name.strip_prefix("@s/").unwrap_or(name), *file))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
        let twice = json::parse(br#"{"a":"x","b/a":"y"}"#).unwrap();
        assert!(read(Some(&twice), "p").is_err());
    }
}
