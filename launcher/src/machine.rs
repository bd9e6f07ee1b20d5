//! What the machine is like: its mounts, and whether it is busy building a container image.
//!
//! Read from proc(5) below a root that tests replace. Nothing here is needed to be right, only to be
//! careful: what can't be read says that nothing is known.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device of its file system, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub place: PathBuf,
    /// The type of its file system.
    pub kind: String,
    /// What is mounted, as the file system says.
    pub source: PathBuf,
    /// What part of the file system is mounted.
    pub part: PathBuf,
}

/// Reads the mounts, in the order in which they were made.
#[must_use]
pub fn mounts(root: &Path) -> Vec<Mount> {
    let bytes = std::fs::read(root.join("proc/self/mountinfo")).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(words.by_ref().nth(2)?).into_owned();
    let part = path(words.next()?);
    let place = path(words.next()?);
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    Some(Mount { device, place, kind, source: path(words.next()?), part })
}

/// Undoes the kernel's octal escapes.
fn path(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let digits = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let escaped =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Returns the mount that `path`, which is absolute and without symbolic links, is on.
#[must_use]
pub fn mount_of<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    let on = mounts.iter().enumerate().filter(|(_, mount)| path.starts_with(&mount.place));
    // Of several at one place, the last one made covers the others.
    on.max_by_key(|(at, mount)| (mount.place.components().count(), *at)).map(|(_, mount)| mount)
}

/// Tells whether a directory, or what is below it, may have another name as well, as by a bind mount; so it may where
/// nothing is known of the mounts.
#[must_use]
pub fn has_other_names(mounts: &[Mount], directory: &Path) -> bool {
    let own = mount_of(mounts, directory);
    let Some((own, rest)) =
        own.and_then(|own| Some((own, directory.strip_prefix(&own.place).ok()?)))
    else {
        return true;
    };
    let within = own.part.join(rest);
    let shows_it = |other: &Mount| {
        other.device == own.device
            && (within.starts_with(&other.part) || other.part.starts_with(&within))
    };
    mounts.iter().filter(|other| shows_it(other)).count() != 1
}

/// Tells what builds an image around this process; `None` when nothing seems to.
#[must_use]
pub fn image_build(root: &Path) -> Option<&'static str> {
    let mounts = mounts(root);
    let comes_from = |word: &str| {
        mounts.iter().any(|mount| {
            [&mount.part, &mount.source].iter().any(|path| path.to_string_lossy().contains(word))
        })
    };
    // BuildKit mounts its own resolv.conf and hosts over those of the image.
    if comes_from("/buildkit/") || hostname(root) == "buildkitsandbox" {
        return Some("docker build");
    }
    if comes_from("/buildah") {
        return Some("buildah");
    }
    if root.join("kaniko/executor").exists() {
        return Some("kaniko");
    }
    // The classic builder runs `sh -c` as the first process, without a terminal. `docker run` of a
    // single command line looks the same, and what it leaves behind is lost as well.
    let is_layer = mount_of(&mounts, Path::new("/")).is_some_and(|mount| mount.kind == "overlay");
    let first = std::fs::read(root.join("proc/1/cmdline")).unwrap_or_default();
    let is_shell = first.starts_with(b"/bin/sh\0-c\0");
    let input = std::fs::read_link(root.join("proc/1/fd/0"));
    let has_no_input = input.is_ok_and(|path| path == Path::new("/dev/null"));
    if root.join(".dockerenv").exists() && is_layer && is_shell && has_no_input {
        return Some("docker build");
    }
    None
}

/// Tells which kind of container this process is in; `None` when it seems to be in none.
#[must_use]
pub fn container(root: &Path) -> Option<&'static str> {
    let signs = [
        (".dockerenv", "a Docker container"),
        ("run/.containerenv", "a Podman container"),
        ("var/run/secrets/kubernetes.io", "a pod of Kubernetes"),
    ];
    if let Some((_, kind)) = signs.into_iter().find(|(path, _)| root.join(path).exists()) {
        return Some(kind);
    }
    // As systemd-nspawn(1), lxc(7) and podman-run(1) set it.
    let variables = std::fs::read(root.join("proc/1/environ")).unwrap_or_default();
    let mut variables = variables.split(|byte| *byte == 0);
    variables.any(|word| word.starts_with(b"container=")).then_some("a container")
}

