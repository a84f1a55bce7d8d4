/* What clients ask of a monitor, and when it can be answered. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

/* --- exec and wait ------------------------------------------------------------------------------------------------------ */

static void answer_execed(struct client *client, uint32_t id, const struct session *s)
{
  struct message_execed answer = {
    .timed_out = s->timed_out,
    .truncated = s->truncated,
    .stdout_ = {s->out[0].kept.data, (uint32_t)s->out[0].kept.size},
    .stderr_ = {s->out[1].kept.data, (uint32_t)s->out[1].kept.size},
  };
  session_code(s, &answer.code, &answer.signal);
  message_execed_encode(&client->conn.out, id, &answer);
}

/* Answers the request that a session was made by, as soon as it can be answered. */
static void exec_turn(struct session *s)
{
  bool stuck = s->killed_at && now_ms() >= s->killed_at + UNDO_MS;
  if (s->answered || !s->owner)
    return;
  if (s->killed_at)
    loop_until(s->killed_at + UNDO_MS);
  if (s->timed_out && !s->sync && (s->step != STEP_RUNNING))
    conn_report(&s->owner->conn, s->request, ETIMEDOUT, "the process did not start in time and was killed");
  else if (s->step == STEP_FAILED && !s->timed_out)
    report_encode(&s->report, s->request, &s->owner->conn.out);
  else if (s->sync && (session_done(s) || stuck))
    answer_execed(s->owner, s->request, s);
  else if (!s->sync && s->step == STEP_RUNNING) {
    struct message_session answer = {.session = s->number, .pid = (uint32_t)s->pid};
    message_session_encode(&s->owner->conn.out, s->request, &answer);
    s->deadline = 0;
  } else
    return;
  s->answered = true;
}

static void waiters_turn(void)
{
  for (struct waiter **at = &self.waiters, *waiter; (waiter = *at);) {
    struct session *s = find_session(waiter->session);
    bool late = waiter->deadline && now_ms() >= waiter->deadline, over = s && session_delivered(s);
    if (waiter->client && s && over) {
      answer_execed(waiter->client, waiter->id, s);
      s->owner = NULL; /* it need not be kept for another wait */
    } else if (waiter->client && (late || !s)) {
      conn_report(&waiter->client->conn, waiter->id, s ? ETIMEDOUT : ESRCH, "wait for session %u", waiter->session);
    } else if (waiter->client) {
      loop_until(waiter->deadline);
      at = &waiter->next;
      continue;
    }
    *at = waiter->next;
    free(waiter);
  }
}

static bool is_finished(const struct session *s)
{
  if (s == self.container || !session_done(s))
    return false;
  if (!s->owner)
    return session_delivered(s);
  return s->answered && (s->sync || s->step == STEP_FAILED);
}

static void sessions_sweep(void)
{
  for (struct session **at = &self.sessions, *s; (s = *at);) {
    if (!is_finished(s)) {
      at = &s->next;
      continue;
    }
    for (struct client *client = monitor_clients; client; client = client->next) {
      if (client->session == s) {
        client->session = NULL;
        conn_end(&client->conn);
      }
    }
    *at = s->next;
    session_free(s);
    loop_again();
  }
}

/* Every kill has been counted when the container has ended. */
static void oom_turn(void)
{
  bool over = self.state.phase == PHASE_EXITED, happened = self.oom_happened || (over && self.state.oom);
  for (struct client *client = monitor_clients; client; client = client->next) {
    if (!client->awaits_oom || (!over && !happened))
      continue;
    client->awaits_oom = false;
    conn_report(&client->conn, client->oom_id, happened ? 0 : ESRCH, "the container has ended");
  }
}

void requests_turn(void)
{
  oom_turn();
  for (struct session *s = self.sessions; s; s = s->next)
    exec_turn(s);
  waiters_turn();
  sessions_sweep();
}

void requests_forget(const struct client *client)
{
  if (self.starter == client)
    self.starter = NULL;
  for (struct waiter *waiter = self.waiters; waiter; waiter = waiter->next)
    if (waiter->client == client)
      waiter->client = NULL;
  for (struct session *s = self.sessions; s; s = s->next) {
    if (s->owner != client)
      continue;
    if (!s->answered || s->tied)
      session_kill(s);
    session_orphan(s);
  }
}

