/* A virtual machine's memory as a file, copied without what is empty in it. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "orders.h"

#define PAGE 4096
/* Looked at in pieces: what is mapped of the source counts as this process's. */
#define PIECE (4 << 20)

static bool is_empty(const uint8_t *page) { return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0; }

static bool write_at(int fd, const uint8_t *data, size_t size, off_t at)
{
  while (size > 0) {
    ssize_t n = pwrite(fd, data, size, at);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    data += n, at += n, size -= (size_t)n;
  }
  return true;
}

/* Runs of pages with something in them. `at` and `size` are multiples of a page but at the file's end, whose rest reads as zeros. */
static bool copy_piece(int from, int to, off_t at, size_t size)
{
  uint8_t *data = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, from, at);
  if (data == MAP_FAILED)
    return false;
  bool copied = true;
  for (size_t begun = 0, page = 0; copied && page <= size; page += PAGE) {
    if (page < size && !is_empty(data + page))
      continue;
    if (page > begun)
      copied = write_at(to, data + begun, page - begun, at + (off_t)begun);
    begun = page + PAGE;
  }
  int err = errno;
  munmap(data, size);
  errno = err;
  return copied;
}

static bool copy_data(int from, int to, off_t size)
{
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0)
      return errno == ENXIO;
    off_t hole = lseek(from, data, SEEK_HOLE);
    if (hole < 0)
      return false;
    for (at = data - data % PAGE; at < hole; at += PIECE)
      if (!copy_piece(from, to, at, hole - at < PIECE ? (size_t)(hole - at) : PIECE))
        return false;
    at = hole;
  }
  return true;
}

static int create(const char *path)
{
  return *path ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : memfd_create("memory", MFD_CLOEXEC);
}

int order_copy_memory(struct run *run, const struct order_copy_memory *o)
{
  struct stat st;
  int from = open(o->from, O_RDONLY | O_CLOEXEC | O_NONBLOCK), to = -1, result = 0;
  if (from < 0 || fstat(from, &st) < 0) {
    result = failed(&run->report, "open %s", o->from);
  } else if (!S_ISREG(st.st_mode) || st.st_size % PAGE) {
    result = fail(&run->report, EINVAL, "%s is no file of whole pages", o->from);
  } else if ((to = create(o->to)) < 0 || ftruncate(to, st.st_size) < 0) {
    result = failed(&run->report, "create %s", o->to);
  } else if (!copy_data(from, to, st.st_size)) {
    result = failed(&run->report, "copy %s to %s", o->from, o->to);
  }
  drop(from);
  if (result == 0 && !*o->to)
    return slot_put(run, o->slot, to);
  drop(to);
  return result;
}

/* What of ours has a number that another is to have gets a higher one. */
#define ASIDE 64

static int make_way(struct run *run, int fd)
{
  int *own[] = {&run->sync_fd, &run->stdio[0], &run->stdio[1], &run->stdio[2], &run->empty_mounts, &run->aside_fd, &run->criu_fd};
  int *at = NULL;
  for (size_t i = 0; !at && i < sizeof own / sizeof *own; i++)
    at = *own[i] == fd ? own[i] : NULL;
  for (size_t i = 0; !at && i < SLOTS; i++)
    at = run->slots[i] == fd ? &run->slots[i] : NULL;
  if (!at)
    return fcntl(fd, F_GETFD) < 0 ? 0 : fail(&run->report, EBUSY, "descriptor %d", fd);
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, ASIDE);
  if (moved < 0)
    return failed(&run->report, "move descriptor %d", fd);
  *at = moved;
  drop(fd);
  return 0;
}

int order_hand_over(struct run *run, const struct order_hand_over *o)
{
  if (o->fd < 3 || o->fd >= ASIDE)
    return fail(&run->report, EINVAL, "descriptor %u is none of 3 to %d", o->fd, ASIDE - 1);
  if (slot_get(run, o->slot) < 0 || make_way(run, (int)o->fd) < 0)
    return -1;
  if (dup2(slot_get(run, o->slot), (int)o->fd) < 0)
    return failed(&run->report, "dup2 %u", o->fd);
  return 0;
}
