/* The command line: bosun serve SOCKET | run | runc DECIDER ARGUMENT... | relay OPTIONS | guest OPTIONS | pause | --version. */
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "orders.gen.h"
#include "relay.h"
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

/* The kernel's own arguments for an init it does not know are no business of bosun's. */
static int be_init(char **arguments, char **environment)
{
  static char *none[] = {NULL};
  /* The second time bosun comes here it is sealed, and has /proc. */
  if (access("/proc/self/exe", F_OK) < 0)
    guest_found();
  return sealed(arguments, environment) < 0 ? 1 : guest_main(none);
}

int main(int count, char **arguments, char **environment)
{
  if (guest_is_init(count, arguments))
    return be_init(arguments, environment);
  if (count == 2 && strcmp(arguments[1], "--version") == 0) {
    say(1, "bosun " BOSUN_VERSION "\n");
    return 0;
  }
  /* In a container's root: it reaches nothing of the host that a sealed copy would have to keep from it. */
  if (count == 2 && strcmp(arguments[1], "pause") == 0)
    pause_main();
  if (count == 3 && strcmp(arguments[1], "serve") == 0)
    return sealed(arguments, environment) < 0 ? 1 : serve_main(arguments[2]);
  if (count == 2 && strcmp(arguments[1], "run") == 0)
    return sealed(arguments, environment) < 0 ? 1 : run_main();
  if (count >= 3 && strcmp(arguments[1], "runc") == 0)
    return sealed(arguments, environment) < 0 ? 1 : runc_main(arguments + 2);
  if (count >= 2 && strcmp(arguments[1], "relay") == 0)
    return sealed(arguments, environment) < 0 ? 1 : relay_main(arguments + 2);
  if (count >= 2 && strcmp(arguments[1], "guest") == 0)
    return sealed(arguments, environment) < 0 ? 1 : guest_main(arguments + 2);
  say(2, "usage: bosun serve SOCKET | bosun run <PLAN | bosun runc DECIDER ARGUMENT... | bosun relay OPTIONS | bosun guest OPTIONS | bosun pause | bosun --version\n");
  return USAGE_STATUS;
}
