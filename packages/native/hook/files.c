/* create-symlinks and chmod. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hook.h"

#define MODE_BITS 07777

/* Whether the link is there already: 1, 0 or -1. */
static int has_target(int dir, const char *name, const char *target)
{
  char found[PATH_MAX];
  ssize_t size = readlinkat(dir, name, found, sizeof found - 1);
  if (size < 0)
    return errno == ENOENT ? 0 : -1;
  found[size] = 0;
  return strcmp(found, target) == 0;
}

/* Under another name first: there is never a moment without the link where there was one. */
static int place_link(int dir, const char *name, const char *target)
{
  char unique[33], temporary[NAME_MAX + 1];
  random_name(unique);
  if ((size_t)snprintf(temporary, sizeof temporary, ".%.200s-%s", name, unique) >= sizeof temporary || symlinkat(target, dir, temporary) < 0)
    return -1;
  if (renameat(dir, temporary, dir, name) == 0)
    return 0;
  int err = errno;
  unlinkat(dir, temporary, 0);
  errno = err;
  return -1;
}

static int create_link(int root, char *target, const char *link)
{
  char parent[PATH_MAX];
  if (strlen(link) >= sizeof parent)
    return refuse("link %s: the path is too long", link);
  strcpy(parent, link);
  char *slash = strrchr(parent, '/');
  const char *name = slash ? link + (slash - parent) + 1 : link;
  *(slash ? slash : parent) = 0;
  if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
    return refuse("link %s: not a file's name", link);
  int dir = make_dirs_in(root, parent, 0755);
  if (dir < 0)
    return failed("link %s: failed to create its directory", link);
  int there = has_target(dir, name, target);
  int result = there < 0 ? failed("link %s: failed to resolve what is there", link) : 0;
  if (there == 0 && place_link(dir, name, target) < 0)
    result = failed("link %s: failed to create it", link);
  if (there == 0 && result == 0)
    note("linked %s to %s", link, target);
  close(dir);
  return result;
}

int create_symlinks(int root, const struct options *options)
{
  for (size_t i = 0; i < options->links.count; i++) {
    char *target = strdup(options->links.at[i]), *middle = target ? strstr(target, "::") : NULL;
    if (!middle || strstr(middle + 2, "::"))
      return refuse("invalid symlink specification %s: use target::link", options->links.at[i]);
    *middle = 0;
    int result = create_link(root, target, middle + 2);
    free(target);
    if (result < 0)
      return -1;
  }
  return 0;
}

static int change_mode(int root, const char *path, mode_t mode)
{
  int fd = open_in(root, path, O_PATH);
  if (fd < 0) {
    note("skipping path %s: %s", path, strerror(errno));
    return 0;
  }
  struct stat st;
  int result = 0;
  if (fstat(fd, &st) < 0)
    result = failed("stat %s", path);
  else if ((st.st_mode & MODE_BITS) != mode) {
    char itself[64];
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", fd);
    /* Where all of /dev is the host's, it may not be ours to change. */
    if (chmod(itself, mode) < 0 && errno != EPERM && errno != EACCES)
      result = failed("chmod %s", path);
  }
  close(fd);
  return result;
}

int change_modes(int root, const struct options *options)
{
  char *end;
  const char *text = options->mode ? options->mode : "";
  unsigned long mode = strtoul(text, &end, 8);
  if (!*text || *end || mode > MODE_BITS)
    return refuse("--mode \"%s\": not an octal mode", text);
  for (size_t i = 0; i < options->paths.count; i++)
    if (!*options->paths.at[i])
      return refuse("--path: must not be empty");
  for (size_t i = 0; i < options->paths.count; i++)
    if (change_mode(root, options->paths.at[i], (mode_t)mode) < 0)
      return -1;
  return 0;
}