/* --- requests ----------------------------------------------------------------------------------------------------------- */

void refuse_request(struct client *client, uint32_t id, const char *what)
{
  conn_report(&client->conn, id, EPROTO, "%s", what);
  conn_end(&client->conn);
}

static void on_hello(struct client *client, const struct frame_header *header, const struct message_hello *hello)
{
  struct message_welcome welcome = {.version = PLAN_VERSION, .pid = (uint32_t)getpid()};
  if (hello->version == PLAN_VERSION)
    message_welcome_encode(&client->conn.out, header->id, &welcome);
  else
    conn_report(&client->conn, header->id, EPROTO, "protocol version %u, where this monitor speaks %u", hello->version, PLAN_VERSION);
}

static void on_start(struct client *client, const struct frame_header *header)
{
  if (self.state.phase != PHASE_CREATED || self.starting || self.channel >= 0) {
    conn_report(&client->conn, header->id, self.state.phase == PHASE_EXITED ? ESRCH : EALREADY, "start");
    return;
  }
  if (!session_release(self.container)) {
    conn_report(&client->conn, header->id, ESRCH, "the process has ended before it was started");
    return;
  }
  self.starting = true;
  self.starter = client;
  self.start_id = header->id;
  self.container->deadline = header->timeout_ms ? now_ms() + header->timeout_ms : 0;
}

static void on_kill(struct client *client, const struct frame_header *header, const struct message_kill *message)
{
  struct session *s = find_session(message->session);
  int err = 0;
  if (!s || s->dead)
    err = ESRCH;
  else if (kill(s->pid, (int)message->signal) < 0)
    err = errno;
  conn_report(&client->conn, header->id, err, "kill session %u", message->session);
}

static void on_exec(struct client *client, const struct frame_header *header, const struct message_exec *message)
{
  struct report report = {.order = NO_ORDER};
  struct session_options options = {
    .number = ++self.last_number,
    .terminal = message->terminal,
    .want_stdin = message->streams & STREAM_STDIN,
    .sync = message->sync == EXEC_COLLECTED,
    .rows = message->rows,
    .columns = message->columns,
    .awaited = message->sync == EXEC_COLLECTED ? 0 : message->streams,
    .limit = message->limit,
    .drain_ms = message->drain_ms,
    .empty_mounts = -1,
  };
  struct session *s = NULL;
  if (self.container->dead || self.channel >= 0)
    fail(&report, ESRCH, "the container's process is not there");
  else
    s = session_make(&options, message->plan, &report);
  if (!s) {
    report_encode(&report, header->id, &client->conn.out);
    return;
  }
  s->owner = client;
  s->tied = message->sync == EXEC_TIED;
  s->request = header->id;
  s->deadline = header->timeout_ms ? now_ms() + header->timeout_ms : 0;
  s->next = self.sessions;
  self.sessions = s;
}

static void on_wait(struct client *client, const struct frame_header *header, const struct message_wait *message)
{
  struct waiter *waiter = calloc(1, sizeof *waiter);
  if (!waiter)
    _exit(70);
  *waiter = (struct waiter){self.waiters, client, header->id, message->session,
    header->timeout_ms ? now_ms() + header->timeout_ms : 0};
  self.waiters = waiter;
}

static void on_resize(struct client *client, const struct frame_header *header, const struct message_resize *message)
{
  struct session *s = find_session(message->session);
  errno = ESRCH;
  int err = s && session_resize(s, message->rows, message->columns) == 0 ? 0 : errno;
  conn_report(&client->conn, header->id, err, "resize session %u", message->session);
}

static void on_attach(struct client *client, const struct frame_header *header, const struct message_attach *message)
{
  struct session *s = find_session(message->session);
  struct output *o = s ? session_output(s, message->stream) : NULL;
  int err = !s                                                              ? ESRCH
    : message->stream == STREAM_STDIN ? (s->in < 0 || s->in_ends ? EPIPE : 0)
                                      : (o ? 0 : EINVAL);
  conn_report(&client->conn, header->id, err, "attach to stream %u of session %u", message->stream, message->session);
  if (err)
    return;
  client->session = s;
  client->stream = message->stream;
  if (!o)
    return;
  o->awaited = false;
  if (o->fd < 0)
    conn_end(&client->conn);
}

