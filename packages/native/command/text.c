/* Small files, and what goes to standard output. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

bool join(char *path, const char *directory, const char *name)
{
  return (size_t)snprintf(path, PATH_ROOM, "%s/%s", directory, name) < PATH_ROOM;
}

ssize_t read_small(int directory, const char *name, char *buffer, size_t room)
{
  int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  size_t size = 0;
  ssize_t got;
  while ((got = read(fd, buffer + size, room - 1 - size)) > 0)
    size += (size_t)got;
  int err = errno;
  close(fd);
  errno = got < 0 ? err : 0;
  buffer[size] = 0;
  return got < 0 ? -1 : (ssize_t)size;
}

bool write_text(int directory, const char *name, const char *text)
{
  int fd = openat(directory, name, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  ssize_t sent = write(fd, text, strlen(text));
  int err = errno;
  close(fd);
  errno = err;
  return sent == (ssize_t)strlen(text);
}

static char *output;
static size_t output_size, output_room;

static void put_bytes(const char *text, size_t size)
{
  if (output_room - output_size < size) {
    output_room = (output_room + size) * 2;
    output = realloc(output, output_room);
    if (!output)
      abort();
  }
  memcpy(output + output_size, text, size);
  output_size += size;
}

void put(const char *text) { put_bytes(text, strlen(text)); }

void put_number(uint64_t number)
{
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)number);
  put(text);
}

void put_json(const char *text)
{
  static const char escaped[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
  put("\"");
  for (const char *at = text; *at; at++) {
    const char *found = strchr(escaped, *at);
    char code[8];
    if (found)
      snprintf(code, sizeof code, "\\%c", letters[found - escaped]);
    else if ((unsigned char)*at < 0x20)
      snprintf(code, sizeof code, "\\u%04x", (unsigned)*at);
    else
      snprintf(code, sizeof code, "%c", *at);
    put(code);
  }
  put("\"");
}

int put_end(void)
{
  for (size_t sent = 0; sent < output_size;) {
    ssize_t size = write(1, output + sent, output_size - sent);
    if (size < 0 && errno != EINTR && errno != EAGAIN) {
      fprintf(stderr, "berth-runc: write to standard output: %s\n", strerror(errno));
      return 1;
    }
    sent += size > 0 ? (size_t)size : 0;
  }
  return 0;
}
