/*
 * Orders that end a plan as a process in a virtual machine: the process here stands for one there, which the monitor there has made
 * or makes. It becomes no other program: what it does is read here.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "orders.h"
#include "proxy.h"
#include "relay.h"
#include "stand_in.h"

#define QUEUE_TRIES 2000 /* a listener there whose queue is full; ten seconds */
#define QUEUE_PAUSE_MS 5
#define GUEST_PORT 1024

/* --- reaching it -------------------------------------------------------------------------------------------------------- */

/* `fd`: dialled already, or -1. */
static int reach(struct run *run, const char *relay, const char *path, int fd)
{
  for (int tries = 0;; tries++) {
    if (fd < 0)
      fd = relay_dial(relay, GUEST_PORT, path);
    if (fd >= 0 && relay_granted(fd, GUEST_PORT, path))
      return fd;
    drop(fd);
    fd = -1;
    if (errno != EAGAIN || tries == QUEUE_TRIES)
      return failed(&run->report, "connect %s through %s", path, relay);
    poll(NULL, 0, QUEUE_PAUSE_MS);
  }
}

/* --- talking to its monitor --------------------------------------------------------------------------------------------- */

/* A failure there is this order's; whose order it was there is said in words. */
static int take_report(struct run *run, const struct frame_header *header, const uint8_t *body, const char *what)
{
  struct message_report report;
  if (header->type != MESSAGE_REPORT || !message_report_decode(body, header->size, &report))
    return fail(&run->report, EPROTO, "%s: the guest's monitor answered frame %u", what, header->type);
  if (report.errno_ == 0)
    return 0;
  if (report.order == NO_ORDER)
    return fail(&run->report, (int)report.errno_, "%s: %s", what, report.detail);
  return fail(&run->report, (int)report.errno_, "order %u of the guest's plan: %s", report.order, report.detail);
}

static int lost(struct run *run, const char *what)
{
  return fail(&run->report, ECONNRESET, "%s: the channel to the guest has ended", what);
}

/* The streams' own connections, in this order. */
static const uint32_t streams[] = {STREAM_STDOUT, STREAM_STDERR, STREAM_STDIN};
#define STREAMS 3

static bool wants(const struct proxy *p, int stream, bool input)
{
  return streams[stream] == STREAM_STDIN ? input : streams[stream] == STREAM_STDOUT || !p->terminal;
}

/* A process that has closed its input already, or ended, is no failure: whoever writes to it here is to see that. */
static int without_input(struct run *run, const struct proxy *p)
{
  if (run->report.err != EPIPE)
    return -1;
  run->report.err = 0;
  if (!p->terminal)
    close(STDIN_FILENO);
  return 0;
}

static int attached(struct run *run, struct proxy *p, struct proxy *side, uint32_t stream)
{
  struct frame_header header;
  const uint8_t *body;
  int fd = side->control.fd;
  int result = proxy_answer(side, 1, &header, &body) ? take_report(run, &header, body, "attach") : lost(run, "attach");
  /* What came behind the answer are the stream's first bytes, and they are the process's output. */
  if (result == 0) {
    proxy_done(side, &header);
    if (!write_all(stream == STREAM_STDERR ? 2 : 1, side->control.in.data, side->control.in.size))
      result = failed(&run->report, "write the first output");
  }
  buffer_free(&side->control.in);
  if (result < 0) {
    drop(fd);
    return stream == STREAM_STDIN ? without_input(run, p) : -1;
  }
  *(stream == STREAM_STDIN ? &p->in : stream == STREAM_STDOUT ? &p->out[0] : &p->out[1]) = fd;
  return 0;
}

/* All are asked for before any is waited for: each answer is a way to the guest and back. */
static int attach_all(struct run *run, struct proxy *p, const char *relay, const char *path, const int dialled[STREAMS], bool input)
{
  struct proxy sides[STREAMS] = {0};
  for (int i = 0; i < STREAMS; i++) {
    struct message_attach message = {.session = p->session, .stream = streams[i]};
    if (!wants(p, i, input))
      continue;
    if ((sides[i].control.fd = reach(run, relay, path, dialled[i])) < 0)
      return -1;
    message_attach_encode(&sides[i].control.out, 1, &message);
    if (!proxy_send(&sides[i]))
      return lost(run, "attach");
  }
  for (int i = 0; i < STREAMS; i++)
    if (wants(p, i, input) && attached(run, p, &sides[i], streams[i]) < 0)
      return -1;
  return 0;
}

