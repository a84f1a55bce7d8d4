/* The writer of a tree stream, shared by tree.c (the stream) and tree_entry.c (what its entries do). */
#ifndef TREE_H
#define TREE_H

#include "procs.h"

struct input {
  int fd;
  size_t at, end; /* of scratch */
};

/* What a path gets in the end; pointers into `entry` below. */
struct meta {
  const char *path;
  uint32_t mode, uid, gid;
  int64_t mtime;
  struct strs names;
  struct blobs values;
};

struct tree {
  struct input input;
  struct report report;
  struct buffer entry; /* the fields of the entry under way */
  int file;            /* the regular file that data goes to, or -1 */
  uint64_t left, size;
  bool hole_last;
  struct meta meta;    /* of `file` */
  struct buffer times; /* of directories: i64 mtime, path, NUL */
};
extern struct tree tree;
/* Closed once the stream may begin: the request's deadline is for that alone. */
extern int tree_starting;

void input_read(void *to, size_t size);
/* The next of at most `size` bytes, of which it tells how many; they are taken. Does not come back from the end of the stream. */
const uint8_t *input_part(size_t *size);

/* All return 0, or -1 with the report. */
int put_directory(const struct tree_directory *e);
int put_file(const struct tree_file *e);
int put_hole(const struct tree_hole *e);
int put_data(uint32_t body); /* reads the rest of the entry itself */
int put_symlink(const struct tree_symlink *e);
int put_hardlink(const struct tree_hardlink *e);
int put_node(const struct tree_node *e);
int put_end(const struct tree_end *e);

#endif
