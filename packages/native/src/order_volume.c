/* Orders on a volume that is mounted in a virtual machine: whose it is, and how large. */
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "descent.h"
#include "guest.h"
#include "orders.h"

/* --- its group ---------------------------------------------------------------------------------------------------------- */

/* What the group is allowed of it, as the kubelet and Kata's agent have it. */
#define WRITES 0660
#define READS 0440
#define ENTERS 0110

struct group { gid_t gid; mode_t mask; };

static int own(int directory, const char *name, const struct group *group, mode_t more, int flags)
{
  struct stat st;
  if (fchownat(directory, name, (uid_t)-1, group->gid, flags) < 0 || fstatat(directory, name, &st, flags) < 0)
    return -1;
  mode_t mode = (st.st_mode & 07777) | group->mask | more;
  if (mode == (st.st_mode & 07777))
    return 0;
  return *name ? fchmodat(directory, name, mode, 0) : fchmod(directory, mode);
}

static int own_entry(struct descent *d, int directory, const struct entry *e)
{
  struct stat st;
  if (fstatat(directory, e->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
    return -1;
  if (S_ISDIR(st.st_mode))
    return 1;
  /* A link's own mode means nothing, and what it leads to may be anywhere. */
  return S_ISLNK(st.st_mode) ? 0 : own(directory, e->name, d->context, 0, AT_SYMLINK_NOFOLLOW);
}

static int own_left(struct descent *d, int parent, const char *name)
{
  return own(parent, name, d->context, ENTERS | S_ISGID, AT_SYMLINK_NOFOLLOW);
}

static bool is_owned(const struct stat *st, const struct group *group)
{
  mode_t wanted = group->mask | ENTERS | S_ISGID;
  return st->st_gid == group->gid && (st->st_mode & wanted) == wanted;
}

int order_fs_group(struct run *run, const struct order_fs_group *o)
{
  struct group group = {.gid = o->gid, .mask = o->readonly ? READS : WRITES};
  struct descent d = {.visit = own_entry, .leave = own_left, .context = &group};
  struct stat st;
  int root = open(o->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (root < 0 || fstat(root, &st) < 0)
    return failed(&run->report, "open %s", o->path);
  if (o->on_mismatch && is_owned(&st, &group)) {
    drop(root);
    return 0;
  }
  /* The root last: a walk that was broken off is begun anew. */
  int walked = fcntl(root, F_DUPFD_CLOEXEC, 0);
  int result = walked < 0 ? -1 : descend(walked, &d);
  if (result < 0)
    failed(&run->report, "give %s to group %u: %s", o->path, o->gid, d.culprit);
  else if ((result = own(root, "", &group, ENTERS | S_ISGID, AT_EMPTY_PATH)) < 0)
    failed(&run->report, "give %s to group %u", o->path, o->gid);
  descent_free(&d);
  drop(root);
  return result;
}

/* --- its size ----------------------------------------------------------------------------------------------------------- */

/* As the kernel has them (fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h); libc has none of it. */
#define EXT4_MAGIC 0xef53
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)
#define XFS_MAGIC 0x58465342
struct xfs_geometry {
  uint32_t block_size, extent_size, group_blocks, groups, log_blocks, sector_size, inode_size, inode_percent;
  uint64_t numbers[4];
  uint8_t uuid[16];
  uint32_t others[7];
};
#define XFS_IOC_FSGEOMETRY _IOR('X', 100, struct xfs_geometry)
struct xfs_growth { uint64_t blocks; uint32_t inode_percent; };
#define XFS_IOC_FSGROWFSDATA _IOW('X', 110, struct xfs_growth)

struct growing { int device; uint64_t bytes, now; };

static bool has_grown(void *object)
{
  struct growing *growing = object;
  return ioctl(growing->device, BLKGETSIZE64, &growing->now) < 0 || growing->now >= growing->bytes;
}

static int grow_ext4(int root, uint64_t bytes, uint64_t block)
{
  uint64_t blocks = bytes / block;
  return ioctl(root, EXT4_IOC_RESIZE_FS, &blocks);
}

static int grow_xfs(int root, uint64_t bytes)
{
  struct xfs_geometry geometry;
  if (ioctl(root, XFS_IOC_FSGEOMETRY, &geometry) < 0)
    return -1;
  struct xfs_growth growth = {.blocks = bytes / geometry.block_size, .inode_percent = geometry.inode_percent};
  return growth.blocks == geometry.numbers[0] ? 0 : ioctl(root, XFS_IOC_FSGROWFSDATA, &growth);
}

static int grow(struct run *run, const char *path, uint64_t bytes)
{
  struct statfs fs;
  int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0 || fstatfs(root, &fs) < 0)
    return failed(&run->report, "open %s", path);
  int result = fs.f_type == EXT4_MAGIC  ? grow_ext4(root, bytes, (uint64_t)fs.f_bsize)
               : fs.f_type == XFS_MAGIC ? grow_xfs(root, bytes)
                                        : (errno = EOPNOTSUPP, -1);
  if (result < 0)
    failed(&run->report, "grow the file system of %s to %llu bytes", path, (unsigned long long)bytes);
  drop(root);
  return result;
}

int order_grow_file_system(struct run *run, const struct order_grow_file_system *o)
{
  struct growing growing = {.device = open(o->device, O_RDONLY | O_CLOEXEC), .bytes = o->bytes};
  if (growing.device < 0)
    return failed(&run->report, "open %s", o->device);
  int result = uevent_wait(has_grown, &growing, (int)o->timeout_ms) ? 0 : -1;
  if (result < 0)
    failed(&run->report, "wait for %s to have %llu bytes", o->device, (unsigned long long)o->bytes);
  else
    result = grow(run, o->path, growing.now);
  drop(growing.device);
  return result;
}
