/* The order that tells a service manager something (sd_notify(3)): Node has no datagrams on unix sockets. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "orders.h"

/* What a service manager may take, reloading all of its units, until it reads what was sent to it. */
#define BARRIER_MS 30000

/*
 * Until the other side has read all that was sent. It looks up which unit the sender belongs to when it reads, and ignores a
 * message whose sender has ended by then. It closes the descriptor that came, whether or not it knows the word
 * (sd_notify_barrier(3)).
 */
static int barrier(int socket)
{
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) < 0)
    return -1;
  static const char text[] = "BARRIER=1";
  int result = pass_descriptor(socket, pipes[1], text, sizeof text - 1);
  drop(pipes[1]);
  struct pollfd closed = {.fd = pipes[0]};
  int ready = 1;
  if (result == 0)
    do
      ready = poll(&closed, 1, BARRIER_MS);
    while (ready < 0 && errno == EINTR);
  if (ready == 0)
    errno = ETIMEDOUT;
  drop(pipes[0]);
  return result == 0 && ready > 0 ? 0 : -1;
}

int order_notify(struct run *run, const struct order_notify *o)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = strlen(o->socket);
  if (size < 2 || size >= sizeof address.sun_path || (*o->socket != '/' && *o->socket != '@'))
    return fail(&run->report, EINVAL, "notify %s", o->socket);
  memcpy(address.sun_path, o->socket, size);
  if (*o->socket == '@')
    address.sun_path[0] = 0; /* unix(7): a name without a file */
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return failed(&run->report, "notify %s", o->socket);
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
  size_t text = strlen(o->text);
  bool sent = connect(fd, (struct sockaddr *)&address, length) == 0 && send(fd, o->text, text, MSG_NOSIGNAL) == (ssize_t)text;
  int result = sent && barrier(fd) == 0 ? 0 : failed(&run->report, "notify %s", o->socket);
  drop(fd);
  return result;
}
