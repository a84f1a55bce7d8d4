/* Removal of trees by descriptor. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "descent.h"
#include "orders.h"

/* Somebody who fills a directory as fast as it is emptied must not hold us for ever. */
#define MAX_REFILLED 1000

/* Unlinks all that is no directory. */
static int remove_entry(struct descent *d, int directory, const struct entry *e)
{
  (void)d;
  if (e->type == TYPE_DIRECTORY)
    return 1;
  if (unlinkat(directory, e->name, 0) == 0 || errno == ENOENT)
    return 0;
  return errno == EISDIR && e->type == TYPE_UNKNOWN ? 1 : -1;
}

/* Removes the subdirectory, now empty. If something was put into it meanwhile, it is gone down into again. */
static int remove_emptied(struct descent *d, int parent, const char *name)
{
  unsigned *refilled = d->context;
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
    return 0;
  return errno == ENOTEMPTY && (*refilled)++ < MAX_REFILLED ? 1 : -1;
}

static int remove_directory(struct run *run, int parent, const char *name, const char *path)
{
  unsigned refilled = 0;
  struct descent d = {.visit = remove_entry, .leave = remove_emptied, .context = &refilled};
  int result = 0;
  do {
    int directory = open_child(parent, name);
    if (directory < 0) {
      result = errno == ENOENT ? 0 : failed(&run->report, "open %s", path);
      break;
    }
    result = descend(directory, &d);
    if (result < 0)
      failed(&run->report, "remove %s: %s", path, d.culprit);
    else if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
      break;
    else if (errno != ENOTEMPTY || refilled++ >= MAX_REFILLED)
      result = failed(&run->report, "rmdir %s", path);
    descent_free(&d);
  } while (result == 0);
  descent_free(&d);
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
