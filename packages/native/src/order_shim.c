/*
 * A process that stands for one of a shim's (shim v2) under a monitor: its streams are the other's FIFOs, signals and sizes that come
 * here are the shim's to give, and it exits with the other's code. What is said to the shim was encoded by TypeScript: whole ttRPC
 * frames, in which the stream's number is put here, and a signal or a size in the place that was left for it at their end.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"

#define TTRPC_HEADER 10
#define TTRPC_MAX (4u << 20)
#define TTRPC_RESPONSE 2
#define NUMBER_BYTES 5   /* a varint of 32 bits, padded to its longest */
#define DRAIN_MS 2000    /* what the process has left behind may hold its outputs open */
#define CHUNK 16384
#define LOST_CODE 137    /* of a process whose shim has died, as containerd reports it */

struct flow {
  int from, to; /* -1: at its end */
  size_t at, size;
  uint8_t data[CHUNK];
};

struct proxy {
  int shim, signals, terminal; /* terminal: to ask its size of; -1: none */
  uint32_t stream, waiting; /* the last one that was opened; that of Wait */
  struct buffer in;
  struct flow flows[3];
  bool exited;
  int code;
};

/* --- protobuf, as far as a ttRPC response needs it ---------------------------------------------------------------------- */

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

/* The next field: its number, and its value or, of one with a length, what it holds. False: the end, or nothing that could be one. */
static bool take_field(struct reader *r, uint64_t *number, uint64_t *value, struct reader *inner)
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

/* Response{status = 1 {code = 1, message = 2}, payload = 2}. The status's code. */
static uint64_t read_response(struct reader r, struct reader *message, struct reader *payload)
{
  struct reader status = {0}, inner;
  uint64_t number, value, code = 0;
  *message = *payload = (struct reader){0};
  while (take_field(&r, &number, &value, &inner)) {
    if (number == 1)
      status = inner;
    if (number == 2)
      *payload = inner;
  }
  while (take_field(&status, &number, &value, &inner)) {
    if (number == 1)
      code = value;
    if (number == 2)
      *message = inner;
  }
  return code;
}

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

static void put_number(uint8_t *at, uint32_t value)
{
  for (int i = 0; i < NUMBER_BYTES; i++, value >>= 7)
    at[i] = (uint8_t)((value & 0x7f) | (i < NUMBER_BYTES - 1 ? 0x80 : 0));
}

