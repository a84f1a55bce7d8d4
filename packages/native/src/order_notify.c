/* The order that tells a service manager something (sd_notify(3)): Node has no datagrams on unix sockets. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "orders.h"

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
  int result = sendto(fd, o->text, text, MSG_NOSIGNAL, (struct sockaddr *)&address, length) == (ssize_t)text
                 ? 0
                 : failed(&run->report, "notify %s", o->socket);
  drop(fd);
  return result;
}
