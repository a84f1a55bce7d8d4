/* Orders that make, join and pin namespaces, and that set what belongs to one. */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "orders.h"

#define JOIN_SESSION_KEYRING 1
#define SET_KEY_PERMISSIONS 5
#define DESCRIBE_KEY 6
#define OWNER_MAY_SEARCH 0x080000u
#define MAX_PIN_DEPTH 64

int order_unshare(struct run *run, const struct order_unshare *o)
{
  if (unshare((int)o->flags) < 0)
    return failed(&run->report, "unshare 0x%llx", (unsigned long long)o->flags);
  return 0;
}

int order_setns(struct run *run, const struct order_setns *o)
{
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  if (setns(fd, (int)o->type) < 0)
    return failed(&run->report, "setns slot %u type 0x%llx", o->slot, (unsigned long long)o->type);
  return 0;
}

int order_pidfd(struct run *run, const struct order_pidfd *o)
{
  int fd = (int)syscall(SYS_pidfd_open, (pid_t)o->pid, 0);
  if (fd < 0)
    return failed(&run->report, "pidfd_open %u", o->pid);
  return slot_put(run, o->slot, fd);
}

/* --- a namespace for its maps alone ------------------------------------------------------------------------------------ */

static int write_map(struct run *run, pid_t pid, const char *file, const char *text)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
  int fd = open(path, O_WRONLY | O_CLOEXEC), result = 0;
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
    result = failed(&run->report, "write %s", path);
  drop(fd);
  return result;
}

/* The namespace lives on by its descriptor; its first process was only needed to have somebody to write the maps for. */
int order_userns(struct run *run, const struct order_userns *o)
{
  char path[64];
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
    return failed(&run->report, "socketpair");
  struct clone_args_v2 args = {.flags = CLONE_NEWUSER_FLAG, .exit_signal = SIGCHLD};
  pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0) {
    close(ends[0]);
    (void)!read(ends[1], path, 1);
    _exit(0);
  }
  close(ends[1]);
  int fd = -1, result = pid < 0 ? failed(&run->report, "clone3 CLONE_NEWUSER") : 0;
  if (result == 0)
    result = write_map(run, pid, "uid_map", o->uid_map);
  if (result == 0)
    result = write_map(run, pid, "gid_map", o->gid_map);
  snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
  if (result == 0 && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
    result = failed(&run->report, "open %s", path);
  close(ends[0]);
  while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
  return result < 0 ? -1 : slot_put(run, o->slot, fd);
}

int order_pin_ns(struct run *run, const struct order_pin_ns *o)
{
  char source[64];
  if (strchr(o->name, '/') || snprintf(source, sizeof source, "/proc/thread-self/ns/%s", o->name) >= (int)sizeof source)
    return fail(&run->report, EINVAL, "no namespace is called %.32s", o->name);
  int fd = open(o->path, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  close(fd);
  if (mount(source, o->path, NULL, MS_BIND, NULL) == 0)
    return 0;
  failed(&run->report, "mount %s", o->path);
  unlink(o->path);
  return -1;
}

int order_unpin(struct run *run, const struct order_unpin *o)
{
  int depth = 0;
  while (umount2(o->path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
    if (++depth == MAX_PIN_DEPTH)
      return fail(&run->report, EBUSY, "umount2 %s: mounted again and again", o->path);
  if (errno != EINVAL && errno != ENOENT)
    return failed(&run->report, "umount2 %s", o->path);
  if (unlink(o->path) < 0 && errno != ENOENT)
    return failed(&run->report, "unlink %s", o->path);
  return 0;
}

int order_hostname(struct run *run, const struct order_hostname *o)
{
  if (*o->hostname && sethostname(o->hostname, strlen(o->hostname)) < 0)
    return failed(&run->report, "sethostname %s", o->hostname);
  if (*o->domainname && setdomainname(o->domainname, strlen(o->domainname)) < 0)
    return failed(&run->report, "setdomainname %s", o->domainname);
  return 0;
}

int order_link_up(struct run *run, const struct order_link_up *o)
{
  struct ifreq request = {0};
  size_t size = strlen(o->name);
  if (size >= sizeof request.ifr_name)
    return fail(&run->report, ENAMETOOLONG, "interface %s", o->name);
  memcpy(request.ifr_name, o->name, size);
  /* Any socket takes the requests about interfaces, and this family is always there. */
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return failed(&run->report, "socket");
  int result = ioctl(fd, SIOCGIFFLAGS, &request);
  if (result == 0) {
    request.ifr_flags |= IFF_UP;
    result = ioctl(fd, SIOCSIFFLAGS, &request);
  }
  drop(fd);
  return result < 0 ? failed(&run->report, "interface %s", o->name) : 0;
}

int order_keyring(struct run *run, const struct order_keyring *o)
{
  char text[256];
  unsigned permissions;
  long ring = syscall(SYS_keyctl, JOIN_SESSION_KEYRING, o->name);
  if (ring < 0)
    return errno == ENOSYS || errno == EPERM || errno == EDQUOT ? 0 : failed(&run->report, "keyctl join %s", o->name);
  /* "type;uid;gid;permissions;name": without search a child that changes its user loses the ring. */
  long size = syscall(SYS_keyctl, DESCRIBE_KEY, ring, text, sizeof text - 1);
  if (size < 0 || size >= (long)sizeof text)
    return size < 0 ? failed(&run->report, "keyctl describe %s", o->name) : 0;
  text[size] = 0;
  if (sscanf(text, "%*[^;];%*d;%*d;%x", &permissions) != 1)
    return fail(&run->report, EINVAL, "keyctl describe %s: %s", o->name, text);
  if (syscall(SYS_keyctl, SET_KEY_PERMISSIONS, ring, permissions | OWNER_MAY_SEARCH) < 0)
    return failed(&run->report, "keyctl setperm %s", o->name);
  return 0;
}

int order_setsid(struct run *run, const struct order_setsid *o)
{
  (void)o;
  return setsid() < 0 ? failed(&run->report, "setsid") : 0;
}

int order_dumpable(struct run *run, const struct order_dumpable *o)
{
  if (prctl(PR_SET_DUMPABLE, (unsigned long)o->value, 0, 0, 0) < 0)
    return failed(&run->report, "prctl PR_SET_DUMPABLE %u", o->value);
  return 0;
}
