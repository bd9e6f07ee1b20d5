//! `rift status`: where trees were shown.

use std::io::Write as _;
use std::process::ExitCode;

use rift_cas::projection::Projection;
use serde_json::json;

use crate::context::Context;
use crate::mount::{self, Condition};
use crate::ui::{self, Out};

/// Show where trees were written, and whether they are still there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A directory is current while it is the very one that was made; whether its
files were changed since then is found by the next run. A mounted one whose
server is dead, or that was unmounted, comes back with the next run.

Examples:
  rift status
  rift status --json | jq '.projections[].directory'")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn state(projection: &Projection) -> &'static str {
    if projection.shown_as.has_state() && projection.is_in_place() {
        return match mount::condition(projection) {
            Condition::Virtual => "virtual",
            Condition::Served => "mounted",
            Condition::Dead => "dead",
            Condition::Unmounted => "unmounted",
        };
    }
    match (projection.is_in_place(), projection.directory.symlink_metadata().is_ok()) {
        (true, _) => "current",
        (false, true) => "replaced",
        (false, false) => "gone",
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let path = context.store_path()?;
    let store = rift_cas::Store::open_existing(path)?;
    if let Some(store) = &store {
        mount::follow(store)?;
    }
    let projections = store.as_ref().map(rift_cas::Store::projections).transpose()?;
    let projections = projections.unwrap_or_default();
    let mut out = Out::new();
    if args.json {
        let list: Vec<_> = projections
            .iter()
            .map(|projection| {
                json!({
                    "directory": projection.directory.to_string_lossy(),
                    "tree": projection.tree.to_string(),
                    "state": state(projection),
                    "hard_links": projection.has_links,
                    "as": projection.shown_as.word(),
                })
            })
            .collect();
        let answer = json!({
            "schema": 1,
            "store": path.to_string_lossy(),
            "store_exists": store.is_some(),
            "projections": list,
        });
        writeln!(out, "{answer:#}")?;
    } else {
        for projection in &projections {
            let tree = projection.tree.to_string();
            let directory = ui::printable(&projection.directory.display().to_string());
            writeln!(out, "{:<9} {} {directory}", state(projection), &tree[..12])?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
