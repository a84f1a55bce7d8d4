/* Orders on the disks and the files of a virtual machine that its host fills. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest.h"
#include "orders.h"

#define BLOCK "/sys/block"
/* Of the SCSI page 0x80: its code, and the size of what follows (SPC-4, 7.8.18). */
#define PAGE_HEAD 4

struct disk { const char *serial; char name[256]; };

static bool file_is(const char *path, size_t head, const char *serial)
{
  char text[256];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  drop(fd);
  if (size < (ssize_t)head)
    return false;
  text[size] = 0;
  /* A page's number may be padded by spaces. */
  char *end = text + head + strcspn(text + head, " \n");
  *end = 0;
  return strcmp(text + head, serial) == 0;
}

static bool find_disk(void *object)
{
  struct disk *disk = object;
  char path[512];
  DIR *all = opendir(BLOCK);
  if (!all)
    return false;
  for (struct dirent *entry; !disk->name[0] && (entry = readdir(all));) {
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, BLOCK "/%s/serial", entry->d_name);
    bool found = file_is(path, 0, disk->serial);
    snprintf(path, sizeof path, BLOCK "/%s/device/vpd_pg80", entry->d_name);
    if (found || file_is(path, PAGE_HEAD, disk->serial))
      snprintf(disk->name, sizeof disk->name, "%s", entry->d_name);
  }
  closedir(all);
  return disk->name[0];
}

int order_find_disk(struct run *run, const struct order_find_disk *o)
{
  struct disk disk = {.serial = o->serial};
  struct buffer *out = &run->report.outputs;
  char path[300];
  if (!uevent_wait(find_disk, &disk, (int)o->timeout_ms))
    return failed(&run->report, "wait for the disk %s", o->serial);
  snprintf(path, sizeof path, "/dev/%s", disk.name);
  buffer_u32(out, run->index);
  buffer_u32(out, 0);
  buffer_u32(out, (uint32_t)strlen(path));
  buffer_append(out, path, strlen(path));
  return 0;
}

int order_rename(struct run *run, const struct order_rename *o)
{
  return rename(o->from, o->to) < 0 ? failed(&run->report, "rename %s to %s", o->from, o->to) : 0;
}

int order_fill_file(struct run *run, const struct order_fill_file *o)
{
  int fd = open(o->path, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = 0;
  for (size_t done = 0; result == 0 && done < o->data.size;) {
    ssize_t written = write(fd, o->data.data + done, o->data.size - done);
    if (written >= 0)
      done += (size_t)written;
    else if (errno != EINTR)
      result = failed(&run->report, "write %s", o->path);
  }
  drop(fd);
  return result;
}
