/* Paths inside a root that is not to be trusted: see orders.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "orders.h"

#define MAX_LINKS 40
/* The kernel answers EAGAIN when a rename races with a ".." it is resolving; somebody who renames for ever must not hold us. */
#define MAX_RACES 1000

static int open_how(int at, const char *path, uint64_t flags, uint64_t resolve)
{
  while (*path == '/')
    path++;
  struct open_how_args how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
  for (int race = 0;; race++) {
    int fd = sys_openat2(at, *path ? path : ".", &how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || race == MAX_RACES)
      return fd;
  }
}

int open_beneath(int root, const char *path, uint64_t flags)
{
  return open_how(root, path, flags, STAY_BENEATH | NO_LINKS | NO_MAGIC_LINKS);
}

/* Puts the link's target in front of what is left of the path. */
static int splice_target(int link, char left[PATH_MAX], const char *rest)
{
  char target[PATH_MAX], joined[PATH_MAX];
  ssize_t size = readlinkat(link, "", target, sizeof target);
  if (size < 0)
    return -1;
  size_t tail = strlen(rest);
  if ((size_t)size + 1 + tail >= sizeof joined) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(joined, target, (size_t)size);
  joined[size] = '/';
  memcpy(joined + size + 1, rest, tail + 1);
  memcpy(left, joined, (size_t)size + tail + 2);
  return 0;
}

/* Whether the component at the end of `path` is a link, and not one that jumps (as /proc/PID/root does): 1, 0 or -1. */
static int is_link(int root, const char *path, int *link)
{
  *link = open_beneath(root, path, O_PATH | O_NOFOLLOW);
  if (*link < 0)
    return errno == ENOENT ? 0 : -1;
  struct stat st;
  if (fstat(*link, &st) < 0)
    return -1;
  if (!S_ISLNK(st.st_mode))
    return 0;
  int end = open_how(root, path, O_PATH, STAY_IN_ROOT | NO_MAGIC_LINKS);
  if (end < 0 && errno == ELOOP)
    return -1;
  drop(end);
  return 1;
}

static void strip_last(char *path)
{
  char *slash = strrchr(path, '/');
  *(slash ? slash : path) = 0;
}

/* Appends one component to `result` and, where that is a link, replaces it by the link's target in `left`. */
static int walk(int root, char result[PATH_MAX], const char *component, char left[PATH_MAX], const char *rest)
{
  size_t size = strlen(result), more = strlen(component);
  if (size + 1 + more >= PATH_MAX) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (size > 0)
    result[size++] = '/';
  memcpy(result + size, component, more + 1);
  int link = -1, found = is_link(root, result, &link);
  if (found == 1) {
    strip_last(result);
    if (splice_target(link, left, rest) < 0)
      found = -1;
    else if (left[0] == '/')
      result[0] = 0;
  }
  drop(link);
  return found;
}

int link_free(int root, const char *path, char result[PATH_MAX])
{
  char left[PATH_MAX], component[NAME_MAX + 1];
  if (strlen(path) >= sizeof left) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(left, path);
  result[0] = 0;
  int links = 0;
  for (const char *at = left; *at;) {
    size_t size = strcspn(at, "/");
    const char *rest = at + size + strspn(at + size, "/");
    if (size > NAME_MAX) {
      errno = ENAMETOOLONG;
      return -1;
    }
    memcpy(component, at, size);
    component[size] = 0;
    at = rest;
    if (size == 0 || strcmp(component, ".") == 0)
      continue;
    if (strcmp(component, "..") == 0) {
      strip_last(result);
      continue;
    }
    int linked = walk(root, result, component, left, rest);
    if (linked < 0)
      return -1;
    if (linked == 1) {
      if (++links > MAX_LINKS) {
        errno = ELOOP;
        return -1;
      }
      at = left;
    }
  }
  return 0;
}

int open_in(int root, const char *path, uint64_t flags)
{
  int fd = open_beneath(root, path, flags);
  if (fd >= 0 || (errno != ELOOP && errno != EXDEV))
    return fd;
  char clean[PATH_MAX];
  if (link_free(root, path, clean) < 0)
    return -1;
  return open_beneath(root, clean, flags);
}

static int make_directory(int at, const char *name, struct made kind)
{
  mode_t mask = umask(0);
  int made = mkdirat(at, name, kind.mode);
  umask(mask);
  if (made < 0 && errno != EEXIST)
    return -1;
  /* One that was made just now has nothing mounted on it, unless somebody is playing. */
  int fd = open_how(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, STAY_BENEATH | NO_LINKS | STAY_ON_MOUNT);
  if (fd >= 0 && made == 0 && (kind.uid || kind.gid) && fchownat(fd, "", kind.uid, kind.gid, AT_EMPTY_PATH) < 0) {
    drop(fd);
    return -1;
  }
  return fd;
}

int make_directories(int root, const char *path, struct made last)
{
  int fd = open_beneath(root, path, O_PATH | O_DIRECTORY);
  if (fd >= 0 || errno != ENOENT)
    return fd;
  fd = open_beneath(root, "", O_PATH | O_DIRECTORY);
  while (fd >= 0) {
    path += strspn(path, "/");
    size_t size = strcspn(path, "/");
    if (size == 0)
      return fd;
    char name[NAME_MAX + 1];
    if (size > NAME_MAX || (size == 2 && memcmp(path, "..", 2) == 0)) {
      drop(fd);
      errno = size > NAME_MAX ? ENAMETOOLONG : EINVAL;
      return -1;
    }
    memcpy(name, path, size);
    name[size] = 0;
    path += size;
    bool is_last = path[strspn(path, "/")] == 0;
    int next = open_beneath(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (next < 0 && errno == ENOENT)
      next = make_directory(fd, name, is_last ? last : (struct made){.mode = 0755});
    drop(fd);
    fd = next;
  }
  return -1;
}

/* Splits a path without links into the directory (in place, in `path`) and the name. */
static int split(char path[PATH_MAX], char name[NAME_MAX + 1])
{
  for (size_t size = strlen(path); size > 0 && path[size - 1] == '/'; size--)
    path[size - 1] = 0;
  char *slash = strrchr(path, '/');
  const char *last = slash ? slash + 1 : path;
  if (strlen(last) > NAME_MAX) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(name, last);
  if (name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
    errno = EINVAL;
    return -1;
  }
  *(slash ? slash : path) = 0;
  return 0;
}

int make_file(int root, const char *path)
{
  char copy[PATH_MAX], name[NAME_MAX + 1];
  if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (split(copy, name) < 0)
    return -1;
  int parent = make_directories(root, copy, (struct made){.mode = 0755});
  if (parent < 0)
    return -1;
  int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd >= 0 || errno == EEXIST) {
    drop(fd);
    fd = open_beneath(parent, name, O_PATH);
  }
  drop(parent);
  return fd;
}

int open_parent(int root, const char *path, char name[NAME_MAX + 1])
{
  char copy[PATH_MAX], directory[PATH_MAX];
  if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (split(copy, name) < 0 || link_free(root, copy, directory) < 0)
    return -1;
  return make_directories(root, directory, (struct made){.mode = 0755});
}
