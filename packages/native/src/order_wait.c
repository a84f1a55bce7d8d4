/* How a container's process waits without anybody beside it: at a FIFO, as it is created, for whoever starts it. */
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "orders.h"
#include "run.h"

static void end_by(int signal_number) { _exit(128 + signal_number); }

/* The first process of a PID namespace ignores what it has no handler for; one that only waits is to be ended by `kill`. */
static void be_killable(void)
{
  static const int ending[] = {SIGHUP, SIGINT, SIGQUIT, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2};
  struct sigaction action = {.sa_handler = end_by};
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++)
    sigaction(ending[i], &action, NULL);
}

int order_wait_fifo(struct run *run, const struct order_wait_fifo *o)
{
  static const uint16_t listener[] = {ORDER_SECCOMP_LISTENER};
  const struct buffer plan = {.data = (uint8_t *)(uintptr_t)run->plan, .size = run->size};
  int directory = slot_get(run, o->slot), fd;
  ssize_t size = -1;
  if (directory < 0)
    return -1;
  /* What was set aside has nothing more to do, unless a filter's listener is to come. */
  if (!plan_has(&plan, listener, 1)) {
    drop(run->aside_fd);
    run->aside_fd = -1;
  }
  be_killable();
  /* Nothing of the host's stays open while this waits, but the directory of the FIFO. */
  for (uint32_t i = 0; i < SLOTS; i++)
    if (i != o->slot && run->slots[i] >= 0) {
      drop(run->slots[i]);
      run->slots[i] = -1;
    }
  drop(run->empty_mounts);
  run->empty_mounts = -1;
  /* Last: with this the creation has succeeded, and whoever looks sees a process that is ready. */
  run->let_go = true;
  drop(run->sync_fd);
  run->sync_fd = -1;
  do
    fd = openat(directory, o->name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  if (fd < 0)
    return failed(&run->report, "open %s", o->name);
  do
    size = write(fd, "0", 1);
  while (size < 0 && errno == EINTR);
  drop(fd);
  return size == 1 ? 0 : failed(&run->report, "write %s", o->name);
}

int order_make_fifo(struct run *run, const struct order_make_fifo *o)
{
  if (mkfifo(o->path, 0) < 0)
    return failed(&run->report, "mkfifo %s", o->path);
  if (lchown(o->path, o->uid, o->gid) < 0)
    return failed(&run->report, "chown %s", o->path);
  /* Not by the umask, and after the owner, who may not keep what was given to somebody else. */
  if (chmod(o->path, o->mode) < 0)
    return failed(&run->report, "chmod %s", o->path);
  return 0;
}
