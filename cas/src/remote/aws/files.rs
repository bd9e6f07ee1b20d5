//! AWS's files of settings: sections with keys and values, one a line.

use std::collections::BTreeMap;
use std::path::Path;

/// The settings of a section.
pub(super) type Section = BTreeMap<String, String>;

/// Reads a file of sections; one that is not there has none.
pub(super) fn sections(path: Option<&Path>) -> Result<BTreeMap<String, Section>, String> {
    let Some(path) = path else { return Ok(BTreeMap::new()) };
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}

/// Reads sections of settings. A setting below another one is named `ABOVE.NAME`.
fn parse(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (mut section, mut above) = (None, None);
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            let inner = rest.split(']').next().unwrap_or_default().replace(['"', '\''], "");
            let name = inner.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(name.clone()).or_default();
            (section, above) = (Some(name), None);
            continue;
        }
        let Some((key, value)) = content.split_once('=') else { continue };
        let Some(settings) = section.as_ref().and_then(|name| sections.get_mut(name)) else {
            continue;
        };
        let key = key.trim().to_ascii_lowercase();
        let value = without_comment(value).trim().to_owned();
        if line.starts_with([' ', '\t']) {
            // Anything else that is indented goes on with a value that takes no second line here.
            if let Some(above) = &above {
                settings.insert(format!("{above}.{key}"), value);
            }
            continue;
        }
        above = value.is_empty().then(|| key.clone());
        settings.insert(key, value);
    }
    sections
}

/// Cuts a comment off a value: it begins behind a blank.
fn without_comment(value: &str) -> &str {
    let is_blank = |at: usize| value[..at].ends_with([' ', '\t']);
    let end = value.match_indices(['#', ';']).find(|(at, _)| is_blank(*at)).map(|(at, _)| at);
    &value[..end.unwrap_or(value.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_awss_tools_read_them() {
        let read = parse(
            "# mine\n[default]\nregion=eu-west-1 ; here\naws_secret_access_key = a/b+c=d#e\n\n\
             [profile \"two words\"]\nRegion = us-east-2\ns3 =\n  max_concurrent_requests = 20\n\
             services = local\n[ services local ]\ns3 =\n  endpoint_url = http://127.0.0.1:1 # x\n",
        );
        let get = |section: &str, key: &str| read[section].get(key).map(String::as_str);
        assert_eq!(get("default", "region"), Some("eu-west-1"));
        assert_eq!(get("default", "aws_secret_access_key"), Some("a/b+c=d#e"));
        assert_eq!(get("profile two words", "region"), Some("us-east-2"));
        assert_eq!(get("profile two words", "services"), Some("local"));
        assert_eq!(get("services local", "s3.endpoint_url"), Some("http://127.0.0.1:1"));
    }
}
