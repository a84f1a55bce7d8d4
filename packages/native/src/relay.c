/*
 * `bosun relay`: a machine's channel on the host, for whoever has something to say to a socket in the machine. It listens as the
 * vsock device of Firecracker and Cloud Hypervisor does: the caller says "CONNECT 1024" and hears "OK 1024" as soon as the guest is
 * there, then says "PATH /run/berth/serve.sock" and hears "OK" or "ERR ENOENT"; from then on it talks to that socket. It lives as long
 * as the machine's end of the channel, and depends on nobody else.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "procs.h"
#include "pump.h"
#include "relay.h"
#include "vsock.h"

#define ACCEPT_PAUSE_MS 100
#define VSOCK_RETRY_MS 100

/* A caller until its stream is open. */
enum caller_step { CALLER_CONNECT, CALLER_WAITS, CALLER_PATH, CALLER_OPENING, CALLER_DIALLING, CALLER_GONE };
struct caller {
  struct caller *next;
  int fd;     /* -1: its stream has it */
  int dialled; /* vsock: being connected, or -1 */
  enum caller_step step;
  struct line line;
};

static struct channel channel;
static struct caller *callers;
static size_t caller_count;
static int port = -1, listener = -1;
static char *listening_at;
static uint64_t accept_after;
static bool ended;
static const char *complaint;
/* vsock: no channel but a connection for each caller; `port` is one more, which nothing is said on and whose end is the machine's. */
static bool by_vsock;
static struct sockaddr_vm machine = {.svm_family = AF_VSOCK};
static int dialled = -1;
static uint64_t dial_after;

static void end(const char *why)
{
  ended = true;
  if (!complaint)
    complaint = why;
}

/* --- callers ------------------------------------------------------------------------------------------------------------ */

/* A line fits into an empty socket's buffer; a caller for whom it does not has gone. */
static void say(int fd, const char *text) { (void)!write(fd, text, strlen(text)); }

static void say_error(int fd, const char *word)
{
  char text[64];
  snprintf(text, sizeof text, "ERR %s\n", word);
  say(fd, text);
}

static bool is_ready(void)
{
  return by_vsock ? port >= 0 : channel.synced;
}

static void caller_dial(struct caller *caller)
{
  caller->dialled = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool begun = caller->dialled >= 0 &&
               (connect(caller->dialled, (struct sockaddr *)&machine, sizeof machine) == 0 || errno == EINPROGRESS);
  caller->step = begun ? CALLER_DIALLING : CALLER_GONE;
}

static void caller_ask(struct caller *caller)
{
  static const char before[] = "PATH ";
  if (strncmp(caller->line.text, before, sizeof before - 1) != 0) {
    caller->step = CALLER_GONE;
    return;
  }
  char path[LINE_MAX_SIZE];
  snprintf(path, sizeof path, "%s", caller->line.text + sizeof before - 1);
  line_next(&caller->line);
  struct stream *s = strlen(path) > CHANNEL_PATH ? NULL : channel_open(&channel, caller->fd, path, caller->line.text, caller->line.size);
  if (!s) {
    say_error(caller->fd, strlen(path) < 1 || strlen(path) > CHANNEL_PATH ? "EINVAL" : "EMFILE");
    caller->step = CALLER_GONE;
    return;
  }
  s->owner = caller;
  caller->fd = -1;
  caller->step = CALLER_OPENING;
}

/* False: nothing more can be done for now. */
static bool caller_step(struct caller *caller)
{
  if (caller->step == CALLER_WAITS) {
    if (!is_ready())
      return false;
    if (by_vsock) {
      caller_dial(caller);
      return false;
    }
    say(caller->fd, "OK 1024\n");
    caller->step = CALLER_PATH;
    return true;
  }
  int got = line_read(&caller->line, caller->fd);
  if (got == 0)
    return false;
  if (got < 0 || (caller->step == CALLER_CONNECT && strcmp(caller->line.text, "CONNECT 1024") != 0)) {
    caller->step = CALLER_GONE;
  } else if (caller->step == CALLER_CONNECT) {
    line_next(&caller->line);
    caller->step = CALLER_WAITS;
  } else {
    caller_ask(caller);
  }
  return true;
}

static void caller_turn(struct caller *caller)
{
  while (caller->step <= CALLER_PATH && caller_step(caller))
    ;
}

static void caller_ready(void *object, short events)
{
  struct caller *caller = object;
  if (caller->step == CALLER_WAITS && events & (POLLHUP | POLLERR))
    caller->step = CALLER_GONE;
  caller_turn(caller);
}

static void caller_dialled(void *object, short events)
{
  struct caller *caller = object;
  int err = 0;
  socklen_t size = sizeof err;
  (void)events;
  if (getsockopt(caller->dialled, SOL_SOCKET, SO_ERROR, &err, &size) == 0 && err == 0) {
    say(caller->fd, "OK 1024\n");
    pump_start(caller->fd, caller->dialled, caller->line.text, caller->line.size);
    caller->fd = caller->dialled = -1;
  }
  caller->step = CALLER_GONE;
}

/* Those that wait for the guest are looked at again, for it may be there now. */
static void callers_turn(void)
{
  for (struct caller **at = &callers, *caller; (caller = *at);) {
    if (caller->step == CALLER_WAITS)
      caller_turn(caller);
    if (caller->step == CALLER_GONE) {
      *at = caller->next;
      caller_count--;
      fd_close(&caller->fd);
      fd_close(&caller->dialled);
      free(caller);
      continue;
    }
    if (caller->step == CALLER_DIALLING)
      loop_on(caller->dialled, POLLOUT, caller_dialled, caller);
    else if (caller->step != CALLER_OPENING)
      loop_on(caller->fd, caller->step == CALLER_WAITS ? 0 : POLLIN, caller_ready, caller);
    at = &caller->next;
  }
}