/// Tells whether AppArmor keeps programs without a profile from rights in user namespaces of their own.
#[must_use]
pub fn restricts_namespaces(root: &Path) -> bool {
    let path = root.join("proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// Returns how much memory there is for this process: the machine's, or its control group's where that is less; see
/// proc_meminfo(5) and cgroups(7).
#[must_use]
pub fn memory_bytes(root: &Path) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
    let machine = read(Path::new("proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read(Path::new("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        let (controllers, group) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // In a container the group's own folder is the top one, whatever it is called outside.
        let folders = Path::new(group.trim_start_matches('/')).ancestors();
        folders.map(|folder| Path::new(top).join(folder).join(file)).collect()
    });
    let limits = limits.filter_map(|path| read(&path)?.trim().parse::<u64>().ok());
    machine.into_iter().chain(limits).min()
}

fn hostname(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("proc/sys/kernel/hostname")).unwrap_or_default();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => std::fs::write(path, text).unwrap(),
            }
        }
        root
    }

    const OVERLAY: &str =
        "590 470 0:51 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/x\n";
    const PLAIN: &str = "27 1 253:0 / / rw,relatime - ext4 /dev/vda rw\n";

    #[test]
    fn mounts_are_found_by_the_longest_place_and_the_last_made() {
        let text = "27 1 253:0 / / rw - ext4 /dev/vda rw\n\
                    28 27 0:30 /part /mnt/with\\040space rw shared:1 - tmpfs none rw\n\
                    29 27 0:31 / /mnt/with\\040space rw - xfs /dev/vdb rw\n\
                    broken\n";
        let root = machine(&[("proc/self/mountinfo", text)]);
        let mounts = mounts(root.path());
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].part, Path::new("/part"));
        let kind = |path: &str| mount_of(&mounts, Path::new(path)).map(|mount| mount.kind.as_str());
        assert_eq!(kind("/mnt/with space/project"), Some("xfs"));
        assert_eq!(kind("/mnt/with"), Some("ext4"));
        assert_eq!(mount_of(&[], Path::new("/")), None);
    }

    #[test]
    fn a_directory_has_other_names_where_its_part_is_mounted_again() {
        let root = "27 1 253:0 / / rw - ext4 /dev/vda rw\n";
        let has = |more: &str, directory: &str| {
            let root = machine(&[("proc/self/mountinfo", &format!("{root}{more}"))]);
            has_other_names(&mounts(root.path()), Path::new(directory))
        };
        let tree = "/home/me/tree";
        assert!(!has("", tree));
        assert!(has("28 27 253:0 /home /mnt rw - ext4 /dev/vda rw\n", tree), "above it");
        assert!(
            has("28 27 253:0 /home/me/tree/lib /mnt rw - ext4 /dev/vda rw\n", tree),
            "below it"
        );
        assert!(!has("28 27 253:0 /home/you /mnt rw - ext4 /dev/vda rw\n", tree), "beside it");
        assert!(!has("28 27 0:44 / /mnt rw - tmpfs none rw\n", tree), "another file system");
        // A container has its workspace, and single files of the same file system.
        let container = "28 27 253:1 /work /home/me rw - ext4 /dev/vdb rw\n\
                         29 27 253:1 /docker/hosts /etc/hosts rw - ext4 /dev/vdb rw\n";
        assert!(!has(container, tree));
        assert!(has_other_names(&[], Path::new(tree)), "nothing is known");
    }

    #[test]
    fn memory_is_the_machines_or_the_groups() {
        let memory = |files: &[(&str, &str)]| memory_bytes(machine(files).path());
        let total = ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\n");
        assert_eq!(memory(&[]), None);
        assert_eq!(memory(&[total]), Some(1_024_000));
        let new = ("proc/self/cgroup", "0::/user/job\n");
        let none = ("sys/fs/cgroup/user/job/memory.max", "max\n");
        let above = ("sys/fs/cgroup/user/memory.max", "500000\n");
        assert_eq!(memory(&[total, new, none]), Some(1_024_000));
        assert_eq!(memory(&[total, new, none, above]), Some(500_000));
        let inside = ("sys/fs/cgroup/memory.max", "400000\n");
        assert_eq!(memory(&[total, new, inside]), Some(400_000));
        let old = ("proc/self/cgroup", "5:cpu,memory:/job\n0::/\n");
        let limit = ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "300000\n");
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(&[total, old, limit, unlimited]), Some(300_000));
        assert_eq!(memory(&[total, old, unlimited]), Some(1_024_000));
    }

    #[test]
    fn containers_and_restrictions_are_noticed() {
        let found = |files: &[(&str, &str)]| container(machine(files).path());
        assert_eq!(found(&[(".dockerenv", "")]), Some("a Docker container"));
        assert_eq!(found(&[("run/.containerenv", "")]), Some("a Podman container"));
        let pod = ("var/run/secrets/kubernetes.io/serviceaccount/token", "");
        assert_eq!(found(&[pod]), Some("a pod of Kubernetes"));
        let environ = ("proc/1/environ", "PATH=/bin\0container=lxc\0");
        assert_eq!(found(&[environ]), Some("a container"));
        assert_eq!(found(&[("proc/1/environ", "PATH=/bin\0")]), None);
        let switch = "proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        let restricts = |text: &str| restricts_namespaces(machine(&[(switch, text)]).path());
        assert!(restricts("1\n") && !restricts("0\n"));
        assert!(!restricts_namespaces(machine(&[]).path()));
    }

    #[test]
    fn image_builds_are_told_from_containers_and_machines() {
        let buildkit = format!(
            "{OVERLAY}600 590 253:1 /var/lib/docker/buildkit/executor/resolv.conf /etc/resolv.conf ro - ext4 /dev/vda rw\n"
        );
        let shell = ("proc/1/cmdline", "/bin/sh\0-c\0npm ci\0");
        type Case<'c> = (&'c str, Vec<(&'c str, &'c str)>, Option<&'c str>);
        let table: [Case<'_>; 8] = [
            (
                "BuildKit by its mounts",
                vec![("proc/self/mountinfo", &buildkit)],
                Some("docker build"),
            ),
            (
                "BuildKit by its host name",
                vec![("proc/sys/kernel/hostname", "buildkitsandbox\n")],
                Some("docker build"),
            ),
            ("kaniko", vec![("kaniko/executor", "")], Some("kaniko")),
            (
                "the classic builder",
                vec![
                    (".dockerenv", ""),
                    ("proc/self/mountinfo", OVERLAY),
                    shell,
                    ("proc/1/fd/0", "-> /dev/null"),
                ],
                Some("docker build"),
            ),
            (
                "a container with a terminal",
                vec![
                    (".dockerenv", ""),
                    ("proc/self/mountinfo", OVERLAY),
                    shell,
                    ("proc/1/fd/0", "-> /dev/pts/0"),
                ],
                None,
            ),
            (
                "a service's container",
                vec![
                    (".dockerenv", ""),
                    ("proc/self/mountinfo", OVERLAY),
                    ("proc/1/cmdline", "node\0server.js\0"),
                    ("proc/1/fd/0", "-> /dev/null"),
                ],
                None,
            ),
            (
                "a virtual machine made of an image",
                vec![
                    (".dockerenv", ""),
                    ("proc/self/mountinfo", PLAIN),
                    shell,
                    ("proc/1/fd/0", "-> /dev/null"),
                ],
                None,
            ),
            ("nothing known", vec![], None),
        ];
        for (name, files, expected) in table {
            assert_eq!(image_build(machine(&files).path()), expected, "{name}");
        }
    }
}
