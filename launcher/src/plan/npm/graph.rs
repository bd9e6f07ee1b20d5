//! npm's ideal tree, worked out from a lockfile: nodes, edges, dependency flags, and what is left out.
//!
//! Invariant: follows arborist for a lockfile that satisfies the manifests (`loadVirtual`, `calcDepFlags`, the platform
//! check and its optional sets, `shouldOmit`); whenever arborist would have to fetch, move or replace something, the
//! project is refused with a [`Why`]. No recursion, and no step that grows faster than edges. [`super::layout`] calls.

use std::borrow::Cow;
use std::collections::HashMap;

use super::json::Json;
use super::lockfile::{Entry, Lock};
use super::project::{self, Workspace};
use super::semver::{self, DEPENDENCY, ENGINE};
use super::settings::Settings;
use super::spec::{self, Spec, classify};
use super::tool::Tool;
use super::why::Why;

/// Index of a node.
pub(crate) type Id = usize;
/// The root's index.
pub(crate) const ROOT: Id = 0;

/// npm's dependency flags of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Reached only through development dependencies.
    pub dev: bool,
    /// Reached only through optional dependencies.
    pub optional: bool,
    /// Reached only through development or optional dependencies, but not only through one of the kinds.
    pub dev_optional: bool,
    /// Reached only through peer dependencies.
    pub peer: bool,
    /// Not reached at all.
    pub extraneous: bool,
}

const ALL: Flags =
    Flags { dev: true, optional: true, dev_optional: true, peer: true, extraneous: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The project.
    Root,
    /// A folder outside of every `node_modules` that a link points to.
    Top,
    /// A package in a `node_modules`.
    Package,
    /// A symlink in a `node_modules` to a top (or to the root).
    Link(Id),
}

#[derive(Debug)]
pub(crate) struct Node<'j> {
    pub(crate) location: &'j str,
    pub(crate) name: &'j str,
    pub(crate) kind: Kind,
    /// The manifest it counts with: from disk for root and tops, else from the lockfile.
    pub(crate) package: &'j Json<'j>,
    /// Its lockfile entry (the root's manifest for the root).
    pub(crate) entry: &'j Json<'j>,
    pub(crate) parent: Option<Id>,
    pub(crate) depth: usize,
    pub(crate) flags: Flags,
    pub(crate) workspace: bool,
    /// Left out of the installed tree.
    pub(crate) absent: bool,
    pub(crate) edges: Vec<Edge<'j>>,
    pub(crate) edges_in: Vec<(Id, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Prod,
    Dev,
    Optional,
    Peer,
    PeerOptional,
    Workspace,
}

#[derive(Debug)]
pub(crate) struct Edge<'j> {
    pub(crate) name: &'j str,
    pub(crate) spec: Cow<'j, str>,
    kind: Type,
    to: Option<Id>,
}

impl Edge<'_> {
    fn optional(&self) -> bool {
        matches!(self.kind, Type::Optional | Type::PeerOptional)
    }

    fn peer(&self) -> bool {
        matches!(self.kind, Type::Peer | Type::PeerOptional)
    }
}

/// The manifests that [`build`] reads: the root's, and those of tops by folder.
pub(crate) struct Manifests<'j> {
    pub(crate) root: &'j Json<'j>,
    pub(crate) tops: HashMap<&'j str, &'j Json<'j>>,
    pub(crate) workspaces: &'j [Workspace],
}

/// The ideal tree.
#[derive(Debug)]
pub(crate) struct Graph<'j> {
    pub(crate) nodes: Vec<Node<'j>>,
    /// Packages whose `engines` don't fit, about which npm warns.
    pub(crate) engine_warnings: Vec<Id>,
}

/// Builds the tree and marks what is left out of the installation.
pub(crate) fn build<'j>(
    lock: &'j Lock<'j>,
    manifests: &Manifests<'j>,
    settings: &Settings,
    tool: &Tool,
) -> Result<Graph<'j>, Why> {
    let mut graph = Graph { nodes: nodes(lock, manifests)?, engine_warnings: Vec::new() };
    let children = children(&graph.nodes)?;
    edges(&mut graph.nodes, &children, manifests, settings)?;
    calculate_flags(&mut graph.nodes);
    check_edges(&graph.nodes, manifests.root)?;
    prune_extraneous(&mut graph.nodes)?;
    check_platforms(&mut graph, settings, tool)?;
    omit(&mut graph.nodes, settings)?;
    drop_below_absent(&mut graph.nodes);
    Ok(graph)
}

