/* pause and resume: packages/runtime/src/state/freezer.ts in C. */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"

/* v1 goes back from FREEZING when a process forks meanwhile: it is then thawed and tried again. */
#define TRIES 1000
#define THAW_EVERY 50

/* The kernel has no event for a v1 freezer, and tells of v2's only every 10 ms. */
static void pause_a_moment(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static bool contains_line(const char *text, const char *line)
{
  size_t size = strlen(line);
  for (const char *at = text; at; at = strchr(at, '\n')) {
    at += *at == '\n';
    if (strncmp(at, line, size) == 0 && (at[size] == '\n' || at[size] == 0))
      return true;
  }
  return false;
}

/* Whether the file says so in time; `again` is what is written until it does, `back` what undoes that now and then. */
static bool settle(int directory, const char *file, const char *line, const char *again, const char *back)
{
  char text[256];
  for (int tries = 0; tries < TRIES; tries++) {
    if (again && tries % THAW_EVERY == THAW_EVERY - 1 && !write_text(directory, "freezer.state", back))
      return false;
    if (again && !write_text(directory, "freezer.state", again))
      return false;
    if (read_small(directory, file, text, sizeof text) < 0)
      return false;
    if (contains_line(text, line))
      return true;
    pause_a_moment();
  }
  return false;
}

static int open_freezer(const struct record *r)
{
  return r->freezer == FREEZER_NONE ? -1 : open(r->freezer_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

bool freeze(const struct record *r)
{
  int directory = open_freezer(r);
  if (directory < 0)
    return false;
  bool frozen = r->freezer == FREEZER_V1 ? settle(directory, "freezer.state", "FROZEN", "FROZEN", "THAWED")
                                         : write_text(directory, "cgroup.freeze", "1") &&
                                             settle(directory, "cgroup.events", "frozen 1", NULL, NULL);
  if (!frozen)
    write_text(directory, r->freezer == FREEZER_V1 ? "freezer.state" : "cgroup.freeze", r->freezer == FREEZER_V1 ? "THAWED" : "0");
  close(directory);
  return frozen;
}

bool thaw(const struct record *r)
{
  int directory = open_freezer(r);
  if (directory < 0)
    return r->freezer == FREEZER_NONE;
  bool thawed = r->freezer == FREEZER_V1 ? write_text(directory, "freezer.state", "THAWED") : write_text(directory, "cgroup.freeze", "0");
  close(directory);
  return thawed;
}

int verb_pause(int root, char **argv, int argc)
{
  struct record r;
  enum status status;
  if (!only_container(&r, root, argv, argc))
    return TO_NODE;
  bool paused = record_status(&r, &status) && (status == RUNNING || status == CREATED) && freeze(&r);
  record_close(&r);
  return paused ? 0 : TO_NODE;
}

int verb_resume(int root, char **argv, int argc)
{
  struct record r;
  enum status status;
  if (!only_container(&r, root, argv, argc))
    return TO_NODE;
  bool resumed = record_status(&r, &status) && status == PAUSED && thaw(&r);
  record_close(&r);
  return resumed ? 0 : TO_NODE;
}
