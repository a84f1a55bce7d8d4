/*
 * The near-empty mount namespace that containers start from: cloning a mount namespace costs by the number of its mounts, and a
 * busy node has thousands.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "procs.h"

static int make_directory(struct report *r, const char *path)
{
  return mkdir(path, 0755) < 0 ? failed(r, "mkdir %s in the near-empty mount namespace", path) : 0;
}

static int furnish(struct report *r)
{
  const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (unshare(CLONE_NEWNS) < 0)
    return failed(r, "unshare the mount namespace (root with CAP_SYS_ADMIN is needed)");
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
    return failed(r, "make / private");
  /* /proc is the one directory that is sure to exist; what is below it here is only hidden, and soon detached. */
  if (mount("tmpfs", "/proc", "tmpfs", quiet, "mode=0755,size=64k,nr_inodes=16") < 0)
    return failed(r, "mount a tmpfs");
  if (chdir("/proc") < 0)
    return failed(r, "chdir to the tmpfs");
  if (make_directory(r, "rootfs") < 0 || make_directory(r, "proc") < 0 || make_directory(r, "sys") < 0)
    return -1;
  if (mount("proc", "proc", "proc", quiet, NULL) < 0)
    return failed(r, "mount proc in the near-empty mount namespace");
  /* Writable: a user namespace may mount its own sysfs only as freely as one that it can see is mounted. */
  if (mount("sysfs", "sys", "sysfs", quiet, NULL) < 0)
    return failed(r, "mount sysfs in the near-empty mount namespace");
  if (syscall(SYS_pivot_root, ".", ".") < 0)
    return failed(r, "pivot_root into the near-empty mount namespace");
  if (umount2(".", MNT_DETACH) < 0)
    return failed(r, "detach the host's root");
  if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | quiet, NULL) < 0)
    return failed(r, "make the near-empty root read-only");
  return 0;
}

/* Sends the outcome, then waits until the parent has opened the namespace (or is gone). */
static void furnisher(int fd)
{
  struct report report = {.order = NO_ORDER};
  child_clean("bosun-mounts", &fd, 1);
  furnish(&report);
  if (write(fd, &report, sizeof report) == (ssize_t)sizeof report)
    (void)!read(fd, &report, 1);
  _exit(0);
}

int empty_mounts_make(struct report *report)
{
  int pair[2], ns = -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return failed(report, "socketpair");
  pid_t pid = fork();
  if (pid == 0)
    furnisher(pair[1]);
  close(pair[1]);
  struct report answer = {.err = EIO};
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
  if (pid < 0)
    failed(report, "fork");
  else if (read(pair[0], &answer, sizeof answer) != (ssize_t)sizeof answer)
    fail(report, EIO, "the maker of the near-empty mount namespace ended");
  else if (answer.err)
    fail(report, (int)answer.err, "%s", answer.detail);
  else if ((ns = open(path, O_RDONLY | O_CLOEXEC)) < 0)
    failed(report, "open %s", path);
  close(pair[0]);
  if (pid > 0)
    waitpid(pid, NULL, 0);
  return ns;
}