fn nodes<'j>(lock: &'j Lock<'j>, manifests: &Manifests<'j>) -> Result<Vec<Node<'j>>, Why> {
    let node = |location, name, kind, package, entry| Node {
        location,
        name,
        kind,
        package,
        entry,
        parent: None,
        depth: 0,
        flags: ALL,
        workspace: false,
        absent: false,
        edges: Vec::new(),
        edges_in: Vec::new(),
    };
    let mut nodes = Vec::with_capacity(lock.entries.len() + 1);
    nodes.push(node("", "", Kind::Root, manifests.root, manifests.root));
    nodes[ROOT].flags = Flags::default();
    let mut ids: HashMap<&str, Id> = HashMap::with_capacity(lock.entries.len() + 1);
    ids.insert("", ROOT);
    // As arborist does: first everything that is not a link, then the links, each in file order.
    let is_link = |entry: &Entry<'_>| entry.json.get("link").is_some_and(Json::truthy);
    for entry in lock.entries.iter().filter(|entry| !is_link(entry)) {
        let (kind, package) = match entry.name_at {
            Some(_) => (Kind::Package, &entry.json),
            None => {
                let manifest = manifests.tops.get(entry.location.as_str());
                (
                    Kind::Top,
                    *manifest
                        .ok_or_else(|| Why::new(format!("nothing links {}", entry.location)))?,
                )
            }
        };
        ids.insert(&entry.location, nodes.len());
        nodes.push(node(&entry.location, entry.name(), kind, package, &entry.json));
    }
    let mut linked = vec![false; nodes.len()];
    for entry in lock.entries.iter().filter(|entry| is_link(entry)) {
        let bad = || Why::new(format!("the link {} is not understood", entry.location));
        let target = entry.json.get("resolved").and_then(Json::as_str).ok_or_else(bad)?;
        let id = *ids.get(target).ok_or_else(bad)?;
        if entry.name_at.is_none() || !matches!(nodes[id].kind, Kind::Top) {
            return Err(bad());
        }
        linked[id] = true;
        nodes.push(node(
            &entry.location,
            entry.name(),
            Kind::Link(id),
            nodes[id].package,
            &entry.json,
        ));
        ids.insert(&entry.location, nodes.len() - 1);
    }
    for (id, node) in nodes.iter().enumerate() {
        if node.kind == Kind::Top {
            if !linked[id] {
                return Err(format!("nothing links {}", node.location).into());
            }
            let outer = parents(node.location).find(|dir| !dir.is_empty() && ids.contains_key(dir));
            if let Some(outer) = outer {
                return Err(
                    format!("{} is a linked folder inside of {outer}", node.location).into()
                );
            }
        }
    }
    for entry in &lock.entries {
        let Some(dir) = entry.parent() else { continue };
        let id = ids[entry.location.as_str()];
        let parent =
            ids.get(dir).copied().filter(|parent| !matches!(nodes[*parent].kind, Kind::Link(_)));
        nodes[id].parent = Some(parent.ok_or_else(|| {
            Why::new(format!("{} lies in nothing that is installed", entry.location))
        })?);
        nodes[id].depth = entry.location.matches("node_modules/").count();
    }
    Ok(nodes)
}

fn parents(location: &str) -> impl Iterator<Item = &str> {
    location.rmatch_indices('/').map(|(at, _)| &location[..at])
}

type Children<'j> = HashMap<(Id, Cow<'j, str>), Id>;

/// npm's maps of names ignore case.
fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn children<'j>(nodes: &[Node<'j>]) -> Result<Children<'j>, Why> {
    let mut children = HashMap::with_capacity(nodes.len());
    for (id, node) in nodes.iter().enumerate() {
        if let Some(parent) = node.parent
            && children.insert((parent, fold(node.name)), id).is_some()
        {
            return Err(format!("{} is there twice", node.location).into());
        }
    }
    Ok(children)
}

