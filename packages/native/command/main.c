/* Which command this is, and whether it can be answered here. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

/* For the tests, which are to see the same from both. */
#define ONLY_NODE "BERTH_RUNC_ONLY_NODE"

enum { DEBUG, LOG, LOG_FORMAT, ROOT, CRIU, SYSTEMD, ROOTLESS, VERSION, GLOBAL_FLAGS };

static const struct {
  const char *name;
  int (*run)(int root, char **argv, int argc);
} verbs[] = {
  {"delete", verb_delete}, {"kill", verb_kill},   {"list", verb_list},   {"pause", verb_pause},
  {"ps", verb_ps},         {"resume", verb_resume}, {"start", verb_start}, {"state", verb_state},
};

/* A path that is written as it will be found: what `..` and the like make of it is the other parser's to say. */
static bool is_plain_path(const char *path)
{
  if (*path != '/')
    return false;
  while (*path == '/') {
    size_t size = strcspn(++path, "/");
    if (size <= 2 && strncmp(path, "..", size) == 0)
      return false;
    path += size;
  }
  return true;
}

/* Whose root may be an ordinary user, whose state is that user's: what is to be decided then is decided by Node. */
static bool in_user_namespace(void)
{
  char map[128], *rest;
  ssize_t size = read_small(AT_FDCWD, "/proc/self/uid_map", map, sizeof map);
  return size <= 0 || strtoull(map, &rest, 10) != 0 || strtoull(rest, &rest, 10) != 0 || strtoull(rest, NULL, 10) != 4294967295;
}

static bool state_root(const struct flag *given, char *path)
{
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  if (given->value && *given->value)
    return is_plain_path(given->value) && (size_t)snprintf(path, PATH_ROOM, "%s", given->value) < PATH_ROOM;
  if (!runtime || !*runtime)
    return join(path, "/run", "runc");
  if (geteuid() == 0)
    return !in_user_namespace() && join(path, "/run", "runc");
  return is_plain_path(runtime) && join(path, runtime, "runc");
}

/* Made where it is missing, as a logger would; what is wrong with it Node says. */
static bool log_opens(const char *path)
{
  if (!path || !*path)
    return true;
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0)
    return false;
  close(fd);
  return true;
}

static int show_version(void)
{
  const char *version = built_version();
  if (!version)
    return TO_NODE;
  put("berth-runc version ");
  put(version);
  return put_end();
}

/* `words` is changed; its strings are not. */
static int answer(char **words, int count)
{
  struct flag flags[GLOBAL_FLAGS] = {
    [DEBUG] = {.name = "debug"},
    [LOG] = {.name = "log", .takes_value = true},
    [LOG_FORMAT] = {.name = "log-format", .takes_value = true},
    [ROOT] = {.name = "root", .takes_value = true},
    [CRIU] = {.name = "criu", .takes_value = true},
    [SYSTEMD] = {.name = "systemd-cgroup"},
    [ROOTLESS] = {.name = "rootless", .takes_value = true},
    [VERSION] = {.name = "version", .alias = "v"},
  };
  char path[PATH_ROOM];
  int arguments = parse_flags(flags, GLOBAL_FLAGS, words, count, true);
  const char *format = flags[LOG_FORMAT].value;
  if (arguments < 0 || (format && *format && strcmp(format, "text") != 0 && strcmp(format, "json") != 0) ||
      !log_opens(flags[LOG].value))
    return TO_NODE;
  if (flag_set(&flags[VERSION]))
    return show_version();
  if (arguments == 1 && strcmp(words[0], "features") == 0)
    return print_features();
  for (size_t i = 0; arguments > 0 && i < sizeof verbs / sizeof *verbs; i++)
    if (strcmp(words[0], verbs[i].name) == 0)
      return state_root(&flags[ROOT], path) ? verbs[i].run(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), words + 1, arguments - 1)
                                            : TO_NODE;
  return TO_NODE;
}

int main(int argc, char **argv)
{
  if (argc > 1 && !getenv(ONLY_NODE)) {
    char **words = calloc((size_t)argc, sizeof *words);
    if (!words)
      abort();
    memcpy(words, argv + 1, (size_t)(argc - 1) * sizeof *words);
    int status = answer(words, argc - 1);
    if (status != TO_NODE)
      return status;
  }
  return become_bosun(argv);
}
