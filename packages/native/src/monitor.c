/*
 * The monitor: one per container, the parent of its process. It outlives serve and berthd, writes the log, answers at its own
 * socket, and leaves a record of how the container ended. Nothing that a client does or fails to do may hold up the rest.
 *
 * A turn of its loop: what has died is reaped, every session does what is due, then creation, start and exit move on, requests
 * that can be answered are, and clients get what they are owed.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"
#include "orders.h"

#define DRAIN_MS 300           /* of the container's own process */
#define LOG_LIMIT_MS 5000      /* after the exit, for a log that cannot be written */
#define LINGER_MS 5000         /* at the end, for clients that have not read all */
#define RECORD_RETRY_MS 1000

struct monitor self;
struct log monitor_log;
struct client *monitor_clients;

bool monitor_knows(pid_t pid)
{
  for (const struct session *s = self.sessions; s; s = s->next)
    if (pid == s->stage || pid == s->pid)
      return true;
  return false;
}

struct session *find_session(uint32_t number)
{
  struct session *s = self.sessions;
  while (s && s->number != number)
    s = s->next;
  return s;
}

/* --- undoing a creation that failed ------------------------------------------------------------------------------------- */

static void kill_and_wait(struct session *s)
{
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  uint64_t limit = now_ms() + UNDO_MS;
  session_kill(s);
  while (!session_gone(s) && now_ms() < limit) {
    session_reap(s);
    session_turn(s); /* also looks for a child that nobody knows of */
    if (!session_gone(s))
      sigtimedwait(&child, NULL, &(struct timespec){.tv_nsec = 5000000});
  }
}

/* Nothing is left of the container, and serve is told why. */
static void undo(const struct report *why) __attribute__((noreturn));
static void undo(const struct report *why)
{
  if (self.container)
    kill_and_wait(self.container);
  if (self.listener >= 0) {
    unlinkat(self.record.dir, "record", 0);
    unlinkat(self.record.dir, "monitor.sock", 0);
  }
  struct buffer out = {0};
  report_encode(why, self.request, &out);
  write_all(self.channel, out.data, out.size);
  _exit(0);
}

static void undo_failed(int err, const char *what)
{
  struct report report = {.order = NO_ORDER};
  fail(&report, err, "%s", what);
  undo(&report);
}

/* --- creation, start, exit ---------------------------------------------------------------------------------------------- */

static void channel_ready(void *object, short events)
{
  uint32_t verdict;
  (void)object;
  (void)events;
  ssize_t n = recv(self.channel, &verdict, sizeof verdict, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n == (ssize_t)sizeof verdict && verdict == 0 && self.answered)
    fd_close(&self.channel);
  else
    self.refused = n == (ssize_t)sizeof verdict && verdict ? verdict : ECANCELED; /* the end: serve is gone */
}

static void created(void)
{
  struct session *s = self.container;
  self.state.phase = PHASE_CREATED;
  self.state.pid = (uint32_t)s->pid;
  self.state.pid_start = process_start(s->pid);
  self.state.created_at = now_ns();
  oom_open(&self.oom, self.oom_file, self.oom_key);
  if (record_write(&self.record, &self.state) < 0)
    undo_failed(errno, "write the record");
  struct message_created answer = {
    .monitor_pid = (uint32_t)getpid(),
    .pid = self.state.pid,
    .pid_start = self.state.pid_start,
    .created_at = self.state.created_at,
    .outputs = {s->report.outputs.data, (uint32_t)s->report.outputs.size},
  };
  struct buffer out = {0};
  message_created_encode(&out, self.request, &answer);
  write_all(self.channel, out.data, out.size);
  buffer_free(&out);
  buffer_free(&s->report.outputs);
  self.answered = true;
}

static void creation_turn(void)
{
  struct session *s = self.container;
  if (self.channel < 0)
    return;
  if (self.refused)
    undo_failed((int)self.refused, "the request was ended");
  if (!self.answered) {
    if (s->step == STEP_FAILED)
      undo(&s->report);
    else if (s->step == STEP_PARKED)
      created();
    else if (session_gone(s))
      undo_failed(EIO, "the process ended before it was parked");
  }
  loop_on(self.channel, POLLIN, channel_ready, NULL);
}