fn edges<'j>(
    nodes: &mut [Node<'j>],
    children: &Children<'j>,
    manifests: &Manifests<'j>,
    settings: &Settings,
) -> Result<(), Why> {
    for id in 0..nodes.len() {
        if matches!(nodes[id].kind, Kind::Link(_)) {
            continue;
        }
        let mut edges = own_edges(&nodes[id], manifests.workspaces, settings)?;
        for edge in &mut edges {
            let name = fold(edge.name);
            let mut at = Some(id);
            while let Some(here) = at {
                if let Some(to) = children.get(&(here, name.clone())) {
                    edge.to = Some(*to);
                    break;
                }
                let node = &nodes[here];
                let top = node.kind == Kind::Top && !node.location.starts_with("..");
                at = node.parent.or(top.then_some(ROOT));
            }
        }
        for (at, edge) in edges.iter().enumerate() {
            if let Some(to) = edge.to {
                nodes[to].edges_in.push((
                    id,
                    u32::try_from(at).map_err(|_| "a package has too many dependencies")?,
                ));
            }
        }
        nodes[id].edges = edges;
    }
    for workspace in manifests.workspaces {
        let name = children.get(&(ROOT, fold(&workspace.name)));
        if let Some(Kind::Link(target)) = name.map(|id| nodes[*id].kind) {
            nodes[target].workspace = true;
        }
    }
    Ok(())
}

/// A node's dependencies in arborist's order: of two with one name the later counts.
fn own_edges<'j>(
    node: &Node<'j>,
    workspaces: &'j [Workspace],
    settings: &Settings,
) -> Result<Vec<Edge<'j>>, Why> {
    let mut edges: Vec<Edge<'j>> = Vec::new();
    if node.kind == Kind::Root {
        edges.extend(workspaces.iter().map(|workspace| Edge {
            name: &workspace.name,
            spec: Cow::Owned(format!("file:{}", workspace.dir)),
            kind: Type::Workspace,
            to: None,
        }));
    }
    let meta = node.package.get("peerDependenciesMeta");
    let top = matches!(node.kind, Kind::Root | Kind::Top);
    let peers: &[Type] =
        if settings.legacy_peer_deps { &[] } else { &[Type::Peer, Type::PeerOptional] };
    let others = [Type::Prod, Type::Optional, Type::Dev];
    for kind in peers.iter().chain(&others[..if top { 3 } else { 2 }]).copied() {
        let field = match kind {
            Type::Peer | Type::PeerOptional => "peerDependencies",
            Type::Optional => "optionalDependencies",
            Type::Dev => "devDependencies",
            Type::Prod | Type::Workspace => "dependencies",
        };
        let list = match node.package.get(field) {
            None => continue,
            Some(Json::Object(list)) => list,
            Some(_) => {
                return Err(
                    format!("`{field}` of {} is not understood", place(node.location)).into()
                );
            }
        };
        for (name, spec) in list {
            let optional =
                || meta.and_then(|meta| meta.get(name)).and_then(|meta| meta.get("optional"));
            match kind {
                Type::Peer if optional().is_some_and(Json::truthy) => continue,
                Type::PeerOptional if !optional().is_some_and(Json::truthy) => continue,
                _ => {}
            }
            let spec = spec.as_str().ok_or_else(|| {
                Why::new(format!("`{field}` of {} is not understood", place(node.location)))
            })?;
            // Short lists are the rule; a scan beats a map.
            if let Some(at) = edges.iter().position(|edge| edge.name.eq_ignore_ascii_case(name)) {
                if edges[at].kind == Type::Workspace {
                    continue;
                }
                if edges[at].name != name {
                    return Err(
                        format!("{} depends on {name} in two cases", place(node.location)).into()
                    );
                }
                edges.remove(at);
            }
            edges.push(Edge { name, spec: Cow::Borrowed(spec), kind, to: None });
            if edges.len() > 20_000 {
                return Err(format!("{} has too many dependencies", place(node.location)).into());
            }
        }
    }
    Ok(edges)
}

