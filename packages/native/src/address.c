/* Unix sockets whose path may be longer than an address has room for: those go through a descriptor of their directory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay.h"

#define LISTEN_BACKLOG 128

/* The descriptor, where one is needed, is to be closed once the address was used. */
static bool address_of(const char *path, struct sockaddr_un *address, int *directory)
{
  char parent[4096];
  const char *name = strrchr(path, '/');
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  *directory = -1;
  if (strlen(path) < sizeof address->sun_path) {
    strcpy(address->sun_path, path);
    return true;
  }
  errno = ENAMETOOLONG;
  if (!name || (size_t)(name - path) >= sizeof parent)
    return false;
  memcpy(parent, path, (size_t)(name - path));
  parent[name - path] = 0;
  *directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (*directory < 0)
    return false;
  int size = snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d%s", *directory, name);
  errno = ENAMETOOLONG;
  return size < (int)sizeof address->sun_path;
}

static int finished(int fd, bool good, int directory)
{
  int err = errno;
  if (!good && fd >= 0)
    close(fd);
  if (directory >= 0)
    close(directory);
  errno = err;
  return good ? fd : -1;
}

int unix_connect(const char *path)
{
  struct sockaddr_un address;
  int directory, fd = -1;
  bool good = address_of(path, &address, &directory) && (fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0 &&
              connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
  return finished(fd, good, directory);
}

int unix_listen(const char *path)
{
  struct sockaddr_un address;
  int directory, fd = -1;
  mode_t mask = umask(0177);
  bool good = address_of(path, &address, &directory) && (unlink(path) == 0 || errno == ENOENT) &&
              (fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) >= 0 &&
              bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, LISTEN_BACKLOG) == 0;
  umask(mask);
  return finished(fd, good, directory);
}
