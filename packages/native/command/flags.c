/* The command line, as far as it is an ordinary one. */
#include <string.h>

#include "command.h"

/* The spellings of Go's strconv.ParseBool; NULL: none of them. */
static const char *boolean(const char *text)
{
  static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"}, *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
  for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
    if (strcmp(text, yes[i]) == 0)
      return "true";
    if (strcmp(text, no[i]) == 0)
      return "false";
  }
  return NULL;
}

static struct flag *find(struct flag *flags, size_t count, const char *name, size_t size)
{
  for (size_t i = 0; i < count; i++) {
    const struct flag *f = &flags[i];
    if ((strlen(f->name) == size && memcmp(f->name, name, size) == 0) ||
        (f->alias && strlen(f->alias) == size && memcmp(f->alias, name, size) == 0))
      return &flags[i];
  }
  return NULL;
}

int parse_flags(struct flag *flags, size_t count, char **argv, int argc, bool stop_at_first)
{
  int arguments = 0;
  for (int i = 0; i < argc; i++) {
    char *word = argv[i];
    bool ends = strcmp(word, "--") == 0, argument = word[0] != '-' || word[1] == 0;
    if (ends || (argument && stop_at_first)) {
      for (i += ends; i < argc; i++)
        argv[arguments++] = argv[i];
      break;
    }
    if (argument) {
      argv[arguments++] = word;
      continue;
    }
    const char *name = word + (word[1] == '-' ? 2 : 1), *equals = strchr(name, '=');
    struct flag *flag = find(flags, count, name, equals ? (size_t)(equals - name) : strlen(name));
    if (!flag)
      return TO_NODE;
    if (!flag->takes_value)
      flag->value = boolean(equals ? equals + 1 : "true");
    else
      flag->value = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
    if (!flag->value)
      return TO_NODE;
  }
  return arguments;
}

bool flag_set(const struct flag *flag) { return flag->value && strcmp(flag->value, "true") == 0; }
