/* kill: a signal to the container's process, or where it shares its PID namespace and the signal is SIGKILL to all of its cgroup. */
#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "command.h"

#define SIGNAL_MAX 64

/* signal(7), of the machines that this is built for. */
static const struct {
  const char *name;
  int number;
} signals[] = {
  {"HUP", SIGHUP}, {"INT", SIGINT}, {"QUIT", SIGQUIT}, {"ILL", SIGILL}, {"TRAP", SIGTRAP}, {"ABRT", SIGABRT}, {"IOT", SIGABRT},
  {"BUS", SIGBUS}, {"FPE", SIGFPE}, {"KILL", SIGKILL}, {"USR1", SIGUSR1}, {"SEGV", SIGSEGV}, {"USR2", SIGUSR2}, {"PIPE", SIGPIPE},
  {"ALRM", SIGALRM}, {"TERM", SIGTERM}, {"CHLD", SIGCHLD}, {"STKFLT", SIGSTKFLT}, {"CONT", SIGCONT}, {"STOP", SIGSTOP},
  {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU}, {"URG", SIGURG}, {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
  {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH}, {"IO", SIGIO}, {"POLL", SIGIO}, {"PWR", SIGPWR}, {"SYS", SIGSYS},
};

/* -1: a name or number that is none, or one of the real-time ones. */
static int signal_number(const char *text)
{
  if (isdigit((unsigned char)*text)) {
    char *end;
    long number = strtol(text, &end, 10);
    /* 0 only asks whether there is anybody to signal (kill(2)). */
    return *end || number > SIGNAL_MAX || (number == 0 && strcmp(text, "0") != 0) ? -1 : (int)number;
  }
  if (strncasecmp(text, "SIG", 3) == 0)
    text += 3;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (strcasecmp(text, signals[i].name) == 0)
      return signals[i].number;
  return -1;
}

static bool kill_all(const struct record *r, int number)
{
  struct pids pids;
  bool some = processes_of(r, &pids) && pids.count > 0;
  if (some)
    kill_each(&pids, number);
  pids_free(&pids);
  return some && (number != SIGKILL || thaw(r));
}

int verb_kill(int root, char **argv, int argc)
{
  struct flag all = {.name = "all", .alias = "a"};
  struct record r;
  enum status status;
  int arguments = parse_flags(&all, 1, argv, argc, true);
  int number = arguments == 2 ? signal_number(argv[1]) : SIGTERM;
  if (arguments < 1 || arguments > 2 || number < 0 || flag_set(&all) || !is_id(argv[0]) || !record_open(&r, root, argv[0], NULL) ||
      !record_status(&r, &status))
    return TO_NODE;
  int process = open_process(&r);
  if (process < 0)
    return TO_NODE;
  if (r.shares_pids && number == SIGKILL)
    return kill_all(&r, number) ? 0 : TO_NODE;
  if (signal_process(process, number) < 0)
    return TO_NODE;
  /* A frozen process dies only once it runs again. */
  return status != PAUSED || number != SIGKILL || thaw(&r) ? 0 : TO_NODE;
}
