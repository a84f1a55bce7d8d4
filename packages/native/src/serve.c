/*
 * bosun serve: berthd's hand. One thread that never blocks: whatever can is done in a child (job.c). It lives as long as the one
 * who started it holds its standard input open.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "procs.h"

#define LIVE_GRACE_MS 2000    /* a predecessor whose berthd was just killed still answers for a moment */
#define DYING_LIMIT_MS 30000  /* and may then wait for its children */
#define END_LIMIT_MS 10000    /* what a child stuck in the kernel is given at our own end */
#define ACCEPT_PAUSE_MS 100

int serve_empty_mounts = -1;

static struct peer *peers;
static int listener = -1;
static bool input_ended, winding_up;
static uint64_t accept_after;

/* --- start ------------------------------------------------------------------------------------------------------------ */

static int complain(const char *what, const char *path)
{
  fprintf(stderr, "bosun: serve: %s %s: %s\n", what, path, strerror(errno));
  return -1;
}

static bool answers(const char *name)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
  bool yes = fd >= 0 && (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN);
  if (fd >= 0)
    close(fd);
  return yes;
}

/* The lock says whether a predecessor is still there; the kernel releases it however that one ends. False with errno. */
static bool take_lock(const char *name)
{
  char path[128];
  snprintf(path, sizeof path, "%s.lock", name);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return false;
  uint64_t start = now_ms();
  while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
    uint64_t waited = now_ms() - start;
    if (errno != EWOULDBLOCK && errno != EINTR)
      return false;
    if (waited > DYING_LIMIT_MS || (waited > LIVE_GRACE_MS && answers(name))) {
      errno = EADDRINUSE;
      return false;
    }
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  return true; /* the descriptor is held until the end */
}

static int listen_at(const char *socket_path, char *name, size_t name_size)
{
  char *directory = strdup(socket_path), *base = strdup(socket_path);
  if (!directory || !base)
    _exit(70);
  snprintf(name, name_size, "%s", basename(base));
  int result = chdir(dirname(directory)) < 0 ? complain("chdir to the directory of", socket_path) : 0;
  free(directory);
  free(base);
  if (result < 0)
    return -1;
  if (!take_lock(name))
    return complain(errno == EADDRINUSE ? "another serve is at" : "lock", socket_path);
  if (unlink(name) < 0 && errno != ENOENT)
    return complain("unlink", socket_path);
  listener = conn_listen(name);
  return listener < 0 ? complain("bind", socket_path) : 0;
}

/* --- peers ------------------------------------------------------------------------------------------------------------ */

static void refuse(struct peer *peer, const struct frame_header *header, const char *what)
{
  conn_report(&peer->conn, header->id, EPROTO, "%s", what);
  conn_end(&peer->conn);
}

static void greet(struct peer *peer, const struct frame_header *header, const struct message_hello *hello)
{
  if (hello->version != PLAN_VERSION) {
    conn_report(&peer->conn, header->id, EPROTO, "protocol version %u, where bosun speaks %u", hello->version, PLAN_VERSION);
    conn_end(&peer->conn);
    return;
  }
  peer->greeted = true;
  struct message_welcome welcome = {.version = PLAN_VERSION, .pid = (uint32_t)getpid()};
  message_welcome_encode(&peer->conn.out, header->id, &welcome);
}

#define DECODED(name) message_##name##_decode(body, header->size, &m.name)

static void handle(struct peer *peer, const struct frame_header *header, const uint8_t *body)
{
  union {
    struct message_hello hello;
    struct message_run run;
    struct message_spawn spawn;
    struct message_monitor monitor;
    struct message_cancel cancel;
    struct message_tree tree;
    struct message_dial dial;
  } m;
  if (header->type == MESSAGE_HELLO && DECODED(hello))
    greet(peer, header, &m.hello);
  else if (!peer->greeted)
    refuse(peer, header, "the first frame must be hello");
  else if (header->type == MESSAGE_RUN && DECODED(run))
    jobs_run(peer, header, &m.run);
  else if (header->type == MESSAGE_SPAWN && DECODED(spawn))
    jobs_spawn(peer, header, &m.spawn);
  else if (header->type == MESSAGE_MONITOR && DECODED(monitor))
    jobs_monitor(peer, header, &m.monitor);
  else if (header->type == MESSAGE_CANCEL && DECODED(cancel))
    jobs_cancel(peer, m.cancel.id);
  else if (header->type == MESSAGE_TREE && DECODED(tree))
    jobs_tree(peer, header, &m.tree);
  else if (header->type == MESSAGE_DIAL && DECODED(dial))
    jobs_dial(peer, header, &m.dial);
  else
    refuse(peer, header, "a frame that serve does not take, or that does not decode");
}

