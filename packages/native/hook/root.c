/* Files inside a root that is not to be trusted: the kernel keeps every resolution inside it (openat2). */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "../src/kernel.h"
#include "hook.h"

#define MAX_RACES 1000

int open_root(const char *path)
{
  int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return failed("failed to open the container's root %s", path);
  struct stat own, host;
  if (fstat(root, &own) < 0 || stat("/", &host) < 0)
    return failed("stat %s", path);
  if (own.st_dev == host.st_dev && own.st_ino == host.st_ino)
    return refuse("the container's root is %s, which is this system's own", path);
  return root;
}

int open_in(int root, const char *path, int flags)
{
  while (*path == '/')
    path++;
  struct open_how_args how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = STAY_IN_ROOT | NO_MAGIC_LINKS};
  if (flags & O_CREAT)
    how.mode = 0644;
  for (int race = 0;; race++) {
    int fd = sys_openat2(root, *path ? path : ".", &how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || race == MAX_RACES)
      return fd;
  }
}

/* A component that is missing is made in its parent, as found the moment before: nothing on the way is ever resolved by name twice. */
int make_dirs_in(int root, const char *path, mode_t mode)
{
  char so_far[PATH_MAX] = "", left[PATH_MAX];
  if (strlen(path) >= sizeof left) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(left, path);
  int dir = open_in(root, ".", O_PATH | O_DIRECTORY);
  char *rest = NULL;
  for (char *part = strtok_r(left, "/", &rest); part && dir >= 0; part = strtok_r(NULL, "/", &rest)) {
    strcat(so_far, "/");
    strcat(so_far, part);
    int next = open_in(root, so_far, O_PATH | O_DIRECTORY);
    if (next < 0 && errno == ENOENT && (mkdirat(dir, part, mode) == 0 || errno == EEXIST))
      next = open_in(root, so_far, O_PATH | O_DIRECTORY);
    int err = errno;
    close(dir);
    errno = err;
    dir = next;
  }
  return dir;
}

void random_name(char out[33])
{
  uint8_t bytes[16] = {0};
  (void)!getrandom(bytes, sizeof bytes, 0);
  for (size_t i = 0; i < sizeof bytes; i++)
    snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

int write_all(int fd, const char *text, size_t size)
{
  while (size > 0) {
    ssize_t wrote = write(fd, text, size);
    if (wrote < 0 && errno == EINTR)
      continue;
    if (wrote < 0)
      return -1;
    text += wrote;
    size -= (size_t)wrote;
  }
  return 0;
}

int write_new_in(int root, const char *dir, const char *prefix, const char *text)
{
  char name[128], unique[33];
  int parent = make_dirs_in(root, dir, 0755);
  if (parent < 0)
    return failed("failed to create %s", dir);
  random_name(unique);
  snprintf(name, sizeof name, "%s-%s.conf", prefix, unique);
  int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  /* The program of a user that is not root reads it too, whatever our umask. */
  int result = fd < 0 || fchmod(fd, 0644) < 0 || write_all(fd, text, strlen(text)) < 0 ? failed("failed to write %s/%s", dir, name) : 0;
  if (fd >= 0)
    close(fd);
  close(parent);
  return result;
}
