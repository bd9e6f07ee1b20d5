"""Two views of one projection, in two processes that take turns: what one changes the other finds.

usage: two_views.py ROLE DIRECTORY TURNS     ROLE is a or b; TURNS is a folder that both see
"""

import os
import sys
import time

role, root, turns = sys.argv[1:]
os.chdir(root)


def turn(name):
    open(os.path.join(turns, name), "x").close()


def wait(name):
    deadline = time.monotonic() + 60
    while not os.path.exists(os.path.join(turns, name)):
        if time.monotonic() > deadline:
            sys.exit(f"{role}: nobody did {name}")
        time.sleep(0.001)


def text(path):
    with open(path) as file:
        return file.read()


def write(path, what, mode="w"):
    with open(path, mode) as file:
        file.write(what)


def expect(found, wanted, what):
    if found != wanted:
        sys.exit(f"{role}: {what}: {found!r}, not {wanted!r}")


def missing(path):
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    return False


if role == "a":
    before = {path: os.lstat(path).st_ino for path in ("a", "lib", "lib/x.js", "lib/deep/er/numbers")}
    wait("b is ready")
    write("new", "one")
    write("a", "changed")
    os.rename("lib/x.js", "lib/y.js")
    os.rename("lib/deep", "moved")
    expect(os.lstat("lib/y.js").st_ino, before["lib/x.js"], "a renamed file's number")
    turn("a changed")
    wait("b looked")
    expect(text("lib/deeper/file"), "of b", "what b made where a directory was moved away")
    expect(missing("new"), True, "what b removed")
    expect(os.lstat("lib/z.js").st_ino, before["lib/x.js"], "a file that was renamed twice")
    held = open("held")
    turn("a holds")
    wait("b removed")
    expect(held.read(), "kept\n", "a file that b removed")
    expect(os.fstat(held.fileno()).st_nlink, 0, "its links")
    expect(text("held"), "another\n", "what has its name")
    write("log", "a\n", "a")
    turn("a wrote")
    wait("b wrote")
    expect(text("log"), "a\nb\n", "a file that both append to")
    expect(sorted(os.listdir("d e")), ["b", "of b"], "a listing")
    turn("a is done")
else:
    ino = {path: os.lstat(path).st_ino for path in ("a", "lib/x.js", "lib/deep/er/numbers")}
    early = open("lib/deep/er/numbers")
    os.listdir("lib")
    turn("b is ready")
    wait("a changed")
    expect(text("new"), "one", "a new file")
    expect(text("a"), "changed", "a changed file")
    expect(os.lstat("a").st_ino, ino["a"], "its number")
    expect(missing("lib/x.js"), True, "the old name")
    expect(os.lstat("lib/y.js").st_ino, ino["lib/x.js"], "a renamed file's number")
    expect(text("lib/y.js"), "lib", "a renamed file")
    expect(sorted(os.listdir("lib")), ["y.js"], "a listing")
    expect(os.lstat("moved/er/numbers").st_ino, ino["lib/deep/er/numbers"], "a number in a moved directory")
    expect(early.read(5), "0\n1\n2", "what was open before it was moved")
    expect(os.fstat(early.fileno()).st_ino, ino["lib/deep/er/numbers"], "its number")
    os.mkdir("lib/deeper")
    write("lib/deeper/file", "of b")
    os.unlink("new")
    os.rename("lib/y.js", "lib/z.js")
    write("held", "kept\n")
    turn("b looked")
    wait("a holds")
    os.unlink("held")
    write("held", "another\n")
    turn("b removed")
    wait("a wrote")
    write("log", "b\n", "a")
    write("d e/of b", "")
    turn("b wrote")
    wait("a is done")
print("as expected")
