/*
 * The channel between a virtual machine and its host: many byte streams over one pipe (a virtio-serial port, to which nobody connects
 * and which has no end). Used by both ends: relay.c on the host, guest.c in the machine.
 *
 * A frame is five little-endian u32: magic, stream, type, size of the body, and the FNV-1a hash of those four; then the body.
 *
 *   RESET      host → guest  u64 nonce. Whatever was there before is forgotten, on both ends. 32 KiB of zeros go before it, so that
 *                            a frame which a former host left unfinished is filled up and not taken for the beginning of this one.
 *   RESET_ACK  guest → host  u64 nonce: what comes before it is of a former host's time, and dropped.
 *   OPEN       host → guest  a path, not ended by NUL: of a unix socket, or "tcp:PORT" of the loopback. Streams are numbered from 1.
 *   OPENED     guest → host  u32 errno, 0: it is open
 *   DATA       both          1 byte to 32 KiB, no more than the receiver has room for: 256 KiB at first, and what WINDOW adds
 *   WINDOW     both          u32 bytes that have left the receiver
 *   SHUT       both          no more DATA (shutdown(SHUT_WR))
 *   CLOSE      both          u32 errno: the stream's end in both directions, once what was sent has been delivered
 *
 * The host believes the guest nothing: what breaks these rules ends the channel. The guest looks for the next RESET instead.
 */
#ifndef CHANNEL_H
#define CHANNEL_H

#include "bosun.h"

#define CHANNEL_MAGIC 0x63767362u /* "bsvc" */
#define CHANNEL_HEADER 20u
#define CHANNEL_BODY 32768u
#define CHANNEL_WINDOW (256u << 10)
#define CHANNEL_PATH 200u
#define CHANNEL_STREAMS 1024u
/* Beyond this much unsent, nothing more is read for the other end. */
#define CHANNEL_BACKLOG (256u << 10)
/* What a guest may have left over from a former host before it answers a RESET. */
#define CHANNEL_STALE (64u << 20)

enum {
  CHANNEL_RESET = 1, CHANNEL_RESET_ACK, CHANNEL_OPEN, CHANNEL_OPENED, CHANNEL_DATA, CHANNEL_GIVE, CHANNEL_SHUT, CHANNEL_CLOSE,
};

struct channel_frame { uint32_t stream, type, size; const uint8_t *body; };

struct stream {
  struct stream *next;
  struct channel *channel;
  uint32_t id;
  int fd;                    /* not blocking; -1: none (yet) */
  void *owner;               /* of who uses the channel */
  bool open;                 /* OPENED has been sent or received */
  bool connecting;           /* guest: connect(2) is under way */
  bool told_shut, heard_shut; /* SHUT */
  bool shut;                 /* `fd` was told so */
  bool heard_close;          /* only what is in `out` is still of interest */
  bool deaf;                 /* `fd` takes nothing any more: what comes for it is dropped */
  bool hung;                 /* the other end of `fd` is gone for good; what it has left can be read without waiting */
  bool dead;                 /* freed by the next sweep */
  uint32_t credit;           /* bytes that may be sent to the other end */
  uint32_t window;           /* bytes that the other end may send */
  uint32_t owed;             /* bytes that were delivered and not told of */
  struct buffer out;         /* for `fd` */
  size_t sent;               /* of `out` */
};

struct channel {
  bool host;
  bool synced;               /* RESET has been received, or its answer */
  const char *broken;        /* host: what the guest did that it may not */
  uint64_t nonce;
  uint64_t stale;            /* host: bytes dropped before the answer to RESET */
  struct buffer in, out;
  size_t sent;               /* of `out` */
  struct stream *streams;
  uint32_t count, last_id;
  /* Guest: begins to connect; 0 (the stream has its descriptor, or is `connecting`), or an errno. */
  int (*open)(struct stream *stream, const char *path);
  /* Guest: `fd` of a stream that is connecting can be looked at. */
  void (*connected)(struct stream *stream);
  /* Host: the guest has answered; an errno: the stream is dead. */
  void (*opened)(struct stream *stream, uint32_t err);
};

/* The codec. Appends a frame. */
void channel_put(struct buffer *out, uint32_t type, uint32_t stream, const void *body, uint32_t size);
/* The frame at *at: 1 and *at moved past it, 0 when it is not whole yet, -1 when there is none that could be one. */
int channel_get(const struct buffer *in, size_t *at, struct channel_frame *frame);

/* Bytes from the other end. False: host only, the guest has broken the rules (`broken`). */
bool channel_take(struct channel *c, const uint8_t *data, size_t size);
void channel_reset(struct channel *c, uint64_t nonce); /* host */
void channel_drop_streams(struct channel *c);
void channel_sweep(struct channel *c);                 /* frees what is dead; nobody may hold a stream over it */
void channel_free(struct channel *c);
static inline size_t channel_backlog(const struct channel *c) { return c->out.size - c->sent; }

/* Host: a stream for `fd`, which it takes; `early` is sent once it is open. NULL: there are too many, `fd` is still the caller's. */
struct stream *channel_open(struct channel *c, int fd, const char *path, const void *early, size_t early_size);
void stream_answer(struct stream *s, int err);         /* guest: the connection is made, or has failed */
void stream_pull(struct stream *s);                    /* reads `fd` once, for the other end */
void stream_push(struct stream *s);                    /* writes what `fd` takes */
void stream_abandon(struct stream *s);                 /* nobody is there for it any more */
bool stream_wants_pull(const struct stream *s);
static inline size_t stream_backlog(const struct stream *s) { return s->out.size - s->sent; }

/* channel_loop.c: all streams do what is due and are registered with the loop; what is dead is freed. */
void channel_turn(struct channel *c);
bool channel_flush(struct channel *c, int port);       /* false: the port takes nothing any more, errno says why */
short channel_events(const struct channel *c);         /* what to poll the port for */

#endif
