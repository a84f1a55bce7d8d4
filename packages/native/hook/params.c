/*
 * disable-device-node-modification: the driver's libraries make missing device nodes themselves, unless the driver's parameters
 * say that they must not. A copy that says so is mounted over the container's view of them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "../src/kernel.h"
#include "hook.h"

#define PARAMETERS "/proc/driver/nvidia/params"
#define KEY "ModifyDeviceFiles: "
#define MAX_PARAMETERS (1u << 20)
#define TO_FROM_DESCRIPTORS (MOVE_FROM_EMPTY_PATH | MOVE_TO_EMPTY_PATH)
#define EMPTY_PATH 0x1000 /* AT_EMPTY_PATH */
#define ATTR_NODEV 0x00000004
#define ATTR_NOSYMFOLLOW 0x00200000

/* The text with its one "1" made "0"; NULL: nothing to change, or `*err`. */
static char *modified(int *err)
{
  size_t size;
  *err = 0;
  int fd = open(PARAMETERS, O_RDONLY | O_CLOEXEC);
  char *text = fd < 0 ? NULL : read_all(fd, MAX_PARAMETERS, &size);
  if (!text)
    *err = fd < 0 && errno == ENOENT ? 0 : errno;
  if (fd >= 0)
    close(fd);
  for (char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
    char *value = line + strlen(KEY);
    if (strncmp(line, KEY, strlen(KEY)) != 0 || (value[1] != '\n' && value[1] != 0) || *value != '1')
      continue;
    *value = '0';
    return text;
  }
  free(text);
  return NULL;
}

static int new_tmpfs(void)
{
  int fs = sys_fsopen("tmpfs"), mount = -1;
  if (fs >= 0 && sys_fsconfig(fs, CONFIG_STRING, "size", "64k", 0) == 0 && sys_fsconfig(fs, CONFIG_CREATE, NULL, NULL, 0) == 0)
    mount = sys_fsmount(fs, ATTR_NODEV);
  int err = errno;
  if (fs >= 0)
    close(fs);
  errno = err;
  return mount;
}

/* A mount of nothing but this file, which the file system below it outlives only through it. */
static int file_mount(int root, const char *text)
{
  char scratch[64] = "/run/nvidia-ctk-hook-", itself[64];
  random_name(scratch + strlen(scratch));
  int dir = make_dirs_in(root, scratch, 0755), tmpfs = new_tmpfs(), mount = -1;
  if (dir >= 0 && tmpfs >= 0 && sys_move_mount(tmpfs, "", dir, "", TO_FROM_DESCRIPTORS) == 0) {
    int file = openat(tmpfs, "params", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (file >= 0 && write_all(file, text, strlen(text)) == 0)
      mount = sys_open_tree(tmpfs, "params", TREE_CLONE);
    if (file >= 0)
      close(file);
  }
  int err = errno;
  if (tmpfs >= 0) {
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", tmpfs);
    umount2(itself, MNT_DETACH);
    close(tmpfs);
  }
  if (dir >= 0)
    close(dir);
  int run = open_in(root, "/run", O_PATH | O_DIRECTORY);
  unlinkat(run, strrchr(scratch, '/') + 1, AT_REMOVEDIR);
  close(run);
  errno = err;
  return mount;
}

int disable_device_node_modification(int root, const struct options *options)
{
  int err;
  (void)options;
  char *text = modified(&err);
  if (err) {
    errno = err;
    return failed("failed to load params file %s", PARAMETERS);
  }
  if (!text)
    return 0;
  struct mount_attr_args attributes = {.attr_set = ATTR_RDONLY | ATTR_NODEV | ATTR_NOSYMFOLLOW, .propagation = MS_PRIVATE};
  int mount = file_mount(root, text), target = open_in(root, PARAMETERS, O_PATH | O_NOFOLLOW);
  free(text);
  if (mount < 0)
    return failed("failed to create params file for the container");
  if (target < 0)
    return failed("failed to open the container's %s", PARAMETERS);
  if (sys_mount_setattr(mount, "", EMPTY_PATH, &attributes) < 0 || sys_move_mount(mount, "", target, "", TO_FROM_DESCRIPTORS) < 0)
    return failed("failed to mount modified params file");
  close(mount);
  close(target);
  return 0;
}
