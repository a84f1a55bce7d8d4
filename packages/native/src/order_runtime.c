/*
 * The order that has another OCI runtime do a part of its command line. What it makes becomes a child of the monitor, which is the
 * subreaper above this stage: `create` and `exec --detach` leave their process behind when they end, and its number in a file.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"

#define TERMINAL_MS 2000 /* after the runtime has ended: it sends the terminal before it does */
#define LISTEN_BACKLOG 1

/* Where the runtime will connect to hand over the terminal that it makes. */
static int listen_at(struct run *run, const char *path)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    return fail(&run->report, ENAMETOOLONG, "bind %s", path);
  memcpy(address.sun_path, path, strlen(path) + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
    return fd;
  failed(&run->report, "bind %s", path);
  drop(fd);
  return -1;
}

static int receive_terminal(int connection)
{
  char name[256];
  union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
  struct iovec part = {name, sizeof name};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
  int terminal = -1;
  if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) < 0)
    return -1;
  struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
  if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS && extra->cmsg_len >= CMSG_LEN(sizeof(int)))
    memcpy(&terminal, CMSG_DATA(extra), sizeof terminal);
  return terminal;
}

static int hand_over_terminal(struct run *run, int listener, const char *path)
{
  struct pollfd wait = {.fd = listener, .events = POLLIN};
  int connection = poll(&wait, 1, TERMINAL_MS) > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
  int terminal = connection < 0 ? -1 : receive_terminal(connection);
  drop(connection);
  if (terminal < 0)
    return fail(&run->report, ENOTTY, "the runtime sent no terminal to %s", path);
  int result = send_terminal(run, terminal);
  drop(terminal);
  return result;
}

static void become(struct run *run, const struct order_runtime *o, pid_t stage, int failure)
{
  char **argv = vector(o->argv), **env = vector(o->env);
  if (!argv || !env)
    _exit(70);
  environ = env;
  child_follow(stage);
  setsid();
  child_null_stdio();
  for (int i = 0; o->stdio && i < 3; i++)
    if (run->stdio[i] >= 0)
      dup2(run->stdio[i], i);
  child_clean(NULL, &failure, 1);
  execvp(argv[0], argv);
  int err = errno;
  (void)!write(failure, &err, sizeof err);
  _exit(127);
}

/* The runtime's end; -1 with report where it could not be started. */
static int run_to_end(struct run *run, const struct order_runtime *o, int *status)
{
  int failure[2], err = 0;
  pid_t self = getpid();
  if (pipe2(failure, O_CLOEXEC) < 0)
    return failed(&run->report, "pipe");
  pid_t pid = fork();
  if (pid == 0)
    become(run, o, self, failure[1]);
  drop(failure[1]);
  ssize_t told = 0;
  if (pid > 0)
    do
      told = read(failure[0], &err, sizeof err);
    while (told < 0 && errno == EINTR);
  drop(failure[0]);
  if (pid < 0)
    return failed(&run->report, "fork");
  while (waitpid(pid, status, 0) < 0 && errno == EINTR)
    ;
  struct strs argv = o->argv;
  return told == (ssize_t)sizeof err ? fail(&run->report, err, "exec %s", strs_next(&argv)) : 0;
}

static int tell_process(struct run *run, const char *path)
{
  char text[32];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  drop(fd);
  if (size < 0)
    return failed(&run->report, "read %s", path);
  text[size] = 0;
  long pid = strtol(text, NULL, 10);
  if (pid <= 0)
    return fail(&run->report, EPROTO, "%s holds no process number", path);
  uint8_t message[5] = {SYNC_CHILD};
  uint32_t number = (uint32_t)pid;
  memcpy(message + 1, &number, sizeof number);
  return sync_send(run, message, sizeof message) < 0 ? failed(&run->report, "tell the monitor") : 0;
}

int order_runtime(struct run *run, const struct order_runtime *o)
{
  if (run->sync_fd < 0 || run->stage != 0)
    return fail(&run->report, EINVAL, "a runtime needs a monitor above it");
  if (o->argv.count == 0)
    return fail(&run->report, EINVAL, "argv is empty");
  int listener = *o->console_socket ? listen_at(run, o->console_socket) : -1, status = 0;
  if (*o->console_socket && listener < 0)
    return -1;
  int result = run_to_end(run, o, &status);
  if (result == 0 && WIFSIGNALED(status))
    result = fail(&run->report, ECHILD, "it was killed by signal %d", WTERMSIG(status));
  else if (result == 0 && WEXITSTATUS(status) != 0)
    result = fail(&run->report, ECHILD, "it ended with status %d", WEXITSTATUS(status));
  if (result == 0 && listener >= 0)
    result = hand_over_terminal(run, listener, o->console_socket);
  if (listener >= 0)
    unlink(o->console_socket);
  drop(listener);
  if (result == 0 && *o->pid_file)
    result = tell_process(run, o->pid_file);
  return result;
}
