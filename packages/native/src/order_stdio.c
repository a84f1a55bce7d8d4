/* The container's terminal. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>

#include "orders.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif
#define PTMX_INODE 2
#define PTMX_MAJOR 5
#define PTMX_MINOR 2
#define NULL_MAJOR 1
#define NULL_MINOR 3

static bool is_ptmx(int fd)
{
  struct stat st;
  struct statfs fs;
  return fstat(fd, &st) == 0 && fstatfs(fd, &fs) == 0 && fs.f_type == DEVPTS_MAGIC && st.st_ino == PTMX_INODE &&
         S_ISCHR(st.st_mode) && st.st_rdev == makedev(PTMX_MAJOR, PTMX_MINOR);
}

/* A new pty of the container's own devpts. A rootfs could put another device there, so it is looked at before it is opened, and after. */
static int open_master(struct run *run, int root)
{
  const uint64_t how[] = {O_PATH, O_RDWR | O_NOCTTY};
  int fd = -1;
  for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
    drop(fd);
    fd = open_in(root, "/dev/pts/ptmx", how[i] | O_NOFOLLOW);
    if (fd < 0)
      return failed(&run->report, "openat2 /dev/pts/ptmx");
    if (!is_ptmx(fd)) {
      close(fd);
      return fail(&run->report, ENODEV, "/dev/pts/ptmx is not a devpts's");
    }
  }
  return fd;
}

int send_terminal(struct run *run, int master)
{
  char byte = SYNC_TERMINAL;
  struct iovec part = {.iov_base = &byte, .iov_len = 1};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  memset(&control, 0, sizeof control);
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &master, sizeof master);
  return sendmsg(run->sync_fd, &message, MSG_NOSIGNAL) == 1 ? 0 : failed(&run->report, "send the terminal to the monitor");
}

/* Descriptor on descriptor: no path that the rootfs could bend is resolved in between. */
static int bind_console(struct run *run, int root, int slave)
{
  char name[NAME_MAX + 1];
  int parent = open_parent(root, "/dev/console", name);
  if (parent < 0)
    return failed(&run->report, "openat2 /dev/console");
  int made = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666), result = 0;
  if (made < 0 && errno != EEXIST)
    result = failed(&run->report, "create /dev/console");
  drop(made);
  int target = result < 0 ? -1 : openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  struct stat st;
  int tree = -1;
  if (result < 0)
    ;
  else if (target < 0 || fstat(target, &st) < 0)
    result = failed(&run->report, "open /dev/console");
  else if (S_ISLNK(st.st_mode))
    result = fail(&run->report, ELOOP, "/dev/console is a symlink");
  else if ((tree = sys_open_tree(slave, "", TREE_CLONE | AT_EMPTY_PATH)) < 0)
    result = failed(&run->report, "open_tree of the terminal");
  else if (sys_move_mount(tree, "", target, "", MOVE_FROM_EMPTY_PATH | MOVE_TO_EMPTY_PATH) < 0)
    result = failed(&run->report, "move_mount /dev/console");
  drop(tree);
  drop(target);
  drop(parent);
  return result;
}

static int open_slave(struct run *run, int master, const struct order_console *o)
{
  int unlocked = 0;
  if (ioctl(master, TIOCSPTLCK, &unlocked) < 0)
    return failed(&run->report, "unlock the terminal");
  int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0)
    return failed(&run->report, "open the terminal's other end");
  struct winsize size = {.ws_row = (unsigned short)o->rows, .ws_col = (unsigned short)o->columns};
  if (o->rows && o->columns && ioctl(master, TIOCSWINSZ, &size) < 0) {
    drop(slave);
    return failed(&run->report, "set the terminal's size");
  }
  return slave;
}

static int take_over(struct run *run, int slave)
{
  if (ioctl(slave, TIOCSCTTY, 0) < 0)
    return failed(&run->report, "make the terminal the controlling one");
  for (int i = 0; i < 3; i++) {
    drop(run->stdio[i]);
    run->stdio[i] = -1;
    if (dup2(slave, i) < 0)
      return failed(&run->report, "dup2 the terminal to %d", i);
  }
  return 0;
}

int order_console(struct run *run, const struct order_console *o)
{
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  if (run->sync_fd < 0)
    return fail(&run->report, EINVAL, "no monitor to give the terminal to");
  int master = open_master(run, root);
  if (master < 0)
    return -1;
  int slave = open_slave(run, master, o);
  int result = slave < 0 ? -1 : 0;
  if (result == 0 && o->bind_console)
    result = bind_console(run, root, slave);
  if (result == 0)
    result = send_terminal(run, master);
  if (result == 0)
    result = take_over(run, slave);
  if (slave > 2)
    drop(slave);
  drop(master);
  return result;
}

static bool is_null(int fd)
{
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(NULL_MAJOR, NULL_MINOR);
}

/* The root's /dev/null, -1 where it has none: something else there is not opened (CVE-2025-31133). */
static int open_null(void)
{
  int path = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
  bool is = path >= 0 && is_null(path);
  drop(path);
  int fd = is ? open("/dev/null", O_RDWR | O_NOFOLLOW | O_CLOEXEC) : -1;
  if (fd >= 0 && is_null(fd))
    return fd;
  drop(fd);
  return -1;
}

int order_reopen_null(struct run *run, const struct order_reopen_null *o)
{
  int null = -1;
  (void)o;
  for (int i = 0; i < 3; i++) {
    int fd = run->stdio[i] >= 0 ? run->stdio[i] : i;
    if (!is_null(fd))
      continue;
    if (null < 0 && (null = open_null()) < 0)
      return 0;
    if (dup3(null, fd, fd > 2 ? O_CLOEXEC : 0) < 0)
      return failed(&run->report, "dup3 /dev/null");
  }
  drop(null);
  return 0;
}
