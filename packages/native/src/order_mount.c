/* Orders that make, change and attach mounts. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include "orders.h"

int order_open_tree(struct run *run, const struct order_open_tree *o)
{
  int fd = sys_open_tree(AT_FDCWD, o->path, TREE_CLONE | (o->recursive ? TREE_RECURSIVE : 0));
  if (fd < 0)
    return failed(&run->report, "open_tree %s", o->path);
  return slot_put(run, o->slot, fd);
}

int order_clone_in(struct run *run, const struct order_clone_in *o)
{
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int source = open_in(root, o->path, O_PATH);
  if (source < 0)
    return failed(&run->report, "openat2 %s", o->path);
  int fd = sys_open_tree(source, "", TREE_CLONE | AT_EMPTY_PATH | (o->recursive ? TREE_RECURSIVE : 0));
  drop(source);
  return fd < 0 ? failed(&run->report, "open_tree %s", o->path) : slot_put(run, o->slot, fd);
}

/* What the file system itself says about a refusal: lines of "e message" in the context. Keeps errno. */
static int fs_failed(struct run *run, int context, const char *what, const char *on)
{
  char said[256];
  int err = errno;
  ssize_t size = read(context, said, sizeof said - 1);
  errno = err;
  if (size <= 2)
    return failed(&run->report, "%s %s", what, on);
  said[size] = 0;
  said[strcspn(said, "\n")] = 0;
  return failed(&run->report, "%s %s: %s", what, on, said + 2);
}

static int set_option(struct run *run, int context, const char *option)
{
  const char *equals = strchr(option, '=');
  if (!equals) {
    if (sys_fsconfig(context, CONFIG_FLAG, option, NULL, 0) < 0)
      return fs_failed(run, context, "fsconfig", option);
    return 0;
  }
  char key[64];
  size_t size = (size_t)(equals - option);
  if (size >= sizeof key)
    return fail(&run->report, ENAMETOOLONG, "fsconfig %s", option);
  memcpy(key, option, size);
  key[size] = 0;
  if (sys_fsconfig(context, CONFIG_STRING, key, equals + 1, 0) < 0)
    return fs_failed(run, context, "fsconfig", option);
  return 0;
}

static int configure(struct run *run, int context, const struct order_fs_mount *o)
{
  struct strs options = o->options, keys = o->fd_keys;
  const char *text;
  if (*o->source && sys_fsconfig(context, CONFIG_STRING, "source", o->source, 0) < 0)
    return fs_failed(run, context, "fsconfig source", o->source);
  while ((text = strs_next(&options)))
    if (set_option(run, context, text) < 0)
      return -1;
  for (uint32_t i = 0; (text = strs_next(&keys)); i++) {
    int fd = slot_get(run, u32s_at(&o->fd_slots, i));
    if (fd < 0)
      return -1;
    if (sys_fsconfig(context, CONFIG_FD, text, NULL, fd) < 0)
      return fs_failed(run, context, "fsconfig by descriptor", text);
  }
  if (sys_fsconfig(context, CONFIG_CREATE, NULL, NULL, 0) < 0)
    return fs_failed(run, context, "fsconfig create", o->fstype);
  return 0;
}

/* `mode`: a further option, or NULL. */
static int make_mount(struct run *run, const struct order_fs_mount *o, const char *mode)
{
  int context = sys_fsopen(o->fstype);
  if (context < 0)
    return failed(&run->report, "fsopen %s", o->fstype);
  int mount = -1, result = mode ? set_option(run, context, mode) : 0;
  if (result == 0)
    result = configure(run, context, o);
  if (result == 0) {
    mount = sys_fsmount(context, (unsigned)o->attrs);
    if (mount < 0)
      result = fs_failed(run, context, "fsmount", o->fstype);
  }
  close(context);
  return result < 0 ? -1 : slot_put(run, o->slot, mount);
}

int order_fs_mount(struct run *run, const struct order_fs_mount *o)
{
  if (o->fd_keys.count != o->fd_slots.count)
    return fail(&run->report, EINVAL, "%u descriptor keys for %u slots", o->fd_keys.count, o->fd_slots.count);
  return make_mount(run, o, NULL);
}

int order_tmpfs_like(struct run *run, const struct order_tmpfs_like *o)
{
  struct order_fs_mount mount = {.slot = o->slot, .fstype = "tmpfs", .source = o->source, .options = o->options, .attrs = o->attrs};
  char mode[16];
  struct stat st;
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int like = open_in(root, o->path, O_PATH);
  if (like < 0)
    return errno == ENOENT ? make_mount(run, &mount, NULL) : failed(&run->report, "openat2 %s", o->path);
  int result = fstat(like, &st) < 0 ? failed(&run->report, "fstat %s", o->path) : 0;
  drop(like);
  if (result < 0)
    return -1;
  snprintf(mode, sizeof mode, "mode=%04o", st.st_mode & 07777);
  return make_mount(run, &mount, mode);
}

