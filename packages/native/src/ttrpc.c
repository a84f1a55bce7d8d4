/* See ttrpc.h. What comes is of a peer that may be anything: each length is looked at before it is believed. */
#include "ttrpc.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- protobuf ----------------------------------------------------------------------------------------------------------- */

static bool take_varint(struct reader *r, uint64_t *value)
{
  *value = 0;
  for (unsigned shift = 0; shift < 64 && r->at < r->end; shift += 7) {
    uint8_t byte = *r->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80))
      return true;
  }
  return false;
}

bool protobuf_field(struct reader *r, uint64_t *number, uint64_t *value, struct reader *inner)
{
  uint64_t key;
  *inner = (struct reader){0};
  if (r->at >= r->end || !take_varint(r, &key))
    return false;
  *number = key >> 3;
  switch (key & 7) {
  case 0: return take_varint(r, value);
  case 2:
    if (!take_varint(r, value) || *value > (uint64_t)(r->end - r->at))
      return false;
    *inner = (struct reader){.at = r->at, .end = r->at + *value};
    r->at += *value;
    return true;
  }
  return false;
}

bool protobuf_first(struct reader message, uint64_t *value, struct reader *inner)
{
  uint64_t number;
  while (protobuf_field(&message, &number, value, inner))
    if (number == 1)
      return true;
  *inner = (struct reader){0};
  return false;
}

uint64_t ttrpc_response(struct reader body, struct reader *message, struct reader *payload)
{
  struct reader status = {0}, inner;
  uint64_t number, value, code = 0;
  *message = *payload = (struct reader){0};
  while (protobuf_field(&body, &number, &value, &inner)) {
    if (number == 1)
      status = inner;
    if (number == 2)
      *payload = inner;
  }
  while (protobuf_field(&status, &number, &value, &inner)) {
    if (number == 1)
      code = value;
    if (number == 2)
      *message = inner;
  }
  return code;
}

/* --- frames ------------------------------------------------------------------------------------------------------------- */

static void put_number(uint8_t *at, uint32_t value)
{
  for (int i = 0; i < NUMBER_BYTES; i++, value >>= 7)
    at[i] = (uint8_t)((value & 0x7f) | (i < NUMBER_BYTES - 1 ? 0x80 : 0));
}

/* Once the frame's own bytes are as they are to be. */
static bool send_frame(struct ttrpc *t, uint8_t *frame, size_t size)
{
  t->stream += t->stream ? 2 : 1;
  uint32_t length = htobe32((uint32_t)(size - TTRPC_HEADER)), stream = htobe32(t->stream);
  memcpy(frame, &length, sizeof length);
  memcpy(frame + 4, &stream, sizeof stream);
  for (size_t at = 0; at < size;) {
    ssize_t n = send(t->fd, frame + at, size - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    at += (size_t)n;
  }
  return true;
}

static uint8_t *copy_frame(struct bytes frame, size_t more)
{
  uint8_t *copy = malloc(frame.size + more);
  if (!copy)
    _exit(70);
  memcpy(copy, frame.data, frame.size);
  return copy;
}

bool ttrpc_call(struct ttrpc *t, struct bytes frame, const uint32_t *numbers, size_t count)
{
  uint8_t *copy = copy_frame(frame, 0);
  for (size_t i = 0; i < count; i++)
    put_number(copy + frame.size - (count - i) * NUMBER_BYTES - (count - 1 - i), numbers[i]);
  bool sent = send_frame(t, copy, frame.size);
  free(copy);
  return sent;
}

bool ttrpc_write(struct ttrpc *t, struct bytes frame, uint32_t payload, const uint8_t *data, uint32_t size)
{
  uint8_t *copy = copy_frame(frame, size);
  put_number(copy + payload, frame.size - payload - NUMBER_BYTES + size);
  put_number(copy + frame.size - NUMBER_BYTES, size);
  memcpy(copy + frame.size, data, size);
  bool sent = send_frame(t, copy, frame.size + size);
  free(copy);
  return sent;
}

bool ttrpc_receive(struct ttrpc *t)
{
  uint8_t data[4096];
  ssize_t n;
  do
    n = recv(t->fd, data, sizeof data, 0);
  while (n < 0 && errno == EINTR);
  if (n <= 0)
    return false;
  buffer_append(&t->in, data, (size_t)n);
  return true;
}

int ttrpc_next(const struct ttrpc *t, struct answer *answer)
{
  uint32_t length, stream;
  if (t->in.size < TTRPC_HEADER)
    return 0;
  memcpy(&length, t->in.data, sizeof length);
  memcpy(&stream, t->in.data + 4, sizeof stream);
  length = be32toh(length);
  if (length > t->most)
    return -1;
  *answer = (struct answer){.stream = be32toh(stream), .type = t->in.data[8], .size = TTRPC_HEADER + length};
  if (t->in.size < answer->size)
    return 0;
  answer->body = (struct reader){.at = t->in.data + TTRPC_HEADER, .end = t->in.data + answer->size};
  return 1;
}

void ttrpc_done(struct ttrpc *t, const struct answer *answer)
{
  buffer_consume(&t->in, answer->size);
  if (!t->in.size)
    buffer_free(&t->in);
}

int ttrpc_succeed(struct ttrpc *t, const char *peer, struct report *report)
{
  struct reader message, payload;
  struct answer answer;
  int whole;
  while ((whole = ttrpc_next(t, &answer)) == 0)
    if (!ttrpc_receive(t))
      return fail(report, ECONNRESET, "%s has gone", peer);
  if (whole < 0 || answer.type != TTRPC_RESPONSE || answer.stream != t->stream)
    return fail(report, EPROTO, "%s's answer", peer);
  if (ttrpc_response(answer.body, &message, &payload) != 0)
    return fail(report, ECHILD, "%.*s", (int)(message.end - message.at), (const char *)message.at);
  ttrpc_done(t, &answer);
  return 0;
}
