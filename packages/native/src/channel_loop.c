/* A channel in the loop: who is polled for what. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "channel.h"
#include "procs.h"

static void stream_ready(void *object, short events)
{
  struct stream *s = object;
  if (s->dead)
    return;
  if (s->connecting) {
    s->channel->connected(s);
    return;
  }
  if (events & (POLLHUP | POLLERR | POLLNVAL))
    s->hung = true;
  if (events & POLLOUT)
    stream_push(s);
  if (events & POLLIN && stream_wants_pull(s))
    stream_pull(s);
}

/* A socket that hangs shows so without end, and is polled no more: what it has left is read as the other end takes it. */
static void hung_turn(struct stream *s)
{
  s->deaf = true;
  stream_push(s);
  if (s->told_shut || s->heard_close)
    stream_abandon(s);
  else if (stream_wants_pull(s))
    stream_pull(s);
  if (s->dead || stream_wants_pull(s))
    loop_again();
}

static void stream_register(struct stream *s)
{
  if (s->connecting)
    loop_on(s->fd, POLLOUT, stream_ready, s);
  else if (s->open && !s->hung)
    loop_on(s->fd, (short)((stream_wants_pull(s) ? POLLIN : 0) | (stream_backlog(s) ? POLLOUT : 0)), stream_ready, s);
}

bool channel_flush(struct channel *c, int port)
{
  while (channel_backlog(c)) {
    ssize_t n = write(port, c->out.data + c->sent, channel_backlog(c));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno == EAGAIN;
    c->sent += (size_t)n;
  }
  buffer_free(&c->out);
  c->sent = 0;
  return true;
}

void channel_turn(struct channel *c)
{
  for (struct stream *s = c->streams; s; s = s->next)
    if (s->hung && s->open && !s->dead)
      hung_turn(s);
  channel_sweep(c);
  for (struct stream *s = c->streams; s; s = s->next)
    stream_register(s);
}

short channel_events(const struct channel *c)
{
  return (short)(POLLIN | (channel_backlog(c) ? POLLOUT : 0));
}