void write_state(struct client *client, uint32_t id)
{
  message_state_encode(&client->conn.out, id, &self.state);
}

static void start_turn(void)
{
  struct session *s = self.container;
  if (!self.starting || (s->step != STEP_FAILED && s->step != STEP_RUNNING && !s->timed_out))
    return;
  self.starting = false;
  s->deadline = 0;
  if (s->step == STEP_RUNNING && !s->timed_out) {
    self.state.phase = PHASE_RUNNING;
    self.state.started_at = s->began_at;
    record_write(&self.record, &self.state); /* a full disk: what is there still tells that it was created, and the exit is retried */
  }
  if (!self.starter)
    return;
  if (s->timed_out)
    conn_report(&self.starter->conn, self.start_id, ETIMEDOUT, "the process did not start in time and was killed");
  else if (s->step == STEP_FAILED)
    report_encode(&s->report, self.start_id, &self.starter->conn.out);
  else
    write_state(self.starter, self.start_id);
  self.starter = NULL;
}

/* Until the exit is on disk only this process knows of it, so it stays; unless its directory is gone, and nobody asks. */
static void record_turn(void)
{
  if (self.recorded || now_ms() < self.record_retry)
    return loop_until(self.recorded ? 0 : self.record_retry);
  struct stat status;
  self.recorded = record_write(&self.record, &self.state) == 0 || fstat(self.record.dir, &status) < 0 || status.st_nlink == 0;
  self.record_retry = now_ms() + RECORD_RETRY_MS;
  loop_until(self.recorded ? 0 : self.record_retry);
}

/* The record first: whoever hears of the exit may read it at once. */
static void conclude(void)
{
  struct session *s = self.container;
  self.state.phase = PHASE_EXITED;
  self.state.finished_at = s->died_at;
  session_code(s, &self.state.code, &self.state.signal);
  self.state.oom = oom_grew(&self.oom);
  self.state.lost = monitor_log.lost;
  record_turn();
  for (struct client *client = monitor_clients; client; client = client->next)
    if (client->watching)
      write_state(client, 0);
  for (struct session *other = self.sessions; other; other = other->next)
    if (other != s && !session_gone(other))
      session_kill(other);
  self.linger_limit = now_ms() + LINGER_MS;
}

/* Clients of a stream are waited for as long as they read at all; others, and sessions that are not waited for, not for long. */
static bool all_told(void)
{
  bool late = now_ms() >= self.linger_limit;
  return clients_told(late) && (late || (self.sessions == self.container && !self.container->next));
}

static void exit_turn(void)
{
  if (self.channel >= 0 || !session_done(self.container))
    return;
  if (self.state.phase != PHASE_EXITED) {
    uint64_t now = now_ms();
    if (!self.log_limit)
      self.log_limit = now + LOG_LIMIT_MS;
    if (log_blocked(&monitor_log) && now < self.log_limit)
      return loop_until(self.log_limit);
    log_give_up(&monitor_log);
    conclude();
    loop_again(); /* what waits for this is answered before the end is considered */
    return;
  }
  record_turn();
  if (now_ms() < self.linger_limit)
    loop_until(self.linger_limit);
  if (!self.recorded || !all_told())
    return;
  /* A last look: requests that have come until now are still answered. */
  if (!self.unlinked)
    unlinkat(self.record.dir, "monitor.sock", 0);
  if (self.unlinked && (loop_quiet() || now_ms() >= self.linger_limit))
    _exit(0);
  self.unlinked = true;
  loop_again();
}

/* --- life --------------------------------------------------------------------------------------------------------------- */

static void log_turn(void)
{
  if (monitor_log.retry && now_ms() >= monitor_log.retry)
    log_flush(&monitor_log);
  loop_until(monitor_log.retry);
}

/* What lost its parent below this process and is nobody's here. One whose number has not come yet may be any of them. */
static void reap_strays(void)
{
  siginfo_t info;
  for (const struct session *s = self.sessions; s; s = s->next)
    if (!s->cloned && !s->dead)
      return;
  for (;;) {
    info.si_pid = 0;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0 || monitor_knows(info.si_pid))
      return;
    waitpid(info.si_pid, NULL, 0);
  }
}

