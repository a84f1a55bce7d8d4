/*
 * The life of a process that stands for one in a virtual machine: its standard streams are pumped, signals are handed on, and it ends
 * as that one does. It is one for each container, so it holds little.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy.h"
#include "stand_in.h"

#define WAY_SIZE 16384u
/* What a guest's monitor answers is short; one that announces more is not waited for, as it would all be kept here. */
#define LONGEST_FRAME (256u << 10)

/* One direction of one stream. `over`: nothing comes any more and all was handed on. */
struct way { int from, to; bool ended, over; size_t at, size; uint8_t data[WAY_SIZE]; };

static struct way ways[3] APART;
static bool exited;
static uint32_t code;

/* --- the monitor's connection ------------------------------------------------------------------------------------------- */

bool proxy_send(struct proxy *p)
{
  bool sent = write_all(p->control.fd, p->control.out.data, p->control.out.size);
  buffer_free(&p->control.out);
  return sent;
}

static void take_exit(struct proxy *p, uint32_t status, bool oom)
{
  static const char text[] = "oom_kill 1\n";
  exited = true;
  code = status;
  if (oom && p->oom_fd >= 0)
    (void)!pwrite(p->oom_fd, text, sizeof text - 1, 0);
}

/* Frames that nobody waits for: the end of the process, and answers that change nothing. */
static void take_frame(struct proxy *p, const struct frame_header *header, const uint8_t *body)
{
  struct message_state state;
  struct message_execed execed;
  if (header->type == MESSAGE_STATE && header->id == 0 && message_state_decode(body, header->size, &state))
    take_exit(p, state.code, state.oom);
  else if (header->id && header->id == p->waits)
    take_exit(p, header->type == MESSAGE_EXECED && message_execed_decode(body, header->size, &execed) ? execed.code : LOST_STATUS, false);
}

/* Reads once. False: the end. */
static bool fill(struct proxy *p, int flags)
{
  uint8_t data[4096];
  ssize_t n;
  do
    n = recv(p->control.fd, data, sizeof data, flags);
  while (n < 0 && errno == EINTR);
  if (n > 0)
    buffer_append(&p->control.in, data, (size_t)n);
  return n > 0 || (n < 0 && errno == EAGAIN);
}

void proxy_done(struct proxy *p, const struct frame_header *header)
{
  buffer_consume(&p->control.in, FRAME_HEADER + header->size);
  if (!p->control.in.size)
    buffer_free(&p->control.in);
}

/* As conn_frame. */
static int next_frame(struct proxy *p, struct frame_header *header, const uint8_t **body)
{
  size_t at = 0;
  int whole = conn_frame(&p->control, &at, header, body);
  if (whole == 0 && p->control.in.size >= FRAME_HEADER && header->size > LONGEST_FRAME)
    return -1;
  return whole;
}

bool proxy_answer(struct proxy *p, uint32_t id, struct frame_header *header, const uint8_t **body)
{
  for (;;) {
    int whole = next_frame(p, header, body);
    if (whole < 0 || (whole == 0 && !fill(p, 0)))
      return false;
    if (whole == 1 && header->id == id)
      return true;
    if (whole == 1) {
      take_frame(p, header, *body);
      proxy_done(p, header);
    }
  }
}

static void control_ready(struct proxy *p)
{
  struct frame_header header;
  const uint8_t *body;
  bool more = fill(p, MSG_DONTWAIT);
  int whole;
  while ((whole = next_frame(p, &header, &body)) == 1) {
    take_frame(p, &header, body);
    proxy_done(p, &header);
  }
  if (more && whole == 0)
    return;
  if (!exited)
    _exit(LOST_STATUS);
  fd_close(&p->control.fd);
  buffer_free(&p->control.in);
}

/* --- signals ------------------------------------------------------------------------------------------------------------ */

void proxy_resize(struct proxy *p)
{
  struct winsize size;
  if (!p->terminal || ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col)
    return;
  struct message_resize message = {.session = p->session, .rows = size.ws_row, .columns = size.ws_col};
  message_resize_encode(&p->control.out, ++p->request, &message);
}

