/* The codec: growing buffers, bounds-checked readers, frames and reports. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orders.gen.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian and read as it lies"
#endif

#define NO_MEMORY_STATUS 70

void buffer_room(struct buffer *b, size_t more)
{
  if (more > SIZE_MAX / 4 - b->size)
    _exit(NO_MEMORY_STATUS);
  if (b->size + more <= b->room)
    return;
  size_t room = b->room ? b->room : 256;
  while (room < b->size + more)
    room *= 2;
  uint8_t *data = realloc(b->data, room);
  if (!data)
    _exit(NO_MEMORY_STATUS);
  b->data = data;
  b->room = room;
}

void buffer_append(struct buffer *b, const void *data, size_t size)
{
  if (size == 0)
    return;
  buffer_room(b, size);
  memcpy(b->data + b->size, data, size);
  b->size += size;
}

void buffer_u16(struct buffer *b, uint16_t v) { buffer_append(b, &v, sizeof v); }
void buffer_u32(struct buffer *b, uint32_t v) { buffer_append(b, &v, sizeof v); }
void buffer_u64(struct buffer *b, uint64_t v) { buffer_append(b, &v, sizeof v); }

void buffer_bytes(struct buffer *b, const void *data, size_t size)
{
  buffer_u32(b, (uint32_t)size);
  buffer_append(b, data, size);
  buffer_append(b, "", 1);
}

void buffer_consume(struct buffer *b, size_t size)
{
  if (size >= b->size) {
    b->size = 0;
    return;
  }
  memmove(b->data, b->data + size, b->size - size);
  b->size -= size;
}

void buffer_free(struct buffer *b)
{
  free(b->data);
  *b = (struct buffer){0};
}

/* The next `size` bytes, or NULL when there are not so many (and the reader is bad from then on). */
static const uint8_t *take(struct reader *r, size_t size)
{
  if (r->bad || size > (size_t)(r->end - r->at)) {
    r->bad = true;
    return NULL;
  }
  const uint8_t *at = r->at;
  r->at += size;
  return at;
}

uint16_t reader_u16(struct reader *r)
{
  uint16_t v = 0;
  const uint8_t *at = take(r, sizeof v);
  if (at)
    memcpy(&v, at, sizeof v);
  return v;
}

uint32_t reader_u32(struct reader *r)
{
  uint32_t v = 0;
  const uint8_t *at = take(r, sizeof v);
  if (at)
    memcpy(&v, at, sizeof v);
  return v;
}

uint64_t reader_u64(struct reader *r)
{
  uint64_t v = 0;
  const uint8_t *at = take(r, sizeof v);
  if (at)
    memcpy(&v, at, sizeof v);
  return v;
}

struct bytes reader_bytes(struct reader *r)
{
  uint32_t size = reader_u32(r);
  const uint8_t *at = take(r, (size_t)size + 1);
  if (!at || at[size] != 0) {
    r->bad = true;
    return (struct bytes){(const uint8_t *)"", 0};
  }
  return (struct bytes){at, size};
}

static const char *reader_str(struct reader *r)
{
  struct bytes b = reader_bytes(r);
  if (memchr(b.data, 0, b.size)) {
    r->bad = true;
    return "";
  }
  return (const char *)b.data;
}

const char *strs_next(struct strs *s)
{
  if (s->items.bad || s->items.at == s->items.end)
    return NULL;
  const char *item = reader_str(&s->items);
  return s->items.bad ? NULL : item;
}

bool blobs_next(struct blobs *b, struct bytes *out)
{
  if (b->items.bad || b->items.at == b->items.end)
    return false;
  *out = reader_bytes(&b->items);
  return !b->items.bad;
}

uint32_t u32s_at(const struct u32s *s, uint32_t i)
{
  uint32_t v = 0;
  if (i < s->count)
    memcpy(&v, s->data + (size_t)i * sizeof v, sizeof v);
  return v;
}

/* A counted list of items, each checked now so that iterating later cannot fail. */
static struct reader read_items(struct reader *r, bool text, uint32_t *count)
{
  *count = reader_u32(r);
  struct reader items = {.at = r->at};
  for (uint32_t i = 0; i < *count && !r->bad; i++) {
    if (text)
      reader_str(r);
    else
      reader_bytes(r);
  }
  items.end = r->bad ? items.at : r->at;
  return items;
}

