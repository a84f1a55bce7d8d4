/* A walk down a tree by descriptor, for removal and for counting. */
#ifndef BERTH_DESCENT_H
#define BERTH_DESCENT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bosun.h"

/* As getdents64(2) gives it. */
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

struct level;
struct descent {
  /* An entry of the open directory. 1: a directory to go down into later; 0: done with; -1 with errno. */
  int (*visit)(struct descent *d, int directory, const struct entry *e);
  /* All beneath the subdirectory `name` has been visited. 1: go down into it again; 0: done with; -1 with errno. */
  int (*leave)(struct descent *d, int parent, const char *name);
  /* A subdirectory that cannot be gone into, or whose way back is gone, ends only its own part of the walk. */
  bool lenient;
  void *context;
  char culprit[NAME_MAX + 1]; /* what the walk failed at */
  struct level *levels;
  size_t depth, room;
  char entries[ENTRIES_SIZE] __attribute__((aligned(8)));
};

bool is_dots(const char *name);
/* Notes the name as the culprit; -1. */
int blame(struct descent *d, const char *name);
/* A directory right below, neither a link nor another mount (EBUSY): descriptor, or -1. */
int open_child(int at, const char *name);
/* Visits all beneath the open directory (and closes it). 0, or -1 with errno and the culprit. */
int descend(int directory, struct descent *d);
void descent_free(struct descent *d);

#endif
