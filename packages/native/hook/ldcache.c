/*
 * update-ldcache: the host's ldconfig on the container's files. It runs from a sealed copy, in namespaces of its own, with
 * the container's root as its root: what it is given to read there can neither reach the host nor change the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hook.h"

#define CONFIG "/etc/ld.so.conf"
#define DROP_INS "/etc/ld.so.conf.d"
#define CACHE "/etc/ld.so.cache"
#define MAX_CONFIG_SIZE (1u << 20)
#define MAX_FILES 1000 /* of configuration, by includes */

#if defined __x86_64__
#define MUSL_PATH "/etc/ld-musl-x86_64.path"
static const char *const debian_dirs[] = {"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib", NULL};
static const char *const other_dirs[] = {"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/libx32", "/usr/libx32", NULL};
#elif defined __aarch64__
#define MUSL_PATH "/etc/ld-musl-aarch64.path"
static const char *const debian_dirs[] = {"/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib", NULL};
static const char *const other_dirs[] = {"/lib", "/usr/lib", "/lib64", "/usr/lib64", NULL};
#else
#error "x86_64 and aarch64 are supported"
#endif

struct list { char **at; size_t count; };

static void add(struct list *list, const char *text)
{
  for (size_t i = 0; i < list->count; i++)
    if (strcmp(list->at[i], text) == 0)
      return;
  char **more = realloc(list->at, (list->count + 1) * sizeof *more), *copy = strdup(text);
  if (!more || !copy) {
    failed("%s", text);
    _exit(70);
  }
  list->at = more;
  list->at[list->count++] = copy;
}

static char *joined(const struct list *list)
{
  size_t size = 1, at = 0;
  for (size_t i = 0; i < list->count; i++)
    size += strlen(list->at[i]) + 1;
  char *text = malloc(size);
  for (size_t i = 0; text && i < list->count; i++)
    at += (size_t)snprintf(text + at, size - at, "%s\n", list->at[i]);
  return text;
}

static bool is_file(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* --- what is configured already ------------------------------------------------------------------------------------------ */

static void read_line(char *line, struct list *dirs, struct list *files)
{
  line += strspn(line, " \t\r");
  for (size_t end = strlen(line); end > 0 && strchr(" \t\r", line[end - 1]);)
    line[--end] = 0;
  if (!*line || *line == '#')
    return;
  if (strncmp(line, "include ", 8) != 0) {
    add(dirs, line);
    return;
  }
  glob_t found;
  if (glob(line + 8, 0, NULL, &found) != 0)
    return;
  for (size_t i = 0; i < found.gl_pathc; i++)
    add(files, found.gl_pathv[i]);
  globfree(&found);
}

static void read_config(const char *path, struct list *dirs, struct list *files)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat st;
  size_t size;
  char *text = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read_all(fd, MAX_CONFIG_SIZE, &size) : NULL, *rest = text, *line;
  while (text && (line = strsep(&rest, "\n")))
    read_line(line, dirs, files);
  free(text);
  if (fd >= 0)
    close(fd);
}

static struct list configured(const char *const *system)
{
  struct list dirs = {0}, files = {0};
  for (; *system; system++)
    add(&dirs, *system);
  add(&files, CONFIG);
  for (size_t i = 0; i < files.count && i < MAX_FILES; i++)
    read_config(files.at[i], &dirs, &files);
  return dirs;
}

/* --- inside --------------------------------------------------------------------------------------------------------------- */

static int ensure_config(void)
{
  const char *text = "include " DROP_INS "/*.conf\n";
  int fd = open(CONFIG, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0)
    return errno == EEXIST ? 0 : failed("failed to create %s", CONFIG);
  int result = write_all(fd, text, strlen(text)) < 0 ? failed("failed to write %s", CONFIG) : 0;
  close(fd);
  return result;
}

static int write_drop_in(const char *prefix, const struct list *dirs)
{
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  char *text = joined(dirs);
  int result = root < 0 || !text ? failed("%s", DROP_INS) : dirs->count == 0 ? 0 : write_new_in(root, DROP_INS, prefix, text);
  free(text);
  close(root);
  return result;
}

static int write_musl_path(const struct list *dirs)
{
  if (dirs->count == 0 || !is_file("/etc/alpine-release"))
    return 0;
  int fd = open(MUSL_PATH, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644);
  char *text = joined(dirs);
  int result = fd < 0 || !text || write_all(fd, text, strlen(text)) < 0 ? failed("failed to write %s", MUSL_PATH) : 0;
  free(text);
  if (fd >= 0)
    close(fd);
  return result;
}

