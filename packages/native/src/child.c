/* What every fork must do, and what passes between parent and child. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "procs.h"

#define KEEP_MAX 8

static void close_all_but(unsigned first, const int *keep, size_t count)
{
  int sorted[KEEP_MAX];
  size_t n = 0;
  for (size_t i = 0; i < count && n < KEEP_MAX; i++) {
    if (keep[i] < (int)first)
      continue;
    size_t at = n++;
    for (; at > 0 && sorted[at - 1] > keep[i]; at--)
      sorted[at] = sorted[at - 1];
    sorted[at] = keep[i];
  }
  for (size_t i = 0; i < n; i++) {
    if ((unsigned)sorted[i] > first)
      syscall(SYS_close_range, first, (unsigned)sorted[i] - 1, 0);
    first = (unsigned)sorted[i] + 1;
  }
  syscall(SYS_close_range, first, ~0u, 0);
}

void child_clean(const char *name, const int *keep, size_t count) { child_clean_from(3, name, keep, count); }

void child_clean_from(unsigned first, const char *name, const int *keep, size_t count)
{
  for (int signal = 1; signal < _NSIG; signal++) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(signal, &standard, NULL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  close_all_but(first, keep, count);
  if (name)
    prctl(PR_SET_NAME, name);
}

void child_null_stdio(void)
{
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return;
  for (int i = 0; i < 3; i++)
    dup2(fd, i);
  if (fd > 2)
    close(fd);
}

void child_follow(pid_t parent)
{
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(1);
}

bool fd_nonblock(int fd)
{
  int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

void fd_close(int *fd)
{
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

bool write_all(int fd, const void *data, size_t size)
{
  const uint8_t *at = data;
  while (size) {
    ssize_t n = write(fd, at, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return false;
    at += n;
    size -= (size_t)n;
  }
  return true;
}

ssize_t receive_message(int fd, struct buffer *message, int *passed)
{
  *passed = -1;
  ssize_t size = recv(fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (size < 0)
    return -1;
  /* A datagram of no bytes and the end of the file look alike; nobody sends the former. */
  uint8_t *data = malloc((size_t)size + 1);
  if (!data)
    _exit(70);
  union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
  struct iovec part = {data, (size_t)size + 1};
  struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
  ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got > 0)
    buffer_append(message, data, (size_t)got);
  free(data);
  if (got > 0) {
    struct cmsghdr *extra = CMSG_FIRSTHDR(&header);
    if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS && extra->cmsg_len >= CMSG_LEN(sizeof(int)))
      memcpy(passed, CMSG_DATA(extra), sizeof(int));
  }
  return got;
}

/* The parent of process `name` of /proc, or 0. */
static pid_t parent_of(const char *name)
{
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%.20s/stat", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0)
    return 0;
  text[n] = 0;
  char *end = strrchr(text, ')'); /* the command may hold anything */
  int parent = 0;
  if (!end || sscanf(end + 1, " %*c %d", &parent) != 1)
    return 0;
  return parent;
}

pid_t find_child(bool (*known)(pid_t pid))
{
  DIR *processes = opendir("/proc");
  if (!processes)
    return 0;
  pid_t found = 0;
  for (struct dirent *entry; !found && (entry = readdir(processes));) {
    pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
    if (pid > 0 && !known(pid) && parent_of(entry->d_name) == getpid())
      found = pid;
  }
  closedir(processes);
  return found;
}