static void read_field(struct reader *r, enum field_type type, void *out)
{
  switch (type) {
  case FIELD_U32: *(uint32_t *)out = reader_u32(r); return;
  case FIELD_U64: *(uint64_t *)out = reader_u64(r); return;
  case FIELD_I64: *(int64_t *)out = (int64_t)reader_u64(r); return;
  case FIELD_STR: *(const char **)out = reader_str(r); return;
  case FIELD_BYTES: *(struct bytes *)out = reader_bytes(r); return;
  case FIELD_STRS: {
    struct strs *s = out;
    s->items = read_items(r, true, &s->count);
    return;
  }
  case FIELD_BLOBS: {
    struct blobs *b = out;
    b->items = read_items(r, false, &b->count);
    return;
  }
  case FIELD_U32S: {
    struct u32s *s = out;
    s->count = reader_u32(r);
    s->data = take(r, (size_t)s->count * sizeof(uint32_t));
    return;
  }
  }
}

bool fields_decode(const uint8_t *body, size_t size, const struct field *fields, size_t count, void *out)
{
  struct reader r = {.at = body, .end = size ? body + size : body};
  for (size_t i = 0; i < count; i++)
    read_field(&r, fields[i].type, (char *)out + fields[i].offset);
  return !r.bad && r.at == r.end;
}

static void append_items(struct buffer *out, uint32_t count, const struct reader *items)
{
  buffer_u32(out, count);
  buffer_append(out, items->at, (size_t)(items->end - items->at));
}

static void append_field(struct buffer *out, enum field_type type, const void *in)
{
  switch (type) {
  case FIELD_U32: buffer_u32(out, *(const uint32_t *)in); return;
  case FIELD_U64:
  case FIELD_I64: buffer_u64(out, *(const uint64_t *)in); return;
  case FIELD_STR: {
    const char *text = *(const char *const *)in;
    buffer_bytes(out, text ? text : "", text ? strlen(text) : 0);
    return;
  }
  case FIELD_BYTES: {
    const struct bytes *b = in;
    buffer_bytes(out, b->data, b->size);
    return;
  }
  case FIELD_STRS: append_items(out, ((const struct strs *)in)->count, &((const struct strs *)in)->items); return;
  case FIELD_BLOBS: append_items(out, ((const struct blobs *)in)->count, &((const struct blobs *)in)->items); return;
  case FIELD_U32S: {
    const struct u32s *s = in;
    buffer_u32(out, s->count);
    buffer_append(out, s->data, (size_t)s->count * sizeof(uint32_t));
    return;
  }
  }
}

void frame_encode(struct buffer *out, uint32_t id, uint16_t type, const struct field *fields, size_t count, const void *message)
{
  size_t start = out->size;
  struct frame_header header = {.id = id, .type = type};
  buffer_append(out, &header, sizeof header);
  for (size_t i = 0; i < count; i++)
    append_field(out, fields[i].type, (const char *)message + fields[i].offset);
  uint32_t size = (uint32_t)(out->size - start - FRAME_HEADER);
  memcpy(out->data + start, &size, sizeof size);
}
_Static_assert(sizeof(struct frame_header) == FRAME_HEADER, "the frame header is 16 bytes");

static int record(struct report *r, int err, const char *format, va_list arguments) __attribute__((format(printf, 3, 0)));
static int record(struct report *r, int err, const char *format, va_list arguments)
{
  if (r->err == 0) {
    r->err = (uint32_t)(err ? err : EIO);
    vsnprintf(r->detail, sizeof r->detail, format, arguments);
  }
  return -1;
}

int fail(struct report *r, int err, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  record(r, err, format, arguments);
  va_end(arguments);
  return -1;
}

int failed(struct report *r, const char *format, ...)
{
  int err = errno;
  va_list arguments;
  va_start(arguments, format);
  record(r, err, format, arguments);
  va_end(arguments);
  return -1;
}

void report_encode(const struct report *r, uint32_t id, struct buffer *out)
{
  struct message_report message = {
    .errno_ = r->err,
    .order = r->order,
    .stage = r->stage,
    .detail = r->detail,
    .outputs = {r->outputs.data, (uint32_t)r->outputs.size},
  };
  message_report_encode(out, id, &message);
}
