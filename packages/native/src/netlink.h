/* Requests to rtnetlink(7), in this process's network namespace. */
#ifndef NETLINK_H
#define NETLINK_H

#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "bosun.h"

#define NETLINK_ANSWER 32768

struct netlink_request {
  struct nlmsghdr header;
  union {
    struct ifinfomsg link;
    struct ifaddrmsg address;
    struct rtmsg route;
    struct ndmsg neighbour;
  };
  char attributes[256];
};

typedef void netlink_seen(const struct nlmsghdr *message, void *object);

int netlink_open(void); /* -1 with errno */
void netlink_add(struct netlink_request *r, unsigned short type, const void *data, size_t size);
/* Sends one request and waits for the kernel's verdict: 0, or -1 with errno. */
int netlink_transact(int fd, struct nlmsghdr *request);
struct netlink_request netlink_link(unsigned index); /* a change of an interface */
int netlink_up(int fd, unsigned index, bool up);
/* Has `seen` see all that the request asks for. */
int netlink_dump(int fd, struct nlmsghdr *request, netlink_seen *seen, void *object);

#endif
