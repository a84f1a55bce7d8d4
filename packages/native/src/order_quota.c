/* Project quotas of directories: ext4 and XFS, mounted with prjquota. */
#include <errno.h>
#include <linux/dqblk_xfs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "orders.h"

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif

/* <linux/fs.h> and <linux/quota.h> declare what <sys/mount.h> and <sys/quota.h> do. */
struct project_attributes { uint32_t flags, extent, extents, project, cow_extent; uint8_t pad[8]; };
#define GET_ATTRIBUTES _IOR('X', 31, struct project_attributes)
#define SET_ATTRIBUTES _IOW('X', 32, struct project_attributes)
#define INHERIT 0x00000200
struct limits {
  uint64_t hard, soft, space, inodes_hard, inodes_soft, inodes, time, inodes_time;
  uint32_t valid;
};
#define LIMITS_BLOCKS 1
#define LIMIT_UNIT 1024
#define GET_LIMITS 0x800007
#define SET_LIMITS 0x800008
#define PROJECT 2
/* Identifiers that belong to somebody already are passed over, so many at most. */
#define ATTEMPTS 4096

static int quota(int fd, int command, uint32_t project, void *data)
{
  return (int)syscall(SYS_quotactl_fd, fd, (unsigned)command << 8 | PROJECT, project, data);
}

static int project_of(int fd, struct project_attributes *attributes) { return ioctl(fd, GET_ATTRIBUTES, attributes); }

/* Whether limits hold here, or usage is counted at best. */
static int check_enforced(struct run *run, int fd, const char *path)
{
  struct fs_quota_stat state = {.qs_version = FS_QSTAT_VERSION};
  if (quota(fd, Q_XGETQSTAT, 0, &state) < 0)
    return failed(&run->report, "project quotas of the file system of %s", path);
  if (!(state.qs_flags & FS_QUOTA_PDQ_ENFD))
    return fail(&run->report, ESRCH, "the file system of %s is mounted without prjquota", path);
  return 0;
}

/* The first identifier from `from` on that nothing uses. */
static int find_free(struct run *run, int fd, uint32_t from, uint32_t *project)
{
  for (uint32_t i = 0; i < ATTEMPTS; i++) {
    struct limits known = {0};
    *project = from + i;
    if (quota(fd, GET_LIMITS, *project, &known) < 0) {
      if (errno == ENOENT)
        return 0;
      return failed(&run->report, "quota of project %u", *project);
    }
    if (known.hard == 0 && known.soft == 0 && known.space == 0 && known.inodes == 0)
      return 0;
  }
  return fail(&run->report, EBUSY, "projects %u to %u are all in use", from, from + ATTEMPTS - 1);
}

static int limit(struct run *run, int fd, const struct order_project_quota *o)
{
  struct project_attributes attributes;
  struct limits limits = {.hard = (o->bytes + LIMIT_UNIT - 1) / LIMIT_UNIT, .valid = LIMITS_BLOCKS};
  uint32_t project;
  if (check_enforced(run, fd, o->path) < 0 || find_free(run, fd, o->project, &project) < 0)
    return -1;
  if (project_of(fd, &attributes) < 0)
    return failed(&run->report, "project of %s", o->path);
  attributes.project = project;
  attributes.flags |= INHERIT;
  if (ioctl(fd, SET_ATTRIBUTES, &attributes) < 0)
    return failed(&run->report, "give %s to project %u", o->path, project);
  if (quota(fd, SET_LIMITS, project, &limits) < 0)
    return failed(&run->report, "limit project %u", project);
  buffer_u32(&run->report.outputs, run->index);
  buffer_u32(&run->report.outputs, 0);
  buffer_u32(&run->report.outputs, sizeof project);
  buffer_append(&run->report.outputs, &project, sizeof project);
  return 0;
}

int order_project_quota(struct run *run, const struct order_project_quota *o)
{
  int fd = open(o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = limit(run, fd, o);
  drop(fd);
  return result;
}

/* A project that the directory has from its parent is somebody else's. */
static int own_project(int fd, uint32_t *project)
{
  struct project_attributes own, above;
  int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0)
    return -1;
  bool known = project_of(fd, &own) == 0 && project_of(parent, &above) == 0;
  drop(parent);
  *project = known && own.project != above.project ? own.project : 0;
  return 0;
}

int order_drop_quota(struct run *run, const struct order_drop_quota *o)
{
  struct limits none = {.valid = LIMITS_BLOCKS};
  uint32_t project = 0;
  int fd = open(o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : failed(&run->report, "open %s", o->path);
  int result = own_project(fd, &project) < 0 ? failed(&run->report, "open the parent of %s", o->path) : 0;
  /* Quotas that are off have no limits to be taken away. */
  if (project != 0 && quota(fd, SET_LIMITS, project, &none) < 0 && errno != ESRCH && errno != ENOSYS)
    result = failed(&run->report, "take the limit of project %u away", project);
  drop(fd);
  return result;
}
