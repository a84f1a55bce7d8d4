/*
 * berth-nvidia-runtime, in nvidia-container-runtime's place: hands every command line but `create` to the low-level
 * runtime, without starting Node. What the configuration says in a way that config.c does not read is Node's too.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

#define STANDARD_DIRS "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DECIDER "../../scripts/berth-nvidia-runtime-decider"

static bool is_flag(const char *arg, const char *name)
{
  size_t dashes = strspn(arg, "-");
  size_t length = strcspn(arg + dashes, "=");
  return dashes > 0 && strlen(name) == length && strncmp(arg + dashes, name, length) == 0;
}

/* A directory may be named "create": `--bundle create`. */
static bool is_create(char **args)
{
  for (bool is_bundle = false; *args; args++) {
    if (!is_bundle && strcmp(*args, "create") == 0)
      return true;
    is_bundle = !is_bundle && !strchr(*args, '=') && (is_flag(*args, "bundle") || is_flag(*args, "b"));
  }
  return false;
}

static bool asks_version(char **args)
{
  for (; *args; args++)
    if (is_flag(*args, "version"))
      return true;
  return false;
}

static bool is_program(const char *path)
{
  struct stat status;
  return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

static bool find_in(const char *dirs, const char *name, char found[PATH_MAX])
{
  for (const char *at = dirs; at && *at;) {
    size_t length = strcspn(at, ":");
    if (*at == '/' && snprintf(found, PATH_MAX, "%.*s/%s", (int)length, at, name) < PATH_MAX && is_program(found))
      return true;
    at += length + (at[length] == ':');
  }
  return false;
}

static bool find_program(const char *name, char found[PATH_MAX])
{
  if (strchr(name, '/'))
    return snprintf(found, PATH_MAX, "%s", name) < PATH_MAX && is_program(found);
  return find_in(getenv("PATH"), name, found) || find_in(STANDARD_DIRS, name, found);
}

/* Under the name nvidia-container-runtime.cdi or .legacy the mode is that one, whatever the configuration says. */
static void set_mode(const char *name)
{
  const char *dot = strrchr(name, '.');
  if (dot && (strcmp(dot, ".cdi") == 0 || strcmp(dot, ".legacy") == 0))
    setenv("BERTH_NVIDIA_MODE", dot + 1, 1);
}

/* Returns only when that cannot be. */
static int decide(char **argv)
{
  char path[PATH_MAX];
  set_mode(argv[0]);
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - sizeof DECIDER);
  if (size <= 0) {
    perror("berth-nvidia-runtime: /proc/self/exe");
    return 1;
  }
  path[size] = 0;
  strcpy(strrchr(path, '/') + 1, DECIDER);
  execv(path, argv);
  fprintf(stderr, "berth-nvidia-runtime: %s: %s\n", path, strerror(errno));
  return 1;
}

int main(int argc, char **argv)
{
  static struct names names;
  char found[PATH_MAX];
  if (argc == 0)
    return 2;
  if (is_create(argv + 1) || !read_runtimes(&names))
    return decide(argv);
  if (asks_version(argv + 1)) {
    puts("NVIDIA Container Runtime version berth 0.1.0\nspec: 1.3.0\n");
    fflush(stdout);
  }
  for (size_t i = 0; i < names.count; i++)
    if (find_program(names.name[i], found)) {
      argv[0] = found;
      execv(found, argv);
      fprintf(stderr, "berth-nvidia-runtime: %s: %s\n", found, strerror(errno));
      return 1;
    }
  /* Node finds none either, and says so where the log is. */
  return decide(argv);
}