static void on_cancel(struct client *client, uint32_t id)
{
  for (struct session *s = self.sessions; s; s = s->next) {
    if (s->owner != client || s->request != id || s->answered)
      continue;
    conn_report(&client->conn, id, ECANCELED, "the process was killed");
    s->answered = true;
    session_kill(s);
    session_orphan(s);
  }
  if (self.starting && self.starter == client && self.start_id == id) {
    conn_report(&client->conn, id, ECANCELED, "the process was killed");
    self.starter = NULL;
    session_kill(self.container);
  }
  for (struct waiter *waiter = self.waiters; waiter; waiter = waiter->next) {
    if (waiter->client != client || waiter->id != id)
      continue;
    conn_report(&client->conn, id, ECANCELED, "wait for session %u", waiter->session);
    waiter->client = NULL;
  }
}

/* memory.oom_control of v1 has to be asked for; v2's counter tells by itself. */
static void listen_for_oom(void)
{
  const char *name = strrchr(self.oom_file, '/');
  if (self.oom_event >= 0 || !name || strcmp(name, "/memory.oom_control") != 0)
    return;
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%.*s", (int)(name - self.oom_file), self.oom_file);
  int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  self.oom_event = directory < 0 ? -1 : oom_listen(directory); /* one that is gone has nothing to tell any more */
  fd_close(&directory);
}

static void on_oom(struct client *client, const struct frame_header *header)
{
  client->awaits_oom = true;
  client->oom_id = header->id;
  listen_for_oom();
}

static void on_reopen(struct client *client, const struct frame_header *header)
{
  int err = log_reopen(&monitor_log) < 0 ? errno : 0;
  conn_report(&client->conn, header->id, err, "open %s", monitor_log.path ? monitor_log.path : "the log");
}

#define DECODED(name) message_##name##_decode(body, header->size, &u.name)

void handle_request(struct client *client, const struct frame_header *header, const uint8_t *body)
{
  union {
    struct message_hello hello;
    struct message_start start;
    struct message_query query;
    struct message_watch watch;
    struct message_kill kill;
    struct message_exec exec;
    struct message_wait wait;
    struct message_resize resize;
    struct message_reopen_log reopen_log;
    struct message_attach attach;
    struct message_oom oom;
    struct message_cancel cancel;
  } u;
  if (header->type == MESSAGE_HELLO && DECODED(hello))
    on_hello(client, header, &u.hello);
  else if (header->type == MESSAGE_START && DECODED(start))
    on_start(client, header);
  else if (header->type == MESSAGE_QUERY && DECODED(query))
    write_state(client, header->id);
  else if (header->type == MESSAGE_WATCH && DECODED(watch)) {
    write_state(client, header->id);
    client->watching = true;
    if (self.state.phase == PHASE_EXITED)
      write_state(client, 0);
  } else if (header->type == MESSAGE_KILL && DECODED(kill))
    on_kill(client, header, &u.kill);
  else if (header->type == MESSAGE_EXEC && DECODED(exec))
    on_exec(client, header, &u.exec);
  else if (header->type == MESSAGE_WAIT && DECODED(wait))
    on_wait(client, header, &u.wait);
  else if (header->type == MESSAGE_RESIZE && DECODED(resize))
    on_resize(client, header, &u.resize);
  else if (header->type == MESSAGE_REOPEN_LOG && DECODED(reopen_log))
    on_reopen(client, header);
  else if (header->type == MESSAGE_ATTACH && DECODED(attach))
    on_attach(client, header, &u.attach);
  else if (header->type == MESSAGE_OOM && DECODED(oom))
    on_oom(client, header);
  else if (header->type == MESSAGE_CANCEL && DECODED(cancel))
    on_cancel(client, u.cancel.id);
  else
    refuse_request(client, header->id, "a frame that a monitor does not take, or that does not decode");
}
