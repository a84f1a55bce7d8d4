/*
 * A world for fuzz targets of whole processes: connections whose other end says what libFuzzer made up, standard streams that lead
 * nowhere, and an end of the process that is none. What is tried is included behind this, so that its system calls are these.
 *
 * An input is: how many bytes a read gives, options, then what each connection hears: a u16 of how many bytes, and they; by an option
 * the same over and over, until it has been read so often that whoever keeps it all is found out.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "orders.h"
#include "procs.h"
#include "relay.h"
#include "stand_in.h"

enum { FLAG_TERMINAL = 1, FLAG_INPUT = 2, FLAG_BUSY = 4, FLAG_SIGNALS = 8, FLAG_OTHER = 16, FLAG_OOM = 32, FLAG_ENDLESS = 64 };

#define CONNECTIONS 8
#define FIRST_CONNECTION 100
#define SIGNALS_FD 90
#define FILE_FD 91

static struct { const uint8_t *begin, *at, *end; bool closed; } heard[CONNECTIONS];
static int opened_count;
static size_t step, typed, rounds;
static unsigned options, turn, signals_left;
static jmp_buf ended;
static struct run world;
static uint8_t world_scratch[SCRATCH_SIZE];

/* --- memory: what the process would have taken along ------------------------------------------------------------------------ */

static void *blocks[4096];
static size_t block_count;

static void *kept(void *block)
{
  if (block_count == sizeof blocks / sizeof *blocks)
    abort();
  return blocks[block_count++] = block;
}

static void forget(const void *block)
{
  for (size_t i = block_count; block && i-- > 0;)
    if (blocks[i] == block) {
      blocks[i] = blocks[--block_count];
      return;
    }
}

__attribute__((unused)) static void *world_malloc(size_t size) { return kept(malloc(size)); }
__attribute__((unused)) static void *world_calloc(size_t count, size_t size) { return kept(calloc(count, size)); }

static void world_free(void *block)
{
  forget(block);
  free(block);
}

/* No peer may make this process keep so much. */
#define MOST (1u << 20)

static void *world_realloc(void *block, size_t size)
{
  if (size > MOST)
    abort();
  forget(block);
  return kept(realloc(block, size));
}

/* --- system calls ----------------------------------------------------------------------------------------------------------- */

#define ROUNDS 2048

static bool is_connection(int fd) { return fd >= FIRST_CONNECTION && fd < FIRST_CONNECTION + opened_count; }

static ssize_t hear(int fd, void *data, size_t size)
{
  const uint8_t **at = &heard[fd - FIRST_CONNECTION].at;
  size_t left = (size_t)(heard[fd - FIRST_CONNECTION].end - *at);
  if (heard[fd - FIRST_CONNECTION].closed)
    abort();
  if (!left && options & FLAG_ENDLESS && rounds) {
    rounds--;
    *at = heard[fd - FIRST_CONNECTION].begin;
    left = (size_t)(heard[fd - FIRST_CONNECTION].end - *at);
  }
  size_t n = size < left ? size : left;
  if (n > step)
    n = step;
  if (n)
    memcpy(data, *at, n);
  *at += n;
  return (ssize_t)n;
}

static ssize_t world_read(int fd, void *data, size_t size)
{
  if (is_connection(fd))
    return hear(fd, data, size);
  if (fd == SIGNALS_FD && signals_left && size >= sizeof(struct signalfd_siginfo)) {
    struct signalfd_siginfo info = {.ssi_signo = signals_left-- % 2 ? SIGTERM : SIGWINCH};
    memcpy(data, &info, sizeof info);
    return sizeof info;
  }
  if (fd == SIGNALS_FD) {
    errno = EAGAIN;
    return -1;
  }
  size_t n = size < typed ? size : typed;
  memset(data, 'x', n);
  typed -= n;
  return (ssize_t)n;
}

static ssize_t world_recv(int fd, void *data, size_t size, int how)
{
  (void)how;
  return world_read(fd, data, size);
}

static volatile uint8_t world_sink;

