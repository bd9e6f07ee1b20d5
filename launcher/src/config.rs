//! Settings: flag, then `RIFT_*`, then the project's `rift.toml`, then the user's file, then the default.
//!
//! [`KEYS`] is the one table of settings. Parsing, the names of variables, `config list --origins`,
//! the file that `rift init` writes and the manual all come from it. A key that is not in it is an
//! error, as is a value of the wrong type: a typo must not silently mean the default.
//!
//! A project's file comes with the project, perhaps from a stranger. So it can't say where the store
//! is or what is thrown out of it: those keys are the user's ([`Scope::User`]).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rift_cas::remote::address::{Address, is_namespace};
use toml::de::{DeTable, DeValue};

use crate::env_vars;
use crate::hint::Hint as _;

/// The name of a project's file.
pub const PROJECT_FILE: &str = "rift.toml";

/// A setting; its number is its place in [`KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// Where the store is.
    Store,
    /// How large the store may grow.
    MaxSize,
    /// How a tree is shown.
    As,
    /// How files get their bytes.
    Via,
    /// Whether known results are used and kept.
    Cache,
    /// Whether results of install scripts are used and kept.
    ScriptCache,
    /// Whether what builds of cargo leave is kept as a whole.
    TargetCache,
    /// Whether sources get the times back that cargo knows.
    SourceTimes,
    /// Which variables install scripts read.
    ScriptEnv,
    /// Which programs are recorded beside those that rift knows.
    Programs,
    /// Whether compilers are told to leave the place of a checkout out of what they make.
    RemapPaths,
    /// Whether a program's own system call instructions are trapped.
    Trap,
    /// When content is checked.
    Verify,
    /// Whether falling back is failing.
    Strict,
    /// How many threads work.
    Threads,
    /// Colors.
    Color,
    /// No summary.
    Quiet,
    /// Where the summary goes as JSON.
    SummaryJson,
    /// Which hit rate a job has to reach.
    Floor,
    /// Where trees are shared.
    Remote,
    /// Which part of the remotes is the run's own.
    Namespace,
    /// Whether the store is on a disk or in memory.
    Tier,
    /// How much memory a store in memory may take.
    RamMax,
    /// How long sharing a result may take.
    ShareSeconds,
}

/// Who may set a key in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's file and a project's.
    Anywhere,
    /// The user's file alone.
    User,
}

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A path; the empty one means that rift chooses.
    Path,
    /// A number of bytes, with or without a unit.
    Bytes,
    /// A number; 0 means that rift chooses.
    Count,
    /// A whole number of percent.
    Percent,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Names, separated by commas.
    Names,
    /// Addresses of remotes, each with a name or without, separated by commas.
    Remotes,
    /// The name of a namespace; the empty one means that there is none.
    Namespace,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("a path"),
            Self::Bytes => f.write_str("a size such as \"20GB\" or \"512MiB\""),
            Self::Count => f.write_str("a whole number up to 1024"),
            Self::Percent => f.write_str("a whole number from 0 to 100"),
            Self::Flag => f.write_str("true or false"),
            Self::Names => f.write_str("names separated by commas"),
            Self::Remotes => {
                f.write_str("addresses such as \"s3://bucket/team\" or \"NAME=ADDRESS\"")
            }
            Self::Namespace => {
                f.write_str("1 to 64 letters, digits, `.`, `_` or `-`, the first not a `.`")
            }
            Self::Choice(words) => write!(f, "one of \"{}\"", words.join("\", \"")),
        }
    }
}

/// A setting as the table has it.
#[derive(Debug)]
pub struct Key {
    /// Which one.
    pub id: Id,
    /// Its name in files.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its default, as one would write it in the variable.
    pub default: &'static str,
    /// Who may set it in a file.
    pub scope: Scope,
    /// What it means, in one line.
    pub doc: &'static str,
}

