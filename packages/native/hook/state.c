/* The container's root: what the state says (crun), or root.path of the bundle that it names. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hook.h"

#define MAX_STATE (1u << 20)
#define MAX_CONFIG (64u << 20)

char *read_all(int fd, size_t limit, size_t *size)
{
  size_t room = 16384;
  char *data = malloc(room + 1);
  for (*size = 0; data;) {
    if (*size == room) {
      char *more = room >= limit ? NULL : realloc(data, room * 2 + 1);
      if (!more) {
        free(data);
        errno = EFBIG;
        return NULL;
      }
      data = more;
      room *= 2;
    }
    ssize_t got = read(fd, data + *size, room - *size);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0) {
      free(data);
      return NULL;
    }
    *size += (size_t)got;
    data[*size] = 0;
    if (got == 0)
      return data;
  }
  return NULL;
}

static char *read_file(const char *path, size_t limit, size_t *size)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return NULL;
  char *data = read_all(fd, limit, size);
  int err = errno;
  close(fd);
  errno = err;
  return data;
}

/* root.path, as it stands. */
static int root_of_bundle(const char *bundle, char **root)
{
  char *path, *config;
  size_t size;
  struct json value;
  if (asprintf(&path, "%s/config.json", bundle) < 0)
    return failed("%s", bundle);
  if (!(config = read_file(path, MAX_CONFIG, &size)))
    return failed("failed to open OCI spec file %s", path);
  *root = json_field((struct json){config, config + size}, "root", &value) && json_field(value, "path", &value) ? json_string(value) : NULL;
  free(config);
  if (!*root || !**root)
    return refuse("%s: root.path is missing", path);
  free(path);
  return 0;
}

int container_root(const char *state_file, char **root)
{
  bool is_file = *state_file && strcmp(state_file, "-") != 0;
  size_t size;
  struct json value;
  char *text = is_file ? read_file(state_file, MAX_STATE, &size) : read_all(0, MAX_STATE, &size);
  if (!text)
    return failed("failed to load container state");
  struct json state = {text, text + size};
  char *bundle = json_field(state, "bundle", &value) ? json_string(value) : NULL;
  char *found = json_field(state, "root", &value) ? json_string(value) : NULL;
  free(text);
  if ((!found || !*found) && (!bundle || !*bundle))
    return refuse("failed to load container state: it names no bundle");
  if ((!found || !*found) && root_of_bundle(bundle, &found) < 0)
    return -1;
  if (*found == '/')
    *root = found;
  else if (!bundle || asprintf(root, "%s/%s", bundle, found) < 0)
    return refuse("%s: a relative root without a bundle", found);
  return 0;
}
