/*
 * Orders that run somebody's program while a container is made, and the process that is set aside for what must be done in the
 * runtime's namespaces once the container's process has left them.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "orders.h"
#include "procs.h"

#define SAID 400 /* bytes kept of what a hook says: the last ones */

extern char **environ;

struct program {
  const char *path;
  char **words; /* instead of argv, where not NULL */
  struct strs argv, env, state;
  uint32_t inherit;
  const struct run *run; /* whose HOME it gets */
  uint32_t timeout_ms;
};
/* Values of `inherit`. */
enum { ENV_GIVEN, ENV_OF_BOSUN, ENV_WITH_HOME };

/* The parts of a text with the process's number between them. */
static void join_state(struct buffer *out, struct strs parts, pid_t pid)
{
  char number[16];
  const char *text;
  int size = snprintf(number, sizeof number, "%d", pid);
  for (bool first = true; (text = strs_next(&parts)); first = false) {
    if (!first)
      buffer_append(out, number, (size_t)size);
    buffer_append(out, text, strlen(text));
  }
}

/* --- a hook ----------------------------------------------------------------------------------------------------------- */

static void hook_child(const struct program *p, int in, int out) __attribute__((noreturn));
static void hook_child(const struct program *p, int in, int out)
{
  char **argv = p->words ? p->words : vector(p->argv), **env = p->inherit == ENV_OF_BOSUN   ? environ
                                         : p->inherit == ENV_WITH_HOME ? environment_of(p->run, p->env)
                                                                       : vector(p->env);
  int last[] = {dup2(in, 0), dup2(out, 1), dup2(out, 2)};
  if (argv && env && last[0] == 0 && last[1] == 1 && last[2] == 2) {
    child_clean(NULL, NULL, 0);
    setsid();
    execve(p->path, argv, env);
  }
  dprintf(2, "%s: %s", p->path, strerror(errno));
  _exit(127);
}

struct hook {
  pid_t pid;
  int pidfd, in, out;
  size_t fed, said;
  struct buffer state;
  char text[SAID + 1];
};

/* Keeps the end of what is said. False at the end of the file. */
static bool hear(struct hook *h)
{
  char chunk[1024];
  ssize_t size = read(h->out, chunk, sizeof chunk);
  if (size < 0 && (errno == EINTR || errno == EAGAIN))
    return true;
  if (size <= 0)
    return false;
  for (ssize_t i = 0; i < size; i++) {
    if (h->said == SAID)
      memmove(h->text, h->text + 1, --h->said);
    h->text[h->said++] = chunk[i] == '\n' || chunk[i] == '\t' ? ' ' : chunk[i];
  }
  return true;
}

/* A hook that does not read its standard input is none the worse for it. */
static void feed(struct hook *h)
{
  if (h->fed == h->state.size) {
    fd_close(&h->in);
    return;
  }
  ssize_t size = write(h->in, h->state.data + h->fed, h->state.size - h->fed);
  if (size > 0)
    h->fed += (size_t)size;
  else if (size < 0 && (errno == EINTR || errno == EAGAIN))
    return;
  if (size <= 0 || h->fed == h->state.size)
    fd_close(&h->in);
}

static int kill_hook(struct hook *h)
{
  kill(-h->pid, SIGKILL);
  kill(h->pid, SIGKILL);
  return waitpid(h->pid, NULL, 0);
}

/* Until it has exited: 0, or the errno of why it was ended. What its children still hold open is not waited for. */
static int attend(struct hook *h, uint32_t timeout_ms, int watch)
{
  uint64_t limit = now_ms() + timeout_ms;
  for (;;) {
    struct pollfd on[] = {{h->pidfd, POLLIN, 0}, {h->out, POLLIN, 0}, {h->in, POLLOUT, 0}, {watch, 0, 0}};
    uint64_t now = now_ms();
    if (timeout_ms && now >= limit)
      return ETIMEDOUT;
    if (poll(on, 4, timeout_ms ? (int)(limit - now) : -1) < 0 && errno != EINTR)
      return errno;
    if (on[3].revents & (POLLHUP | POLLERR))
      return ECANCELED;
    if (on[2].revents)
      feed(h);
    if (on[1].revents && !hear(h))
      fd_close(&h->out);
    if (on[0].revents)
      return 0;
  }
}

static int hook_result(struct hook *h, const struct program *p, int ended, struct report *report)
{
  int status = 0;
  if (ended) {
    kill_hook(h);
    return fail(report, ended, ended == ETIMEDOUT ? "%s did not end within %u ms and was killed" : "%s was killed", p->path, p->timeout_ms);
  }
  waitpid(h->pid, &status, 0);
  if (h->out >= 0 && fd_nonblock(h->out))
    while (poll(&(struct pollfd){h->out, POLLIN, 0}, 1, 0) > 0 && hear(h))
      ;
  while (h->said > 0 && h->text[h->said - 1] == ' ')
    h->said--;
  h->text[h->said] = 0;
  if (WIFSIGNALED(status)) {
    const char *name = strsignal(WTERMSIG(status));
    return fail(report, EIO, "%s ended by signal %d (%c%s): %s", p->path, WTERMSIG(status), tolower(name[0]), name + 1, h->text);
  }
  if (WEXITSTATUS(status))
    return fail(report, EIO, "%s ended with status %d: %s", p->path, WEXITSTATUS(status), h->text);
  return 0;
}