/// Every setting.
pub const KEYS: [Key; 24] = [
    Key {
        id: Id::Store,
        name: "store",
        env: env_vars::RIFT_STORE,
        kind: Kind::Path,
        default: "",
        scope: Scope::User,
        doc: "where the store is; empty: chosen, see `rift store path`",
    },
    Key {
        id: Id::MaxSize,
        name: "max_size",
        env: env_vars::RIFT_MAX_SIZE,
        kind: Kind::Bytes,
        default: "20GB",
        scope: Scope::User,
        doc: "how large the store may grow before the least recently used goes; 0: no limit",
    },
    Key {
        id: Id::As,
        name: "as",
        env: env_vars::RIFT_AS,
        kind: Kind::Choice(&["auto", "files", "mount", "virtual"]),
        default: "auto",
        scope: Scope::Anywhere,
        doc: "how a tree is shown: as real files (auto is files), or mounted until `rift close`",
    },
    Key {
        id: Id::Via,
        name: "via",
        env: env_vars::RIFT_VIA,
        kind: Kind::Choice(&["auto", "hardlink"]),
        default: "auto",
        scope: Scope::Anywhere,
        doc: "how files get their bytes: private to the project (auto), or hard links into the store",
    },
    Key {
        id: Id::Cache,
        name: "cache",
        env: env_vars::RIFT_CACHE,
        kind: Kind::Flag,
        default: "true",
        scope: Scope::Anywhere,
        doc: "use known results, and keep what a command makes",
    },
    Key {
        id: Id::ScriptCache,
        name: "script_cache",
        env: env_vars::RIFT_SCRIPT_CACHE,
        kind: Kind::Flag,
        default: "true",
        scope: Scope::Anywhere,
        doc: "use recorded results of install scripts instead of running them again",
    },
    Key {
        id: Id::TargetCache,
        name: "target_cache",
        env: env_vars::RIFT_TARGET_CACHE,
        kind: Kind::Flag,
        default: "true",
        scope: Scope::Anywhere,
        doc: "keep what builds of cargo leave in target, and put it back where it is missing",
    },
    Key {
        id: Id::SourceTimes,
        name: "source_times",
        env: env_vars::RIFT_SOURCE_TIMES,
        kind: Kind::Flag,
        default: "true",
        scope: Scope::Anywhere,
        doc: "set the mtimes of a workspace's sources so that cargo finds the unchanged ones fresh",
    },
    Key {
        id: Id::ScriptEnv,
        name: "script_env",
        env: env_vars::RIFT_SCRIPT_ENV,
        kind: Kind::Names,
        default: "",
        scope: Scope::Anywhere,
        doc: "variables that install scripts read beside those that rift knows of, such as \"A,B\"",
    },
    Key {
        id: Id::Programs,
        name: "programs",
        env: env_vars::RIFT_PROGRAMS,
        kind: Kind::Names,
        default: "",
        scope: Scope::Anywhere,
        doc: "more programs of builds whose results are kept, and used once two runs have agreed (`--verify`)",
    },
    Key {
        id: Id::RemapPaths,
        name: "remap_paths",
        env: env_vars::RIFT_REMAP_PATHS,
        kind: Kind::Flag,
        default: "false",
        scope: Scope::Anywhere,
        doc: "let compilers write `.` where they would name the checkout, so that others can use the result",
    },
    Key {
        id: Id::Trap,
        name: "trap",
        env: env_vars::RIFT_TRAP,
        kind: Kind::Flag,
        default: "false",
        scope: Scope::Anywhere,
        doc: "with `as = \"virtual\"`: hear of system calls that are made without the C library, too",
    },
    Key {
        id: Id::Verify,
        name: "verify",
        env: env_vars::RIFT_VERIFY,
        kind: Kind::Choice(&["touched", "always"]),
        default: "touched",
        scope: Scope::Anywhere,
        doc: "when content is checked: where a store file was touched, or always",
    },
    Key {
        id: Id::Strict,
        name: "strict",
        env: env_vars::RIFT_STRICT,
        kind: Kind::Flag,
        default: "false",
        scope: Scope::Anywhere,
        doc: "fail where rift would otherwise fall back to the real command",
    },
    Key {
        id: Id::Threads,
        name: "threads",
        env: env_vars::RIFT_THREADS,
        kind: Kind::Count,
        default: "0",
        scope: Scope::Anywhere,
        doc: "how many threads read and write files; 0: one per CPU, at most 8",
    },
    Key {
        id: Id::Color,
        name: "color",
        env: env_vars::RIFT_COLOR,
        kind: Kind::Choice(&["auto", "always", "never"]),
        default: "auto",
        scope: Scope::Anywhere,
        doc: "colors: on terminals (auto; NO_COLOR and CLICOLOR_FORCE are heard), always, or never",
    },
    Key {
        id: Id::Quiet,
        name: "quiet",
        env: env_vars::RIFT_QUIET,
        kind: Kind::Flag,
        default: "false",
        scope: Scope::Anywhere,
        doc: "leave out the summary and progress",
    },
    Key {
        id: Id::SummaryJson,
        name: "summary_json",
        env: env_vars::RIFT_SUMMARY_JSON,
        kind: Kind::Path,
        default: "",
        scope: Scope::User,
        doc: "where `rift exec` writes its summary as JSON; empty: nowhere",
    },
    Key {
        id: Id::Floor,
        name: "floor",
        env: env_vars::RIFT_FLOOR,
        kind: Kind::Percent,
        default: "0",
        scope: Scope::Anywhere,
        doc: "the hit rate in percent below which `rift summary` warns; 0: it does not",
    },
    Key {
        id: Id::Remote,
        name: "remote",
        env: env_vars::RIFT_REMOTE,
        kind: Kind::Remotes,
        default: "",
        scope: Scope::Anywhere,
        doc: "where `rift push` and `rift pull` go: \"ADDRESS\", or \"NAME=ADDRESS,…\"; the first is the default",
    },
    Key {
        id: Id::Namespace,
        name: "namespace",
        env: env_vars::RIFT_NAMESPACE,
        kind: Kind::Namespace,
        default: "",
        scope: Scope::Anywhere,
        doc: "the part of the remotes that is read first and alone written to, as for pull requests; empty: none",
    },
    Key {
        id: Id::Tier,
        name: "tier",
        env: env_vars::RIFT_TIER,
        kind: Kind::Choice(&["disk", "ram"]),
        default: "disk",
        scope: Scope::User,
        doc: "where the store is: on a disk, or in memory until the next restart (ram)",
    },
    Key {
        id: Id::RamMax,
        name: "ram_max",
        env: env_vars::RIFT_RAM_MAX,
        kind: Kind::Bytes,
        default: "0",
        scope: Scope::User,
        doc: "how much memory a store in memory may take; 0: a quarter of what there is",
    },
    Key {
        id: Id::ShareSeconds,
        name: "share_seconds",
        env: env_vars::RIFT_SHARE_SECONDS,
        kind: Kind::Count,
        default: "120",
        scope: Scope::Anywhere,
        doc: "how many seconds `rift exec` may take to share a result; the next run goes on. 0: no limit",
    },
];

