/* Interfaces, addresses, routes and neighbours of this process's network namespace: a virtual machine's, as a rule (rtnetlink(7)). */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"
#include "netlink.h"
#include "orders.h"

#define HARDWARE_SIZE 6

/* --- what the orders say ------------------------------------------------------------------------------------------------ */

struct place { uint8_t family, prefix, size; uint8_t bytes[16]; };

/* "10.0.0.2" or "10.0.0.2/24", and so for IPv6. */
static bool parse_place(const char *text, struct place *place)
{
  char address[INET6_ADDRSTRLEN];
  const char *slash = strchr(text, '/');
  size_t size = slash ? (size_t)(slash - text) : strlen(text);
  if (size >= sizeof address)
    return false;
  memcpy(address, text, size);
  address[size] = 0;
  place->family = strchr(address, ':') ? AF_INET6 : AF_INET;
  place->size = place->family == AF_INET6 ? 16 : 4;
  if (inet_pton(place->family, address, place->bytes) != 1)
    return false;
  char *end = NULL;
  unsigned long prefix = slash ? strtoul(slash + 1, &end, 10) : place->size * 8ul;
  place->prefix = (uint8_t)prefix;
  return prefix <= place->size * 8ul && (!slash || (end != slash + 1 && *end == 0));
}

static bool parse_hardware(const char *text, uint8_t bytes[HARDWARE_SIZE])
{
  unsigned part[HARDWARE_SIZE];
  int used = 0;
  if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &part[0], &part[1], &part[2], &part[3], &part[4], &part[5], &used) != HARDWARE_SIZE ||
      text[used])
    return false;
  for (int i = 0; i < HARDWARE_SIZE; i++)
    bytes[i] = (uint8_t)part[i];
  return true;
}

static int place_of(struct run *run, const char *text, struct place *place)
{
  return parse_place(text, place) ? 0 : fail(&run->report, EINVAL, "%s is no IP address", text);
}

static int index_of(struct run *run, const char *name, unsigned *index)
{
  *index = if_nametoindex(name);
  return *index ? 0 : failed(&run->report, "interface %s", name);
}

/* Sends the request on a socket of its own. What is to be removed and is not there is as good. */
static int carry_through(struct run *run, struct netlink_request *r, bool removed, const char *what)
{
  int fd = netlink_open();
  if (fd < 0)
    return failed(&run->report, "netlink socket");
  int result = netlink_transact(fd, &r->header);
  if (result < 0 && removed && (errno == ENOENT || errno == ESRCH || errno == EADDRNOTAVAIL))
    result = 0;
  if (result < 0)
    failed(&run->report, "%s", what);
  drop(fd);
  return result;
}

/* --- interfaces --------------------------------------------------------------------------------------------------------- */

struct search { const char *name; const uint8_t *hardware; unsigned index; bool failed; };

static void look_at_link(const struct nlmsghdr *message, void *object)
{
  struct search *search = object;
  const struct ifinfomsg *link = NLMSG_DATA(message);
  if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof *link))
    return;
  size_t left = message->nlmsg_len - NLMSG_LENGTH(sizeof *link);
  for (const struct rtattr *a = IFLA_RTA(link); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    bool same = search->hardware ? a->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(a) == HARDWARE_SIZE && memcmp(RTA_DATA(a), search->hardware, HARDWARE_SIZE) == 0
                                 : a->rta_type == IFLA_IFNAME && strcmp(RTA_DATA(a), search->name) == 0;
    if (same)
      search->index = (unsigned)link->ifi_index;
  }
}

static bool find_link(void *object)
{
  struct search *search = object;
  struct netlink_request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_GETLINK},
    .link = {.ifi_family = AF_UNSPEC},
  };
  int fd = netlink_open();
  search->failed = fd < 0 || netlink_dump(fd, &r.header, look_at_link, search) < 0;
  drop(fd);
  return search->index || search->failed;
}

static int change_link(struct run *run, int fd, unsigned index, const struct order_set_link *o)
{
  struct netlink_request r = netlink_link(index);
  if (*o->new_name) {
    char now[IF_NAMESIZE];
    bool same = if_indextoname(index, now) && strcmp(now, o->new_name) == 0;
    if (!same && netlink_up(fd, index, false) < 0)
      return failed(&run->report, "take the interface down that becomes %s", o->new_name);
    netlink_add(&r, IFLA_IFNAME, o->new_name, strlen(o->new_name) + 1);
  }
  if (o->mtu)
    netlink_add(&r, IFLA_MTU, &o->mtu, sizeof o->mtu);
  if ((*o->new_name || o->mtu) && netlink_transact(fd, &r.header) < 0)
    return failed(&run->report, "set name %s and MTU %u", o->new_name, o->mtu);
  return netlink_up(fd, index, o->up) < 0 ? failed(&run->report, "bring the interface %s", o->up ? "up" : "down") : 0;
}

