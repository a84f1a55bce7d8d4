/* The loop: poll(2) over a set that is rebuilt for every turn. A few dozen entries; nothing can be left registered by mistake. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "procs.h"

#define IDLE_MS 1000
#define STACK_MARGIN 1024
#define STACK_RELEASED 65536

struct entry { loop_handler handler; void *object; };

static struct pollfd *polled;
static struct entry *entries;
static size_t count, room;
static uint64_t wake;
static bool again, active, quiet;
static uint64_t active_at;
static volatile sig_atomic_t child_changed, stop_signal;

/* Mapped, not in .bss, whose few small objects then share a page. */
uint8_t *scratch;

void memory_release(void)
{
  madvise(scratch, SCRATCH_SIZE, MADV_DONTNEED);
  /* Below this frame the stack holds nothing; pages that are not mapped make the call fail after the others are done. */
  uintptr_t end = ((uintptr_t)__builtin_frame_address(0) - STACK_MARGIN) & ~(uintptr_t)4095;
  madvise((void *)(end - STACK_RELEASED), STACK_RELEASED, MADV_DONTNEED);
}

static void on_signal(int signal)
{
  if (signal == SIGCHLD)
    child_changed = 1;
  else
    stop_signal = signal;
}

/* The signals are blocked but while ppoll(2) waits, so that a flag can never be set between its test and the wait. */
void loop_start(void)
{
  if (!scratch)
    scratch = mmap(NULL, SCRATCH_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (scratch == MAP_FAILED)
    _exit(70);
  count = 0;
  wake = 0;
  child_changed = 0;
  stop_signal = 0;
  active = true;
  active_at = now_ms();
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  struct sigaction action = {.sa_handler = on_signal};
  sigfillset(&action.sa_mask);
  sigaction(SIGCHLD, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  action.sa_handler = SIG_IGN;
  static const int ignored[] = {SIGPIPE, SIGHUP, SIGXFSZ, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTTOU, SIGTTIN, SIGTSTP};
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
    sigaction(ignored[i], &action, NULL);
}

void loop_on(int fd, short events, loop_handler handler, void *object)
{
  if (fd < 0)
    return;
  if (count == room) {
    room = room ? room * 2 : 16;
    polled = realloc(polled, room * sizeof *polled);
    entries = realloc(entries, room * sizeof *entries);
    if (!polled || !entries)
      _exit(70);
  }
  polled[count] = (struct pollfd){.fd = fd, .events = events};
  entries[count++] = (struct entry){handler, object};
}

void loop_until(uint64_t at)
{
  if (at && (!wake || at < wake))
    wake = at;
}

void loop_again(void)
{
  again = true;
}

void loop_turn(void)
{
  struct timespec wait = {0}, *limit = NULL;
  if (wake || again) {
    uint64_t now = now_ms(), ms = again || wake <= now ? 0 : wake - now;
    wait = (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    limit = &wait;
  }
  wake = 0;
  again = false;
  sigset_t none;
  sigemptyset(&none);
  int ready = ppoll(polled, count, limit, &none);
  size_t handled = count;
  count = 0;
  quiet = ready == 0;
  if (ready > 0) {
    active = true;
    active_at = now_ms();
  }
  for (size_t i = 0; ready > 0 && i < handled; i++) {
    if (polled[i].revents) {
      ready--;
      entries[i].handler(entries[i].object, polled[i].revents);
    }
  }
}

bool loop_quiet(void)
{
  return quiet;
}

bool loop_idle(void)
{
  if (!active)
    return false;
  if (now_ms() - active_at < IDLE_MS) {
    loop_until(active_at + IDLE_MS);
    return false;
  }
  active = false;
  return true;
}

bool loop_children(void)
{
  bool changed = child_changed;
  child_changed = 0;
  return changed;
}

int loop_stop_signal(void)
{
  return stop_signal;
}

uint64_t now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t now_ns(void)
{
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
