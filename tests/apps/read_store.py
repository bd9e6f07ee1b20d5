#!/usr/bin/env python3
"""A stranger's reader of a Velo Rift store, written from docs/format.md alone.

    read_store.py STORE check           checks every file that is truth, and the sidecars
    read_store.py STORE refs            lists refs
    read_store.py STORE log             lists the last frame of every key
    read_store.py STORE list TREE       lists a tree, one JSON array a line
    read_store.py STORE cat TREE PATH   writes a file's bytes, found through the sidecar
    read_store.py STORE find TREE PATH  the same without any cache: from the packs' own indexes
    read_store.py STORE projections     lists what is shown where
    read_store.py hash FILE             prints a file's BLAKE3

Only the standard library is used. Names are printed as Latin-1, so that every byte survives.
"""

import json
import os
import re
import stat
import struct
import sys
import zlib

M64 = (1 << 64) - 1


class Wrong(Exception):
    """A file that is not what docs/format.md says."""


def need(holds, what):
    if not holds:
        raise Wrong(what)


# BLAKE3, from its specification: chunks of 1024 bytes, blocks of 64, a binary tree above.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIXES = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(chain, block, counter, length, flags):
    words = struct.unpack("<16I", block.ljust(64, b"\0"))
    v = list(chain + IV[:4]) + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    for number in range(7):
        for at, (a, b, c, d) in enumerate(MIXES):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = va + vb + words[2 * at] & 0xFFFFFFFF
            vd ^= va
            vd = vd >> 16 | vd << 16 & 0xFFFFFFFF
            vc = vc + vd & 0xFFFFFFFF
            vb ^= vc
            vb = vb >> 12 | vb << 20 & 0xFFFFFFFF
            va = va + vb + words[2 * at + 1] & 0xFFFFFFFF
            vd ^= va
            vd = vd >> 8 | vd << 24 & 0xFFFFFFFF
            vc = vc + vd & 0xFFFFFFFF
            vb ^= vc
            v[a], v[b], v[c], v[d] = va, vb >> 7 | vb << 25 & 0xFFFFFFFF, vc, vd
        if number < 6:
            words = [words[at] for at in PERMUTATION]
    return tuple(v[at] ^ v[at + 8] for at in range(8))