/* `numbers`: for the places at the end of the frame, the last one last; a key's byte is between two of them. */
static bool call(struct proxy *p, struct bytes frame, const uint32_t *numbers, size_t count)
{
  uint8_t *copy = malloc(frame.size);
  if (!copy)
    _exit(70);
  memcpy(copy, frame.data, frame.size);
  p->stream += p->stream ? 2 : 1;
  uint32_t stream = htobe32(p->stream);
  memcpy(copy + 4, &stream, sizeof stream);
  for (size_t i = 0; i < count; i++)
    put_number(copy + frame.size - (count - i) * NUMBER_BYTES - (count - 1 - i), numbers[i]);
  bool sent = true;
  for (size_t at = 0; at < frame.size && sent;) {
    ssize_t n = send(p->shim, copy + at, frame.size - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    sent = n > 0;
    at += sent ? (size_t)n : 0;
  }
  free(copy);
  return sent;
}

/* What there is, into `in`. False: the shim has gone. */
static bool receive(struct proxy *p)
{
  uint8_t data[4096];
  ssize_t n;
  do
    n = recv(p->shim, data, sizeof data, 0);
  while (n < 0 && errno == EINTR);
  if (n <= 0)
    return false;
  buffer_append(&p->in, data, (size_t)n);
  return true;
}

/* The next whole frame at the front of `in`: 1, 0 when it is not whole yet, -1 when no shim would send it. */
static int next_frame(const struct proxy *p, uint32_t *stream, struct reader *body, size_t *size)
{
  uint32_t length;
  if (p->in.size < TTRPC_HEADER)
    return 0;
  memcpy(&length, p->in.data, sizeof length);
  memcpy(stream, p->in.data + 4, sizeof *stream);
  length = be32toh(length);
  *stream = be32toh(*stream);
  if (length > TTRPC_MAX)
    return -1;
  *size = TTRPC_HEADER + length;
  *body = (struct reader){.at = p->in.data + TTRPC_HEADER, .end = p->in.data + *size};
  return p->in.size >= *size;
}

/* Of what the shim refuses its words are all that is told. */
static int start(struct run *run, struct proxy *p, struct bytes frame)
{
  struct reader body, message, payload;
  uint32_t stream;
  size_t size;
  int whole;
  if (!call(p, frame, NULL, 0))
    return failed(&run->report, "send to the shim");
  while ((whole = next_frame(p, &stream, &body, &size)) == 0)
    if (!receive(p))
      return fail(&run->report, ECONNRESET, "the shim has gone");
  if (whole < 0 || p->in.data[8] != TTRPC_RESPONSE || stream != p->stream)
    return fail(&run->report, EPROTO, "the shim's answer");
  if (read_response(body, &message, &payload) != 0)
    return fail(&run->report, ECHILD, "%.*s", (int)(message.end - message.at), (const char *)message.at);
  buffer_consume(&p->in, size);
  return 0;
}

static void take_answers(struct proxy *p)
{
  struct reader body, message, payload, inner;
  uint32_t stream;
  uint64_t number, value;
  size_t size;
  int whole;
  while ((whole = next_frame(p, &stream, &body, &size)) > 0) {
    bool is_exit = stream == p->waiting && p->in.data[8] == TTRPC_RESPONSE;
    if (is_exit) {
      p->exited = true;
      p->code = read_response(body, &message, &payload) == 0 ? 0 : LOST_CODE;
      while (p->code == 0 && take_field(&payload, &number, &value, &inner))
        if (number == 1)
          p->code = (int)(value & 0xff);
    }
    buffer_consume(&p->in, size);
  }
  if (whole < 0)
    p->exited = true, p->code = LOST_CODE;
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
  call(p, o->resize, (const uint32_t[]){size.ws_col, size.ws_row}, 2);
}

static void pass_signals(struct proxy *p, const struct order_shim_process *o)
{
  struct signalfd_siginfo got;
  while (read(p->signals, &got, sizeof got) == sizeof got) {
    if (got.ssi_signo == SIGWINCH)
      pass_size(p, o);
    else
      call(p, o->kill, (const uint32_t[]){got.ssi_signo}, 1);
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
    struct pollfd fds[5] = {{.fd = p->exited ? -1 : p->shim, .events = POLLIN}, {.fd = p->signals, .events = POLLIN}};
    for (int i = 0; i < 3; i++) {
      struct flow *f = &p->flows[i];
      fds[2 + i] = f->size ? (struct pollfd){.fd = f->to, .events = POLLOUT} : (struct pollfd){.fd = f->from, .events = POLLIN};
    }
    if (poll(fds, 5, deadline ? (int)(deadline - now) : -1) < 0)
      continue;
    if (fds[0].revents) {
      if (receive(p))
        take_answers(p);
      else
        p->exited = true, p->code = LOST_CODE;
    }
    if (fds[1].revents)
      pass_signals(p, o);
    for (int i = 0; i < 3; i++)
      turn_flow(&p->flows[i], &fds[2 + i]);
    if (input && p->flows[0].to < 0) {
      input = false;
      call(p, o->close_input, NULL, 0);
    }
  }
}

/*
 * Whatever may be sent to a container's process; what ends this one at once cannot be passed on. By the raw calls: C libraries keep
 * some signals to themselves.
 */
static int take_signals(void)
{
  static const int own[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS, SIGPIPE, SIGCHLD};
  uint64_t set = ~0ull;
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    set &= ~(1ull << (own[i] - 1));
  signal(SIGPIPE, SIG_IGN);
  if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, NULL, sizeof set) < 0)
    return -1;
  return (int)syscall(SYS_signalfd4, -1, &set, sizeof set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int make_raw(struct run *run)
{
  struct termios settings;
  if (tcgetattr(STDIN_FILENO, &settings) < 0)
    return failed(&run->report, "tcgetattr");
  cfmakeraw(&settings);
  return tcsetattr(STDIN_FILENO, TCSANOW, &settings) < 0 ? failed(&run->report, "tcsetattr") : 0;
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
  if (o->terminal ? make_raw(run) < 0 : place_stdio(run) < 0)
    return -1;
  p->terminal = o->terminal ? dup(STDIN_FILENO) : -1;
  if ((p->signals = take_signals()) < 0)
    return failed(&run->report, "signalfd");
  if ((p->shim = dial_shim(run, o->socket)) < 0)
    return -1;
  if (start(run, p, o->start) < 0)
    return -1;
  if (!call(p, o->wait, NULL, 0))
    return failed(&run->report, "send to the shim");
  p->waiting = p->stream;
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
