/*
 * The mapped device that dm-mod.create= names on the kernel's command line (Documentation/admin-guide/device-mapper/dm-init.rst), made
 * here where the kernel has device mapper as a module, and so does not make it itself. One device with one target, as Kata names it for a
 * root that dm-verity looks after.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

#define CONTROL "/dev/mapper/control"
#define DEVICE_WAIT_MS 60000
#define TABLE_MAX 1024

static struct {
  struct dm_ioctl head;
  struct dm_target_spec target;
  char parameters[TABLE_MAX];
} request;

static bool is_there(void *path) { return access(path, F_OK) == 0; }

static bool ask(int control, unsigned long command, const char *name, uint32_t flags)
{
  request.head = (struct dm_ioctl){
    .version = {DM_VERSION_MAJOR, 0, 0},
    .data_size = sizeof request,
    .data_start = offsetof(__typeof__(request), target),
    .target_count = command == DM_TABLE_LOAD,
    .flags = flags,
  };
  snprintf(request.head.name, sizeof request.head.name, "%s", name);
  return ioctl(control, command, &request) == 0;
}

/* NAME,UUID,MINOR,FLAGS,TABLE: the table, of which the fields before it are cut off. */
static char *table_of(char *device)
{
  char *at = device;
  for (int commas = 0; commas < 4; commas++) {
    at = strchr(at, ',');
    if (!at)
      guest_fail("dm-mod.create=%s: is not NAME,UUID,MINOR,FLAGS,TABLE", device);
    *at++ = 0;
  }
  return at;
}

/* What the target is made of must be there before it. */
static void wait_for_devices(void)
{
  char words[TABLE_MAX];
  snprintf(words, sizeof words, "%s", request.parameters);
  for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
    if (strncmp(word, "/dev/", 5) == 0 && !uevent_wait(is_there, word, DEVICE_WAIT_MS))
      guest_fail("wait for %s: %s", word, strerror(errno));
}

void guest_make_mapped(void)
{
  char device[TABLE_MAX];
  unsigned long long start, length;
  int at = 0;
  if (!kernel_argument("dm-mod.create", device, sizeof device))
    return;
  guest_load_modules(GUEST_MODULES ".verity", true);
  const char *table = table_of(device);
  if (sscanf(table, "%llu %llu %15s %n", &start, &length, request.target.target_type, &at) != 3 || !at)
    guest_fail("dm-mod.create: \"%s\" is no table", table);
  request.target.sector_start = start;
  request.target.length = length;
  snprintf(request.parameters, sizeof request.parameters, "%s", table + at);
  wait_for_devices();
  int control = open(CONTROL, O_RDWR | O_CLOEXEC);
  if (control < 0)
    guest_fail("open " CONTROL ": %s", strerror(errno));
  /* A kernel with device mapper built in has made it already. */
  if (!ask(control, DM_DEV_CREATE, device, 0) && errno == EBUSY) {
    close(control);
    return;
  }
  if (!ask(control, DM_TABLE_LOAD, device, DM_READONLY_FLAG) || !ask(control, DM_DEV_SUSPEND, device, 0))
    guest_fail("make %s (%s): %s", device, table, strerror(errno));
  close(control);
}
