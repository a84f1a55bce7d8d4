/*
 * bosun: carries out plans. It decides nothing and parses no JSON.
 *
 *   bosun serve SOCKET     berthd's long-lived hand (serve.c); forks workers, monitors and external programs
 *   (monitor)              one per container, forked by serve (monitor.c)
 *   bosun run < PLAN       carries out one encoded plan in this process and prints its report (tests, debugging)
 *
 * Who owns what: wire.c the codec; plan.c the loop over orders; order_*.c the orders; serve.c, monitor.c, session.c, log.c,
 * tree.c the processes. orders.gen.h is generated from packages/kernel/src/orders.
 */
#ifndef BOSUN_H
#define BOSUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SLOTS 4096 /* as in packages/kernel/src/orders/table.ts */
#define HOME_MAX 256
#define NO_SLOT 0xffffffffu
#define NO_ORDER 0xffffffffu
/*
 * For large variables: they lie behind all others (the build sorts sections by name), so that the small ones, which every monitor has
 * a copy of, share a page or two.
 */
#define APART __attribute__((section(".bss.~apart")))

/* A growing buffer; data is NULL while empty. Growth failure ends the process (_exit 70): nothing here can go on without memory. */
struct buffer {
  uint8_t *data;
  size_t size, room;
};
void buffer_append(struct buffer *b, const void *data, size_t size);
void buffer_room(struct buffer *b, size_t more); /* so that `more` bytes fit */
void buffer_u16(struct buffer *b, uint16_t v);
void buffer_u32(struct buffer *b, uint32_t v);
void buffer_u64(struct buffer *b, uint64_t v);
void buffer_bytes(struct buffer *b, const void *data, size_t size); /* u32 length, data, NUL */
void buffer_consume(struct buffer *b, size_t size);                 /* drops from the front */
void buffer_free(struct buffer *b);

/* What a decoder reads from; `bad` is set at the first violation and stays. */
struct reader {
  const uint8_t *at, *end;
  bool bad;
};
struct bytes { const uint8_t *data; uint32_t size; };                 /* NUL-terminated behind size */
struct strs { uint32_t count; struct reader items; };                 /* iterate with strs_next */
struct u32s { uint32_t count; const uint8_t *data; };                 /* unaligned; u32s_at */
struct blobs { uint32_t count; struct reader items; };                /* iterate with blobs_next */
const char *strs_next(struct strs *s);                                /* NULL at the end */
bool blobs_next(struct blobs *b, struct bytes *out);                  /* false at the end */
uint32_t u32s_at(const struct u32s *s, uint32_t i);
uint16_t reader_u16(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
struct bytes reader_bytes(struct reader *r);                          /* u32 length, data, NUL */

/* Decoding and encoding by a list of fields; orders.gen.h wraps these into one typed function per order and message. */
enum field_type { FIELD_U32, FIELD_U64, FIELD_I64, FIELD_STR, FIELD_BYTES, FIELD_STRS, FIELD_BLOBS, FIELD_U32S };
struct field { enum field_type type; size_t offset; };
/* True when `body` is exactly these fields: strings without NUL inside and with one behind, nothing left over. `out` points into `body`. */
bool fields_decode(const uint8_t *body, size_t size, const struct field *fields, size_t count, void *out);
/* Appends a whole frame (header and fields). */
void frame_encode(struct buffer *out, uint32_t id, uint16_t type, const struct field *fields, size_t count, const void *message);

/* Frames: see packages/kernel/src/orders/messages.ts. */
struct frame_header { uint32_t size, id; uint16_t type, reserved; uint32_t timeout_ms; };
#define FRAME_HEADER 16
#define FRAME_MAX (64u << 20)

/* The first failure wins; `detail` is "what on what". */
struct report {
  uint32_t err, order, stage;
  char detail[512];
  struct buffer outputs;
};
/* Both return -1 so that an order can `return fail(...)`. `failed` takes errno as it stands. */
int fail(struct report *r, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));
int failed(struct report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_encode(const struct report *r, uint32_t id, struct buffer *out); /* appends a whole `report` frame */

/*
 * One plan's execution. In a worker: plan_run() returns 0 or -1 with `report`. In a container's stage: sync_fd is one end of
 * a SOCK_SEQPACKET pair whose other end the monitor (or session) holds, and plan_run() does not come back from `clone` in
 * the stage (it reports SYNC_CHILD and _exits) nor from `exec`/`reap` in the child; failures go out as SYNC_FAILED.
 */
#define INHERITED_FIRST 200
#define INHERITED 8

struct run {
  const uint8_t *plan;
  size_t size;
  int slots[SLOTS]; /* -1 = empty */
  int sync_fd;      /* -1 in a worker */
  int stdio[3];     /* to become 0-2 just before exec; -1 = inherit (terminal: the console order replaces them) */
  int empty_mounts; /* serve's near-empty mount namespace, or -1 */
  uint32_t stage;   /* 0 before clone, 1 after */
  uint32_t index;   /* of the order under way */
  bool let_go;      /* wait_fifo has closed sync_fd: failures go to standard error */
  struct bytes filter; /* a seccomp filter that waits for exec (plan.c); data NULL = none */
  uint64_t filter_flags;
  uint32_t filter_index;
  int aside_fd;            /* to the process that was set aside, or -1 */
  int criu_fd;             /* to CRIU while a notification of its is not answered, or -1 */
  pid_t criu, restored;    /* CRIU itself, and what it has restored; 0: not (yet) */
  uint64_t criu_deadline;  /* monotonic ms; 0: none */
  const char *criu_status;
  uint32_t listener_index; /* of the seccomp_listener that waits for its filter, or NO_ORDER */
  uint32_t inherited;      /* of the descriptors from INHERITED_FIRST on, those that exec leaves open */
  uint64_t descriptors[2]; /* RLIMIT_NOFILE as it was, to be given back by exec; 0, 0 = the plan has set its own */
  char home[HOME_MAX];     /* for exec's environment; "" = not looked up */
  struct report report;
};
void run_init(struct run *run);
int plan_run(struct run *run);
/* Checks version, counts, every order's code and fields, without running anything. 0, or -1 with report. */
int plan_check(const uint8_t *plan, size_t size, struct report *report);

/*
 * Messages over sync_fd, each one SEQPACKET datagram that begins with this byte. The end of the file after SYNC_PARKED and a
 * SYNC_GO (every copy of sync_fd is close-on-exec) means that exec succeeded; SYNC_FAILED before it means that it did not.
 */
enum {
  SYNC_CHILD = 'C',    /* stage → monitor: u32 pid of the child (the monitor's own child, by CLONE_PARENT) */
  SYNC_TERMINAL = 'T', /* child → monitor: SCM_RIGHTS with the pty master */
  SYNC_PARKED = 'P',   /* child → monitor: then the report's outputs so far; the child now waits for SYNC_GO */
  SYNC_GO = 'G',       /* monitor → child */
  SYNC_FAILED = 'F',   /* stage or child → monitor: u32 err, u32 order, u32 stage, detail without NUL */
};

/* serve.c, tree.c, monitor.c */
int serve_main(const char *socket_path);
void tree_main(int connection, uint32_t id, const char *path) __attribute__((noreturn)); /* in serve's fork; sends "go" itself */
struct monitor_request; /* generated as struct message_monitor; see orders.gen.h */

#endif
