/* The processes of a container, by its cgroup: packages/runtime/src/state/processes.ts in C. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"

static void add(struct pids *pids, pid_t pid)
{
  if (pids->count == pids->room) {
    pids->room = pids->room ? pids->room * 2 : 64;
    pids->list = realloc(pids->list, pids->room * sizeof *pids->list);
    if (!pids->list)
      abort();
  }
  pids->list[pids->count++] = pid;
}

static bool is_gone(int err) { return err == ENOENT || err == ENOTDIR || err == ENODEV; }

static bool read_own(int directory, struct pids *pids)
{
  int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
  FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
  if (!file)
    return is_gone(errno);
  long pid;
  while (fscanf(file, "%ld", &pid) == 1)
    if (pid > 0)
      add(pids, (pid_t)pid);
  bool read = !ferror(file) || is_gone(errno);
  fclose(file);
  return read;
}

/* Takes `directory` over. */
static bool read_below(int directory, struct pids *pids)
{
  DIR *entries = NULL;
  bool read = read_own(directory, pids) && (entries = fdopendir(directory));
  if (!entries)
    close(directory);
  for (struct dirent *entry; read && (entry = readdir(entries));) {
    if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
      continue;
    int below = openat(directory, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    read = below < 0 ? is_gone(errno) : read_below(below, pids);
  }
  if (entries)
    closedir(entries);
  return read;
}

bool processes_of(const struct record *r, struct pids *pids)
{
  *pids = (struct pids){0};
  if (!*r->processes_directory)
    return true;
  int directory = open(r->processes_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return directory < 0 ? is_gone(errno) : read_below(directory, pids);
}

void pids_free(struct pids *pids) { free(pids->list); }

void kill_each(const struct pids *pids, int number)
{
  for (size_t i = 0; i < pids->count; i++)
    kill(pids->list[i], number); /* ESRCH: it has ended by itself */
}