static int open_signals(void)
{
  static const int own[] = {SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    sigdelset(&all, own[i]);
  return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void signals_ready(struct proxy *p, int fd)
{
  struct signalfd_siginfo info;
  while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
    struct message_kill message = {.session = p->session, .signal = info.ssi_signo};
    if (info.ssi_signo == SIGWINCH && p->terminal)
      proxy_resize(p);
    else if (p->control.fd >= 0)
      message_kill_encode(&p->control.out, ++p->request, &message);
  }
  if (p->control.out.size && !proxy_send(p) && !exited)
    _exit(LOST_STATUS);
}

/* --- streams ------------------------------------------------------------------------------------------------------------ */

/* Both ends: whoever reads or writes at the other side of 0, 1 or 2 is to see that nobody does here. A terminal is all three. */
static void way_end(struct way *w, bool terminal)
{
  bool inwards = w == &ways[0];
  w->over = true;
  if (inwards)
    shutdown(w->to, SHUT_WR);
  else
    fd_close(&w->from);
  if (!terminal)
    fd_close(inwards ? &w->from : &w->to);
}

static void way_move(struct way *w, bool terminal)
{
  if (w->at == w->size && !w->ended) {
    ssize_t n = read(w->from, w->data, WAY_SIZE);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
      return;
    w->ended = n <= 0;
    w->at = 0;
    w->size = n > 0 ? (size_t)n : 0;
  }
  while (w->at < w->size) {
    ssize_t n = write(w->to, w->data + w->at, w->size - w->at);
    if (n < 0 && errno == EAGAIN)
      return;
    if (n < 0 && errno != EINTR) {
      w->ended = true;
      w->at = w->size;
    }
    w->at += n > 0 ? (size_t)n : 0;
  }
  if (w->ended)
    way_end(w, terminal);
}

static struct pollfd way_poll(const struct way *w)
{
  if (w->over)
    return (struct pollfd){.fd = -1};
  return w->at < w->size ? (struct pollfd){.fd = w->to, .events = POLLOUT} : (struct pollfd){.fd = w->from, .events = POLLIN};
}

/* The process there no longer reads its input, and whoever writes it here is to know. */
static void input_ready(struct way *in, bool terminal)
{
  uint8_t nothing;
  if (recv(in->to, &nothing, 1, MSG_DONTWAIT) == 0 && !in->over)
    way_end(in, terminal);
}

static void ways_open(const struct proxy *p)
{
  for (int i = 0; i < 3; i++) {
    int stream = i ? p->out[i - 1] : p->in;
    ways[i].over = stream < 0;
    ways[i].from = i ? stream : STDIN_FILENO;
    ways[i].to = i ? i : stream;
    if (!ways[i].over)
      fd_nonblock(stream);
    fd_nonblock(i);
  }
}

void proxy_run(struct proxy *p)
{
  int signals = open_signals();
  ways_open(p);
  while (!(exited && ways[1].over && ways[2].over)) {
    bool watched = !ways[0].over && ways[0].at == ways[0].size;
    struct pollfd polled[] = {
      {.fd = p->control.fd, .events = POLLIN},
      {.fd = signals, .events = POLLIN},
      way_poll(&ways[0]), way_poll(&ways[1]), way_poll(&ways[2]),
      {.fd = watched ? ways[0].to : -1, .events = POLLIN},
    };
    if (poll(polled, sizeof polled / sizeof *polled, -1) < 0 && errno != EINTR)
      _exit(LOST_STATUS);
    if (polled[0].revents)
      control_ready(p);
    if (polled[1].revents)
      signals_ready(p, signals);
    for (int i = 0; i < 3; i++)
      if (polled[2 + i].revents && !ways[i].over)
        way_move(&ways[i], p->terminal);
    if (polled[5].revents && watched)
      input_ready(&ways[0], p->terminal);
  }
  _exit((int)code);
}
