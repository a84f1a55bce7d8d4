/*
 * A process that stands for one in a virtual machine whose agent is Kata's: its streams are the agent's to read and to write, signals
 * and sizes that come here are the agent's to give, and it exits with the other's code. The agent forgets a process and its streams when
 * it has told the end of it, so that is asked for last.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"
#include "relay.h"
#include "stand_in.h"
#include "ttrpc.h"

#define LONGEST_READ 32768u        /* what the requests to read ask for, and one to write carries at most */
#define LONGEST_ANSWER (128u << 10) /* the longest are its words about a failure */
#define BUSY_TRIES 2000            /* a listener whose queue is full; ten seconds */
#define BUSY_PAUSE_MS 5

/* An output: asked for, then written here, then asked for again. */
struct output_way {
  uint32_t asked; /* the stream of the call that is under way; 0: none */
  bool over;
  size_t at;
  struct buffer data;
};

struct stand_in {
  struct ttrpc agent;
  const struct order_agent_process *o;
  int signals;
  struct output_way out[2];
  uint32_t writing; /* the stream of the write that is under way; 0: none */
  bool input;       /* something may still come on fd 0 */
  uint32_t waiting; /* the stream of the wait; 0: not yet */
};

static _Noreturn void lost(void) { _exit(LOST_STATUS); }

static void call(struct stand_in *p, struct bytes frame, const uint32_t *numbers, size_t count)
{
  if (!ttrpc_call(&p->agent, frame, numbers, count))
    lost();
}

/* --- outputs ------------------------------------------------------------------------------------------------------------ */

static void ask_output(struct stand_in *p, int i)
{
  struct output_way *w = &p->out[i];
  if (w->over || w->asked || w->data.size)
    return;
  call(p, i ? p->o->stderr_ : p->o->stdout_, NULL, 0);
  w->asked = p->agent.stream;
}

/* A terminal is all three: it goes with this process. */
static void end_output(struct stand_in *p, int i)
{
  p->out[i].over = true;
  if (!p->o->terminal)
    close(i + 1);
}

static void write_output(struct stand_in *p, int i)
{
  struct output_way *w = &p->out[i];
  ssize_t n = write(i + 1, w->data.data + w->at, w->data.size - w->at);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  w->at += n > 0 ? (size_t)n : 0;
  if (n > 0 && w->at < w->data.size)
    return;
  buffer_free(&w->data);
  w->at = 0;
  if (n < 0)
    end_output(p, i); /* nobody reads it any more */
  ask_output(p, i);
}

static void take_output(struct stand_in *p, int i, const struct answer *answer)
{
  struct output_way *w = &p->out[i];
  struct reader message, payload, data = {0};
  uint64_t length;
  w->asked = 0;
  if (ttrpc_response(answer->body, &message, &payload) == 0)
    protobuf_first(payload, &length, &data);
  size_t size = (size_t)(data.end - data.at);
  if (size > LONGEST_READ)
    lost();
  if (!size)
    return end_output(p, i);
  buffer_append(&w->data, data.at, size);
  write_output(p, i);
}

/* --- input -------------------------------------------------------------------------------------------------------------- */

static void end_input(struct stand_in *p)
{
  p->input = false;
  if (p->o->terminal)
    return;
  close(STDIN_FILENO);
  call(p, p->o->close_input, NULL, 0);
}

static void read_input(struct stand_in *p)
{
  ssize_t n = read(STDIN_FILENO, scratch, LONGEST_READ);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n <= 0)
    return end_input(p);
  if (!ttrpc_write(&p->agent, p->o->write, p->o->payload, scratch, (uint32_t)n))
    lost();
  p->writing = p->agent.stream;
}

/* A process that reads no more: whoever writes to it here is to see that. */
static void take_written(struct stand_in *p, const struct answer *answer)
{
  struct reader message, payload;
  p->writing = 0;
  if (ttrpc_response(answer->body, &message, &payload) != 0 && p->input)
    end_input(p);
}

/* --- the agent ---------------------------------------------------------------------------------------------------------- */

static _Noreturn void take_end(const struct answer *answer)
{
  struct reader message, payload, inner;
  uint64_t code = 0;
  if (ttrpc_response(answer->body, &message, &payload) != 0)
    lost();
  _exit(protobuf_first(payload, &code, &inner) ? (int)(code & 0xff) : 0);
}

static void take_answers(struct stand_in *p)
{
  struct answer answer;
  int whole;
  while ((whole = ttrpc_next(&p->agent, &answer)) > 0) {
    if (answer.type != TTRPC_RESPONSE)
      lost();
    if (!answer.stream)
      ; /* nobody has asked that */
    else if (answer.stream == p->waiting)
      take_end(&answer);
    else if (answer.stream == p->out[0].asked)
      take_output(p, 0, &answer);
    else if (answer.stream == p->out[1].asked)
      take_output(p, 1, &answer);
    else if (answer.stream == p->writing)
      take_written(p, &answer);
    ttrpc_done(&p->agent, &answer);
  }
  if (whole < 0)
    lost();
}

