/* The lines by which a stream through a relay is opened: CONNECT, PATH and their answers. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "relay.h"

int line_read(struct line *line, int fd)
{
  char *end = memchr(line->text, '\n', line->size);
  if (!end) {
    if (line->size == sizeof line->text)
      return -1;
    ssize_t n = read(fd, line->text + line->size, sizeof line->text - line->size);
    if (n <= 0)
      return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    line->size += (size_t)n;
    end = memchr(line->text, '\n', line->size);
  }
  if (!end)
    return line->size == sizeof line->text ? -1 : 0;
  if (memchr(line->text, 0, (size_t)(end - line->text)))
    return -1;
  *end = 0;
  return 1;
}

void line_next(struct line *line)
{
  size_t used = strlen(line->text) + 1;
  line->size -= used;
  memmove(line->text, line->text + used, line->size);
}

static const struct { int err; const char *word; } errors[] = {
#define WORD(name) {name, #name},
  WORD(EACCES) WORD(EADDRNOTAVAIL) WORD(EAFNOSUPPORT) WORD(EAGAIN) WORD(ECONNREFUSED) WORD(ECONNRESET) WORD(EHOSTUNREACH)
  WORD(EINVAL) WORD(EIO) WORD(ELOOP) WORD(EMFILE) WORD(ENAMETOOLONG) WORD(ENETDOWN) WORD(ENETUNREACH) WORD(ENFILE) WORD(ENODEV)
  WORD(ENOENT) WORD(ENOMEM) WORD(ENOTDIR) WORD(ENOTSOCK) WORD(EPERM) WORD(EPROTO) WORD(EPROTOTYPE) WORD(ETIMEDOUT)
#undef WORD
};

const char *errno_word(int err)
{
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].err == err)
      return errors[i].word;
  return "EIO";
}

int word_errno(const char *word)
{
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (strcmp(errors[i].word, word) == 0)
      return errors[i].err;
  return EIO;
}
