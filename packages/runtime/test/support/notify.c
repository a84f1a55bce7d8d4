/* sd_notify(3)'s two ends: `notify send TEXT` to $NOTIFY_SOCKET, `notify receive PATH` prints what comes until BARRIER=1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int open_socket(const char *path, int server)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  if ((server ? bind : connect)(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    perror(path);
    exit(1);
  }
  return fd;
}

static int receive(const char *path)
{
  int fd = open_socket(path, 1);
  char text[4096], room[CMSG_SPACE(sizeof(int))];
  puts("listening");
  for (;;) {
    struct iovec part = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    fflush(stdout);
    ssize_t size = recvmsg(fd, &message, 0);
    if (size < 0)
      return 1;
    text[size] = 0;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    printf("%s%s\n", strtok(text, "\n"), header ? " with a descriptor" : "");
    if (strncmp(text, "BARRIER=1", 9) == 0)
      return 0; /* which closes the descriptor */
  }
}

int main(int count, char **arguments)
{
  if (count == 3 && strcmp(arguments[1], "receive") == 0)
    return receive(arguments[2]);
  if (count != 3 || !getenv("NOTIFY_SOCKET"))
    return 2;
  int fd = open_socket(getenv("NOTIFY_SOCKET"), 0);
  return send(fd, arguments[2], strlen(arguments[2]), 0) < 0;
}
