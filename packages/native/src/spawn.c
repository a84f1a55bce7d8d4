/* External programs: CNI plugins, runtimes, hooks. Each in its own session, fed and read without ever blocking serve. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job.h"

struct exec_failure { int err; char detail[256]; };

static const char **strs_array(struct strs list)
{
  const char **array = calloc((size_t)list.count + 1, sizeof *array);
  if (!array)
    _exit(70);
  for (uint32_t i = 0; i < list.count; i++)
    array[i] = strs_next(&list);
  return array;
}

static void program(const int stdio[3], int failure, const struct message_spawn *message)
{
  struct exec_failure result = {0};
  char **argv = (char **)(uintptr_t)strs_array(message->argv);
  environ = (char **)(uintptr_t)strs_array(message->env);
  setsid();
  for (int i = 0; i < 3; i++)
    dup2(stdio[i], i);
  /* The program's own session and signals, whatever ours are. */
  child_clean(NULL, &failure, 1);
  if (*message->cwd && chdir(message->cwd) < 0) {
    result.err = errno;
    snprintf(result.detail, sizeof result.detail, "chdir %s", message->cwd);
  } else {
    execvp(argv[0], argv);
    result.err = errno;
    snprintf(result.detail, sizeof result.detail, "exec %s", argv[0]);
  }
  (void)!write(failure, &result, sizeof result);
  _exit(127);
}

/* A pipe whose ends are above 2, so that neither is in the way of the child's dup2. */
static bool make_pipe(int ends[2])
{
  ends[0] = ends[1] = -1;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return false;
  for (int i = 0; i < 2; i++) {
    if (ends[i] > 2)
      continue;
    int moved = fcntl(ends[i], F_DUPFD_CLOEXEC, 3);
    close(ends[i]);
    ends[i] = moved;
  }
  return ends[0] >= 0 && ends[1] >= 0;
}

void jobs_spawn(struct peer *peer, const struct frame_header *header, const struct message_spawn *message)
{
  int in[2] = {-1, -1}, out[2] = {-1, -1}, error[2] = {-1, -1}, failure[2] = {-1, -1};
  if (message->argv.count == 0) {
    conn_report(&peer->conn, header->id, EINVAL, "spawn without a program");
    return;
  }
  pid_t self = getpid(), pid = -1;
  if (make_pipe(in) && make_pipe(out) && make_pipe(error) && make_pipe(failure))
    pid = fork();
  if (pid == 0) {
    child_follow(self);
    program((int[]){in[0], out[1], error[1]}, failure[1], message);
  }
  int err = errno;
  fd_close(&in[0]);
  fd_close(&out[1]);
  fd_close(&error[1]);
  fd_close(&failure[1]);
  if (pid < 0) {
    conn_report(&peer->conn, header->id, err, "fork");
    fd_close(&in[1]);
    fd_close(&out[0]);
    fd_close(&error[0]);
    fd_close(&failure[0]);
    return;
  }
  struct job *job = job_make(JOB_SPAWN, peer, header);
  job->pid = pid;
  job->limit = message->limit;
  job->in = in[1];
  job->out[0].fd = out[0];
  job->out[1].fd = error[0];
  job->answer.fd = failure[0];
  buffer_append(&job->feed, message->stdin_.data, message->stdin_.size);
  fd_nonblock(in[1]);
  fd_nonblock(out[0]);
  fd_nonblock(error[0]);
  fd_nonblock(failure[0]);
}

static void feed_ready(void *object, short events)
{
  struct job *job = object;
  ssize_t n = write(job->in, job->feed.data + job->fed, job->feed.size - job->fed);
  if (n > 0)
    job->fed += (size_t)n;
  else if (n < 0 && errno != EAGAIN && errno != EINTR)
    job->fed = job->feed.size; /* EPIPE: the program does not want it */
  (void)events;
}

static void feed_turn(struct job *job)
{
  if (job->in < 0)
    return;
  if (job->fed < job->feed.size) {
    loop_on(job->in, POLLOUT, feed_ready, job);
    return;
  }
  fd_close(&job->in);
  buffer_free(&job->feed);
}

static void answer_spawned(struct job *job)
{
  bool exited = job->exit.si_code == CLD_EXITED;
  struct message_spawned answer = {
    .status = (uint32_t)(exited ? job->exit.si_status : 128 + job->exit.si_status),
    .signal = (uint32_t)(exited ? 0 : job->exit.si_status),
    .stdout_ = {job->out[0].data.data, (uint32_t)job->out[0].data.size},
    .stderr_ = {job->out[1].data.data, (uint32_t)job->out[1].data.size},
    .truncated = job->out[0].truncated || job->out[1].truncated,
  };
  if (job->peer)
    message_spawned_encode(&job->peer->conn.out, job->id, &answer);
}

void spawn_turn(struct job *job)
{
  feed_turn(job);
  bool ended = job->out[0].fd < 0 && job->out[1].fd < 0 && job->answer.fd < 0;
  if (!job->dead)
    return;
  /* Killed: the end of the outputs tells that the others of its group are gone too, unless one has left the group. */
  if (!ended && !(job->why && now_ms() >= job->give_up)) {
    loop_until(job->give_up);
    return;
  }
  if (job->answer.data.size == sizeof(struct exec_failure)) {
    struct exec_failure failure;
    memcpy(&failure, job->answer.data.data, sizeof failure);
    job_report(job, failure.err, failure.detail);
  } else if (job->why) {
    job_answer_failure(job);
  } else {
    answer_spawned(job);
  }
  job_end(job);
}
