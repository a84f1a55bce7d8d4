/*
 * libFuzzer target of everything that decodes what comes over a socket: plans, messages, tree entries, both ends of a machine's channel,
 * and ttRPC's answers. The first byte chooses which. What decodes is read to its end, so that a length that lies is a read out of bounds.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "orders.h"
#include "ttrpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t sink;

static void use_str(const char *text) { sink += strlen(text); }

static void use_bytes(struct bytes b)
{
  for (uint32_t i = 0; i < b.size; i++)
    sink += b.data[i];
  if (b.data && b.data[b.size] != 0)
    abort();
}

static void use_field(enum field_type type, const void *field)
{
  uint32_t count = 0;
  switch (type) {
  case FIELD_U32:
  case FIELD_U64:
  case FIELD_I64: return;
  case FIELD_STR: use_str(*(const char *const *)field); return;
  case FIELD_BYTES: use_bytes(*(const struct bytes *)field); return;
  case FIELD_STRS: {
    struct strs s = *(const struct strs *)field;
    for (const char *text; (text = strs_next(&s)); count++)
      use_str(text);
    if (count != s.count)
      abort();
    return;
  }
  case FIELD_BLOBS: {
    struct blobs s = *(const struct blobs *)field;
    for (struct bytes b; blobs_next(&s, &b); count++)
      use_bytes(b);
    if (count != s.count)
      abort();
    return;
  }
  case FIELD_U32S: {
    const struct u32s *s = field;
    for (uint32_t i = 0; i < s->count; i++)
      sink += u32s_at(s, i);
    return;
  }
  }
}

/* A frame made of what was decoded must decode to the same bytes again. */
static void check_round_trip(const uint8_t *body, size_t size, const struct field *fields, size_t count, const void *message)
{
  struct buffer frame = {0};
  frame_encode(&frame, 1, 1, fields, count, message);
  if (frame.size != FRAME_HEADER + size || memcmp(frame.data + FRAME_HEADER, body, size) != 0)
    abort();
  buffer_free(&frame);
}

static void use_fields(const uint8_t *body, size_t size, const struct field *fields, size_t count)
{
  uint64_t out[64];
  if (!fields_decode(body, size, fields, count, out))
    return;
  for (size_t i = 0; i < count; i++)
    use_field(fields[i].type, (const char *)out + fields[i].offset);
  check_round_trip(body, size, fields, count, out);
}

