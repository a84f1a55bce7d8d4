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

static bool ask(int fd, const char *question, char *answer, size_t size)
{
  return write_all(fd, question, strlen(question)) && read_line(fd, answer, size);
}

static bool ask_port(int fd, unsigned port)
{
  char line[LINE_MAX_SIZE], question[32];
  snprintf(question, sizeof question, "CONNECT %u\n", port);
  if (!ask(fd, question, line, sizeof line))
    return false;
  errno = EPROTO;
  return strncmp(line, "OK", 2) == 0;
}

static bool ask_path(int fd, const char *path)
{
  char line[LINE_MAX_SIZE], question[LINE_MAX_SIZE];
  bool fits = snprintf(question, sizeof question, "PATH %s\n", path) < (int)sizeof question;
  errno = ENAMETOOLONG;
  if (!fits || !ask(fd, question, line, sizeof line))
    return false;
  errno = strncmp(line, "ERR ", 4) == 0 ? word_errno(line + 4) : EPROTO;
  return strcmp(line, "OK") == 0;
}

int relay_reach(const char *relay, unsigned port, const char *path)
{
  int fd = unix_connect(relay);
  if (fd < 0 || ((!port || ask_port(fd, port)) && (!*path || ask_path(fd, path))))
    return fd;
  drop(fd);
  return -1;
}