static void handle_all(struct peer *peer)
{
  struct conn *c = &peer->conn;
  struct frame_header header = {0};
  const uint8_t *body;
  size_t at = 0;
  int whole = 0;
  while (!c->ending && !peer->streaming && (whole = conn_frame(c, &at, &header, &body)) == 1)
    handle(peer, &header, body);
  if (whole < 0 && !c->ending)
    refuse(peer, &(struct frame_header){0}, "a frame that cannot be one");
  buffer_consume(&c->in, at);
  if (peer->streaming && c->in.size)
    jobs_cancel(peer, header.id); /* what came too early belongs to the child, and cannot be given to it */
  if (!c->in.size)
    buffer_free(&c->in);
}

static void peer_ready(void *object, short events)
{
  struct peer *peer = object;
  struct conn *c = &peer->conn;
  if (events & POLLOUT)
    conn_flush(c);
  if (c->fd < 0 || !(events & (POLLIN | POLLHUP | POLLERR)))
    return;
  if (c->ending && (events & (POLLHUP | POLLERR)))
    fd_close(&c->fd);
  else if (!conn_read(c))
    fd_close(&c->fd);
  else
    handle_all(peer);
}

static void accept_peer(void *object, short events)
{
  (void)object;
  (void)events;
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) {
    /* Out of descriptors or memory: the connection stays in the queue and would wake us without end. */
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      accept_after = now_ms() + ACCEPT_PAUSE_MS;
    return;
  }
  struct peer *peer = calloc(1, sizeof *peer);
  if (!peer)
    _exit(70);
  *peer = (struct peer){.next = peers, .conn.fd = fd};
  peers = peer;
}

static void peers_turn(void)
{
  for (struct peer **at = &peers, *peer; (peer = *at);) {
    struct conn *c = &peer->conn;
    if (!peer->streaming)
      conn_flush(c);
    if (c->ending && !conn_backlog(c))
      fd_close(&c->fd);
    if (c->fd < 0) {
      jobs_peer_gone(peer);
      *at = peer->next;
      conn_close(c);
      free(peer);
      continue;
    }
    if (!peer->streaming && !winding_up)
      loop_on(c->fd, conn_events(c), peer_ready, peer);
    at = &peer->next;
  }
}

void serve_forget(struct peer *requester, struct buffer *request)
{
  *request = requester->conn.in;
  requester->conn.in = (struct buffer){0};
  jobs_forget();
  while (peers) {
    struct peer *peer = peers;
    peers = peer->next;
    conn_close(&peer->conn);
    free(peer);
  }
}

/* --- life ------------------------------------------------------------------------------------------------------------- */

static void input_ready(void *object, short events)
{
  (void)object;
  (void)events;
  ssize_t n = read(STDIN_FILENO, scratch, SCRATCH_SIZE);
  if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
    input_ended = true;
}

static void serve_until_end(void)
{
  while (!input_ended && !loop_stop_signal()) {
    jobs_turn();
    peers_turn();
    loop_on(STDIN_FILENO, POLLIN, input_ready, NULL);
    if (now_ms() >= accept_after)
      loop_on(listener, POLLIN, accept_peer, NULL);
    else
      loop_until(accept_after);
    if (loop_idle())
      memory_release();
    loop_turn();
  }
}

/* The lock is held until all is gone, so that a successor finds nothing half done. */
static void wind_up(const char *name)
{
  winding_up = true;
  unlink(name);
  fd_close(&listener);
  jobs_cancel_all();
  uint64_t limit = now_ms() + END_LIMIT_MS;
  for (;;) {
    jobs_turn();
    peers_turn();
    if (!jobs_any() || now_ms() >= limit)
      break;
    loop_until(limit);
    loop_turn();
  }
}

int serve_main(const char *socket_path)
{
  char name[100];
  int directory;
  struct report report = {.order = NO_ORDER};
  /* Whoever starts us without one of these must not find a socket in its place. */
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
      return 1;
  child_clean("bosun-serve", NULL, 0);
  loop_start();
  if (listen_at(socket_path, name, sizeof name) < 0)
    return 1;
  /* Kept for the unlink at the end, by when the path may lead elsewhere. */
  directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0 || chdir("/") < 0)
    return complain("open the directory of", socket_path), 1;
  serve_empty_mounts = empty_mounts_make(&report);
  if (serve_empty_mounts < 0) {
    fprintf(stderr, "bosun: serve: %s: %s\n", report.detail, strerror((int)report.err));
    return 1;
  }
  (void)!write(STDOUT_FILENO, "ready\n", 6);
  serve_until_end();
  if (fchdir(directory) == 0)
    wind_up(name);
  return 0;
}
