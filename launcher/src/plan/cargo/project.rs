//! Where a build lies, and what decides its result beside the sources.
//!
//! Cargo notices itself when a flag, a feature or a version is another one, and compiles anew. The key holds besides what cargo does
//! not look at: the bytes of the toolchain, compilers and linkers for C, the variables that build scripts are told things by.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rift_cas::Store;
use rift_cas::record::Kind;
use serde::{Deserialize, Serialize};

use super::args::Args;
use super::snapshot::Means;
use super::sources::{Sources, reveal};
use super::stamps::{Stamp, Stamps, hash_of};
use crate::actions::roots::Roots;
use crate::actions::watch::Bounds;
use crate::hook::shims;

/// Grows when what is kept, or how, is another thing.
const RULES: u32 = 2;

/// Programs that build scripts and linkers start.
const TOOLS: &[&str] = &[
    "cc",
    "c++",
    "gcc",
    "g++",
    "clang",
    "clang++",
    "ld",
    "ld.lld",
    "mold",
    "ar",
    "as",
    "ranlib",
    "make",
    "cmake",
    "ninja",
    "pkg-config",
    "protoc",
    "perl",
    "python3",
    "nasm",
];

/// Which parts a toolchain of rustup's consists of, with their hashes.
const MANIFEST: &str = "lib/rustlib/multirust-channel-manifest.toml";
/// Files of such a toolchain are told by samples from here on.
const LARGE_BYTES: u64 = 2 << 20;

/// Files that name the system and its C library.
const SYSTEM: &[&str] =
    &["/etc/os-release", "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// Variables, and beginnings and ends of them, that decide what is made.
const VARIABLES: &[&str] = &[
    "CC",
    "CXX",
    "AR",
    "LD",
    "AS",
    "NM",
    "RANLIB",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "SOURCE_DATE_EPOCH",
    "PROTOC",
    "LLVM_CONFIG_PATH",
    "LIBCLANG_PATH",
    "NUM_JOBS",
    "TARGET",
    "HOST",
];
const PREFIXES: &[&str] = &[
    "CARGO_",
    "RUST",
    "CC_",
    "CXX_",
    "AR_",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "ARFLAGS",
    "TARGET_",
    "HOST_",
    "PKG_CONFIG",
    "OPENSSL_",
    "BINDGEN_",
    "CMAKE_",
    "DEP_",
    "SYSROOT",
];
const SUFFIXES: &[&str] = &["_LIB_DIR", "_INCLUDE_DIR", "_STATIC", "_NO_VENDOR", "_NO_PKG_CONFIG"];
/// Where things lie, what is printed, and how the network is reached.
const IGNORED: &[&str] = &[
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_LOG",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUSTUP_HOME",
    "CARGO",
    "CARGO_MAKEFLAGS",
    "CARGO_BUILD_JOBS",
    "RUST_TEST_THREADS",
    "RUST_MIN_STACK",
];
const IGNORED_PREFIXES: &[&str] = &["CARGO_TERM_", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];

/// Where a build lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// The root of the workspace, links resolved.
    pub root: PathBuf,
    /// Where cargo puts what it makes.
    pub target: PathBuf,
    /// The toolchain.
    pub sysroot: PathBuf,
    /// Its rustc, also where that is another program than the one of the toolchain, see `build.rustc` in cargo's book.
    compiler: PathBuf,
}

/// Text that tells one state of what decides a result from another.
#[derive(Default)]
struct Fields(blake3::Hasher);

impl Fields {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, value] {
            self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }

    fn add_file(&mut self, path: &Path) {
        if let Ok(bytes) = fs::read(path) {
            self.add(path.as_os_str().as_bytes(), &bytes);
        }
    }

    /// Adds what the files hold that a text names, such as a linker or a wrapper: cargo goes by their names only.
    fn add_programs(&mut self, text: &str, base: &Path, stamps: &Stamps) {
        let is_between = |letter: char| letter.is_whitespace() || "\"'=,[]\u{1f}".contains(letter);
        for named in text.split(is_between).filter(|named| !named.is_empty()) {
            if let Some(file) = file_named(named, base) {
                self.add(named.as_bytes(), &content(&file, stamps));
            }
        }
    }

    fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

impl Project {
    /// Finds where a command's build lies. What cargo and rustc once said holds for as long as nothing changes that they look at.
    ///
    /// # Errors
    /// What they say.
    pub fn find(store: &Store, args: &Args, cwd: &Path) -> anyhow::Result<Self> {
        let name = format!("cargo-at {}", Self::asked(args, cwd)?);
        if let Ok(Some(payload)) = store.record(Kind::Plan, &name)
            && let Ok(known) = serde_json::from_slice::<Self>(&payload)
            && known.root.is_dir()
            && known.sysroot.is_dir()
        {
            return Ok(known);
        }
        let found = Self::ask(args, cwd)?;
        store.set_record(Kind::Plan, &name, &serde_json::to_vec(&found)?)?;
        Ok(found)
    }

