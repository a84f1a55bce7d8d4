/*
 * The process that `bosun runc` makes: a child of `bosun runc` itself by CLONE_PARENT, so that when this ends it goes to the
 * caller's subreaper (a shim, conmon), which learns of its end from the kernel. No process stays beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "launch.h"
#include "orders.h"
#include "run.h"

#define TERMINAL_NAME "/dev/ptmx"

static int make_relay(struct launch *l, int theirs[3])
{
  for (int i = 0; i < 3; i++) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
      return failed(&l->report, "pipe");
    theirs[i] = ends[i == 0 ? 0 : 1];
    l->relay[i] = ends[i == 0 ? 1 : 0];
  }
  return 0;
}

static void stage(const struct message_launch *m, int sync_fd, const int stdio[3], int empty_mounts)
{
  int keep[] = {sync_fd, stdio[0], stdio[1], stdio[2], empty_mounts};
  child_clean_from(3 + m->keep, "bosun-stage", keep, 5);
  struct run run;
  run_init(&run);
  run.plan = m->plan.data;
  run.size = m->plan.size;
  run.sync_fd = sync_fd;
  run.empty_mounts = empty_mounts;
  memcpy(run.stdio, stdio, sizeof run.stdio);
  if (plan_run(&run) < 0 && run.let_go) {
    write_all(2, run.report.detail, strlen(run.report.detail));
    write_all(2, "\n", 1);
  }
  _exit(1);
}

static int fork_stage(struct launch *l, const struct message_launch *m)
{
  static const uint16_t empty_mounts_order[] = {ORDER_ENTER_EMPTY_MOUNTS}, criu_order[] = {ORDER_CRIU};
  int pair[2], stdio[3] = {-1, -1, -1}, empty_mounts = -1;
  struct buffer plan = {.data = (uint8_t *)(uintptr_t)m->plan.data, .size = m->plan.size};
  if (plan_check(m->plan.data, m->plan.size, &l->report) < 0)
    return -1;
  l->stage_stays = plan_has(&plan, criu_order, 1);
  if (plan_has(&plan, empty_mounts_order, 1) && (empty_mounts = empty_mounts_make(&l->report)) < 0)
    return -1;
  if (!m->terminal && m->stdio == 1 && make_relay(l, stdio) < 0)
    return -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(&l->report, "socketpair");
  l->stage = fork();
  if (l->stage == 0)
    stage(m, pair[1], stdio, empty_mounts);
  close(pair[1]);
  l->sync_fd = pair[0];
  for (int i = 0; i < 3; i++)
    fd_close(&stdio[i]);
  fd_close(&empty_mounts);
  if (l->stage < 0)
    l->stage = 0;
  return l->stage ? 0 : failed(&l->report, "fork");
}

/* --- what it says while it is set up ------------------------------------------------------------------------------------ */

static void take_failure(struct launch *l, struct reader r)
{
  uint32_t err = reader_u32(&r), order = reader_u32(&r), at = reader_u32(&r);
  fail(&l->report, r.bad || !err ? EPROTO : (int)err, "%.*s", r.bad ? 0 : (int)(r.end - r.at), (const char *)r.at);
  l->report.order = order;
  l->report.stage = at;
  l->step = LAUNCH_FAILED;
}

/* Lines end as the process ends them: what else they need is the host terminal's matter (and a pipe needs nothing). */
static void keep_newlines(int master)
{
  struct termios settings;
  if (tcgetattr(master, &settings) < 0)
    return;
  settings.c_oflag &= ~(tcflag_t)ONLCR;
  tcsetattr(master, TCSANOW, &settings);
}

static void take_terminal(struct launch *l, int master)
{
  if (master < 0)
    return;
  if (!*l->console_socket) {
    fd_close(&l->terminal);
    l->terminal = master;
    keep_newlines(master); /* before the process can write */
    return;
  }
  if (send_descriptor(l->console_socket, master, TERMINAL_NAME) < 0) {
    failed(&l->report, "send the terminal to console socket %s", l->console_socket);
    l->step = LAUNCH_FAILED;
  }
  close(master);
}

