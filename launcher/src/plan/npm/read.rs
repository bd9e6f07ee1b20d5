//! From a command line to an [`Install`]: what it means and what its result depends on.
//!
//! Invariant: the lockfile is read, never parsed, so that this costs its size and no more; [`Install::layout`] does the
//! rest when nothing is known under [`Install::key`]. The npm plan is the caller.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::args::{self, Command};
use super::env::Env;
use super::npmrc::{Config, Source};
use super::project::{self, Manifest, Project, Workspace};
use super::settings::{self, Output, Registries, Settings};
use super::tool::{self, Tool};
use super::why::Why;
use super::{json, json::Json};

/// Grows when anything in this module would lay the same project out differently.
const RULES: u32 = 1;

/// The largest lockfile that is read.
const LOCK_BYTES_MAX: usize = 256 << 20;

/// What a command line means.
#[derive(Debug)]
pub enum Recognized {
    /// An install from a lockfile.
    Install(Box<Install>),
    /// Something that npm itself must do.
    Untouched(Why),
}

/// An install from a lockfile: everything that decides its result.
pub struct Install {
    /// `ci` or `install`
    pub command: Command,
    /// The project's folder.
    pub root: PathBuf,
    /// Settings that change the result.
    pub settings: Settings,
    /// How registries are reached; changes nothing of the result.
    pub registries: Registries,
    /// What npm prints.
    pub output: Output,
    /// The npm and the Node that would run.
    pub tool: Tool,
    /// `package-lock.json` or `npm-shrinkwrap.json`
    pub lock_name: &'static str,
    pub(super) lock: Vec<u8>,
    pub(super) manifests: Vec<Manifest>,
    pub(super) workspaces: Vec<Workspace>,
    key: InstallKey,
}

/// Names the result of an install: equal keys, equal layouts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstallKey([u8; 32]);

