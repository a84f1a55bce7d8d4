/*
 * Removal of trees by descriptor: never follows a link, never leaves the mount it began on, and needs neither a path
 * as long as the tree is deep nor a descriptor per level.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "orders.h"

struct entry {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[];
};
#define TYPE_UNKNOWN 0
#define TYPE_DIRECTORY 4
#define ENTRIES_SIZE 32768

/* One directory on the way down: who it is, and the names of its subdirectories that are still to do. */
struct level {
  dev_t device;
  ino_t inode;
  struct buffer names; /* NUL-terminated, one after the other; the last one is the one under way */
};
struct descent {
  struct level *levels;
  size_t depth, room;
  unsigned refilled;           /* how often a directory that was emptied was found not empty */
  char culprit[NAME_MAX + 1];  /* what could not be removed */
  char entries[ENTRIES_SIZE] __attribute__((aligned(8)));
};
/* Somebody who fills a directory as fast as it is emptied must not hold us for ever. */
#define MAX_REFILLED 1000

static bool is_dots(const char *name) { return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)); }

static int blame(struct descent *d, const char *name)
{
  memcpy(d->culprit, name, strlen(name) + 1);
  return -1;
}

/* Unlinks all that is no directory and notes the directories. 0, or -1 with errno. */
static int clear_files(int directory, struct descent *d, struct buffer *names)
{
  if (lseek(directory, 0, SEEK_SET) < 0)
    return -1;
  for (;;) {
    long size = syscall(SYS_getdents64, directory, d->entries, ENTRIES_SIZE);
    if (size <= 0)
      return size < 0 ? -1 : 0;
    for (long at = 0; at < size;) {
      const struct entry *e = (const struct entry *)(const void *)(d->entries + at);
      at += e->length;
      if (is_dots(e->name))
        continue;
      if (e->type != TYPE_DIRECTORY) {
        if (unlinkat(directory, e->name, 0) == 0 || errno == ENOENT)
          continue;
        if (errno != EISDIR || e->type != TYPE_UNKNOWN)
          return blame(d, e->name);
      }
      buffer_append(names, e->name, strlen(e->name) + 1);
    }
  }
}

static const char *last_name(const struct buffer *names)
{
  size_t at = names->size - 1;
  while (at > 0 && names->data[at - 1] != 0)
    at--;
  return (const char *)names->data + at;
}

static void pop_name(struct buffer *names) { names->size = (size_t)((const uint8_t *)last_name(names) - names->data); }

/* A mount point answers EXDEV here; to whoever asked for the removal it is busy. */
static int open_child(int at, const char *name)
{
  struct open_how_args how = {
    .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
    .resolve = STAY_ON_MOUNT | NO_LINKS | NO_MAGIC_LINKS,
  };
  int fd = sys_openat2(at, name, &how);
  if (fd < 0 && errno == EXDEV)
    errno = EBUSY;
  return fd;
}

static int push_level(struct descent *d, int directory)
{
  struct stat st;
  if (fstat(directory, &st) < 0)
    return -1;
  if (d->depth == d->room) {
    size_t room = d->room ? d->room * 2 : 32;
    struct level *levels = realloc(d->levels, room * sizeof *levels);
    if (!levels)
      return -1;
    d->levels = levels;
    d->room = room;
  }
  d->levels[d->depth++] = (struct level){.device = st.st_dev, .inode = st.st_ino};
  return clear_files(directory, d, &d->levels[d->depth - 1].names);
}

/* The parent, checked to be the directory that was come from: somebody may have moved the child meanwhile. */
static int open_parent_level(int directory, const struct level *parent)
{
  struct stat st;
  int fd = openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_dev != parent->device || st.st_ino != parent->inode)) {
    drop(fd);
    errno = ESTALE;
    return -1;
  }
  return fd;
}

/* Removes the subdirectory under way, now empty. If something was put into it meanwhile, it is gone down into again. */
static int remove_child(int directory, struct descent *d, struct level *level)
{
  if (unlinkat(directory, last_name(&level->names), AT_REMOVEDIR) == 0 || errno == ENOENT) {
    pop_name(&level->names);
    return 0;
  }
  return errno == ENOTEMPTY && d->refilled++ < MAX_REFILLED ? 0 : blame(d, last_name(&level->names));
}

/* Empties the open directory (and closes it). 0, or -1 with errno and the culprit. */
static int empty_directory(int directory, struct descent *d)
{
  int result = push_level(d, directory);
  while (result == 0) {
    struct level *level = &d->levels[d->depth - 1];
    int next;
    if (level->names.size > 0) {
      next = open_child(directory, last_name(&level->names));
      if (next < 0 && errno == ENOENT) {
        pop_name(&level->names);
        continue;
      }
      result = next < 0 ? blame(d, last_name(&level->names)) : push_level(d, next);
    } else {
      buffer_free(&level->names);
      if (--d->depth == 0)
        break;
      next = open_parent_level(directory, level - 1);
      result = next < 0 ? blame(d, last_name(&level[-1].names)) : remove_child(next, d, level - 1);
    }
    drop(directory);
    directory = next;
  }
  drop(directory);
  return result;
}

static int remove_directory(struct run *run, int parent, const char *name, const char *path)
{
  struct descent d = {.depth = 0};
  int result = 0;
  do {
    int directory = open_child(parent, name);
    if (directory < 0) {
      result = errno == ENOENT ? 0 : failed(&run->report, "open %s", path);
      break;
    }
    result = empty_directory(directory, &d);
    for (size_t i = 0; i < d.depth; i++)
      buffer_free(&d.levels[i].names);
    d.depth = 0;
    if (result < 0)
      failed(&run->report, "remove %s: %s", path, d.culprit);
    else if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
      break;
    else if (errno != ENOTEMPTY || d.refilled++ >= MAX_REFILLED)
      result = failed(&run->report, "rmdir %s", path);
  } while (result == 0);
  free(d.levels);
  return result;
}

int order_remove_tree(struct run *run, const struct order_remove_tree *o)
{
  char copy[PATH_MAX];
  size_t size = strlen(o->path);
  while (size > 1 && o->path[size - 1] == '/')
    size--;
  if (size >= sizeof copy)
    return fail(&run->report, ENAMETOOLONG, "remove %s", o->path);
  memcpy(copy, o->path, size);
  copy[size] = 0;
  char *slash = strrchr(copy, '/');
  const char *name = slash ? slash + 1 : copy;
  if (copy[0] != '/' || *name == 0 || is_dots(name))
    return fail(&run->report, EINVAL, "remove %s: not an absolute path of something that can be removed", o->path);
  char last[NAME_MAX + 1];
  if (strlen(name) > NAME_MAX)
    return fail(&run->report, ENAMETOOLONG, "remove %s", o->path);
  strcpy(last, name);
  slash[slash == copy] = 0;
  int parent = open(copy, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0)
    return errno == ENOENT ? 0 : failed(&run->report, "open %s", copy);
  int result = unlinkat(parent, last, 0);
  if (result < 0 && errno == EISDIR)
    result = remove_directory(run, parent, last, o->path);
  else if (result < 0)
    result = errno == ENOENT ? 0 : failed(&run->report, "unlink %s", o->path);
  drop(parent);
  return result;
}