static void oom_changed(void *object, short events)
{
  (void)object;
  (void)events;
  self.oom_happened |= oom_grew(&self.oom);
}

/* The kernel tells of it before it has counted it; and also when the cgroup goes, which nobody waits for. */
static void oom_event(void *object, short events)
{
  uint64_t times;
  (void)object;
  (void)events;
  if (read(self.oom_event, &times, sizeof times) == (ssize_t)sizeof times)
    self.oom_happened = true;
}

/* systemd takes a scope away as soon as it is empty, which may be before the end is concluded here: a change of
 * memory.events is looked at when the kernel tells of it (cgroup-v2.rst, memory.events; v1 tells those who ask for it). */
static void oom_turn(void)
{
  if (self.state.phase == PHASE_CREATED || self.state.phase == PHASE_RUNNING)
    loop_on(self.oom.fd, POLLPRI, oom_changed, NULL), loop_on(self.oom_event, POLLIN, oom_event, NULL);
}

static void turn(void)
{
  /* A subreaper's process may have ended before its number came, and SIGCHLD with it. */
  if (loop_children() || self.subreaper)
    for (struct session *s = self.sessions; s; s = s->next)
      session_reap(s);
  if (self.subreaper)
    reap_strays();
  log_turn();
  for (struct session *s = self.sessions; s; s = s->next)
    session_turn(s);
  creation_turn();
  start_turn();
  oom_turn();
  requests_turn();
  clients_turn();
  exit_turn();
  listener_turn();
  if (loop_idle()) {
    memory_release();
    log_idle(&monitor_log);
  }
  loop_turn();
}

static char *copy(const char *text)
{
  char *copied = strdup(text);
  if (!copied)
    _exit(70);
  return copied;
}

/* What the plan says of the log; 0: nothing. */
static uint64_t bound_of(const struct bytes *plan)
{
  struct report ignored = {0};
  struct reader orders, body;
  union any_order order;
  uint32_t left;
  uint16_t code;
  if (!plan_begin(plan->data, plan->size, &left, &orders, &ignored))
    return 0;
  while (left-- > 0 && plan_next(&orders, &code, &body))
    if (code == ORDER_BOUND_LOG && plan_decode(code, &body, &order))
      return order.bound_log.bytes;
  return 0;
}

static void settle_in(const struct message_monitor *message)
{
  self.record = (struct record){.dir = open(message->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .monitor = getpid()};
  if (self.record.dir < 0 || fchdir(self.record.dir) < 0)
    undo_failed(errno, "open the monitor's directory");
  /* Bound before the record says that there is somebody to ask; a socket that is there already is another monitor's. */
  self.listener = conn_listen("monitor.sock");
  if (self.listener < 0)
    undo_failed(errno, "bind monitor.sock");
  if (chdir("/") < 0)
    undo_failed(errno, "chdir /");
  if (record_write(&self.record, &self.state) < 0)
    undo_failed(errno, "write the record");
  if (log_open(&monitor_log, message->log_path, message->max_line) < 0) {
    char what[512];
    snprintf(what, sizeof what, "open %s", message->log_path);
    undo_failed(errno, what);
  }
  monitor_log.bound = bound_of(&message->plan);
  self.oom_file = copy(message->oom_file);
  self.oom_key = copy(message->oom_key);
}

void monitor_main(int channel, uint32_t id, const struct message_monitor *message, int empty_mounts, struct buffer *request)
{
  struct report report = {.order = NO_ORDER};
  struct session_options options = {
    .terminal = message->terminal,
    .want_stdin = message->stdin_,
    .rows = message->rows,
    .columns = message->columns,
    .drain_ms = DRAIN_MS,
    .empty_mounts = empty_mounts,
  };
  self.channel = channel;
  self.request = id;
  self.listener = -1;
  self.oom_event = -1;
  loop_start();
  memory_release();
  umask(022);
  settle_in(message);
  self.subreaper = message->subreaper;
  if (self.subreaper && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
    undo_failed(errno, "prctl PR_SET_CHILD_SUBREAPER");
  self.container = self.sessions = session_make(&options, message->plan, &report);
  if (!self.container)
    undo(&report);
  self.container->stdin_once = message->stdin_once;
  buffer_free(request);
  close(empty_mounts);
  for (;;)
    turn();
}
