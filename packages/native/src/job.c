/*
 * Jobs: the requests that serve has a child for. `run`, `tree` and `dial` are bosun's own code in a fork, `spawn` (spawn.c) is
 * somebody's program, `monitor` is a process that leaves serve's care once its answer has been handed over.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dial.h"
#include "job.h"
#include "tree.h"

#define DEATH_LIMIT_MS 1000   /* a killed child that is not dead by then is stuck in the kernel */
#define UNDO_LIMIT_MS 8000    /* a monitor takes this long at most to undo what it has made */

static struct job *jobs;
/* Children that are no longer anybody's job: monitors, and workers stuck in the kernel. */
static pid_t *strays;
static size_t stray_count, stray_room;

/* --- making and freeing --------------------------------------------------------------------------------------------- */

struct job *job_make(enum kind kind, struct peer *peer, const struct frame_header *header)
{
  struct job *job = calloc(1, sizeof *job);
  if (!job)
    _exit(70);
  *job = (struct job){.next = jobs, .kind = kind, .peer = peer, .id = header->id, .pid = -1, .in = -1};
  job->deadline = header->timeout_ms ? now_ms() + header->timeout_ms : 0;
  job->answer = (struct pipe_end){.job = job, .fd = -1};
  job->out[0] = job->out[1] = job->answer;
  jobs = job;
  return job;
}

static void add_stray(pid_t pid)
{
  if (stray_count == stray_room) {
    stray_room = stray_room ? stray_room * 2 : 64;
    strays = realloc(strays, stray_room * sizeof *strays);
    if (!strays)
      _exit(70);
  }
  strays[stray_count++] = pid;
}

static void pipe_end_free(struct pipe_end *end)
{
  fd_close(&end->fd);
  buffer_free(&end->data);
}

static void job_free(struct job *job)
{
  pipe_end_free(&job->answer);
  pipe_end_free(&job->out[0]);
  pipe_end_free(&job->out[1]);
  fd_close(&job->in);
  buffer_free(&job->feed);
  free(job);
}

/* The job's answer was given, or nobody waits for one. */
void job_end(struct job *job)
{
  if (job->pid > 0 && waitpid(job->pid, NULL, WNOHANG) == 0)
    add_stray(job->pid);
  for (struct job **at = &jobs; *at; at = &(*at)->next) {
    if (*at == job) {
      *at = job->next;
      break;
    }
  }
  job_free(job);
  loop_again();
}

void job_report(struct job *job, int err, const char *detail)
{
  if (job->peer)
    conn_report(&job->peer->conn, job->id, err, "%s", detail);
}

void job_answer_failure(struct job *job)
{
  static const char *const names[] = {"worker", "program", "monitor", "tree writer", "relay"};
  char detail[96];
  if (job->why)
    snprintf(detail, sizeof detail, "the %s was killed", names[job->kind]);
  else if (job->dead && job->exit.si_code != CLD_EXITED)
    snprintf(detail, sizeof detail, "the %s ended by signal %d", names[job->kind], job->exit.si_status);
  else
    snprintf(detail, sizeof detail, "the %s ended without an answer", names[job->kind]);
  job_report(job, job->why ? (int)job->why : EIO, detail);
}

/* --- ending early --------------------------------------------------------------------------------------------------- */

static void job_stop(struct job *job, uint32_t why)
{
  if (job->why)
    return;
  job->why = why;
  job->deadline = 0;
  job->give_up = now_ms() + (job->kind == JOB_MONITOR ? UNDO_LIMIT_MS : DEATH_LIMIT_MS);
  if (job->kind == JOB_MONITOR)
    /* It undoes all and then reports; if it is already gone, its death tells. */
    (void)!send(job->answer.fd, &why, sizeof why, MSG_NOSIGNAL | MSG_DONTWAIT);
  else
    kill(job->pid, SIGKILL);
  if (job->kind == JOB_SPAWN)
    kill(-job->pid, SIGKILL); /* ESRCH before its setsid, when it is still alone */
}

void jobs_cancel(struct peer *peer, uint32_t id)
{
  for (struct job *job = jobs; job; job = job->next)
    if (job->peer == peer && job->id == id)
      job_stop(job, ECANCELED);
}

void jobs_cancel_all(void)
{
  for (struct job *job = jobs; job; job = job->next)
    job_stop(job, ECANCELED);
}

void jobs_peer_gone(struct peer *peer)
{
  for (struct job *job = jobs; job; job = job->next) {
    if (job->peer != peer)
      continue;
    job->peer = NULL;
    job_stop(job, ECANCELED);
  }
}

bool jobs_any(void)
{
  return jobs != NULL;
}

