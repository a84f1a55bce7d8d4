/* start: whoever waits at the container's FIFO goes on to its program. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "command.h"

#define FIFO "exec.fifo"

/* Whether the process has written its byte; it may die instead, or another start may have been faster. */
static bool let_go(int fifo, int process)
{
  struct pollfd wait[] = {{.fd = fifo, .events = POLLIN}, {.fd = process, .events = POLLIN}};
  char byte;
  while (poll(wait, 2, -1) < 0)
    ;
  return read(fifo, &byte, 1) == 1;
}

int verb_start(int root, char **argv, int argc)
{
  struct record r;
  enum status status;
  const char *announced = getenv("NOTIFY_SOCKET");
  /* Who is to be told that the container is ready waits for that. */
  if (announced && *announced)
    return TO_NODE;
  if (!only_container(&r, root, argv, argc) || r.start_needs_node || !record_status(&r, &status) || status != CREATED)
    return TO_NODE;
  int process = open_process(&r);
  /* Without waiting for the other end: that the process dies first is seen by its descriptor. */
  int fifo = process < 0 ? -1 : openat(r.directory, FIFO, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fifo < 0 || !let_go(fifo, process))
    return TO_NODE;
  unlinkat(r.directory, FIFO, 0);
  return 0;
}
