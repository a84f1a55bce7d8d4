/*
 * What the C libraries do not declare of Linux: system calls by number and the constants they take. Own definitions,
 * because <linux/mount.h> and <sys/mount.h> cannot both be included with every C library that bosun is built with.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

struct open_how_args { uint64_t flags, mode, resolve; };
#define STAY_ON_MOUNT 0x01
#define NO_MAGIC_LINKS 0x02
#define NO_LINKS 0x04
#define STAY_BENEATH 0x08
#define STAY_IN_ROOT 0x10

struct mount_attr_args { uint64_t attr_set, attr_clr, propagation, userns_fd; };
#define ATTR_RDONLY 0x00000001
#define ATTR_NOSUID 0x00000002
#define ATTR_NODEV 0x00000004
#define ATTR_NOEXEC 0x00000008
#define ATTR_ATIME 0x00000070
#define ATTR_NOATIME 0x00000010
#define ATTR_STRICTATIME 0x00000020
#define ATTR_NODIRATIME 0x00000080
#define ATTR_IDMAP 0x00100000
#define TREE_CLONE 1
#define TREE_RECURSIVE 0x8000 /* AT_RECURSIVE */
#define MOVE_FROM_EMPTY_PATH 0x00000004
#define MOVE_TO_EMPTY_PATH 0x00000040
#define FSOPEN_CLOSE_ON_EXEC 1
#define FSMOUNT_CLOSE_ON_EXEC 1
enum { CONFIG_FLAG = 0, CONFIG_STRING = 1, CONFIG_FD = 5, CONFIG_CREATE = 6 };

struct clone_args_v2 {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#define CLONE_PARENT_FLAG 0x00008000ull
#define CLONE_INTO_CGROUP_FLAG 0x200000000ull
#define CLONE_NEWUSER_FLAG 0x10000000ull

#define PROC_MAGIC 0x9fa0
#define PROC_ROOT_INODE 1
#define DEVPTS_MAGIC 0x1cd1

static inline int sys_openat2(int at, const char *path, const struct open_how_args *how)
{
  return (int)syscall(SYS_openat2, at, path, how, sizeof *how);
}

static inline int sys_open_tree(int at, const char *path, unsigned flags)
{
  return (int)syscall(SYS_open_tree, at, path, flags | O_CLOEXEC);
}

static inline int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
  return (int)syscall(SYS_move_mount, from, from_path, to, to_path, flags);
}

static inline int sys_mount_setattr(int at, const char *path, unsigned flags, const struct mount_attr_args *attr)
{
  return (int)syscall(SYS_mount_setattr, at, path, flags, attr, sizeof *attr);
}

static inline int sys_fsopen(const char *type) { return (int)syscall(SYS_fsopen, type, FSOPEN_CLOSE_ON_EXEC); }

static inline int sys_fsconfig(int fs, unsigned command, const char *key, const char *value, int aux)
{
  return (int)syscall(SYS_fsconfig, fs, command, key, value, aux);
}

static inline int sys_fsmount(int fs, unsigned attributes)
{
  return (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOSE_ON_EXEC, attributes);
}

#endif