void jobs_forget(void)
{
  while (jobs) {
    struct job *job = jobs;
    jobs = job->next;
    job_free(job);
  }
  free(strays);
  strays = NULL;
  stray_count = stray_room = 0;
}

/* --- run -------------------------------------------------------------------------------------------------------------- */

static void worker(int fd, uint32_t id, struct bytes plan)
{
  int keep[] = {fd, serve_empty_mounts};
  child_null_stdio();
  child_clean("bosun-worker", keep, 2);
  struct run run;
  run_init(&run);
  run.plan = plan.data;
  run.size = plan.size;
  run.empty_mounts = serve_empty_mounts;
  plan_run(&run);
  struct buffer out = {0};
  report_encode(&run.report, id, &out);
  write_all(fd, out.data, out.size);
  _exit(0);
}

void jobs_run(struct peer *peer, const struct frame_header *header, const struct message_run *message)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) {
    conn_report(&peer->conn, header->id, errno, "pipe");
    return;
  }
  pid_t self = getpid(), pid = fork();
  if (pid == 0) {
    child_follow(self);
    worker(ends[1], header->id, message->plan);
  }
  close(ends[1]);
  if (pid < 0) {
    conn_report(&peer->conn, header->id, errno, "fork");
    close(ends[0]);
    return;
  }
  struct job *job = job_make(JOB_RUN, peer, header);
  job->pid = pid;
  job->answer.fd = ends[0];
  fd_nonblock(ends[0]);
}

/* --- tree, dial ------------------------------------------------------------------------------------------------------- */

/* Both take the connection over. They close `starting` when they have answered the request; it was for that alone that the deadline was. */
typedef void (*stream_child)(int connection, int starting, uint32_t id, const void *message);

static void hand_over(enum kind kind, struct peer *peer, const struct frame_header *header, stream_child child,
                      const void *message)
{
  conn_flush(&peer->conn);
  if (conn_backlog(&peer->conn)) {
    conn_report(&peer->conn, header->id, EPROTO, "a stream on a connection with answers outstanding");
    return;
  }
  int starting[2];
  if (pipe2(starting, O_CLOEXEC) < 0) {
    conn_report(&peer->conn, header->id, errno, "pipe");
    return;
  }
  pid_t self = getpid(), pid = fork();
  if (pid == 0) {
    int keep[] = {peer->conn.fd, starting[1]};
    child_follow(self);
    child_null_stdio();
    child_clean(kind == JOB_TREE ? "bosun-tree" : "bosun-dial", keep, 2);
    child(peer->conn.fd, starting[1], header->id, message);
    _exit(0);
  }
  close(starting[1]);
  if (pid < 0) {
    conn_report(&peer->conn, header->id, errno, "fork");
    close(starting[0]);
    return;
  }
  struct job *job = job_make(kind, peer, header);
  job->pid = pid;
  job->answer.fd = starting[0];
  fd_nonblock(starting[0]);
  peer->streaming = true;
}

static void tree_child(int connection, int starting, uint32_t id, const void *message)
{
  const struct message_tree *request = message;
  tree_starting = starting;
  tree_main(connection, id, request->path);
}

void jobs_tree(struct peer *peer, const struct frame_header *header, const struct message_tree *message)
{
  hand_over(JOB_TREE, peer, header, tree_child, message);
}

static void dial_child(int connection, int starting, uint32_t id, const void *message)
{
  const struct message_dial *request = message;
  dial_main(connection, starting, id, request->netns, request->port);
}

void jobs_dial(struct peer *peer, const struct frame_header *header, const struct message_dial *message)
{
  hand_over(JOB_DIAL, peer, header, dial_child, message);
}

static bool takes_over(const struct job *job)
{
  return job->kind == JOB_TREE || job->kind == JOB_DIAL;
}

/* --- monitor ---------------------------------------------------------------------------------------------------------- */

void jobs_monitor(struct peer *peer, const struct frame_header *header, const struct message_monitor *message)
{
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
    conn_report(&peer->conn, header->id, errno, "socketpair");
    return;
  }
  pid_t pid = fork();
  if (pid == 0) {
    int keep[] = {ends[1], serve_empty_mounts};
    struct buffer request;
    setsid();
    child_null_stdio();
    child_clean("bosun-monitor", keep, 2);
    serve_forget(peer, &request);
    monitor_main(ends[1], header->id, message, serve_empty_mounts, &request);
  }
  close(ends[1]);
  if (pid < 0) {
    conn_report(&peer->conn, header->id, errno, "fork");
    close(ends[0]);
    return;
  }
  struct job *job = job_make(JOB_MONITOR, peer, header);
  job->pid = pid;
  job->answer.fd = ends[0];
  fd_nonblock(ends[0]);
}