    /// Returns a hash of all that cargo and rustc look at before they say where things are.
    fn asked(args: &Args, cwd: &Path) -> anyhow::Result<String> {
        let mut fields = Fields::default();
        fields.add(b"rules", &RULES.to_le_bytes());
        fields.add(b"cwd", cwd.as_os_str().as_bytes());
        fields.add(
            b"args",
            format!("{:?}", (&args.toolchain, &args.manifest, &args.target_dir, &args.configs))
                .as_bytes(),
        );
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO", "RUST"].iter().any(|start| text.starts_with(start)) {
                fields.add(name.as_bytes(), value.as_bytes());
            }
        }
        for tool in ["cargo", "rustc"] {
            let path = on_path(tool).with_context(|| format!("there is no `{tool}`"))?;
            fields.add(tool.as_bytes(), stamp(&path).as_bytes());
        }
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let rustup =
            std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), Into::into);
        fields.add_file(&rustup.join("settings.toml"));
        let manifest = args.manifest.as_ref().map(|path| cwd.join(path));
        let from = manifest.as_deref().and_then(Path::parent).unwrap_or(cwd);
        for folder in from.ancestors() {
            fields.add_file(&folder.join("Cargo.toml"));
        }
        for folder in cwd.ancestors() {
            for file in ["rust-toolchain", "rust-toolchain.toml"] {
                fields.add_file(&folder.join(file));
            }
        }
        for file in configs(cwd) {
            fields.add_file(&file);
        }
        Ok(fields.hex())
    }

    fn ask(args: &Args, cwd: &Path) -> anyhow::Result<Self> {
        let mut cargo = program("cargo", args, cwd)?;
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        if let Some(manifest) = &args.manifest {
            cargo.arg("--manifest-path").arg(manifest);
        }
        for config in &args.configs {
            cargo.arg("--config").arg(config);
        }
        let said = said(cargo, "cargo metadata")?;
        let said: serde_json::Value = serde_json::from_slice(&said)?;
        let path = |name: &str| -> anyhow::Result<PathBuf> {
            let text = said[name].as_str().with_context(|| format!("cargo tells no `{name}`"))?;
            Ok(PathBuf::from(text))
        };
        if said["build_directory"].as_str().is_some_and(|build| said["target_directory"] != build) {
            bail!("`build.build-dir` is another folder than `target`");
        }
        let target = match &args.target_dir {
            Some(target) => cwd.join(target),
            None => path("target_directory")?,
        };
        let chosen = chosen_compiler(cwd);
        let mut rustc = match &chosen {
            Some(path) => prepared(path, cwd),
            None => program("rustc", args, cwd)?,
        };
        rustc.args(["--print", "sysroot"]);
        let sysroot = String::from_utf8(self::said(rustc, "rustc")?)?;
        let compiler = match chosen {
            Some(path) => path,
            None => behind_rustup(args, cwd).or_else(|| on_path("rustc")).unwrap_or_default(),
        };
        let root = path("workspace_root")?.canonicalize()?;
        Ok(Self { root, target, sysroot: sysroot.trim_end().into(), compiler })
    }

    /// Returns the places of it that differ between checkouts and machines.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots::here(&self.root)
    }

    /// Returns beyond which places its programs find what nothing else tells of.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds::new(&self.target, &self.sysroot, &self.roots())
    }

    /// Reads the files of the workspace, and returns them with the key of a command here. What was changed under its old time is newer then,
    /// unless times may not be set.
    ///
    /// # Errors
    /// As [`Sources::read`].
    pub fn look(
        &self,
        means: Means<'_>,
        args: &Args,
        cwd: &Path,
    ) -> anyhow::Result<(Sources, String)> {
        let place = blake3::hash(self.root.as_os_str().as_bytes()).to_hex();
        let name = format!("cargo-stamps {place}");
        let stamps = Stamps::load(means.store, &name);
        let threads = means.options.threads;
        let mut sources = Sources::read(&self.root, &self.target, threads, &stamps)?;
        let disguised = stamps.disguised();
        if means.sets_times && !disguised.is_empty() {
            reveal(&disguised)?;
            sources = Sources::read(&self.root, &self.target, threads, &stamps)?;
        }
        let key = self.key(args, cwd, &stamps);
        stamps.save(means.store, &name)?;
        Ok((sources, key))
    }

    /// Returns what decides the result of a command here, beside sources and lockfile; the same on any machine that has the same.
    #[must_use]
    fn key(&self, args: &Args, cwd: &Path, stamps: &Stamps) -> String {
        let mut fields = Fields::default();
        fields.add(b"rules", &RULES.to_le_bytes());
        for word in &args.words {
            fields.add(b"word", word.as_bytes());
            fields.add_programs(&word.to_string_lossy(), cwd, stamps);
        }
        fields.add(b"umask", &rift_cas::materialize::umask().to_le_bytes());
        fields.add(b"machine", std::env::consts::ARCH.as_bytes());
        // The same names in another place are the same files: what matters is what they hold.
        for file in configs(cwd) {
            if let Ok(bytes) = fs::read(&file) {
                fields.add(b"config", &bytes);
                let text = String::from_utf8_lossy(&bytes);
                fields.add_programs(&text, base_of(&file), stamps);
            }
        }
        self.add_toolchain(&mut fields, stamps);
        for path in SYSTEM {
            fields.add(path.as_bytes(), &content(Path::new(path), stamps));
        }
        for line in development_packages() {
            fields.add(b"package", line.as_bytes());
        }
        for tool in TOOLS {
            let found = on_path(tool).map(|path| content(&path, stamps)).unwrap_or_default();
            fields.add(tool.as_bytes(), &found);
        }
        let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        variables.sort();
        for (name, value) in &variables {
            if decides(&name.to_string_lossy()) {
                fields.add(name.as_bytes(), value.as_bytes());
                fields.add_programs(&value.to_string_lossy(), cwd, stamps);
            }
        }
        fields.hex()
    }

    /// Adds what tells one toolchain from another. One that rustup has installed has a manifest that names the bytes of all its parts, so
    /// that the large ones, of some hundred megabytes, are told by samples; cargo itself asks rustc for its version only.
    fn add_toolchain(&self, fields: &mut Fields, stamps: &Stamps) {
        fields.add(b"compiler", &content(&self.compiler, stamps));
        let has_manifest = self.sysroot.join(MANIFEST).is_file();
        for folder in ["bin", "lib", "lib/rustlib"] {
            let mut files: Vec<PathBuf> = fs::read_dir(self.sysroot.join(folder))
                .map(|listed| listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
                .unwrap_or_default();
            files.sort();
            for file in files {
                let Some(stat) = file.metadata().ok().filter(fs::Metadata::is_file) else {
                    continue;
                };
                let name = file.strip_prefix(&self.sysroot).unwrap_or(&file);
                fields.add(name.as_os_str().as_bytes(), &stat.len().to_le_bytes());
                let told = match has_manifest && stat.len() >= LARGE_BYTES {
                    true => samples(&file, stat.len()),
                    false => content(&file, stamps),
                };
                fields.add(b"content", &told);
            }
        }
    }
}

