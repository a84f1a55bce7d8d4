/* Requests to rtnetlink(7): built, sent, and the kernel's verdict. */
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include "netlink.h"

int netlink_open(void)
{
  return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

void netlink_add(struct netlink_request *r, unsigned short type, const void *data, size_t size)
{
  struct rtattr *attribute = (struct rtattr *)(void *)((char *)r + NLMSG_ALIGN(r->header.nlmsg_len));
  attribute->rta_type = type;
  attribute->rta_len = (unsigned short)RTA_LENGTH(size);
  memcpy(RTA_DATA(attribute), data, size);
  r->header.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len));
}

int netlink_transact(int fd, struct nlmsghdr *request)
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

struct netlink_request netlink_link(unsigned index)
{
  return (struct netlink_request){
    .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_NEWLINK},
    .link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index},
  };
}

int netlink_up(int fd, unsigned index, bool up)
{
  struct netlink_request r = netlink_link(index);
  r.link.ifi_change = IFF_UP;
  r.link.ifi_flags = up ? IFF_UP : 0;
  return netlink_transact(fd, &r.header);
}

int netlink_dump(int fd, struct nlmsghdr *request, netlink_seen *seen, void *object)
{
  static char answer[NETLINK_ANSWER] APART __attribute__((aligned(NLMSG_ALIGNTO)));
  request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_DUMP;
  if (send(fd, request, request->nlmsg_len, 0) < 0)
    return -1;
  for (bool done = false; !done;) {
    ssize_t size = recv(fd, answer, sizeof answer, 0);
    if (size < 0 && errno == EINTR)
      continue;
    if (size < 0)
      return -1;
    size_t left = (size_t)size;
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      done = done || h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR;
      if (!done)
        seen(h, object);
    }
  }
  return 0;
}