impl InstallKey {
    /// Returns the key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for InstallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Install")
            .field("command", &self.command)
            .field("root", &self.root)
            .field("settings", &self.settings)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Reads what `npm ARGV…` means in `cwd`.
pub fn read(argv: &[OsString], cwd: &Path, env: &Env) -> anyhow::Result<Recognized> {
    let cwd = cwd
        .canonicalize()
        .map_err(|error| anyhow::anyhow!("could not resolve {}: {error}", cwd.display()))?;
    Ok(match recognize(argv, &cwd, env) {
        Ok(install) => Recognized::Install(Box::new(install)),
        Err(why) => Recognized::Untouched(why),
    })
}

fn recognize(argv: &[OsString], cwd: &Path, env: &Env) -> Result<Install, Why> {
    let args = args::read(argv)?;
    if env.get("HOME").is_none_or(|home| home.is_empty()) {
        return Err("`HOME` is not set".into());
    }
    let tool = tool::find(env)?;
    let major = tool.npm_version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major != Some(11) {
        return Err(
            format!("npm {} is not a version that is understood (11)", tool.npm_version).into()
        );
    }

    let mut config = Config::default();
    config.add_file(Source::Builtin, &tool.npm_dir.join("npmrc"), env)?;
    config.add_command_line(&args.settings);
    config.add_environment(env)?;
    let root = match config.within(Source::CommandLine, "prefix") {
        Some(_) => prefix(&config, env, cwd)?,
        None => project::find_root(cwd)?,
    };
    let user = config.path("userconfig", env, cwd)?.unwrap_or_else(|| env.home().join(".npmrc"));
    if root.join(".npmrc") != user {
        config.add_file(Source::Project, &root.join(".npmrc"), env)?;
        if ["prefix", "userconfig"].iter().any(|key| config.within(Source::Project, key).is_some())
        {
            return Err("the project's .npmrc moves npm's folders".into());
        }
    }
    config.add_file(Source::User, &user, env)?;
    let global = match config.path("globalconfig", env, cwd)? {
        Some(path) => path,
        None => match config.path("prefix", env, cwd)? {
            Some(prefix) => prefix.join("etc/npmrc"),
            None => global_prefix(&tool, env).join("etc/npmrc"),
        },
    };
    config.add_file(Source::Global, &global, env)?;

    settings::check(&config)?;
    let settings = settings::settings(&config, env)?;
    let registries = settings::registries(&config, env, cwd)?;
    let output = settings::output(&config)?;
    let Project { root, manifests, workspaces } = project::read(root)?;
    let (lock_name, lock) = lockfile(&root)?;
    let mut install = Install {
        command: args.command,
        root,
        settings,
        registries,
        output,
        tool,
        lock_name,
        lock,
        manifests,
        workspaces,
        key: InstallKey([0; 32]),
    };
    install.key = key(&install)?;
    Ok(install)
}

/// `--prefix DIR` is the project, as given.
fn prefix(config: &Config, env: &Env, cwd: &Path) -> Result<PathBuf, Why> {
    let given = config.path("prefix", env, cwd)?.ok_or("`prefix` is null")?;
    let resolved = given.canonicalize().map_err(|_| "`prefix` is not a folder")?;
    let plain: PathBuf = given.components().collect();
    // npm treats a project behind a symlink as a link to it.
    if plain.components().any(|part| part == std::path::Component::ParentDir) || plain == resolved {
        return Ok(resolved);
    }
    Err("`prefix` leads through a symlink".into())
}

/// The prefix that Node was installed with.
fn global_prefix(tool: &Tool, env: &Env) -> PathBuf {
    if let Some(prefix) = env.get("PREFIX").filter(|prefix| !prefix.is_empty()) {
        return PathBuf::from(prefix);
    }
    let prefix = tool.node.ancestors().nth(2).unwrap_or(Path::new("/"));
    match env.get("DESTDIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new(dir).join(prefix.strip_prefix("/").unwrap_or(prefix)),
        None => prefix.to_owned(),
    }
}

fn lockfile(root: &Path) -> Result<(&'static str, Vec<u8>), Why> {
    let exists = |name: &str| std::fs::symlink_metadata(root.join(name));
    if exists("node_modules").is_ok_and(|meta| !meta.is_dir()) {
        return Err("node_modules is not a folder".into());
    }
    if exists("yarn.lock").is_ok() {
        return Err("there is a yarn.lock, which npm may rewrite".into());
    }
    for name in ["npm-shrinkwrap.json", "package-lock.json"] {
        match super::read_file(&root.join(name))? {
            Some(bytes) if bytes.len() > LOCK_BYTES_MAX => {
                return Err(format!("{name} is too large").into());
            }
            Some(bytes) if !bytes.is_empty() => return Ok((name, bytes)),
            _ => {}
        }
    }
    Err("there is no lockfile".into())
}

/// The fields of a package.json that an install reads.
const FIELDS: &[&str] = &[
    "name",
    "version",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "bundledDependencies",
    "acceptDependencies",
    "overrides",
    "workspaces",
    "engines",
    "devEngines",
    "allowScripts",
    "bin",
    "directories",
    "os",
    "cpu",
    "libc",
    "license",
    "funding",
    "deprecated",
    "gypfile",
];
/// The scripts of a linked folder that an install runs.
const SCRIPTS: &[&str] = &["preinstall", "install", "postinstall", "prepare"];

fn key(install: &Install) -> Result<InstallKey, Why> {
    let mut hasher = blake3::Hasher::new();
    let mut field = |name: &str, bytes: &[u8]| {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let tool = &install.tool;
    field("rules", &RULES.to_le_bytes());
    field("command", format!("{:?}", install.command).as_bytes());
    field("npm", tool.npm_version.as_bytes());
    // Optional packages are left out where their `engines` don't fit, so even a layout without scripts depends on it.
    field("node", tool.node_version.as_bytes());
    field("platform", format!("{} {} {:?}", tool.platform, tool.arch, tool.libc).as_bytes());
    field("settings", format!("{:?}", install.settings).as_bytes());
    field("lock", install.lock_name.as_bytes());
    field("lock bytes", &install.lock);
    field("workspaces", format!("{:?}", install.workspaces).as_bytes());
    for manifest in &install.manifests {
        let json = manifest.json()?;
        field("manifest", manifest.dir.as_bytes());
        let plain = json::Format::default();
        for name in FIELDS {
            if let Some(value) = json.get(name) {
                field(name, json::write(value, &plain).as_bytes());
            }
        }
        for name in SCRIPTS {
            if let Some(script) =
                json.get("scripts").and_then(|scripts| scripts.get(name)).and_then(Json::as_str)
            {
                field(name, script.as_bytes());
            }
        }
        if manifest.dir.is_empty() {
            field("format", format!("{:?}", json::Format::of(&manifest.bytes)).as_bytes());
        }
    }
    Ok(InstallKey(*hasher.finalize().as_bytes()))
}

impl Install {
    /// Returns the name of this install's result. Neither registries nor credentials are in it, and not the umask,
    /// which is applied where files are written.
    pub fn key(&self) -> InstallKey {
        self.key
    }

    /// Tells whether scripts of packages or workspaces may run: what they leave may be another thing in another place.
    #[must_use]
    pub fn may_run_scripts(&self) -> bool {
        // A name that is written in another way is none of npm's.
        let tells = ["hasInstallScript", "\"link\"", "\\u"];
        let is_told = str::from_utf8(&self.lock)
            .map_or(true, |lock| tells.iter().any(|name| lock.contains(name)));
        !self.settings.ignore_scripts && (is_told || !self.workspaces.is_empty())
    }

    /// Returns the name of the project, of its package.json or its folder.
    #[must_use]
    pub fn name(&self) -> String {
        let manifest = self.manifests.iter().find(|manifest| manifest.dir.is_empty());
        let json = manifest.and_then(|manifest| manifest.json().ok());
        let name = json.and_then(|json| Some(json.get("name")?.as_str()?.to_owned()));
        let folder = || Some(self.root.file_name()?.to_str()?.to_owned());
        name.filter(|name| !name.is_empty()).or_else(folder).unwrap_or_else(|| "project".to_owned())
    }

    /// Returns the bytes of the lockfile.
    pub fn lock_bytes(&self) -> &[u8] {
        &self.lock
    }
}
