/* What the entries of a tree stream do. Every path is relative to the root directory, which the process is chrooted to. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "orders.h"
#include "tree.h"

#define ATTEMPTS 4

/* --- paths ---------------------------------------------------------------------------------------------------------- */

/* Without leading "/" and "./" and trailing "/"; "." for the root itself. In place: the entry is ours. */
static const char *tidy(const char *given)
{
  char *path = (char *)(uintptr_t)given;
  for (;;) {
    if (path[0] == '/')
      path++;
    else if (path[0] == '.' && path[1] == '/')
      path += 2;
    else
      break;
  }
  size_t size = strlen(path);
  while (size && path[size - 1] == '/')
    path[--size] = 0;
  return size ? path : ".";
}

/* Whether something other than a directory may be put there. */
static bool names_an_entry(const char *path)
{
  const char *last = strrchr(path, '/');
  last = last ? last + 1 : path;
  return strcmp(last, ".") != 0 && strcmp(last, "..") != 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
  (void)status;
  (void)ftw;
  return type == FTW_DP ? rmdir(path) : unlink(path);
}

static int clear_way(const char *path)
{
  if (unlink(path) == 0 || errno == ENOENT)
    return 0;
  if (errno != EISDIR && errno != EPERM)
    return failed(&tree.report, "unlink /%s", path);
  if (nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
    return failed(&tree.report, "remove the directory /%s", path);
  return 0;
}

static int make_parents(const char *path)
{
  char parent[PATH_MAX], plain[PATH_MAX];
  const char *slash = strrchr(path, '/');
  if (!slash)
    return fail(&tree.report, ENOENT, "make /%s", path);
  snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), made = -1;
  /* Links on the way may lead to what is missing too ("var/run" to "/run"). */
  if (root >= 0 && link_free(root, parent, plain) == 0)
    made = make_directories(root, plain, (struct made){.mode = 0755});
  drop(root);
  if (made < 0)
    return failed(&tree.report, "make the parents of /%s", path);
  close(made);
  return 0;
}

/*
 * Calls `make` until it succeeds, removing what is in its way and making parents that are missing. The common case costs one
 * system call. `path` is the entry's, `make` returns a descriptor or 0, or -1 with errno.
 */
static int place(const char *what, const char *path, int (*make)(const char *path, const void *entry), const void *entry)
{
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    int result = make(path, entry);
    if (result >= 0)
      return result;
    if (errno == EEXIST) {
      if (clear_way(path) < 0)
        return -1;
    } else if (errno == ENOENT && attempt == 0 && strchr(path, '/')) {
      if (make_parents(path) < 0)
        return -1;
    } else {
      break;
    }
  }
  return failed(&tree.report, "%s /%s", what, path);
}

/* --- metadata --------------------------------------------------------------------------------------------------------- */

static void times_of(int64_t mtime, struct timespec times[2])
{
  int64_t seconds = mtime / 1000000000, rest = mtime % 1000000000;
  if (rest < 0) {
    rest += 1000000000;
    seconds--;
  }
  times[0] = times[1] = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)rest};
}

/* After the owner, whose change drops security.capability, and after the data, whose writing does too. */
static int set_xattrs(int fd, struct meta *m)
{
  const char *name;
  struct bytes value;
  if (m->names.count != m->values.count)
    return fail(&tree.report, EPROTO, "/%s has %u xattr names and %u values", m->path, m->names.count, m->values.count);
  while ((name = strs_next(&m->names)) && blobs_next(&m->values, &value)) {
    int result = fd >= 0 ? fsetxattr(fd, name, value.data, value.size, 0) : lsetxattr(m->path, name, value.data, value.size, 0);
    if (result < 0)
      return failed(&tree.report, "setxattr %s of /%s", name, m->path);
  }
  return 0;
}

static int finish_fd(int fd, struct meta *m, bool set_time)
{
  struct timespec times[2];
  times_of(m->mtime, times);
  if (fchown(fd, m->uid, m->gid) < 0)
    return failed(&tree.report, "chown /%s", m->path);
  /* After chown, which drops the set-id bits. */
  if (fchmod(fd, m->mode & 07777) < 0)
    return failed(&tree.report, "chmod /%s", m->path);
  if (set_xattrs(fd, m) < 0)
    return -1;
  if (set_time && futimens(fd, times) < 0)
    return failed(&tree.report, "set the times of /%s", m->path);
  return 0;
}

static int finish_path(struct meta *m, bool has_mode)
{
  struct timespec times[2];
  times_of(m->mtime, times);
  if (lchown(m->path, m->uid, m->gid) < 0)
    return failed(&tree.report, "chown /%s", m->path);
  if (has_mode && chmod(m->path, m->mode & 07777) < 0)
    return failed(&tree.report, "chmod /%s", m->path);
  if (set_xattrs(-1, m) < 0)
    return -1;
  if (utimensat(AT_FDCWD, m->path, times, AT_SYMLINK_NOFOLLOW) < 0)
    return failed(&tree.report, "set the times of /%s", m->path);
  return 0;
}

/* --- entries ---------------------------------------------------------------------------------------------------------- */

static int make_directory(const char *path, const void *entry)
{
  (void)entry;
  if (mkdir(path, 0700) < 0 && errno != EEXIST)
    return -1;
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  /* Something else is in the way: a file, or a link, even one to a directory. */
  if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
    errno = EEXIST;
  return fd;
}

int put_directory(const struct tree_directory *e)
{
  struct meta m = {tidy(e->path), e->mode, e->uid, e->gid, e->mtime, e->xattr_names, e->xattr_values};
  int fd = place("mkdir", m.path, make_directory, NULL);
  if (fd < 0)
    return -1;
  int result = finish_fd(fd, &m, false);
  close(fd);
  /* What is still to be put into it would change its time. */
  buffer_u64(&tree.times, (uint64_t)m.mtime);
  buffer_append(&tree.times, m.path, strlen(m.path) + 1);
  return result;
}