fn place(location: &str) -> &str {
    if location.is_empty() { "the project" } else { location }
}

/// `calcDepFlags`: all flags are set, then taken off along the edges.
fn calculate_flags(nodes: &mut [Node<'_>]) {
    let mut seen = vec![false; nodes.len()];
    let mut queue = vec![ROOT];
    while let Some(id) = queue.pop() {
        seen[id] = true;
        let from = nodes[id].flags;
        if !from.extraneous {
            let mut above = nodes[id].parent;
            while let Some(parent) = above.filter(|parent| nodes[*parent].flags.extraneous) {
                nodes[parent].flags.extraneous = false;
                above = nodes[parent].parent;
            }
        }
        if let Kind::Link(target) = nodes[id].kind {
            let to = nodes[target].flags;
            let both = Flags {
                dev: to.dev && from.dev,
                optional: to.optional && from.optional,
                dev_optional: to.dev_optional && from.dev_optional,
                peer: to.peer && from.peer,
                extraneous: to.extraneous && from.extraneous,
            };
            nodes[target].flags = both;
            if both != to || !seen[target] {
                queue.push(target);
            }
            continue;
        }
        for at in 0..nodes[id].edges.len() {
            let edge = &nodes[id].edges[at];
            let Some(to) = edge.to else { continue };
            let (optional, peer, dev) = (edge.optional(), edge.peer(), edge.kind == Type::Dev);
            let before = nodes[to].flags;
            let flags = &mut nodes[to].flags;
            flags.extraneous &= from.extraneous || peer && optional;
            flags.dev &= from.dev || dev;
            flags.optional &= from.optional || optional;
            flags.dev_optional &= from.dev_optional || from.dev || from.optional || dev || optional;
            flags.peer &= from.peer || peer;
            if *flags != before {
                queue.push(to);
            }
        }
    }
    for node in &mut nodes[1..] {
        node.flags.dev_optional &= !node.flags.dev && !node.flags.optional;
    }
}

/// Refuses a tree that npm would change: a dependency that is missing or doesn't fit.
fn check_edges(nodes: &[Node<'_>], root: &Json<'_>) -> Result<(), Why> {
    for (id, node) in nodes.iter().enumerate() {
        if node.flags.extraneous || node.location.starts_with("..") {
            continue;
        }
        let bundled = node.package.get("bundleDependencies");
        let ignored = |name: &str| match bundled {
            Some(Json::List(names)) if node.kind == Kind::Package => {
                names.iter().any(|other| other.as_str() == Some(name))
            }
            _ => false,
        };
        for edge in &node.edges {
            let problem = match edge.to {
                None if edge.kind == Type::PeerOptional => continue,
                None => "is not in the lockfile",
                Some(to)
                    if edge.peer()
                        && nodes[to].parent == Some(id)
                        && node.kind == Kind::Package =>
                {
                    "is a peer nested in its dependent"
                }
                Some(to) if fits(nodes, id, edge, to) => continue,
                Some(_) => "doesn't fit what the lockfile has",
            };
            if !ignored(edge.name) {
                return Err(format!(
                    "{} {problem} (needed by {})",
                    edge.name,
                    place(node.location)
                )
                .into());
            }
        }
    }
    match root.get("overrides") {
        Some(overrides) if overrides.truthy() && *overrides != Json::Object(Vec::new()) => {
            Err("package.json has overrides".into())
        }
        _ => Ok(()),
    }
}

fn fits(nodes: &[Node<'_>], from: Id, edge: &Edge<'_>, to: Id) -> bool {
    let target = &nodes[to];
    let version = version(target);
    let satisfies = |range: &str| {
        range == "*" || range.is_empty() || semver::satisfies(version, range, DEPENDENCY)
    };
    if target.name != edge.name {
        return false;
    }
    match classify(&edge.spec) {
        Spec::Range(range) => satisfies(range.trim()),
        Spec::Alias(range) => satisfies(range.trim()),
        Spec::Tag => {
            matches!(target.kind, Kind::Package)
                && target.entry.get("resolved").is_some_and(Json::truthy)
        }
        Spec::Directory(path) => match target.kind {
            Kind::Link(top) => project::join(nodes[from].location, path)
                .is_ok_and(|dir| dir == nodes[top].location),
            _ => false,
        },
        Spec::Remote(url) => target.entry.get("resolved").and_then(Json::as_str) == Some(url),
        Spec::Other => false,
    }
}

/// A node's version as npm counts it.
pub(crate) fn version<'n>(node: &'n Node<'_>) -> &'n str {
    node.package.get("version").and_then(Json::as_str).unwrap_or_default().trim()
}

/// `#idealTreePrune`: what nothing reaches is no part of the tree.
fn prune_extraneous(nodes: &mut [Node<'_>]) -> Result<(), Why> {
    for node in nodes {
        if node.flags.extraneous {
            if node.kind == Kind::Top {
                return Err(format!("{} is linked but not needed", node.location).into());
            }
            node.absent = true;
        }
    }
    Ok(())
}

/// Marks optional packages that can't run here, with what only they need; other misfits are npm's to report.
fn check_platforms(graph: &mut Graph<'_>, settings: &Settings, tool: &Tool) -> Result<(), Why> {
    let os = settings.os.as_deref().unwrap_or(tool.platform);
    // Asked for another platform, npm's own C library doesn't count.
    let libc = settings.libc.as_deref().or(if os == "linux" { linux_libc(tool)? } else { None });
    let asked = Platform { os, cpu: settings.cpu.as_deref().unwrap_or(tool.arch), libc };
    let native = Platform { os: tool.platform, cpu: tool.arch, libc: tool.libc };
    let mut inert = vec![false; graph.nodes.len()];
    for id in 0..graph.nodes.len() {
        let node = &graph.nodes[id];
        if node.absent {
            continue;
        }
        if node.flags.optional {
            let fits = engines_fit(node.package, tool, false) && asked.fits(node.package);
            if !fits && !inert[id] {
                optional_set(&graph.nodes, id, &mut inert);
            }
            continue;
        }
        if omitted(&graph.nodes, id, settings) {
            continue;
        }
        let ignored =
            node.kind == Kind::Root && node.package.get("devEngines").is_some_and(Json::truthy);
        if !ignored && !engines_fit(node.package, tool, settings.force) {
            if settings.engine_strict {
                return Err(format!("the engines of {} don't fit", place(node.location)).into());
            }
            graph.engine_warnings.push(id);
        }
        if !settings.force && !native.fits(graph.nodes[id].package) {
            return Err(
                format!("{} is for another platform", place(graph.nodes[id].location)).into()
            );
        }
    }
    for (node, inert) in graph.nodes.iter_mut().zip(inert) {
        if inert && node.kind == Kind::Top {
            return Err(format!(
                "the optional linked folder {} is for another platform",
                node.location
            )
            .into());
        }
        node.absent |= inert;
    }
    Ok(())
}

fn linux_libc(tool: &Tool) -> Result<Option<&'static str>, Why> {
    if tool.platform == "linux" {
        return Ok(tool.libc);
    }
    Err("the C library of another platform is asked for".into())
}

struct Platform<'s> {
    os: &'s str,
    cpu: &'s str,
    libc: Option<&'s str>,
}

impl Platform<'_> {
    fn fits(&self, package: &Json<'_>) -> bool {
        let fits = |field: &str, value: Option<&str>| match package.get(field) {
            Some(list) if list.truthy() => value.is_some_and(|value| listed(list, value)),
            _ => true,
        };
        fits("os", Some(self.os)) && fits("cpu", Some(self.cpu)) && fits("libc", self.libc)
    }
}

/// `checkList`: none of the negated, and one of the others if there are any.
fn listed(list: &Json<'_>, value: &str) -> bool {
    let one = std::slice::from_ref(list);
    let list = match list {
        Json::List(list) => list.as_slice(),
        _ => one,
    };
    if let [only] = list
        && only.as_str() == Some("any")
    {
        return true;
    }
    let mut negated = 0;
    let mut found = false;
    for item in list.iter().filter_map(Json::as_str) {
        match item.strip_prefix('!') {
            Some(item) if item == value => return false,
            Some(_) => negated += 1,
            None => found |= item == value,
        }
    }
    found || negated == list.len()
}

fn engines_fit(package: &Json<'_>, tool: &Tool, force: bool) -> bool {
    let fits = |engine: &str, version: &str| match package
        .get("engines")
        .and_then(|engines| engines.get(engine))
    {
        Some(range) if range.truthy() => {
            range.as_str().is_some_and(|range| semver::satisfies(version, range, ENGINE))
        }
        _ => true,
    };
    (force || fits("node", &tool.node_version)) && fits("npm", &tool.npm_version)
}

/// `optionalSet`: what must go with an optional package that can't be installed.
fn optional_set(nodes: &[Node<'_>], id: Id, inert: &mut [bool]) {
    let mut set = vec![id];
    let mut within = HashMap::from([(id, true)]);
    let mut at = 0;
    while let Some(&node) = set.get(at) {
        at += 1;
        for &(from, edge) in &nodes[node].edges_in {
            if !nodes[from].edges[edge as usize].optional() && within.insert(from, true).is_none() {
                set.push(from);
            }
        }
    }
    let core = set.len();
    at = 0;
    while let Some(&node) = set.get(at) {
        at += 1;
        if inert[node] {
            continue;
        }
        for edge in &nodes[node].edges {
            if let Some(to) = edge.to
                && within.insert(to, true).is_none()
            {
                set.push(to);
            }
        }
    }
    // Take out what something outside of the set needs, and then what only stayed for that.
    let mut doubtful: Vec<Id> = set[core..].to_vec();
    while let Some(node) = doubtful.pop() {
        if within.get(&node) != Some(&true) {
            continue;
        }
        let needed = nodes[node]
            .edges_in
            .iter()
            .any(|(from, _)| within.get(from) != Some(&true) && !inert[*from]);
        if needed {
            within.insert(node, false);
            let kept = nodes[node]
                .edges
                .iter()
                .filter_map(|edge| edge.to)
                .filter(|to| !set[..core].contains(to));
            doubtful.extend(kept);
        }
    }
    for node in set {
        if within[&node] {
            inert[node] = true;
        }
    }
}

/// `shouldOmit`
fn omitted(nodes: &[Node<'_>], id: Id, settings: &Settings) -> bool {
    let omit = settings.omit;
    if !omit.any() {
        return false;
    }
    let mut top = id;
    while let Some(parent) = nodes[top].parent {
        top = parent;
    }
    let flags = nodes[id].flags;
    (top == ROOT || nodes[top].workspace)
        && (flags.peer && omit.peer
            || flags.dev && omit.dev
            || flags.optional && omit.optional
            || flags.dev_optional && omit.optional && omit.dev)
}

fn omit(nodes: &mut [Node<'_>], settings: &Settings) -> Result<(), Why> {
    for id in 0..nodes.len() {
        if nodes[id].parent.is_some() && omitted(nodes, id, settings) {
            if matches!(nodes[id].kind, Kind::Link(_)) {
                return Err(format!("the link {} is to be left out", nodes[id].location).into());
            }
            nodes[id].absent = true;
        }
    }
    Ok(())
}

/// What lies in a package that is left out is left out too.
fn drop_below_absent(nodes: &mut [Node<'_>]) {
    let mut order: Vec<Id> = (0..nodes.len()).collect();
    order.sort_by_key(|id| nodes[*id].depth);
    for id in order {
        if nodes[id].parent.is_some_and(|parent| nodes[parent].absent) {
            nodes[id].absent = true;
        }
    }
}

impl Graph<'_> {
    /// Returns whether everything that needs this node asks the registry for it (`isRegistryDependency`).
    pub(crate) fn of_registry(&self, id: Id) -> bool {
        let edges = &self.nodes[id].edges_in;
        !edges.is_empty()
            && edges.iter().filter(|(from, _)| !(self.nodes[*from].flags.extraneous)).all(
                |(from, edge)| spec::of_registry(&self.nodes[*from].edges[*edge as usize].spec),
            )
    }
}
