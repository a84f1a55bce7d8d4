/* delete: the container's last process, its cgroup, its state. packages/runtime/src/state/removal.ts in C. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

#define KILL_DEADLINE_MS 10000
#define REMOVE_DEADLINE_MS 2000
#define LAST_POLL_MS 100

static int64_t now_ms(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* For an end of `process` (-1: of none), or for `ms`. */
static void wait_ms(int process, int ms) { poll(&(struct pollfd){.fd = process, .events = POLLIN}, process >= 0, ms); }

static bool kill_everything(const struct record *r)
{
  int64_t deadline = now_ms() + KILL_DEADLINE_MS;
  for (int pause = 1;; pause = pause * 2 > LAST_POLL_MS ? LAST_POLL_MS : pause * 2) {
    struct pids pids;
    bool frozen, read = processes_of(r, &pids) && is_frozen(r, &frozen);
    int process = open_process(r);
    bool left = process >= 0 || pids.count > 0;
    if (read && left) {
      kill_each(&pids, SIGKILL);
      if (process >= 0)
        signal_process(process, SIGKILL);
      if (frozen)
        read = thaw(r);
      wait_ms(process, process >= 0 ? LAST_POLL_MS : pause);
    }
    pids_free(&pids);
    if (process >= 0)
      close(process);
    if (!read || !left || now_ms() > deadline)
      return read && !left;
  }
}

static bool remove_below(int parent, const char *name, bool files);

static bool remove_entries(int directory, bool files)
{
  DIR *entries = fdopendir(directory);
  if (!entries) {
    close(directory);
    return false;
  }
  bool removed = true;
  for (struct dirent *entry; removed && (entry = readdir(entries));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    if (entry->d_type == DT_DIR)
      removed = remove_below(directory, entry->d_name, files);
    else if (files) /* a cgroup's go with it */
      removed = unlinkat(directory, entry->d_name, 0) == 0 || errno == ENOENT;
  }
  int err = errno;
  closedir(entries);
  errno = err;
  return removed;
}

/* A directory with those in it, and with `files` all else. */
static bool remove_below(int parent, const char *name, bool files)
{
  if (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
    return true;
  if (errno != EBUSY && errno != ENOTEMPTY)
    return false;
  int directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (directory < 0)
    return errno == ENOENT;
  return remove_entries(directory, files) && (unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT);
}

/* The kernel answers EBUSY for a moment after the last process is gone. */
static bool remove_cgroup(const char *path)
{
  int64_t deadline = now_ms() + REMOVE_DEADLINE_MS;
  for (int pause = 1; !remove_below(AT_FDCWD, path, false); pause = pause * 2 > LAST_POLL_MS ? LAST_POLL_MS : pause * 2) {
    if (errno != EBUSY || now_ms() > deadline)
      return false;
    wait_ms(-1, pause);
  }
  return true;
}

static bool remove_container(int root, const struct record *r)
{
  if (!kill_everything(r))
    return false;
  const char *cgroup = r->cgroups;
  for (size_t i = 0; i < r->cgroup_count; i++, cgroup = next_string(cgroup))
    if (!remove_cgroup(cgroup))
      return false;
  return remove_below(root, r->id, true);
}

int verb_delete(int root, char **argv, int argc)
{
  struct flag force = {.name = "force", .alias = "f"};
  struct record r;
  enum status status;
  bool missing = true;
  if (parse_flags(&force, 1, argv, argc, false) != 1 || !is_id(argv[0]))
    return TO_NODE;
  if (root < 0 || !record_open(&r, root, argv[0], &missing))
    return missing && flag_set(&force) ? 0 : TO_NODE;
  if (r.delete_needs_node || !record_status(&r, &status) || (status != STOPPED && status != CREATED && !flag_set(&force)))
    return TO_NODE;
  /* What fails on the way is tried again by Node, which has words for it. */
  return remove_container(root, &r) ? 0 : TO_NODE;
}