def node(data, chunk):
    """Returns what the last compression of `data` takes, but for the root flag."""
    if len(data) > 1024:
        left = 1 << (((len(data) - 1) // 1024).bit_length() - 1) + 10
        pair = [compress(*node(part, at)) for part, at in ((data[:left], chunk), (data[left:], chunk + left // 1024))]
        return IV, struct.pack("<16I", *pair[0], *pair[1]), 0, 64, PARENT
    chain, at = IV, 0
    while len(data) - at > 64:
        chain = compress(chain, data[at:at + 64], chunk, 64, CHUNK_START if at == 0 else 0)
        at += 64
    return chain, data[at:], chunk, len(data) - at, CHUNK_END | (CHUNK_START if at == 0 else 0)


def blake3(data):
    chain, block, counter, length, flags = node(data, 0)
    return struct.pack("<8I", *compress(chain, block, counter, length, flags | ROOT))


# Files larger than this are compared by name only: this BLAKE3 makes some 100 KB a second.
HASHED_MAX = 1 << 20


def read(path):
    with open(path, "rb") as file:
        return file.read()


def fold(a, b):
    wide = a * b
    return (wide ^ wide >> 64) & M64


def child_key(key, name):
    h, whole = 0x517CC1B727220A95, len(name) // 8 * 8
    for at in range(0, whole, 8):
        h = fold(h ^ int.from_bytes(name[at:at + 8], "little"), 0xA0761D6478BD642F)
    tail = int.from_bytes(name[whole:], "little")
    return fold(key ^ fold(h ^ tail, 0xE7037ED1A0B428DB ^ len(name)), 0xD6E8FEB86659FD93)


class Manifest:
    """Section 2."""

    def __init__(self, data, name):
        need(data[:8] == b"RIFTTREE" and len(data) >= 768, "magic of a manifest")
        fields = struct.unpack_from("<6I", data, 0)[2:]
        version, count, self.entries, self.blobs = fields
        need(version == 1 and count == 12, f"format version {version}, but this program reads version 1")
        self.file_bytes, flags, *counts = struct.unpack_from("<Q4I", data, 24)
        need(flags in (0, 1) and not any(data[48:64]), "flags and zeros of the header")
        need(blake3(data[:736]) == name, "tree hash")
        self.is_stamped, sections, end = flags == 1, [], 736
        for number in range(12):
            ident, zero, offset, length = struct.unpack_from("<2I2Q", data, 64 + 56 * number)
            need((ident, zero, offset) == (number + 1, 0, (end + 63) // 64 * 64), "section table")
            need(not any(data[end:offset]) and offset + length <= len(data), "place of a section")
            end = offset + length
            sections.append(data[offset:end])
            if length <= HASHED_MAX:
                need(blake3(data[offset:end]) == data[88 + 56 * number:120 + 56 * number], "hash of a section")
        need(end == len(data), "end of the manifest")
        words = lambda number, letter: [one for one, in struct.iter_unpack("<" + letter, sections[number - 1])]
        strings = lambda ends, run: [run[a:b] for a, b in zip([0] + ends, ends)]
        self.names = strings(words(1, "I"), sections[1])
        self.modes, self.spans, self.parents, self.payloads = words(3, "H"), words(4, "Q"), words(5, "I"), words(6, "I")
        self.mtimes = [None] * self.entries if self.is_stamped else words(7, "q")
        self.targets = strings(words(8, "I"), sections[8])
        self.index = words(11, "I")
        self.hashes = [sections[11][at:at + 32] for at in range(0, len(sections[11]), 32)]
        columns = (self.names, self.modes, self.spans, self.parents, self.payloads, self.mtimes)
        need(all(len(column) == self.entries for column in columns), "lengths of the columns")
        need(len(self.hashes) == self.blobs == len(set(self.hashes)), "blobs, each once")
        kinds = [stat.S_IFMT(mode) for mode in self.modes]
        need([kinds.count(one) for one in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)] == counts, "counts")
        self.xattrs = self.read_xattrs(sections[9])
        self.check_order()

    @staticmethod
    def read_xattrs(run):
        found, at = {}, 0
        while at < len(run):
            entry, length = struct.unpack_from("<2I", run, at)
            at, end, pairs = at + 8, at + 8 + length, []
            while at < end:
                name, value = struct.unpack_from("<BH", run, at)
                pairs.append((run[at + 3:at + 3 + name], run[at + 3 + name:at + 3 + name + value]))
                at += 3 + name + value
            need(at == end and pairs == sorted(pairs) and entry not in found, "xattrs")
            found[entry] = pairs
        return found

    def children(self, number):
        first, count = self.spans[number] & 0xFFFFFFFF, self.spans[number] >> 32
        return range(first, first + count)

    def check_order(self):
        slots = 1
        while slots < 2 * self.entries:
            slots *= 2
        need(len(self.index) == slots, "slots of the index")
        self.paths, keys, following, pending = {0: b""}, {0: 0x9E3779B97F4A7C15}, 1, [0]
        while pending:
            number = pending.pop()
            below = self.children(number)
            if below:
                need(below[0] == following, "directories are numbered depth first")
            following += len(below)
            need([self.names[one] for one in below] == sorted({self.names[one] for one in below}), "order of names")
            for one in below:
                need(self.parents[one] == number, "parents")
                self.paths[one] = (self.paths[number] + b"/" if number else b"") + self.names[one]
                keys[one] = child_key(keys[number], self.names[one])
            pending += [one for one in reversed(below) if stat.S_ISDIR(self.modes[one])]
        need(following == self.entries == len(self.paths), "every entry is reached")
        table = [0] * slots
        for one in range(1, self.entries):
            slot = (keys[one] ^ keys[one] >> 32) & slots - 1
            while table[slot]:
                slot = slot + 1 & slots - 1
            table[slot] = one + 1
        need(table == self.index, "index")

    def lookup(self, path):
        key = 0x9E3779B97F4A7C15
        for name in path.split(b"/"):
            key = child_key(key, name)
        slot = (key ^ key >> 32) & len(self.index) - 1
        while self.index[slot]:
            if self.paths[self.index[slot] - 1] == path:
                return self.index[slot] - 1
            slot = slot + 1 & len(self.index) - 1
        return None

    def lines(self):
        for one in range(self.entries):
            mode, what = self.modes[one], None
            if stat.S_ISREG(mode):
                what = [self.spans[one], self.hashes[self.payloads[one]].hex()]
            elif stat.S_ISLNK(mode):
                what = self.targets[self.payloads[one]].decode("latin-1")
            pairs = [[part.decode("latin-1") for part in pair] for pair in self.xattrs.get(one, [])]
            yield json.dumps([self.paths[one].decode("latin-1"), oct(mode), self.mtimes[one], what, pairs])


class Pack:
    """Section 3."""

    def __init__(self, path, name):
        self.data = data = read(path)
        need(len(data) >= 128 and data[:8] == data[-16:-8] == b"RIFTPACK", "magic of a pack")
        version, = struct.unpack_from("<I", data, 8)
        need(version == 1, f"format version {version}, but this program reads version 1")
        start, count = struct.unpack_from("<2Q", data, len(data) - 32)
        index = data[start:-64]
        need(len(index) == 48 * count and data[-64:-32] == name, "index and id of a pack")
        need(len(index) > HASHED_MAX or blake3(index) == name, "hash of a pack's index")
        self.entries, end = [], 64
        for hash_, offset, tagged in struct.iter_unpack("<32s2Q", index):
            length, kind = tagged & (1 << 56) - 1, tagged >> 56
            need(end <= offset and offset + length <= start and not any(data[end:offset]), "place of an entry")
            need(length < 16384 or offset % 4096 == 0, "alignment of an entry")
            end = offset + length
            self.entries.append((hash_, offset, length, kind))
        need(not any(data[end:start]) and not any(data[12:64]) and not any(data[-8:]), "zeros of a pack")


def stamp_of(path):
    found = os.stat(path)
    return found.st_size, found.st_ino, found.st_mtime_ns


class Store:
    def __init__(self, root):
        self.root = root
        need(read(self.at("format")) == b"1\n", "format of the store")

    def at(self, *parts):
        return os.path.join(self.root, *parts)

    def fanned(self, folder, name, suffix=""):
        return self.at(folder, name.hex()[:2], name.hex() + suffix)

    def record(self, *parts):
        data = read(self.at(*parts))
        need(data[:14] == b"rift record 1 " and data[78:79] == b"\n", "head of a record")
        need(blake3(data[79:]).hex().encode() == data[14:78], "checksum of a record")
        return data[79:]

    def log(self):
        """Section 6."""
        found, garbage = {}, 0
        names = [name for name in os.listdir(self.at("actions")) if name.endswith(".log")]
        for name in sorted(names, key=lambda name: int(name[:-4])):
            data, at = read(self.at("actions", name)), 0
            while at < len(data):
                frame = data[at:at + 48]
                length = struct.unpack_from("<I", frame, 8)[0] if len(frame) == 48 else 1 << 32
                whole = data[at:at + (48 + length + 7) // 8 * 8] if length <= 1 << 20 else b""
                if frame[:4] != b"RFA1" or len(whole) < 48 + length or \
                        zlib.crc32(whole[:12] + bytes(4) + whole[16:]) != struct.unpack_from("<I", whole, 12)[0]:
                    at, garbage = at + 8, garbage + 1
                    continue
                found[struct.unpack_from("<I", whole, 4)[0], whole[16:48]] = whole[48:48 + length]
                at += len(whole)
        return found, garbage

    def manifest(self, name):
        return Manifest(read(self.fanned("trees", name)), name)

    def sidecar(self, name, blobs):
        """Section 7: returns (path, offset) of every blob."""
        data = read(self.fanned("trees", name, ".loc"))
        need(data[:8] == b"RIFTLOCS", "magic of a sidecar")
        version, containers, count, zero = struct.unpack_from("<4I", data, 8)
        need((version, count, zero, data[24:56]) == (1, blobs, 0, name), "head of a sidecar")
        need(len(data) > HASHED_MAX or blake3(data[:96] + data[128:]) == data[96:128], "checksum of a sidecar")
        need(struct.unpack_from("<2Qq", data, 56) == stamp_of(self.fanned("trees", name)), "stamp of the manifest")
        paths = []
        for number in range(containers):
            file, *stamp, kind, zero = struct.unpack_from("<32s2Qq2I", data, 128 + 64 * number)
            need(kind in (0, 1) and zero == 0, "kind of a container")
            paths.append(self.fanned("blobs", file) if kind else self.at("packs", file.hex() + ".pack"))
            need(tuple(stamp) == stamp_of(paths[-1]), "stamp of a container")
        need(len(set(paths)) == containers, "containers, each once")
        words = [one for one, in struct.iter_unpack("<Q", data[128 + 64 * containers:])]
        need(len(words) == blobs and all(word >> 44 < containers for word in words), "locations of a sidecar")
        return [(paths[word >> 44], word & (1 << 44) - 1) for word in words]

    def packed(self, name, wanted):
        """Sections 1 and 3: returns (path, offset, length) of an entry of any pack."""
        for file in sorted(os.listdir(self.at("packs"))):
            pack = Pack(self.at("packs", file), bytes.fromhex(file.removesuffix(".pack")))
            for hash_, offset, length, kind in pack.entries:
                if (hash_, kind) == (name, wanted):
                    return self.at("packs", file), offset, length
        raise Wrong(f"no pack has {name.hex()}")

    def find_manifest(self, name):
        if os.path.exists(self.fanned("trees", name)):
            return self.manifest(name)
        path, offset, length = self.packed(name, 1)
        return Manifest(read(path)[offset:offset + length], name)

    def find_blob(self, name, size):
        if size >= 8 << 20:
            return self.fanned("blobs", name), 0
        path, offset, length = self.packed(name, 0)
        need(length == size, "length of a packed blob")
        return path, offset

    def cat(self, name, path, has_sidecar):
        manifest = self.manifest(name) if has_sidecar else self.find_manifest(name)
        number = manifest.lookup(path)
        need(number is not None and stat.S_ISREG(manifest.modes[number]), "no such file in the tree")
        blob = manifest.payloads[number]
        if has_sidecar:
            place, offset = self.sidecar(name, manifest.blobs)[blob]
        else:
            place, offset = self.find_blob(manifest.hashes[blob], manifest.spans[number])
        with open(place, "rb") as file:
            file.seek(offset)
            data = file.read(manifest.spans[number])
        need(len(data) == manifest.spans[number], "length of a blob")
        need(len(data) > HASHED_MAX or blake3(data) == manifest.hashes[blob], "hash of a blob")
        return data

    def projection(self, file):
        """Section 5."""
        text = self.record("projections", file).decode("ascii")
        fields = dict(line.split(" ", 1) for line in text.splitlines())
        path = re.sub(rb"%([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), fields["directory"].encode())
        need(blake3(path).hex() == file, "name of a projection")
        need(fields["as"] in ("files", "mount", "virtual"), "way to show a projection")
        need(fields["born_ns"] == "unknown" or int(fields["born_ns"]) >= 0, "birth of a projection")
        numbers = {name: int(fields[name]) for name in ("device", "inode", "stamp_ns", "done_ns", "umask", "links")}
        return path, fields["tree"], numbers

    def loose_form(self, folder, name):
        """Section 4: checks every entry, and the hash of files that are not too large for this BLAKE3."""
        need(re.fullmatch(r"[0-9a-f]{64}-[0-7]{3}", name) and name[:2] == os.path.basename(folder), "name of a loose form")
        root, umask = os.path.join(folder, name), int(name[65:], 8)
        manifest = self.manifest(bytes.fromhex(name[:64]))
        stamp, lost = (os.stat(root).st_mtime_ns, umask) if manifest.is_stamped else (None, 0)
        paths = set()
        for one in range(manifest.entries):
            path = os.path.join(os.fsencode(root), manifest.paths[one]).rstrip(b"/")
            paths.add(path)
            found, mode = os.lstat(path), manifest.modes[one]
            need(stat.S_IFMT(found.st_mode) == stat.S_IFMT(mode), "type in a loose form")
            if stat.S_ISLNK(mode):
                need(os.readlink(path) == manifest.targets[manifest.payloads[one]], "link in a loose form")
                continue
            need(found.st_mode & 0o1777 == mode & 0o1777 & ~lost, "mode in a loose form")
            if stat.S_ISREG(mode):
                mtime = manifest.mtimes[one] if stamp is None else stamp
                need((found.st_size, found.st_mtime_ns) == (manifest.spans[one], mtime), "size and mtime in a loose form")
                need(found.st_size > HASHED_MAX or blake3(read(path)) == manifest.hashes[manifest.payloads[one]], "bytes in a loose form")
        for above, folders, files in os.walk(os.fsencode(root)):
            need(all(os.path.join(above, below) in paths for below in folders + files), "a name too many in a loose form")

    def check_table(self):
        """Section 8: the table says what the packs say, and nothing else."""
        if not os.path.exists(self.at("index", "blobs")):
            return
        data = read(self.at("index", "blobs"))
        packs, slots, entries = struct.unpack_from("<2IQ", data, 8)
        start = 64 + 56 * packs
        need(data[:8] == b"RIFTIDX1" and len(data) == start + 8 * slots and slots & slots - 1 == 0, "head of the table")
        need(blake3(data[:24] + data[56:start]) == data[24:56], "checksum of the table")
        wanted, listed = {}, 0
        for number in range(packs):
            name, *stamp = struct.unpack_from("<32s2Qq", data, 64 + 56 * number)
            path = self.at("packs", name.hex() + ".pack")
            need(tuple(stamp) == stamp_of(path), "stamp of a pack in the table")
            for entry, (hash_, *_) in enumerate(Pack(path, name).entries):
                tag, = struct.unpack_from("<H", hash_, 8)
                wanted.setdefault(hash_, set()).add(tag << 48 | number << 28 | entry + 1)
                listed += 1
        table = [one for one, in struct.iter_unpack("<Q", data[start:])]
        need(listed == entries == sum(map(bool, table)), "entries of the table")
        for hash_, words in wanted.items():
            slot, = struct.unpack_from("<Q", hash_)
            while words:
                need(table[slot & slots - 1], "a search that ends too early")
                words.discard(table[slot & slots - 1])
                slot += 1

    def check(self):
        kinds = ("packs", "packed blobs", "packed manifests", "loose blobs", "trees", "loose forms", "records", "frames")
        counts = dict.fromkeys(kinds, 0)
        packed = set()
        for file in sorted(os.listdir(self.at("packs"))):
            pack = Pack(self.at("packs", file), bytes.fromhex(file.removesuffix(".pack")))
            counts["packs"] += 1
            for hash_, offset, length, kind in pack.entries:
                data = pack.data[offset:offset + length]
                if kind:
                    Manifest(data, hash_)
                else:
                    need(length > HASHED_MAX or blake3(data) == hash_, "hash of a packed blob")
                    packed.add(hash_)
                counts["packed manifests" if kind else "packed blobs"] += 1
        for folder, _, files in os.walk(self.at("blobs")):
            for file in files:
                need(file[:2] == os.path.basename(folder), "folder of a loose blob")
                need(os.path.getsize(os.path.join(folder, file)) >= 8 << 20, "size of a loose blob")
                counts["loose blobs"] += 1
        for _, _, files in os.walk(self.at("trees")):
            for name in (bytes.fromhex(file) for file in files if not file.endswith(".loc")):
                manifest = self.manifest(name)
                self.sidecar(name, manifest.blobs)
                loose = [hash_ for hash_ in manifest.hashes if hash_ not in packed]
                need(all(os.path.exists(self.fanned("blobs", hash_)) for hash_ in loose), "every blob is here")
                counts["trees"] += 1
        for folder, forms, _ in os.walk(self.at("loose")):
            if os.path.dirname(folder) == self.at("loose"):
                for name in forms:
                    self.loose_form(folder, name)
                    counts["loose forms"] += 1
                forms.clear()
        self.check_table()
        for file in ("stamps", "size"):
            if os.path.exists(self.at("index", file)):
                self.record("index", file)
        for file in os.listdir(self.at("leases")):
            need(re.fullmatch(rb"(tree [0-9a-f]{64}\n)+", read(self.at("leases", file))), "lines of a lease")
        for folder in ("refs", "plans", "projections", "runs"):
            for file in os.listdir(self.at(folder)):
                self.projection(file) if folder == "projections" else self.record(folder, file)
                counts["records"] += 1
        frames, garbage = self.log()
        need(garbage == 0, "garbage in the log")
        counts["frames"] = len(frames)
        return counts


def main(arguments):
    if arguments[0] == "hash":
        print(blake3(read(arguments[1])).hex())
        return
    store, command, *rest = Store(arguments[0]), *arguments[1:]
    if command == "check":
        print(json.dumps(store.check()))
    elif command == "refs":
        for file in sorted(os.listdir(store.at("refs"))):
            print(file, store.record("refs", file).decode())
    elif command == "log":
        for (topic, key), payload in sorted(store.log()[0].items()):
            print(topic, key.hex(), payload.hex())
    elif command == "list":
        for line in store.manifest(bytes.fromhex(rest[0])).lines():
            print(line)
    elif command == "projections":
        for file in sorted(os.listdir(store.at("projections"))):
            path, tree, numbers = store.projection(file)
            print(path.decode("latin-1"), tree, *numbers.values())
    elif command in ("cat", "find"):
        sys.stdout.buffer.write(store.cat(bytes.fromhex(rest[0]), os.fsencode(rest[1]), command == "cat"))
    else:
        raise Wrong(f"no such command: {command}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Wrong, OSError, struct.error, ValueError) as error:
        sys.exit(f"read_store.py: {error}")
