/* Network interfaces that change hands: from the runtime's network namespace into a container's (rtnetlink(7)). */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "netlink.h"
#include "orders.h"

#define MOST_ADDRESSES 64
#define ADDRESS_ROOM 128

/* One RTM_NEWADDR to be sent again, as it came: its body and attributes. */
struct address { uint32_t size; char message[ADDRESS_ROOM]; };
struct addresses { uint32_t count; struct address list[MOST_ADDRESSES]; };

/* Renamed first and alone: kernels before 5.19 take no name together with a namespace where that name is taken here. */
static int move(int fd, unsigned index, const char *name, int ns)
{
  struct netlink_request r = netlink_link(index);
  uint32_t number = (uint32_t)ns;
  netlink_add(&r, IFLA_IFNAME, name, strlen(name) + 1);
  netlink_add(&r, IFLA_NET_NS_FD, &number, sizeof number);
  return netlink_transact(fd, &r.header);
}

/* What was given by hand and holds beyond the machine: the kernel makes link-local and temporary ones itself. */
static bool is_lasting(const struct ifaddrmsg *message, uint32_t size, unsigned index)
{
  uint32_t flags = message->ifa_flags;
  uint32_t left = size - (uint32_t)NLMSG_ALIGN(sizeof *message);
  for (const struct rtattr *a = (const struct rtattr *)(const void *)((const char *)message + NLMSG_ALIGN(sizeof *message)); RTA_OK(a, left);
       a = RTA_NEXT(a, left))
    if (a->rta_type == IFA_FLAGS)
      memcpy(&flags, RTA_DATA(a), sizeof flags);
  return message->ifa_index == index && message->ifa_scope == RT_SCOPE_UNIVERSE && flags & IFA_F_PERMANENT;
}

struct wanted { unsigned index; struct addresses *all; };

static void keep_address(const struct nlmsghdr *message, void *object)
{
  const struct wanted *wanted = object;
  struct addresses *all = wanted->all;
  uint32_t body = message->nlmsg_len - (uint32_t)NLMSG_HDRLEN;
  if (message->nlmsg_type != RTM_NEWADDR || body < sizeof(struct ifaddrmsg) || body > ADDRESS_ROOM || all->count == MOST_ADDRESSES)
    return;
  if (!is_lasting(NLMSG_DATA(message), body, wanted->index))
    return;
  all->list[all->count].size = body;
  memcpy(all->list[all->count++].message, NLMSG_DATA(message), body);
}

static int read_addresses(int fd, unsigned index, struct addresses *all)
{
  struct netlink_request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)), .nlmsg_type = RTM_GETADDR},
    .address = {.ifa_family = AF_UNSPEC},
  };
  all->count = 0;
  return netlink_dump(fd, &r.header, keep_address, &(struct wanted){index, all});
}

static int give_address(int fd, const struct address *address, unsigned index)
{
  struct { struct nlmsghdr header; char body[ADDRESS_ROOM]; } r = {
    .header = {.nlmsg_len = NLMSG_HDRLEN + address->size, .nlmsg_type = RTM_NEWADDR, .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE}};
  memcpy(r.body, address->message, address->size);
  memcpy(r.body + offsetof(struct ifaddrmsg, ifa_index), &index, sizeof index);
  return netlink_transact(fd, &r.header);
}

/* In the namespace that the interface has come to. */
static int settle_link(struct run *run, const char *name, const struct addresses *all)
{
  int fd = netlink_open();
  if (fd < 0)
    return failed(&run->report, "netlink socket in the container's namespace");
  unsigned index = if_nametoindex(name);
  int result = index ? 0 : failed(&run->report, "interface %s in the container's namespace", name);
  for (uint32_t i = 0; result == 0 && i < all->count; i++)
    if (give_address(fd, &all->list[i], index) < 0)
      result = failed(&run->report, "give an address back to interface %s", name);
  if (result == 0 && netlink_up(fd, index, true) < 0)
    result = failed(&run->report, "bring interface %s up", name);
  drop(fd);
  return result;
}

static int settle_there(struct run *run, const char *name, const struct addresses *all, int ns)
{
  int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0)
    return failed(&run->report, "open /proc/thread-self/ns/net");
  int result = setns(ns, CLONE_NEWNET) < 0 ? failed(&run->report, "setns to the container's network namespace") : settle_link(run, name, all);
  if (setns(home, CLONE_NEWNET) < 0 && result == 0)
    result = failed(&run->report, "setns back from the container's network namespace");
  drop(home);
  return result;
}

int move_link(struct run *run, const struct order_move_link *o, int ns)
{
  static struct addresses all APART;
  const char *name = *o->new_name ? o->new_name : o->name;
  if (strlen(o->name) >= IF_NAMESIZE || strlen(name) >= IF_NAMESIZE)
    return fail(&run->report, ENAMETOOLONG, "interface %s or %s", o->name, name);
  unsigned index = if_nametoindex(o->name);
  if (!index)
    return failed(&run->report, "interface %s", o->name);
  int fd = netlink_open(), result = 0;
  if (fd < 0)
    return failed(&run->report, "netlink socket");
  if (read_addresses(fd, index, &all) < 0)
    result = failed(&run->report, "addresses of interface %s", o->name);
  else if (netlink_up(fd, index, false) < 0)
    result = failed(&run->report, "take interface %s down", o->name);
  else if (move(fd, index, name, ns) < 0)
    result = failed(&run->report, "move interface %s as %s", o->name, name);
  drop(fd);
  return result < 0 ? -1 : settle_there(run, name, &all, ns);
}

int order_move_link(struct run *run, const struct order_move_link *o)
{
  /* The namespace that clone makes is not there yet: the stage sees to it then (order_clone.c). */
  if (o->ns_slot == NO_SLOT)
    return run->stage == 0 ? 0 : fail(&run->report, EINVAL, "an interface is moved before clone");
  int ns = slot_get(run, o->ns_slot);
  return ns < 0 ? -1 : move_link(run, o, ns);
}

int order_check_other_ns(struct run *run, const struct order_check_other_ns *o)
{
  char path[64];
  struct stat own, other;
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  if (strchr(o->name, '/') || snprintf(path, sizeof path, "/proc/thread-self/ns/%s", o->name) >= (int)sizeof path)
    return fail(&run->report, EINVAL, "no namespace is called %.32s", o->name);
  if (stat(path, &own) < 0 || fstat(fd, &other) < 0)
    return failed(&run->report, "stat %s", path);
  if (own.st_dev == other.st_dev && own.st_ino == other.st_ino)
    return fail(&run->report, EPERM, "the %s namespace to join is the host's own", o->name);
  return 0;
}
