//! Takes secrets out of words that are recorded or shown: logins in addresses, and settings of npm that
//! hold a credential.
//!
//! Whoever records a command line calls it first; what the command itself gets is never changed.

/// What stands where a secret was.
const REDACTED: &str = "…";

/// What the names of settings that hold a credential contain, in lower case.
const SECRET_NAMES: [&str; 7] = ["_auth", "_password", "token", "password", "secret", "otp", "//"];

/// Returns the words of a command line without their secrets.
#[must_use]
pub fn words(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut is_secret_next = false;
    let redact = |word: String| {
        let is_flag = word.starts_with('-');
        if std::mem::take(&mut is_secret_next) && !is_flag {
            return REDACTED.to_owned();
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&*word, None),
        };
        if is_flag && is_secret_name(name) {
            is_secret_next = value.is_none();
            return value.map_or_else(|| word.clone(), |_| format!("{name}={REDACTED}"));
        }
        addresses(&word)
    };
    words.into_iter().map(redact).collect()
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// Returns a text without the logins in its addresses: `scheme://login@host` loses the login.
#[must_use]
pub fn addresses(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(['/', '?', '#', ' ', '"', '\'']).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(login_end) => {
                clean.push_str(REDACTED);
                rest = &after[login_end..];
            }
            None => rest = after,
        }
    }
    clean.push_str(rest);
    clean
}

/// Tells whether an address holds a login.
#[must_use]
pub fn has_login(address: &str) -> bool {
    addresses(address) != address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        let table: [(&[&str], &[&str]); 8] = [
            (&["npm", "ci"], &["npm", "ci"]),
            (&["--https-proxy", "http://me:pw@proxy:1/"], &["--https-proxy", "http://…@proxy:1/"]),
            (&["--proxy=http://me:p@w@proxy/x@y"], &["--proxy=http://…@proxy/x@y"]),
            (&["--//host.test/:_authToken=abc"], &["--//host.test/:_authToken=…"]),
            (&["--//host.test/:_authToken", "abc"], &["--//host.test/:_authToken", "…"]),
            (&["--_password=abc", "ci"], &["--_password=…", "ci"]),
            (&["--otp", "123456"], &["--otp", "…"]),
            (&["install", "@scope/name@1.0.0"], &["install", "@scope/name@1.0.0"]),
        ];
        for (given, expected) in table {
            assert_eq!(words(given.iter().map(|word| (*word).to_owned())), expected);
        }
        assert!(has_login("https://u:p@host/x.tgz") && !has_login("https://host/@s/x-1.tgz"));
        assert_eq!(addresses("a https://u@h/ b ftp://h/@x"), "a https://…@h/ b ftp://h/@x");
    }
}