/* `watch`: a socket whose hang-up ends the hook, or -1. */
static int run_program(const struct program *p, pid_t state_pid, int watch, struct report *report)
{
  int in[2], out[2];
  struct hook h = {.pidfd = -1};
  if (pipe2(in, O_CLOEXEC) < 0)
    return failed(report, "pipe");
  if (pipe2(out, O_CLOEXEC) < 0) {
    drop(in[0]);
    drop(in[1]);
    return failed(report, "pipe");
  }
  join_state(&h.state, p->state, state_pid);
  h.pid = fork();
  if (h.pid == 0)
    hook_child(p, in[0], out[1]);
  drop(in[0]);
  drop(out[1]);
  h.in = in[1];
  h.out = out[0];
  int result;
  if (h.pid < 0)
    result = failed(report, "fork");
  else if ((h.pidfd = (int)syscall(SYS_pidfd_open, h.pid, 0)) < 0) {
    result = failed(report, "pidfd_open");
    kill_hook(&h);
  } else {
    fd_nonblock(h.in);
    void (*old)(int) = signal(SIGPIPE, SIG_IGN);
    result = hook_result(&h, p, attend(&h, p->timeout_ms, watch), report);
    signal(SIGPIPE, old);
  }
  fd_close(&h.in);
  fd_close(&h.out);
  fd_close(&h.pidfd);
  buffer_free(&h.state);
  return result;
}

int run_tool(struct run *run, char **words)
{
  struct program p = {.path = words[0], .words = words, .inherit = ENV_OF_BOSUN, .run = run};
  return run_program(&p, getpid(), -1, &run->report);
}

int order_hook(struct run *run, const struct order_hook *o)
{
  struct program p = {o->path, NULL, o->argv, o->env, o->state, o->inherit_env, run, o->timeout_ms};
  return run_program(&p, getpid(), -1, &run->report);
}

/* --- the process that is set aside ---------------------------------------------------------------------------------------- */

/*
 * What is asked of it: the number of the order, which descriptors of the process that asks it is about (-1: none), and which process
 * (0: the one that asks).
 */
struct asked { uint32_t index; int32_t fd, other, about; };
struct answered { uint32_t err; char detail[sizeof((struct report *)0)->detail]; };

/* Who asks is what the kernel says: its number as this namespace counts. 0: there is nobody any more. */
static pid_t receive(int fd, struct asked *asked)
{
  struct iovec part = {.iov_base = asked, .iov_len = sizeof *asked};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(3 * sizeof(int))];
  } control;
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t size;
  do
    size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (size != (ssize_t)sizeof *asked || !header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_CREDENTIALS)
    return 0;
  int32_t pid;
  memcpy(&pid, CMSG_DATA(header), sizeof pid);
  return asked->about ? asked->about : pid;
}

static int connect_to(const char *path, struct report *report)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    return fail(report, ENAMETOOLONG, "connect %s", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return failed(report, "socket");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
    return fd;
  drop(fd);
  return failed(report, "connect %s", path);
}

/* A copy of a descriptor of the process that asks. */
static int take_descriptor(pid_t pid, int number, struct report *report)
{
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0)
    return failed(report, "pidfd_open %d", pid);
  int fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
  if (fd < 0)
    failed(report, "pidfd_getfd %d of the container's process", number);
  drop(process);
  return fd;
}

static int map_owners(const struct order_idmap_aside *o, pid_t pid, const struct asked *asked, struct report *report)
{
  int tree = take_descriptor(pid, asked->fd, report), userns = tree < 0 ? -1 : take_descriptor(pid, asked->other, report);
  int result = userns < 0 ? -1 : 0;
  struct mount_attr_args attr = {.attr_set = ATTR_IDMAP, .userns_fd = (uint64_t)userns};
  if (result == 0 && sys_mount_setattr(tree, "", AT_EMPTY_PATH | (o->recursive ? TREE_RECURSIVE : 0), &attr) < 0)
    result = failed(report, "mount_setattr slot %u", o->slot);
  drop(userns);
  drop(tree);
  return result;
}

/*
 * Asked for twice: before the filter is in force (`number` -1) there must be somebody at the socket, for afterwards the process may not
 * even be able to hear of a failure: its read(2) could be one of the calls that nobody answers. So it is killed then.
 */
