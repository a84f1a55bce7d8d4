/* The connections to a monitor: frames at first, and raw bytes of one stream after an attach. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"

#define ACCEPT_PAUSE_MS 100

static void handle_all(struct client *client)
{
  struct conn *c = &client->conn;
  struct frame_header header;
  const uint8_t *body;
  size_t at = 0;
  int whole = 0;
  while (!c->ending && !client->session && (whole = conn_frame(c, &at, &header, &body)) == 1)
    handle_request(client, &header, body);
  if (whole < 0 && !c->ending)
    refuse_request(client, 0, "a frame that cannot be one");
  buffer_consume(&c->in, at);
  /* What came right behind an attach are the stream's first bytes. */
  if (client->session && client->stream == STREAM_STDIN)
    session_feed(client->session, c->in.data, c->in.size);
  if (client->session || !c->in.size)
    buffer_free(&c->in);
}

static void attached_ready(struct client *client, short events)
{
  struct conn *c = &client->conn;
  if (client->stream != STREAM_STDIN) {
    if (events & (POLLHUP | POLLERR))
      fd_close(&c->fd);
    return;
  }
  ssize_t n = recv(c->fd, scratch, SCRATCH_SIZE, MSG_DONTWAIT);
  if (n > 0)
    session_feed(client->session, scratch, (size_t)n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    fd_close(&c->fd);
}

static void client_ready(void *object, short events)
{
  struct client *client = object;
  struct conn *c = &client->conn;
  if (events & POLLOUT)
    conn_flush(c);
  if (c->fd < 0 || !(events & (POLLIN | POLLHUP | POLLERR)))
    return;
  if (client->session)
    attached_ready(client, events);
  else if (c->ending || !conn_read(c))
    fd_close(&c->fd);
  else
    handle_all(client);
}

static void accept_client(void *object, short events)
{
  (void)object;
  (void)events;
  int fd = accept4(self.listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) {
    /* Out of descriptors or memory: the connection stays in the queue and would wake us without end. */
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      self.accept_after = now_ms() + ACCEPT_PAUSE_MS;
    return;
  }
  struct client *client = calloc(1, sizeof *client);
  if (!client)
    _exit(70);
  *client = (struct client){.next = monitor_clients, .conn.fd = fd};
  monitor_clients = client;
}

static void client_gone(struct client *client)
{
  requests_forget(client);
  if (client->session && client->stream == STREAM_STDIN)
    session_input_gone(client->session);
  conn_close(&client->conn);
  free(client);
  loop_again();
}

static void client_register(struct client *client)
{
  struct conn *c = &client->conn;
  short events = conn_events(c);
  if (client->session && client->stream == STREAM_STDIN && !c->ending) {
    /* Not even its end is looked for while what it has sent has no room. */
    if (!session_takes_input(client->session))
      events &= (short)~POLLIN;
    if (!events)
      return;
  } else if (client->session) {
    events &= (short)~POLLIN; /* only its end is of interest */
  }
  loop_on(c->fd, events, client_ready, client);
}

void clients_turn(void)
{
  for (struct client **at = &monitor_clients, *client; (client = *at);) {
    struct conn *c = &client->conn;
    conn_flush(c);
    if (c->ending && !conn_backlog(c))
      fd_close(&c->fd);
    if (c->fd < 0) {
      *at = client->next;
      client_gone(client);
      continue;
    }
    client_register(client);
    at = &client->next;
  }
}

void listener_turn(void)
{
  if (now_ms() >= self.accept_after)
    loop_on(self.listener, POLLIN, accept_client, NULL);
  else
    loop_until(self.accept_after);
}

bool clients_told(bool late)
{
  for (const struct client *client = monitor_clients; client; client = client->next)
    if (client->conn.fd >= 0 && (conn_backlog(&client->conn) || client->conn.ending) && (client->session || !late))
      return false;
  return true;
}
