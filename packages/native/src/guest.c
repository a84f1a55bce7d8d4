/*
 * `bosun guest`: what a virtual machine runs. It starts `bosun serve` and gives whoever is at the host's end of the channel the sockets
 * of the machine: serve's, those of monitors, TCP ports of the loopback. It decides nothing: what becomes of the machine are plans that
 * serve is given. As PID 1 it also makes the machine a place to live in (guest_init.c) and reaps; or it leaves that to another
 * program (berth.agent= on the kernel's command line: Kata's agent), and gives the host that one's sockets by the same channel.
 *
 * The channel is a virtio-serial port, or vsock, whose every connection is one stream that begins with a line "PATH socket"; or, to be
 * tried without a machine, a unix socket that it listens on in the place of the port.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "guest.h"
#include "procs.h"
#include "pump.h"
#include "relay.h"
#include "vsock.h"

#define DEFAULT_CHANNEL "virtio:berth.agent"
#define DEFAULT_SERVE "/run/berth/serve.sock"
#define OOM_SCORE "-999"
#define LISTEN_BACKLOG 128
#define ACCEPT_PAUSE_MS 100

static struct channel channel;
static int port = -1, listener = -1;
/* The port is virtio-serial's: it is never closed, and may have nobody at its other end. */
static bool is_virtio, unattended;
static const char *serve_path = DEFAULT_SERVE;
static pid_t serve;
static int serve_stdin = -1;

/* --- serve -------------------------------------------------------------------------------------------------------------- */

static void be_serve(int in, int out)
{
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  child_clean("bosun-serve", NULL, 0);
  /* A container's process is given its own; what it is killed for must not take its monitor along. */
  int fd = getppid() == 1 ? open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    (void)!write(fd, OOM_SCORE, strlen(OOM_SCORE));
    close(fd);
  }
  _exit(serve_main(serve_path));
}

/* Returns once it listens. */
static void start_serve(void)
{
  int in[2], out[2];
  char word[8];
  fd_close(&serve_stdin);
  if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
    guest_fail("pipe: %s", strerror(errno));
  serve = fork();
  if (serve < 0)
    guest_fail("fork: %s", strerror(errno));
  if (serve == 0)
    be_serve(in[0], out[1]);
  close(in[0]);
  close(out[1]);
  serve_stdin = in[1];
  if (read(out[0], word, sizeof word) <= 0)
    guest_fail("serve ended before it was ready");
  close(out[0]);
}

static void reap(void)
{
  if (!loop_children())
    return;
  for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
    if (pid == serve)
      start_serve();
}

/* --- connecting --------------------------------------------------------------------------------------------------------- */

static int connect_to(const struct sockaddr *address, socklen_t size, bool *under_way)
{
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -1;
  *under_way = false;
  if (connect(fd, address, size) == 0)
    return fd;
  if (errno == EINPROGRESS) {
    *under_way = true;
    return fd;
  }
  int err = errno;
  close(fd);
  errno = err;
  return -1;
}

static int connect_tcp(const char *text, bool *under_way)
{
  char *end;
  unsigned long number = strtoul(text, &end, 10);
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)number), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  errno = EINVAL;
  if (*text < '0' || *text > '9' || *end || number < 1 || number > 65535)
    return -1;
  /* The loopback answers at once: a refusal is there before connect(2) returns. */
  int fd = connect_to((struct sockaddr *)&v4, sizeof v4, under_way), err = errno;
  if (fd < 0)
    fd = connect_to((struct sockaddr *)&v6, sizeof v6, under_way);
  if (fd < 0)
    errno = err;
  return fd;
}

/* A descriptor that does not block, or -1 with errno. */
static int connect_path(const char *path, bool *under_way)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strncmp(path, "tcp:", 4) == 0)
    return connect_tcp(path + 4, under_way);
  errno = path[0] == '/' ? ENAMETOOLONG : EINVAL;
  if (path[0] != '/' || strlen(path) >= sizeof address.sun_path)
    return -1;
  strcpy(address.sun_path, path);
  return connect_to((struct sockaddr *)&address, sizeof address, under_way);
}

static int connect_error(int fd)
{
  int err = 0;
  socklen_t size = sizeof err;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0 ? errno : err;
}

/* --- the port ----------------------------------------------------------------------------------------------------------- */

static int open_stream(struct stream *s, const char *path)
{
  s->fd = connect_path(path, &s->connecting);
  return s->fd < 0 ? errno : 0;
}

