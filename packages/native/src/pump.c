/* Pairs of sockets whose bytes go to one another until both directions have ended. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "procs.h"
#include "pump.h"

/* `ended`: nothing comes from here any more; `shut`: and the other side was told. `hung`: nobody is there, and it is not polled. */
struct side { struct pump *pump; int fd; bool ended, shut, deaf, hung; struct buffer out; size_t sent; };
struct pump { struct pump *next; struct side side[2]; };

static struct pump *pumps;

static struct side *other(const struct side *s)
{
  return &s->pump->side[s == &s->pump->side[0]];
}

static size_t backlog(const struct side *s)
{
  return s->out.size - s->sent;
}

static void push(struct side *s)
{
  while (backlog(s)) {
    ssize_t n = s->deaf ? (ssize_t)backlog(s) : write(s->fd, s->out.data + s->sent, backlog(s));
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0 && errno != EINTR)
      s->deaf = true;
    s->sent += n > 0 ? (size_t)n : 0;
  }
  buffer_free(&s->out);
  s->sent = 0;
  struct side *from = other(s);
  if (from->ended && !from->shut) {
    from->shut = true;
    shutdown(s->fd, SHUT_WR);
  }
}

static bool may_pull(const struct side *s)
{
  return !s->ended && !backlog(other(s));
}

static void pull(struct side *s)
{
  ssize_t n = read(s->fd, scratch, SCRATCH_SIZE);
  if (n > 0)
    buffer_append(&other(s)->out, scratch, (size_t)n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    s->ended = true;
  push(other(s));
}

static void side_ready(void *object, short events)
{
  struct side *s = object;
  if (events & (POLLHUP | POLLERR))
    s->hung = true;
  if (events & POLLOUT)
    push(s);
  if (may_pull(s))
    pull(s);
}

/* What a side has left that hangs is read without waiting for it. */
static void hung_turn(struct side *s)
{
  s->deaf = true;
  push(s);
  if (may_pull(s))
    pull(s);
  if (may_pull(s))
    loop_again();
}

static void side_register(struct side *s)
{
  if (!s->hung)
    loop_on(s->fd, (short)((may_pull(s) ? POLLIN : 0) | (backlog(s) ? POLLOUT : 0)), side_ready, s);
}

/* Where one side has gone for good and all that it said was delivered, the other has nobody to talk to. */
static bool is_over(const struct pump *p)
{
  const struct side *a = &p->side[0], *b = &p->side[1];
  return (a->shut && b->shut) || (a->hung && a->shut) || (b->hung && b->shut);
}

void pump_start(int a, int b, const void *early, size_t early_size)
{
  struct pump *p = calloc(1, sizeof *p);
  if (!p)
    _exit(70);
  *p = (struct pump){.next = pumps, .side = {{.pump = p, .fd = a}, {.pump = p, .fd = b}}};
  pumps = p;
  buffer_append(&p->side[1].out, early, early_size);
  push(&p->side[1]);
}

static void pump_free(struct pump *p)
{
  for (int i = 0; i < 2; i++) {
    fd_close(&p->side[i].fd);
    buffer_free(&p->side[i].out);
  }
  free(p);
}

void pumps_turn(void)
{
  for (struct pump **at = &pumps, *p; (p = *at);) {
    for (int i = 0; i < 2; i++)
      if (p->side[i].hung)
        hung_turn(&p->side[i]);
    if (is_over(p)) {
      *at = p->next;
      pump_free(p);
      continue;
    }
    for (int i = 0; i < 2; i++)
      side_register(&p->side[i]);
    at = &p->next;
  }
}

void pumps_end(void)
{
  while (pumps) {
    struct pump *p = pumps;
    pumps = p->next;
    pump_free(p);
  }
}
