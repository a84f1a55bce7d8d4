/* Orders about a whole machine: its kernel, its clock, its devices. For virtual machines; each works as well where it is tested. */
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/random.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "orders.h"

#define NANOSECONDS 1000000000ull

/* The output of this order: its size comes once it is known. */
static size_t begin_output(struct run *run, uint32_t flags)
{
  struct buffer *out = &run->report.outputs;
  buffer_u32(out, run->index);
  buffer_u32(out, flags);
  buffer_u32(out, 0);
  return out->size;
}

static void end_output(struct run *run, size_t begun)
{
  struct buffer *out = &run->report.outputs;
  uint32_t size = (uint32_t)(out->size - begun);
  memcpy(out->data + begun - sizeof size, &size, sizeof size);
}

int order_load_module(struct run *run, const struct order_load_module *o)
{
  int fd = open(o->path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = syscall(SYS_finit_module, fd, o->parameters, 0) < 0 && errno != EEXIST ? failed(&run->report, "finit_module %s", o->path) : 0;
  drop(fd);
  return result;
}

int order_set_clock(struct run *run, const struct order_set_clock *o)
{
  struct timespec time = {.tv_sec = (time_t)(o->time / NANOSECONDS), .tv_nsec = (long)(o->time % NANOSECONDS)};
  return clock_settime(CLOCK_REALTIME, &time) < 0 ? failed(&run->report, "clock_settime") : 0;
}

int order_reseed_rng(struct run *run, const struct order_reseed_rng *o)
{
  struct { int bits, size; uint8_t data[256]; } pool = {.bits = (int)o->data.size * 8, .size = (int)o->data.size};
  if (o->data.size < 1 || o->data.size > sizeof pool.data)
    return fail(&run->report, EINVAL, "a seed of %u bytes", o->data.size);
  memcpy(pool.data, o->data.data, o->data.size);
  int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open /dev/urandom");
  int result = ioctl(fd, RNDADDENTROPY, &pool) < 0 ? failed(&run->report, "RNDADDENTROPY") : 0;
  if (result == 0 && ioctl(fd, RNDRESEEDCRNG) < 0)
    result = failed(&run->report, "RNDRESEEDCRNG");
  drop(fd);
  return result;
}

static bool is_guest(void)
{
  char name[32] = "";
  int fd = open("/proc/1/comm", O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
  drop(fd);
  return size > 0 && strcmp(name, "bosun-guest\n") == 0;
}

/* A plan that went astray must not switch the host off. */
int order_power_off(struct run *run, const struct order_power_off *o)
{
  (void)o;
  if (!is_guest())
    return fail(&run->report, EPERM, "PID 1 is not bosun guest");
  return kill(1, SIGTERM) < 0 ? failed(&run->report, "signal PID 1") : 0;
}

int order_read_file(struct run *run, const struct order_read_file *o)
{
  int fd = open(o->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
    return failed(&run->report, "open %s", o->path);
  size_t begun = begin_output(run, fd < 0 ? OUTPUT_MISSING : 0);
  if (fd < 0)
    return 0;
  int result = append_file(&run->report.outputs, fd, o->max) < 0 ? failed(&run->report, "read %s", o->path) : 0;
  drop(fd);
  end_output(run, begun);
  return result;
}

int order_tap(struct run *run, const struct order_tap *o)
{
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  if (strlen(o->name) >= sizeof request.ifr_name)
    return fail(&run->report, ENAMETOOLONG, "tap %s", o->name);
  strcpy(request.ifr_name, o->name);
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open /dev/net/tun");
  if (ioctl(fd, TUNSETIFF, &request) < 0) {
    drop(fd);
    return failed(&run->report, "TUNSETIFF %s", o->name);
  }
  return slot_put(run, o->slot, fd);
}

#ifdef __x86_64__
static uint64_t nanoseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

struct reading { uint64_t time, ticks; };

/* Of several the one that was interrupted least: its two looks at the clock are closest. */
static struct reading read_tsc(void)
{
  struct reading best = {0};
  for (uint64_t shortest = UINT64_MAX, i = 0; i < 16; i++) {
    uint64_t before = nanoseconds(), ticks = __builtin_ia32_rdtsc(), after = nanoseconds();
    if (after - before < shortest) {
      shortest = after - before;
      best = (struct reading){before + shortest / 2, ticks};
    }
  }
  return best;
}

int order_tsc_rate(struct run *run, const struct order_tsc_rate *o)
{
  (void)o;
  struct reading first = read_tsc();
  const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
  nanosleep(&pause, NULL);
  struct reading last = read_tsc();
  /* 20 ms are 10^8 ticks at most: times 10^6 they fit. */
  const uint64_t khz = (last.ticks - first.ticks) * 1000000 / (last.time - first.time);
  size_t begun = begin_output(run, 0);
  buffer_append(&run->report.outputs, &khz, sizeof khz);
  end_output(run, begun);
  return 0;
}
#else
int order_tsc_rate(struct run *run, const struct order_tsc_rate *o)
{
  (void)o;
  return fail(&run->report, ENOTSUP, "this processor has no time stamp counter");
}
#endif

int order_file_system(struct run *run, const struct order_file_system *o)
{
  struct statvfs fs;
  if (statvfs(o->path, &fs) < 0)
    return failed(&run->report, "statvfs %s", o->path);
  const uint64_t numbers[] = {fs.f_frsize, fs.f_blocks, fs.f_bfree, fs.f_bavail, fs.f_files, fs.f_ffree};
  size_t begun = begin_output(run, 0);
  buffer_append(&run->report.outputs, numbers, sizeof numbers);
  end_output(run, begun);
  return 0;
}

/* --- devices that come -------------------------------------------------------------------------------------------------- */

struct pattern { const char *text; glob_t found; bool failed; };

static bool matches(void *object)
{
  struct pattern *pattern = object;
  int result = glob(pattern->text, 0, NULL, &pattern->found);
  pattern->failed = result != 0 && result != GLOB_NOMATCH;
  return result != GLOB_NOMATCH;
}

int order_find(struct run *run, const struct order_find *o)
{
  struct pattern pattern = {.text = o->pattern};
  bool found = o->timeout_ms ? uevent_wait(matches, &pattern, (int)o->timeout_ms) : matches(&pattern);
  if (pattern.failed)
    return fail(&run->report, EIO, "look for %s", o->pattern);
  if (!found && o->timeout_ms)
    return failed(&run->report, "wait for %s", o->pattern);
  size_t begun = begin_output(run, found ? 0 : OUTPUT_MISSING);
  for (size_t i = 0; found && i < pattern.found.gl_pathc; i++)
    buffer_append(&run->report.outputs, pattern.found.gl_pathv[i], strlen(pattern.found.gl_pathv[i]) + 1);
  end_output(run, begun);
  if (found)
    globfree(&pattern.found);
  return 0;
}

/* One that goes meanwhile, as a process's descriptors do, is left out. */
int order_links(struct run *run, const struct order_links *o)
{
  char target[PATH_MAX];
  struct pattern pattern = {.text = o->pattern};
  bool found = matches(&pattern);
  if (pattern.failed)
    return fail(&run->report, EIO, "look for %s", o->pattern);
  size_t begun = begin_output(run, 0);
  for (size_t i = 0; found && i < pattern.found.gl_pathc; i++) {
    ssize_t size = readlink(pattern.found.gl_pathv[i], target, sizeof target - 1);
    if (size < 0)
      continue;
    target[size] = 0;
    buffer_append(&run->report.outputs, target, (size_t)size + 1);
  }
  end_output(run, begun);
  if (found)
    globfree(&pattern.found);
  return 0;
}

/* --- processors and memory ---------------------------------------------------------------------------------------------- */

static bool reads(const char *path, const char *word)
{
  char text[32];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  drop(fd);
  if (size < 0)
    return false;
  text[size] = 0;
  text[strcspn(text, "\n")] = 0;
  return strcmp(text, word) == 0;
}

/* Writes `wanted` to as many of the files as read `now`, at most `most` of them; how many, or -1 with report. */
static int set_all(struct run *run, const char *files, const char *now, const char *wanted, uint32_t most, uint32_t *count)
{
  struct pattern all = {.text = files};
  if (!matches(&all) || all.failed)
    return 0;
  int result = 0;
  for (size_t i = 0; result == 0 && i < all.found.gl_pathc && *count < most; i++) {
    const char *path = all.found.gl_pathv[i];
    if (!reads(path, now))
      continue;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, wanted, strlen(wanted)) < 0)
      result = failed(&run->report, "write %s to %s", wanted, path);
    else
      ++*count;
    drop(fd);
  }
  globfree(&all.found);
  return result;
}

int order_online(struct run *run, const struct order_online *o)
{
  uint32_t cpus = 0, blocks = 0;
  if (set_all(run, "/sys/devices/system/cpu/cpu[0-9]*/online", "0", "1", o->cpus, &cpus) < 0 ||
      set_all(run, "/sys/devices/system/memory/memory[0-9]*/state", "offline", o->movable ? "online_movable" : "online", o->memory, &blocks) < 0)
    return -1;
  size_t begun = begin_output(run, 0);
  buffer_u32(&run->report.outputs, cpus);
  buffer_u32(&run->report.outputs, blocks);
  end_output(run, begun);
  return 0;
}