static void decode_message(uint8_t type, const uint8_t *body, size_t size)
{
  switch (type) {
#define X(name, NAME, number) \
  case number: use_fields(body, size, message_##name##_fields, message_##name##_field_count); return;
    MESSAGES(X)
#undef X
  }
}

static void decode_tree(uint8_t type, const uint8_t *body, size_t size)
{
  switch (type) {
#define X(name, NAME, number) \
  case number: use_fields(body, size, tree_##name##_fields, tree_##name##_field_count); return;
    TREE(X)
#undef X
  }
}

static void decode_order(uint16_t code, const struct reader *body)
{
  switch (code) {
#define X(name, NAME, number) \
  case number: use_fields(body->at, (size_t)(body->end - body->at), order_##name##_fields, order_##name##_field_count); return;
    ORDERS(X)
#undef X
  }
}

static void decode_plan(const uint8_t *plan, size_t size)
{
  struct report report = {0};
  struct reader orders, body;
  uint32_t count;
  uint16_t code;
  if (plan_check(plan, size, &report) < 0) {
    if (report.err == 0 || report.detail[0] == 0)
      abort();
    return;
  }
  report = (struct report){0};
  if (!plan_begin(plan, size, &count, &orders, &report))
    abort();
  while (count-- > 0) {
    if (!plan_next(&orders, &code, &body))
      abort();
    decode_order(code, &body);
  }
}

/* --- the channel -------------------------------------------------------------------------------------------------------- */

/* Takes whatever is written and ends when it is read, and is no socket: shutdown(2) fails. */
static int open_null(void)
{
  int fd = open("/dev/null", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    abort();
  return fd;
}

static int open_stream(struct stream *s, const char *path)
{
  sink += strlen(path);
  s->connecting = path[0] == 'c';
  s->fd = open_null();
  return path[0] == 'e' ? 2 : 0;
}

static void opened(struct stream *s, uint32_t err)
{
  if (s->dead != (err != 0))
    abort();
}

/* What must hold of a stream whatever the other end says. */
static void check_streams(const struct channel *c)
{
  uint32_t count = 0;
  for (const struct stream *s = c->streams; s; s = s->next, count++)
    if (s->credit > CHANNEL_WINDOW || stream_backlog(s) + s->window + s->owed > CHANNEL_WINDOW)
      abort();
  if (count != c->count)
    abort();
}

/* In pieces of `step` bytes, as a port gives them; the host has streams that it opened, and has had its answer where `step` is odd. */
static void take_channel(bool host, uint8_t step, const uint8_t *body, size_t size)
{
  struct channel c = {.host = host, .open = open_stream, .opened = opened};
  if (host) {
    channel_reset(&c, 7);
    c.synced = step & 1;
    for (int i = 0; i < 3; i++)
      if (!channel_open(&c, open_null(), "/socket", "early", 5))
        abort();
  }
  for (size_t at = 0, more; at < size; at += more) {
    more = size - at < step + 1u ? size - at : step + 1u;
    if (!channel_take(&c, body + at, more))
      break;
    check_streams(&c);
    for (struct stream *s = c.streams; s; s = s->next) {
      if (s->connecting)
        stream_answer(s, step & 2 ? 111 : 0);
      else if (stream_wants_pull(s) && step & 4)
        stream_pull(s);
    }
    channel_sweep(&c);
  }
  if (c.broken && !host)
    abort();
  channel_free(&c);
}

/* --- ttRPC -------------------------------------------------------------------------------------------------------------- */

static void use_protobuf(struct reader message, const struct buffer *in)
{
  struct reader inner;
  uint64_t number, value;
  protobuf_first(message, &value, &inner);
  while (protobuf_field(&message, &number, &value, &inner)) {
    if (inner.at && (inner.at < in->data || inner.end < inner.at || inner.end > in->data + in->size))
      abort();
    for (const uint8_t *at = inner.at; at < inner.end; at++)
      sink += *at;
  }
}

/* What an agent or a shim answers, in pieces of `step` bytes, as a socket gives them. */
static void take_ttrpc(uint8_t step, const uint8_t *body, size_t size)
{
  struct ttrpc t = {.fd = -1, .stream = 1, .most = 1024};
  struct reader message, payload;
  struct answer answer;
  int whole = 0;
  for (size_t at = 0, more; at < size && whole >= 0; at += more) {
    more = size - at < step + 1u ? size - at : step + 1u;
    buffer_append(&t.in, body + at, more);
    while ((whole = ttrpc_next(&t, &answer)) > 0) {
      sink += ttrpc_response(answer.body, &message, &payload) + answer.stream + answer.type;
      use_protobuf(message, &t.in);
      use_protobuf(payload, &t.in);
      ttrpc_done(&t, &answer);
    }
  }
  buffer_free(&t.in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size < 2)
    return 0;
  /* A copy of exactly this size, so that one byte too far is seen. */
  uint8_t *body = malloc(size - 2 ? size - 2 : 1);
  if (!body)
    return 0;
  memcpy(body, data + 2, size - 2);
  switch (data[0] % 6) {
  case 0: decode_plan(body, size - 2); break;
  case 1: decode_message(data[1], body, size - 2); break;
  case 2: decode_tree(data[1], body, size - 2); break;
  case 3: take_channel(true, data[1], body, size - 2); break;
  case 4: take_channel(false, data[1], body, size - 2); break;
  case 5: take_ttrpc(data[1], body, size - 2); break;
  }
  free(body);
  return 0;
}
