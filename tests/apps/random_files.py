"""Does random things to the files of a directory and prints what came of each.

usage: random_files.py DIRECTORY SEED COUNT

The same seed does the same things, so two directories that hold the same tree must give the same lines: results,
error numbers, and at the end every name with what stat(2) says and a hash of its bytes. Inode numbers and times of the
run itself differ between any two directories and are only compared with each other.
"""
import ctypes
import errno
import hashlib
import mmap
import os
import random
import stat
import sys

root, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)
os.chdir(root)
os.umask(0o022)
libc = ctypes.CDLL(None, use_errno=True)
NAMES = ["a", "b", "c", "new", "x.js", "lib", "d e", "ä", "z" * 200]
held = []


def everything(folder="."):
    """What may be listed, and of that what may be looked at."""
    found = []
    try:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
            found.append(path)
            if is_directory:
                found += everything(path)
    except PermissionError:
        pass
    return found


known = everything()


def some(directories=False):
    """A path that was there once, or a name that may be new."""
    path = dice.choice(known) if known else "."
    if directories:
        return os.path.dirname(path) or "."
    if dice.random() < 0.5:
        return path
    path = os.path.join(os.path.dirname(path) if dice.random() < 0.8 else path, dice.choice(NAMES))
    known.append(path)
    return path


def look(path):
    s = os.lstat(path)
    size = s.st_size if not stat.S_ISDIR(s.st_mode) else "-"
    return f"{stat.S_IFMT(s.st_mode):o} {stat.S_IMODE(s.st_mode):o} {s.st_nlink} {size} {s.st_uid} {s.st_gid}"


def content(path):
    with open(path, "rb") as file:
        return hashlib.sha1(file.read()).hexdigest()[:12]


def write():
    path, text = some(), bytes(dice.randrange(256) for _ in range(dice.choice([0, 1, 100, 5000])))
    flags = dice.choice([os.O_TRUNC, os.O_APPEND, os.O_EXCL, 0])
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, dice.choice([0o644, 0o755, 0o600, 0o444]))
    try:
        os.lseek(fd, dice.choice([0, 0, 10, 10_000]), os.SEEK_SET)
        written = os.write(fd, text)
        if dice.random() < 0.2:
            os.fsync(fd)
        same = os.fstat(fd).st_ino == os.lstat(path).st_ino or stat.S_ISLNK(os.lstat(path).st_mode)
        return written, same, os.fstat(fd).st_size
    finally:
        os.close(fd)


def mapped():
    fd = os.open(some(), os.O_RDWR)
    try:
        length = os.fstat(fd).st_size
        if not length:
            return "empty"
        with mmap.mmap(fd, length) as view:
            at = dice.randrange(length)
            before = view[at]
            view[at] = dice.randrange(256)
            view.flush()
        return before, os.pread(fd, 1, at)
    finally:
        os.close(fd)


def rename():
    source, target = some(), some()
    before = os.lstat(source).st_ino
    there = os.lstat(target).st_ino if os.path.lexists(target) else None
    os.rename(source, target)
    return before == os.lstat(target).st_ino, before == there


def rename_with(flags):
    source, target = os.fsencode(some()), os.fsencode(some())
    if libc.renameat2(-100, source, -100, target, flags):
        raise OSError(ctypes.get_errno(), "")
    return look(target)


def link():
    source, target = some(), some()
    os.link(source, target, follow_symlinks=False)
    return look(source), os.lstat(source).st_ino == os.lstat(target).st_ino


def hold():
    """Opens a file, takes its name away, and looks at it through the descriptor later."""
    path = some()
    fd = os.open(path, dice.choice([os.O_RDONLY, os.O_RDWR]))
    held.append(fd)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.unlink(path)
    return os.fstat(fd).st_nlink


def use_held():
    if not held:
        return None
    fd = held.pop(dice.randrange(len(held)))
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return sorted(os.listdir(fd))
        digest = hashlib.sha1(os.pread(fd, 1 << 20, 0)).hexdigest()[:12]
        try:
            os.pwrite(fd, b"written", 3)
            os.ftruncate(fd, 20)
        except OSError as error:
            return digest, errno.errorcode[error.errno]
        return digest, os.pread(fd, 100, 0), os.fstat(fd).st_nlink, os.fstat(fd).st_size
    finally:
        os.close(fd)


def chmod():
    path = some()
    is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    # Who is not root is kept out by some of these; too many closed folders would keep it from doing anything else.
    modes = [0o755, 0o755, 0o755, 0o700, 0o555] if is_directory else [0o644, 0o755, 0o600, 0o444, 0o200, 0]
    os.chmod(path, dice.choice(modes))


