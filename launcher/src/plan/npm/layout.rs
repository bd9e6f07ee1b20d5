//! What npm would write: packages, links, commands, the hidden lockfile, and the scripts that would run.
//!
//! Invariant: every path in a [`Layout`] lies in a `node_modules` folder inside the project and has no `..` part; only
//! the targets of links to folders that package.json names may lead elsewhere. The integrator of plan and store calls.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::args::Command;
use super::bin_links::{self, Bin};
use super::collate;
use super::graph::{self, Flags, Graph, Id, Kind, Manifests, ROOT};
use super::hidden_lockfile;
use super::json::{Format, Json};
use super::lockfile;
use super::read::Install;
use super::scripts::{Policy, Verdict};
use super::spec;
use super::why::Why;

/// Everything that an install writes and runs.
#[derive(Debug)]
pub struct Layout {
    /// The `node_modules` folders that lie in no other one, sorted.
    pub roots: Vec<Projection>,
    /// Packages, in the lockfile's order.
    pub packages: Vec<Placed>,
    /// Links to folders of the project (workspaces, `file:`).
    pub links: Vec<Symlink>,
    /// Commands, in the order npm makes them. Each is only made where its file exists in the package.
    pub bins: Vec<BinLink>,
    /// `node_modules/.package-lock.json`; nothing when there is no `node_modules`.
    pub hidden_lockfile: Option<Vec<u8>>,
    /// Packages and linked folders whose lifecycle scripts run, in npm's order: per event all of the packages, then per
    /// event all of the links. Empty with `ignore-scripts`.
    pub scripts: Vec<Scripts>,
    /// The count of npm's `added N packages` for an empty `node_modules`.
    pub added: usize,
    /// Locations of packages whose `engines` don't fit, about which npm warns.
    pub engine_warnings: Vec<String>,
}

/// A `node_modules` folder that lies in no other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Its path, relative to the project.
    pub dir: String,
}

/// A package and its place.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Its folder, relative to the project.
    pub path: String,
    /// Index into [`Layout::roots`].
    pub root: usize,
    /// The registry's name for it (not the alias).
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its address, where the lockfile has one.
    pub resolved: Option<String>,
    /// The hash of its archive; nothing only for a package that its bundler brings.
    pub integrity: Option<String>,
    /// The lockfile says that it has install scripts.
    pub has_install_script: bool,
    /// npm's dependency flags.
    pub flags: Flags,
    /// Index of the package whose archive brings it: nothing of its own is fetched or written.
    pub bundled_by: Option<usize>,
    /// Files of the package that npm makes executable (`0o777` less the umask) and whose first line it frees of a
    /// carriage return.
    pub bins: Vec<String>,
    /// The author's deprecation notice, which npm prints.
    pub deprecated: Option<String>,
}

/// A symlink to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symlink {
    /// Its path, relative to the project.
    pub path: String,
    /// What it holds, relative to its folder.
    pub target: String,
}

/// A command in a `.bin` folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinLink {
    /// Its path, relative to the project.
    pub path: String,
    /// What it holds, relative to its folder.
    pub target: String,
    /// The package or link that it belongs to.
    pub owner: Owner,
    /// Its file inside of the package. Where that is missing, npm makes no link, and nobody else gets the name.
    pub file: String,
}

/// What a command or script belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Index into [`Layout::packages`].
    Package(usize),
    /// Index into [`Layout::links`].
    Link(usize),
}

/// Lifecycle scripts of a package or linked folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scripts {
    /// What they belong to. A package's own package.json says which of `preinstall`, `install` and `postinstall` (or a
    /// `binding.gyp`) it has; a linked folder's `prepare` runs between its `preinstall` and `install`.
    pub owner: Owner,
    /// What the allow-scripts policy says. Denied ones are not listed.
    pub verdict: Verdict,
}

