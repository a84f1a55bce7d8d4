/* What a container is doing now: packages/runtime/src/state/status.ts in C. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "command.h"

#define FIFO "exec.fifo"
/* Fields of /proc/PID/stat, counted from the state (proc(5)). */
#define START_FIELD 19

const char *status_name(enum status status)
{
  static const char *const names[] = {"created", "running", "paused", "stopped"};
  return names[status];
}

bool is_frozen(const struct record *r, bool *frozen)
{
  char path[PATH_ROOM], text[64];
  *frozen = false;
  if (r->freezer == FREEZER_NONE)
    return true;
  if (!join(path, r->freezer_directory, r->freezer == FREEZER_V1 ? "freezer.state" : "cgroup.freeze"))
    return false;
  if (read_small(AT_FDCWD, path, text, sizeof text) < 0)
    return errno == ENOENT || errno == ENOTDIR || errno == ENODEV;
  *frozen = strcmp(text, r->freezer == FREEZER_V1 ? "FROZEN\n" : "1\n") == 0;
  return true;
}

bool is_alive(const struct record *r)
{
  char name[32], text[1024];
  snprintf(name, sizeof name, "/proc/%d/stat", r->pid);
  if (read_small(AT_FDCWD, name, text, sizeof text) < 0)
    return false;
  char *at = strrchr(text, ')');
  if (!at || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X')
    return false;
  at += 2;
  for (int field = 0; field < START_FIELD && at; field++)
    at = strchr(at + 1, ' ');
  return at && strtoull(at, NULL, 10) == r->start;
}

bool record_status(const struct record *r, enum status *status)
{
  bool frozen;
  if (!is_frozen(r, &frozen))
    return false;
  if (frozen)
    *status = PAUSED;
  else if (!is_alive(r))
    *status = STOPPED;
  else
    *status = faccessat(r->directory, FIFO, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? CREATED : RUNNING;
  return true;
}

int open_process(const struct record *r)
{
  int process = (int)syscall(SYS_pidfd_open, r->pid, 0);
  if (process < 0)
    return -1;
  if (is_alive(r))
    return process;
  close(process);
  errno = ESRCH;
  return -1;
}

int signal_process(int process, int number) { return (int)syscall(SYS_pidfd_send_signal, process, number, NULL, 0); }