static int begin(struct run *run, struct proxy *p, const char *relay, const char *path, int dialled[STREAMS], bool input)
{
  if (settle(run) < 0 || (p->terminal && stand_in_raw(run) < 0))
    return -1;
  prctl(PR_SET_NAME, "bosun-proxy");
  signal(SIGPIPE, SIG_IGN); /* a channel that ends while it is written to is told in words */
  int control = relay_dial(relay, GUEST_PORT, path);
  for (int i = 0; i < STREAMS; i++)
    dialled[i] = wants(p, i, input) ? relay_dial(relay, GUEST_PORT, path) : -1;
  p->control.fd = reach(run, relay, path, control);
  return p->control.fd < 0 ? -1 : 0;
}

/* Takes the answer to a request that was sent; it is of `type`, or tells of a failure. */
static int answer(struct run *run, struct proxy *p, uint32_t request, uint16_t type, const char *what, struct frame_header *header,
                  const uint8_t **body)
{
  if (!proxy_answer(p, request, header, body))
    return lost(run, what);
  if (header->type == type)
    return 0;
  return take_report(run, header, *body, what) < 0 ? -1 : fail(&run->report, EPROTO, "%s", what);
}

static void go_on(struct run *run, struct proxy *p)
{
  /* With the way to the monitor closes what tells it that this has begun. */
  fd_close(&run->sync_fd);
  proxy_run(p);
}

int order_guest_process(struct run *run, const struct order_guest_process *o)
{
  struct proxy p = {.in = -1, .out = {-1, -1}, .oom_fd = -1, .terminal = o->terminal};
  struct frame_header header;
  const uint8_t *body;
  int dialled[STREAMS];
  if (begin(run, &p, o->relay, o->monitor, dialled, o->stdin_) < 0)
    return -1;
  if (*o->oom_file && (p.oom_fd = open(o->oom_file, O_WRONLY | O_CLOEXEC)) < 0)
    return failed(&run->report, "open %s", o->oom_file);
  if (attach_all(run, &p, o->relay, o->monitor, dialled, o->stdin_) < 0)
    return -1;
  proxy_resize(&p);
  struct message_watch watch;
  struct message_start start;
  uint32_t watches = ++p.request, starts = ++p.request;
  message_watch_encode(&p.control.out, watches, &watch);
  message_start_encode(&p.control.out, starts, &start);
  if (!proxy_send(&p))
    return lost(run, "start");
  if (answer(run, &p, watches, MESSAGE_STATE, "watch", &header, &body) < 0)
    return -1;
  proxy_done(&p, &header);
  if (answer(run, &p, starts, MESSAGE_STATE, "start", &header, &body) < 0)
    return -1;
  proxy_done(&p, &header);
  go_on(run, &p);
  return -1;
}

int order_guest_exec(struct run *run, const struct order_guest_exec *o)
{
  struct proxy p = {.in = -1, .out = {-1, -1}, .oom_fd = -1, .terminal = o->terminal};
  struct frame_header header;
  const uint8_t *body;
  struct message_session session;
  int dialled[STREAMS];
  if (begin(run, &p, o->relay, o->monitor, dialled, o->stdin_) < 0)
    return -1;
  struct message_exec message = {
    .sync = EXEC_TIED,
    .terminal = o->terminal,
    .streams = STREAM_STDOUT | (o->terminal ? 0 : STREAM_STDERR) | (o->stdin_ ? STREAM_STDIN : 0),
    .drain_ms = o->drain_ms,
    .plan = o->plan,
  };
  message_exec_encode(&p.control.out, ++p.request, &message);
  if (!proxy_send(&p))
    return lost(run, "exec");
  if (answer(run, &p, p.request, MESSAGE_SESSION, "exec", &header, &body) < 0)
    return -1;
  if (!message_session_decode(body, header.size, &session))
    return fail(&run->report, EPROTO, "exec: an answer that does not decode");
  p.session = session.session;
  proxy_done(&p, &header);
  if (attach_all(run, &p, o->relay, o->monitor, dialled, o->stdin_) < 0)
    return -1;
  proxy_resize(&p);
  struct message_wait wait = {.session = p.session};
  p.waits = ++p.request;
  message_wait_encode(&p.control.out, p.waits, &wait);
  if (!proxy_send(&p))
    return lost(run, "wait");
  go_on(run, &p);
  return -1;
}
