/*
 * `bosun runc DECIDER ARGUMENT...`: the process that a caller of the OCI command line starts. The decider (TypeScript) is its child,
 * which reads configuration and state, and either answers the command by itself, with its own exit status, or asks for what needs
 * this process: a plan to be carried out, a container's process to be made as a child of this one, its foreground to be kept.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch.h"
#include "orders.h"
#include "run.h"

#define CHANNEL_VARIABLE "BERTH_RUNC_CHANNEL"

/* On the stack of runc_main: the same program is also every container's monitor, which has no page to spare for it. */
struct runc {
  struct launch launch;
  struct buffer launch_request; /* its texts are in use until the end */
  struct buffer undo;
  bool attended, ended; /* ended: with `status` */
  int status;
};

static pid_t start_decider(char **arguments, int *channel)
{
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return -1;
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    char number[16];
    child_follow(parent);
    /* What the caller has open the decider may be told to read (--process /dev/fd/N). */
    fcntl(pair[1], F_SETFD, 0);
    snprintf(number, sizeof number, "%d", pair[1]);
    setenv(CHANNEL_VARIABLE, number, 1);
    execv(arguments[0], arguments);
    fprintf(stderr, "bosun: exec %s: %s\n", arguments[0], strerror(errno));
    _exit(127);
  }
  close(pair[1]);
  *channel = pair[0];
  return pid;
}

/* Until there is a process whose they are to be, signals are the decider's. */
static pid_t decider;
static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
#define FORWARDED (sizeof forwarded / sizeof *forwarded)

static void forward(int signal_number) { kill(decider, signal_number); }

static void forward_signals(void)
{
  struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
  for (size_t i = 0; i < FORWARDED; i++)
    sigaction(forwarded[i], &action, NULL);
}

/* From here on they wait for `attend`, which hands them on. */
static void hold_signals(void)
{
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < FORWARDED; i++)
    sigaddset(&set, forwarded[i]);
  sigprocmask(SIG_BLOCK, &set, NULL);
}

/* --- requests ----------------------------------------------------------------------------------------------------------- */

static void answer_report(struct buffer *out, uint32_t id, const struct report *report) { report_encode(report, id, out); }

/* In a child: the orders may change what this process is. */
static void run_plan(struct buffer *out, uint32_t id, struct bytes plan)
{
  int ends[2], status;
  struct report report = {.order = NO_ORDER};
  if (pipe2(ends, O_CLOEXEC) < 0) {
    failed(&report, "pipe");
    answer_report(out, id, &report);
    return;
  }
  pid_t pid = fork();
  if (pid == 0) {
    struct buffer answer = {0};
    struct run run;
    child_clean("bosun-run", &ends[1], 1);
    run_init(&run);
    run.plan = plan.data;
    run.size = plan.size;
    plan_run(&run);
    report_encode(&run.report, id, &answer);
    _exit(write_all(ends[1], answer.data, answer.size) ? 0 : 1);
  }
  close(ends[1]);
  uint8_t chunk[4096];
  size_t before = out->size;
  ssize_t size;
  while ((size = read(ends[0], chunk, sizeof chunk)) > 0 || (size < 0 && errno == EINTR))
    if (size > 0)
      buffer_append(out, chunk, (size_t)size);
  close(ends[0]);
  if (pid > 0)
    waitpid(pid, &status, 0);
  if (out->size == before) {
    fail(&report, EIO, pid < 0 ? "fork" : "the worker of the plan ended");
    answer_report(out, id, &report);
  }
}

static void answer_launch(const struct launch *l, struct buffer *out, uint32_t id)
{
  if (l->step == LAUNCH_FAILED) {
    answer_report(out, id, &l->report);
    return;
  }
  struct message_launched m = {
    .pid = (uint32_t)l->pid,
    .pid_start = process_start(l->pid),
    .outputs = {l->report.outputs.data, (uint32_t)l->report.outputs.size},
  };
  message_launched_encode(out, id, &m);
}

