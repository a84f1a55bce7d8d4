"""Prints what a tree is made of, as JSON by path: for comparing two trees byte by byte."""
import hashlib, json, os, stat, sys

root = os.fsencode(sys.argv[1])
found, inodes = {}, {}


def describe(path, name):
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    entry = {"mode": oct(info.st_mode), "uid": info.st_uid, "gid": info.st_gid, "mtime": str(info.st_mtime_ns)}
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            entry["sha256"] = hashlib.sha256(file.read()).hexdigest()
    elif kind == stat.S_IFLNK:
        entry["target"] = os.readlink(path).decode("latin1")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["device"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    if kind != stat.S_IFDIR and info.st_nlink > 1:
        entry["same_as"] = inodes.setdefault((info.st_dev, info.st_ino), name)
    names = [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.overlay.")]
    entry["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in sorted(names)}
    found[name] = entry


def walk(path, name):
    # overlayfs lists a whiteout in a directory that only one layer has, though nothing can be found by that name.
    if not os.path.lexists(path):
        return
    describe(path, name)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for child in sorted(os.listdir(path)):
            walk(os.path.join(path, child), name + "/" + child.decode("latin1"))


walk(root, "")
json.dump(found, sys.stdout, sort_keys=True)