static const char *or_null(const char *text) { return *text ? text : NULL; }

int order_mount(struct run *run, const struct order_mount *o)
{
  if (mount(or_null(o->source), o->target, or_null(o->fstype), (unsigned long)o->flags, or_null(o->data)) < 0)
    return failed(&run->report, "mount %s", o->target);
  return 0;
}

int order_mount_attr(struct run *run, const struct order_mount_attr *o)
{
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  struct mount_attr_args attr = {.attr_set = o->set, .attr_clr = o->clear, .propagation = o->propagation};
  if (o->userns_slot != NO_SLOT) {
    int userns = slot_get(run, o->userns_slot);
    if (userns < 0)
      return -1;
    attr.userns_fd = (uint64_t)userns;
  }
  if (sys_mount_setattr(fd, "", AT_EMPTY_PATH | (o->recursive ? TREE_RECURSIVE : 0), &attr) < 0)
    return failed(&run->report, "mount_setattr slot %u", o->slot);
  return 0;
}

/* What a mount has, of what a user namespace may not take away (statfs(2), f_flags). */
static int locked_attributes(int fd, uint64_t *attributes)
{
  static const struct { unsigned long has; uint64_t is; } table[] = {
    {ST_RDONLY, ATTR_RDONLY}, {ST_NOSUID, ATTR_NOSUID}, {ST_NODEV, ATTR_NODEV}, {ST_NOEXEC, ATTR_NOEXEC}, {ST_NODIRATIME, ATTR_NODIRATIME},
  };
  struct statfs fs;
  if (fstatfs(fd, &fs) < 0)
    return -1;
  unsigned long flags = (unsigned long)fs.f_flags;
  *attributes = flags & ST_NOATIME ? ATTR_NOATIME : flags & ST_RELATIME ? 0 : ATTR_STRICTATIME;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (flags & table[i].has)
      *attributes |= table[i].is;
  return 0;
}

int order_mount_attr_locked(struct run *run, const struct order_mount_attr_locked *o)
{
  int fd = slot_get(run, o->slot);
  uint64_t has;
  if (fd < 0)
    return -1;
  if (locked_attributes(fd, &has) < 0)
    return failed(&run->report, "fstatfs slot %u", o->slot);
  if (has & o->refuse & ~ATTR_ATIME)
    return fail(&run->report, EPERM, "cannot clear locked flags 0x%llx", (unsigned long long)(has & o->refuse & ~ATTR_ATIME));
  if (o->clear & ATTR_ATIME && (has ^ o->set) & (ATTR_ATIME | ATTR_NODIRATIME))
    return fail(&run->report, EPERM, "cannot change locked atime flags 0x%llx", (unsigned long long)(has & (ATTR_ATIME | ATTR_NODIRATIME)));
  struct mount_attr_args attr = {.attr_set = o->set & ~ATTR_ATIME, .attr_clr = o->clear & ~has & ~ATTR_ATIME};
  if (sys_mount_setattr(fd, "", AT_EMPTY_PATH, &attr) < 0)
    return failed(&run->report, "mount_setattr slot %u", o->slot);
  return 0;
}

/* Onto an open O_PATH descriptor: nothing is resolved again. */
static int attach(int tree, int target)
{
  return sys_move_mount(tree, "", target, "", MOVE_FROM_EMPTY_PATH | MOVE_TO_EMPTY_PATH);
}

/* Bits of `strict`. */
#define NO_LINK_ANYWHERE 1u
#define MAY_BE_ON_PROC 2u
enum { CREATE_NOTHING, CREATE_DIRECTORY, CREATE_FILE, CREATE_LIKE_SOURCE };

static int open_target(const struct order_move_mount *o, int tree, int root)
{
  char clean[PATH_MAX];
  const char *path = o->target;
  if (!(o->strict & NO_LINK_ANYWHERE)) {
    if (link_free(root, o->target, clean) < 0)
      return -1;
    path = clean;
  }
  int fd = open_beneath(root, path, O_PATH);
  if (fd >= 0 || errno != ENOENT || o->create == CREATE_NOTHING)
    return fd;
  struct stat st;
  if (fstat(tree, &st) < 0)
    return -1;
  bool directory = o->create == CREATE_LIKE_SOURCE ? S_ISDIR(st.st_mode) : o->create == CREATE_DIRECTORY;
  return directory ? make_directories(root, path, (struct made){.mode = 0755}) : make_file(root, path);
}

