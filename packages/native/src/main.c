/* The command line: bosun serve SOCKET | run | runc DECIDER ARGUMENT... | --version. */
#include <string.h>
#include <unistd.h>

#include "orders.gen.h"
#include "run.h"
#include "seal.h"

#define USAGE_STATUS 2

static void say(int fd, const char *text)
{
  if (write(fd, text, strlen(text)) < 0)
    _exit(1);
}

static int sealed(char **arguments, char **environment)
{
  struct report report = {.order = NO_ORDER};
  if (seal_self(&report, arguments, environment) == 0)
    return 0;
  say(2, "bosun: ");
  say(2, report.detail);
  say(2, ": ");
  say(2, strerror((int)report.err));
  say(2, "\n");
  return -1;
}

int main(int count, char **arguments, char **environment)
{
  if (count == 2 && strcmp(arguments[1], "--version") == 0) {
    say(1, "bosun " BOSUN_VERSION "\n");
    return 0;
  }
  if (count == 3 && strcmp(arguments[1], "serve") == 0)
    return sealed(arguments, environment) < 0 ? 1 : serve_main(arguments[2]);
  if (count == 2 && strcmp(arguments[1], "run") == 0)
    return sealed(arguments, environment) < 0 ? 1 : run_main();
  if (count >= 3 && strcmp(arguments[1], "runc") == 0)
    return sealed(arguments, environment) < 0 ? 1 : runc_main(arguments + 2);
  say(2, "usage: bosun serve SOCKET | bosun run <PLAN | bosun runc DECIDER ARGUMENT... | bosun --version\n");
  return USAGE_STATUS;
}