/// A lifecycle script of the project itself, which npm runs after the install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootScript {
    /// The event.
    pub event: &'static str,
    /// The command line.
    pub command: String,
    /// It runs only if the install changed something.
    pub only_if_changed: bool,
}

/// What the project's scripts are run for, in order; the first three only after a change.
const ROOT_EVENTS: [&str; 10] = [
    "predependencies",
    "dependencies",
    "postdependencies",
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
];

impl Install {
    /// Returns the scripts of the project itself, in the order npm runs them, with their output shown.
    pub fn root_scripts(&self) -> anyhow::Result<Vec<RootScript>> {
        if self.settings.ignore_scripts {
            return Ok(Vec::new());
        }
        let manifest = self.manifests[0].json().map_err(|why| anyhow::anyhow!("{why}"))?;
        let script = |event: &str| {
            let command = manifest
                .get("scripts")
                .and_then(|scripts| scripts.get(event))
                .and_then(Json::as_str);
            command.filter(|command| !command.is_empty()).map(str::to_owned)
        };
        let mut scripts = Vec::new();
        for (at, event) in ROOT_EVENTS.into_iter().enumerate() {
            let implied = event == "install"
                && script("preinstall").is_none()
                && manifest.get("gypfile") != Some(&Json::Bool(false))
                && self.root.join("binding.gyp").exists();
            let command = script(event).or_else(|| implied.then(|| "node-gyp rebuild".to_owned()));
            scripts.extend(command.map(|command| RootScript {
                event,
                command,
                only_if_changed: at < 3,
            }));
        }
        Ok(scripts)
    }

    /// Works out what npm would write.
    pub fn layout(&self) -> Result<Layout, Why> {
        let lock = lockfile::parse(self.lock_name, &self.lock)?;
        let mut jsons = Vec::with_capacity(self.manifests.len());
        for manifest in &self.manifests {
            jsons.push(manifest.json()?);
        }
        let root = &jsons[0];
        if root.get("devEngines").is_some() {
            return Err("package.json has devEngines".into());
        }
        same_dependencies(root, &lock.root, "the lockfile")?;
        let tops: HashMap<&str, &Json<'_>> = self
            .manifests
            .iter()
            .map(|manifest| manifest.dir.as_str())
            .zip(&jsons)
            .skip(1)
            .collect();
        for entry in &lock.entries {
            if let Some(manifest) = tops.get(entry.location.as_str()) {
                same_dependencies(manifest, &entry.json, &entry.location)?;
            }
        }
        let manifests = Manifests { root, tops, workspaces: &self.workspaces };
        let graph = graph::build(&lock, &manifests, &self.settings, &self.tool)?;
        if self.settings.install_links
            && graph.nodes.iter().any(|node| matches!(node.kind, Kind::Link(_)))
        {
            return Err("`install-links` packs linked folders".into());
        }
        let format =
            Format::of(&self.manifests[0].bytes).ok_or("package.json has an unusual form")?;
        let omit_resolved = self.settings.omit_resolved;
        if self.command == Command::Install {
            if lock.version != 3 {
                return Err(format!(
                    "{} has version {}, which npm may rewrite",
                    self.lock_name, lock.version
                )
                .into());
            }
            if hidden_lockfile::own(&lock, &graph, &format, omit_resolved)? != self.lock {
                return Err(format!("npm would rewrite {}", self.lock_name).into());
            }
        }

        let (packages, package_of) = packages(&graph)?;
        let (links, link_of) = links(&graph);
        let mut layout = Layout {
            roots: Vec::new(),
            added: packages.iter().filter(|package| package.bundled_by.is_none()).count()
                + links.len(),
            packages,
            links,
            bins: Vec::new(),
            hidden_lockfile: None,
            scripts: Vec::new(),
            engine_warnings: graph
                .engine_warnings
                .iter()
                .map(|id| graph.nodes[*id].location.to_owned())
                .collect(),
        };
        layout.find_roots();
        let order = build_order(&graph);
        let owner = |id: Id| match graph.nodes[id].kind {
            Kind::Link(_) => Owner::Link(link_of[&id]),
            _ => Owner::Package(package_of[&id]),
        };
        if self.settings.bin_links {
            layout.bins = bins(&graph, &order, owner)?;
            for bin in &layout.bins {
                if let Owner::Package(at) = bin.owner {
                    layout.packages[at].bins.push(bin.file.clone());
                }
            }
        }
        if !self.settings.ignore_scripts {
            layout.scripts = self.scripts(&graph, &order, root, owner)?;
        }
        if layout.roots.iter().any(|root| root.dir == "node_modules") {
            layout.hidden_lockfile =
                Some(hidden_lockfile::hidden(&lock, &graph, &format, omit_resolved)?);
        }
        Ok(layout)
    }