static int configure(const struct texts *folders)
{
  const char *const *system = is_file("/etc/debian_version") ? debian_dirs : other_dirs;
  if (ensure_config() < 0)
    return -1;
  struct list known = configured(system), own = {0}, expected = {0}, musl = {0};
  for (size_t i = 0; i < folders->count; i++) {
    size_t before = known.count;
    add(&known, folders->at[i]);
    if (known.count > before)
      add(&own, folders->at[i]);
  }
  for (; *system; system++)
    add(&expected, *system);
  for (size_t i = 0; i < own.count; i++)
    add(&musl, own.at[i]);
  for (size_t i = 0; i < expected.count; i++)
    add(&musl, expected.at[i]);
  /* First of all the driver's; last what this container expects to be searched, however the host's ldconfig was built. */
  if (write_drop_in("00-nvcr", &own) < 0 || write_drop_in("zz-nvcr", &expected) < 0)
    return -1;
  return write_musl_path(&musl);
}

/* In these mounts, of which `root` knows nothing: pivot_root wants its own. */
static int go_to(int root, const char *path)
{
  struct stat wanted, there;
  if (mount("", "/", "", MS_SLAVE | MS_REC, NULL) < 0)
    return failed("make the mounts slaves");
  if (fstat(root, &wanted) < 0 || chdir(path) < 0 || stat(".", &there) < 0)
    return failed("enter the container's root %s", path);
  return wanted.st_dev == there.st_dev && wanted.st_ino == there.st_ino ? 0 : refuse("%s: another directory than a moment ago", path);
}

static int enter(int root, const char *path)
{
  if (go_to(root, path) < 0)
    return -1;
  if (syscall(SYS_pivot_root, ".", ".") == 0)
    return umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ? failed("leave the host's root") : 0;
  if (errno != EINVAL && errno != EBUSY)
    return failed("pivot_root");
  /* No mount of its own (EBUSY), or a host on an initramfs: moved over the root instead. */
  if (mount(path, path, "", MS_BIND | MS_REC, NULL) < 0 || chdir(path) < 0)
    return failed("bind the container's root on itself");
  if (syscall(SYS_pivot_root, ".", ".") == 0)
    return umount2(".", MNT_DETACH) < 0 || chdir("/") < 0 ? failed("leave the host's root") : 0;
  if (mount(path, "/", "", MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
    return failed("move the container's root");
  return 0;
}

/* A copy that nothing can write to, and that exists nowhere in the container. */
static int sealed_copy(const char *path)
{
  struct stat st;
  int from = open(path, O_RDONLY | O_CLOEXEC), to = -1;
  if (from < 0 || fstat(from, &st) < 0)
    return failed("error reading host ldconfig %s", path);
  to = memfd_create("ldconfig", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  for (off_t left = st.st_size; to >= 0 && left > 0;) {
    ssize_t sent = sendfile(to, from, NULL, (size_t)left);
    if (sent <= 0)
      return failed("copy %s", path);
    left -= sent;
  }
  close(from);
  if (to < 0 || fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
    return failed("seal the copy of %s", path);
  return to;
}

static void inside(int root, int program, const struct options *options) __attribute__((noreturn));
static void inside(int root, int program, const struct options *options)
{
  if (enter(root, options->root) < 0 || configure(&options->folders) < 0)
    _exit(1);
  char *const arguments[] = {"ldconfig", "-f", CONFIG, "-C", CACHE, NULL}, *const environment[] = {NULL};
  syscall(SYS_execveat, program, "", arguments, environment, AT_EMPTY_PATH);
  failed("run ldconfig");
  _exit(127);
}

/* Where ldconfig is Ubuntu's wrapper, which is a script, the program has this name. */
static const char *real_ldconfig(const char *path, char out[PATH_MAX])
{
  if ((size_t)snprintf(out, PATH_MAX, "%s.real", *path == '@' ? path + 1 : path) < PATH_MAX && is_file(out))
    return out;
  return *path == '@' ? path + 1 : path;
}

int update_ldcache(int root, const struct options *options)
{
  char path[PATH_MAX];
  if (!*options->ldconfig)
    return refuse("--ldconfig-path: must not be empty");
  int program = sealed_copy(real_ldconfig(options->ldconfig, path));
  if (program < 0)
    return -1;
  unsigned long flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | SIGCHLD;
  /* As fork: raw, because the C library's clone wants a stack. */
  pid_t pid = (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
  if (pid == 0)
    inside(root, program, options);
  if (pid < 0)
    return failed("make namespaces for ldconfig");
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR)
      return failed("wait for ldconfig");
  if (WIFSIGNALED(status))
    return refuse("ldconfig ended by signal %d", WTERMSIG(status));
  return WEXITSTATUS(status) == 0 ? 0 : refuse("ldconfig ended with status %d", WEXITSTATUS(status));
}