static void take_message(struct launch *l, const struct buffer *message, int passed)
{
  struct reader r = {.at = message->data + 1, .end = message->data + message->size};
  switch (message->data[0]) {
  case SYNC_CHILD: l->pid = (pid_t)reader_u32(&r); return;
  case SYNC_TERMINAL: take_terminal(l, passed); return;
  case SYNC_FAILED: take_failure(l, r); return;
  case SYNC_PARKED:
    if (l->step != LAUNCH_SETUP)
      return;
    l->step = LAUNCH_PARKED;
    buffer_append(&l->report.outputs, r.at, (size_t)(r.end - r.at));
    return;
  }
}

/* One message, or the end: every copy of the socket is close-on-exec, so an end without a failure is a successful exec. */
static void hear(struct launch *l)
{
  struct buffer message = {0};
  struct pollfd wait = {.fd = l->sync_fd, .events = POLLIN};
  int passed = -1;
  if (poll(&wait, 1, -1) < 0)
    return;
  ssize_t size = receive_message(l->sync_fd, &message, &passed);
  if (size > 0)
    take_message(l, &message, passed);
  buffer_free(&message);
  if (size > 0 || (size < 0 && (errno == EINTR || errno == EAGAIN)))
    return;
  fd_close(&l->sync_fd);
  if (l->step == LAUNCH_SETUP || l->step == LAUNCH_PARKED)
    l->step = LAUNCH_RUNNING;
}

static void reap_stage(struct launch *l)
{
  int status;
  if (l->stage && waitpid(l->stage, &status, 0) == l->stage)
    l->stage = 0;
}

/*
 * A stage that was killed closed its socket without a word, as an exec does. The process itself, should it have ended by now, is
 * left for whoever is its parent next: a shim learns the exit status only by reaping it.
 */
static void check_made(struct launch *l)
{
  if (l->step != LAUNCH_RUNNING || l->pid)
    return;
  fail(&l->report, ECHILD, "the process ended while it was set up");
  l->step = LAUNCH_FAILED;
}

void launch_make(struct launch *l, const struct message_launch *m)
{
  l->console_socket = m->console_socket;
  if (m->subreaper)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  l->step = fork_stage(l, m) < 0 ? LAUNCH_FAILED : LAUNCH_SETUP;
  while (l->step == LAUNCH_SETUP)
    hear(l);
  if (!l->stage_stays || l->step != LAUNCH_PARKED)
    reap_stage(l);
  check_made(l);
  if (l->step != LAUNCH_FAILED && *m->pidfd_socket) {
    int pidfd = (int)syscall(SYS_pidfd_open, l->pid, 0);
    if (pidfd < 0 || send_descriptor(m->pidfd_socket, pidfd, m->pidfd_name) < 0) {
      failed(&l->report, "send the process to pidfd socket %s", m->pidfd_socket);
      l->step = LAUNCH_FAILED;
    }
    drop(pidfd);
  }
  if (l->step == LAUNCH_FAILED)
    launch_abandon(l);
}

void launch_release(struct launch *l)
{
  char go = SYNC_GO;
  if (l->step != LAUNCH_PARKED)
    return;
  if (send(l->sync_fd, &go, 1, MSG_NOSIGNAL) != 1) {
    failed(&l->report, "release the process");
    l->step = LAUNCH_FAILED;
  }
  while (l->step == LAUNCH_PARKED)
    hear(l);
  reap_stage(l);
  check_made(l);
  if (l->step == LAUNCH_FAILED)
    launch_abandon(l);
}

void launch_abandon(struct launch *l)
{
  fd_close(&l->sync_fd);
  if (l->stage)
    kill(l->stage, SIGKILL);
  reap_stage(l);
  if (l->pid && !l->dead) {
    kill(l->pid, SIGKILL);
    l->dead = waitpid(l->pid, &l->status, 0) == l->pid;
  }
}
