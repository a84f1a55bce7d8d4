/* The loop over a plan's orders, and the descriptor table that they share. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "orders.h"

#define DEFAULT_UMASK 022

void run_init(struct run *run)
{
  memset(run, 0, sizeof *run);
  memset(run->slots, -1, sizeof run->slots);
  memset(run->stdio, -1, sizeof run->stdio);
  run->sync_fd = run->empty_mounts = run->aside_fd = run->criu_fd = -1;
  run->listener_index = NO_ORDER;
  run->report.order = NO_ORDER;
}

void drop(int fd)
{
  int err = errno;
  if (fd >= 0)
    close(fd);
  errno = err;
}

int slot_get(struct run *run, uint32_t slot)
{
  if (slot >= SLOTS)
    return fail(&run->report, EBADF, "slot %u is out of range", slot);
  if (run->slots[slot] < 0)
    return fail(&run->report, EBADF, "slot %u is empty", slot);
  return run->slots[slot];
}

int slot_put(struct run *run, uint32_t slot, int fd)
{
  if (slot >= SLOTS) {
    drop(fd);
    return fail(&run->report, EBADF, "slot %u is out of range", slot);
  }
  drop(run->slots[slot]);
  run->slots[slot] = fd;
  return 0;
}

int sync_send(struct run *run, const void *data, size_t size)
{
  ssize_t sent;
  do
    sent = send(run->sync_fd, data, size, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == (ssize_t)size ? 0 : -1;
}

void give_up(struct run *run)
{
  const struct report *r = &run->report;
  uint8_t message[1 + 3 * sizeof(uint32_t) + sizeof r->detail];
  size_t detail = strlen(r->detail);
  message[0] = SYNC_FAILED;
  memcpy(message + 1, &r->err, 4);
  memcpy(message + 5, &r->order, 4);
  memcpy(message + 9, &r->stage, 4);
  memcpy(message + 13, r->detail, detail);
  sync_send(run, message, 13 + detail);
  _exit(1);
}

static int carry_out(struct run *run, uint16_t code, const union any_order *order)
{
  switch (code) {
#define X(name, NAME, number) \
  case ORDER_##NAME: return order_##name(run, &order->name);
    ORDERS(X)
#undef X
  }
  return -1;
}

/* A filter whose next order is `exec` is loaded by `exec` as its last step, so that only execve has to pass it. */
static bool is_left_to_exec(uint16_t code, struct reader orders)
{
  struct reader body;
  uint16_t next;
  return code == ORDER_SECCOMP && plan_next(&orders, &next, &body) && next == ORDER_EXEC;
}

static int carry_out_all(struct run *run)
{
  struct reader orders, body;
  uint32_t count;
  uint16_t code;
  union any_order order;
  if (!plan_begin(run->plan, run->size, &count, &orders, &run->report))
    return -1;
  for (uint32_t i = 0; i < count; i++) {
    run->index = i;
    if (!plan_next(&orders, &code, &body) || !plan_decode(code, &body, &order))
      return fail(&run->report, EINVAL, "order %u of %u does not decode", i, count);
    if (is_left_to_exec(code, orders)) {
      run->filter = order.seccomp.filter;
      run->filter_flags = order.seccomp.flags;
      run->filter_index = i;
      continue;
    }
    if (carry_out(run, code, &order) < 0)
      return -1;
  }
  return 0;
}

/* A plan may hold thousands of descriptors; what it makes a process of begins with what bosun was given. */
static void raise_descriptor_limit(struct run *run)
{
  uint64_t raised[2];
  if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, run->descriptors) < 0 || run->descriptors[0] >= SLOTS + 64)
    return;
  raised[0] = run->descriptors[1] < SLOTS + 64 ? run->descriptors[1] : SLOTS + 64;
  raised[1] = run->descriptors[1];
  if (raised[0] > run->descriptors[0])
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, raised, NULL);
}

int plan_run(struct run *run)
{
  run->index = NO_ORDER;
  raise_descriptor_limit(run);
  umask(DEFAULT_UMASK);
  if (carry_out_all(run) == 0)
    return 0;
  run->report.order = run->index;
  run->report.stage = run->stage;
  if (run->sync_fd >= 0)
    give_up(run);
  return -1;
}
