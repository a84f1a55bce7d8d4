/* What PID 1 of a virtual machine does before there is anybody to tell it anything: a kernel's own file systems, and a way to be told. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guest.h"
#include "kernel.h"

#define RAMFS_MAGIC 0x858458f6
#define TMPFS_MAGIC 0x01021994
#define DESCRIPTORS 1048576

bool guest_is_init(int count, char **arguments)
{
  const char *name = strrchr(arguments[0], '/');
  name = name ? name + 1 : arguments[0];
  return getpid() == 1 && (strcmp(name, "init") == 0 || (count > 1 && strcmp(arguments[1], "guest") == 0));
}

void guest_power_off(void)
{
  sync();
  reboot(RB_POWER_OFF);
  _exit(1); /* not root of a machine of its own: there is nothing to switch off */
}

void guest_fail(const char *format, ...)
{
  va_list arguments;
  fprintf(stderr, "bosun: guest: ");
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  if (getpid() == 1)
    guest_power_off();
  _exit(1);
}

/* The image's root may be read-only: then the directory is in it. */
static void make_directory(const char *path)
{
  if (mkdir(path, 0755) < 0 && errno != EEXIST && errno != EROFS)
    guest_fail("mkdir %s: %s", path, strerror(errno));
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *data)
{
  make_directory(target);
  if (mount(type, target, type, flags, data) < 0)
    guest_fail("mount %s at %s: %s", type, target, strerror(errno));
}

/*
 * The root of an initramfs is the one mount that cannot be pivoted from (pivot_root(2)), which every container does. Bound to itself
 * and moved over it, it can.
 */
static void make_root_pivotable(void)
{
  make_directory("/proc");
  if (mount("/", "/proc", NULL, MS_BIND, NULL) < 0 || chdir("/proc") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
      chdir("/") < 0)
    guest_fail("make the initramfs a mount of its own: %s", strerror(errno));
}

static bool is_initramfs(void)
{
  struct statfs fs;
  if (statfs("/", &fs) < 0)
    guest_fail("statfs /: %s", strerror(errno));
  return (unsigned long)fs.f_type == RAMFS_MAGIC || (unsigned long)fs.f_type == TMPFS_MAGIC;
}

void guest_mount(const char *type, const char *target)
{
  mount_at(type, target, MS_NOSUID | (strcmp(type, "devtmpfs") == 0 ? 0 : MS_NODEV | MS_NOEXEC), NULL);
}

void guest_found(void)
{
  if (is_initramfs()) {
    guest_mount("proc", "/proc");
    guest_switch_root();
    umount2("/proc", MNT_DETACH);
    make_root_pivotable();
  }
  guest_mount("proc", "/proc");
}

/* In quotes a word goes on over spaces. NULL: the end. */
static char *next_word(char **rest)
{
  bool quoted = false;
  char *word = *rest + strspn(*rest, " \n"), *at = word;
  for (; *at && (quoted || !strchr(" \n", *at)); at++)
    quoted ^= *at == '"';
  *rest = at + (*at != 0);
  *at = 0;
  return *word ? word : NULL;
}

bool kernel_argument(const char *key, char *value, size_t size)
{
  char text[4096];
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0)
    close(fd);
  if (n <= 0)
    return false;
  text[n] = 0;
  size_t length = strlen(key);
  for (char *rest = text, *word; (word = next_word(&rest));) {
    if (strncmp(word, key, length) != 0 || word[length] != '=')
      continue;
    word += length + 1;
    size_t end = strlen(word);
    if (*word == '"' && end > 1 && word[end - 1] == '"') {
      word[end - 1] = 0;
      word++;
    }
    snprintf(value, size, "%s", word);
    return true;
  }
  return false;
}

void guest_load_modules(const char *file, bool once)
{
  char path[512];
  FILE *list = fopen(file, "re");
  if (!list) {
    if (errno != ENOENT)
      guest_fail("open %s: %s", file, strerror(errno));
    return;
  }
  while (fgets(path, sizeof path, list)) {
    path[strcspn(path, "\n")] = 0;
    if (!*path)
      continue;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
      guest_fail("load %s: %s", path, strerror(errno));
    close(fd);
    if (once)
      unlink(path);
  }
  fclose(list);
}

static void bring_loopback_up(void)
{
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
    guest_fail("look at lo: %s", strerror(errno));
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
    guest_fail("bring lo up: %s", strerror(errno));
  close(fd);
}

void guest_furnish(void)
{
  const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  guest_mount("sysfs", "/sys");
  mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
  mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
  mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
  mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_at("cgroup2", "/sys/fs/cgroup", quiet, "nsdelegate");
  /* For AppArmor; a kernel may be without. */
  mount("securityfs", "/sys/kernel/security", "securityfs", quiet, NULL);
  make_directory("/run/berth");
  make_directory("/run/berth/c");
  struct rlimit descriptors = {.rlim_cur = 1024, .rlim_max = DESCRIPTORS};
  if (setrlimit(RLIMIT_NOFILE, &descriptors) < 0)
    guest_fail("setrlimit RLIMIT_NOFILE: %s", strerror(errno));
  /* The kernel has its own copy, and an initramfs is memory. */
  guest_load_modules(GUEST_MODULES, is_initramfs());
  bring_loopback_up();
}
