/* Orders on cgroup directories. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "orders.h"

#define MAX_DEPTH 64

/* cgroupfs files come and go with their directory; only directories are removed. */
static int remove_children(struct run *run, int directory, const char *path, int depth)
{
  if (depth > MAX_DEPTH)
    return fail(&run->report, ELOOP, "rmdir %s: more than %d levels", path, MAX_DEPTH);
  int copy = fcntl(directory, F_DUPFD_CLOEXEC, 0);
  DIR *entries = copy < 0 ? NULL : fdopendir(copy);
  if (!entries) {
    drop(copy);
    return failed(&run->report, "read %s", path);
  }
  int result = 0;
  struct dirent *e;
  while (result == 0 && (errno = 0, e = readdir(entries))) {
    if (e->d_type != DT_DIR || strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
      continue;
    int child = openat(directory, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child < 0) {
      result = errno == ENOENT ? 0 : failed(&run->report, "open %s/%s", path, e->d_name);
      continue;
    }
    result = remove_children(run, child, path, depth + 1);
    close(child);
    if (result == 0 && unlinkat(directory, e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
      result = failed(&run->report, "rmdir %s/…/%s", path, e->d_name);
  }
  /* A cgroup that somebody else removed meanwhile reads as ENODEV or ENOENT: gone is what was wanted. */
  if (result == 0 && !e && errno != 0 && errno != ENODEV && errno != ENOENT)
    result = failed(&run->report, "read %s", path);
  closedir(entries);
  return result;
}

int order_rmdir(struct run *run, const struct order_rmdir *o)
{
  if (o->children) {
    int directory = open(o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
      return errno == ENOENT ? 0 : failed(&run->report, "open %s", o->path);
    int result = remove_children(run, directory, o->path, 0);
    close(directory);
    if (result < 0)
      return -1;
  }
  if (rmdir(o->path) < 0 && errno != ENOENT)
    return failed(&run->report, "rmdir %s", o->path);
  return 0;
}

int order_join_cgroup(struct run *run, const struct order_join_cgroup *o)
{
  int directory = open(o->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0)
    return failed(&run->report, "open %s", o->path);
  int tasks = openat(directory, "tasks", O_WRONLY | O_CLOEXEC);
  int result = 0;
  if (tasks < 0)
    result = failed(&run->report, "open %s/tasks", o->path);
  else if (write(tasks, "0", 1) != 1)
    result = failed(&run->report, "write %s/tasks", o->path);
  drop(tasks);
  close(directory);
  return result;
}

/* The trimmed contents of a cpuset file. 0, or -1 with errno. */
static int read_value(int directory, const char *file, char *value, size_t room)
{
  int fd = openat(directory, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return -1;
  ssize_t size = read(fd, value, room - 1);
  drop(fd);
  if (size < 0)
    return -1;
  while (size > 0 && isspace((unsigned char)value[size - 1]))
    size--;
  value[size] = 0;
  return 0;
}

static int inherit(struct run *run, int directory, int parent, const char *path, const char *file)
{
  char value[4096];
  if (read_value(directory, file, value, sizeof value) < 0)
    return failed(&run->report, "read %s/%s", path, file);
  if (value[0])
    return 0;
  if (read_value(parent, file, value, sizeof value) < 0)
    return failed(&run->report, "read %s/../%s", path, file);
  if (!value[0])
    return fail(&run->report, EINVAL, "%s/../%s is empty too", path, file);
  int fd = openat(directory, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC), result = 0;
  if (fd < 0 || write(fd, value, strlen(value)) < 0)
    result = failed(&run->report, "write %s/%s", path, file);
  drop(fd);
  return result;
}

int order_inherit_cpuset(struct run *run, const struct order_inherit_cpuset *o)
{
  struct strs files = o->files;
  const char *file;
  int directory = open(o->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  int parent = directory < 0 ? -1 : openat(directory, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int result = 0;
  if (parent < 0)
    result = failed(&run->report, "open %s", o->path);
  while (result == 0 && (file = strs_next(&files)))
    result = inherit(run, directory, parent, o->path, file);
  drop(parent);
  drop(directory);
  return result;
}