/* "strict" promises the very path that was asked for: ".." would be resolved, so it is refused. */
static bool has_dots(const char *path)
{
  for (; *path; path += strcspn(path, "/")) {
    path += strspn(path, "/");
    size_t size = strcspn(path, "/");
    if (size <= 2 && size > 0 && strncmp(path, "..", size) == 0)
      return true;
  }
  return false;
}

/* The kernel says EINVAL of many things; this one is a user's usual mistake. */
static int attach_failed(struct run *run, const char *path, int tree, int target)
{
  struct stat source, st;
  int err = errno;
  if (fstat(tree, &source) == 0 && fstat(target, &st) == 0 && S_ISDIR(source.st_mode) != S_ISDIR(st.st_mode))
    return fail(&run->report, S_ISDIR(source.st_mode) ? ENOTDIR : EISDIR, "move_mount %s: the source is %s and the target is %s", path,
                S_ISDIR(source.st_mode) ? "a directory" : "a file", S_ISDIR(st.st_mode) ? "a directory" : "a file");
  errno = err;
  return failed(&run->report, "move_mount %s", path);
}

/* An image's link can lead to /proc, where what is mounted would fool whoever trusts the kernel's files (CVE-2019-16884). */
static int refuse_proc(struct run *run, const char *path, int target)
{
  struct statfs fs;
  if (fstatfs(target, &fs) < 0)
    return failed(&run->report, "fstatfs %s", path);
  return fs.f_type == PROC_MAGIC ? fail(&run->report, EPERM, "%s leads to a procfs, which must not be covered", path) : 0;
}

int order_move_mount(struct run *run, const struct order_move_mount *o)
{
  int tree = slot_get(run, o->slot), root = slot_get(run, o->root);
  if (tree < 0 || root < 0)
    return -1;
  if (o->create > CREATE_LIKE_SOURCE)
    return fail(&run->report, EINVAL, "create %u", o->create);
  if (o->strict & NO_LINK_ANYWHERE && has_dots(o->target))
    return fail(&run->report, EINVAL, "openat2 %s: \".\" and \"..\" are not allowed here", o->target);
  int target = open_target(o, tree, root);
  if (target < 0 && o->strict & NO_LINK_ANYWHERE && (errno == ELOOP || errno == ENOTDIR))
    return fail(&run->report, errno, "openat2 %s: must be mounted on ordinary directory", o->target);
  if (target < 0)
    return failed(&run->report, "openat2 %s", o->target);
  int result = o->strict & MAY_BE_ON_PROC ? 0 : refuse_proc(run, o->target, target);
  if (result == 0 && attach(tree, target) < 0)
    result = attach_failed(run, o->target, tree, target);
  drop(target);
  return result;
}

int order_attach_host(struct run *run, const struct order_attach_host *o)
{
  int tree = slot_get(run, o->slot);
  if (tree < 0)
    return -1;
  if (sys_move_mount(tree, "", AT_FDCWD, o->target, MOVE_FROM_EMPTY_PATH) < 0)
    return failed(&run->report, "move_mount %s", o->target);
  return 0;
}