/// A value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Path`].
    Path(PathBuf),
    /// Of [`Kind::Bytes`].
    Bytes(u64),
    /// Of [`Kind::Count`] and [`Kind::Percent`].
    Count(u32),
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Choice`].
    Choice(&'static str),
    /// Of [`Kind::Names`].
    Names(Vec<String>),
    /// Of [`Kind::Remotes`].
    Remotes(Vec<NamedRemote>),
    /// Of [`Kind::Namespace`].
    Namespace(String),
}

/// A remote as settings have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRemote {
    /// What the user calls it.
    pub name: Option<String>,
    /// Where it is.
    pub address: Address,
}

impl NamedRemote {
    /// Reads `ADDRESS` or `NAME=ADDRESS`.
    ///
    /// # Errors
    /// What is wrong with the name or the address.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !name.contains("://") => (Some(name), address),
            _ => (None, text),
        };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_some_and(|name| name.is_empty() || !name.bytes().all(is_letter)) {
            bail!("the name of a remote is made of ASCII letters, digits and ._-");
        }
        Ok(Self { name: name.map(str::to_owned), address: Address::parse(address)? })
    }
}

impl fmt::Display for NamedRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Returns remotes as a settings file has them, without the quotes.
#[must_use]
pub fn remotes_text(remotes: &[NamedRemote]) -> String {
    remotes.iter().map(NamedRemote::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Value {
    /// Writes the value as a TOML file would have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{:?}", path.display().to_string()),
            Self::Bytes(bytes) => write!(f, "{:?}", size_text(*bytes)),
            Self::Count(count) => write!(f, "{count}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Choice(word) => write!(f, "{word:?}"),
            Self::Names(names) => write!(f, "{:?}", names.join(",")),
            Self::Remotes(remotes) => write!(f, "{:?}", remotes_text(remotes)),
            Self::Namespace(name) => write!(f, "{name:?}"),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// When output has colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// As the terminal and the environment say.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How files get their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Each file is private: a reflink or a copy.
    Private,
    /// Hard links into the store, checked as they are made.
    HardLink,
}

/// All settings, each with its origin.
#[derive(Debug, Clone)]
pub struct Config {
    settings: Vec<(Value, Origin)>,
}

/// Reads a variable.
pub type Environment<'s> = &'s dyn Fn(&str) -> Option<OsString>;

/// Where settings are looked for.
#[derive(Default)]
pub struct Sources<'s> {
    /// The user's file.
    pub user_file: Option<PathBuf>,
    /// The directory that the project's file is looked for in and above.
    pub cwd: PathBuf,
    /// Reads a variable.
    pub env: Option<Environment<'s>>,
}

impl Config {
    /// Reads all settings of this process.
    ///
    /// # Errors
    /// A file that can't be read, an unknown key, or a wrong value.
    pub fn load(cwd: &Path) -> anyhow::Result<Self> {
        let env = |name: &str| env_vars::get(name);
        let user_file = user_file();
        Self::from_sources(&Sources { user_file, cwd: cwd.to_owned(), env: Some(&env) })
    }

    /// Reads all settings from these sources.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_sources(sources: &Sources<'_>) -> anyhow::Result<Self> {
        let mut config = Self::defaults()?;
        if let Some(path) = &sources.user_file {
            config.read_file(path, Scope::User)?;
        }
        if let Some(path) = project_file(&sources.cwd) {
            config.read_file(&path, Scope::Anywhere)?;
        }
        for key in sources.env.iter().flat_map(|_| &KEYS) {
            let Some(text) = sources.env.and_then(|env| env(key.env)) else {
                continue;
            };
            let value = parse(key, &text, &sources.cwd)
                .with_context(|| format!("the variable {} has a wrong value", key.env))?;
            config.settings[key.id as usize] = (value, Origin::Env(key.env));
        }
        Ok(config)
    }

    /// Returns what holds where nobody set anything.
    ///
    /// # Errors
    /// None that a test of the table would not find.
    pub fn defaults() -> anyhow::Result<Self> {
        let value =
            |key: &Key| Ok((parse(key, OsStr::new(key.default), Path::new("/"))?, Origin::Default));
        Ok(Self { settings: KEYS.iter().map(value).collect::<anyhow::Result<_>>()? })
    }

    /// Takes over what a flag says.
    ///
    /// # Errors
    /// A wrong value.
    pub fn set_flag(
        &mut self,
        id: Id,
        flag: &'static str,
        text: &OsStr,
        cwd: &Path,
    ) -> anyhow::Result<()> {
        let value = parse(&KEYS[id as usize], text, cwd)
            .with_context(|| format!("the flag {flag} has a wrong value"))?;
        self.settings[id as usize] = (value, Origin::Flag(flag));
        Ok(())
    }

    fn read_file(&mut self, path: &Path, scope: Scope) -> anyhow::Result<()> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("could not read `{}`", path.display()));
            }
        };
        let at = |span: Range<usize>| format!("{}:{}", path.display(), line_of(&text, span.start));
        let table = DeTable::parse(&text).map_err(|error| {
            anyhow!("{}: {}", at(error.span().unwrap_or_default()), error.message().trim())
        })?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        for (name, value) in table.get_ref() {
            let place = at(name.span());
            let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref()) else {
                let unknown: anyhow::Result<()> =
                    Err(anyhow!("{place}: unknown key `{}`", name.get_ref()));
                return unknown.hint(suggest(name.get_ref()));
            };
            if scope == Scope::Anywhere && key.scope == Scope::User {
                let refused: anyhow::Result<()> =
                    Err(anyhow!("{place}: a project may not set `{}`", key.name));
                return refused
                    .hint(format!("set it in your own file, or with the variable {}", key.env));
            }
            let parsed = from_toml(key, value.get_ref(), folder).with_context(|| {
                format!("{}: `{}` has a wrong value", at(value.span()), key.name)
            })?;
            let line = line_of(&text, name.span().start);
            self.settings[key.id as usize] = (parsed, Origin::File { path: path.to_owned(), line });
        }
        Ok(())
    }

    /// Returns every setting in the order of the table.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Key, &Value, &Origin)> {
        KEYS.iter().zip(&self.settings).map(|(key, (value, origin))| (key, value, origin))
    }

    fn value(&self, id: Id) -> &Value {
        &self.settings[id as usize].0
    }

    fn flag(&self, id: Id) -> bool {
        *self.value(id) == Value::Flag(true)
    }

    fn is_word(&self, id: Id, word: &str) -> bool {
        matches!(self.value(id), Value::Choice(chosen) if *chosen == word)
    }

    fn path(&self, id: Id) -> Option<&Path> {
        match self.value(id) {
            Value::Path(path) if !path.as_os_str().is_empty() => Some(path),
            _ => None,
        }
    }

    /// Returns the store's place when somebody named one.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.path(Id::Store)
    }

    /// Returns how many bytes the store may have; `None` when there is no limit.
    #[must_use]
    pub fn max_size(&self) -> Option<u64> {
        self.bytes(Id::MaxSize)
    }

    /// Returns a number of bytes that is not 0.
    fn bytes(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Bytes(bytes) if *bytes > 0 => Some(*bytes),
            _ => None,
        }
    }

    /// Returns a count that is not 0.
    fn count(&self, id: Id) -> Option<u32> {
        match self.value(id) {
            Value::Count(count) if *count > 0 => Some(*count),
            _ => None,
        }
    }

    /// Tells whether the store is in memory.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.is_word(Id::Tier, "ram")
    }

    /// Returns how many bytes a store in memory may take; `None` where nobody says.
    #[must_use]
    pub fn ram_max(&self) -> Option<u64> {
        self.bytes(Id::RamMax)
    }

    /// Returns how long sharing a result may take; `None` when there is no limit.
    #[must_use]
    pub fn share_limit(&self) -> Option<Duration> {
        self.count(Id::ShareSeconds).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Tells whether trees are mounted where the machine permits it.
    #[must_use]
    pub fn shows_mounts(&self) -> bool {
        self.is_word(Id::As, "mount")
    }

    /// Tells whether trees are shown to the processes of the run alone, by the shim.
    #[must_use]
    pub fn shows_virtually(&self) -> bool {
        self.is_word(Id::As, "virtual")
    }

    /// Returns how files get their bytes.
    #[must_use]
    pub fn via(&self) -> Via {
        if self.is_word(Id::Via, "hardlink") { Via::HardLink } else { Via::Private }
    }

    /// Tells whether known results are used and kept.
    #[must_use]
    pub fn has_cache(&self) -> bool {
        self.flag(Id::Cache)
    }

    /// Tells whether results of install scripts are used and kept.
    #[must_use]
    pub fn has_script_cache(&self) -> bool {
        self.flag(Id::ScriptCache)
    }

    /// Tells whether what builds of cargo leave in `target` is kept, and put back.
    #[must_use]
    pub fn keeps_targets(&self) -> bool {
        self.flag(Id::TargetCache)
    }

    /// Returns the programs of builds that are recorded beside those that rift knows.
    #[must_use]
    pub fn programs(&self) -> &[String] {
        match self.value(Id::Programs) {
            Value::Names(names) => names,
            _ => &[],
        }
    }

    /// Tells whether compilers are told to leave the place of a checkout out of what they make.
    #[must_use]
    pub fn remaps_paths(&self) -> bool {
        self.flag(Id::RemapPaths)
    }

    /// Tells whether sources of cargo's get the times back that it knows.
    #[must_use]
    pub fn sets_source_times(&self) -> bool {
        self.flag(Id::SourceTimes)
    }

    /// Returns the variables that install scripts read beside those that rift knows of.
    #[must_use]
    pub fn script_env(&self) -> &[String] {
        match self.value(Id::ScriptEnv) {
            Value::Names(names) => names,
            _ => &[],
        }
    }

    /// Tells whether system calls are trapped that a program makes by instructions of its own.
    #[must_use]
    pub fn traps_strays(&self) -> bool {
        self.flag(Id::Trap)
    }

    /// Tells whether content is checked on every read.
    #[must_use]
    pub fn verifies_always(&self) -> bool {
        self.is_word(Id::Verify, "always")
    }

    /// Tells whether rift fails rather than falls back.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.flag(Id::Strict)
    }

    /// Returns how many threads read and write files.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.value(Id::Threads) {
            Value::Count(count) if *count > 0 => *count as usize,
            _ => std::thread::available_parallelism().map_or(1, usize::from).min(8),
        }
    }

    /// Returns when output has colors.
    #[must_use]
    pub fn color(&self) -> Color {
        match self.value(Id::Color) {
            Value::Choice("always") => Color::Always,
            Value::Choice("never") => Color::Never,
            _ => Color::Auto,
        }
    }

    /// Tells whether the summary and progress are left out.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.flag(Id::Quiet)
    }

    /// Returns the remotes; the first is the default.
    #[must_use]
    pub fn remotes(&self) -> &[NamedRemote] {
        match self.value(Id::Remote) {
            Value::Remotes(remotes) => remotes,
            _ => &[],
        }
    }

    /// Returns the namespace that the run reads first, and alone writes to.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self.value(Id::Namespace) {
            Value::Namespace(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }

    /// Returns where the summary goes as JSON.
    #[must_use]
    pub fn summary_json(&self) -> Option<&Path> {
        self.path(Id::SummaryJson)
    }

    /// Returns the hit rate in percent that a job has to reach; `None` when none is asked for.
    #[must_use]
    pub fn floor(&self) -> Option<u32> {
        self.count(Id::Floor)
    }
}

/// Returns the place of the user's file, which need not be there.
#[must_use]
pub fn user_file() -> Option<PathBuf> {
    xdg(env_vars::XDG_CONFIG_HOME, ".config").map(|folder| folder.join("rift/config.toml"))
}

/// Adds a remote to a settings file, as its last; makes the file where there is none.
///
/// # Errors
/// A file that can't be read or written, or is not as settings are.
pub fn add_remote(path: &Path, remote: &NamedRemote) -> anyhow::Result<()> {
    let read = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    };
    let mut text = read.with_context(|| format!("could not read `{}`", path.display()))?;
    let mut config = Config::defaults()?;
    config.read_file(path, Scope::User)?;
    let mut remotes = config.remotes().to_vec();
    if remotes.iter().any(|known| known.address == remote.address) {
        bail!("`{}` has the remote {} already", path.display(), remote.address);
    }
    if remote.name.is_some() && remotes.iter().any(|known| known.name == remote.name) {
        bail!("`{}` has a remote of that name already", path.display());
    }
    remotes.push(remote.clone());
    let key = KEYS[Id::Remote as usize].name;
    let value = format!("{:?}", remotes_text(&remotes));
    let table = DeTable::parse(&text).map_err(|error| anyhow!("{}", error.message().trim()))?;
    let place = table.get_ref().iter().find(|(name, _)| name.get_ref() == key);
    match place.map(|(_, value)| value.span()) {
        Some(span) => text.replace_range(span, &value),
        None => {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    crate::keys::replace_file(path, text.as_bytes(), 0o644)
        .with_context(|| format!("could not write `{}`", path.display()))
}

/// Returns a base folder; the specification has relative ones ignored.
#[must_use]
pub fn xdg(name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let home = || env_vars::get(env_vars::HOME).and_then(absolute);
    env_vars::get(name).and_then(absolute).or_else(|| Some(home()?.join(below_home)))
}

/// Finds the project's file in `cwd` or above.
#[must_use]
pub fn project_file(cwd: &Path) -> Option<PathBuf> {
    cwd.ancestors().map(|folder| folder.join(PROJECT_FILE)).find(|path| path.is_file())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn from_toml(key: &Key, value: &DeValue<'_>, folder: &Path) -> anyhow::Result<Value> {
    match (key.kind, value) {
        (
            Kind::Path
            | Kind::Bytes
            | Kind::Choice(_)
            | Kind::Names
            | Kind::Remotes
            | Kind::Namespace,
            DeValue::String(text),
        ) => parse(key, OsStr::new(text.as_ref()), folder),
        (Kind::Bytes | Kind::Count | Kind::Percent, DeValue::Integer(number))
            if number.radix() == 10 =>
        {
            parse(key, OsStr::new(number.as_str()), folder)
        }
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
        _ => bail!("expected {}, found {}", key.kind, type_name(value)),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Parses what a variable, a flag or a string of a file says; relative paths begin at `folder`.
fn parse(key: &Key, text: &OsStr, folder: &Path) -> anyhow::Result<Value> {
    if key.kind == Kind::Path {
        return Ok(Value::Path(full_path(text, folder)));
    }
    let wrong = || anyhow!("expected {}, found {text:?}", key.kind);
    let text = text.to_str().ok_or_else(wrong)?;
    let value = match key.kind {
        Kind::Path => None,
        Kind::Bytes => parse_size(text).map(Value::Bytes),
        Kind::Count => text.parse().ok().filter(|count| *count <= 1024).map(Value::Count),
        Kind::Percent => {
            let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
            number.filter(|percent| *percent <= 100).map(Value::Count)
        }
        Kind::Flag => match text {
            "1" | "true" | "yes" | "on" => Some(Value::Flag(true)),
            "0" | "false" | "no" | "off" => Some(Value::Flag(false)),
            _ => None,
        },
        Kind::Choice(words) => {
            words.iter().find(|word| **word == text).map(|word| Value::Choice(word))
        }
        Kind::Names => {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Some(Value::Names(names.map(str::to_owned).collect()))
        }
        Kind::Remotes => {
            let remotes = text.split(',').map(str::trim).filter(|remote| !remote.is_empty());
            Some(Value::Remotes(remotes.map(NamedRemote::parse).collect::<anyhow::Result<_>>()?))
        }
        Kind::Namespace => {
            (text.is_empty() || is_namespace(text)).then(|| Value::Namespace(text.to_owned()))
        }
    };
    value.ok_or_else(wrong)
}

fn full_path(text: &OsStr, folder: &Path) -> PathBuf {
    let path = Path::new(text);
    if path.as_os_str().is_empty() {
        return PathBuf::new();
    }
    match (path.strip_prefix("~"), env_vars::get(env_vars::HOME)) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => folder.join(path),
    }
}

const UNITS: [(&str, u64); 9] = [
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads a size: `20GB`, `512 MiB`, `1.5G` (decimal units, as disks have them), `4096`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let mut unit = unit.trim().to_ascii_uppercase();
    if unit.len() == 1 && unit != "B" {
        unit.push('B');
    }
    let factor = match unit.as_str() {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let value = number.parse::<f64>().ok()? * factor as f64;
            // At most 2^63, far above any disk, where the conversion is exact enough.
            (value.is_finite() && value < 9.2e18).then_some(value as u64)
        }
    }
}

/// Writes a size so that [`parse_size`] reads the same number.
fn size_text(bytes: u64) -> String {
    let unit = UNITS.iter().filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match unit.max_by_key(|(_, factor)| *factor) {
        Some((name, factor)) => format!("{}{}", bytes / factor, name.replace("IB", "iB")),
        None => bytes.to_string(),
    }
}

/// Says which key was probably meant.
fn suggest(name: &str) -> String {
    let closest = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    match closest {
        Some((edits, key)) if edits <= 2.max(name.len() / 3) => format!("did you mean `{key}`?"),
        _ => "`rift config list` shows every key".to_owned(),
    }
}

/// Returns how many letters have to be inserted, deleted, replaced or swapped with their neighbor.
fn distance(one: &str, two: &str) -> usize {
    let (one, two): (Vec<char>, Vec<char>) = (one.chars().collect(), two.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for i in 1..=one.len() {
        let mut next = vec![i];
        for j in 1..=two.len() {
            let replace = row[j - 1] + usize::from(one[i - 1] != two[j - 1]);
            let mut best = replace.min(row[j] + 1).min(next[j - 1] + 1);
            let is_swapped = i > 1 && j > 1 && one[i - 1] == two[j - 2] && one[i - 2] == two[j - 1];
            if is_swapped {
                best = best.min(before[j - 2] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[two.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
    }

    impl Scene {
        fn new(user: &str, project: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(folder.path().join("project/deep/er")).unwrap();
            std::fs::write(folder.path().join("user.toml"), user).unwrap();
            std::fs::write(folder.path().join("project/rift.toml"), project).unwrap();
            Self { folder }
        }

        fn load(&self, env: &[(&str, &str)]) -> anyhow::Result<Config> {
            let read = |name: &str| {
                env.iter().find(|(found, _)| *found == name).map(|(_, value)| OsString::from(value))
            };
            Config::from_sources(&Sources {
                user_file: Some(self.folder.path().join("user.toml")),
                cwd: self.folder.path().join("project/deep/er"),
                env: Some(&read),
            })
        }

        fn failure(&self) -> (String, Option<String>) {
            let error = self.load(&[]).unwrap_err();
            let prefix = format!("{}/", self.folder.path().display());
            (format!("{error:#}").replace(&prefix, ""), crate::hint::of(&error))
        }
    }

    #[test]
    fn the_table_is_in_order_and_every_default_is_right() {
        for (number, key) in KEYS.iter().enumerate() {
            assert_eq!(key.id as usize, number, "{}", key.name);
            assert_eq!(key.env, format!("RIFT_{}", key.name.to_uppercase()));
            assert!(env_vars::OWN.contains(&key.env));
        }
        let config = Config::defaults().unwrap();
        assert_eq!(config.max_size(), Some(20_000_000_000));
        assert_eq!((config.store(), config.via()), (None, Via::Private));
        assert!(config.has_cache() && config.has_script_cache());
        assert!(!config.is_strict() && !config.is_quiet() && !config.verifies_always());
    }

    #[test]
    fn flag_beats_env_beats_project_beats_user_beats_default() {
        let line = |via: &str| format!("via = \"{via}\"\n");
        // user, project, env, flag, expected value, expected origin
        let table = [
            (None, None, None, None, "auto", "default"),
            (Some("hardlink"), None, None, None, "hardlink", "user.toml:1"),
            (Some("hardlink"), Some("auto"), None, None, "auto", "project/rift.toml:1"),
            (None, Some("hardlink"), None, None, "hardlink", "project/rift.toml:1"),
            (Some("auto"), Some("auto"), Some("hardlink"), None, "hardlink", "RIFT_VIA"),
            (None, None, Some("hardlink"), Some("auto"), "auto", "--via"),
            (Some("auto"), Some("auto"), Some("auto"), Some("hardlink"), "hardlink", "--via"),
        ];
        for (user, project, env, flag, value, origin) in table {
            let scene = Scene::new(
                &user.map(line).unwrap_or_default(),
                &project.map(line).unwrap_or_default(),
            );
            let env: Vec<_> = env.map(|value| ("RIFT_VIA", value)).into_iter().collect();
            let mut config = scene.load(&env).unwrap();
            if let Some(flag) = flag {
                config.set_flag(Id::Via, "--via", OsStr::new(flag), Path::new("/")).unwrap();
            }
            let (_, found, from) = config.settings().find(|(key, ..)| key.id == Id::Via).unwrap();
            let prefix = format!("{}/", scene.folder.path().display());
            assert_eq!(found.to_string(), format!("{value:?}"));
            assert_eq!(from.to_string().replace(&prefix, ""), origin);
        }
    }

    #[test]
    fn paths_are_relative_to_where_they_are_written() {
        let scene = Scene::new("store = \"cas\"\n", "");
        let place = scene.folder.path();
        assert_eq!(scene.load(&[]).unwrap().store(), Some(place.join("cas").as_path()));
        let by_env = scene.load(&[("RIFT_STORE", "../cas")]).unwrap();
        assert_eq!(by_env.store(), Some(place.join("project/deep/er/../cas").as_path()));
    }

    #[test]
    fn mistakes_name_file_line_and_what_to_do() {
        let table = [
            (
                "\nvai = \"auto\"",
                "project/rift.toml:2: unknown key `vai`",
                Some("did you mean `via`?"),
            ),
            (
                "script-cache = true",
                "project/rift.toml:1: unknown key `script-cache`",
                Some("did you mean `script_cache`?"),
            ),
            (
                "something = 1",
                "project/rift.toml:1: unknown key `something`",
                Some("`rift config list` shows every key"),
            ),
            (
                "store = \"/x\"",
                "project/rift.toml:1: a project may not set `store`",
                Some("set it in your own file, or with the variable RIFT_STORE"),
            ),
            (
                "# one\n# two\nthreads = \"many\"",
                "project/rift.toml:3: `threads` has a wrong value: expected a whole number up to 1024, found a string",
                None,
            ),
            (
                "via = \"symlink\"",
                "project/rift.toml:1: `via` has a wrong value: expected one of \"auto\", \"hardlink\", found \"symlink\"",
                None,
            ),
            (
                "cache = 1",
                "project/rift.toml:1: `cache` has a wrong value: expected true or false, found an integer",
                None,
            ),
            (
                "threads = -1",
                "project/rift.toml:1: `threads` has a wrong value: expected a whole number up to 1024, found \"-1\"",
                None,
            ),
        ];
        for (text, message, hint) in table {
            let (found, found_hint) = Scene::new("", text).failure();
            assert_eq!((found.as_str(), found_hint.as_deref()), (message, hint), "{text}");
        }
        let error = Scene::new("", "").load(&[("RIFT_FLOOR", "101%")]).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the variable RIFT_FLOOR has a wrong value: expected a whole number from 0 to 100, found \"101%\""
        );
        let floors = [("90", Some(90)), ("90%", Some(90)), ("0", None)];
        for (text, floor) in floors {
            let scene = Scene::new("", "floor = 50");
            assert_eq!(scene.load(&[("RIFT_FLOOR", text)]).unwrap().floor(), floor);
            assert_eq!(scene.load(&[]).unwrap().floor(), Some(50));
        }
        let (broken, _) = Scene::new("", "via = \"auto\"\nas = \n").failure();
        assert!(broken.starts_with("project/rift.toml:2: "), "{broken}");
        let error = Scene::new("", "").load(&[("RIFT_MAX_SIZE", "lots")]).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the variable RIFT_MAX_SIZE has a wrong value: expected a size such as \"20GB\" or \"512MiB\", found \"lots\""
        );
    }

    #[test]
    fn sizes_are_read_and_written_back() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("20GB", Some(20_000_000_000)),
            ("20G", Some(20_000_000_000)),
            ("512 MiB", Some(512 << 20)),
            ("1.5k", Some(1500)),
            ("7B", Some(7)),
            ("", None),
            ("GB", None),
            ("1XB", None),
            ("-1", None),
            ("1e3", None),
            ("99999999999TB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
            if let Some(bytes) = bytes {
                assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
            }
        }
        assert_eq!(size_text(20_000_000_000), "20GB");
        assert_eq!(size_text(1 << 20), "1MiB");
    }

    #[test]
    fn remotes_are_added_in_place_and_a_login_is_not_shown() {
        let scene = Scene::new("", "# mine\nremote = \"s3://b/x\" # first\nvia = \"auto\"");
        let path = scene.folder.path().join("project/rift.toml");
        let add = |text: &str| add_remote(&path, &NamedRemote::parse(text).unwrap());
        add("ci=file:///srv/ci").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# mine\nremote = \"s3://b/x,ci=file:///srv/ci\" # first\nvia = \"auto\"");
        let config = scene.load(&[]).unwrap();
        assert_eq!(remotes_text(config.remotes()), "s3://b/x,ci=file:///srv/ci");
        assert!(add("s3://b/x").is_err() && add("ci=s3://other").is_err());
        let fresh = scene.folder.path().join("fresh.toml");
        add_remote(&fresh, &NamedRemote::parse("gs://b").unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(&fresh).unwrap(), "remote = \"gs://b\"\n");
        let error = scene.load(&[("RIFT_REMOTE", "https://me:secret@host/")]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("login") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_namespace_is_a_plain_name() {
        let scene = Scene::new("", "namespace = \"pr-7\"");
        assert_eq!(scene.load(&[]).unwrap().namespace(), Some("pr-7"));
        let by_env = scene.load(&[("RIFT_NAMESPACE", "fork_1.2")]).unwrap();
        assert_eq!(by_env.namespace(), Some("fork_1.2"));
        assert_eq!(Config::defaults().unwrap().namespace(), None);
        for wrong in ["../main", "a/b", ".", "..", ".x"] {
            let error = scene.load(&[("RIFT_NAMESPACE", wrong)]).unwrap_err();
            assert!(format!("{error:#}").contains("1 to 64 letters"), "{wrong}: {error:#}");
        }
    }

    #[test]
    fn distances() {
        for (one, two, edits) in
            [("", "", 0), ("via", "via", 0), ("vai", "via", 1), ("store", "stor", 1), ("", "as", 2)]
        {
            assert_eq!(distance(one, two), edits, "{one} {two}");
        }
    }
}
