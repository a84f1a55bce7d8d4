/*
 * `bosun run`: carries out the plan on stdin, writes its report (one frame) to stdout. A plan that ends in a process gets
 * a monitor of the plainest kind: it starts what is parked, gives it /dev/null as stdin and stderr as its output, hands on
 * SIGTERM and SIGINT, and exits as it does.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "orders.h"
#include "procs.h"
#include "run.h"

static volatile sig_atomic_t process; /* 0: none yet */

static void hand_on(int signal_number)
{
  if (process > 0)
    kill((pid_t)process, signal_number);
}

static bool read_stdin(struct buffer *plan)
{
  uint8_t chunk[65536];
  for (;;) {
    ssize_t size = read(0, chunk, sizeof chunk);
    if (size < 0 && errno == EINTR)
      continue;
    if (size <= 0)
      return size == 0;
    buffer_append(plan, chunk, (size_t)size);
  }
}

bool plan_has(const struct buffer *plan, const uint16_t *codes, size_t count)
{
  struct report ignored = {0};
  struct reader orders, body;
  uint32_t left;
  uint16_t code;
  if (!plan_begin(plan->data, plan->size, &left, &orders, &ignored))
    return false;
  while (left-- > 0 && plan_next(&orders, &code, &body))
    for (size_t i = 0; i < count; i++)
      if (code == codes[i])
        return true;
  return false;
}

static void stage(struct run *run, int sync_fd)
{
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  run->sync_fd = sync_fd;
  run->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  run->stdio[1] = fcntl(2, F_DUPFD_CLOEXEC, 3);
  run->stdio[2] = fcntl(2, F_DUPFD_CLOEXEC, 3);
  plan_run(run);
  _exit(0);
}

static void take_failure(struct report *report, const struct buffer *message)
{
  struct reader fields = {.at = message->data + 1, .end = message->data + message->size};
  uint32_t err = reader_u32(&fields), order = reader_u32(&fields), at = reader_u32(&fields);
  fail(report, fields.bad ? EPROTO : (int)err, "%.*s", (int)(fields.end - fields.at), (const char *)fields.at);
  report->order = order;
  report->stage = at;
}

/* Everything the stage and the child say, until they have no more way to. */
static void listen_to(int sync_fd, struct report *report, int *terminal)
{
  for (;;) {
    struct buffer message = {0};
    int passed = -1;
    struct pollfd wait = {.fd = sync_fd, .events = POLLIN};
    if (poll(&wait, 1, -1) < 0 && errno == EINTR)
      continue;
    if (receive_message(sync_fd, &message, &passed) <= 0) {
      buffer_free(&message);
      return;
    }
    struct reader fields = {.at = message.data + 1, .end = message.data + message.size};
    uint8_t go = SYNC_GO;
    switch (message.data[0]) {
    case SYNC_CHILD: process = (sig_atomic_t)reader_u32(&fields); break;
    case SYNC_TERMINAL: *terminal = passed; break;
    case SYNC_PARKED:
      buffer_append(&report->outputs, fields.at, (size_t)(fields.end - fields.at));
      send(sync_fd, &go, 1, MSG_NOSIGNAL);
      break;
    case SYNC_FAILED: take_failure(report, &message); break;
    }
    buffer_free(&message);
  }
}

static void show_terminal(int terminal)
{
  uint8_t chunk[4096];
  ssize_t size;
  while ((size = read(terminal, chunk, sizeof chunk)) > 0 || (size < 0 && errno == EINTR))
    if (size > 0)
      write_all(2, chunk, (size_t)size);
}

int exit_status(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

/* The process's exit status; with `report` filled in where it was never reached. */
static int run_monitored(struct run *run)
{
  int pair[2], terminal = -1, status = 0, last = 0;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(&run->report, "socketpair");
  struct sigaction action = {.sa_handler = hand_on};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  pid_t pid = fork();
  if (pid < 0)
    return failed(&run->report, "fork");
  if (pid == 0) {
    close(pair[0]);
    stage(run, pair[1]);
  }
  close(pair[1]);
  listen_to(pair[0], &run->report, &terminal);
  if (process == 0)
    process = pid;
  if (terminal >= 0)
    show_terminal(terminal);
  for (pid_t ended; (ended = waitpid(-1, &status, 0)) > 0 || errno == EINTR;)
    if (ended == process)
      last = exit_status(status);
  return last;
}

int run_main(void)
{
  static const uint16_t ends_in_process[] = {ORDER_CLONE, ORDER_PARK, ORDER_CONSOLE, ORDER_EXEC, ORDER_REAP};
  static const uint16_t empty_mounts[] = {ORDER_ENTER_EMPTY_MOUNTS};
  struct buffer plan = {0}, answer = {0};
  struct run run;
  int status = 1;
  run_init(&run);
  if (!read_stdin(&plan))
    failed(&run.report, "read the plan");
  else if (plan_check(plan.data, plan.size, &run.report) == 0) {
    run.plan = plan.data;
    run.size = plan.size;
    if (plan_has(&plan, empty_mounts, 1))
      run.empty_mounts = empty_mounts_make(&run.report);
    if (run.report.err == 0)
      status = plan_has(&plan, ends_in_process, 5) ? run_monitored(&run) : plan_run(&run);
  }
  report_encode(&run.report, 0, &answer);
  bool written = write_all(1, answer.data, answer.size);
  buffer_free(&answer);
  buffer_free(&run.report.outputs);
  buffer_free(&plan);
  return written && run.report.err == 0 ? status : 1;
}
