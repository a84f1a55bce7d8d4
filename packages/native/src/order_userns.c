/* The order by which a process that is not root enters a user namespace of its own (user_namespaces(7), newuidmap(1)). */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"

#define MOST_LINES 340 /* of a map */

struct mapped { uint32_t err; char detail[sizeof((struct report *)0)->detail]; };

static int write_file(struct run *run, pid_t pid, const char *name, const char *text)
{
  char path[64];
  size_t size = strlen(text);
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  int result = fd >= 0 && write(fd, text, size) == (ssize_t)size ? 0 : failed(&run->report, "write %s", path);
  drop(fd);
  return result;
}

/* "newuidmap PID INSIDE OUTSIDE COUNT ...": the words of the map as they are. */
static int run_mapper(struct run *run, const char *helper, pid_t pid, const char *map)
{
  char number[16], *words[2 + 3 * MOST_LINES + 1] = {(char *)(uintptr_t)helper, number}, *copy = strdup(map), *rest = copy;
  size_t count = 2;
  if (!copy)
    return fail(&run->report, ENOMEM, "%s", helper);
  snprintf(number, sizeof number, "%d", pid);
  for (char *word; (word = strsep(&rest, " \n")) && count < sizeof words / sizeof *words - 1;)
    if (*word)
      words[count++] = word;
  int result = run_tool(run, words);
  free(copy);
  return result;
}

static int write_map(struct run *run, pid_t pid, const char *file, const char *helper, const char *map)
{
  return *helper ? run_mapper(run, helper, pid, map) : write_file(run, pid, file, map);
}

static int write_maps(struct run *run, pid_t pid, const struct order_enter_userns *o)
{
  if (write_map(run, pid, "uid_map", o->uid_helper, o->uid_map) < 0)
    return -1;
  if (o->deny_setgroups && write_file(run, pid, "setgroups", "deny") < 0)
    return -1;
  return write_map(run, pid, "gid_map", o->gid_helper, o->gid_map);
}

/* Stays in the namespace that is left, where alone the maps can be written. */
static void mapper(struct run *run, int fd, pid_t pid, const struct order_enter_userns *o) __attribute__((noreturn));
static void mapper(struct run *run, int fd, pid_t pid, const struct order_enter_userns *o)
{
  struct mapped answer = {0};
  char go;
  child_clean("bosun-mapper", &fd, 1);
  /* It has failed, and says so itself. */
  if (read(fd, &go, 1) != 1)
    _exit(1);
  run->report = (struct report){.order = NO_ORDER};
  if (write_maps(run, pid, o) < 0)
    answer.err = run->report.err;
  memcpy(answer.detail, run->report.detail, sizeof answer.detail);
  _exit(write(fd, &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1);
}

static int be_mapped(struct run *run, int fd)
{
  struct mapped answer;
  ssize_t size;
  /* The map files of a process that is not dumpable belong to root. */
  if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
    return failed(&run->report, "prctl PR_SET_DUMPABLE 1");
  if (unshare(CLONE_NEWUSER) < 0)
    return failed(&run->report, "unshare CLONE_NEWUSER");
  if (write(fd, "", 1) != 1)
    return failed(&run->report, "ask for the maps");
  do
    size = read(fd, &answer, sizeof answer);
  while (size < 0 && errno == EINTR);
  if (size != (ssize_t)sizeof answer)
    return fail(&run->report, EIO, "the process that writes the maps has ended");
  return answer.err ? fail(&run->report, (int)answer.err, "%.*s", (int)sizeof answer.detail - 1, answer.detail) : 0;
}

int order_enter_userns(struct run *run, const struct order_enter_userns *o)
{
  int pair[2];
  pid_t own = getpid();
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(&run->report, "socketpair");
  pid_t pid = fork();
  if (pid == 0)
    mapper(run, pair[1], own, o);
  drop(pair[1]);
  int result = pid < 0 ? failed(&run->report, "fork") : be_mapped(run, pair[0]);
  drop(pair[0]);
  while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
  return result < 0 ? -1 : become_namespace_root(run, !o->deny_setgroups);
}
