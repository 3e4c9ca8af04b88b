# Changes files below a directory at random, as a seed says. What it calls are the system calls, so that the kernel is the judge.
import errno, os, random, shutil, socket, stat, sys

top, seed, count = os.fsencode(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
r = random.Random(seed)


def entries():
    dirs, files, others = [top], [], []
    for path, below, names in os.walk(top):
        below.sort()
        for name in sorted(below + names):
            full = path + b"/" + name
            mode = os.lstat(full).st_mode
            (dirs if stat.S_ISDIR(mode) else files if stat.S_ISREG(mode) else others).append(full)
    return dirs, files, others


def name():
    kind = r.randrange(12)
    if kind == 0:
        return bytes(r.choice(b"abc") for _ in range(255))
    if kind == 1:
        return bytes(r.choice([0x01, 0x0a, 0x20, 0x22, 0x5c, 0x80, 0xc3, 0xe9, 0xff]) for _ in range(3))
    return r.choice([b"a", b"b", b"c", b"d", b"e", b"f.old", b".wh.a", b"-n", b"G", b"g"])


def content():
    return bytes(r.randrange(256) for _ in range(r.choice([0, 1, 10, 300])))


def clear(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def names_of(path):
    # Metadata is set through every name: an overlay gives each name its own when it copies the file up, a plain filesystem does not.
    found = os.lstat(path)
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return [f for f in entries()[1] if os.path.samestat(os.lstat(f), found)]
    return [path]


def move(old, new):
    try:
        os.rename(old, new)
    except OSError as e:
        # What mv does for a directory that the overlay has in a lower layer.
        if e.errno != errno.EXDEV:
            raise
        copy(old, new)
        shutil.rmtree(old)


def copy(old, new):
    mode = os.lstat(old).st_mode
    if stat.S_ISDIR(mode):
        if not os.path.isdir(new):
            os.mkdir(new)
        for each in sorted(os.listdir(old)):
            copy(old + b"/" + each, new + b"/" + each)
    elif stat.S_ISFIFO(mode):
        os.mkfifo(new)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(old), new)
    elif stat.S_ISREG(mode):
        shutil.copyfile(old, new)
    else:
        return
    found = os.lstat(old)
    os.chown(new, found.st_uid, found.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(mode):
        os.chmod(new, found.st_mode & 0o7777)
    for each in os.listxattr(old, follow_symlinks=False):
        os.setxattr(new, each, os.getxattr(old, each, follow_symlinks=False), follow_symlinks=False)
    os.utime(new, ns=(0, found.st_mtime_ns), follow_symlinks=False)


def once():
    dirs, files, others = entries()
    everything = dirs[1:] + files + others
    place = r.choice(dirs) + b"/" + name()
    file = r.choice(files) if files else None
    any_one = r.choice(everything) if everything else None
    below = r.choice(dirs[1:]) if len(dirs) > 1 else None
    what = r.choice(ACTIONS)
    if what == "mkdir" and not os.path.lexists(place):
        os.mkdir(place)
    elif what == "write":
        clear(place)
        with open(place, "wb") as out:
            out.write(content())
    elif what == "append" and file:
        with open(file, "ab") as out:
            out.write(content() or b"x")
    elif what == "patch" and file:
        with open(file, "r+b") as out:
            out.seek(r.randrange(20))
            out.write(b"patched")
    elif what == "sparse":
        clear(place)
        with open(place, "wb") as out:
            out.truncate(r.choice([4096, 70000]))
    elif what == "unlink" and (files or others):
        os.unlink(r.choice(files + others))
    elif what == "rename" and (files or others):
        one = r.choice(files + others)
        if os.path.isdir(place) and not os.path.islink(place):
            clear(place)
        if os.path.lexists(one):
            try:
                os.rename(one, place)
            except OSError as e:
                # An overlay refuses to rename one name of a file over another one.
                if e.errno != errno.ESTALE:
                    raise
    elif what == "replace" and file:
        # As editors do: a new file with the old name, which is one name less of the old file.
        new = file[:-1] + b"~" if len(file.rsplit(b"/", 1)[1]) > 1 else file + b"~"
        if not os.path.lexists(new):
            with open(file, "rb") as old, open(new, "wb") as out:
                out.write(old.read() if r.randrange(2) else content())
            os.chmod(new, r.choice([0o600, 0o755]))
            os.rename(new, file)
    elif what == "move" and below and not (place + b"/").startswith(below + b"/") and not (below + b"/").startswith(place + b"/"):
        clear(place)
        move(below, place)
    elif what == "rmtree" and below and r.randrange(3) == 0:
        shutil.rmtree(below)
    elif what == "again" and below:
        shutil.rmtree(below)
        os.mkdir(below)
        with open(below + b"/new", "wb") as out:
            out.write(b"new")
    elif what == "dir-to-file" and below and r.randrange(3) == 0:
        shutil.rmtree(below)
        with open(below, "wb") as out:
            out.write(b"was a directory")
    elif what == "file-to-dir" and file:
        os.unlink(file)
        os.mkdir(file)
    elif what == "link" and file and not os.path.lexists(place):
        os.link(file, place)
    elif what == "symlink" and not os.path.lexists(place):
        os.symlink(r.choice([b"a", b"../b", b"/nowhere", b"with\nnewline", b"\xff\xfe"]), place)
    elif what == "fifo" and not os.path.lexists(place):
        os.mkfifo(place)
    elif what == "socket" and len(place) < 100 and not os.path.lexists(place):
        socket.socket(socket.AF_UNIX).bind(os.fsdecode(place))
    elif what == "chmod" and any_one and not os.path.islink(any_one):
        mode = r.choice([0, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4711, 0o6555])
        for each in names_of(any_one):
            os.chmod(each, mode)
    elif what == "chown" and any_one:
        ids = r.choice([(0, 0), (33, 44), (65534, 65534), (65535, 1)])
        for each in names_of(any_one):
            os.chown(each, *ids, follow_symlinks=False)
    elif what == "xattr" and any_one and stat.S_IFMT(os.lstat(any_one).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
        value = content()
        for each in names_of(any_one):
            os.setxattr(each, "user." + "xy"[len(value) % 2], value)
    elif what == "no-xattr" and any_one:
        for each in names_of(any_one):
            for each_name in os.listxattr(each, follow_symlinks=False):
                os.removexattr(each, each_name, follow_symlinks=False)
    elif what == "capability" and file:
        for each in names_of(file):
            os.setxattr(each, "security.capability", bytes([1, 0, 0, 2, 0, r.choice([4, 32])]) + bytes(14))
    elif what == "utime" and any_one:
        when = r.choice([r.randrange(1_699_999_999), 3_999_999_999]) * 10**9
        for each in names_of(any_one):
            os.utime(each, ns=(when, when), follow_symlinks=False)


ACTIONS = [
    "mkdir", "write", "append", "patch", "sparse", "unlink", "rename", "replace", "move", "rmtree", "again", "dir-to-file", "file-to-dir",
    "link", "symlink", "fifo", "socket", "chmod", "chown", "xattr", "no-xattr", "capability", "utime",
] + 3 * ["mkdir", "write", "write", "link", "symlink"]
for _ in range(count):
    once()
