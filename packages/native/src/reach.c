/* A caller's side of what relay.c and hybrid vsock serve: the lines that are said before a stream is open. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"
#include "relay.h"

/* One line without its end, no byte more than it. */
static bool read_line(int fd, char *line, size_t size)
{
  for (size_t at = 0; at < size; at++) {
    ssize_t n;
    do
      n = read(fd, line + at, 1);
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
      errno = n == 0 ? ECONNRESET : errno;
      return false;
    }
    if (line[at] == '\n') {
      line[at] = 0;
      return true;
    }
  }
  errno = EPROTO;
  return false;
}

/* Both questions at once: neither answer changes what is asked next. */
int relay_dial(const char *relay, unsigned port, const char *path)
{
  char connect[32] = "", question[LINE_MAX_SIZE] = "", text[sizeof connect + sizeof question];
  if (port)
    snprintf(connect, sizeof connect, "CONNECT %u\n", port);
  if (*path && snprintf(question, sizeof question, "PATH %s\n", path) >= (int)sizeof question) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int fd = unix_connect(relay);
  if (fd < 0)
    return -1;
  snprintf(text, sizeof text, "%s%s", connect, question);
  /* Who does not listen to the end may have said why. */
  if (write_all(fd, text, strlen(text)) || errno == EPIPE || errno == ECONNRESET)
    return fd;
  drop(fd);
  return -1;
}

bool relay_granted(int fd, unsigned port, const char *path)
{
  char line[LINE_MAX_SIZE];
  if (port) {
    if (!read_line(fd, line, sizeof line))
      return false;
    errno = EPROTO;
    if (strncmp(line, "OK", 2) != 0)
      return false;
  }
  if (!*path)
    return true;
  if (!read_line(fd, line, sizeof line))
    return false;
  errno = strncmp(line, "ERR ", 4) == 0 ? word_errno(line + 4) : EPROTO;
  return strcmp(line, "OK") == 0;
}

int relay_reach(const char *relay, unsigned port, const char *path)
{
  int fd = relay_dial(relay, port, path);
  if (fd < 0 || relay_granted(fd, port, path))
    return fd;
  drop(fd);
  return -1;
}