    fn scripts(
        &self,
        graph: &Graph<'_>,
        order: &[Id],
        root: &Json<'_>,
        owner: impl Fn(Id) -> Owner,
    ) -> Result<Vec<Scripts>, Why> {
        let policy = Policy::read(root, &self.settings.allow_scripts)?;
        let mut scripts = Vec::new();
        for &id in order {
            let node = &graph.nodes[id];
            let own = match node.kind {
                Kind::Link(_) => {
                    let prepare =
                        node.package.get("scripts").and_then(|scripts| scripts.get("prepare"));
                    hidden_lockfile::has_install_script(node.package)
                        || prepare.is_some_and(Json::truthy)
                }
                _ => node.entry.get("hasInstallScript").is_some_and(Json::truthy),
            };
            if !own {
                continue;
            }
            let bundled = node.entry.get("inBundle").is_some_and(Json::truthy);
            let judged = node.kind == Kind::Package && !bundled && !self.settings.allow_all_scripts;
            let verdict = if judged { policy.verdict(graph, id) } else { Verdict::Allowed };
            match verdict {
                Verdict::Denied => continue,
                Verdict::Unreviewed if self.settings.strict_allow_scripts => {
                    return Err(format!("`strict-allow-scripts` stops at {}", node.location).into());
                }
                Verdict::Unreviewed | Verdict::Allowed => {
                    scripts.push(Scripts { owner: owner(id), verdict })
                }
            }
        }
        Ok(scripts)
    }
}

/// Refuses a lockfile that records other dependencies than a manifest has.
fn same_dependencies(manifest: &Json<'_>, entry: &Json<'_>, place: &str) -> Result<(), Why> {
    let fields = [
        "dependencies",
        "devDependencies",
        "optionalDependencies",
        "peerDependencies",
        "peerDependenciesMeta",
    ];
    for field in fields {
        let list = |json: &Json<'_>| -> Option<BTreeMap<String, Json<'static>>> {
            let optional = json.get("optionalDependencies");
            match json.get(field) {
                None => Some(BTreeMap::new()),
                Some(Json::Object(list)) => Some(
                    list.iter()
                        // npm counts a dependency of both kinds as optional.
                        .filter(|(name, _)| {
                            field != "dependencies"
                                || optional.and_then(|list| list.get(name)).is_none()
                        })
                        .map(|(name, value)| (name.to_string(), owned(value)))
                        .collect(),
                ),
                Some(_) => None,
            }
        };
        if list(manifest).is_none() || list(manifest) != list(entry) {
            return Err(format!("{place} records other `{field}` than package.json has").into());
        }
    }
    let patterns = |json: &Json<'_>| json.get("workspaces").map(owned);
    if patterns(manifest) != patterns(entry) {
        return Err(format!("{place} records other `workspaces` than package.json has").into());
    }
    Ok(())
}

