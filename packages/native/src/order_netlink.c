/* Messages of rtnetlink(7), made elsewhere: sent in the present network namespace one by one, each with the kernel's verdict. */
#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "orders.h"

/* The kernel's dumps come in parts of at most this (NLMSG_GOODSIZE and its doubles). */
#define ANSWER_ROOM 65536
#define MOST_OUTPUT (1 << 20)

static bool is_tolerated(const struct order_netlink *o, uint32_t error)
{
  for (uint32_t i = 0; i < o->tolerate.count; i++)
    if (u32s_at(&o->tolerate, i) == error)
      return true;
  return false;
}

static int send_message(struct run *run, int fd, const struct bytes *message, uint32_t number)
{
  struct nlmsghdr header;
  if (message->size < sizeof header)
    return fail(&run->report, EINVAL, "netlink message %u is shorter than its header", number);
  memcpy(&header, message->data, sizeof header);
  if (header.nlmsg_len != message->size)
    return fail(&run->report, EINVAL, "netlink message %u says that it has %u bytes, and has %u", number, header.nlmsg_len, message->size);
  header.nlmsg_seq = number + 1;
  header.nlmsg_pid = 0;
  /* A dump says by itself that it is done. */
  header.nlmsg_flags |= NLM_F_REQUEST | ((header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP ? 0 : NLM_F_ACK);
  struct iovec parts[] = {{&header, sizeof header}, {(void *)(uintptr_t)(message->data + sizeof header), message->size - sizeof header}};
  struct msghdr whole = {.msg_iov = parts, .msg_iovlen = 2};
  return sendmsg(fd, &whole, 0) < 0 ? failed(&run->report, "send netlink message %u", number) : 0;
}

/* 0: there is more to come; 1: that was all; -1: refused. */
static int take_answer(struct run *run, const struct order_netlink *o, const char *answer, size_t size, uint32_t number)
{
  for (const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)answer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
    if (h->nlmsg_seq != number + 1)
      continue;
    if (h->nlmsg_type == NLMSG_DONE)
      return 1;
    if (h->nlmsg_type == NLMSG_ERROR) {
      const struct nlmsgerr *verdict = NLMSG_DATA(h);
      uint32_t error = h->nlmsg_len < NLMSG_LENGTH(sizeof verdict->error) ? EPROTO : (uint32_t)-verdict->error;
      return error == 0 || is_tolerated(o, error) ? 1 : fail(&run->report, (int)error, "netlink message %u", number);
    }
    if (run->report.outputs.size + h->nlmsg_len > MOST_OUTPUT)
      return fail(&run->report, EMSGSIZE, "the answer to netlink message %u is larger than a mebibyte", number);
    static const char zeros[NLMSG_ALIGNTO];
    buffer_append(&run->report.outputs, h, h->nlmsg_len);
    buffer_append(&run->report.outputs, zeros, NLMSG_ALIGN(h->nlmsg_len) - h->nlmsg_len);
  }
  return 0;
}

static int hear(struct run *run, const struct order_netlink *o, int fd, uint32_t number)
{
  static char answer[ANSWER_ROOM] __attribute__((aligned(NLMSG_ALIGNTO)));
  for (int result = 0; result == 0;) {
    ssize_t size = recv(fd, answer, sizeof answer, 0);
    if (size < 0 && errno == EINTR)
      continue;
    if (size < 0)
      return failed(&run->report, "hear of netlink message %u", number);
    result = take_answer(run, o, answer, (size_t)size, number);
    if (result < 0)
      return -1;
  }
  return 0;
}

int order_netlink(struct run *run, const struct order_netlink *o)
{
  struct buffer *out = &run->report.outputs;
  struct blobs messages = o->messages;
  struct bytes message;
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), result = 0;
  if (fd < 0)
    return failed(&run->report, "netlink socket");
  buffer_u32(out, run->index);
  buffer_u32(out, 0);
  size_t length_at = out->size;
  buffer_u32(out, 0);
  for (uint32_t number = 0; result == 0 && blobs_next(&messages, &message); number++) {
    result = send_message(run, fd, &message, number);
    if (result == 0)
      result = hear(run, o, fd, number);
  }
  uint32_t length = (uint32_t)(out->size - length_at - sizeof length);
  memcpy(out->data + length_at, &length, sizeof length);
  drop(fd);
  return result;
}
