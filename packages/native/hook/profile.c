/*
 * update-application-profile: EGL and Vulkan look at every GPU of the machine, by the driver; a profile of the driver's own
 * format says which ones the container has.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "hook.h"

#define DIRECTORY "/etc/nvidia/nvidia-application-profiles-rc.d"
#define FILE_NAME "10-container.conf"
#define PROFILE "{\"profiles\":[{\"name\":\"_container_\",\"settings\":[\"EGLVisibleDGPUDevices\",0x%llx]}],\"rules\":[{\"pattern\":[],\"profile\":\"_container_\"}]}"
#define MAX_GPUS 64

/* nvidia0, nvidia17: not nvidiactl, not nvidia-uvm. */
static bool is_gpu_name(const char *name)
{
  if (strncmp(name, "nvidia", 6) != 0 || !name[6])
    return false;
  for (const char *at = name + 6; *at; at++)
    if (!isdigit((unsigned char)*at))
      return false;
  return true;
}

/* A bit for each GPU's minor number; -1 after a message. */
static int gpus_of(int root, unsigned long long *mask)
{
  *mask = 0;
  int fd = open_in(root, "/dev", O_RDONLY | O_DIRECTORY);
  if (fd < 0)
    return errno == ENOENT ? 0 : failed("failed to open the container's /dev");
  DIR *dir = fdopendir(fd);
  if (!dir) {
    close(fd);
    return failed("failed to read the container's /dev");
  }
  struct dirent *entry;
  int result = 0;
  while (result == 0 && (errno = 0, entry = readdir(dir))) {
    struct stat st;
    if (!is_gpu_name(entry->d_name))
      continue;
    if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
      result = failed("stat /dev/%s", entry->d_name);
    else if (S_ISCHR(st.st_mode) && minor(st.st_rdev) < MAX_GPUS)
      *mask |= 1ull << minor(st.st_rdev);
    else if (S_ISCHR(st.st_mode))
      warn("/dev/%s: no profile can name a GPU of minor number %u", entry->d_name, minor(st.st_rdev));
  }
  if (result == 0 && errno)
    result = failed("failed to read the container's /dev");
  closedir(dir);
  return result;
}

int update_application_profile(int root, const struct options *options)
{
  unsigned long long mask;
  char text[sizeof PROFILE + 32];
  (void)options;
  if (gpus_of(root, &mask) < 0)
    return -1;
  if (mask == 0)
    return 0;
  int size = snprintf(text, sizeof text, PROFILE, mask);
  int dir = make_dirs_in(root, DIRECTORY, 0555);
  if (dir < 0)
    return failed("failed to create the container's " DIRECTORY);
  close(dir);
  /* Not to wait for a reader, should the image have a FIFO there. */
  int file = open_in(root, DIRECTORY "/" FILE_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK);
  if (file < 0 || write_all(file, text, (size_t)size) < 0 || fchmod(file, 0444) < 0)
    return failed("failed to write the container's " DIRECTORY "/" FILE_NAME);
  close(file);
  note("GPUs of the profile: 0x%llx", mask);
  return 0;
}
