//! The user's keys: a private one that signs what is pushed, and those whose signatures count.
//!
//! Both are files beside the user's settings: `key`, which nobody else may read, and `trusted-keys`, which nobody else may
//! change. A private key is never printed. One's own key is trusted without being listed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use rift_cas::remote::keys::{NamedKey, PrivateKey, TrustedKeys};

use crate::hint::Hint as _;
use crate::{config, env_vars};

fn beside_settings(name: &str) -> Option<PathBuf> {
    config::user_file().map(|path| path.with_file_name(name))
}

/// Returns the place of the private key, which need not be there.
#[must_use]
pub fn private_path() -> Option<PathBuf> {
    beside_settings("key")
}

/// Returns the place of the list of trusted keys, which need not be there.
#[must_use]
pub fn trusted_path() -> Option<PathBuf> {
    beside_settings("trusted-keys")
}

fn known(path: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    path.ok_or_else(|| anyhow!("there is no place for keys")).hint("set HOME or XDG_CONFIG_HOME")
}

/// Reads a file that is the user's own, and that others can't reach in ways that `forbidden` has; `None` when there is none.
fn read_own(path: &Path, forbidden: u32) -> anyhow::Result<Option<String>> {
    let shown = path.display();
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("could not open `{shown}`"))?,
    };
    let stat = file.metadata().with_context(|| format!("could not look at `{shown}`"))?;
    if stat.uid() != rustix::process::geteuid().as_raw() {
        bail!("`{shown}` belongs to another user, so it is not used");
    }
    if stat.mode() & forbidden != 0 {
        let open: anyhow::Result<()> =
            Err(anyhow!("others can reach `{shown}`, so it is not used"));
        open.hint(format!(
            "`chmod 600 {shown}`; if others may have read a private key, make another"
        ))?;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("could not read `{shown}`"))?;
    Ok(Some(text))
}

/// Reads the private key, of `RIFT_KEY` or of its file; `None` when there is none.
///
/// # Errors
/// What is no key, or a file that others can read.
pub fn private() -> anyhow::Result<Option<PrivateKey>> {
    if let Some(text) = env_vars::get(env_vars::RIFT_KEY) {
        let key =
            text.to_str().and_then(|text| PrivateKey::parse(&format!("{}\n", text.trim())).ok());
        return key.map(Some).with_context(|| format!("{} is no private key", env_vars::RIFT_KEY));
    }
    let path = known(private_path())?;
    let Some(text) = read_own(&path, 0o077)? else {
        return Ok(None);
    };
    // What is wrong with it is not told: it may be nearly a key.
    let key =
        PrivateKey::parse(&text).map_err(|_| anyhow!("`{}` is no private key", path.display()));
    key.map(Some)
}

/// Reads the keys whose signatures count: those that are listed, those of `RIFT_TRUSTED_KEYS`, and one's own.
///
/// # Errors
/// A file that is not as it has to be, or that others can change.
pub fn trusted() -> anyhow::Result<TrustedKeys> {
    let mut keys = trusted_beside_own()?;
    if let Some(own) = private()? {
        keys.add(own.public());
    }
    Ok(keys)
}

/// Reads the keys whose signatures count outside of one's namespace: one's own is none of them unless it is listed.
///
/// # Errors
/// As [`trusted`].
pub fn trusted_beside_own() -> anyhow::Result<TrustedKeys> {
    let mut keys = listed()?;
    let given = env_vars::get(env_vars::RIFT_TRUSTED_KEYS).unwrap_or_default();
    for text in given.to_string_lossy().split([',', '\n']).map(str::trim) {
        if !text.is_empty() {
            let key = NamedKey::parse(text);
            keys.add(key.context(env_vars::RIFT_TRUSTED_KEYS)?);
        }
    }
    Ok(keys)
}

/// Reads the list of trusted keys.
///
/// # Errors
/// As [`trusted`].
pub fn listed() -> anyhow::Result<TrustedKeys> {
    let path = known(trusted_path())?;
    let text = read_own(&path, 0o022)?.unwrap_or_default();
    TrustedKeys::parse(&text)
        .map_err(|line| anyhow!("{}:{line}: this is no public key", path.display()))
}

/// Adds a key to the list; tells whether it was not in it.
///
/// # Errors
/// As [`listed`], or what the system says.
pub fn trust(key: &NamedKey) -> anyhow::Result<bool> {
    let mut keys = listed()?;
    let is_new = keys.add(key.clone());
    if is_new {
        write_list(keys.iter())?;
    }
    Ok(is_new)
}

/// Takes a key, by its name or its digits, from the list; returns those that went.
///
/// # Errors
/// As [`trust`].
pub fn distrust(text: &str) -> anyhow::Result<Vec<NamedKey>> {
    let is_meant = |key: &&NamedKey| {
        key.name == text || key.key.to_string() == text || key.to_string() == text
    };
    let keys = listed()?;
    let (gone, kept): (Vec<&NamedKey>, Vec<&NamedKey>) = keys.iter().partition(is_meant);
    if !gone.is_empty() {
        write_list(kept.into_iter())?;
    }
    Ok(gone.into_iter().cloned().collect())
}

fn write_list<'k>(keys: impl Iterator<Item = &'k NamedKey>) -> anyhow::Result<()> {
    let path = known(trusted_path())?;
    let text: String = keys.map(|key| format!("{key}\n")).collect();
    replace_file(&path, text.as_bytes(), 0o600)
        .with_context(|| format!("could not write `{}`", path.display()))
}

/// Makes a private key and keeps it.
///
/// # Errors
/// There is one and it is not to be replaced, or what the system says.
pub fn make(name: &str, replaces: bool) -> anyhow::Result<NamedKey> {
    let path = known(private_path())?;
    if path.symlink_metadata().is_ok() && !replaces {
        let there: anyhow::Result<()> = Err(anyhow!("you have a key already"));
        there.hint("`rift key list` shows it; `--replace` makes another in its place")?;
    }
    let mut random = [0; 32];
    let source = Path::new("/dev/urandom");
    let read = fs::File::open(source).and_then(|mut file| file.read_exact(&mut random));
    read.with_context(|| format!("could not read `{}`", source.display()))?;
    let key = PrivateKey::new(name, &random)?;
    replace_file(&path, key.to_file().as_bytes(), 0o600)
        .with_context(|| format!("could not write `{}`", path.display()))?;
    Ok(key.public())
}

/// Gives bytes a name, in place of what had it, when they are on the disk; makes the folder where it is missing.
pub(crate) fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = folder.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _is_gone = fs::remove_file(&fresh).is_ok();
    }
    written
}
