/*
 * A walk down a tree by descriptor: never follows a link, never leaves the mount it began on, and needs neither a path
 * as long as the tree is deep nor a descriptor per level.
 */
#include "descent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "orders.h"

/* One directory on the way down: who it is, and the names of its subdirectories that are still to do. */
struct level {
  dev_t device;
  ino_t inode;
  struct buffer names; /* NUL-terminated, one after the other; the last one is the one under way */
};

bool is_dots(const char *name) { return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)); }

int blame(struct descent *d, const char *name)
{
  memcpy(d->culprit, name, strlen(name) + 1);
  return -1;
}

static int visit_entries(int directory, struct descent *d, struct buffer *names)
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
      int further = d->visit(d, directory, e);
      if (further < 0)
        return blame(d, e->name);
      if (further)
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
int open_child(int at, const char *name)
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
  return visit_entries(directory, d, &d->levels[d->depth - 1].names);
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

static int leave_child(int directory, struct descent *d, struct level *level)
{
  int again = d->leave(d, directory, last_name(&level->names));
  if (again < 0)
    return blame(d, last_name(&level->names));
  if (!again)
    pop_name(&level->names);
  return 0;
}

int descend(int directory, struct descent *d)
{
  int result = push_level(d, directory);
  while (result == 0) {
    struct level *level = &d->levels[d->depth - 1];
    int next;
    if (level->names.size > 0) {
      next = open_child(directory, last_name(&level->names));
      if (next < 0 && (errno == ENOENT || d->lenient)) {
        pop_name(&level->names);
        continue;
      }
      result = next < 0 ? blame(d, last_name(&level->names)) : push_level(d, next);
    } else {
      buffer_free(&level->names);
      if (--d->depth == 0)
        break;
      next = open_parent_level(directory, level - 1);
      if (next < 0 && d->lenient)
        break;
      result = next < 0 ? blame(d, last_name(&level[-1].names)) : leave_child(next, d, level - 1);
    }
    drop(directory);
    directory = next;
  }
  drop(directory);
  return result;
}

void descent_free(struct descent *d)
{
  for (size_t i = 0; i < d->depth; i++)
    buffer_free(&d->levels[i].names);
  free(d->levels);
  d->levels = NULL;
  d->depth = d->room = 0;
}