static void stream_connected(struct stream *s) { stream_answer(s, connect_error(s->fd)); }

static void begin_channel(void)
{
  channel_free(&channel);
  channel = (struct channel){.open = open_stream, .connected = stream_connected};
}

/* Nobody is at the other end any more: what it had opened is closed. */
static void port_left(void)
{
  begin_channel();
  if (is_virtio)
    unattended = true;
  else
    fd_close(&port);
}

static void port_ready(void *object, short events)
{
  (void)object;
  (void)events;
  ssize_t n = read(port, scratch, SCRATCH_SIZE);
  if (n > 0)
    channel_take(&channel, scratch, (size_t)n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    port_left();
}

static void accept_port(void *object, short events)
{
  (void)object;
  (void)events;
  port = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void port_turn(void)
{
  if (unattended)
    unattended = !port_attend(port);
  if (port >= 0 && !unattended) {
    channel_turn(&channel);
    if (channel_flush(&channel, port))
      return loop_on(port, channel_events(&channel), port_ready, NULL);
    port_left();
    loop_again();
  } else if (!is_virtio) {
    loop_on(listener, POLLIN, accept_port, NULL);
  }
}

/* --- vsock -------------------------------------------------------------------------------------------------------------- */

/* Until its line has come and the socket that it names is connected. */
struct caller {
  struct caller *next;
  int fd, socket; /* -1: none */
  bool holds;     /* it is only to show that the machine is there */
  bool gone;
  struct line line;
};

static struct caller *callers;
static unsigned peer_cid = VMADDR_CID_HOST;
static uint64_t accept_after;

static void answer(struct caller *caller, int err)
{
  char text[64];
  int size = err ? snprintf(text, sizeof text, "ERR %s\n", errno_word(err)) : snprintf(text, sizeof text, "OK\n");
  caller->gone = true;
  if (write(caller->fd, text, (size_t)size) != size || err)
    return;
  pump_start(caller->fd, caller->socket, caller->line.text, caller->line.size);
  caller->fd = caller->socket = -1;
}

static void caller_ready(void *object, short events)
{
  struct caller *caller = object;
  (void)events;
  if (caller->socket >= 0)
    return answer(caller, connect_error(caller->socket));
  if (caller->holds) {
    caller->gone = read(caller->fd, scratch, SCRATCH_SIZE) == 0 || events & (POLLHUP | POLLERR);
    return;
  }
  int got = line_read(&caller->line, caller->fd);
  if (got == 0)
    return;
  caller->holds = got == 1 && strcmp(caller->line.text, "HOLD") == 0;
  caller->gone = got < 0 || (!caller->holds && strncmp(caller->line.text, "PATH ", 5) != 0);
  if (caller->gone || caller->holds)
    return;
  bool under_way;
  caller->socket = connect_path(caller->line.text + 5, &under_way);
  int err = caller->socket < 0 ? errno : 0;
  line_next(&caller->line);
  if (err || !under_way)
    answer(caller, err);
}

static void accept_caller(void *object, short events)
{
  struct sockaddr_vm peer = {0};
  socklen_t size = sizeof peer;
  (void)object;
  (void)events;
  int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    /* Out of descriptors or memory: the connection stays in the queue and would wake us without end. */
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      accept_after = now_ms() + ACCEPT_PAUSE_MS;
    return;
  }
  struct caller *caller = calloc(1, sizeof *caller);
  if (!caller)
    _exit(70);
  /* A container in the machine may have vsock too. */
  *caller = (struct caller){.next = callers, .fd = fd, .socket = -1, .gone = peer.svm_cid != peer_cid};
  callers = caller;
}

static void vsock_turn(void)
{
  for (struct caller **at = &callers, *caller; (caller = *at);) {
    if (caller->gone) {
      *at = caller->next;
      fd_close(&caller->fd);
      fd_close(&caller->socket);
      free(caller);
      continue;
    }
    loop_on(caller->socket >= 0 ? caller->socket : caller->fd, caller->socket >= 0 ? POLLOUT : POLLIN, caller_ready, caller);
    at = &caller->next;
  }
  pumps_turn();
  if (now_ms() >= accept_after)
    loop_on(listener, POLLIN, accept_caller, NULL);
  else
    loop_until(accept_after);
}

bool vsock_parse(const char *text, unsigned *cid, unsigned *number)
{
  char *end;
  if (cid) {
    *cid = (unsigned)strtoul(text, &end, 10);
    if (end == text || *end != ':')
      return false;
    text = end + 1;
  }
  *number = (unsigned)strtoul(text, &end, 10);
  return end != text && *end == 0;
}

static void listen_vsock(const char *text)
{
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
  /* "PORT", or, where the peer is not to be the host, "PORT:CID" of the peer: for tests over vsock's loopback. */
  const char *colon = strchr(text, ':');
  char number[16];
  snprintf(number, sizeof number, "%.*s", colon ? (int)(colon - text) : (int)strlen(text), text);
  if (!vsock_parse(number, NULL, &address.svm_port) || (colon && !vsock_parse(colon + 1, NULL, &peer_cid)))
    guest_fail("channel vsock:%s is not vsock:PORT", text);
  listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, LISTEN_BACKLOG) < 0)
    guest_fail("listen on vsock:%s: %s", text, strerror(errno));
}

