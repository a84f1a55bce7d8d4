/* The channel's frames and streams, without the loop that moves them: what is fuzzed. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "channel.h"

#define OWED_LIMIT (CHANNEL_WINDOW / 4)

/* --- frames ------------------------------------------------------------------------------------------------------------- */

static uint32_t hash(const uint8_t *data, size_t size)
{
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < size; i++)
    h = (h ^ data[i]) * 16777619u;
  return h;
}

void channel_put(struct buffer *out, uint32_t type, uint32_t stream, const void *body, uint32_t size)
{
  uint32_t header[] = {CHANNEL_MAGIC, stream, type, size, 0};
  header[4] = hash((const uint8_t *)header, 16);
  buffer_append(out, header, sizeof header);
  buffer_append(out, body, size);
}

/* What a body may be, by type. */
static bool size_fits(uint32_t type, uint32_t size)
{
  switch (type) {
  case CHANNEL_RESET:
  case CHANNEL_RESET_ACK: return size == 8;
  case CHANNEL_OPEN: return size >= 1 && size <= CHANNEL_PATH;
  case CHANNEL_DATA: return size >= 1 && size <= CHANNEL_BODY;
  case CHANNEL_OPENED:
  case CHANNEL_GIVE:
  case CHANNEL_CLOSE: return size == 4;
  case CHANNEL_SHUT: return size == 0;
  }
  return false;
}

int channel_get(const struct buffer *in, size_t *at, struct channel_frame *frame)
{
  uint32_t header[5];
  size_t left = in->size - *at;
  if (left < CHANNEL_HEADER)
    return 0;
  memcpy(header, in->data + *at, sizeof header);
  if (header[0] != CHANNEL_MAGIC || header[4] != hash((const uint8_t *)header, 16) || !size_fits(header[2], header[3]))
    return -1;
  if (left - CHANNEL_HEADER < header[3])
    return 0;
  *frame = (struct channel_frame){.stream = header[1], .type = header[2], .size = header[3], .body = in->data + *at + CHANNEL_HEADER};
  *at += CHANNEL_HEADER + header[3];
  return 1;
}

static uint32_t body_u32(const struct channel_frame *f)
{
  uint32_t v;
  memcpy(&v, f->body, sizeof v);
  return v;
}

static void put_u32(struct stream *s, uint32_t type, uint32_t value)
{
  channel_put(&s->channel->out, type, s->id, &value, sizeof value);
}

/* --- streams ------------------------------------------------------------------------------------------------------------ */

static struct stream *make_stream(struct channel *c, uint32_t id, int fd)
{
  struct stream *s = calloc(1, sizeof *s);
  if (!s)
    _exit(70);
  *s = (struct stream){.next = c->streams, .channel = c, .id = id, .fd = fd, .credit = CHANNEL_WINDOW, .window = CHANNEL_WINDOW};
  c->streams = s;
  c->count++;
  return s;
}

static struct stream *find_stream(struct channel *c, uint32_t id)
{
  struct stream *s = c->streams;
  while (s && (s->id != id || s->dead || s->heard_close))
    s = s->next;
  return s;
}

static void close_stream(struct stream *s, int err)
{
  if (!s->heard_close && !s->dead)
    put_u32(s, CHANNEL_CLOSE, (uint32_t)err);
  s->dead = true;
}

void channel_sweep(struct channel *c)
{
  for (struct stream **at = &c->streams, *s; (s = *at);) {
    if (!s->dead) {
      at = &s->next;
      continue;
    }
    *at = s->next;
    c->count--;
    if (s->fd >= 0)
      close(s->fd);
    buffer_free(&s->out);
    free(s);
  }
}

void channel_drop_streams(struct channel *c)
{
  for (struct stream *s = c->streams; s; s = s->next)
    s->dead = true;
}

void channel_free(struct channel *c)
{
  channel_drop_streams(c);
  channel_sweep(c);
  buffer_free(&c->in);
  buffer_free(&c->out);
}

