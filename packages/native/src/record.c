/* What the monitor leaves on disk for those who come after it, and the counter that tells an OOM kill. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "procs.h"

static const char *const phases[] = {"creating", "created", "running", "exited"};

int record_write(const struct record *record, const struct message_state *state)
{
  char text[512];
  int size = snprintf(text, sizeof text,
    "version 1\nphase %s\nmonitor_pid %d\npid %" PRIu32 "\npid_start %" PRIu64 "\ncreated_at %" PRIu64 "\nstarted_at %" PRIu64
    "\nfinished_at %" PRIu64 "\ncode %" PRIu32 "\nsignal %" PRIu32 "\noom %" PRIu32 "\nlost %" PRIu64 "\n",
    phases[state->phase], record->monitor, state->pid, state->pid_start, state->created_at, state->started_at,
    state->finished_at, state->code, state->signal, state->oom, state->lost);
  int fd = openat(record->dir, ".record.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return -1;
  bool written = write_all(fd, text, (size_t)size);
  int err = errno;
  close(fd);
  if (written && renameat(record->dir, ".record.new", record->dir, "record") == 0)
    return 0;
  err = written ? errno : err;
  unlinkat(record->dir, ".record.new", 0);
  errno = err;
  return -1;
}

uint64_t process_start(pid_t pid)
{
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0)
    return 0;
  text[n] = 0;
  char *at = strrchr(text, ')'); /* the end of field 2, which may hold anything */
  for (int field = 2; at && field < 22; field++)
    at = strchr(at + 1, ' ');
  return at ? strtoull(at + 1, NULL, 10) : 0;
}

static uint64_t oom_read(struct oom_counter *counter)
{
  char text[1024], *rest = NULL;
  ssize_t n = counter->fd < 0 ? -1 : pread(counter->fd, text, sizeof text - 1, 0);
  if (n < 0)
    fd_close(&counter->fd); /* its cgroup is gone */
  if (n <= 0)
    return 0;
  text[n] = 0;
  size_t size = strlen(counter->key);
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
    if (!strncmp(line, counter->key, size) && line[size] == ' ')
      return strtoull(line + size + 1, NULL, 10);
  return 0;
}

void oom_open(struct oom_counter *counter, const char *file, const char *key)
{
  *counter = (struct oom_counter){.fd = *file ? open(file, O_RDONLY | O_CLOEXEC) : -1};
  snprintf(counter->key, sizeof counter->key, "%s", key);
  counter->before = oom_read(counter);
}

bool oom_grew(struct oom_counter *counter)
{
  if (oom_read(counter) > counter->before) /* always read: until then the kernel says that it has changed */
    counter->grew = true;
  return counter->grew;
}
