/*
 * The step before the machine's own PID 1, where the kernel is told of a root file system whose drivers it has as modules: bosun as
 * /init of a small initramfs loads them, waits for the device, mounts it over the initramfs and executes the init in it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define ROOT "/newroot"
#define DEFAULT_INIT "/sbin/init"
#define DEVICE_WAIT_MS 60000
#define ARGUMENT 256

struct root { char device[ARGUMENT], type[ARGUMENT], flags[ARGUMENT], init[ARGUMENT]; };

static bool is_there(void *path) { return access(path, F_OK) == 0; }

static void mount_root(const struct root *root)
{
  mkdir(ROOT, 0755);
  if (mount(root->device, ROOT, root->type, MS_RDONLY, root->flags) < 0)
    guest_fail("mount %s (%s, \"%s\") as the root: %s", root->device, root->type, root->flags, strerror(errno));
}

/* What has been mounted in the initramfs is mounted anew by the root's own init. */
static void enter_root(void)
{
  umount2("/sys", MNT_DETACH);
  umount2("/dev", MNT_DETACH);
  umount2("/proc", MNT_DETACH);
  if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
    guest_fail("enter the root: %s", strerror(errno));
}

void guest_switch_root(void)
{
  struct root root = {.type = "erofs", .init = DEFAULT_INIT};
  if (!kernel_argument("root", root.device, sizeof root.device))
    return;
  if (strncmp(root.device, "/dev/", 5) != 0)
    guest_fail("root=%s: name the device by its path below /dev", root.device);
  kernel_argument("rootfstype", root.type, sizeof root.type);
  kernel_argument("rootflags", root.flags, sizeof root.flags);
  kernel_argument("init", root.init, sizeof root.init);
  guest_mount("sysfs", "/sys");
  guest_mount("devtmpfs", "/dev");
  /* The initramfs stays in memory as long as the machine runs: what is in it goes with its use. */
  guest_load_modules(GUEST_MODULES, true);
  guest_make_mapped();
  if (!uevent_wait(is_there, root.device, DEVICE_WAIT_MS))
    guest_fail("wait for the root's device %s: %s", root.device, strerror(errno));
  mount_root(&root);
  unlink("/init");
  enter_root();
  char *arguments[] = {root.init, NULL}, *environment[] = {"HOME=/", "TERM=linux", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
  execve(root.init, arguments, environment);
  guest_fail("execute %s of the root: %s", root.init, strerror(errno));
}
