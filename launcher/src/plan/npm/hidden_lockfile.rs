//! `node_modules/.package-lock.json`, and what npm would write to the project's own lockfile.
//!
//! Invariant: byte for byte what arborist's `Shrinkwrap` writes for the same tree. [`super::layout`] calls.

use std::borrow::Cow;

use super::bin_links;
use super::graph::{Graph, Id, Kind, Node, ROOT};
use super::json::{self, Format, Json, Object};
use super::lockfile::Lock;
use super::why::Why;

/// Fields that npm copies from a manifest.
const FIELDS: &[&str] = &[
    "version",
    "dependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "optionalDependencies",
    "bundleDependencies",
    "acceptDependencies",
    "funding",
    "engines",
    "os",
    "cpu",
    "libc",
    "license",
    "hasInstallScript",
    "bin",
    "deprecated",
    "workspaces",
];

/// Returns the bytes of the hidden lockfile.
pub(crate) fn hidden(
    lock: &Lock<'_>,
    graph: &Graph<'_>,
    format: &Format,
    omit_resolved: bool,
) -> Result<Vec<u8>, Why> {
    let mut packages: Object<'_> = Vec::new();
    for (id, node) in graph.nodes.iter().enumerate() {
        if id != ROOT && !node.absent {
            packages.push((Cow::Borrowed(node.location), meta(graph, id, omit_resolved)?));
        }
    }
    Ok(file(lock, 3, packages, format))
}

/// Returns the bytes that `npm install` would write to a lockfile of version 3.
pub(crate) fn own(
    lock: &Lock<'_>,
    graph: &Graph<'_>,
    format: &Format,
    omit_resolved: bool,
) -> Result<Vec<u8>, Why> {
    let mut packages: Object<'_> = Vec::new();
    for (id, node) in graph.nodes.iter().enumerate() {
        // What only this machine leaves out stays in the project's lockfile.
        if !node.flags.extraneous {
            packages.push((Cow::Borrowed(node.location), meta(graph, id, omit_resolved)?));
        }
    }
    Ok(file(lock, lock.version, packages, format))
}

fn file<'a>(lock: &Lock<'a>, version: i64, packages: Object<'a>, format: &Format) -> Vec<u8> {
    let mut members = lock.rest.clone();
    members.push(("lockfileVersion".into(), Json::Integer(version)));
    members.push(("requires".into(), Json::Bool(true)));
    members.push(("packages".into(), Json::Object(packages)));
    json::write(&Json::Object(members), format).into_bytes()
}

/// `Shrinkwrap.metaFromNode`
fn meta<'j>(graph: &Graph<'j>, id: Id, omit_resolved: bool) -> Result<Json<'j>, Why> {
    let node = &graph.nodes[id];
    if let Kind::Link(target) = node.kind {
        return Ok(Json::Object(vec![
            ("resolved".into(), Json::Text(graph.nodes[target].location.into())),
            ("link".into(), Json::Bool(true)),
        ]));
    }
    let mut meta: Object<'j> = Vec::new();
    for field in FIELDS {
        if let Some(value) = value(node, field)? {
            meta.push(((*field).into(), value));
        }
    }
    let name = package_name(node);
    if !name.is_empty() && (id == ROOT || name != node.name) {
        meta.push(("name".into(), Json::Text(name.to_owned().into())));
    }
    if matches!(node.kind, Kind::Root | Kind::Top)
        && let Some(dev) = node.package.get("devDependencies")
        && dev.truthy()
    {
        meta.push(("devDependencies".into(), dev.clone()));
    }
    if node.kind == Kind::Package {
        for field in ["integrity", "inBundle"] {
            if let Some(value) = node.entry.get(field).filter(|value| value.truthy()) {
                meta.push((field.into(), value.clone()));
            }
        }
        if let Some(resolved) = node.entry.get("resolved").filter(|value| value.truthy())
            && !(omit_resolved && graph.of_registry(id))
        {
            meta.push(("resolved".into(), resolved.clone()));
        }
    } else if json::get(&meta, "hasInstallScript").is_none() && has_install_script(node.package) {
        meta.push(("hasInstallScript".into(), Json::Bool(true)));
    }
    let flags = node.flags;
    for (field, on) in [
        ("extraneous", flags.extraneous),
        ("peer", flags.peer && !flags.extraneous),
        ("dev", flags.dev && !flags.extraneous),
        ("optional", flags.optional && !flags.extraneous),
        ("devOptional", flags.dev_optional && !flags.dev && !flags.optional && !flags.extraneous),
    ] {
        if on {
            meta.push((field.into(), Json::Bool(true)));
        }
    }
    Ok(Json::Object(meta))
}

/// A package's own name, which differs from its folder's for aliases.
pub(crate) fn package_name<'n>(node: &'n Node<'_>) -> &'n str {
    match node.package.get("name").and_then(Json::as_str) {
        Some(name) if !name.is_empty() => name,
        _ => node.name,
    }
}

/// Returns whether a manifest's scripts run at an install.
pub(crate) fn has_install_script(package: &Json<'_>) -> bool {
    ["preinstall", "install", "postinstall"].iter().any(|name| {
        package.get("scripts").and_then(|scripts| scripts.get(name)).is_some_and(Json::truthy)
    })
}

/// One field as npm normalizes and copies it; nothing for an empty one.
fn value<'j>(node: &Node<'j>, field: &str) -> Result<Option<Json<'j>>, Why> {
    let given = node.package.get(field).or_else(|| match field {
        "bundleDependencies" => node.package.get("bundledDependencies"),
        _ => None,
    });
    let Some(given) = given else { return Ok(None) };
    let value = match (field, given) {
        ("license", Json::Object(_)) => {
            given.get("type").filter(|kind| kind.truthy()).unwrap_or(given).clone()
        }
        ("funding", Json::Text(url)) if !url.is_empty() => {
            Json::Object(vec![("url".into(), Json::Text(url.clone()))])
        }
        ("dependencies", Json::Object(list)) => {
            let optional = node.package.get("optionalDependencies");
            let kept = |name: &str| optional.is_none_or(|optional| optional.get(name).is_none());
            Json::Object(list.iter().filter(|(name, _)| kept(name)).cloned().collect())
        }
        ("bundleDependencies", Json::Object(list)) => {
            Json::List(list.iter().map(|(name, _)| Json::Text(name.clone())).collect())
        }
        ("bundleDependencies", Json::Bool(true)) => {
            let names =
                node.package.get("dependencies").and_then(Json::as_object).unwrap_or_default();
            Json::List(names.iter().map(|(name, _)| Json::Text(name.clone())).collect())
        }
        ("bin", _) => {
            let bins = bin_links::read(Some(given), package_name(node))?;
            Json::Object(
                bins.into_iter()
                    .map(|bin| (bin.name.into(), Json::Text(bin.file.into())))
                    .collect(),
            )
        }
        ("version", Json::Text(version)) => Json::Text(version.trim().to_owned().into()),
        _ => given.clone(),
    };
    let empty = match &value {
        Json::List(list) => list.is_empty(),
        Json::Object(list) => list.is_empty(),
        value => !value.truthy(),
    };
    Ok((!empty).then_some(value))
}
