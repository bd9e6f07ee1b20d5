"""Changes a view at random and, after each change that it was told is done, a mirror of real files.

usage: mirrored_changes.py VIEW MIRROR SEED COUNT
       mirrored_changes.py --last MIRROR CHANGE

Ends with 0 when COUNT changes are done, and with 4 when the view is lost: then it prints the change that was under way,
which the view may hold or not. `--last` makes that one in the mirror.
"""
import errno
import json
import os
import random
import sys

LOST = {errno.ENOTCONN, errno.ECONNABORTED}
NAMES = ["a", "b", "new", "x.js", "lib", "numbers", "d e", "er"]


def write(path, offset, text):
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, text.encode(), offset)
    finally:
        # What close(2) says of a view that is gone was said by the write.
        try:
            os.close(file)
        except OSError:
            pass


def create(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def sync(path):
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


CHANGES = {
    "write": write,
    "truncate": os.truncate,
    "create": create,
    "sync": sync,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "rename": os.rename,
    "link": lambda old, new: os.link(old, new, follow_symlinks=False),
    "symlink": os.symlink,
    "chmod": os.chmod,
}
PATHS = {"rename": 2, "link": 2}


def apply(root, change):
    """Makes a change below a directory; returns the error number, 0 for none."""
    word, *arguments = change
    arguments = list(arguments)
    if word == "symlink":
        arguments[1] = os.path.join(root, arguments[1])
    else:
        for at in range(PATHS.get(word, 1)):
            arguments[at] = os.path.join(root, arguments[at])
    try:
        CHANGES[word](*arguments)
    except OSError as error:
        return error.errno
    return 0


def everything(root):
    # Symbolic links are listed and not followed.
    found = []
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders + files]
    return sorted(found)


def is_plain(root, path):
    return not os.path.islink(os.path.join(root, path))


def choose(dice, mirror):
    known = everything(mirror) or ["a"]
    path = dice.choice(known)
    plain = [one for one in known if is_plain(mirror, one)] or ["a"]
    fresh = os.path.join(os.path.dirname(dice.choice(known)), dice.choice(NAMES) + dice.choice(["", "1", "2"]))
    # Within one page: of a longer write a part may be done when the view is lost, as of any that is interrupted.
    start = dice.randrange(4096)
    text = dice.choice("xyz") * dice.randrange(1, 4097 - start)
    return dice.choice([
        ["write", dice.choice(plain), dice.randrange(5) * 4096 + start, text],
        ["truncate", dice.choice(plain), dice.randrange(9000)],
        ["create", fresh],
        ["create", fresh],
        ["sync", dice.choice(plain)],
        ["mkdir", fresh],
        ["rmdir", path],
        ["unlink", path],
        ["rename", path, fresh],
        ["rename", path, dice.choice(known)],
        ["link", path, fresh],
        ["symlink", "../a", fresh],
        ["chmod", dice.choice(plain), dice.choice([0o755, 0o700])],
    ])


def main():
    if sys.argv[1] == "--last":
        apply(sys.argv[2], json.loads(sys.argv[3]))
        return 0
    view, mirror, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    dice = random.Random(seed)
    for _ in range(count):
        change = choose(dice, mirror)
        found = apply(view, change)
        if found in LOST:
            print(json.dumps(change))
            return 4
        expected = apply(mirror, change)
        if found != expected:
            print(f"{change}: {errno.errorcode.get(found)}, natively {errno.errorcode.get(expected)}")
            return 5
    return 0


sys.exit(main())