static void pass_size(struct stand_in *p)
{
  struct winsize size;
  if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && (size.ws_row || size.ws_col))
    call(p, p->o->resize, (const uint32_t[]){size.ws_row, size.ws_col}, 2);
}

static void pass_signals(struct stand_in *p)
{
  struct signalfd_siginfo got;
  while (read(p->signals, &got, sizeof got) == sizeof got) {
    if (got.ssi_signo == SIGWINCH && p->o->terminal)
      pass_size(p);
    else
      call(p, p->o->kill, (const uint32_t[]){got.ssi_signo}, 1);
  }
}

/* --- the life of it ----------------------------------------------------------------------------------------------------- */

static _Noreturn void follow(struct stand_in *p)
{
  for (;;) {
    ask_output(p, 0);
    ask_output(p, 1);
    if (p->out[0].over && p->out[1].over && !p->waiting) {
      call(p, p->o->wait, NULL, 0);
      p->waiting = p->agent.stream;
    }
    struct pollfd fds[] = {
      {.fd = p->agent.fd, .events = POLLIN},
      {.fd = p->signals, .events = POLLIN},
      {.fd = p->input && !p->writing ? STDIN_FILENO : -1, .events = POLLIN},
      {.fd = p->out[0].data.size ? STDOUT_FILENO : -1, .events = POLLOUT},
      {.fd = p->out[1].data.size ? STDERR_FILENO : -1, .events = POLLOUT},
    };
    if (poll(fds, sizeof fds / sizeof *fds, -1) < 0)
      continue;
    if (fds[1].revents)
      pass_signals(p);
    if (fds[2].revents)
      read_input(p);
    for (int i = 0; i < 2; i++)
      if (fds[3 + i].revents)
        write_output(p, i);
    if (!fds[0].revents)
      continue;
    if (!ttrpc_receive(&p->agent))
      lost();
    take_answers(p);
  }
}

/* "": this process has no such call to make. */
static int check_frames(struct run *run, const struct order_agent_process *o)
{
  const struct bytes *frames[] = {&o->start, &o->wait, &o->stdout_, &o->stderr_, &o->write, &o->close_input, &o->kill, &o->resize};
  for (size_t i = 0; i < sizeof frames / sizeof *frames; i++)
    if (frames[i]->size < TTRPC_HEADER + 2 * NUMBER_BYTES + 1)
      return fail(&run->report, EINVAL, "frame %zu is no request", i);
  if (o->payload < TTRPC_HEADER || o->payload + NUMBER_BYTES > o->write.size - NUMBER_BYTES)
    return fail(&run->report, EINVAL, "payload %u is not in the request to write", o->payload);
  return 0;
}

static int reach(struct run *run, const struct order_agent_process *o)
{
  for (int tries = 0;; tries++) {
    int fd = relay_reach(o->socket, o->port, o->path);
    if (fd >= 0)
      return fd;
    if (errno != EAGAIN || tries == BUSY_TRIES)
      return failed(&run->report, "connect to the agent at %s", o->socket);
    poll(NULL, 0, BUSY_PAUSE_MS);
  }
}

static int begin(struct run *run, struct stand_in *p, const struct order_agent_process *o)
{
  if (check_frames(run, o) < 0 || settle(run) < 0 || (o->terminal && stand_in_raw(run) < 0))
    return -1;
  prctl(PR_SET_NAME, "bosun-agent");
  if ((p->signals = stand_in_signals()) < 0)
    return failed(&run->report, "signalfd");
  if ((p->agent.fd = reach(run, o)) < 0)
    return -1;
  if (!ttrpc_call(&p->agent, o->start, NULL, 0))
    return failed(&run->report, "send to the guest's agent");
  return ttrpc_succeed(&p->agent, "the guest's agent", &run->report);
}

int order_agent_process(struct run *run, const struct order_agent_process *o)
{
  /* Not static: a monitor's own pages would lie further apart. */
  struct stand_in *p = calloc(1, sizeof *p);
  if (!p)
    _exit(70);
  *p = (struct stand_in){.agent = {.most = LONGEST_ANSWER}, .o = o, .input = o->stdin_ || o->terminal};
  if (begin(run, p, o) < 0)
    return -1;
  for (int i = 0; i < 3; i++)
    fd_nonblock(i);
  p->out[1].over = o->terminal;
  if (o->terminal)
    pass_size(p);
  else if (!p->input)
    end_input(p);
  /* With the way to the monitor closes what tells it that the process runs. */
  fd_close(&run->sync_fd);
  follow(p);
}
