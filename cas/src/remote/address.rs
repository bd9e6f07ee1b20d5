//! The address of a remote: `s3://`, `gs://`, `az://`, `https://` and `file://`.
//!
//! An address never holds a credential: those come from the environment, as the tools of each service have them.

use std::fmt;

use super::error::{Error, Result};

/// What kind of server a remote is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, or a server that is compatible.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Any web server; it can only be read.
    Https,
    /// The same without TLS, on this machine only.
    Http,
    /// A folder.
    File,
}

/// The address of a remote, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    /// Bucket, container, or host with port; empty for a folder.
    place: String,
    /// Below it, without slashes at the ends; a folder's path is absolute.
    path: String,
}

const SCHEMES: [(&str, Scheme); 6] = [
    ("s3", Scheme::S3),
    ("gs", Scheme::Gcs),
    ("az", Scheme::Azure),
    ("https", Scheme::Https),
    ("http", Scheme::Http),
    ("file", Scheme::File),
];

impl Address {
    /// Returns the remote that this is a namespace of, and its name there; `None` for what is no namespace.
    pub(crate) fn outside(&self) -> Option<(Self, String)> {
        let text = self.to_string();
        let (main, name) = text.rsplit_once("/ns/")?;
        is_namespace(name).then(|| Some((Self::parse(main).ok()?, name.to_owned())))?
    }

    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Address`] that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|reason| Error::Address { address: without_login(text), reason })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme such as s3://")?;
        let known = SCHEMES.iter().find(|(name, _)| *name == scheme);
        let (_, scheme) = *known.ok_or("the schemes are s3, gs, az, https and file")?;
        if rest.chars().any(|c| c.is_control() || c.is_whitespace() || "?#,\\\"'%".contains(c)) {
            return Err("it has a space, a quote, a comma or one of ? # % \\");
        }
        let (place, path) = match rest.split_once('/') {
            Some((place, path)) => (place, path),
            None => (rest, ""),
        };
        if place.contains('@') {
            return Err("it holds a login; credentials belong into the environment");
        }
        let path = path.trim_end_matches('/');
        let is_odd = |part: &str| part == "." || part == "..";
        if path.split('/').any(is_odd) || path.starts_with('/') || path.contains("//") {
            return Err("its path has an empty part, or one that is . or ..");
        }
        match scheme {
            Scheme::File if !place.is_empty() => return Err("write file:///absolute/path"),
            Scheme::File if path.is_empty() => return Err("it names the root of the file system"),
            Scheme::File => {}
            _ if place.is_empty() => return Err("it names no bucket or host"),
            Scheme::Http if !is_loopback(place) => {
                return Err("without TLS only this machine is reached");
            }
            _ => {}
        }
        let path = if scheme == Scheme::File { format!("/{path}") } else { path.to_owned() };
        Ok(Self { scheme, place: place.to_owned(), path })
    }

    /// Returns what kind of server it is.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the bucket, the container, or the host with its port.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the path below the place.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the address of what lies at a path below.
    pub(super) fn below(&self, path: &str) -> Self {
        let slash = if self.path.is_empty() { "" } else { "/" };
        Self { path: format!("{}{slash}{path}", self.path), ..self.clone() }
    }

    /// Tells whether the remote can only be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Http)
    }
}

/// Tells whether a text can name a namespace.
#[must_use]
pub fn is_namespace(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_letter)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SCHEMES.iter().find(|(_, scheme)| *scheme == self.scheme);
        let name = name.map_or("", |(name, _)| name);
        match self.scheme {
            Scheme::File => write!(f, "file://{}", self.path),
            _ if self.path.is_empty() => write!(f, "{name}://{}", self.place),
            _ => write!(f, "{name}://{}/{}", self.place, self.path),
        }
    }
}

/// Tells whether a host, with or without a port, is this machine.
pub(crate) fn is_loopback(place: &str) -> bool {
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => place.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns a text that may hold a login without it.
fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_back() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("gs://b/x", "gs://b/x"),
            ("az://container/x", "az://container/x"),
            ("https://host:8443/x", "https://host:8443/x"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("file:///srv/rift/", "file:///srv/rift"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "bucket",
            "ftp://host/x",
            "s3://",
            "s3:///x",
            "s3://b/../x",
            "s3://b//x",
            "s3://b/a b",
            "s3://b/x?y",
            "https://me:pw@host/x",
            "http://host/x",
            "http://127.0.0.1.example/x",
            "file://relative/x",
            "file:///",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_namespace_is_a_part_of_its_remote() {
        for (text, expected) in [
            ("s3://bucket", "s3://bucket/ns/pr-7"),
            ("s3://bucket/team", "s3://bucket/team/ns/pr-7"),
            ("file:///srv/rift", "file:///srv/rift/ns/pr-7"),
            ("https://host:8443", "https://host:8443/ns/pr-7"),
        ] {
            let address = Address::parse(text).unwrap().namespace("pr-7").unwrap();
            assert_eq!(address.to_string(), expected);
            assert_eq!(Address::parse(expected).unwrap(), address);
        }
        let long = "n".repeat(65);
        for wrong in ["", ".", "..", ".a", "a/b", "a b", "\u{e4}", "a\n", "%2e", long.as_str()] {
            assert!(!is_namespace(wrong), "{wrong}");
            assert!(Address::parse("s3://b").unwrap().namespace(wrong).is_err(), "{wrong}");
        }
        assert!(["a", "PR_1.2-x", "1", "_"].into_iter().all(is_namespace));
    }

    #[test]
    fn a_login_is_neither_taken_nor_shown() {
        let error = Address::parse("https://me:secret@host/x").unwrap_err().to_string();
        assert!(error.contains("https://…@host/x") && !error.contains("secret"), "{error}");
    }
}