struct stream *channel_open(struct channel *c, int fd, const char *path, const void *early, size_t early_size)
{
  size_t size = strlen(path);
  if (c->count >= CHANNEL_STREAMS || size < 1 || size > CHANNEL_PATH)
    return NULL;
  do
    c->last_id = c->last_id == UINT32_MAX ? 1 : c->last_id + 1;
  while (find_stream(c, c->last_id));
  struct stream *s = make_stream(c, c->last_id, fd);
  channel_put(&c->out, CHANNEL_OPEN, s->id, path, (uint32_t)size);
  /* The other end keeps what comes before it has connected. */
  if (early_size) {
    channel_put(&c->out, CHANNEL_DATA, s->id, early, (uint32_t)early_size);
    s->credit -= (uint32_t)early_size;
  }
  return s;
}

void stream_answer(struct stream *s, int err)
{
  s->connecting = false;
  put_u32(s, CHANNEL_OPENED, (uint32_t)err);
  s->open = err == 0;
  s->dead = err != 0;
  if (s->open)
    stream_push(s);
}

void stream_abandon(struct stream *s) { close_stream(s, 0); }

bool stream_wants_pull(const struct stream *s)
{
  return s->open && !s->dead && !s->told_shut && !s->heard_close && s->fd >= 0 && s->credit > 0 &&
         channel_backlog(s->channel) < CHANNEL_BACKLOG;
}

static bool is_hung(int fd)
{
  struct pollfd p = {.fd = fd};
  return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR | POLLNVAL);
}

static void finish(struct stream *s)
{
  if (s->told_shut && s->shut)
    s->dead = true;
}

void stream_pull(struct stream *s)
{
  uint8_t data[16384];
  ssize_t n = read(s->fd, data, s->credit < sizeof data ? s->credit : sizeof data);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n > 0) {
    channel_put(&s->channel->out, CHANNEL_DATA, s->id, data, (uint32_t)n);
    s->credit -= (uint32_t)n;
    return;
  }
  if (n < 0 || s->hung || is_hung(s->fd))
    return close_stream(s, n < 0 ? errno : 0);
  s->told_shut = true;
  channel_put(&s->channel->out, CHANNEL_SHUT, s->id, NULL, 0);
  finish(s);
}

static void delivered(struct stream *s, size_t size)
{
  s->owed += (uint32_t)size;
  if (s->owed < OWED_LIMIT || s->heard_shut || s->heard_close)
    return;
  put_u32(s, CHANNEL_GIVE, s->owed);
  s->window += s->owed;
  s->owed = 0;
}

void stream_push(struct stream *s)
{
  if (!s->open || s->dead)
    return;
  while (stream_backlog(s)) {
    ssize_t n = s->deaf ? (ssize_t)stream_backlog(s) : write(s->fd, s->out.data + s->sent, stream_backlog(s));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0) {
      s->deaf = true; /* what it has said itself can still be read */
      continue;
    }
    s->sent += (size_t)n;
    delivered(s, (size_t)n);
  }
  buffer_free(&s->out);
  s->sent = 0;
  if (s->heard_close) {
    s->dead = true;
  } else if (s->heard_shut && !s->shut) {
    s->shut = true;
    shutdown(s->fd, SHUT_WR);
    finish(s);
  }
}

/* --- what the other end says -------------------------------------------------------------------------------------------- */

/* Host: the guest is not believed another word. Guest: what is no use is dropped with its stream. */
static void broken(struct channel *c, struct stream *s, const char *what)
{
  if (c->host && !c->broken)
    c->broken = what;
  else if (s)
    close_stream(s, EPROTO);
}

static void take_data(struct channel *c, struct stream *s, const struct channel_frame *f)
{
  if (s->heard_shut || f->size > s->window || (c->host && !s->open))
    return broken(c, s, s->heard_shut ? "data after the end of a stream" : "more data than there is room for");
  s->window -= f->size;
  buffer_append(&s->out, f->body, f->size);
  stream_push(s);
}

static void take_credit(struct channel *c, struct stream *s, const struct channel_frame *f)
{
  uint32_t more = body_u32(f);
  if (more > CHANNEL_WINDOW - s->credit)
    return broken(c, s, "more room than a stream has");
  s->credit += more;
}

static void take_opened(struct channel *c, struct stream *s, const struct channel_frame *f)
{
  uint32_t err = body_u32(f);
  if (!c->host || s->open)
    return broken(c, s, "a stream that is opened twice");
  s->open = err == 0;
  s->dead = err != 0;
  c->opened(s, err);
}