def shut():
    """Works in a folder through a descriptor while the path to it is closed, and looks what became of it then."""
    path = some(directories=True)
    name = dice.choice(NAMES)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    closed = os.open(dice.choice([path, os.path.dirname(path) or "."]), os.O_RDONLY | os.O_DIRECTORY)
    mode = stat.S_IMODE(os.fstat(closed).st_mode)
    results = []
    try:
        os.fchmod(closed, dice.choice([0, 0o100, 0o400, 0o500]))
        for work in dice.sample(range(8), 4):
            try:
                results.append(shut_work(work, fd, name))
            except OSError as error:
                results.append(errno.errorcode[error.errno])
    finally:
        os.fchmod(closed, mode)
        os.close(closed)
        os.close(fd)
    return results, look(path)


def shut_work(number, fd, name):
    if number == 0:
        return sorted(os.listdir(fd))
    if number == 1:
        return stat.S_IFMT(os.lstat(name, dir_fd=fd).st_mode)
    if number == 2:
        return os.unlink(name, dir_fd=fd)
    if number == 3:
        return os.mkdir(name, dir_fd=fd)
    if number == 4:
        return os.rename(name, "renamed", src_dir_fd=fd, dst_dir_fd=fd)
    if number == 5:
        return os.link(name, "linked", src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    if number == 6:
        return os.symlink(name, "pointer", dir_fd=fd)
    file = os.open(name, os.O_RDWR | os.O_CREAT, 0o400, dir_fd=fd)
    try:
        before = os.read(file, 100)
        return hashlib.sha1(before).hexdigest()[:12], os.write(file, b"shut"), os.fstat(file).st_size
    finally:
        os.close(file)


def times():
    path = some()
    os.utime(path, ns=(10**18, dice.randrange(-(10**18), 2 * 10**18)), follow_symlinks=False)
    return os.lstat(path).st_mtime_ns


def attributes():
    path = some()
    name = dice.choice(["user.one", "user.two"])
    action = dice.randrange(3)
    if action == 0:
        os.setxattr(path, name, b"value" * dice.randrange(10), follow_symlinks=False)
    elif action == 1:
        os.removexattr(path, name, follow_symlinks=False)
    names = sorted(one for one in os.listxattr(path, follow_symlinks=False) if one.startswith("user."))
    return [(one, os.getxattr(path, one, follow_symlinks=False)) for one in names]


def listing():
    path = some(directories=dice.random() < 0.8)
    with os.scandir(path) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)


def untouched_times():
    """Times of what was never changed are those of the tree."""
    path = some()
    s = os.lstat(path)
    return s.st_mtime_ns if s.st_mtime_ns < 1_500_000_000 * 10**9 else "recent"


ACTIONS = [
    (12, "write", write),
    (4, "mapped", mapped),
    (8, "rename", rename),
    (2, "noreplace", lambda: rename_with(1)),
    (2, "exchange", lambda: rename_with(2)),
    (4, "link", link),
    (4, "symlink", lambda: os.symlink(dice.choice(["a", "./b", "no/where"]), some())),
    (2, "readlink", lambda: os.readlink(some())),
    (8, "unlink", lambda: os.unlink(some())),
    (5, "mkdir", lambda: os.mkdir(some(), dice.choice([0o755, 0o700]))),
    (5, "rmdir", lambda: os.rmdir(some())),
    (10, "look", lambda: look(some())),
    (8, "read", lambda: content(some())),
    (6, "list", listing),
    (4, "chmod", chmod),
    (4, "shut", shut),
    (4, "truncate", lambda: os.truncate(some(), dice.choice([0, 5, 4096, 10_001]))),
    (3, "times", times),
    (3, "attributes", attributes),
    (3, "hold", hold),
    (4, "held", use_held),
    (4, "mtime", untouched_times),
]
WEIGHTS = [weight for weight, _, _ in ACTIONS]

for number in range(count):
    _, name, action = dice.choices(ACTIONS, WEIGHTS)[0]
    try:
        result = action()
    except OSError as error:
        result = errno.errorcode.get(error.errno, error.errno)
    print(number, name, result)

while held:
    print("held", use_held())
for path in everything():
    s = os.lstat(path)
    if s.st_uid == os.geteuid() and stat.S_ISREG(s.st_mode):
        os.chmod(path, 0o600 | stat.S_IMODE(s.st_mode))
    detail = os.readlink(path) if stat.S_ISLNK(s.st_mode) else content(path) if stat.S_ISREG(s.st_mode) else ""
    print(os.fsencode(path), look(path), detail, s.st_mtime_ns if s.st_mtime_ns < 1_500_000_000 * 10**9 else "")
