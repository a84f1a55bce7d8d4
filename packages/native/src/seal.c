/*
 * bosun runs from a sealed copy of itself in memory. What runs inside a container can reach its own /proc/self/exe, and a
 * container's process could write through it to the host's file (CVE-2019-5736): of a sealed copy there is nothing to write.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "orders.h"
#include "seal.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
/* Linux 6.3 and later: the mode's x bits cannot change either. */
#define SEAL_EXEC 0x0020

static bool is_sealed(int fd)
{
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & SEALS) == SEALS;
}

static int copy_sealed(struct report *report, int self)
{
  struct stat st;
  int copy = memfd_create("bosun", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (copy < 0 && errno == EINVAL)
    copy = memfd_create("bosun", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (copy < 0 || fstat(self, &st) < 0) {
    drop(copy);
    return failed(report, "memfd_create");
  }
  for (off_t done = 0; done < st.st_size;) {
    ssize_t size = sendfile(copy, self, NULL, (size_t)(st.st_size - done));
    if (size <= 0) {
      drop(copy);
      return failed(report, "copy /proc/self/exe");
    }
    done += size;
  }
  if (fchmod(copy, 0500) < 0 || (fcntl(copy, F_ADD_SEALS, SEALS | SEAL_EXEC) < 0 && fcntl(copy, F_ADD_SEALS, SEALS) < 0)) {
    drop(copy);
    return failed(report, "seal the copy of bosun");
  }
  return copy;
}

/* Where the kernel finds the command line and the environment: one after the other, in memory that copies of this process have too. */
static char *arguments_at;
static size_t arguments_size;

static void remember_arguments(char **arguments, char **environment)
{
  char **last = *environment ? environment : arguments;
  while (last[1])
    last++;
  arguments_at = arguments[0];
  arguments_size = (size_t)(*last + strlen(*last) + 1 - arguments[0]);
}

void forget_arguments(void)
{
  static const char name[] = "bosun";
  if (arguments_size < sizeof name)
    return;
  memset(arguments_at, 0, arguments_size);
  memcpy(arguments_at, name, sizeof name);
}

int seal_self(struct report *report, char **arguments, char **environment)
{
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (self < 0)
    return failed(report, "open /proc/self/exe");
  if (is_sealed(self)) {
    close(self);
    /* Started by descriptor, its name would be a number. */
    prctl(PR_SET_NAME, "bosun");
    remember_arguments(arguments, environment);
    return 0;
  }
  int copy = copy_sealed(report, self);
  close(self);
  if (copy < 0)
    return -1;
  syscall(SYS_execveat, copy, "", arguments, environment, AT_EMPTY_PATH);
  failed(report, "execveat of the sealed copy of bosun");
  drop(copy);
  return -1;
}
