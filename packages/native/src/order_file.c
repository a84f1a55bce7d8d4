/* Orders on files: descriptors, what lies in the rootfs, and the host's own files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "orders.h"

int order_open(struct run *run, const struct order_open *o)
{
  int fd = open(o->path, (int)o->flags | O_CLOEXEC, 0600);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  return slot_put(run, o->slot, fd);
}

int order_check_device(struct run *run, const struct order_check_device *o)
{
  struct stat st;
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  if (fstat(fd, &st) < 0)
    return failed(&run->report, "fstat slot %u", o->slot);
  if (!S_ISCHR(st.st_mode) || major(st.st_rdev) != o->major || minor(st.st_rdev) != o->minor)
    return fail(&run->report, EINVAL, "slot %u is not the character device %u:%u", o->slot, o->major, o->minor);
  return 0;
}

int order_close(struct run *run, const struct order_close *o)
{
  return slot_get(run, o->slot) < 0 ? -1 : slot_put(run, o->slot, -1);
}

/* --- inside the rootfs --------------------------------------------------------------------------------------------- */

static int check_node(struct run *run, const struct order_mkdev *o, int fd)
{
  struct stat st;
  bool same = fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == (o->mode & S_IFMT) &&
              (S_ISFIFO(o->mode) || st.st_rdev == makedev(o->major, o->minor));
  return same ? 0 : fail(&run->report, EEXIST, "%s is there already and is another thing", o->path);
}

static int make_node(struct run *run, const struct order_mkdev *o, int parent, const char *name)
{
  mode_t mask = umask(0);
  int made = mknodat(parent, name, o->mode, S_ISFIFO(o->mode) ? 0 : makedev(o->major, o->minor));
  umask(mask);
  if (made < 0 && errno != EEXIST)
    return failed(&run->report, "mknodat %s", o->path);
  int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = check_node(run, o, fd);
  if (result == 0 && made == 0 && fchownat(fd, "", o->uid, o->gid, AT_EMPTY_PATH) < 0)
    result = failed(&run->report, "fchownat %s", o->path);
  close(fd);
  return result;
}

int order_mkdev(struct run *run, const struct order_mkdev *o)
{
  char name[NAME_MAX + 1];
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  if (!S_ISCHR(o->mode) && !S_ISBLK(o->mode) && !S_ISFIFO(o->mode))
    return fail(&run->report, EINVAL, "mode 0%o of %s is no device's", o->mode, o->path);
  int parent = open_parent(root, o->path, name);
  if (parent < 0)
    return failed(&run->report, "openat2 %s", o->path);
  int result = make_node(run, o, parent, name);
  close(parent);
  return result;
}

int order_symlink(struct run *run, const struct order_symlink *o)
{
  char name[NAME_MAX + 1];
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int parent = open_parent(root, o->path, name);
  if (parent < 0)
    return failed(&run->report, "openat2 %s", o->path);
  int result = symlinkat(o->target, parent, name);
  if (result < 0)
    result = errno == EEXIST ? 0 : failed(&run->report, "symlinkat %s", o->path);
  close(parent);
  return result;
}

int order_mkdir_in(struct run *run, const struct order_mkdir_in *o)
{
  char clean[PATH_MAX];
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  if (link_free(root, o->path, clean) < 0)
    return failed(&run->report, "openat2 %s", o->path);
  int fd = make_directories(root, clean, (struct made){o->mode & 07777, o->uid, o->gid});
  if (fd < 0)
    return failed(&run->report, "mkdirat %s", o->path);
  close(fd);
  return 0;
}

/* Opened as a path first: opening a device or FIFO for reading has effects. */
int open_regular(int root, const char *path)
{
  char clean[PATH_MAX];
  struct stat seen, st;
  if (link_free(root, path, clean) < 0)
    return -1;
  int fd = open_beneath(root, clean, O_PATH);
  if (fd < 0)
    return -1;
  int result = fstat(fd, &seen);
  close(fd);
  if (result < 0)
    return -1;
  if (!S_ISREG(seen.st_mode)) {
    errno = EINVAL;
    return -1;
  }
  fd = open_beneath(root, clean, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
  if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
    close(fd);
    errno = EINVAL;
    return -1;
  }
  return fd;
}

ssize_t append_file(struct buffer *out, int fd, uint32_t max)
{
  uint8_t chunk[4096];
  uint32_t done = 0;
  while (done < max) {
    ssize_t size = read(fd, chunk, max - done < sizeof chunk ? max - done : sizeof chunk);
    if (size < 0 && errno == EINTR)
      continue;
    if (size < 0)
      return -1;
    if (size == 0)
      break;
    buffer_append(out, chunk, (size_t)size);
    done += (uint32_t)size;
  }
  return done;
}

int order_read_in(struct run *run, const struct order_read_in *o)
{
  struct buffer *out = &run->report.outputs;
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int fd = open_regular(root, o->path);
  if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
    return failed(&run->report, errno == EINVAL ? "%s is not a regular file" : "openat2 %s", o->path);
  buffer_u32(out, run->index);
  buffer_u32(out, fd < 0 ? OUTPUT_MISSING : 0);
  size_t length_at = out->size;
  buffer_u32(out, 0);
  if (fd < 0)
    return 0;
  ssize_t size = append_file(out, fd, o->max);
  drop(fd);
  if (size < 0)
    return failed(&run->report, "read %s", o->path);
  uint32_t length = (uint32_t)size;
  memcpy(out->data + length_at, &length, sizeof length);
  return 0;
}

