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

static int reach(struct run *run, const char *relay, const char *path)
{
  for (int tries = 0;; tries++) {
    int fd = relay_reach(relay, GUEST_PORT, path);
    if (fd >= 0)
      return fd;
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

static int attach(struct run *run, const struct proxy *p, const char *relay, const char *path, uint32_t stream)
{
  struct frame_header header;
  const uint8_t *body;
  int fd = reach(run, relay, path);
  if (fd < 0)
    return -1;
  struct proxy side = {.control.fd = fd};
  struct message_attach message = {.session = p->session, .stream = stream};
  message_attach_encode(&side.control.out, 1, &message);
  int result = !proxy_send(&side) || !proxy_answer(&side, 1, &header, &body) ? lost(run, "attach") : take_report(run, &header, body, "attach");
  /* What came behind the answer are the stream's first bytes, and they are the process's output. */
  if (result == 0) {
    proxy_done(&side, &header);
    result = write_all((int)(stream == STREAM_STDERR ? 2 : 1), side.control.in.data, side.control.in.size) ? fd : -1;
  }
  if (result < 0)
    drop(fd);
  buffer_free(&side.control.in);
  return result;
}

/* A process that has closed its input already, or ended, is no failure: whoever writes to it here is to see that. */
static int attach_input(struct run *run, struct proxy *p, const char *relay, const char *path)
{
  p->in = attach(run, p, relay, path, STREAM_STDIN);
  if (p->in >= 0)
    return 0;
  if (run->report.err != EPIPE)
    return -1;
  run->report.err = 0;
  if (!p->terminal)
    close(STDIN_FILENO);
  return 0;
}

static int attach_all(struct run *run, struct proxy *p, const char *relay, const char *path, bool input)
{
  p->out[0] = attach(run, p, relay, path, STREAM_STDOUT);
  if (p->out[0] >= 0 && !p->terminal)
    p->out[1] = attach(run, p, relay, path, STREAM_STDERR);
  if (p->out[0] < 0 || (!p->terminal && p->out[1] < 0))
    return -1;
  return input ? attach_input(run, p, relay, path) : 0;
}

static int begin(struct run *run, struct proxy *p, const char *relay, const char *path)
{
  if (settle(run) < 0 || (p->terminal && stand_in_raw(run) < 0))
    return -1;
  prctl(PR_SET_NAME, "bosun-proxy");
  signal(SIGPIPE, SIG_IGN); /* a channel that ends while it is written to is told in words */
  p->control.fd = reach(run, relay, path);
  return p->control.fd < 0 ? -1 : 0;
}

/* Sends the request that was encoded and takes its answer, which is of `type` or tells of a failure. */
static int transact(struct run *run, struct proxy *p, uint16_t type, const char *what, struct frame_header *header, const uint8_t **body)
{
  if (!proxy_send(p) || !proxy_answer(p, p->request, header, body))
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
  if (begin(run, &p, o->relay, o->monitor) < 0)
    return -1;
  if (*o->oom_file && (p.oom_fd = open(o->oom_file, O_WRONLY | O_CLOEXEC)) < 0)
    return failed(&run->report, "open %s", o->oom_file);
  if (attach_all(run, &p, o->relay, o->monitor, o->stdin_) < 0)
    return -1;
  proxy_resize(&p);
  struct message_watch watch;
  message_watch_encode(&p.control.out, ++p.request, &watch);
  if (transact(run, &p, MESSAGE_STATE, "watch", &header, &body) < 0)
    return -1;
  proxy_done(&p, &header);
  struct message_start start;
  message_start_encode(&p.control.out, ++p.request, &start);
  if (transact(run, &p, MESSAGE_STATE, "start", &header, &body) < 0)
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
  if (begin(run, &p, o->relay, o->monitor) < 0)
    return -1;
  struct message_exec message = {
    .sync = EXEC_TIED,
    .terminal = o->terminal,
    .streams = STREAM_STDOUT | (o->terminal ? 0 : STREAM_STDERR) | (o->stdin_ ? STREAM_STDIN : 0),
    .drain_ms = o->drain_ms,
    .plan = o->plan,
  };
  message_exec_encode(&p.control.out, ++p.request, &message);
  if (transact(run, &p, MESSAGE_SESSION, "exec", &header, &body) < 0)
    return -1;
  if (!message_session_decode(body, header.size, &session))
    return fail(&run->report, EPROTO, "exec: an answer that does not decode");
  p.session = session.session;
  proxy_done(&p, &header);
  if (attach_all(run, &p, o->relay, o->monitor, o->stdin_) < 0)
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
