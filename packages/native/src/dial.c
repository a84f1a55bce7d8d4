/*
 * A port of a pod's loopback, for port-forward: a fork that has joined the pod's network namespace connects there, and relays
 * between that socket and the connection it was asked on.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dial.h"
#include "procs.h"

#define FLOW_SIZE 65536u
#define FLOW_TURNS 16 /* reads of one direction before the other has its turn */
/* How long what a vanished client has sent may wait for a port that does not take it. */
#define GONE_MS 10000

/* --- connecting --------------------------------------------------------------------------------------------------------- */

static int connect_to(const struct sockaddr *address, socklen_t size)
{
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), result;
  if (fd < 0)
    return -1;
  do
    result = connect(fd, address, size);
  while (result < 0 && errno == EINTR);
  if (result == 0)
    return fd;
  int err = errno;
  close(fd);
  errno = err;
  return -1;
}

/* What the first address answers is what is reported: a pod without IPv6 says of the second only that it has none. */
static int connect_loopback(uint32_t port, struct report *report)
{
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = connect_to((struct sockaddr *)&v4, sizeof v4), err = errno;
  if (fd < 0)
    fd = connect_to((struct sockaddr *)&v6, sizeof v6);
  if (fd < 0)
    fail(report, err, "connect to 127.0.0.1 and ::1, port %u", port);
  return fd;
}

static int dial(const char *netns, uint32_t port, struct report *report)
{
  if (port < 1 || port > 65535)
    return fail(report, EINVAL, "port %u", port);
  int fd = open(netns, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return failed(report, "open %s", netns);
  int joined = setns(fd, CLONE_NEWNET);
  if (joined < 0)
    failed(report, "setns %s", netns);
  close(fd);
  return joined < 0 ? -1 : connect_loopback(port, report);
}

/* --- relaying ----------------------------------------------------------------------------------------------------------- */

/* One direction. `drops`: the receiver has gone, and the sender must not wait for it. */
struct flow { int from, to; bool ended, done, drops; size_t at, size; uint8_t data[FLOW_SIZE]; };

static struct flow up APART, down APART;

static bool flow_empty(const struct flow *f)
{
  return f->at == f->size;
}

/* False: the receiver takes nothing for now. */
static bool flow_write(struct flow *f)
{
  while (!flow_empty(f)) {
    ssize_t n = send(f->to, f->data + f->at, f->size - f->at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN)
      return false;
    if (n < 0 && errno != EINTR) {
      f->drops = true;
      f->at = f->size;
    }
    f->at += n > 0 ? (size_t)n : 0;
  }
  return true;
}

/* False: there is nothing for now. */
static bool flow_read(struct flow *f)
{
  ssize_t n = recv(f->from, f->data, FLOW_SIZE, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return errno == EINTR;
  f->ended = n <= 0;
  f->size = n > 0 && !f->drops ? (size_t)n : 0;
  f->at = 0;
  return true;
}

static void flow_move(struct flow *f)
{
  for (int turn = 0; turn < FLOW_TURNS && !f->done; turn++) {
    if (!flow_write(f))
      return;
    if (f->ended) {
      shutdown(f->to, SHUT_WR);
      f->done = true;
    } else if (!flow_read(f)) {
      return;
    }
  }
}

static short wanted(const struct flow *in, const struct flow *out)
{
  return (short)((!in->ended && flow_empty(in) ? POLLIN : 0) | (!flow_empty(out) ? POLLOUT : 0));
}

/* Nothing waits in `in` to be written, and what its hung sender has left can be read without waiting for it. */
static bool readable(bool hung, const struct flow *in)
{
  return hung && !in->ended && flow_empty(in);
}

/*
 * A side that is shut in both directions shows as POLLHUP, which would wake us without end: it is then no longer polled, and what
 * it has left is read as the other side takes it.
 */
static void relay(int client, int port)
{
  bool client_hung = false, port_hung = false;
  up.from = down.to = client;
  down.from = up.to = port;
  while (!(up.done && (down.done || client_hung)) && !(down.done && port_hung)) {
    struct pollfd polled[] = {
      {.fd = client_hung ? -1 : client, .events = wanted(&up, &down)},
      {.fd = port_hung ? -1 : port, .events = wanted(&down, &up)},
    };
    bool more = readable(client_hung, &up) || readable(port_hung, &down);
    if (poll(polled, 2, more ? 0 : client_hung ? GONE_MS : -1) == 0 && !more)
      return;
    client_hung |= (polled[0].revents & (POLLHUP | POLLERR)) != 0;
    port_hung |= (polled[1].revents & (POLLHUP | POLLERR)) != 0;
    flow_move(&up);
    flow_move(&down);
  }
}

void dial_main(int connection, int starting, uint32_t id, const char *netns, uint32_t port)
{
  struct report report = {.order = NO_ORDER};
  struct buffer answer = {0};
  int fd = dial(netns, port, &report);
  report_encode(&report, id, &answer);
  bool told = write_all(connection, answer.data, answer.size);
  buffer_free(&answer);
  close(starting);
  if (fd >= 0 && told)
    relay(connection, fd);
  _exit(0);
}
