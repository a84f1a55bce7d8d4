/* The virtio-serial port that the guest's end of the channel is at. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"
#include "procs.h"

#define PORTS "/sys/class/virtio-ports"

struct search { const char *name; int fd; };

static bool is_called(const char *device, const char *name)
{
  char path[300], text[128];
  snprintf(path, sizeof path, PORTS "/%s/name", device);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  ssize_t size = read(fd, text, sizeof text - 1);
  close(fd);
  if (size <= 0)
    return false;
  text[size] = 0;
  text[strcspn(text, "\n")] = 0;
  return strcmp(text, name) == 0;
}

/* The name comes after the port, in a message of its own: also a port that has none yet is looked at again. */
static bool find_port(void *object)
{
  struct search *search = object;
  char path[300];
  DIR *ports = opendir(PORTS);
  if (!ports)
    return false;
  for (struct dirent *entry; search->fd < 0 && (entry = readdir(ports));) {
    if (entry->d_name[0] == '.' || !is_called(entry->d_name, search->name))
      continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    search->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  }
  closedir(ports);
  return search->fd >= 0;
}

int port_wait(const char *name)
{
  struct search search = {.name = name, .fd = -1};
  uevent_wait(find_port, &search, -1);
  return search.fd;
}

/* The signal is asked for before the port is looked at, and only then: with somebody there it would come with every byte. */
bool port_attend(int port)
{
  struct pollfd look = {.fd = port, .events = POLLIN};
  int flags = fcntl(port, F_GETFL);
  if (fcntl(port, F_SETOWN, getpid()) < 0 || fcntl(port, F_SETFL, flags | O_ASYNC) < 0)
    guest_fail("ask for the signal of the channel's port: %s", strerror(errno));
  if (poll(&look, 1, 0) > 0 && look.revents & POLLHUP)
    return false;
  fcntl(port, F_SETFL, flags & ~O_ASYNC);
  return true;
}
