"""Changes files of a view, and notes what a loss of power may leave of each; then looks at what it left.

usage: before_power_loss.py change VIEW NOTES SEED COUNT
       before_power_loss.py check VIEW NOTES

Each file is changed once, so what is allowed of it follows from that change: what was synced is there, and the rest is
old or new. Where the native file system promises less of bytes in flight, less is asked.
"""
import json
import os
import random
import sys

mode, view, notes = sys.argv[1:4]


def read(path):
    with open(path, encoding="latin-1", newline="") as file:
        return file.read()


def files(root):
    found = []
    for folder, _, names in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


def sync(path):
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def put(path, flags, text):
    file = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(file, text.encode("latin-1"))
    return file


def change(seed, count):
    dice = random.Random(seed)
    os.chdir(view)
    text = {path: read(path) for path in files(".")}
    allowed = {path: [["is", text[path]]] for path in text}
    pairs = []
    fresh = list(text)
    dice.shuffle(fresh)
    for number in range(min(count, len(fresh))):
        path = fresh[number]
        folder = os.path.dirname(path) or "."
        old, new = text[path], dice.choice("nop") * dice.randrange(1, 30000)
        beside = os.path.join(folder, f"made-{number}")
        missing, is_old, is_new = ["missing"], ["is", old], ["is", new]
        is_synced = dice.random() < 0.4
        what = dice.choice(["chmod", "append", "overwrite", "unlink", "rename", "replace", "create", "mkdir", "drop"])
        if what == "chmod":
            os.chmod(path, 0o700)
        elif what == "append":
            file = put(path, os.O_APPEND, new)
            allowed[path] = [["begins", old]]
            if is_synced:
                os.fsync(file)
                allowed[path] = [["is", old + new]]
            os.close(file)
        elif what == "overwrite":
            file = put(path, os.O_TRUNC, new)
            allowed[path] = [["begins", ""]]
            if is_synced:
                os.fsync(file)
                allowed[path] = [is_new]
            os.close(file)
        elif what == "unlink":
            os.unlink(path)
            allowed[path] = [missing, is_old]
            if is_synced:
                sync(folder)
                allowed[path] = [missing]
        elif what == "rename":
            os.rename(path, beside)
            allowed[path], allowed[beside] = [missing, is_old], [missing, is_old]
            pairs.append([path, beside])
            if is_synced:
                sync(folder)
                allowed[path], allowed[beside] = [missing], [is_old]
        elif what == "replace":
            file = put(beside, os.O_CREAT | os.O_EXCL, new)
            if is_synced:
                os.fsync(file)
            os.close(file)
            os.rename(beside, path)
            # ext4 gives a file its bytes before it replaces another one's name, see auto_da_alloc in ext4(5).
            allowed[path], allowed[beside] = [is_old, is_new], [missing, ["begins", ""]]
            if is_synced:
                sync(folder)
                allowed[path], allowed[beside] = [is_new], [missing]
        elif what == "create":
            file = put(beside, os.O_CREAT | os.O_EXCL, new)
            allowed[beside] = [missing, ["begins", ""]]
            if is_synced:
                os.fsync(file)
                sync(folder)
                allowed[beside] = [is_new]
            os.close(file)
        elif what == "mkdir":
            os.mkdir(beside)
            os.chmod(folder, 0o700)
        elif what == "drop":
            # What the tree has is shown where the file went before its directory was synced, see docs/semantics.md.
            file = put(path, os.O_APPEND, new)
            os.fsync(file)
            os.close(file)
            os.unlink(path)
            allowed[path] = [missing, is_old, ["is", old + new]]
            if is_synced:
                sync(folder)
                allowed[path] = [missing]
        if dice.random() < 0.1 and os.path.exists(fresh[-1]):
            sync(fresh[-1])
    with open(notes, "w", encoding="utf-8") as file:
        json.dump([allowed, pairs], file)


def is_as(rule, text):
    match rule:
        case ["missing"]:
            return text is None
        case ["is", expected]:
            return text == expected
        case ["begins", expected]:
            return text is not None and text.startswith(expected)


def brief(value):
    return repr(value if value is None or len(value) < 60 else f"{value[:20]}... of {len(value)}")


def check():
    with open(notes, encoding="utf-8") as file:
        allowed, pairs = json.load(file)
    found = {path: read(os.path.join(view, path)) for path in files(view)}
    wrong = [f"{path} is nobody's" for path in found if path not in allowed]
    for path, rules in allowed.items():
        if not any(is_as(rule, found.get(path)) for rule in rules):
            wrong.append(f"{path} is {brief(found.get(path))}, not {[[brief(w) for w in rule] for rule in rules]}")
    wrong += [f"neither {old} nor {new}" for old, new in pairs if old not in found and new not in found]
    print("\n".join(wrong))


if mode == "change":
    change(int(sys.argv[4]), int(sys.argv[5]))
else:
    check()
