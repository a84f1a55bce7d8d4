/* Waiting for devices by what the kernel tells of them (netlink, NETLINK_KOBJECT_UEVENT). */
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"
#include "procs.h"

#define FROM_KERNEL 1

bool uevent_wait(bool (*found)(void *object), void *object, int timeout_ms)
{
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = FROM_KERNEL};
  uint8_t message[4096];
  uint64_t end = now_ms() + (uint64_t)timeout_ms;
  int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT), err = 0;
  if (fd < 0)
    return false;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
    err = errno;
  /* Looked for after the socket listens, so that nothing comes between. */
  while (!err && !found(object)) {
    uint64_t now = now_ms();
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (timeout_ms >= 0 && now >= end)
      err = ETIMEDOUT;
    else if (poll(&wait, 1, timeout_ms < 0 ? -1 : (int)(end - now)) < 0 && errno != EINTR)
      err = errno;
    while (!err && recv(fd, message, sizeof message, 0) > 0)
      ;
  }
  close(fd);
  errno = err;
  return !err;
}