static void accept_caller(void *object, short events)
{
  (void)object;
  (void)events;
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      accept_after = now_ms() + ACCEPT_PAUSE_MS;
    return;
  }
  struct caller *caller = calloc(1, sizeof *caller);
  if (!caller)
    _exit(70);
  *caller = (struct caller){.next = callers, .fd = fd, .dialled = -1};
  callers = caller;
  caller_count++;
}

/* --- the channel -------------------------------------------------------------------------------------------------------- */

static void opened(struct stream *s, uint32_t err)
{
  struct caller *caller = s->owner;
  s->owner = NULL;
  caller->step = CALLER_GONE;
  if (err)
    say_error(s->fd, errno_word((int)err));
  else
    say(s->fd, "OK\n");
}

static void port_ready(void *object, short events)
{
  (void)object;
  (void)events;
  ssize_t n = read(port, scratch, SCRATCH_SIZE);
  if (n > 0 && !by_vsock) {
    if (!channel_take(&channel, scratch, (size_t)n))
      end(channel.broken);
  } else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    end(NULL);
  }
}

static void machine_dialled(void *object, short events)
{
  int err = 0;
  socklen_t size = sizeof err;
  (void)object;
  (void)events;
  if (getsockopt(dialled, SOL_SOCKET, SO_ERROR, &err, &size) < 0 || err) {
    fd_close(&dialled);
    dial_after = now_ms() + VSOCK_RETRY_MS; /* nothing tells that the guest listens */
    return;
  }
  port = dialled;
  dialled = -1;
  say(port, "HOLD\n");
}

static void machine_turn(void)
{
  if (port >= 0)
    return loop_on(port, POLLIN, port_ready, NULL);
  if (dialled < 0 && now_ms() < dial_after)
    return loop_until(dial_after);
  if (dialled < 0) {
    dialled = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (dialled < 0 || (connect(dialled, (struct sockaddr *)&machine, sizeof machine) < 0 && errno != EINPROGRESS)) {
      fd_close(&dialled);
      dial_after = now_ms() + VSOCK_RETRY_MS;
      return loop_until(dial_after);
    }
  }
  loop_on(dialled, POLLOUT, machine_dialled, NULL);
}

static void channel_part(void)
{
  if (by_vsock)
    return machine_turn();
  channel_turn(&channel);
  if (!channel_flush(&channel, port))
    return end(NULL);
  loop_on(port, channel_events(&channel), port_ready, NULL);
}

/* --- life --------------------------------------------------------------------------------------------------------------- */

static int connect_channel(const char *path, struct report *report)
{
  port = unix_connect(path);
  if (port < 0 || !fd_nonblock(port))
    return failed(report, "connect %s", path);
  uint64_t nonce;
  if (getrandom(&nonce, sizeof nonce, 0) != (ssize_t)sizeof nonce)
    return failed(report, "getrandom");
  channel = (struct channel){.host = true, .opened = opened};
  channel_reset(&channel, nonce);
  return 0;
}

int relay_begin(const char *path, const char *listen, struct report *report)
{
  static const char vsock[] = "vsock:";
  by_vsock = strncmp(path, vsock, sizeof vsock - 1) == 0;
  if (by_vsock && !vsock_parse(path + sizeof vsock - 1, &machine.svm_cid, &machine.svm_port))
    return fail(report, EINVAL, "channel %s is not vsock:CID:PORT", path);
  if (!by_vsock && connect_channel(path, report) < 0)
    return -1;
  listening_at = strdup(listen);
  listener = unix_listen(listen);
  return listener < 0 ? failed(report, "bind %s", listen) : 0;
}

int relay_serve(void)
{
  loop_start();
  while (!ended && !loop_stop_signal()) {
    callers_turn();
    pumps_turn();
    channel_part();
    if (caller_count + channel.count >= CHANNEL_STREAMS)
      ; /* those who wait have to wait longer */
    else if (now_ms() >= accept_after)
      loop_on(listener, POLLIN, accept_caller, NULL);
    else
      loop_until(accept_after);
    if (loop_idle())
      memory_release();
    if (!ended)
      loop_turn();
  }
  unlink(listening_at);
  if (!complaint)
    return 0;
  fprintf(stderr, "bosun: relay: the guest sent %s; its channel is closed\n", complaint);
  return 1;
}

int relay_main(char **arguments)
{
  const char *path = NULL, *listen = NULL;
  struct report report = {.order = NO_ORDER};
  for (; arguments[0] && arguments[1]; arguments += 2) {
    if (strcmp(arguments[0], "--channel") == 0)
      path = arguments[1];
    else if (strcmp(arguments[0], "--listen") == 0)
      listen = arguments[1];
    else
      break;
  }
  if (arguments[0] || !path || !listen) {
    fprintf(stderr, "usage: bosun relay --channel SOCKET|vsock:CID:PORT --listen SOCKET\n");
    return 2;
  }
  if (relay_begin(path, listen, &report) < 0) {
    fprintf(stderr, "bosun: relay: %s: %s\n", report.detail, strerror((int)report.err));
    return 1;
  }
  (void)!write(STDOUT_FILENO, "ready\n", 6);
  return relay_serve();
}