/// Returns the versions of what C code is compiled with and against, as the system's package manager has them: what build scripts find
/// there, cargo does not look at.
fn development_packages() -> Vec<String> {
    let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let is_wanted = |name: &str| {
        let is_tool = ["gcc", "g++", "cpp", "binutils", "clang", "llvm", "lld", "libc", "musl"]
            .iter()
            .any(|start| name.starts_with(start));
        is_tool || name.ends_with("-dev") || name.ends_with("-devel")
    };
    let list = |text: &str, (package, version): (&str, &str)| {
        let of = |block: &str, field: &str| {
            block.lines().find_map(|line| line.strip_prefix(field)).map(str::to_owned)
        };
        let blocks = text.split("\n\n");
        let found = blocks.filter_map(|block| {
            let name = of(block, package).filter(|name| is_wanted(name))?;
            Some(format!("{name} {}", of(block, version).unwrap_or_default()))
        });
        found.collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (path, fields) in [
        ("/var/lib/dpkg/status", ("Package: ", "Version: ")),
        ("/lib/apk/db/installed", ("P:", "V:")),
    ] {
        if let Ok(text) = read(path) {
            found.extend(list(&text, fields));
        }
    }
    for database in ["/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite"] {
        // It says so only to its own library: any change of any package is one.
        found.extend(hash_of(Path::new(database)).map(|hash| format!("rpm {hash}")));
    }
    found.sort();
    found
}

/// Returns the hash of some parts of a large file, its beginning and its end among them; nothing where they can't be read.
fn samples(path: &Path, length: u64) -> Vec<u8> {
    const PARTS: u64 = 32;
    const PART_BYTES: usize = 16 << 10;
    let Ok(file) = fs::File::open(path) else { return Vec::new() };
    let mut hasher = blake3::Hasher::new();
    let mut part = vec![0; PART_BYTES];
    let last = length.saturating_sub(PART_BYTES as u64);
    for number in 0..PARTS {
        let offset = last / (PARTS - 1) * number;
        let offset = if number == PARTS - 1 { last } else { offset };
        if file.read_exact_at(&mut part, offset).is_err() {
            return Vec::new();
        }
        hasher.update(&part);
    }
    hasher.finalize().as_bytes().to_vec()
}

/// Returns the hash of what a file holds, links followed; nothing where it can't be read.
fn content(path: &Path, stamps: &Stamps) -> Vec<u8> {
    let hash = path.canonicalize().and_then(|real| {
        let stamp = Stamp::of(&real.symlink_metadata()?);
        stamps.hash(&real, stamp)
    });
    hash.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default()
}

/// Tells whether a variable may decide what is made.
fn decides(name: &str) -> bool {
    let is_ignored = IGNORED.contains(&name)
        || IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.starts_with("CARGO_") && name.contains("TOKEN");
    let is_listed = VARIABLES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    is_listed && !is_ignored
}

/// Returns the settings of cargo that hold in a folder, see "Hierarchical structure" in its book.
fn configs(cwd: &Path) -> Vec<PathBuf> {
    let folders = cwd.ancestors().map(|folder| folder.join(".cargo")).chain(super::home());
    folders.flat_map(|folder| [folder.join("config.toml"), folder.join("config")]).collect()
}

/// Returns the folder that paths in a file of settings begin at, see "Config-relative paths" in cargo's book.
fn base_of(config: &Path) -> &Path {
    config.parent().and_then(Path::parent).unwrap_or(config)
}

/// Returns the program that is meant by a path that begins at `base`, or by a name on the PATH.
fn file_named(named: &str, base: &Path) -> Option<PathBuf> {
    match named.contains('/') {
        true => Some(base.join(named)).filter(|path| path.is_file()),
        false => on_path(named),
    }
}

/// Returns the compiler that is to be taken in the place of the toolchain's, see `build.rustc` in cargo's book.
fn chosen_compiler(cwd: &Path) -> Option<PathBuf> {
    let told = ["RUSTC", "CARGO_BUILD_RUSTC"].into_iter().find_map(|name| std::env::var(name).ok());
    if let Some(named) = told {
        return file_named(&named, cwd);
    }
    configs(cwd).iter().find_map(|file| {
        let settings: toml::Table = fs::read_to_string(file).ok()?.parse().ok()?;
        file_named(settings.get("build")?.get("rustc")?.as_str()?, base_of(file))
    })
}

/// Returns the program that rustup's stand-in for rustc starts; `None` where there is no rustup.
fn behind_rustup(args: &Args, cwd: &Path) -> Option<PathBuf> {
    let mut rustup = prepared(&on_path("rustup")?, cwd);
    rustup.args(["which", "rustc"]);
    if let Some(toolchain) = &args.toolchain {
        rustup.arg("--toolchain").arg(toolchain);
    }
    let path = String::from_utf8(said(rustup, "rustup").ok()?).ok()?;
    Some(path.trim_end().into())
}

/// Returns the first executable of this name on the PATH that is no shim of rift's.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|folder| !shims::is_shims(folder)).find_map(|folder| {
        let file = folder.join(name);
        let is_it = file.metadata().is_ok_and(|stat| stat.is_file() && stat.mode() & 0o111 != 0);
        is_it.then_some(file)
    })
}

