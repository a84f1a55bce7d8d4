/* The end of a container's plan: becoming its process, or the reaping PID 1 of a pod. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "orders.h"
#include "run.h"

#define FIRST_FD 3
#define SIGNALS 64
#define SIGNAL_SET_SIZE 8

/* First out of the way of one another: stdio[2] may be 1. */
int place_stdio(struct run *run)
{
  int high[3];
  for (int i = 0; i < 3; i++) {
    high[i] = run->stdio[i] < 0 ? -1 : fcntl(run->stdio[i], F_DUPFD_CLOEXEC, FIRST_FD);
    if (run->stdio[i] >= 0 && high[i] < 0)
      return failed(&run->report, "stdio %d", i);
  }
  for (int i = 0; i < 3; i++) {
    if (high[i] >= 0 && dup2(high[i], i) < 0)
      return failed(&run->report, "dup2 stdio %d", i);
    drop(high[i]);
    run->stdio[i] = -1;
  }
  return 0;
}

/* Those that came in at 3 and up from whoever asked for the process; one of bosun's own is none of them. */
static int keep_fds(struct run *run, unsigned count)
{
  for (unsigned i = 0; i < count; i++) {
    int fd = FIRST_FD + (int)i, flags = fcntl(fd, F_GETFD);
    if (flags < 0 || flags & FD_CLOEXEC)
      return fail(&run->report, EBADF, "descriptor %d is to be preserved and is not there", fd);
  }
  return 0;
}

int order_inherit(struct run *run, const struct order_inherit *o)
{
  int fd = slot_get(run, o->slot);
  if (fd < 0)
    return -1;
  if (o->number >= INHERITED)
    return fail(&run->report, EINVAL, "there is room for %d inherited descriptors, not %u", INHERITED, o->number + 1);
  if (fcntl(INHERITED_FIRST + (int)o->number, F_GETFD) >= 0)
    return fail(&run->report, EBUSY, "descriptor %u is in use", INHERITED_FIRST + o->number);
  if (dup3(fd, INHERITED_FIRST + (int)o->number, 0) < 0)
    return failed(&run->report, "dup3 slot %u", o->slot);
  run->inherited |= 1u << o->number;
  return 0;
}

/*
 * Really closed, not marked: an executable named /proc/self/fd/N must not be found (CVE-2024-21626). Only the way to tell
 * the monitor stays, and to the process set aside where a filter's listener goes to it; they are sockets, and close-on-exec.
 */
static int close_range_of(unsigned first, unsigned last)
{
  if (syscall(SYS_close_range, first, last, 0) == 0)
    return 0;
  /* A filter that was loaded before this may be older than the call. Descriptors are few, and the lowest free one is always taken. */
  if (errno != EPERM && errno != ENOSYS)
    return -1;
  for (unsigned fd = first; fd <= last && fd < FIRST_FD + 2 * SLOTS; fd++)
    close((int)fd);
  return 0;
}

/* Ascending; -1 is none. */
static void keep_in_order(int *kept, int *count, int fd)
{
  if (fd < 0)
    return;
  int at = (*count)++;
  for (; at > 0 && kept[at - 1] > fd; at--)
    kept[at] = kept[at - 1];
  kept[at] = fd;
}

static int close_others(struct run *run, unsigned first)
{
  int kept[2 + INHERITED], count = 0;
  keep_in_order(kept, &count, run->sync_fd);
  keep_in_order(kept, &count, run->listener_index == NO_ORDER ? -1 : run->aside_fd);
  for (int i = 0; i < INHERITED; i++)
    if (run->inherited & 1u << i)
      keep_in_order(kept, &count, INHERITED_FIRST + i);
  for (int i = 0; i < count; i++) {
    unsigned fd = (unsigned)kept[i];
    if (fd < first)
      return fail(&run->report, EBADF, "%u descriptors cannot be preserved", first - FIRST_FD);
    if (fd > first && close_range_of(first, fd - 1) < 0)
      return failed(&run->report, "close_range");
    first = fd + 1;
  }
  if (close_range_of(first, ~0u) < 0)
    return failed(&run->report, "close_range");
  memset(run->slots, -1, sizeof run->slots);
  return 0;
}