static ssize_t world_write(int fd, const void *data, size_t size)
{
  for (size_t i = 0; i < size; i++)
    world_sink ^= ((const uint8_t *)data)[i];
  if (is_connection(fd) || !(options & FLAG_BUSY) || turn++ % 3)
    return (ssize_t)(options & FLAG_BUSY && size > 1 ? size / 2 : size);
  errno = turn % 2 ? EAGAIN : EPIPE;
  return -1;
}

static ssize_t world_send(int fd, const void *data, size_t size, int how)
{
  (void)how;
  return world_write(fd, data, size);
}

static int world_poll(struct pollfd *all, nfds_t count, int timeout)
{
  (void)timeout;
  for (nfds_t i = 0; i < count; i++) {
    bool silent = all[i].fd < 0 || (all[i].fd == SIGNALS_FD && !signals_left);
    all[i].revents = silent ? 0 : all[i].events;
  }
  return 1;
}

static int world_close(int fd)
{
  if (is_connection(fd))
    heard[fd - FIRST_CONNECTION].closed = true;
  return 0;
}

static _Noreturn void world_exit(int status)
{
  (void)status;
  longjmp(ended, 1);
}

static int world_ioctl(int fd, unsigned long request, struct winsize *size)
{
  (void)fd;
  (void)request;
  *size = (struct winsize){.ws_row = 24, .ws_col = 80};
  return 0;
}

static int world_zero(int any, ...) { return any * 0; }

int unix_connect(const char *path)
{
  (void)path;
  if (opened_count == CONNECTIONS) {
    errno = ECONNREFUSED;
    return -1;
  }
  return FIRST_CONNECTION + opened_count++;
}

/* --- bosun's own, as far as it is about this process ------------------------------------------------------------------------ */

uint8_t *scratch = world_scratch;
uint64_t now_ms(void) { return 0; }
void loop_until(uint64_t at) { (void)at; }
int settle(struct run *run) { return run->sync_fd * 0; }
int stand_in_raw(struct run *run) { return run->sync_fd * 0; }
int stand_in_signals(void) { return SIGNALS_FD; }
bool fd_nonblock(int fd) { return fd >= 0; }
int word_errno(const char *word) { return strcmp(word, "EAGAIN") == 0 ? EAGAIN : EIO; }

void fd_close(int *fd)
{
  if (*fd >= 0)
    world_close(*fd);
  *fd = -1;
}

void drop(int fd) { fd_close(&fd); }

bool write_all(int fd, const void *data, size_t size)
{
  world_write(fd, data, size);
  return true;
}

/* --- an input --------------------------------------------------------------------------------------------------------------- */

static void world_begin(const uint8_t *data, size_t size)
{
  const uint8_t *at = data + 2, *end = data + size;
  step = data[0] < 128 ? data[0] + 1u : 4096;
  rounds = ROUNDS;
  options = data[1];
  opened_count = 0;
  turn = 0;
  typed = options & FLAG_INPUT ? 3 : 0;
  signals_left = options & FLAG_SIGNALS ? 2 : 0;
  for (int i = 0; i < CONNECTIONS; i++) {
    size_t length = end - at >= 2 ? (size_t)(at[0] | at[1] << 8) : 0;
    at += end - at >= 2 ? 2 : 0;
    if (length > (size_t)(end - at))
      length = (size_t)(end - at);
    heard[i].begin = heard[i].at = at;
    heard[i].end = at += length;
    heard[i].closed = false;
  }
  world.sync_fd = 5;
  world.report = (struct report){.order = NO_ORDER};
}

static void world_end(void)
{
  while (block_count)
    free(blocks[--block_count]);
}

#define malloc world_malloc
#define calloc world_calloc
#define realloc world_realloc
#define free world_free
#define read world_read
#define recv world_recv
#define write(fd, data, size) world_write(fd, data, size)
#define send world_send
#define pwrite(fd, data, size, offset) world_write(fd, data, size)
#define poll world_poll
#define close world_close
#define shutdown(fd, how) world_zero(fd)
#define open(path, how) FILE_FD
#define ioctl world_ioctl
#define prctl world_zero
#define signal(number, handler) ((void)0)
#define sigprocmask(how, set, old) ((void)0)
#define signalfd(fd, set, how) SIGNALS_FD
#define _exit world_exit
