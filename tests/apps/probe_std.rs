//! Asks everything of files that Rust's library offers, and prints what came of it.
//!
//! usage: `probe_std` DIR       where DIR holds the small tree of `shim_apis.rs`

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn say<T>(what: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => {
            println!("{what}: ok");
            Some(value)
        }
        Err(error) => {
            println!("{what}: {:?}", error.kind());
            None
        }
    }
}

fn list(path: &str) {
    let Some(entries) = say(path, fs::read_dir(path)) else { return };
    let mut lines: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let (kind, name) = (entry.file_type().unwrap(), entry.file_name());
            let size = entry.metadata().map_or(0, |meta| if meta.is_dir() { 0 } else { meta.len() });
            format!("  {name:?} {} {} {size}", kind.is_dir(), kind.is_symlink())
        })
        .collect();
    lines.sort();
    println!("{}", lines.join("\n"));
}

fn walk(path: &Path, depth: usize) -> usize {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let below = |path: &PathBuf| {
        let is_real = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        1 + if is_real { walk(path, depth + 1) } else { 0 }
    };
    paths.iter().map(below).sum()
}

fn main() -> Result<()> {
    let root = std::env::args().nth(1).unwrap();
    std::env::set_current_dir(&root)?;
    let root = std::env::current_dir()?;
    for path in ["text", "dir", "link", "link/one", "none", "text/x", "dir/../text", "programs/tool"] {
        let meta = say(path, fs::metadata(path));
        let itself = say(path, fs::symlink_metadata(path));
        if let (Some(meta), Some(itself)) = (meta, itself) {
            let mode = |meta: &fs::Metadata| meta.permissions().mode();
            println!("  {:o} {:o} {}", mode(&meta), mode(&itself), meta.is_file());
            println!("  {:?}", meta.modified().is_ok_and(|time| Some(time) == itself.modified().ok()));
        }
        say("exists", Path::new(path).try_exists().map(|exists| println!("  {exists}")));
        let real = say("canonicalize", fs::canonicalize(path));
        println!("  {:?}", real.map(|real| real.strip_prefix(&root).unwrap().to_owned()));
        say("read_link", fs::read_link(path)).map(|target| println!("  {target:?}"));
    }
    list("dir");
    list("link/deep");
    list("none");
    list("text");
    println!("{} entries", walk(Path::new("."), 0));
    say("read", fs::read_to_string("text")).map(|text| println!("{text}"));
    let mut file = OpenOptions::new().read(true).write(true).open("text")?;
    let before = file.metadata()?.ino();
    file.seek(SeekFrom::End(0))?;
    file.write_all(b"more\n")?;
    file.write_all_at(b"H", 0)?;
    file.sync_all()?;
    file.set_len(8)?;
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    println!("{text:?} {}", before == fs::metadata("text")?.ino());
    say("lock", file.try_lock().map_err(Into::into));
    say("again", File::open("text")?.try_lock().map_err(Into::into));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
    say("times", file.set_modified(time));
    println!("{}", fs::metadata("text")?.mtime());
    say("new", File::create_new("dir/new"));
    say("new again", File::create_new("dir/one"));
    say("no link", OpenOptions::new().read(true).custom_flags(0o400_000).open("link"));
    say("copy", fs::copy("dir/one", "dir/copy")).map(|bytes| println!("{bytes}"));
    say("copy of none", fs::copy("none", "dir/copy"));
    say("hard_link", fs::hard_link("dir/two", "hard"));
    println!("{} {}", fs::metadata("hard")?.nlink(), fs::metadata("hard")?.ino() == fs::metadata("dir/two")?.ino());
    say("symlink", symlink("dir/two", "soft"));
    say("rename", fs::rename("dir/deep", "deeper"));
    say("rename onto", fs::rename("deeper", "text"));
    say("create_dir", fs::create_dir("dir"));
    say("create_dir_all", fs::create_dir_all("many/of/these"));
    say("remove_dir", fs::remove_dir("many"));
    say("remove_file", fs::remove_file("many"));
    say("remove_file", fs::remove_file("many/3"));
    say("remove_dir_all", fs::remove_dir_all("many"));
    say("remove_dir_all", fs::remove_dir_all("link"));
    say("permissions", fs::set_permissions("dir/one", fs::Permissions::from_mode(0o400)));
    println!("{:o}", fs::metadata("dir/one")?.permissions().mode());
    let listener = UnixListener::bind("dir/socket")?;
    say("connect", UnixStream::connect("dir/socket"));
    drop(listener);
    fs::remove_file("dir/socket")?;
    let mut tool = Command::new("./programs/tool");
    let ran = tool.arg("x").env_clear().current_dir("dir").output();
    println!("{:?}", ran.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).map_err(|error| error.kind()));
    let ran = Command::new(root.join("programs/tool")).arg("y").current_dir("dir").output()?;
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    let ran = Command::new("cat").stdin(Stdio::from(File::open("dir/one")?)).output()?;
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    let threads: Vec<_> = (0..4)
        .map(|number| std::thread::spawn(move || fs::write(format!("deeper/{number}"), [number]).is_ok()))
        .collect();
    println!("{}", threads.into_iter().all(|thread| thread.join().unwrap()));
    list("deeper");
    Ok(())
}