/* --- life --------------------------------------------------------------------------------------------------------------- */

static void on_port_signal(int number) { (void)number; }

/* What the channel is; the turn that serves it. */
static void (*open_channel(const char *name))(void)
{
  begin_channel();
  if (strncmp(name, "vsock:", 6) == 0) {
    listen_vsock(name + 6);
    return vsock_turn;
  }
  if (strncmp(name, "virtio:", 7) == 0) {
    is_virtio = true;
    port = port_wait(name + 7);
    if (port < 0)
      guest_fail("wait for the port %s: %s", name + 7, strerror(errno));
    /* Only to end the wait of the loop. */
    sigaction(SIGIO, &(struct sigaction){.sa_handler = on_port_signal}, NULL);
    return port_turn;
  }
  if (strncmp(name, "unix:", 5) == 0) {
    unlink(name + 5);
    listener = conn_listen(name + 5);
    if (listener < 0)
      guest_fail("listen on %s: %s", name + 5, strerror(errno));
    return port_turn;
  }
  guest_fail("channel %s is none of virtio:NAME, vsock:PORT and unix:PATH", name);
}

/* Comes back in a child, which is to close what this returns when it can be talked to: then the program begins, as PID 1. */
static int guest_give_way(const char *program)
{
  int ready[2];
  char nothing, *arguments[] = {(char *)program, NULL};
  if (pipe2(ready, O_CLOEXEC) < 0)
    guest_fail("pipe: %s", strerror(errno));
  pid_t child = fork();
  if (child < 0)
    guest_fail("fork: %s", strerror(errno));
  if (child == 0) {
    close(ready[0]);
    return ready[1];
  }
  close(ready[1]);
  (void)!read(ready[0], &nothing, 1);
  execv(program, arguments);
  guest_fail("execute %s: %s", program, strerror(errno));
}

static int usage(void)
{
  fprintf(stderr, "usage: bosun guest [--channel virtio:NAME|vsock:PORT|unix:SOCKET] [--serve SOCKET]\n");
  return 2;
}

int guest_main(char **arguments)
{
  char name[256] = DEFAULT_CHANNEL, agent[256];
  bool init = getpid() == 1;
  int ready = -1;
  if (init) {
    guest_furnish();
    kernel_argument("berth.channel", name, sizeof name);
    if (kernel_argument("berth.agent", agent, sizeof agent))
      ready = guest_give_way(agent);
  }
  for (; !init && arguments[0]; arguments += 2) {
    if (!arguments[1])
      return usage();
    if (strcmp(arguments[0], "--channel") == 0)
      snprintf(name, sizeof name, "%s", arguments[1]);
    else if (strcmp(arguments[0], "--serve") == 0)
      serve_path = arguments[1];
    else
      return usage();
  }
  prctl(PR_SET_NAME, "bosun-guest");
  bool carries = ready >= 0;
  if (!carries)
    start_serve();
  loop_start();
  void (*turn)(void) = open_channel(name);
  if (carries)
    close(ready);
  else if (!init)
    (void)!write(STDOUT_FILENO, "ready\n", 6);
  while (!loop_stop_signal()) {
    reap();
    turn();
    if (loop_idle())
      memory_release();
    loop_turn();
  }
  if (init && !carries)
    guest_power_off();
  fd_close(&serve_stdin);
  waitpid(serve, NULL, 0);
  return 0;
}