/* --- host files ---------------------------------------------------------------------------------------------------- */

static int make_host_directory(const char *path, mode_t mode)
{
  mode_t mask = umask(0);
  int result = mkdir(path, mode);
  umask(mask);
  return result;
}

static int make_host_parents(struct run *run, const char *path)
{
  char part[PATH_MAX];
  size_t size = strlen(path);
  if (size >= sizeof part)
    return fail(&run->report, ENAMETOOLONG, "mkdir %s", path);
  for (size_t at = 1; at < size; at++) {
    if (path[at] != '/' || path[at - 1] == '/' || path[at + strspn(path + at, "/")] == 0)
      continue;
    memcpy(part, path, at);
    part[at] = 0;
    if (make_host_directory(part, 0755) < 0 && errno != EEXIST)
      return failed(&run->report, "mkdir %s", part);
  }
  return 0;
}

int order_mkdir(struct run *run, const struct order_mkdir *o)
{
  if (o->parents && make_host_parents(run, o->path) < 0)
    return -1;
  if (make_host_directory(o->path, o->mode & 07777) == 0)
    return 0;
  struct stat st;
  if (errno == EEXIST && o->exist_ok && stat(o->path, &st) == 0 && S_ISDIR(st.st_mode))
    return 0;
  return failed(&run->report, "mkdir %s", o->path);
}

/* One write(2): kernel files take a value whole or not at all. */
static int write_once(struct run *run, int fd, const char *path, const void *data, size_t size)
{
  ssize_t written = write(fd, data, size);
  if (written < 0)
    return failed(&run->report, "write %s", path);
  if ((size_t)written != size)
    return fail(&run->report, EIO, "write %s: %zd of %zu bytes", path, written, size);
  return 0;
}

int order_write_file(struct run *run, const struct order_write_file *o)
{
  int fd = open(o->path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (fd < 0)
    return failed(&run->report, "open %s", o->path);
  int result = write_once(run, fd, o->path, o->data.data, o->data.size);
  drop(fd);
  return result;
}

static int check_proc(struct run *run, int fd, uint32_t slot)
{
  struct statfs fs;
  struct stat st;
  if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
    return failed(&run->report, "fstat slot %u", slot);
  if (fs.f_type != PROC_MAGIC || st.st_ino != PROC_ROOT_INODE)
    return fail(&run->report, EXDEV, "slot %u is not the root of a procfs", slot);
  return 0;
}

int order_write_slot(struct run *run, const struct order_write_slot *o)
{
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  ssize_t size = write(fd, o->data.data, o->data.size);
  return size == (ssize_t)o->data.size ? 0 : failed(&run->report, "write fd %u", o->slot);
}

int order_write_proc(struct run *run, const struct order_write_proc *o)
{
  char path[PATH_MAX];
  int proc = slot_get(run, o->slot), size;
  if (proc < 0 || check_proc(run, proc, o->slot) < 0)
    return -1;
  if (strncmp(o->path, "self/", 5) == 0)
    size = snprintf(path, sizeof path, "%ld/%s", (long)syscall(SYS_getpid), o->path + 5);
  else
    size = snprintf(path, sizeof path, "%s", o->path);
  if (size >= (int)sizeof path)
    return fail(&run->report, ENAMETOOLONG, "openat2 /proc/%.64s", o->path);
  struct open_how_args how = {
    .flags = O_WRONLY | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC,
    .resolve = STAY_BENEATH | STAY_ON_MOUNT | NO_MAGIC_LINKS | NO_LINKS,
  };
  int fd = sys_openat2(proc, path, &how);
  if (fd < 0)
    return failed(&run->report, "openat2 /proc/%s", path);
  int result = write_once(run, fd, o->path, o->data.data, o->data.size);
  drop(fd);
  return result;
}

int order_unlink(struct run *run, const struct order_unlink *o)
{
  if (unlink(o->path) < 0 && errno != ENOENT)
    return failed(&run->report, "unlink %s", o->path);
  return 0;
}

int order_check_below(struct run *run, const struct order_check_below *o)
{
  char text[64];
  int fd = open(o->path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  drop(fd);
  if (size < 0)
    return failed(&run->report, "read %s", o->path);
  text[size] = 0;
  unsigned long long value = strtoull(text, NULL, 10);
  if (value > o->limit)
    return fail(&run->report, EBUSY, "%s is %llu, above the new limit of %llu", o->path, value, (unsigned long long)o->limit);
  return 0;
}

int order_chown(struct run *run, const struct order_chown *o)
{
  struct strs files = o->files;
  const char *file;
  int directory = open(o->directory, O_PATH | O_DIRECTORY | O_CLOEXEC), result = 0;
  if (directory < 0)
    return failed(&run->report, "open %s", o->directory);
  while (result == 0 && (file = strs_next(&files)))
    if (fchownat(directory, file, o->uid, o->gid, AT_SYMLINK_NOFOLLOW | (*file ? 0 : AT_EMPTY_PATH)) < 0 && errno != ENOENT)
      result = failed(&run->report, "chown %s/%s", o->directory, file);
  drop(directory);
  return result;
}
