/* How Node is started: with what scripts/setup made of the sources, or, where that is older than they are, with the sources. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

#define OWN_PLACE "/.build/native/berth-runc"
#define MANIFEST ".build/command/manifest"
#define MANIFEST_VERSION "berth-runc 1"
#define MANIFEST_ROOM (1 << 16)

static char root[PATH_ROOM];
/* Written by packages/runtime/bundle/build.ts: version, Node, its flags, what `--version` prints; then files, with size and time in nanoseconds. */
static char manifest[MANIFEST_ROOM];
static const char *node, *version;
static char *flags; /* with spaces between them */
#define FLAGS_MAX 16

/* The checkout that this program is of. */
static bool find_root(void)
{
  ssize_t size = readlink("/proc/self/exe", root, sizeof root - 1);
  size_t tail = strlen(OWN_PLACE);
  if (size < (ssize_t)tail || size == (ssize_t)sizeof root - 1 || memcmp(root + size - tail, OWN_PLACE, tail) != 0)
    return false;
  root[size - (ssize_t)tail] = 0;
  return true;
}

static bool is_unchanged(int directory, const char *path, const char *size, const char *time)
{
  struct stat st;
  return fstatat(directory, path, &st, 0) == 0 && strtoll(size, NULL, 10) == st.st_size &&
         strtoll(time, NULL, 10) == st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
}

static bool read_manifest(int directory)
{
  ssize_t size = read_small(directory, MANIFEST, manifest, sizeof manifest);
  if (size <= 0 || size == MANIFEST_ROOM - 1 || manifest[size - 1] != 0 || strcmp(manifest, MANIFEST_VERSION) != 0)
    return false;
  const char *end = manifest + size, *at = next_string(manifest), *fields[3];
  for (size_t i = 0; i < 3; i++, at = next_string(at)) {
    if (at >= end)
      return false;
    fields[i] = at;
  }
  node = fields[0];
  flags = (char *)(uintptr_t)fields[1];
  version = fields[2];
  while (at < end) {
    for (size_t i = 0; i < 3; i++, at = next_string(at)) {
      if (at >= end)
        return false;
      fields[i] = at;
    }
    if (!is_unchanged(directory, fields[0], fields[1], fields[2]))
      return false;
  }
  return true;
}

static bool find_built(void)
{
  int directory = find_root() ? open(root, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
  bool built = directory >= 0 && read_manifest(directory);
  if (directory >= 0)
    close(directory);
  return built;
}

const char *built_version(void) { return find_built() ? version : NULL; }

int print_features(void)
{
  static char text[1 << 16];
  char path[PATH_ROOM];
  if (!find_built() || !join(path, root, ".build/command/features.json"))
    return TO_NODE;
  ssize_t size = read_small(AT_FDCWD, path, text, sizeof text);
  if (size <= 0 || size == sizeof text - 1)
    return TO_NODE;
  put(text);
  return put_end();
}

int become_bosun(char **argv)
{
  static char bosun[PATH_ROOM], program[PATH_ROOM], interpreter[PATH_ROOM];
  size_t count = 0, at = 0;
  while (argv[count])
    count++;
  char **line = calloc(count + FLAGS_MAX + 8, sizeof *line);
  bool built = find_built();
  if (!line || !*root || !join(bosun, root, ".build/native/bosun") || !join(interpreter, root, node ? node : "") ||
      !join(program, root, built ? ".build/command/main.cjs" : "scripts/berth-runc-decider")) {
    fprintf(stderr, "berth-runc: cannot find the checkout that it was built in (%s is not below one)\n", argv[0]);
    return 1;
  }
  line[at++] = bosun;
  line[at++] = "runc";
  if (built) {
    line[at++] = *node == '/' ? (char *)(uintptr_t)node : interpreter;
    for (char *flag = strtok(flags, " "); flag && at < FLAGS_MAX; flag = strtok(NULL, " "))
      line[at++] = flag;
  }
  line[at++] = program;
  memcpy(line + at, argv + 1, (count > 0 ? count - 1 : 0) * sizeof *line);
  setenv("BERTH_RUNC_NAME", argv[0], 1);
  execv(bosun, line);
  fprintf(stderr, "berth-runc: %s: %s; run scripts/setup in %s\n", bosun, strerror(errno), root);
  return 1;
}
