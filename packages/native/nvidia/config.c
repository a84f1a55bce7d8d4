/* One key of a TOML file, where it is written as everybody writes it. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE "nvidia-container-runtime"
#define KEY "runtimes"
#define BLANKS " \t\r"

static char text[MAX_CONFIG + 1];

/* Its length; -1: not there; -2: it cannot be read whole. */
static ssize_t read_config(void)
{
  char path[PATH_MAX];
  const char *file = getenv("NVIDIA_CTK_CONFIG_FILE_PATH"), *home = getenv("XDG_CONFIG_HOME");
  int size = file && *file ? snprintf(path, sizeof path, "%s", file)
                           : snprintf(path, sizeof path, "%s/nvidia-container-runtime/config.toml", home && *home ? home : "/etc");
  if (size >= (int)sizeof path)
    return -2;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return errno == ENOENT ? -1 : -2;
  size_t length = 0;
  for (ssize_t got; (got = read(fd, text + length, sizeof text - length)) != 0; length += (size_t)got)
    if (got < 0 || length + (size_t)got > MAX_CONFIG) {
      close(fd);
      return -2;
    }
  close(fd);
  text[length] = 0;
  return memchr(text, 0, length) ? -2 : (ssize_t)length;
}

static char *skip(char *at, const char *characters)
{
  return at + strspn(at, characters);
}

/* `at` is behind the "[". Comments and escapes are not plain. */
static bool read_list(char *at, struct names *names)
{
  for (names->count = 0;; names->count++) {
    at = skip(at, BLANKS "\n");
    if (*at == ']')
      return true;
    char quote = *at++;
    if ((quote != '"' && quote != '\'') || names->count == MAX_NAMES)
      return false;
    char *end = strpbrk(at, "\"'\\\n");
    if (!end || *end != quote || end == at)
      return false;
    *end = 0;
    names->name[names->count] = at;
    at = skip(end + 1, BLANKS "\n");
    if (*at == ',')
      at++;
    else if (*at != ']')
      return false;
  }
}

static bool is_header(const char *line)
{
  size_t length = sizeof TABLE - 1;
  return line[0] == '[' && strncmp(line + 1, TABLE, length) == 0 && line[1 + length] == ']';
}

static char *value_of_key(char *line)
{
  if (strncmp(line, KEY, sizeof KEY - 1) != 0)
    return NULL;
  char *at = skip(line + sizeof KEY - 1, BLANKS);
  return *at == '=' ? skip(at + 1, BLANKS) : NULL;
}

bool read_runtimes(struct names *names)
{
  *names = (struct names){2, {"runc", "crun"}};
  ssize_t length = read_config();
  if (length == -1)
    return true;
  /* What looks like a line may be inside such a string. */
  if (length < 0 || strstr(text, "\"\"\"") || strstr(text, "'''"))
    return false;
  bool inside = false, top = true;
  for (char *line = text, *next; line; line = next) {
    next = strchr(line, '\n');
    next = next ? next + 1 : NULL;
    line = skip(line, BLANKS);
    if (*line == '[') {
      top = false;
      inside = is_header(line);
      if (!inside && (strchr("\"' \t[", line[1]) || strncmp(line + 1, TABLE "\t", sizeof TABLE) == 0 || strncmp(line + 1, TABLE " ", sizeof TABLE) == 0))
        return false;
    } else if (inside && (*line == '"' || *line == '\'')) {
      return false;
    } else if (inside) {
      char *value = value_of_key(line);
      if (value)
        return *value == '[' && read_list(value + 1, names);
    } else if (top && (*line == '"' || *line == '\'' || strncmp(line, TABLE, sizeof TABLE - 1) == 0)) {
      return false;
    }
  }
  return true;
}
