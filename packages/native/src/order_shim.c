/*
 * A process that stands for one of a shim's (shim v2) under a monitor: its streams are the other's FIFOs, signals and sizes that come
 * here are the shim's to give, and it exits with the other's code. What is said to the shim was encoded by TypeScript: whole ttRPC
 * frames, in which the stream's number is put here, and a signal or a size in the place that was left for it at their end.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"
#include "stand_in.h"
#include "ttrpc.h"

#define DRAIN_MS 2000    /* what the process has left behind may hold its outputs open */
#define CHUNK 16384

struct flow {
  int from, to; /* -1: at its end */
  size_t at, size;
  uint8_t data[CHUNK];
};

struct proxy {
  struct ttrpc shim;
  int signals, terminal; /* terminal: to ask its size of; -1: none */
  uint32_t waiting;      /* the stream of Wait */
  struct flow flows[3];
  bool exited;
  int code;
};

/* --- the shim ------------------------------------------------------------------------------------------------------------- */

/* "@name": an abstract socket. */
static int dial_shim(struct run *run, const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = strlen(path);
  if (size >= sizeof address.sun_path)
    return fail(&run->report, ENAMETOOLONG, "connect %s", path);
  memcpy(address.sun_path, path, size);
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + (*path == '@' ? 0 : 1));
  if (*path == '@')
    address.sun_path[0] = 0;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0)
    return fd;
  failed(&run->report, "connect %s", path);
  drop(fd);
  return -1;
}

static void take_answers(struct proxy *p)
{
  struct reader message, payload, inner;
  struct answer answer;
  uint64_t code;
  int whole;
  while ((whole = ttrpc_next(&p->shim, &answer)) > 0) {
    if (answer.stream == p->waiting && answer.type == TTRPC_RESPONSE) {
      bool ended = ttrpc_response(answer.body, &message, &payload) == 0;
      p->exited = true;
      p->code = !ended ? LOST_STATUS : protobuf_first(payload, &code, &inner) ? (int)(code & 0xff) : 0;
    }
    ttrpc_done(&p->shim, &answer);
  }
  if (whole < 0)
    p->exited = true, p->code = LOST_STATUS;
}

/* --- streams -------------------------------------------------------------------------------------------------------------- */

static void end_flow(struct flow *f)
{
  fd_close(&f->from);
  if (!f->size)
    fd_close(&f->to);
}

static void fill(struct flow *f)
{
  ssize_t n = read(f->from, f->data, sizeof f->data);
  if (n > 0)
    f->at = 0, f->size = (size_t)n;
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    end_flow(f);
}

static void empty(struct flow *f)
{
  ssize_t n = write(f->to, f->data + f->at, f->size);
  if (n > 0)
    f->at += (size_t)n, f->size -= (size_t)n;
  else if (n < 0 && errno != EAGAIN && errno != EINTR)
    f->size = 0, fd_close(&f->from); /* nobody reads it any more */
  if (!f->size && f->from < 0)
    fd_close(&f->to);
}

static void turn_flow(struct flow *f, const struct pollfd *polled)
{
  if (!polled->revents)
    return;
  if (f->size)
    empty(f);
  else
    fill(f);
}

static bool flows_end(const struct proxy *p)
{
  for (int i = 1; i < 3; i++)
    if (p->flows[i].from >= 0 || p->flows[i].size)
      return false;
  return true;
}

/* --- the life of it --------------------------------------------------------------------------------------------------------- */

static void pass_size(struct proxy *p, const struct order_shim_process *o)
{
  struct winsize size;
  if (p->terminal < 0 || ioctl(p->terminal, TIOCGWINSZ, &size) < 0 || (!size.ws_row && !size.ws_col))
    return;
  ttrpc_call(&p->shim, o->resize, (const uint32_t[]){size.ws_col, size.ws_row}, 2);
}

static void pass_signals(struct proxy *p, const struct order_shim_process *o)
{
  struct signalfd_siginfo got;
  while (read(p->signals, &got, sizeof got) == sizeof got) {
    if (got.ssi_signo == SIGWINCH)
      pass_size(p, o);
    else
      ttrpc_call(&p->shim, o->kill, (const uint32_t[]){got.ssi_signo}, 1);
  }
}

