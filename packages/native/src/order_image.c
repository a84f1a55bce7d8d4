/* Orders on the images that layers are kept in: mounting one by block devices, and fs-verity. */
#include <errno.h>
#include <inttypes.h>
#include <linux/dm-ioctl.h>
#include <linux/fsverity.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "orders.h"

/* Somebody else may take the device that was free a moment ago. */
#define LOOP_ATTEMPTS 64
#define DIGEST_MAX 64
#define SECTOR 512

/* A loop device that shows the image read-only and goes with its last user; -1 with report. */
static int attach_loop(struct run *run, const char *image, char path[32])
{
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0)
    return failed(&run->report, "open /dev/loop-control");
  int file = open(image, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  int result = file < 0 ? failed(&run->report, "open %s", image) : -1;
  for (unsigned attempt = 0; file >= 0; attempt++) {
    struct loop_config config = {.fd = (uint32_t)file, .info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR};
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    snprintf(path, 32, "/dev/loop%d", number);
    result = number < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (result >= 0 && ioctl(result, LOOP_CONFIGURE, &config) == 0)
      break;
    drop(result);
    result = -1;
    if (errno != EBUSY || attempt == LOOP_ATTEMPTS) {
      failed(&run->report, "attach %s to a loop device", image);
      break;
    }
  }
  drop(file);
  drop(control);
  return result;
}

struct mapped {
  struct dm_ioctl head;
  struct dm_target_spec target;
  char text[512];
};

static int map_ioctl(int control, unsigned long request, struct mapped *m, const char *name, uint32_t flags)
{
  m->head = (struct dm_ioctl){
    .version = {DM_VERSION_MAJOR, 0, 0},
    .data_size = sizeof *m,
    .data_start = offsetof(struct mapped, target),
    .target_count = request == DM_TABLE_LOAD ? 1 : 0,
    .flags = flags,
  };
  strcpy(m->head.name, name);
  return ioctl(control, request, m);
}

/* The number in /dev/dm-N, from the kernel's encoding of the device. */
static unsigned dm_number(uint64_t dev) { return (unsigned)((dev & 0xff) | ((dev >> 12) & 0xfff00)); }

static int load_verity(int control, struct mapped *m, const char *name, const struct order_mount_image *o, int loop)
{
  struct stat st;
  if (fstat(loop, &st) < 0 || map_ioctl(control, DM_DEV_CREATE, m, name, 0) < 0)
    return -1;
  m->target = (struct dm_target_spec){.length = o->blocks * (4096 / SECTOR)};
  strcpy(m->target.target_type, "verity");
  snprintf(m->text, sizeof m->text, "1 %u:%u %u:%u 4096 4096 %" PRIu64 " %" PRIu64 " sha256 %s -", major(st.st_rdev),
           minor(st.st_rdev), major(st.st_rdev), minor(st.st_rdev), o->blocks, o->blocks, o->root);
  if (map_ioctl(control, DM_TABLE_LOAD, m, name, DM_READONLY_FLAG) < 0)
    return -1;
  return map_ioctl(control, DM_DEV_SUSPEND, m, name, 0); /* without DM_SUSPEND_FLAG: resume */
}

static int mount_device(struct run *run, const char *device, const char *target)
{
  int context = sys_fsopen("erofs");
  if (context < 0)
    return failed(&run->report, "fsopen erofs");
  int result = -1, mount = -1;
  if (sys_fsconfig(context, CONFIG_STRING, "source", device, 0) < 0 || sys_fsconfig(context, CONFIG_FLAG, "ro", NULL, 0) < 0 ||
      sys_fsconfig(context, CONFIG_CREATE, NULL, NULL, 0) < 0 || (mount = sys_fsmount(context, ATTR_RDONLY)) < 0)
    failed(&run->report, "mount %s", device);
  else if (sys_move_mount(mount, "", AT_FDCWD, target, MOVE_FROM_EMPTY_PATH) < 0)
    failed(&run->report, "mount %s at %s", device, target);
  else
    result = 0;
  drop(mount);
  drop(context);
  return result;
}

/* The device is told to go with its last user at once: nothing is left of it after unmount(2), whoever calls that. */
static int mount_verity(struct run *run, const struct order_mount_image *o, int loop)
{
  struct mapped m = {0};
  char name[64], device[32];
  uint64_t id;
  int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
  if (control < 0)
    return failed(&run->report, "open /dev/mapper/control");
  if (getrandom(&id, sizeof id, 0) != sizeof id) {
    drop(control);
    return failed(&run->report, "getrandom");
  }
  snprintf(name, sizeof name, "berth-layer-%016" PRIx64, id);
  int result = load_verity(control, &m, name, o, loop);
  if (result < 0)
    failed(&run->report, "make a dm-verity device of %s", o->image);
  else {
    snprintf(device, sizeof device, "/dev/dm-%u", dm_number(m.head.dev));
    result = mount_device(run, device, o->target);
  }
  map_ioctl(control, DM_DEV_REMOVE, &m, name, DM_DEFERRED_REMOVE);
  drop(control);
  return result;
}

int order_mount_image(struct run *run, const struct order_mount_image *o)
{
  char device[32];
  if (strspn(o->root, "0123456789abcdef") != strlen(o->root) || strlen(o->root) > 2 * DIGEST_MAX)
    return fail(&run->report, EINVAL, "root hash of %s", o->image);
  int loop = attach_loop(run, o->image, device);
  if (loop < 0)
    return -1;
  int result = *o->root ? mount_verity(run, o, loop) : mount_device(run, device, o->target);
  drop(loop);
  return result;
}

static int measure(struct run *run, int fd, const char *path)
{
  _Alignas(struct fsverity_digest) uint8_t room[sizeof(struct fsverity_digest) + DIGEST_MAX] = {0};
  struct fsverity_digest *digest = (struct fsverity_digest *)room;
  struct buffer *out = &run->report.outputs;
  digest->digest_size = DIGEST_MAX;
  bool without = ioctl(fd, FS_IOC_MEASURE_VERITY, digest) < 0;
  if (without && errno != ENODATA)
    return failed(&run->report, "measure fs-verity of %s", path);
  buffer_u32(out, run->index);
  buffer_u32(out, without ? OUTPUT_MISSING : 0);
  buffer_u32(out, without ? 0 : digest->digest_size);
  if (!without)
    buffer_append(out, digest->digest, digest->digest_size);
  return 0;
}

int order_fs_verity(struct run *run, const struct order_fs_verity *o)
{
  struct fsverity_enable_arg enable = {.version = 1, .hash_algorithm = FS_VERITY_HASH_ALG_SHA256, .block_size = 4096};
  int fd = open(o->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = 0;
  if (o->enable && ioctl(fd, FS_IOC_ENABLE_VERITY, &enable) < 0 && errno != EEXIST)
    result = failed(&run->report, "enable fs-verity of %s", o->path);
  if (result == 0)
    result = measure(run, fd, o->path);
  drop(fd);
  return result;
}
