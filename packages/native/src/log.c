/*
 * The CRI log: "TIME STREAM TAG CONTENT\n", as the kubelet reads it. TAG is P where the line goes on in the next entry (it was
 * longer than max_line, or its stream ended within it), F otherwise. The file holds whole entries only: what a short write has
 * left of one is taken back, so that rotation never splits one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "procs.h"

#define RETRY_MS 200
#define PREFIX_MAX 48

static const char *const stream_names[] = {"stdout", "stderr"};

static int open_file(const char *path)
{
  /* O_NONBLOCK: a FIFO in the file's place must not stop the monitor. */
  return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
}

int log_open(struct log *log, const char *path, uint32_t max_line)
{
  *log = (struct log){.fd = -1, .max_line = max_line ? max_line : 16384};
  if (!*path)
    return 0;
  log->path = strdup(path);
  if (!log->path)
    _exit(70);
  log->fd = open_file(path);
  return log->fd < 0 ? -1 : 0;
}

int log_reopen(struct log *log)
{
  if (!log->path)
    return 0;
  int fd = open_file(log->path);
  if (fd < 0)
    return -1;
  close(log->fd);
  log->fd = fd;
  log->retry = 0;
  log_flush(log);
  return 0;
}

/* The entry's beginning up to its tag, which is the last but one byte. */
static size_t make_prefix(char prefix[PREFIX_MAX], int stream)
{
  uint64_t now = now_ns();
  time_t seconds = (time_t)(now / 1000000000);
  struct tm t;
  gmtime_r(&seconds, &t);
  return (size_t)snprintf(prefix, PREFIX_MAX, "%04u-%02u-%02uT%02u:%02u:%02u.%09uZ %s F ", (unsigned)t.tm_year % 8000 + 1900,
    (unsigned)(t.tm_mon + 1) % 100, (unsigned)t.tm_mday % 100, (unsigned)t.tm_hour % 100, (unsigned)t.tm_min % 100,
    (unsigned)t.tm_sec % 100, (unsigned)(now % 1000000000), stream_names[stream]);
}

static void append_entry(struct log *log, char *prefix, size_t prefix_size, char tag, const uint8_t *data, size_t size)
{
  prefix[prefix_size - 2] = tag;
  buffer_append(&log->out, prefix, prefix_size);
  buffer_append(&log->out, data, size);
  buffer_append(&log->out, "\n", 1);
}

/* `partial` never holds more than max_line: one more byte decides that it is an entry of its own. */
static void append_line(struct log *log, int stream, char *prefix, size_t prefix_size, const uint8_t *data, size_t size, bool whole)
{
  struct buffer *partial = &log->partial[stream];
  while (partial->size + size > log->max_line) {
    size_t take = log->max_line - partial->size;
    if (partial->size) {
      buffer_append(partial, data, take);
      append_entry(log, prefix, prefix_size, 'P', partial->data, partial->size);
      partial->size = 0;
    } else {
      append_entry(log, prefix, prefix_size, 'P', data, take);
    }
    data += take;
    size -= take;
  }
  if (!whole || partial->size)
    buffer_append(partial, data, size);
  if (!whole)
    return;
  if (partial->size)
    append_entry(log, prefix, prefix_size, 'F', partial->data, partial->size);
  else
    append_entry(log, prefix, prefix_size, 'F', data, size);
  partial->size = 0;
}

void log_append(struct log *log, int stream, const uint8_t *data, size_t size)
{
  if (log->fd < 0)
    return;
  char prefix[PREFIX_MAX];
  size_t prefix_size = make_prefix(prefix, stream);
  while (size) {
    const uint8_t *newline = memchr(data, '\n', size);
    size_t line = newline ? (size_t)(newline - data) : size;
    append_line(log, stream, prefix, prefix_size, data, line, newline != NULL);
    size_t used = line + (newline != NULL);
    data += used;
    size -= used;
  }
  if (!log->retry)
    log_flush(log);
}

void log_end_stream(struct log *log, int stream)
{
  struct buffer *partial = &log->partial[stream];
  if (partial->size) {
    char prefix[PREFIX_MAX];
    size_t prefix_size = make_prefix(prefix, stream);
    append_entry(log, prefix, prefix_size, 'P', partial->data, partial->size);
    log_flush(log);
  }
  buffer_free(partial);
}

/* How much of the first `written` bytes stays in the file: whole entries, if the rest can be taken back. */
static size_t keep_whole_entries(struct log *log, size_t written)
{
  size_t whole = written;
  while (whole && log->out.data[whole - 1] != '\n')
    whole--;
  off_t end = lseek(log->fd, 0, SEEK_CUR); /* with O_APPEND, where the last write ended */
  if (whole == written || end < 0 || ftruncate(log->fd, end - (off_t)(written - whole)) < 0)
    return written;
  return whole;
}

/* The file becomes FILE.1; where it cannot, it begins anew. */
static void begin_another(struct log *log)
{
  char old[PATH_MAX];
  log->written = 0;
  if (snprintf(old, sizeof old, "%s.1", log->path) >= (int)sizeof old || rename(log->path, old) < 0 || log_reopen(log) < 0)
    (void)!ftruncate(log->fd, 0);
}

static void count_written(struct log *log, size_t size)
{
  log->written += size;
  if (log->bound && log->written >= log->bound && !log->out.size)
    begin_another(log);
}

void log_flush(struct log *log)
{
  log->retry = 0;
  while (log->out.size) {
    ssize_t n = write(log->fd, log->out.data, log->out.size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n == (ssize_t)log->out.size) {
      log->out.size = 0;
      return count_written(log, (size_t)n);
    }
    /* A short write is a full disk on the next try: wait at once, with the file whole. */
    if (n > 0) {
      size_t kept = keep_whole_entries(log, (size_t)n);
      buffer_consume(&log->out, kept);
      log->written += kept;
    }
    if (log->out.size)
      log->retry = now_ms() + RETRY_MS;
    return;
  }
}

void log_give_up(struct log *log)
{
  log->lost += log->out.size + log->partial[0].size + log->partial[1].size;
  buffer_free(&log->out);
  buffer_free(&log->partial[0]);
  buffer_free(&log->partial[1]);
  log->retry = 0;
}

/* An unfinished line may wait for hours; it keeps no more than it needs. */
static void trim(struct buffer *b)
{
  uint8_t *data = b->size ? realloc(b->data, b->size) : NULL;
  if (data) {
    b->data = data;
    b->room = b->size;
  } else if (!b->size) {
    buffer_free(b);
  }
}

void log_idle(struct log *log)
{
  trim(&log->out);
  trim(&log->partial[0]);
  trim(&log->partial[1]);
}