/// Describes a file so that another one, or a newer one, is described in another way.
fn stamp(path: &Path) -> String {
    match (path.canonicalize(), path.metadata()) {
        (Ok(real), Ok(stat)) => format!(
            "{} {} {} {} {}",
            real.display(),
            stat.len(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ino()
        ),
        _ => String::new(),
    }
}

fn program(name: &str, args: &Args, cwd: &Path) -> anyhow::Result<Command> {
    let path = on_path(name).with_context(|| format!("there is no `{name}`"))?;
    let mut command = prepared(&path, cwd);
    if let Some(toolchain) = &args.toolchain {
        let mut word = OsString::from("+");
        word.push(toolchain);
        command.arg(word);
    }
    Ok(command)
}

fn prepared(program: &Path, cwd: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(cwd).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn said(mut command: Command, what: &str) -> anyhow::Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("could not start {what}"))?;
    if !output.status.success() {
        bail!("{what} ended with {}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_decide_are_told_from_others() {
        for (name, expected) in [
            ("RUSTFLAGS", true),
            ("CC_x86_64_unknown_linux_gnu", true),
            ("CARGO_PROFILE_DEV_DEBUG", true),
            ("CARGO_TERM_COLOR", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_REGISTRY_TOKEN", false),
            ("Z_LIB_DIR", true),
            ("HOME", false),
            ("TERM", false),
        ] {
            assert_eq!(decides(name), expected, "{name}");
        }
    }
}
