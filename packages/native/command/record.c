/* What is known of a container without reading JSON. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

#define FLAT_FILE "state.flat"
#define FLAT_VERSION "berth-runc 1"
#define FLAT_MAX (1 << 20)

bool is_id(const char *text)
{
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-";
  return *text && text[strspn(text, letters)] == 0 && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

const char *next_string(const char *at) { return at + strlen(at) + 1; }

/* Strings from `at` to `end`, where the last byte is a NUL. */
struct cursor {
  const char *at, *end;
  bool bad;
};

static const char *take(struct cursor *c)
{
  if (c->at >= c->end) {
    c->bad = true;
    return "";
  }
  const char *text = c->at;
  c->at = next_string(text);
  return text;
}

static uint64_t take_number(struct cursor *c)
{
  const char *text = take(c);
  char *end = NULL;
  errno = 0;
  uint64_t number = strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end || errno)
    c->bad = true;
  return number;
}

static const char *take_strings(struct cursor *c, size_t *count, size_t each)
{
  *count = take_number(c);
  const char *first = c->at;
  if (*count > FLAT_MAX)
    c->bad = true;
  for (size_t i = 0; i < *count * each && !c->bad; i++)
    take(c);
  return first;
}

static bool decode(struct record *r, size_t size)
{
  struct cursor c = {.at = r->text, .end = r->text + size};
  if (size == 0 || r->text[size - 1] != 0 || strcmp(take(&c), FLAT_VERSION) != 0)
    return false;
  const char *needs = take(&c);
  r->start_needs_node = strchr(needs, 's');
  r->delete_needs_node = strchr(needs, 'd');
  r->pid = (pid_t)take_number(&c);
  r->start = take_number(&c);
  r->shares_pids = take_number(&c);
  r->freezer = (enum freezer)take_number(&c);
  r->freezer_directory = take(&c);
  r->processes_directory = take(&c);
  r->oci_version = take(&c);
  r->id = take(&c);
  r->bundle = take(&c);
  r->rootfs = take(&c);
  r->created = take(&c);
  r->cgroups = take_strings(&c, &r->cgroup_count, 1);
  r->annotations = take_strings(&c, &r->annotation_count, 2);
  return !c.bad && c.at == c.end && r->pid > 0 && r->freezer <= FREEZER_V2;
}

bool record_open(struct record *r, int root, const char *id, bool *missing)
{
  *r = (struct record){.directory = openat(root, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (missing)
    *missing = r->directory < 0 && errno == ENOENT;
  if (r->directory < 0)
    return false;
  int fd = openat(r->directory, FLAT_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  struct stat st;
  if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= FLAT_MAX && (r->text = malloc((size_t)st.st_size)) &&
      read(fd, r->text, (size_t)st.st_size) == st.st_size && decode(r, (size_t)st.st_size) && strcmp(r->id, id) == 0) {
    close(fd);
    return true;
  }
  if (fd >= 0)
    close(fd);
  record_close(r);
  return false;
}

void record_close(struct record *r)
{
  free(r->text);
  if (r->directory >= 0)
    close(r->directory);
  *r = (struct record){.directory = -1};
}

bool only_container(struct record *r, int root, char **argv, int argc)
{
  return parse_flags(NULL, 0, argv, argc, false) == 1 && is_id(argv[0]) && record_open(r, root, argv[0], NULL);
}