static bool carry_out(struct runc *r, int channel, struct buffer *out, const struct frame_header *header, struct buffer *body)
{
  static const struct report done = {.order = NO_ORDER};
  struct message_run run;
  struct message_launch l;
  struct message_attend a;
  struct message_notify n;
  struct message_wait_oom w;
  struct message_end e;
  struct report report = {.order = NO_ORDER};
  switch (header->type) {
  case MESSAGE_RUN:
    if (!message_run_decode(body->data, body->size, &run))
      return false;
    run_plan(out, header->id, run.plan);
    return true;
  case MESSAGE_LAUNCH:
    r->launch_request = *body;
    *body = (struct buffer){0};
    if (r->launch.step != LAUNCH_NONE || !message_launch_decode(r->launch_request.data, r->launch_request.size, &l))
      return false;
    hold_signals();
    launch_make(&r->launch, &l);
    answer_launch(&r->launch, out, header->id);
    return true;
  case MESSAGE_RELEASE:
    launch_release(&r->launch);
    answer_report(out, header->id, r->launch.step == LAUNCH_FAILED ? &r->launch.report : &done);
    return true;
  case MESSAGE_ABANDON:
    launch_abandon(&r->launch);
    answer_report(out, header->id, &done);
    return true;
  case MESSAGE_NOTIFY:
    if (!message_notify_decode(body->data, body->size, &n) || r->launch.ready.listener >= 0)
      return false;
    if (ready_begin(&r->launch.ready, &n, &report) < 0)
      ready_end(&r->launch.ready);
    answer_report(out, header->id, &report);
    return true;
  case MESSAGE_WAIT_OOM:
    if (!message_wait_oom_decode(body->data, body->size, &w))
      return false;
    wait_oom(&w, channel, &report);
    answer_report(out, header->id, &report);
    return true;
  case MESSAGE_ATTEND:
    if (!message_attend_decode(body->data, body->size, &a) || r->launch.step != LAUNCH_RUNNING)
      return false;
    buffer_append(&r->undo, a.undo.data, a.undo.size);
    r->attended = true;
    answer_report(out, header->id, &done);
    return true;
  case MESSAGE_END:
    if (!message_end_decode(body->data, body->size, &e))
      return false;
    r->ended = true;
    r->status = (int)e.status;
    return true;
  }
  return false;
}

static bool read_all(int fd, void *data, size_t size)
{
  uint8_t *at = data;
  while (size) {
    ssize_t n = read(fd, at, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    at += n;
    size -= (size_t)n;
  }
  return true;
}

/* Until the decider ends, or says that it has. False: it said what nobody understands. */
static bool serve_decider(struct runc *r, int channel)
{
  struct frame_header header;
  while (read_all(channel, &header, sizeof header)) {
    struct buffer body = {0}, out = {0};
    if (header.size > FRAME_MAX)
      return false;
    buffer_room(&body, header.size);
    if (!read_all(channel, body.data, header.size))
      return true;
    body.size = header.size;
    bool understood = carry_out(r, channel, &out, &header, &body);
    buffer_free(&body);
    if (understood)
      write_all(channel, out.data, out.size);
    buffer_free(&out);
    if (!understood)
      return false;
    if (r->ended)
      return true;
  }
  return true;
}

/* --- the end ------------------------------------------------------------------------------------------------------------ */

static int attend(struct runc *r)
{
  int status = launch_attend(&r->launch);
  if (r->undo.size) {
    struct buffer out = {0};
    run_plan(&out, 0, (struct bytes){r->undo.data, (uint32_t)r->undo.size});
    struct message_report report;
    if (out.size < FRAME_HEADER || !message_report_decode(out.data + FRAME_HEADER, out.size - FRAME_HEADER, &report) || report.errno_)
      fprintf(stderr, "berth-runc: clean up: %s\n", out.size < FRAME_HEADER ? "no answer" : report.detail);
    buffer_free(&out);
  }
  return status;
}

int runc_main(char **arguments)
{
  int channel = -1, status = 0;
  struct runc runc = {.launch = {.sync_fd = -1, .terminal = -1, .relay = {-1, -1, -1}, .ready = {-1, -1, 0}, .report.order = NO_ORDER}}, *r = &runc;
  prctl(PR_SET_NAME, "berth-runc");
  signal(SIGPIPE, SIG_IGN);
  decider = start_decider(arguments, &channel);
  if (decider < 0) {
    fprintf(stderr, "bosun: start %s: %s\n", arguments[0], strerror(errno));
    return 1;
  }
  forward_signals();
  bool understood = serve_decider(r, channel);
  if (r->attended || r->ended || !understood)
    kill(decider, SIGKILL); /* it has nothing more to say: its own winding up would only take time */
  close(channel);
  while (waitpid(decider, &status, 0) < 0 && errno == EINTR)
    ;
  if (r->attended)
    return attend(r);
  status = !understood ? 1 : r->ended ? r->status : exit_status(status);
  if (status != 0 && r->launch.step != LAUNCH_NONE && !r->launch.dead)
    launch_abandon(&r->launch);
  else if (status == 0)
    ready_wait(&r->launch.ready, r->launch.pid);
  return status;
}