/* By the raw call: C libraries keep some signals to themselves, which whoever started us may have ignored. */
static int reset_signals(struct run *run)
{
  const uint8_t defaults[64] = {0};
  for (int signal_number = 1; signal_number <= SIGNALS; signal_number++)
    if (signal_number != SIGKILL && signal_number != SIGSTOP &&
        syscall(SYS_rt_sigaction, signal_number, defaults, NULL, SIGNAL_SET_SIZE) < 0)
      return failed(&run->report, "rt_sigaction %d", signal_number);
  uint64_t none = 0;
  if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, SIGNAL_SET_SIZE) < 0)
    return failed(&run->report, "rt_sigprocmask");
  return 0;
}

char **vector(struct strs items)
{
  char **list = calloc((size_t)items.count + 1, sizeof *list);
  const char *text;
  if (!list)
    return NULL;
  for (size_t i = 0; (text = strs_next(&items)); i++)
    list[i] = (char *)(uintptr_t)text;
  return list;
}

/* HOME is what programs cannot do without: with one that the plan had looked up, where its environment has none. */
char **environment_of(const struct run *run, struct strs env)
{
  static char variable[sizeof "HOME=" + HOME_MAX];
  char **list = calloc((size_t)env.count + 2, sizeof *list);
  const char *text;
  size_t count = 0;
  bool found = false;
  if (!list)
    return NULL;
  while ((text = strs_next(&env))) {
    found = found || strncmp(text, "HOME=", 5) == 0;
    list[count++] = (char *)(uintptr_t)text;
  }
  if (!found && *run->home) {
    snprintf(variable, sizeof variable, "HOME=%s", run->home);
    list[count] = variable;
  }
  return list;
}

int restore_descriptor_limit(struct run *run)
{
  if (!run->descriptors[0] && !run->descriptors[1])
    return 0;
  if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, run->descriptors, NULL) < 0)
    return failed(&run->report, "prlimit RLIMIT_NOFILE");
  run->descriptors[0] = run->descriptors[1] = 0;
  return 0;
}

static const char *path_variable(struct strs env)
{
  const char *text;
  while ((text = strs_next(&env)))
    if (strncmp(text, "PATH=", 5) == 0)
      return text + 5;
  return "";
}

/* 0: can be run as far as can be told without running it; else an errno. */
static int judge(const char *path)
{
  struct stat st;
  if (stat(path, &st) < 0)
    return errno;
  if (S_ISDIR(st.st_mode))
    return EISDIR;
  if (!S_ISREG(st.st_mode))
    return EACCES;
  /* By what this process is now: access(2) would not count capabilities. A filter that has no say for it leaves it to execve. */
  if (syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS) == 0 || errno == ENOSYS || errno == EPERM)
    return 0;
  return errno;
}

/* As other runtimes, and those who read their messages, spell it. */
static const char *go_error(int err)
{
  switch (err) {
  case ENOENT: return "no such file or directory";
  case ENOTDIR: return "not a directory";
  case EISDIR: return "is a directory";
  case ELOOP: return "too many levels of symbolic links";
  default: return strerror(err);
  }
}

static int search(struct run *run, const char *name, const char *path, char found[PATH_MAX])
{
  bool denied = false;
  if (*name == 0 || *path == 0)
    return fail(&run->report, ENOENT, "exec %s: executable file not found in $PATH", *name ? name : "\"\"");
  for (const char *at = path;; at++) {
    size_t size = strcspn(at, ":");
    int written = size == 0 ? snprintf(found, PATH_MAX, "./%s", name) : snprintf(found, PATH_MAX, "%.*s/%s", (int)size, at, name);
    int err = written >= PATH_MAX ? ENAMETOOLONG : judge(found);
    if (err == 0)
      return 0;
    denied = denied || err == EACCES || err == EISDIR;
    at += size;
    if (*at == 0)
      break;
  }
  if (denied)
    return fail(&run->report, EACCES, "exec %s: permission denied", name);
  return fail(&run->report, ENOENT, "exec %s: executable file not found in $PATH", name);
}

/* In the words of runc, which callers tell failures apart by. */
int order_check_program(struct run *run, const struct order_check_program *o)
{
  char found[PATH_MAX];
  bool denied = false;
  const char *path = path_variable(o->env);
  if (strchr(o->name, '/')) {
    int err = judge(o->name);
    if (err == EACCES || err == EISDIR)
      return fail(&run->report, err, "exec: \"%s\": %s", o->name, err == EISDIR ? go_error(err) : "permission denied");
    errno = err;
    return err == 0 ? 0 : fail(&run->report, err, "exec: \"%s\": stat %s: %s", o->name, o->name, go_error(err));
  }
  for (const char *at = path; *o->name && *path;) {
    size_t size = strcspn(at, ":");
    int written = snprintf(found, sizeof found, "%.*s/%s", size ? (int)size : 1, size ? at : ".", o->name);
    int err = written >= PATH_MAX ? ENAMETOOLONG : judge(found);
    if (err == 0)
      return 0;
    denied = denied || err == EACCES || err == EISDIR;
    at += size;
    if (*at == 0)
      break;
    at++;
  }
  if (denied)
    return fail(&run->report, EACCES, "exec: \"%s\": permission denied", o->name);
  return fail(&run->report, ENOENT, "exec: \"%s\": executable file not found in $PATH", o->name);
}

