/* tmpcopyup: what an image has in a directory, copied into the fresh file system that is to cover it. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "orders.h"

#define MAX_DEPTH 64
#define XATTR_MAX 65536

struct copying {
  struct run *run;
  dev_t device; /* of the source: no mount is crossed */
  const char *path;
};

static int copy_failed(const struct copying *c, const char *what, const char *name)
{
  return failed(&c->run->report, "%s %s in %s", what, name, c->path);
}

/* A file system that has no place for one of them is no reason to fail: cp -a does the same. */
static int copy_xattrs(const struct copying *c, int from, int to, const char *name)
{
  static char names[XATTR_MAX] APART, value[XATTR_MAX] APART;
  ssize_t size = flistxattr(from, names, sizeof names);
  if (size < 0)
    return errno == EOPNOTSUPP ? 0 : copy_failed(c, "flistxattr", name);
  for (const char *at = names; at < names + size; at += strlen(at) + 1) {
    ssize_t length = fgetxattr(from, at, value, sizeof value);
    if (length >= 0 && fsetxattr(to, at, value, (size_t)length, 0) < 0 && errno != EOPNOTSUPP && errno != EPERM)
      return copy_failed(c, "fsetxattr", name);
  }
  return 0;
}

/* The owner before the mode: a change of owner takes set-uid bits away. */
static int copy_metadata(const struct copying *c, int to, const struct stat *st, const char *name)
{
  const struct timespec times[] = {st->st_atim, st->st_mtim};
  if (fchown(to, st->st_uid, st->st_gid) < 0)
    return copy_failed(c, "fchown", name);
  if (fchmod(to, st->st_mode & 07777) < 0)
    return copy_failed(c, "fchmod", name);
  return futimens(to, times) < 0 ? copy_failed(c, "futimens", name) : 0;
}

static int copy_file(const struct copying *c, int from, int to, const char *name, const struct stat *st)
{
  int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (in < 0)
    return copy_failed(c, "open", name);
  int out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), result = 0;
  if (out < 0)
    result = copy_failed(c, "create", name);
  for (ssize_t size = 1; result == 0 && size > 0;)
    if ((size = sendfile(out, in, NULL, 1u << 30)) < 0)
      result = copy_failed(c, "copy", name);
  if (result == 0)
    result = copy_xattrs(c, in, out, name);
  if (result == 0)
    result = copy_metadata(c, out, st, name);
  drop(out);
  drop(in);
  return result;
}

static int copy_link(const struct copying *c, int from, int to, const char *name, const struct stat *st)
{
  char target[PATH_MAX];
  ssize_t size = readlinkat(from, name, target, sizeof target - 1);
  if (size < 0)
    return copy_failed(c, "readlink", name);
  target[size] = 0;
  if (symlinkat(target, to, name) < 0 || fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0)
    return copy_failed(c, "symlink", name);
  return 0;
}

static int copy_node(const struct copying *c, int to, const char *name, const struct stat *st)
{
  if (mknodat(to, name, st->st_mode, st->st_rdev) < 0 || fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
      fchmodat(to, name, st->st_mode & 07777, 0) < 0)
    return copy_failed(c, "mknod", name);
  return 0;
}

static int copy_entries(const struct copying *c, int from, int to, int depth);

static int copy_directory(const struct copying *c, int from, int to, const char *name, const struct stat *st, int depth)
{
  int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), out = -1, result;
  if (in < 0)
    return copy_failed(c, "open", name);
  if (mkdirat(to, name, 0700) < 0 || (out = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
    result = copy_failed(c, "mkdir", name);
  else
    result = copy_entries(c, in, out, depth + 1);
  if (result == 0)
    result = copy_xattrs(c, in, out, name);
  if (result == 0)
    result = copy_metadata(c, out, st, name);
  drop(out);
  drop(in);
  return result;
}

static int copy_entry(const struct copying *c, int from, int to, const char *name, int depth)
{
  struct stat st;
  if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? 0 : copy_failed(c, "stat", name);
  if (st.st_dev != c->device)
    return 0;
  switch (st.st_mode & S_IFMT) {
  case S_IFDIR: return copy_directory(c, from, to, name, &st, depth);
  case S_IFREG: return copy_file(c, from, to, name, &st);
  case S_IFLNK: return copy_link(c, from, to, name, &st);
  case S_IFSOCK: return 0; /* nobody listens at a copy */
  default: return copy_node(c, to, name, &st);
  }
}

static int copy_entries(const struct copying *c, int from, int to, int depth)
{
  if (depth > MAX_DEPTH)
    return fail(&c->run->report, ELOOP, "copy %s: more than %d levels", c->path, MAX_DEPTH);
  int copy = fcntl(from, F_DUPFD_CLOEXEC, 0), result = 0;
  DIR *entries = copy < 0 ? NULL : fdopendir(copy);
  if (!entries) {
    drop(copy);
    return copy_failed(c, "read", ".");
  }
  struct dirent *e;
  while (result == 0 && (errno = 0, e = readdir(entries)))
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
      result = copy_entry(c, from, to, e->d_name, depth);
  if (result == 0 && errno)
    result = copy_failed(c, "read", ".");
  closedir(entries);
  return result;
}

int order_copy_up(struct run *run, const struct order_copy_up *o)
{
  int tree = slot_get(run, o->slot), root = slot_get(run, o->root);
  if (tree < 0 || root < 0)
    return -1;
  int from = open_in(root, o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (from < 0)
    return errno == ENOENT || errno == ENOTDIR ? 0 : failed(&run->report, "openat2 %s", o->path);
  struct stat st;
  struct copying c = {.run = run, .path = o->path};
  int to = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result;
  if (to < 0 || fstat(from, &st) < 0)
    result = failed(&run->report, "open the file system to copy %s into", o->path);
  else {
    c.device = st.st_dev;
    result = copy_entries(&c, from, to, 0);
    if (result == 0)
      result = copy_metadata(&c, to, &st, ".");
  }
  drop(to);
  drop(from);
  return result;
}