fn owned(json: &Json<'_>) -> Json<'static> {
    match json {
        Json::Null => Json::Null,
        Json::Bool(value) => Json::Bool(*value),
        Json::Integer(value) => Json::Integer(*value),
        Json::Text(text) => Json::Text(text.to_string().into()),
        Json::List(values) => Json::List(values.iter().map(owned).collect()),
        Json::Object(entries) => Json::Object(
            entries.iter().map(|(key, value)| (key.to_string().into(), owned(value))).collect(),
        ),
    }
}

fn packages(graph: &Graph<'_>) -> Result<(Vec<Placed>, HashMap<Id, usize>), Why> {
    let mut packages: Vec<Placed> = Vec::with_capacity(graph.nodes.len());
    let mut index = HashMap::with_capacity(graph.nodes.len());
    let mut bundler: HashMap<Id, Id> = HashMap::new();
    let present = |id: &Id| graph.nodes[*id].kind == Kind::Package && !graph.nodes[*id].absent;
    let mut order: Vec<Id> = (0..graph.nodes.len()).filter(present).collect();
    for (at, id) in order.iter().enumerate() {
        index.insert(*id, at);
    }
    // Bundlers before what they bundle.
    let by_file = order.clone();
    order.sort_by_key(|id| graph.nodes[*id].depth);
    for &id in &order {
        let node = &graph.nodes[id];
        let text = |field: &str| {
            node.entry.get(field).and_then(Json::as_str).filter(|text| !text.is_empty())
        };
        if node.entry.get("hasShrinkwrap").is_some_and(Json::truthy) {
            return Err(format!("{} brings its own npm-shrinkwrap.json", node.location).into());
        }
        let bundled = node.entry.get("inBundle").is_some_and(Json::truthy);
        let parent = node.parent.filter(|parent| graph.nodes[*parent].kind == Kind::Package);
        if bundled && let Some(parent) = parent {
            let inside = graph.nodes[parent].entry.get("inBundle").is_some_and(Json::truthy);
            let by = match bundler.get(&parent) {
                Some(by) => Some(*by),
                // Bundled by the project itself: installed like any other.
                None if inside => None,
                None if graph.nodes[parent]
                    .package
                    .get("bundleDependencies")
                    .is_some_and(Json::truthy) =>
                {
                    Some(parent)
                }
                None => return Err(format!("{} is bundled by nothing", node.location).into()),
            };
            if let Some(by) = by {
                bundler.insert(id, by);
            }
        } else if bundler.contains_key(&parent.unwrap_or(ROOT)) {
            return Err(format!("{} lies in a bundled package", node.location).into());
        }
        if graph::version(node).is_empty() {
            return Err(format!("{} has no version", node.location).into());
        }
        let resolved = text("resolved");
        if bundler.contains_key(&id) {
            continue;
        }
        match resolved {
            None if graph.of_registry(id) => {}
            Some(url)
                if (url.starts_with("https://") || url.starts_with("http://"))
                    && !spec::may_be_git(url) => {}
            _ => {
                return Err(
                    format!("{} comes from elsewhere than a registry", node.location).into()
                );
            }
        }
        match text("integrity") {
            Some(integrity) if lockfile::strong(integrity) => {}
            Some(_) => {
                return Err(
                    format!("the integrity of {} is weak or malformed", node.location).into()
                );
            }
            None => return Err(format!("{} has no integrity", node.location).into()),
        }
    }
    for id in by_file {
        let node = &graph.nodes[id];
        let text = |field: &str| node.entry.get(field).and_then(Json::as_str).map(str::to_owned);
        packages.push(Placed {
            path: node.location.to_owned(),
            root: 0,
            name: hidden_lockfile::package_name(node).to_owned(),
            version: graph::version(node).to_owned(),
            resolved: text("resolved"),
            integrity: text("integrity"),
            has_install_script: node.entry.get("hasInstallScript").is_some_and(Json::truthy),
            flags: node.flags,
            bundled_by: bundler.get(&id).map(|by| index[by]),
            bins: Vec::new(),
            deprecated: text("deprecated"),
        });
    }
    Ok((packages, index))
}

fn links(graph: &Graph<'_>) -> (Vec<Symlink>, HashMap<Id, usize>) {
    let mut links = Vec::new();
    let mut index = HashMap::new();
    for (id, node) in graph.nodes.iter().enumerate() {
        if let Kind::Link(target) = node.kind
            && !node.absent
        {
            index.insert(id, links.len());
            let target = relative(node.location, graph.nodes[target].location);
            links.push(Symlink { path: node.location.to_owned(), target });
        }
    }
    (links, index)
}

/// Returns the way from the folder of `path` to `target`.
fn relative(path: &str, target: &str) -> String {
    let mut from: Vec<&str> = path.split('/').collect();
    from.pop();
    let to: Vec<&str> = target.split('/').collect();
    let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
    let mut parts = vec![".."; from.len() - common];
    parts.extend(&to[common..]);
    parts.join("/")
}

/// The order in which npm builds: packages by depth and place, then links.
fn build_order(graph: &Graph<'_>) -> Vec<Id> {
    let built = |id: &Id| !graph.nodes[*id].absent && graph.nodes[*id].parent.is_some();
    let mut order: Vec<Id> = (0..graph.nodes.len()).filter(built).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&graph.nodes[*a], &graph.nodes[*b]);
        let link = |node: &graph::Node<'_>| matches!(node.kind, Kind::Link(_));
        link(a)
            .cmp(&link(b))
            .then(a.depth.cmp(&b.depth))
            .then_with(|| collate::compare(a.location, b.location))
    });
    order
}