int order_unmount(struct run *run, const struct order_unmount *o)
{
  if (umount2(o->path, (int)o->flags | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
    return failed(&run->report, "umount2 %s", o->path);
  return 0;
}

int order_enter_empty_mounts(struct run *run, const struct order_enter_empty_mounts *o)
{
  (void)o;
  if (run->empty_mounts < 0)
    return fail(&run->report, ENOTSUP, "no near-empty mount namespace here");
  if (setns(run->empty_mounts, CLONE_NEWNS) < 0)
    return failed(&run->report, "setns to the near-empty mount namespace");
  return 0;
}

int order_attach_root(struct run *run, const struct order_attach_root *o)
{
  int tree = slot_get(run, o->slot);
  if (tree < 0)
    return -1;
  if (sys_move_mount(tree, "", AT_FDCWD, o->at, MOVE_FROM_EMPTY_PATH) < 0)
    return failed(&run->report, "move_mount %s", o->at);
  int root = open(o->at, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return failed(&run->report, "open %s", o->at);
  return slot_put(run, o->root, root);
}

int order_pivot(struct run *run, const struct order_pivot *o)
{
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (old < 0)
    return failed(&run->report, "open /");
  int result = 0;
  if (fchdir(root) < 0)
    result = failed(&run->report, "fchdir to the rootfs");
  else if (syscall(SYS_pivot_root, ".", ".") < 0)
    result = failed(&run->report, "pivot_root");
  else if (fchdir(old) < 0)
    result = failed(&run->report, "fchdir to the old root");
  /* Were the old root shared, its unmounting would propagate to the host. */
  else if (mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) < 0)
    result = failed(&run->report, "make the old root a slave");
  else if (umount2(".", MNT_DETACH) < 0)
    result = failed(&run->report, "umount2 the old root");
  else if (chdir("/") < 0)
    result = failed(&run->report, "chdir /");
  drop(old);
  return result;
}

/* The host's proc and sysfs, still in sight of a root that is only moved over "/": unmounted, or covered where a user namespace locks them. */
static int hide_kernel_files(struct run *run, const char *kept)
{
  char line[8192], point[PATH_MAX], type[64];
  size_t size = strlen(kept);
  int result = 0;
  FILE *mounts = fopen("/proc/self/mountinfo", "re");
  if (!mounts)
    return failed(&run->report, "open /proc/self/mountinfo");
  while (result == 0 && fgets(line, sizeof line, mounts)) {
    const char *separator = strstr(line, " - ");
    if (!separator || sscanf(separator, " - %63s", type) != 1 || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1)
      continue;
    if ((strcmp(type, "proc") != 0 && strcmp(type, "sysfs") != 0) || (strncmp(point, kept, size) == 0 && point[size] == '/'))
      continue;
    if (umount2(point, MNT_DETACH) < 0 && mount("tmpfs", point, "tmpfs", MS_RDONLY, "size=0") < 0)
      result = failed(&run->report, "hide %s", point);
  }
  fclose(mounts);
  return result;
}

int order_move_root(struct run *run, const struct order_move_root *o)
{
  int root = slot_get(run, o->root);
  char path[PATH_MAX];
  if (root < 0)
    return -1;
  if (fchdir(root) < 0 || !getcwd(path, sizeof path))
    return failed(&run->report, "fchdir to the rootfs");
  if (hide_kernel_files(run, path) < 0)
    return -1;
  if (mount(".", "/", NULL, MS_MOVE, NULL) < 0)
    return failed(&run->report, "move the rootfs over /");
  if (chroot(".") < 0 || chdir("/") < 0)
    return failed(&run->report, "chroot into the rootfs");
  return 0;
}

/* A copy of the slot's mount. A detached mount cannot be copied before Linux 6.15: then it is used up itself, and being attached can be copied from then on. */
static int bind_slot(int source, int target)
{
  int copy = sys_open_tree(source, "", TREE_CLONE | AT_EMPTY_PATH);
  if (copy < 0 && errno != EINVAL)
    return -1;
  int result = attach(copy < 0 ? source : copy, target);
  drop(copy);
  return result;
}

int order_mask(struct run *run, const struct order_mask *o)
{
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int target = open_in(root, o->path, O_PATH);
  if (target < 0)
    return errno == ENOENT || errno == ENOTDIR ? 0 : failed(&run->report, "openat2 %s", o->path);
  struct stat st;
  int result = fstat(target, &st);
  if (result < 0)
    result = failed(&run->report, "fstat %s", o->path);
  else {
    int source = slot_get(run, S_ISDIR(st.st_mode) ? o->dir_slot : o->null_slot);
    if (source < 0)
      result = -1;
    else if (bind_slot(source, target) < 0)
      result = failed(&run->report, "move_mount %s", o->path);
  }
  drop(target);
  return result;
}

int order_readonly(struct run *run, const struct order_readonly *o)
{
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  int target = open_in(root, o->path, O_PATH);
  if (target < 0)
    return errno == ENOENT || errno == ENOTDIR ? 0 : failed(&run->report, "openat2 %s", o->path);
  int copy = sys_open_tree(target, "", TREE_CLONE | TREE_RECURSIVE | AT_EMPTY_PATH), result = 0;
  struct mount_attr_args attr = {.attr_set = ATTR_RDONLY};
  if (copy < 0)
    result = failed(&run->report, "open_tree %s", o->path);
  /* Only adds a flag, so what the mount has locked stays as it is. */
  else if (sys_mount_setattr(copy, "", AT_EMPTY_PATH, &attr) < 0)
    result = failed(&run->report, "mount_setattr %s", o->path);
  else if (attach(copy, target) < 0)
    result = failed(&run->report, "move_mount %s", o->path);
  drop(copy);
  drop(target);
  return result;
}
