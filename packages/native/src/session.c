/* One process that a monitor makes by a plan: its stage, what it says while it is set up, its stdio, its end. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "procs.h"

#define TERMINAL_DRAIN_MS 50
#define UNKNOWN_STATUS (255 << 8) /* as wait(2) tells an exit with 255: of a process whose end somebody else has seen */
#define ELSEWHERE_MS 100

/* --- making ----------------------------------------------------------------------------------------------------------- */

struct ends { int sync, stdio[3]; };

static void close_ends(struct ends *ends)
{
  fd_close(&ends->sync);
  for (int i = 0; i < 3; i++)
    fd_close(&ends->stdio[i]);
}

static int make_pipe(int *ours, int *theirs, bool we_read)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -1;
  *ours = ends[we_read ? 0 : 1];
  *theirs = ends[we_read ? 1 : 0];
  return fd_nonblock(*ours) ? 0 : -1;
}

static int make_stdio(struct session *s, struct ends *theirs, bool want_stdin)
{
  if (s->terminal)
    return 0; /* comes from the process */
  if (want_stdin ? make_pipe(&s->in, &theirs->stdio[0], false) < 0
                 : (theirs->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
    return -1;
  for (int i = 0; i < 2; i++)
    if (make_pipe(&s->out[i].fd, &theirs->stdio[i + 1], true) < 0)
      return -1;
  return 0;
}

static void stage(const struct ends *ends, int empty_mounts, struct bytes plan)
{
  int keep[] = {ends->sync, ends->stdio[0], ends->stdio[1], ends->stdio[2], empty_mounts};
  child_clean("bosun-stage", keep, 5);
  struct run run;
  run_init(&run);
  run.plan = plan.data;
  run.size = plan.size;
  run.sync_fd = ends->sync;
  run.empty_mounts = empty_mounts;
  memcpy(run.stdio, ends->stdio, sizeof run.stdio);
  plan_run(&run);
  _exit(0);
}

struct session *session_make(const struct session_options *options, struct bytes plan, struct report *report)
{
  struct ends theirs = {-1, {-1, -1, -1}};
  struct session *s = calloc(1, sizeof *s);
  if (!s)
    _exit(70);
  *s = (struct session){.number = options->number, .sync = options->sync, .terminal = options->terminal,
    .rows = options->rows, .columns = options->columns, .sync_fd = -1, .in = -1, .limit = options->limit,
    .drain_ms = options->drain_ms, .report.order = NO_ORDER};
  /* What a process wrote to its terminal reaches the other side by a kernel worker, a moment later. */
  if (s->terminal && s->drain_ms < TERMINAL_DRAIN_MS)
    s->drain_ms = TERMINAL_DRAIN_MS;
  for (int i = 0; i < 2; i++) {
    uint32_t stream = i ? STREAM_STDERR : STREAM_STDOUT;
    s->out[i] = (struct output){.session = s, .fd = -1, .stream = stream, .awaited = options->awaited & stream};
  }
  int pair[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
    s->sync_fd = pair[0];
    theirs.sync = pair[1];
  }
  s->stage = -1;
  if (s->sync_fd >= 0 && make_stdio(s, &theirs, options->want_stdin) == 0)
    s->stage = fork();
  if (s->stage == 0)
    stage(&theirs, options->empty_mounts, plan);
  if (s->stage < 0)
    failed(report, "make the stage's descriptors and process");
  close_ends(&theirs);
  s->pid = s->stage;
  if (s->stage > 0)
    return s;
  session_free(s);
  return NULL;
}

void session_free(struct session *s)
{
  fd_close(&s->sync_fd);
  fd_close(&s->in);
  for (int i = 0; i < 2; i++) {
    fd_close(&s->out[i].fd);
    buffer_free(&s->out[i].kept);
  }
  buffer_free(&s->rest);
  buffer_free(&s->report.outputs);
  free(s);
}

/* --- what it says while it is set up ------------------------------------------------------------------------------------ */

static void take_terminal(struct session *s, int master)
{
  if (master < 0)
    return;
  if (!s->terminal || s->out[0].fd >= 0) {
    close(master);
    return;
  }
  fd_nonblock(master);
  s->out[0].fd = master;
  s->in = fcntl(master, F_DUPFD_CLOEXEC, 3);
  if (s->rows || s->columns)
    session_resize(s, s->rows, s->columns);
}

static void take_failure(struct session *s, struct reader r)
{
  s->step = STEP_FAILED;
  s->report.err = reader_u32(&r);
  s->report.order = reader_u32(&r);
  s->report.stage = reader_u32(&r);
  size_t size = (size_t)(r.end - r.at);
  if (size >= sizeof s->report.detail)
    size = sizeof s->report.detail - 1;
  memcpy(s->report.detail, r.at, size);
  s->report.detail[size] = 0;
  if (r.bad || !s->report.err)
    s->report.err = EPROTO;
}

static void take_message(struct session *s, const struct buffer *message, int passed)
{
  struct reader r = {.at = message->data + 1, .end = message->data + message->size};
  if (message->data[0] == SYNC_TERMINAL)
    take_terminal(s, passed);
  else
    fd_close(&passed);
  switch (message->data[0]) {
  case SYNC_CHILD: {
    uint32_t pid = reader_u32(&r);
    if (!r.bad && !s->cloned) {
      s->pid = (pid_t)pid;
      s->cloned = true;
      if (s->killed_at)
        kill(s->pid, SIGKILL);
    }
    break;
  }
  case SYNC_PARKED:
    if (s->step != STEP_SETUP)
      break;
    s->step = STEP_PARKED;
    buffer_append(&s->report.outputs, r.at, (size_t)(r.end - r.at));
    if (s->number)
      session_release(s); /* nobody starts a further process in two steps */
    break;
  case SYNC_FAILED:
    take_failure(s, r);
    break;
  }
}

static void sync_read(struct session *s)
{
  while (s->sync_fd >= 0) {
    struct buffer message = {0};
    int passed;
    ssize_t n = receive_message(s->sync_fd, &message, &passed);
    if (n > 0)
      take_message(s, &message, passed);
    buffer_free(&message);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    if (n > 0)
      continue;
    /* Every copy is close-on-exec: the end without a failure is a successful exec. */
    fd_close(&s->sync_fd);
    if (s->step == STEP_RELEASED || (s->step == STEP_SETUP && s->number)) {
      s->step = STEP_RUNNING;
      s->began_at = s->dead ? s->died_at : now_ns(); /* another runtime tells later than what it has started may last */
    }
  }
}

static void sync_ready(void *object, short events)
{
  (void)events;
  sync_read(object);
}

bool session_release(struct session *s)
{
  char go = SYNC_GO;
  s->step = STEP_RELEASED;
  return s->sync_fd >= 0 && send(s->sync_fd, &go, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

/* --- life and death ----------------------------------------------------------------------------------------------------- */

void session_kill(struct session *s)
{
  if (!s->killed_at)
    s->killed_at = now_ms();
  if (s->stage > 0)
    kill(s->stage, SIGKILL);
  if (s->dead)
    return;
  kill(s->pid, SIGKILL);
  kill(-s->pid, SIGKILL); /* what it left in its own process group; its number is not reused before it is reaped */
}

static void died(struct session *s, int status)
{
  s->dead = true;
  s->status = status;
  s->died_at = now_ns();
  s->dead_at = now_ms();
}

/* Another runtime may have waited for a process that was quicker than itself, and keeps to itself how it ended. Until it has gone, what
 * it made may still become this process's child; and what is somebody else's then is looked after now and again. */
static void look_elsewhere(struct session *s)
{
  if (s->stage > 0)
    return;
  if (kill(s->pid, 0) < 0 && errno == ESRCH)
    died(s, UNKNOWN_STATUS);
  else
    loop_until(now_ms() + ELSEWHERE_MS);
}

/* Only by number: a child whose number has not come yet must stay for the one it belongs to. */
void session_reap(struct session *s)
{
  int status;
  if (s->stage > 0 && waitpid(s->stage, &status, WNOHANG) == s->stage) {
    s->stage = 0;
    sync_read(s); /* the child's number, if the stage made one, was sent before it ended */
    if (!s->cloned)
      died(s, status);
  }
  pid_t ended = s->cloned && !s->dead ? waitpid(s->pid, &status, WNOHANG) : 0;
  if (ended > 0) {
    sync_read(s); /* and so was the reason of a failure */
    died(s, status);
  } else if (ended < 0 && errno == ECHILD)
    look_elsewhere(s);
  /* A stage that waits to have another runtime start what has ended. */
  if (s->dead && s->stage > 0 && s->step == STEP_PARKED)
    kill(s->stage, SIGKILL);
  /* A process that was just set aside may have held a copy for a moment longer: its end is noticed here too. */
  if (s->dead)
    sync_read(s);
}

/* A stage that is killed between clone and telling the number leaves a child that only /proc knows of. */
static void look_for_lost_child(struct session *s)
{
  if (!s->dead || s->cloned || s->searched || !WIFSIGNALED(s->status))
    return;
  s->searched = true;
  pid_t pid = find_child(monitor_knows);
  if (pid) {
    s->pid = pid;
    s->cloned = true;
    s->dead = false;
    session_kill(s);
  }
}

bool session_gone(const struct session *s)
{
  return s->dead && s->stage == 0 && s->sync_fd < 0;
}

bool session_done(const struct session *s)
{
  return session_gone(s) && s->out[0].fd < 0 && s->out[1].fd < 0;
}

bool session_delivered(const struct session *s)
{
  if (!session_done(s))
    return false;
  for (const struct client *client = monitor_clients; client; client = client->next)
    if (client->session == s && client->stream != STREAM_STDIN && client->conn.fd >= 0)
      return false;
  return true;
}

void session_code(const struct session *s, uint32_t *code, uint32_t *signal)
{
  *signal = s->dead && WIFSIGNALED(s->status) ? (uint32_t)WTERMSIG(s->status) : 0;
  *code = !s->dead ? 0 : *signal ? 128 + *signal : (uint32_t)WEXITSTATUS(s->status);
}

void session_turn(struct session *s)
{
  if (s->dead)
    s->deadline = 0;
  if (s->deadline && now_ms() >= s->deadline) {
    s->deadline = 0;
    s->timed_out = true;
    session_kill(s);
  }
  loop_until(s->deadline);
  look_for_lost_child(s);
  stdio_turn(s);
  loop_on(s->sync_fd, POLLIN, sync_ready, s);
}
