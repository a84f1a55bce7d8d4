/* The foreground of a process that `bosun runc` has made: its stdio or terminal, the signals that are meant for it, its end. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "launch.h"
#include "orders.h"
#include "run.h"

/* What a process wrote to its terminal reaches the other side by a kernel worker, a moment later. */
#define TERMINAL_DRAIN_MS 50
#define FLOWS 3

/* Bytes from one descriptor to another; `from` -1: at its end. */
struct flow {
  int from, to;
  size_t start, end;
  bool closes; /* `to` is closed at the end, so that the reader sees it */
  uint8_t data[16384];
};

static struct flow *flows; /* FLOWS of them, made when needed: they are large, and a monitor is the same program */
static struct termios host_settings;
static int host_terminal; /* -1: none */

static void flow_end(struct flow *f)
{
  f->from = -1;
  f->start = f->end = 0;
  if (f->closes)
    fd_close(&f->to);
}

static void flow_read(struct flow *f)
{
  ssize_t size = read(f->from, f->data, sizeof f->data);
  if (size > 0) {
    f->start = 0;
    f->end = (size_t)size;
  } else if (size == 0 || (errno != EINTR && errno != EAGAIN))
    flow_end(f); /* EIO: a terminal that nobody holds open any more */
}

static void flow_write(struct flow *f)
{
  ssize_t size = write(f->to, f->data + f->start, f->end - f->start);
  if (size > 0)
    f->start += (size_t)size;
  else if (size < 0 && errno != EINTR && errno != EAGAIN)
    flow_end(f); /* nobody reads: the process gets SIGPIPE from its own pipe */
  if (f->start == f->end)
    f->start = f->end = 0;
}

static void set_up_terminal(int master)
{
  struct winsize size;
  static const int candidates[] = {2, 1, 0};
  for (size_t i = 0; host_terminal < 0 && i < 3; i++)
    if (tcgetattr(candidates[i], &host_settings) == 0)
      host_terminal = candidates[i];
  if (host_terminal < 0)
    return;
  if (ioctl(host_terminal, TIOCGWINSZ, &size) == 0)
    ioctl(master, TIOCSWINSZ, &size);
  struct termios raw = host_settings;
  cfmakeraw(&raw);
  raw.c_oflag |= OPOST; /* so that newlines still go back to the first column */
  tcsetattr(host_terminal, TCSANOW, &raw);
}

static void set_up(struct launch *l)
{
  host_terminal = -1;
  flows = calloc(FLOWS, sizeof *flows);
  if (!flows)
    _exit(70);
  for (int i = 0; i < FLOWS; i++)
    flows[i].from = flows[i].to = -1;
  if (l->terminal >= 0) {
    fd_nonblock(l->terminal);
    set_up_terminal(l->terminal);
    flows[0].from = 0;
    flows[0].to = l->terminal;
    flows[1].from = l->terminal;
    flows[1].to = 1;
  } else if (l->relay[0] >= 0) {
    for (int i = 0; i < FLOWS; i++)
      fd_nonblock(l->relay[i]);
    flows[0].from = 0;
    flows[0].to = l->relay[0];
    flows[0].closes = true;
    for (int i = 1; i < FLOWS; i++) {
      flows[i].from = l->relay[i];
      flows[i].to = i;
    }
  }
}

/* Reaps all: as a subreaper this gets what the process's descendants leave. */
static void reap(struct launch *l)
{
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
    if (pid == l->pid) {
      l->dead = true;
      l->status = status;
    }
}

static void take_signal(struct launch *l, int signals)
{
  struct signalfd_siginfo info;
  struct winsize size;
  while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
    int number = (int)info.ssi_signo;
    if (number == SIGCHLD)
      reap(l);
    else if (number == SIGWINCH && l->terminal >= 0) {
      if (host_terminal >= 0 && ioctl(host_terminal, TIOCGWINSZ, &size) == 0)
        ioctl(l->terminal, TIOCSWINSZ, &size);
    } else if (!l->dead)
      kill(l->pid, number);
  }
}

/* One wait for whatever comes; false after `limit` ms of nothing (-1: no limit). */
static bool turn(struct launch *l, int signals, int limit)
{
  struct pollfd polls[2 + FLOWS] = {{.fd = signals, .events = POLLIN}, [1 + FLOWS] = {.fd = l->ready.listener, .events = POLLIN}};
  for (int i = 0; i < FLOWS; i++) {
    struct flow *f = &flows[i];
    bool full = f->end > f->start;
    polls[1 + i] = (struct pollfd){.fd = f->from < 0 && !full ? -1 : full ? f->to : f->from, .events = full ? POLLOUT : POLLIN};
  }
  int ready = poll(polls, 2 + FLOWS, limit);
  if (ready <= 0)
    return ready < 0 && errno == EINTR;
  for (int i = 0; i < FLOWS; i++)
    if (polls[1 + i].revents)
      (flows[i].end > flows[i].start ? flow_write : flow_read)(&flows[i]);
  /* Nobody waits for the barrier: this process stays. */
  if (polls[1 + FLOWS].revents)
    drop(ready_take(&l->ready, l->pid));
  if (polls[0].revents)
    take_signal(l, signals);
  return true;
}

int launch_attend(struct launch *l)
{
  sigset_t all;
  sigfillset(&all);
  /* What is wrong with this process itself ends it. */
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGILL);
  sigdelset(&all, SIGFPE);
  sigdelset(&all, SIGABRT);
  sigprocmask(SIG_SETMASK, &all, NULL);
  sigdelset(&all, SIGPIPE);
  sigdelset(&all, SIGURG);
  int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
  set_up(l);
  reap(l);
  while (!l->dead)
    turn(l, signals, -1);
  /* Its input has no reader any more; its outputs hold what it wrote last. */
  flow_end(&flows[0]);
  while ((flows[1].from >= 0 || flows[2].from >= 0 || flows[1].end || flows[2].end) &&
         turn(l, -1, l->terminal >= 0 ? TERMINAL_DRAIN_MS : flows[1].end || flows[2].end ? -1 : 0))
    ;
  if (host_terminal >= 0)
    tcsetattr(host_terminal, TCSANOW, &host_settings);
  drop(signals);
  return exit_status(l->status);
}