static int pass_listener(const struct order_seccomp_listener *o, pid_t pid, int number, struct report *report)
{
  static int to = -1;
  if (number < 0) {
    fd_close(&to);
    to = connect_to(o->path, report);
    return to < 0 ? -1 : 0;
  }
  struct buffer text = {0};
  int listener = take_descriptor(pid, number, report), result = -1;
  join_state(&text, o->state, pid);
  if (listener >= 0 && (result = pass_descriptor(to, listener, text.data, text.size)) < 0)
    failed(report, "send the seccomp listener to %s", o->path);
  if (result < 0)
    kill(pid, SIGKILL);
  buffer_free(&text);
  drop(listener);
  fd_close(&to);
  return result;
}

static int do_asked(struct run *run, const struct asked *asked, pid_t pid, int fd)
{
  struct report *report = &run->report;
  struct reader orders, body;
  uint32_t count;
  uint16_t code = 0;
  union any_order order;
  bool found = plan_begin(run->plan, run->size, &count, &orders, report) && asked->index < count;
  for (uint32_t i = 0; found && i <= asked->index; i++)
    found = plan_next(&orders, &code, &body);
  if (!found || !plan_decode(code, &body, &order))
    return fail(report, EINVAL, "order %u is not there", asked->index);
  if (code == ORDER_SECCOMP_LISTENER)
    return pass_listener(&order.seccomp_listener, pid, asked->fd, report);
  if (code == ORDER_IDMAP_ASIDE)
    return map_owners(&order.idmap_aside, pid, asked, report);
  if (code != ORDER_RUNTIME_HOOK)
    return fail(report, EINVAL, "order %u is not for the process set aside", asked->index);
  const struct order_runtime_hook *o = &order.runtime_hook;
  struct program p = {o->path, NULL, o->argv, o->env, o->state, o->inherit_env, run, o->timeout_ms};
  return run_program(&p, pid, fd, report);
}

/* It hangs on its socket alone: the container's process closes that by its exec or its end. */
static void stay_aside(struct run *run, int fd) __attribute__((noreturn));
static void stay_aside(struct run *run, int fd)
{
  struct asked asked;
  pid_t pid;
  child_clean("bosun-aside", &fd, 1);
  while ((pid = receive(fd, &asked)) > 0) {
    struct answered answer = {0};
    run->report = (struct report){.order = NO_ORDER};
    if (do_asked(run, &asked, pid, fd) < 0)
      answer.err = run->report.err;
    memcpy(answer.detail, run->report.detail, sizeof answer.detail);
    if (write(fd, &answer, sizeof answer) != (ssize_t)sizeof answer)
      break;
  }
  _exit(0);
}

int order_aside(struct run *run, const struct order_aside *o)
{
  int pair[2], on = 1;
  (void)o;
  if (run->aside_fd >= 0)
    return fail(&run->report, EINVAL, "a process is set aside already");
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(&run->report, "socketpair");
  int result = setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ? failed(&run->report, "SO_PASSCRED") : 0;
  pid_t pid = result < 0 ? -1 : fork();
  if (pid == 0)
    stay_aside(run, pair[1]);
  if (result == 0 && pid < 0)
    result = failed(&run->report, "fork");
  drop(pair[1]);
  if (result < 0)
    drop(pair[0]);
  else
    run->aside_fd = pair[0];
  return result;
}

/* With write(2) and read(2) alone: a seccomp filter that is in force already has to let pass what is used here. */
static int ask(struct run *run, uint32_t index, int fd, int other)
{
  struct asked asked = {.index = index, .fd = fd, .other = other, .about = run->restored};
  struct answered answer;
  ssize_t size;
  if (run->aside_fd < 0)
    return fail(&run->report, EINVAL, "no process is set aside");
  if (write(run->aside_fd, &asked, sizeof asked) != (ssize_t)sizeof asked)
    return failed(&run->report, "ask the process set aside");
  do
    size = read(run->aside_fd, &answer, sizeof answer);
  while (size < 0 && errno == EINTR);
  if (size != (ssize_t)sizeof answer)
    return fail(&run->report, EIO, "the process set aside has ended");
  return answer.err ? fail(&run->report, (int)answer.err, "%.*s", (int)sizeof answer.detail - 1, answer.detail) : 0;
}

int order_runtime_hook(struct run *run, const struct order_runtime_hook *o)
{
  (void)o;
  return ask(run, run->index, -1, -1);
}

int order_idmap_aside(struct run *run, const struct order_idmap_aside *o)
{
  int tree = slot_get(run, o->slot), userns = slot_get(run, o->userns_slot);
  return tree < 0 || userns < 0 ? -1 : ask(run, run->index, tree, userns);
}

int order_seccomp_listener(struct run *run, const struct order_seccomp_listener *o)
{
  (void)o;
  run->listener_index = run->index;
  return ask(run, run->index, -1, -1);
}

int pass_on_listener(struct run *run, int listener)
{
  return ask(run, run->listener_index, listener, -1);
}