static void take_open(struct channel *c, const struct channel_frame *f)
{
  char path[CHANNEL_PATH + 1];
  if (c->host || f->stream == 0 || find_stream(c, f->stream))
    return broken(c, NULL, "a stream that the guest opens");
  struct stream *s = make_stream(c, f->stream, -1);
  memcpy(path, f->body, f->size);
  path[f->size] = 0;
  int err = memchr(path, 0, f->size) ? EINVAL : c->count > CHANNEL_STREAMS ? EMFILE : c->open(s, path);
  if (err || !s->connecting)
    stream_answer(s, err);
}

static void take_reset(struct channel *c, const struct channel_frame *f)
{
  if (c->host)
    return broken(c, NULL, "a reset from the guest");
  channel_drop_streams(c);
  buffer_free(&c->out);
  c->sent = 0;
  c->synced = true;
  channel_put(&c->out, CHANNEL_RESET_ACK, 0, f->body, f->size);
}

static void take_frame(struct channel *c, const struct channel_frame *f)
{
  if (f->type == CHANNEL_RESET)
    return take_reset(c, f);
  if (f->type == CHANNEL_OPEN)
    return take_open(c, f);
  if (f->type == CHANNEL_RESET_ACK)
    return broken(c, NULL, "a reset that nobody asked for is acknowledged");
  struct stream *s = find_stream(c, f->stream);
  if (!s) {
    /* It may have ended here while this was under way. */
    if (f->stream == 0 || f->stream > c->last_id)
      broken(c, NULL, "a stream that was never opened");
    return;
  }
  switch (f->type) {
  case CHANNEL_OPENED: return take_opened(c, s, f);
  case CHANNEL_DATA: return take_data(c, s, f);
  case CHANNEL_GIVE: return take_credit(c, s, f);
  case CHANNEL_SHUT:
    s->heard_shut = true;
    return stream_push(s);
  case CHANNEL_CLOSE:
    s->heard_close = true;
    s->dead = !s->open;
    if (s->dead && c->host)
      c->opened(s, EPROTO);
    return stream_push(s);
  }
}

/* Before the two ends agree on where frames begin: is this frame the one that says so? */
static bool is_beginning(const struct channel *c, const struct channel_frame *f)
{
  return c->host ? f->type == CHANNEL_RESET_ACK && memcmp(f->body, &c->nonce, sizeof c->nonce) == 0 : f->type == CHANNEL_RESET;
}

/* Moves *at to the next place where a frame may begin. False: more must come first. */
static bool hunt(struct channel *c, size_t *at, struct channel_frame *frame)
{
  static const uint32_t magic = CHANNEL_MAGIC;
  while (c->in.size - *at >= CHANNEL_HEADER) {
    size_t before = *at;
    int got = channel_get(&c->in, at, frame);
    if (got == 0)
      return false;
    if (got == 1 && is_beginning(c, frame))
      return true;
    *at = before + 1;
    const uint8_t *next = memchr(c->in.data + *at, (uint8_t)magic, c->in.size - *at);
    *at = next ? (size_t)(next - c->in.data) : c->in.size;
  }
  return false;
}

static void begin(struct channel *c, const struct channel_frame *f)
{
  c->synced = true;
  if (!c->host)
    take_reset(c, f);
}

bool channel_take(struct channel *c, const uint8_t *data, size_t size)
{
  struct channel_frame frame;
  size_t at = 0;
  buffer_append(&c->in, data, size);
  while (!c->broken) {
    if (!c->synced) {
      if (!hunt(c, &at, &frame))
        break;
      begin(c, &frame);
      continue;
    }
    int got = channel_get(&c->in, &at, &frame);
    if (got == 0)
      break;
    if (got == 1)
      take_frame(c, &frame);
    else if (c->host)
      c->broken = "bytes that are no frame";
    else
      c->synced = false;
  }
  if (c->host && !c->synced) {
    c->stale += at;
    if (c->stale > CHANNEL_STALE)
      c->broken = "no answer among all that it says";
  }
  buffer_consume(&c->in, at);
  if (!c->in.size)
    buffer_free(&c->in);
  return !c->broken;
}

void channel_reset(struct channel *c, uint64_t nonce)
{
  c->synced = false;
  c->nonce = nonce;
  c->stale = 0;
  buffer_room(&c->out, CHANNEL_BODY);
  memset(c->out.data + c->out.size, 0, CHANNEL_BODY);
  c->out.size += CHANNEL_BODY;
  channel_put(&c->out, CHANNEL_RESET, 0, &nonce, sizeof nonce);
}
