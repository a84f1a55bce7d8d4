/*
 * A container's READY=1 on its way to the service manager of whoever started it (sd_notify(3)): the container's socket is a file of
 * its state, mounted into it; what arrives there is handed on with the number of the process and, so that nothing is lost when this
 * process ends, a barrier.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "launch.h"
#include "orders.h"

#define MESSAGE_MAX 4096
#define BARRIER_MS 30000 /* sd_notify_barrier(3) leaves it to the caller; as runc */
#define READY "READY="

/* By its directory, which may have a longer path than an address has room for. */
static int listen_below(const char *path, struct sockaddr_un *address)
{
  const char *name = strrchr(path, '/');
  char directory[4096];
  if (!name || (size_t)(name - path) >= sizeof directory) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(directory, path, (size_t)(name - path));
  directory[name - path] = 0;
  int parent = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0)
    return -1;
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d%s", parent, name);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  /* Anybody in the container may say that it is ready. */
  if (fd >= 0 && (bind(fd, (struct sockaddr *)address, sizeof *address) < 0 || chmod(address->sun_path, 0777) < 0)) {
    drop(fd);
    fd = -1;
  }
  drop(parent);
  return fd;
}

int ready_begin(struct ready *r, const struct message_notify *m, struct report *report)
{
  struct sockaddr_un address;
  r->main = (pid_t)m->pid;
  r->listener = listen_below(m->socket, &address);
  if (r->listener < 0)
    return failed(report, "bind %s", m->socket);
  size_t size = strlen(m->host);
  address = (struct sockaddr_un){.sun_family = AF_UNIX};
  if (size == 0 || size >= sizeof address.sun_path)
    return fail(report, EINVAL, "NOTIFY_SOCKET %s is no address", m->host);
  memcpy(address.sun_path, m->host, size);
  bool abstract = *m->host == '@';
  if (abstract)
    address.sun_path[0] = 0;
  r->host = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + !abstract);
  if (r->host < 0 || connect(r->host, (struct sockaddr *)&address, length) < 0)
    return failed(report, "connect to NOTIFY_SOCKET %s", m->host);
  return 0;
}

void ready_end(struct ready *r)
{
  fd_close(&r->listener);
  fd_close(&r->host);
}

/* The end of the pipe that comes back closed once the manager has read everything before it. */
static int send_barrier(int host)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -1;
  static const char barrier[] = "BARRIER=1";
  int sent = pass_descriptor(host, ends[1], barrier, sizeof barrier - 1);
  drop(ends[1]);
  if (sent < 0)
    fd_close(&ends[0]);
  return ends[0];
}

static const char *ready_line(char *text)
{
  for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
    if (strncmp(line, READY, strlen(READY)) == 0)
      return line;
  return NULL;
}

int ready_take(struct ready *r, pid_t process)
{
  char text[MESSAGE_MAX + 1], message[MESSAGE_MAX + 2];
  ssize_t size = recv(r->listener, text, MESSAGE_MAX, 0);
  if (size < 0)
    return -1;
  text[size] = 0;
  const char *line = ready_line(text);
  if (!line)
    return -1;
  int length = snprintf(message, sizeof message, "%s\n", line);
  int barrier = -1;
  if (send(r->host, message, (size_t)length, MSG_NOSIGNAL) == length) {
    length = snprintf(message, sizeof message, "MAINPID=%d\n", r->main ? r->main : process);
    if (send(r->host, message, (size_t)length, MSG_NOSIGNAL) == length)
      barrier = send_barrier(r->host);
  }
  ready_end(r);
  return barrier;
}

void ready_wait(struct ready *r, pid_t process)
{
  int ends = (int)syscall(SYS_pidfd_open, r->main ? r->main : process, 0);
  struct pollfd wait[] = {{.fd = r->listener, .events = POLLIN}, {.fd = ends, .events = POLLIN}};
  while (ends >= 0 && r->listener >= 0) {
    if (poll(wait, 2, -1) < 0)
      continue;
    if (!wait[0].revents)
      break; /* it has ended without a word */
    int barrier = ready_take(r, process);
    if (barrier >= 0)
      poll(&(struct pollfd){.fd = barrier, .events = POLLIN}, 1, BARRIER_MS);
    drop(barrier);
  }
  drop(ends);
  ready_end(r);
}
