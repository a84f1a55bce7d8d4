/* Until something happens to a container: a kill for memory, its end, or a moment that was set. Its counters say what it was. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"
#include "run.h"

/* cgroup v1 (memory.rst, "OOM Control"): an event descriptor, written with that of memory.oom_control to cgroup.event_control. */
int oom_listen(int directory)
{
  char line[32];
  int event = eventfd(0, EFD_CLOEXEC), oom = openat(directory, "memory.oom_control", O_RDONLY | O_CLOEXEC);
  int control = openat(directory, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
  int size = snprintf(line, sizeof line, "%d %d", event, oom);
  if (event >= 0 && (oom < 0 || control < 0 || write(control, line, (size_t)size) != size)) {
    int err = errno;
    fd_close(&event);
    errno = err;
  }
  drop(control);
  drop(oom); /* the kernel has its own reference */
  return event;
}

/* cgroup v2: memory.events is modified (cgroup-v2.rst). */
static int listen_v2(const char *directory)
{
  char path[4096];
  int notify = inotify_init1(IN_CLOEXEC);
  if (notify < 0 || (size_t)snprintf(path, sizeof path, "%s/memory.events", directory) >= sizeof path ||
      inotify_add_watch(notify, path, IN_MODIFY) < 0)
    fd_close(&notify);
  return notify;
}

int wait_oom(const struct message_wait_oom *m, int channel, struct report *report)
{
  int directory = open(m->memory, O_PATH | O_DIRECTORY | O_CLOEXEC), event = -1;
  if (directory >= 0)
    event = faccessat(directory, "memory.oom_control", F_OK, 0) == 0 ? oom_listen(directory) : listen_v2(m->memory);
  int err = errno, process = (int)syscall(SYS_pidfd_open, (pid_t)m->pid, 0);
  drop(directory);
  /* A container that has ended has nothing to watch; who asks finds out. */
  if (event < 0 && process >= 0) {
    drop(process);
    errno = err;
    return failed(report, "watch %s for kills", m->memory);
  }
  struct pollfd wait[] = {
    {.fd = event, .events = POLLIN}, {.fd = process, .events = POLLIN}, {.fd = channel, .events = POLLRDHUP}};
  if (process >= 0)
    poll(wait, 3, (int)m->timeout_ms); /* a signal is the decider's to answer */
  drop(process);
  drop(event);
  return 0;
}
