/* What a session's process reads and writes: pumped between its pipes or terminal, the log, and the clients that are attached. */
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "procs.h"

#define TERMINAL_RETRY_MS 200  /* no process holds the terminal: one may open /dev/console again */
#define ATTACH_LIMIT_MS 30000  /* after the exit, for a client that has not attached yet */

/* --- output ------------------------------------------------------------------------------------------------------------- */

static bool attached_to(const struct client *client, const struct output *o)
{
  return client->session == o->session && client->stream == o->stream && client->conn.fd >= 0 && !client->conn.ending;
}

/*
 * Whoever reads slowest sets the pace, the log included. Once the process is dead that ends: what is left is bounded by the
 * pipe, and the exit must not wait for a client.
 */
static bool may_read(const struct output *o)
{
  if (o->awaited)
    return false;
  if (o->session->dead)
    return true;
  if (o->session->number == 0 && log_blocked(&monitor_log))
    return false;
  for (const struct client *client = monitor_clients; client; client = client->next)
    if (attached_to(client, o) && conn_backlog(&client->conn))
      return false;
  return true;
}

static void output_end(struct output *o)
{
  fd_close(&o->fd);
  if (o->session->number == 0)
    log_end_stream(&monitor_log, o->stream == STREAM_STDERR);
  for (struct client *client = monitor_clients; client; client = client->next)
    if (attached_to(client, o))
      conn_end(&client->conn);
  loop_again();
}

static void deliver(struct output *o, const uint8_t *data, size_t size)
{
  struct session *s = o->session;
  if (s->number == 0)
    log_append(&monitor_log, o->stream == STREAM_STDERR, data, size);
  if (s->sync) {
    size_t room = s->limit - o->kept.size, keep = size < room ? size : room;
    buffer_append(&o->kept, data, keep);
    s->truncated |= keep < size;
  }
  for (struct client *client = monitor_clients; client; client = client->next) {
    if (!attached_to(client, o))
      continue;
    buffer_append(&client->conn.out, data, size);
    conn_flush(&client->conn);
  }
}

static void output_ready(void *object, short events)
{
  struct output *o = object;
  struct session *s = o->session;
  (void)events;
  size_t want = o->last && (size_t)o->left < SCRATCH_SIZE ? (size_t)o->left : SCRATCH_SIZE;
  ssize_t n = read(o->fd, scratch, want);
  if (n > 0) {
    deliver(o, scratch, (size_t)n);
    o->left -= o->last ? (int)n : 0;
    if (o->last && o->left <= 0)
      output_end(o);
  } else if (n < 0 && errno == EIO && s->terminal && !s->dead) {
    o->retry = now_ms() + TERMINAL_RETRY_MS;
  } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    output_end(o);
  }
}

/* Another process may hold the output open after the exit: it is given drain_ms, and then what is in the pipe is the end. */
static void drain(struct output *o)
{
  uint64_t now = now_ms(), limit = o->session->dead_at + o->session->drain_ms;
  if (o->awaited && now >= o->session->dead_at + ATTACH_LIMIT_MS)
    o->awaited = false;
  if (o->awaited) {
    loop_until(o->session->dead_at + ATTACH_LIMIT_MS);
  } else if (now < limit) {
    loop_until(limit);
  } else if (!o->last) {
    o->last = true;
    if (ioctl(o->fd, FIONREAD, &o->left) < 0 || o->left <= 0)
      output_end(o);
  }
}

static void output_turn(struct output *o)
{
  if (o->fd >= 0 && o->session->dead)
    drain(o);
  if (o->fd < 0 || !may_read(o))
    return;
  if (o->retry > now_ms() && !o->session->dead)
    loop_until(o->retry);
  else
    loop_on(o->fd, POLLIN, output_ready, o);
}

struct output *session_output(struct session *s, uint32_t stream)
{
  if (stream == STREAM_STDERR && s->terminal)
    return NULL;
  return stream == STREAM_STDOUT ? &s->out[0] : stream == STREAM_STDERR ? &s->out[1] : NULL;
}

void session_orphan(struct session *s)
{
  s->owner = NULL;
  s->out[0].awaited = s->out[1].awaited = false;
  bool fed = false;
  for (struct client *client = monitor_clients; client; client = client->next)
    fed |= client->session == s && client->stream == STREAM_STDIN;
  if (!fed && !s->terminal)
    s->in_ends = true;
}

/* --- input -------------------------------------------------------------------------------------------------------------- */

static void input_close(struct session *s)
{
  fd_close(&s->in);
  buffer_free(&s->rest);
  for (struct client *client = monitor_clients; client; client = client->next)
    if (client->session == s && client->stream == STREAM_STDIN)
      conn_end(&client->conn);
  loop_again();
}

bool session_takes_input(const struct session *s)
{
  return s->in >= 0 && !s->in_ends && s->rest.size == 0;
}

static void write_rest(struct session *s)
{
  while (s->in >= 0 && s->rest.size) {
    ssize_t n = write(s->in, s->rest.data, s->rest.size);
    if (n > 0)
      buffer_consume(&s->rest, (size_t)n);
    else if (n < 0 && errno == EAGAIN)
      return;
    else if (n < 0 && errno != EINTR)
      input_close(s);
  }
  buffer_free(&s->rest);
}

void session_feed(struct session *s, const uint8_t *data, size_t size)
{
  if (s->in < 0)
    return;
  buffer_append(&s->rest, data, size);
  write_rest(s);
}

void session_input_gone(struct session *s)
{
  if (!s->terminal && (s->number || s->stdin_once))
    s->in_ends = true;
}

static void input_ready(void *object, short events)
{
  struct session *s = object;
  if (s->rest.size)
    write_rest(s);
  else if (events & (POLLERR | POLLHUP))
    input_close(s); /* nobody reads it any more */
}

static void input_turn(struct session *s)
{
  if (s->in >= 0 && (s->dead || (s->in_ends && !s->rest.size)))
    input_close(s);
  if (s->rest.size || !s->terminal)
    loop_on(s->in, s->rest.size ? POLLOUT : 0, input_ready, s);
}

int session_resize(struct session *s, uint32_t rows, uint32_t columns)
{
  struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
  if (!s->terminal || s->out[0].fd < 0) {
    errno = s->terminal ? ESRCH : ENOTTY;
    return -1;
  }
  return ioctl(s->out[0].fd, TIOCSWINSZ, &size);
}

void stdio_turn(struct session *s)
{
  input_turn(s);
  output_turn(&s->out[0]);
  output_turn(&s->out[1]);
}