static void relay(struct proxy *p, const struct order_shim_process *o)
{
  uint64_t deadline = 0;
  bool input = p->flows[0].from >= 0;
  for (;;) {
    if (p->exited && !deadline)
      deadline = now_ms() + DRAIN_MS;
    uint64_t now = now_ms();
    if (deadline && (flows_end(p) || now >= deadline))
      return;
    struct pollfd fds[5] = {{.fd = p->exited ? -1 : p->shim.fd, .events = POLLIN}, {.fd = p->signals, .events = POLLIN}};
    for (int i = 0; i < 3; i++) {
      struct flow *f = &p->flows[i];
      fds[2 + i] = f->size ? (struct pollfd){.fd = f->to, .events = POLLOUT} : (struct pollfd){.fd = f->from, .events = POLLIN};
    }
    if (poll(fds, 5, deadline ? (int)(deadline - now) : -1) < 0)
      continue;
    if (fds[0].revents) {
      if (ttrpc_receive(&p->shim))
        take_answers(p);
      else
        p->exited = true, p->code = LOST_STATUS;
    }
    if (fds[1].revents)
      pass_signals(p, o);
    for (int i = 0; i < 3; i++)
      turn_flow(&p->flows[i], &fds[2 + i]);
    if (input && p->flows[0].to < 0) {
      input = false;
      ttrpc_call(&p->shim, o->close_input, NULL, 0);
    }
  }
}

static int open_flows(struct run *run, struct proxy *p, const struct order_shim_process *o)
{
  const uint32_t slots[3] = {o->stdin_slot, o->stdout_slot, o->stderr_slot};
  for (int i = 0; i < 3; i++) {
    struct flow *f = &p->flows[i];
    f->from = f->to = -1;
    if (slots[i] == NO_SLOT)
      continue;
    int fifo = slot_get(run, slots[i]), own = dup(i);
    if (fifo < 0)
      return -1;
    if (own < 0 || !fd_nonblock(own) || !fd_nonblock(fifo))
      return failed(&run->report, "stdio %d", i);
    f->from = i ? fifo : own;
    f->to = i ? own : fifo;
    run->slots[slots[i]] = -1;
  }
  /* Whoever waits for the end of these waits for the copies alone. */
  child_null_stdio();
  return 0;
}

int order_shim_process(struct run *run, const struct order_shim_process *o)
{
  /* Not static: a monitor's own pages would lie further apart. */
  struct proxy *p = calloc(1, sizeof *p);
  if (!p)
    _exit(70);
  if (run->sync_fd < 0 || run->stage != 1)
    return fail(&run->report, EINVAL, "it needs a monitor above it, and a process of its own");
  const struct bytes *frames[] = {&o->start, &o->wait, &o->kill, &o->close_input, &o->resize};
  for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
    if (frames[i]->size && frames[i]->size < TTRPC_HEADER + 2 * NUMBER_BYTES + 1)
      return fail(&run->report, EINVAL, "frame %zu is no request", i);
  prctl(PR_SET_NAME, "bosun-shim");
  if (o->terminal ? stand_in_raw(run) < 0 : place_stdio(run) < 0)
    return -1;
  p->terminal = o->terminal ? dup(STDIN_FILENO) : -1;
  if ((p->signals = stand_in_signals()) < 0)
    return failed(&run->report, "signalfd");
  p->shim = (struct ttrpc){.fd = dial_shim(run, o->socket), .most = TTRPC_MAX};
  if (p->shim.fd < 0)
    return -1;
  if (!ttrpc_call(&p->shim, o->start, NULL, 0))
    return failed(&run->report, "send to the shim");
  if (ttrpc_succeed(&p->shim, "the shim", &run->report) < 0)
    return -1;
  if (!ttrpc_call(&p->shim, o->wait, NULL, 0))
    return failed(&run->report, "send to the shim");
  p->waiting = p->shim.stream;
  pass_size(p, o);
  if (open_flows(run, p, o) < 0 || restore_descriptor_limit(run) < 0)
    return -1;
  /* With the way to the monitor closes what tells it that the process runs. */
  fd_close(&run->aside_fd);
  fd_close(&run->empty_mounts);
  fd_close(&run->sync_fd);
  take_answers(p);
  relay(p, o);
  _exit(p->code);
}
