/*
 * As much ttRPC (containerd/ttrpc, PROTOCOL.md) as a process needs that stands for a shim's or an agent's. Requests were encoded by
 * TypeScript: whole frames, in which the stream's number is put here, and other numbers in the places that were left for them.
 */
#ifndef TTRPC_H
#define TTRPC_H

#include "bosun.h"

#define TTRPC_HEADER 10
#define TTRPC_MAX (4u << 20)
#define NUMBER_BYTES 5 /* a varint of 32 bits, padded to its longest */

struct ttrpc {
  int fd;
  uint32_t stream; /* the last one that was opened */
  uint32_t most;   /* bytes that an answer may have */
  struct buffer in;
};

/* An answer, or whatever else came in a frame. It points into `in`, until ttrpc_done. */
struct answer {
  uint32_t stream;
  uint8_t type;
  size_t size; /* of the whole frame */
  struct reader body;
};
#define TTRPC_RESPONSE 2

/* Sends `frame` on a new stream with `numbers` in the places at its end, the last one last; a key's byte is between two of them. */
bool ttrpc_call(struct ttrpc *t, struct bytes frame, const uint32_t *numbers, size_t count);
/* The same with `data` behind: the frame ends with the place of its length, and at `payload` is that of the length of both. */
bool ttrpc_write(struct ttrpc *t, struct bytes frame, uint32_t payload, const uint8_t *data, uint32_t size);
/* What there is, into `in`, waiting for it. False: the peer has gone. */
bool ttrpc_receive(struct ttrpc *t);
/* The next frame at the front of `in`: 1, 0 when it is not whole yet, -1 when it cannot be one. */
int ttrpc_next(const struct ttrpc *t, struct answer *answer);
void ttrpc_done(struct ttrpc *t, const struct answer *answer);
/* Waits for the answer to the last call. 0: it succeeded; -1 with `report`, in `peer`'s own words where it refused. */
int ttrpc_succeed(struct ttrpc *t, const char *peer, struct report *report);

/* Response{status = 1 {code = 1, message = 2}, payload = 2}. The status's code. */
uint64_t ttrpc_response(struct reader body, struct reader *message, struct reader *payload);
/* The next field: its number, and its value or, of one with a length, what it holds. False: the end, or nothing that could be one. */
bool protobuf_field(struct reader *r, uint64_t *number, uint64_t *value, struct reader *inner);
/* Field 1 of a message. False: it has none. */
bool protobuf_first(struct reader message, uint64_t *value, struct reader *inner);

#endif
