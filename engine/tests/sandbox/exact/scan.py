# Prints every entry below a directory of this root, one JSON object a line. Bytes are hexadecimal.
import json, os, stat, sys


def scan(top):
    pending = [top]
    while pending:
        path = pending.pop()
        found = os.lstat(path)
        kind, value = "other", ""
        if stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                kind, value = "file", file.read().hex()
        elif stat.S_ISDIR(found.st_mode):
            kind = "dir"
            pending += [path + b"/" + name for name in os.listdir(path)]
        elif stat.S_ISLNK(found.st_mode):
            kind, value = "symlink", os.readlink(path).hex()
        elif stat.S_ISFIFO(found.st_mode):
            kind = "fifo"
        elif stat.S_ISSOCK(found.st_mode):
            kind = "socket"
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {n.encode().hex(): os.getxattr(path, n, follow_symlinks=False).hex() for n in names if not n.startswith("user.overlay.")}
        print(json.dumps({
            "path": path[1:].hex(), "kind": kind, "value": value, "mode": found.st_mode & 0o7777, "uid": found.st_uid, "gid": found.st_gid,
            "secs": found.st_mtime_ns // 10**9, "nsecs": found.st_mtime_ns % 10**9, "file": found.st_ino if kind == "file" else 0, "ino": found.st_ino,
            "links": found.st_nlink if kind == "file" else 1, "xattrs": xattrs,
        }))


scan(os.fsencode(sys.argv[1]))