static int make_file_at(const char *path, const void *entry)
{
  (void)entry;
  return open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static int end_file(void)
{
  if (tree.hole_last && ftruncate(tree.file, (off_t)tree.size) < 0)
    return failed(&tree.report, "truncate /%s", tree.meta.path);
  int result = finish_fd(tree.file, &tree.meta, true);
  if (close(tree.file) < 0 && result == 0)
    result = failed(&tree.report, "close /%s", tree.meta.path);
  tree.file = -1;
  return result;
}

int put_file(const struct tree_file *e)
{
  tree.meta = (struct meta){tidy(e->path), e->mode, e->uid, e->gid, e->mtime, e->xattr_names, e->xattr_values};
  if (!names_an_entry(tree.meta.path))
    return fail(&tree.report, EINVAL, "open /%s", tree.meta.path);
  tree.file = place("open", tree.meta.path, make_file_at, NULL);
  if (tree.file < 0)
    return -1;
  tree.left = tree.size = e->size;
  tree.hole_last = false;
  return tree.left ? 0 : end_file();
}

int put_hole(const struct tree_hole *e)
{
  if (tree.file < 0 || e->length > tree.left)
    return fail(&tree.report, EPROTO, "a hole that no file has room for");
  if (e->length == 0)
    return 0;
  if (lseek(tree.file, (off_t)e->length, SEEK_CUR) < 0)
    return failed(&tree.report, "seek in /%s", tree.meta.path);
  tree.left -= e->length;
  tree.hole_last = true;
  return tree.left ? 0 : end_file();
}

/* The body of a data entry: u32 length, so many bytes, a NUL. They go to the file as they come. */
int put_data(uint32_t body)
{
  uint32_t length;
  char nul;
  if (body < sizeof length + 1)
    return fail(&tree.report, EPROTO, "a data entry of %u bytes", body);
  input_read(&length, sizeof length);
  if (length != body - sizeof length - 1 || tree.file < 0 || length > tree.left)
    return fail(&tree.report, EPROTO, "data that no file has room for");
  for (size_t rest = length; rest;) {
    size_t part = rest;
    const uint8_t *data = input_part(&part);
    if (!write_all(tree.file, data, part))
      return failed(&tree.report, "write /%s", tree.meta.path);
    rest -= part;
  }
  input_read(&nul, 1);
  tree.left -= length;
  if (length)
    tree.hole_last = false;
  return tree.left || !length ? 0 : end_file();
}

static int make_symlink(const char *path, const void *entry)
{
  return symlink(((const struct tree_symlink *)entry)->target, path);
}

int put_symlink(const struct tree_symlink *e)
{
  struct meta m = {tidy(e->path), 0, e->uid, e->gid, e->mtime, e->xattr_names, e->xattr_values};
  if (!names_an_entry(m.path))
    return fail(&tree.report, EINVAL, "symlink /%s", m.path);
  return place("symlink", m.path, make_symlink, e) < 0 ? -1 : finish_path(&m, false);
}

static int make_hardlink(const char *path, const void *entry)
{
  const char *target = entry;
  struct stat a, b;
  if (linkat(AT_FDCWD, target, AT_FDCWD, path, 0) == 0)
    return 0;
  if (errno != EEXIST)
    return -1;
  /* A link to itself must not be removed to be made. */
  if (lstat(target, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
    return 0;
  errno = EEXIST;
  return -1;
}

int put_hardlink(const struct tree_hardlink *e)
{
  const char *path = tidy(e->path), *target = tidy(e->target);
  struct stat status;
  if (!names_an_entry(path))
    return fail(&tree.report, EINVAL, "link /%s", path);
  if (lstat(target, &status) < 0)
    return failed(&tree.report, "link /%s to /%s", path, target);
  return place("link", path, make_hardlink, target);
}

static int make_node(const char *path, const void *entry)
{
  const struct tree_node *e = entry;
  return mknod(path, (e->mode & S_IFMT) | 0600, makedev(e->major, e->minor));
}

int put_node(const struct tree_node *e)
{
  struct meta m = {tidy(e->path), e->mode, e->uid, e->gid, e->mtime, e->xattr_names, e->xattr_values};
  mode_t type = e->mode & S_IFMT;
  if (!names_an_entry(m.path) || (type != S_IFCHR && type != S_IFBLK && type != S_IFIFO))
    return fail(&tree.report, EINVAL, "mknod /%s with mode %o", m.path, e->mode);
  return place("mknod", m.path, make_node, e) < 0 ? -1 : finish_path(&m, true);
}

static int set_directory_times(void)
{
  for (size_t at = 0; at < tree.times.size;) {
    uint64_t mtime;
    struct timespec times[2];
    struct stat status;
    memcpy(&mtime, tree.times.data + at, sizeof mtime);
    const char *path = (const char *)tree.times.data + at + sizeof mtime;
    at += sizeof mtime + strlen(path) + 1;
    /* A later entry may have put something else there. */
    if (lstat(path, &status) < 0 || !S_ISDIR(status.st_mode))
      continue;
    times_of((int64_t)mtime, times);
    if (utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) < 0)
      return failed(&tree.report, "set the times of /%s", path);
  }
  return 0;
}

int put_end(const struct tree_end *e)
{
  if (set_directory_times() < 0)
    return -1;
  if (!e->sync)
    return 0;
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = fd < 0 || syncfs(fd) < 0 ? failed(&tree.report, "syncfs") : 0;
  drop(fd);
  return result;
}
