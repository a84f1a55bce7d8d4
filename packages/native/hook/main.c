/* The command line: names, flags, and what an unknown hook means. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hook.h"

static const char *hook_name = "cdi-hook";
static bool debug, quiet;

static void say(const char *level, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
static void say(const char *level, const char *format, va_list arguments)
{
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  dprintf(2, "%s%s: %s\n", level, hook_name, text);
}

int refuse(const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  say("", format, arguments);
  va_end(arguments);
  return -1;
}

int failed(const char *format, ...)
{
  int err = errno;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return refuse("%s: %s", text, strerror(err));
}

void note(const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  if (debug && !quiet)
    say("", format, arguments);
  va_end(arguments);
}

void warn(const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  if (!quiet)
    say("warning: ", format, arguments);
  va_end(arguments);
}

struct flag { const char *name; struct texts *many; const char **one; };

static int add_texts(struct texts *list, const char *value)
{
  char *copy = strdup(value), *part;
  if (!copy)
    return failed("%s", value);
  while ((part = strsep(&copy, ","))) {
    const char **more = realloc(list->at, (list->count + 1) * sizeof *more);
    if (!more)
      return failed("%s", value);
    list->at = more;
    list->at[list->count++] = part;
  }
  return 0;
}

static const struct flag *find_flag(const struct flag *flags, const char *name, size_t size)
{
  for (const struct flag *flag = flags; flag->name; flag++)
    if (strlen(flag->name) == size && memcmp(flag->name, name, size) == 0)
      return flag;
  return NULL;
}

/* --name value, --name=value. */
static int parse(char **arguments, const struct flag *flags)
{
  for (char **at = arguments; *at; at++) {
    const char *name = *at + (strncmp(*at, "--", 2) == 0 ? 2 : 1), *equals = strchr(name, '=');
    const struct flag *flag = **at == '-' ? find_flag(flags, name, equals ? (size_t)(equals - name) : strlen(name)) : NULL;
    if (!flag)
      return refuse("%s: no such flag", *at);
    const char *value = equals ? equals + 1 : *++at;
    if (!value)
      return refuse("--%s: needs a value", flag->name);
    if (flag->one)
      *flag->one = value;
    else if (add_texts(flag->many, value) < 0)
      return -1;
  }
  return 0;
}

static int run(const char *name, char **arguments)
{
  struct options o = {.ldconfig = "/sbin/ldconfig", .state = "", .driver_version = "", .cuda_version = "", .compat_root = "/usr/local/cuda/compat"};
  const struct { const char *name; int (*hook)(int, const struct options *); struct flag flags[4]; } hooks[] = {
    {"create-symlinks", create_symlinks, {{"link", &o.links, NULL}}},
    {"chmod", change_modes, {{"path", &o.paths, NULL}, {"mode", NULL, &o.mode}}},
    {"update-ldcache", update_ldcache, {{"folder", &o.folders, NULL}, {"ldconfig-path", NULL, &o.ldconfig}}},
    {"enable-cuda-compat", enable_cuda_compat, {{"host-driver-version", NULL, &o.driver_version}, {"host-cuda-version", NULL, &o.cuda_version}, {"cuda-compat-container-root", NULL, &o.compat_root}}},
    {"disable-device-node-modification", disable_device_node_modification, {{NULL, NULL, NULL}}},
    {"update-application-profile", update_application_profile, {{NULL, NULL, NULL}}},
  };
  for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
    if (strcmp(name, hooks[i].name) != 0)
      continue;
    hook_name = hooks[i].name;
    struct flag flags[6] = {{"container-spec", NULL, &o.state}};
    memcpy(flags + 1, hooks[i].flags, sizeof hooks[i].flags);
    char *path = NULL;
    if (parse(arguments, flags) < 0 || container_root(o.state, &path) < 0)
      return 1;
    o.root = path;
    int root = open_root(path);
    return root < 0 || hooks[i].hook(root, &o) < 0;
  }
  /* A specification may be newer than this program; a container must not fail for a hook it can do without. */
  warn("unsupported CDI hook: %s", name);
  return 0;
}

/* This program may stand in nvidia-ctk's place, all of whose other commands are berth-ctk's. */
static int hand_over(char **argv)
{
  char path[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - sizeof "berth-ctk");
  char *slash = size > 0 ? memrchr(path, '/', (size_t)size) : NULL;
  if (slash) {
    strcpy(slash + 1, "berth-ctk");
    execv(path, argv);
  }
  execvp("berth-ctk", argv);
  failed("berth-ctk, which has every command but \"hook\"");
  return 127;
}

int main(int argc, char **argv)
{
  if (argc == 0)
    return 2;
  const char *slash = strrchr(argv[0], '/'), *called = slash ? slash + 1 : argv[0];
  const char *asked = getenv("NVIDIA_CTK_DEBUG");
  debug = asked && strcmp(asked, "true") == 0;
  char **at = argv + 1;
  for (; *at && **at == '-'; at++) {
    if (strcmp(*at, "--debug") == 0 || strcmp(*at, "-d") == 0)
      debug = true;
    else if (strcmp(*at, "--quiet") == 0)
      quiet = true;
    else
      break;
  }
  if (*at && strcmp(*at, "hook") == 0)
    at++;
  else if (strcmp(called, "nvidia-ctk") == 0)
    return hand_over(argv);
  if (!*at) {
    warn("no CDI hook specified");
    return 0;
  }
  return run(*at, at + 1);
}