static int exec_failed(struct run *run, const char *path)
{
  int err = errno;
  switch (err) {
  case ENOENT: {
    bool there = faccessat(AT_FDCWD, path, F_OK, 0) == 0;
    return fail(&run->report, err, there ? "exec %s: its interpreter is missing" : "exec %s: no such file or directory", path);
  }
  case EACCES: return fail(&run->report, err, "exec %s: permission denied", path);
  case ENOEXEC: return fail(&run->report, err, "exec %s: exec format error", path);
  }
  errno = err;
  return failed(&run->report, "exec %s", path);
}

int order_exec(struct run *run, const struct order_exec *o)
{
  struct strs argv = o->argv;
  const char *path = strs_next(&argv);
  char **arguments = vector(o->argv), **environment = environment_of(run, o->env), found[PATH_MAX];
  if (run->sync_fd < 0 && !run->let_go)
    return fail(&run->report, EINVAL, "no monitor to exec under");
  if (!path)
    return fail(&run->report, EINVAL, "argv is empty");
  if (!arguments || !environment)
    return fail(&run->report, ENOMEM, "%u arguments and %u variables", o->argv.count, o->env.count);
  if (o->keep > 1024 || keep_fds(run, o->keep) < 0)
    return fail(&run->report, EBADF, "%u descriptors to preserve", o->keep);
  if (place_stdio(run) < 0 || close_others(run, FIRST_FD + o->keep) < 0 || reset_signals(run) < 0 ||
      restore_descriptor_limit(run) < 0)
    return -1;
  if (!strchr(path, '/')) {
    if (search(run, path, path_variable(o->env), found) < 0)
      return -1;
    path = found;
  }
  uint32_t index = run->index;
  if (run->filter.data) {
    run->index = run->filter_index;
    if (load_filter(run, run->filter_flags, run->filter) < 0)
      return -1;
    run->index = index;
  }
  execve(path, arguments, environment);
  return exec_failed(run, path);
}

int settle(struct run *run)
{
  if (run->sync_fd < 0)
    return fail(&run->report, EINVAL, "no monitor to stay under");
  return place_stdio(run) < 0 || close_others(run, FIRST_FD) < 0 || reset_signals(run) < 0 || restore_descriptor_limit(run) < 0 ? -1 : 0;
}

static void reap_all(void)
{
  while (waitpid(-1, NULL, WNOHANG) > 0)
    ;
}

static int block_signals(sigset_t *set)
{
  sigemptyset(set);
  sigaddset(set, SIGCHLD);
  sigaddset(set, SIGTERM);
  sigaddset(set, SIGINT);
  return sigprocmask(SIG_SETMASK, set, NULL);
}

/* These signals are blocked. */
static void reap_until_ended(const sigset_t *set) __attribute__((noreturn));
static void reap_until_ended(const sigset_t *set)
{
  for (;;) {
    reap_all();
    int got = sigwaitinfo(set, NULL);
    if (got == SIGTERM || got == SIGINT)
      _exit(0);
  }
}

void pause_main(void)
{
  sigset_t set;
  if (block_signals(&set) < 0)
    _exit(1);
  reap_until_ended(&set);
}

int order_reap(struct run *run, const struct order_reap *o)
{
  (void)o;
  if (run->sync_fd < 0)
    return fail(&run->report, EINVAL, "no monitor to reap under");
  if (place_stdio(run) < 0 || reset_signals(run) < 0 || restore_descriptor_limit(run) < 0)
    return -1;
  /* Whoever looks at the pod's processes is to see what this one is. */
  prctl(PR_SET_NAME, "bosun-reaper");
  sigset_t set;
  if (block_signals(&set) < 0)
    return failed(&run->report, "sigprocmask");
  /* With the way to the monitor closes what tells it that this has begun. */
  syscall(SYS_close_range, FIRST_FD, ~0u, 0);
  reap_until_ended(&set);
}
