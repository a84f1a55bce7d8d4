/*
 * Connections. Sockets stay blocking and every call says MSG_DONTWAIT: O_NONBLOCK belongs to the open file description, which a
 * tree stream's writer shares with serve.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "procs.h"

/* A peer that owes us so many bytes of reading is not read from until it has taken them. */
#define BACKLOG_LIMIT (256u << 10)
/* A connection that is only kept for what its peer has yet to read is closed when that takes nothing for so long. */
#define STALL_MS 10000

int conn_listen(const char *name)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(name) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  mode_t mask = umask(0177);
  int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
  int err = errno;
  umask(mask);
  if (bound < 0 || listen(fd, 128) < 0) {
    err = bound < 0 ? err : errno;
    close(fd);
    errno = err;
    return -1;
  }
  return fd;
}

void conn_close(struct conn *c)
{
  fd_close(&c->fd);
  buffer_free(&c->in);
  buffer_free(&c->out);
  c->sent = 0;
}

bool conn_read(struct conn *c)
{
  ssize_t n = recv(c->fd, scratch, SCRATCH_SIZE, MSG_DONTWAIT);
  if (n > 0) {
    buffer_append(&c->in, scratch, (size_t)n);
    return true;
  }
  return n < 0 && (errno == EAGAIN || errno == EINTR);
}

int conn_frame(struct conn *c, size_t *at, struct frame_header *header, const uint8_t **body)
{
  size_t left = c->in.size - *at;
  if (left < FRAME_HEADER)
    return 0;
  memcpy(header, c->in.data + *at, FRAME_HEADER);
  /* Checked before the body is there: garbage must not make us wait for, or keep, megabytes. */
  if (header->size > FRAME_MAX || header->reserved || !message_name(header->type))
    return -1;
  if (left - FRAME_HEADER < header->size)
    return 0;
  *body = c->in.data + *at + FRAME_HEADER;
  *at += FRAME_HEADER + header->size;
  return 1;
}

void conn_flush(struct conn *c)
{
  while (c->fd >= 0 && conn_backlog(c)) {
    ssize_t n = send(c->fd, c->out.data + c->sent, conn_backlog(c), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && (errno != EAGAIN || (c->ending && now_ms() - c->moved > STALL_MS))) {
      fd_close(&c->fd);
      break;
    }
    if (n < 0) {
      if (c->ending)
        loop_until(c->moved + STALL_MS + 1);
      return;
    }
    c->sent += (size_t)n;
    c->moved = now_ms();
  }
  buffer_free(&c->out);
  c->sent = 0;
}

void conn_end(struct conn *c)
{
  if (!c->ending)
    c->moved = now_ms();
  c->ending = true;
}

short conn_events(const struct conn *c)
{
  size_t backlog = conn_backlog(c);
  return (short)((backlog > BACKLOG_LIMIT || c->ending ? 0 : POLLIN) | (backlog ? POLLOUT : 0));
}

void conn_report(struct conn *c, uint32_t id, int err, const char *format, ...)
{
  struct report report = {.err = (uint32_t)err, .order = NO_ORDER};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report.detail, sizeof report.detail, format, arguments);
  va_end(arguments);
  report_encode(&report, id, &c->out);
}
