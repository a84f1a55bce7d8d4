/* See stand_in.h. */
#include "stand_in.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

int stand_in_raw(struct run *run)
{
  struct termios settings;
  if (tcgetattr(STDIN_FILENO, &settings) < 0)
    return failed(&run->report, "tcgetattr");
  cfmakeraw(&settings);
  return tcsetattr(STDIN_FILENO, TCSANOW, &settings) < 0 ? failed(&run->report, "tcsetattr") : 0;
}

/* By the raw calls: C libraries keep some signals to themselves. */
int stand_in_signals(void)
{
  static const int own[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS, SIGPIPE, SIGCHLD};
  uint64_t set = ~0ull;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    set &= ~(1ull << (own[i] - 1));
  signal(SIGPIPE, SIG_IGN);
  if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, sizeof set) < 0)
    return -1;
  return (int)syscall(SYS_signalfd4, -1, &set, sizeof set, SFD_CLOEXEC | SFD_NONBLOCK);
}