int order_set_link(struct run *run, const struct order_set_link *o)
{
  uint8_t hardware[HARDWARE_SIZE];
  struct search search = {.name = o->name, .hardware = *o->hardware ? hardware : NULL};
  if (strlen(o->name) >= IF_NAMESIZE || strlen(o->new_name) >= IF_NAMESIZE)
    return fail(&run->report, ENAMETOOLONG, "interface %s or %s", o->name, o->new_name);
  if (*o->hardware && !parse_hardware(o->hardware, hardware))
    return fail(&run->report, EINVAL, "%s is no hardware address", o->hardware);
  const char *what = *o->hardware ? o->hardware : o->name;
  bool found = o->timeout_ms ? uevent_wait(find_link, &search, (int)o->timeout_ms) : find_link(&search);
  if (!found && !o->timeout_ms)
    return fail(&run->report, ENODEV, "interface %s", what);
  if (!found || search.failed)
    return failed(&run->report, "interface %s", what);
  int fd = netlink_open();
  if (fd < 0)
    return failed(&run->report, "netlink socket");
  int result = change_link(run, fd, search.index, o);
  drop(fd);
  return result;
}

/* --- addresses, routes, neighbours -------------------------------------------------------------------------------------- */

int order_address(struct run *run, const struct order_address *o)
{
  struct place place;
  unsigned index;
  if (place_of(run, o->address, &place) < 0 || index_of(run, o->link, &index) < 0)
    return -1;
  struct netlink_request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
               .nlmsg_type = o->remove ? RTM_DELADDR : RTM_NEWADDR,
               .nlmsg_flags = o->remove ? 0 : NLM_F_CREATE | NLM_F_REPLACE},
    .address = {.ifa_family = place.family, .ifa_prefixlen = place.prefix, .ifa_index = index, .ifa_scope = RT_SCOPE_UNIVERSE},
  };
  netlink_add(&r, IFA_LOCAL, place.bytes, place.size);
  netlink_add(&r, IFA_ADDRESS, place.bytes, place.size);
  if (place.family == AF_INET6) {
    /* It was the host's to give, and is to be of use at once. */
    uint32_t flags = IFA_F_NODAD;
    netlink_add(&r, IFA_FLAGS, &flags, sizeof flags);
  }
  char what[128];
  snprintf(what, sizeof what, "%s address %.64s of %.15s", o->remove ? "remove" : "add", o->address, o->link);
  return carry_through(run, &r, o->remove, what);
}

int order_route(struct run *run, const struct order_route *o)
{
  struct place to, by, from;
  unsigned index = 0;
  if (place_of(run, o->destination, &to) < 0 || (*o->gateway && place_of(run, o->gateway, &by) < 0) ||
      (*o->source && place_of(run, o->source, &from) < 0) || (*o->link && index_of(run, o->link, &index) < 0))
    return -1;
  if ((*o->gateway && by.family != to.family) || (*o->source && from.family != to.family))
    return fail(&run->report, EINVAL, "route to %s: addresses of two families", o->destination);
  struct netlink_request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
               .nlmsg_type = o->remove ? RTM_DELROUTE : RTM_NEWROUTE,
               .nlmsg_flags = o->remove ? 0 : NLM_F_CREATE | NLM_F_REPLACE},
    .route = {.rtm_family = to.family, .rtm_dst_len = to.prefix, .rtm_table = RT_TABLE_MAIN,
              .rtm_protocol = o->remove ? RTPROT_UNSPEC : RTPROT_STATIC, .rtm_type = o->remove ? RTN_UNSPEC : RTN_UNICAST,
              .rtm_scope = o->remove ? RT_SCOPE_NOWHERE : (uint8_t)o->scope, .rtm_flags = o->onlink ? RTNH_F_ONLINK : 0},
  };
  if (to.prefix)
    netlink_add(&r, RTA_DST, to.bytes, to.size);
  if (*o->gateway)
    netlink_add(&r, RTA_GATEWAY, by.bytes, by.size);
  if (*o->source)
    netlink_add(&r, RTA_PREFSRC, from.bytes, from.size);
  if (index)
    netlink_add(&r, RTA_OIF, &index, sizeof index);
  if (o->metric)
    netlink_add(&r, RTA_PRIORITY, &o->metric, sizeof o->metric);
  if (o->mtu) {
    struct { struct rtattr head; uint32_t mtu; } metrics = {{sizeof metrics, RTAX_MTU}, o->mtu};
    netlink_add(&r, RTA_METRICS, &metrics, sizeof metrics);
  }
  char what[160];
  snprintf(what, sizeof what, "%s route to %.64s by %.64s", o->remove ? "remove" : "add", o->destination, *o->gateway ? o->gateway : o->link);
  return carry_through(run, &r, o->remove, what);
}

int order_neighbour(struct run *run, const struct order_neighbour *o)
{
  struct place place;
  uint8_t hardware[HARDWARE_SIZE];
  unsigned index;
  if (place_of(run, o->address, &place) < 0 || index_of(run, o->link, &index) < 0)
    return -1;
  if (!o->remove && !parse_hardware(o->hardware, hardware))
    return fail(&run->report, EINVAL, "%s is no hardware address", o->hardware);
  struct netlink_request r = {
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)),
               .nlmsg_type = o->remove ? RTM_DELNEIGH : RTM_NEWNEIGH,
               .nlmsg_flags = o->remove ? 0 : NLM_F_CREATE | NLM_F_REPLACE},
    .neighbour = {.ndm_family = place.family, .ndm_ifindex = (int)index, .ndm_state = NUD_PERMANENT},
  };
  netlink_add(&r, NDA_DST, place.bytes, place.size);
  if (!o->remove)
    netlink_add(&r, NDA_LLADDR, hardware, sizeof hardware);
  char what[128];
  snprintf(what, sizeof what, "%s neighbour %.64s of %.15s", o->remove ? "remove" : "add", o->address, o->link);
  return carry_through(run, &r, o->remove, what);
}