/* --- turns ------------------------------------------------------------------------------------------------------------ */

/* More than `limit` bytes are read and dropped: the writer must not notice. */
static void end_ready(void *object, short events)
{
  struct pipe_end *end = object;
  (void)events;
  ssize_t n = read(end->fd, scratch, SCRATCH_SIZE);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
    fd_close(&end->fd);
  if (n <= 0)
    return;
  size_t limit = end == &end->job->answer ? FRAME_MAX + FRAME_HEADER : end->job->limit;
  size_t room = limit - end->data.size, keep = (size_t)n < room ? (size_t)n : room;
  buffer_append(&end->data, scratch, keep);
  end->truncated |= keep < (size_t)n;
}

static bool whole_frame(const struct buffer *b, struct frame_header *header)
{
  if (b->size < FRAME_HEADER)
    return false;
  memcpy(header, b->data, FRAME_HEADER);
  return b->size >= FRAME_HEADER + header->size;
}

static void run_turn(struct job *job)
{
  struct frame_header header;
  if (whole_frame(&job->answer.data, &header)) {
    if (job->peer)
      buffer_append(&job->peer->conn.out, job->answer.data.data, job->answer.data.size);
    job_end(job);
  } else if (job->dead && job->answer.fd < 0) {
    job_answer_failure(job);
    job_end(job);
  }
}

/*
 * A monitor that has answered `created` waits to be told that the answer was taken. If serve dies before, or the requester is
 * gone or no longer wants it, the monitor undoes all: nothing is made that nobody knows of.
 */
static void monitor_turn(struct job *job)
{
  struct frame_header header;
  if (!whole_frame(&job->answer.data, &header)) {
    if (job->dead && job->answer.fd < 0) {
      job_answer_failure(job);
      job_end(job);
    }
    return;
  }
  if (header.type == MESSAGE_CREATED && job->why) {
    buffer_consume(&job->answer.data, FRAME_HEADER + header.size);
    loop_again();
    return;
  }
  if (header.type == MESSAGE_CREATED) {
    uint32_t taken = 0;
    (void)!send(job->answer.fd, &taken, sizeof taken, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  if (job->why)
    job_answer_failure(job);
  else if (job->peer)
    buffer_append(&job->peer->conn.out, job->answer.data.data, job->answer.data.size);
  job_end(job);
}

static void stream_turn(struct job *job)
{
  if (!job->dead)
    return;
  struct peer *peer = job->peer;
  if (peer) {
    if (job->why || job->exit.si_code != CLD_EXITED || job->exit.si_status != 0)
      job_answer_failure(job);
    peer->streaming = false;
    conn_end(&peer->conn);
  }
  job_end(job);
}

static void job_turn(struct job *job)
{
  static void (*const turns[])(struct job *) = {run_turn, spawn_turn, monitor_turn, stream_turn, stream_turn};
  uint64_t now = now_ms();
  if (takes_over(job) && job->answer.fd < 0)
    job->deadline = 0; /* it was for the beginning alone: a stream lasts as long as what it is made from */
  if (job->deadline && now >= job->deadline)
    job_stop(job, ETIMEDOUT);
  if (job->give_up && now >= job->give_up && !job->dead) {
    if (job->kind == JOB_MONITOR)
      kill(job->pid, SIGKILL);
    if (takes_over(job) && job->peer) {
      job->peer->streaming = false;
      conn_end(&job->peer->conn);
    }
    job_answer_failure(job);
    job_end(job);
    return;
  }
  loop_until(job->deadline);
  loop_until(job->dead ? 0 : job->give_up);
  turns[job->kind](job);
}

static void reap(void)
{
  for (struct job *job = jobs; job; job = job->next) {
    siginfo_t info = {0};
    if (!job->dead && waitid(P_PID, (id_t)job->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid) {
      job->dead = true;
      job->exit = info;
    }
  }
  for (size_t i = 0; i < stray_count;) {
    if (waitpid(strays[i], NULL, WNOHANG) != 0)
      strays[i] = strays[--stray_count];
    else
      i++;
  }
}

void jobs_turn(void)
{
  if (loop_children())
    reap();
  for (struct job *job = jobs, *next; job; job = next) {
    next = job->next;
    job_turn(job);
  }
  for (struct job *job = jobs; job; job = job->next) {
    loop_on(job->answer.fd, POLLIN, end_ready, &job->answer);
    loop_on(job->out[0].fd, POLLIN, end_ready, &job->out[0]);
    loop_on(job->out[1].fd, POLLIN, end_ready, &job->out[1]);
  }
}
