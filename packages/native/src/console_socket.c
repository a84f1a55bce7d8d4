/* Descriptors to those who asked for them: a console socket gets the terminal's master, a pidfd socket the process. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "launch.h"
#include "orders.h"

/* A path that is longer than an address is reached by its directory. */
static int connect_to(const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    drop(fd);
    return -1;
  }
  return fd;
}

int pass_descriptor(int socket, int fd, const void *text, size_t size)
{
  struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = size};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  memset(&control, 0, sizeof control);
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ssize_t sent;
  do
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == (ssize_t)size ? 0 : -1;
}

int send_descriptor(const char *socket_path, int fd, const char *name)
{
  int socket = connect_to(socket_path);
  if (socket < 0)
    return -1;
  int result = pass_descriptor(socket, fd, name, strlen(name));
  drop(socket);
  return result;
}
