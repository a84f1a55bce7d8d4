/* Network interfaces that change hands: from the runtime's network namespace into a container's (rtnetlink(7)). */
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "orders.h"

#define ANSWER_ROOM 32768
#define MOST_ADDRESSES 64
#define ADDRESS_ROOM 128

struct request {
  struct nlmsghdr header;
  union {
    struct ifinfomsg link;
    struct ifaddrmsg address;
  };
  char attributes[256];
};

/* One RTM_NEWADDR to be sent again, as it came: its body and attributes. */
struct address { uint32_t size; char message[ADDRESS_ROOM]; };
struct addresses { uint32_t count; struct address list[MOST_ADDRESSES]; };

static int open_netlink(void)
{
  return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static void add_attribute(struct request *r, unsigned short type, const void *data, size_t size)
{
  struct rtattr *attribute = (struct rtattr *)(void *)((char *)r + NLMSG_ALIGN(r->header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = (unsigned short)RTA_LENGTH(size);
  memcpy(RTA_DATA(attribute), data, size);
  r->header.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

/* Sends one request and waits for the kernel's verdict: 0, or -1 with errno. */
static int transact(int fd, struct nlmsghdr *request)
{
  char answer[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
  request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
  if (send(fd, request, request->nlmsg_len, 0) < 0)
    return -1;
  for (;;) {
    ssize_t size = recv(fd, answer, sizeof answer, 0);
    if (size < 0 && errno == EINTR)
      continue;
    if (size < 0)
      return -1;
    const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)answer;
    if ((size_t)size < NLMSG_LENGTH(sizeof(struct nlmsgerr)) || header->nlmsg_type != NLMSG_ERROR)
      continue;
    const struct nlmsgerr *verdict = NLMSG_DATA(header);
    errno = -verdict->error;
    return verdict->error ? -1 : 0;
  }
}

static struct request link_request(unsigned index)
{
  return (struct request){
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_NEWLINK},
    .link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index},
  };
}

static int set_up(int fd, unsigned index, bool up)
{
  struct request r = link_request(index);
  r.link.ifi_change = IFF_UP;
  r.link.ifi_flags = up ? IFF_UP : 0;
  return transact(fd, &r.header);
}

/* Renamed first and alone: kernels before 5.19 take no name together with a namespace where that name is taken here. */
static int move(int fd, unsigned index, const char *name, int ns)
{
  struct request r = link_request(index);
  uint32_t number = (uint32_t)ns;
  add_attribute(&r, IFLA_IFNAME, name, strlen(name) + 1);
  add_attribute(&r, IFLA_NET_NS_FD, &number, sizeof number);
  return transact(fd, &r.header);
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

static void keep_addresses(struct addresses *all, const char *answer, size_t size, unsigned index, bool *done)
{
  for (const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)answer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    *done = *done || h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR;
    uint32_t body = h->nlmsg_len - (uint32_t)NLMSG_HDRLEN;
    if (h->nlmsg_type != RTM_NEWADDR || body < sizeof(struct ifaddrmsg) || body > ADDRESS_ROOM || all->count == MOST_ADDRESSES)
      continue;
    if (!is_lasting(NLMSG_DATA(h), body, index))
      continue;
    all->list[all->count].size = body;
    memcpy(all->list[all->count++].message, NLMSG_DATA(h), body);
  }
}

static int read_addresses(int fd, unsigned index, struct addresses *all)
{
  static char answer[ANSWER_ROOM] APART __attribute__((aligned(NLMSG_ALIGNTO)));
  struct request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)), .nlmsg_type = RTM_GETADDR, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
    .address = {.ifa_family = AF_UNSPEC},
  };
  all->count = 0;
  if (send(fd, &r, r.header.nlmsg_len, 0) < 0)
    return -1;
  for (bool done = false; !done;) {
    ssize_t size = recv(fd, answer, sizeof answer, 0);
    if (size < 0 && errno == EINTR)
      continue;
    if (size < 0)
      return -1;
    keep_addresses(all, answer, (size_t)size, index, &done);
  }
  return 0;
}

static int give_address(int fd, const struct address *address, unsigned index)
{
  struct { struct nlmsghdr header; char body[ADDRESS_ROOM]; } r = {
    .header = {.nlmsg_len = NLMSG_HDRLEN + address->size, .nlmsg_type = RTM_NEWADDR, .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE}};
  memcpy(r.body, address->message, address->size);
  memcpy(r.body + offsetof(struct ifaddrmsg, ifa_index), &index, sizeof index);
  return transact(fd, &r.header);
}

/* In the namespace that the interface has come to. */
static int settle_link(struct run *run, const char *name, const struct addresses *all)
{
  int fd = open_netlink();
  if (fd < 0)
    return failed(&run->report, "netlink socket in the container's namespace");
  unsigned index = if_nametoindex(name);
  int result = index ? 0 : failed(&run->report, "interface %s in the container's namespace", name);
  for (uint32_t i = 0; result == 0 && i < all->count; i++)
    if (give_address(fd, &all->list[i], index) < 0)
      result = failed(&run->report, "give an address back to interface %s", name);
  if (result == 0 && set_up(fd, index, true) < 0)
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
  int fd = open_netlink(), result = 0;
  if (fd < 0)
    return failed(&run->report, "netlink socket");
  if (read_addresses(fd, index, &all) < 0)
    result = failed(&run->report, "addresses of interface %s", o->name);
  else if (set_up(fd, index, false) < 0)
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
