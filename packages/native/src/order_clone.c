/* The process boundary: the stage makes the container's process, and that one waits to be started. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "orders.h"

static int write_map(struct run *run, pid_t child, const char *file, const char *text)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", child, file);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", path);
  size_t size = strlen(text);
  int result = write(fd, text, size) == (ssize_t)size ? 0 : failed(&run->report, "write %s", path);
  drop(fd);
  return result;
}

static int write_maps(struct run *run, pid_t child, const struct order_clone *o)
{
  if (o->deny_setgroups && write_map(run, child, "setgroups", "deny") < 0)
    return -1;
  if (*o->uid_map && write_map(run, child, "uid_map", o->uid_map) < 0)
    return -1;
  if (*o->gid_map && write_map(run, child, "gid_map", o->gid_map) < 0)
    return -1;
  return 0;
}

/* Network interfaces that were ordered for the namespace that has just been made. */
static int give_links(struct run *run, pid_t child)
{
  struct reader orders, body;
  uint32_t count, clone_index = run->index;
  uint16_t code;
  union any_order order;
  if (!plan_begin(run->plan, run->size, &count, &orders, &run->report))
    return -1;
  for (uint32_t i = 0; i < clone_index && plan_next(&orders, &code, &body); i++) {
    if (code != ORDER_MOVE_LINK || !plan_decode(code, &body, &order) || order.move_link.ns_slot != NO_SLOT)
      continue;
    char path[64];
    run->index = i;
    snprintf(path, sizeof path, "/proc/%d/ns/net", child);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    int result = ns < 0 ? failed(&run->report, "open %s", path) : move_link(run, &order.move_link, ns);
    drop(ns);
    if (result < 0)
      return -1;
  }
  run->index = clone_index;
  return 0;
}

/* The stage, after clone: names the child to the monitor, gives it its maps, lets it go on and ends. */
static void stage_end(struct run *run, pid_t child, int release, const struct order_clone *o)
{
  uint8_t message[1 + sizeof(uint32_t)] = {SYNC_CHILD};
  uint32_t pid = (uint32_t)child;
  memcpy(message + 1, &pid, sizeof pid);
  int result = sync_send(run, message, sizeof message) < 0 ? failed(&run->report, "tell the monitor") : 0;
  if (result == 0)
    result = write_maps(run, child, o);
  if (result == 0)
    result = give_links(run, child);
  if (result == 0 && send(release, "", 1, MSG_NOSIGNAL) != 1)
    result = failed(&run->report, "release the child");
  if (result == 0)
    _exit(0);
  /* The child waits for a byte that never comes, and ends with this process. */
  run->report.order = run->index;
  give_up(run);
}

/* A fresh user namespace begins with the host's numbers, unmapped: what this process made would belong to nobody. */
int become_namespace_root(struct run *run, bool groups)
{
  if (groups && syscall(SYS_setgroups, 0, NULL) < 0)
    return failed(&run->report, "setgroups in the new user namespace");
  /* EINVAL: the map has no 0, and the plan's own `user` says who to be. */
  if (syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL)
    return failed(&run->report, "setresgid 0 in the new user namespace");
  if (syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL)
    return failed(&run->report, "setresuid 0 in the new user namespace");
  return 0;
}

static int child_begin(struct run *run, int released, const struct order_clone *o)
{
  uint8_t byte;
  ssize_t size;
  run->stage = 1;
  /* The command line is visible to all who share the PID namespace, and names paths of the host. */
  forget_arguments();
  do
    size = read(released, &byte, 1);
  while (size < 0 && errno == EINTR);
  drop(released);
  /* The stage has failed, and has said so. */
  if (size != 1)
    _exit(1);
  return o->flags & CLONE_NEWUSER_FLAG && *o->uid_map && *o->gid_map ? become_namespace_root(run, !o->deny_setgroups) : 0;
}

int order_clone(struct run *run, const struct order_clone *o)
{
  int released[2];
  if (run->sync_fd < 0 || run->stage != 0)
    return fail(&run->report, EINVAL, run->stage ? "a plan has one clone" : "clone without a monitor to give the child to");
  struct clone_args_v2 args = {.flags = o->flags | CLONE_PARENT_FLAG};
  if (o->cgroup_slot != NO_SLOT) {
    int cgroup = slot_get(run, o->cgroup_slot);
    if (cgroup < 0)
      return -1;
    args.flags |= CLONE_INTO_CGROUP_FLAG;
    args.cgroup = (uint64_t)cgroup;
  }
  /* Not a pipe: should the child be killed meanwhile, the stage is to say so and not to die of SIGPIPE. */
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, released) < 0)
    return failed(&run->report, "socketpair");
  long child = syscall(SYS_clone3, &args, sizeof args);
  if (child < 0) {
    drop(released[0]);
    drop(released[1]);
    return failed(&run->report, "clone3 0x%llx", (unsigned long long)args.flags);
  }
  close(released[child ? 0 : 1]);
  if (child > 0)
    stage_end(run, (pid_t)child, released[1], o);
  return child_begin(run, released[0], o);
}

int order_park(struct run *run, const struct order_park *o)
{
  (void)o;
  if (run->sync_fd < 0)
    return fail(&run->report, EINVAL, "no monitor to wait for");
  struct buffer message = {0};
  uint8_t byte = SYNC_PARKED;
  buffer_append(&message, &byte, 1);
  buffer_append(&message, run->report.outputs.data, run->report.outputs.size);
  int result = sync_send(run, message.data, message.size);
  if (result < 0)
    failed(&run->report, "tell the monitor (%zu bytes of outputs)", run->report.outputs.size);
  buffer_free(&message);
  buffer_free(&run->report.outputs);
  if (result < 0)
    return -1;
  ssize_t size;
  do
    size = recv(run->sync_fd, &byte, 1, 0);
  while (size < 0 && errno == EINTR);
  /* The monitor has gone: nobody is left to start this for. */
  if (size <= 0)
    _exit(1);
  return byte == SYNC_GO ? 0 : fail(&run->report, EPROTO, "the monitor said %u instead of go", byte);
}