fn bins(graph: &Graph<'_>, order: &[Id], owner: impl Fn(Id) -> Owner) -> Result<Vec<BinLink>, Why> {
    let mut taken: HashSet<String> = HashSet::new();
    let mut links = Vec::new();
    for &id in order {
        let node = &graph.nodes[id];
        let commands: Vec<Bin> = match node.kind {
            // npm asks the folder whether it has commands, and the lockfile which.
            Kind::Link(target) => {
                let on_disk =
                    bin_links::read(node.package.get("bin"), hidden_lockfile::package_name(node))?;
                let entry = graph.nodes[target].entry;
                let name =
                    entry.get("name").and_then(Json::as_str).unwrap_or(graph.nodes[target].name);
                if on_disk.is_empty() {
                    Vec::new()
                } else {
                    bin_links::read(entry.get("bin"), name)?
                }
            }
            _ => bin_links::read(node.package.get("bin"), hidden_lockfile::package_name(node))?,
        };
        let folder = &node.location[..node.location.len() - node.name.len()];
        for Bin { name, file } in commands {
            let path = format!("{folder}.bin/{name}");
            if taken.insert(path.clone()) {
                links.push(BinLink {
                    path,
                    target: format!("../{}/{file}", node.name),
                    owner: owner(id),
                    file,
                });
            }
        }
    }
    Ok(links)
}

impl Layout {
    fn find_roots(&mut self) {
        let root_of = |path: &str| {
            let end = if path.starts_with("node_modules/") {
                "node_modules".len()
            } else {
                path.find("/node_modules/").map_or(path.len(), |at| at + "/node_modules".len())
            };
            path[..end].to_owned()
        };
        let paths = self
            .packages
            .iter()
            .map(|package| &package.path)
            .chain(self.links.iter().map(|link| &link.path));
        let dirs: BTreeMap<String, ()> = paths.map(|path| (root_of(path), ())).collect();
        self.roots = dirs.into_keys().map(|dir| Projection { dir }).collect();
        for package in &mut self.packages {
            let dir = root_of(&package.path);
            // Every package's folder was collected just above.
            package.root = self.roots.partition_point(|root| root.dir < dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways() {
        for (path, target, expected) in [
            ("node_modules/a", "packages/a", "../packages/a"),
            ("node_modules/@s/a", "packages/a", "../../packages/a"),
            ("packages/b/node_modules/a", "packages/a", "../../a"),
            ("node_modules/a", "../other", "../../other"),
        ] {
            assert_eq!(relative(path, target), expected);
        }
    }
}
