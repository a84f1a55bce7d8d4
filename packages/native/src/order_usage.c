/* What a tree takes on disk. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "descent.h"
#include "orders.h"

#define BLOCK 512 /* st_blocks' unit, whatever the file system's */

/* Inode numbers of files with several names: a hash table with open addressing, of a power of two, half full at the most. */
struct inodes {
  uint64_t *slots; /* 0: free; no file has that number */
  size_t used, room;
};

struct counted {
  uint64_t bytes, inodes;
  dev_t device;
  struct inodes linked;
};

static uint64_t *slot_of(const struct inodes *set, uint64_t inode)
{
  size_t at = (size_t)(inode * 0x9e3779b97f4a7c15u >> 20);
  for (;; at++) {
    uint64_t *slot = &set->slots[at & (set->room - 1)];
    if (*slot == 0 || *slot == inode)
      return slot;
  }
}

static int grow(struct inodes *set)
{
  struct inodes bigger = {.used = set->used, .room = set->room ? set->room * 2 : 64};
  bigger.slots = calloc(bigger.room, sizeof *bigger.slots);
  if (!bigger.slots)
    return -1;
  for (size_t i = 0; i < set->room; i++)
    if (set->slots[i])
      *slot_of(&bigger, set->slots[i]) = set->slots[i];
  free(set->slots);
  *set = bigger;
  return 0;
}

/* 1: it was there; 0: it is now; -1 with errno. */
static int remember(struct inodes *set, uint64_t inode)
{
  if (set->used * 2 >= set->room && grow(set) < 0)
    return -1;
  uint64_t *slot = slot_of(set, inode);
  if (*slot)
    return 1;
  *slot = inode;
  set->used++;
  return 0;
}

static int count_entry(struct descent *d, int directory, const struct entry *e)
{
  struct counted *c = d->context;
  struct stat st;
  if (fstatat(directory, e->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? 0 : -1;
  if (st.st_dev != c->device)
    return 0;
  bool is_directory = S_ISDIR(st.st_mode);
  int known = !is_directory && st.st_nlink > 1 ? remember(&c->linked, st.st_ino) : 0;
  if (known)
    return known < 0 ? -1 : 0;
  c->bytes += (uint64_t)st.st_blocks * BLOCK;
  c->inodes++;
  return is_directory;
}

static int go_on(struct descent *d, int parent, const char *name)
{
  (void)d, (void)parent, (void)name;
  return 0;
}

int order_disk_usage(struct run *run, const struct order_disk_usage *o)
{
  struct buffer *out = &run->report.outputs;
  struct counted c = {.inodes = 1};
  struct descent d = {.visit = count_entry, .leave = go_on, .lenient = true, .context = &c};
  struct stat st;
  int directory = open(o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  buffer_u32(out, run->index);
  buffer_u32(out, directory < 0 && errno == ENOENT ? OUTPUT_MISSING : 0);
  if (directory < 0 && errno == ENOENT) {
    buffer_u32(out, 0);
    return 0;
  }
  if (directory < 0 || fstat(directory, &st) < 0)
    return failed(&run->report, "open %s", o->path);
  c.device = st.st_dev;
  c.bytes = (uint64_t)st.st_blocks * BLOCK;
  int result = descend(directory, &d);
  if (result < 0)
    failed(&run->report, "disk usage of %s: %s", o->path, d.culprit);
  descent_free(&d);
  free(c.linked.slots);
  buffer_u32(out, sizeof c.bytes + sizeof c.inodes);
  buffer_append(out, &c.bytes, sizeof c.bytes);
  buffer_append(out, &c.inodes, sizeof c.inodes);
  return result;
}
