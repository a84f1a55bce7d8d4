/* Orders that set what a process is and may do. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "orders.h"

#define MAX_CAPABILITY 63
#define IOPRIO_OF_PROCESS 1

int order_rlimit(struct run *run, const struct order_rlimit *o)
{
  uint64_t limit[2] = {o->soft, o->hard};
  if (syscall(SYS_prlimit64, 0, o->resource, limit, NULL) < 0)
    return failed(&run->report, "prlimit %u", o->resource);
  if (o->resource == RLIMIT_NOFILE)
    run->descriptors[0] = run->descriptors[1] = 0;
  return 0;
}

/* It is the monitor's matter. */
int order_bound_log(struct run *run, const struct order_bound_log *o)
{
  (void)run;
  (void)o;
  return 0;
}

int order_umask(struct run *run, const struct order_umask *o)
{
  (void)run;
  umask(o->mask & 0777);
  return 0;
}

int order_chdir(struct run *run, const struct order_chdir *o)
{
  char path[PATH_MAX];
  if (chdir(o->path) < 0)
    return o->tolerate && (errno == EACCES || errno == ENOENT) ? 0 : failed(&run->report, "chdir %s", o->path);
  /* The raw call: C libraries turn what it says of a place outside the root into an error of their own. */
  long size = syscall(SYS_getcwd, path, sizeof path);
  if (size < 0)
    return failed(&run->report, "getcwd in %s", o->path);
  if (path[0] != '/')
    return fail(&run->report, EPERM, "chdir %s: the directory is outside the container's root", o->path);
  return 0;
}

int order_bounding(struct run *run, const struct order_bounding *o)
{
  for (unsigned long capability = 0; capability <= MAX_CAPABILITY; capability++) {
    int held = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (held < 0)
      break; /* past the kernel's last one */
    if (held && !(o->mask >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
      return failed(&run->report, "prctl PR_CAPBSET_DROP %lu", capability);
  }
  return 0;
}

/* So that the process may reopen its own /dev/stdout. What cannot be given away is left as it is. */
static int own_stdio(struct run *run, uid_t uid)
{
  for (int i = 0; i < 3; i++) {
    int fd = run->stdio[i] >= 0 ? run->stdio[i] : i;
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_uid == uid || !(S_ISFIFO(st.st_mode) || isatty(fd)))
      continue;
    if (fchown(fd, uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL && errno != EROFS)
      return failed(&run->report, "fchown of descriptor %d", i);
  }
  return 0;
}

static int set_groups(struct run *run, const struct u32s *groups)
{
  gid_t *list = calloc(groups->count ? groups->count : 1, sizeof *list);
  if (!list)
    return failed(&run->report, "%u groups", groups->count);
  for (uint32_t i = 0; i < groups->count; i++)
    list[i] = u32s_at(groups, i);
  int result = (int)syscall(SYS_setgroups, (size_t)groups->count, list);
  if (result < 0)
    failed(&run->report, "setgroups (%u groups)", groups->count);
  free(list);
  return result;
}

int order_user(struct run *run, const struct order_user *o)
{
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
    return failed(&run->report, "prctl PR_SET_KEEPCAPS");
  if (o->chown_stdio && own_stdio(run, o->uid) < 0)
    return -1;
  if (!o->keep_groups && set_groups(run, &o->groups) < 0)
    return -1;
  if (syscall(SYS_setresgid, o->gid, o->gid, o->gid) < 0)
    return failed(&run->report, "setresgid %u", o->gid);
  if (syscall(SYS_setresuid, o->uid, o->uid, o->uid) < 0)
    return failed(&run->report, "setresuid %u", o->uid);
  return 0;
}

int order_caps(struct run *run, const struct order_caps *o)
{
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++)
    data[i] = (struct __user_cap_data_struct){
      .effective = (uint32_t)(o->effective >> (32 * i)),
      .permitted = (uint32_t)(o->permitted >> (32 * i)),
      .inheritable = (uint32_t)(o->inheritable >> (32 * i)),
    };
  if (syscall(SYS_capset, &header, data) < 0)
    return failed(&run->report, "capset");
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
    return failed(&run->report, "prctl PR_CAP_AMBIENT_CLEAR_ALL");
  for (unsigned long capability = 0; capability <= MAX_CAPABILITY; capability++)
    if ((o->ambient >> capability & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
      return failed(&run->report, "prctl PR_CAP_AMBIENT_RAISE %lu", capability);
  return 0;
}

int order_no_new_privs(struct run *run, const struct order_no_new_privs *o)
{
  (void)o;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? failed(&run->report, "prctl PR_SET_NO_NEW_PRIVS") : 0;
}

int load_filter(struct run *run, uint64_t flags, struct bytes filter)
{
  size_t count = filter.size / sizeof(struct sock_filter);
  if (count == 0 || count > BPF_MAXINSNS || filter.size % sizeof(struct sock_filter) != 0)
    return fail(&run->report, EINVAL, "a filter of %u bytes", filter.size);
  struct sock_fprog program = {.len = (unsigned short)count, .filter = (struct sock_filter *)(uintptr_t)filter.data};
  /* While the filter has no say in it. */
  if (restore_descriptor_limit(run) < 0)
    return -1;
  bool listens = run->listener_index != NO_ORDER;
  if (listens)
    flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
  long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned)flags, &program);
  if (listener < 0)
    return failed(&run->report, "seccomp (%zu instructions, flags 0x%llx)", count, (unsigned long long)flags);
  if (!listens)
    return 0;
  int result = pass_on_listener(run, (int)listener);
  run->listener_index = NO_ORDER;
  /* Not closed here, where the filter has a say in it: it is close-on-exec. */
  return result;
}

int order_seccomp(struct run *run, const struct order_seccomp *o) { return load_filter(run, o->flags, o->filter); }

int order_personality(struct run *run, const struct order_personality *o)
{
  if (personality((unsigned long)o->value) < 0)
    return failed(&run->report, "personality 0x%llx", (unsigned long long)o->value);
  return 0;
}

struct scheduler_attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

int order_scheduler(struct run *run, const struct order_scheduler *o)
{
  struct scheduler_attributes attributes = {
    .size = sizeof attributes,
    .policy = o->policy,
    .flags = o->flags,
    .nice = (int32_t)o->nice,
    .priority = o->priority,
    .runtime = o->runtime,
    .deadline = o->deadline,
    .period = o->period,
  };
  if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
    return failed(&run->report, "sched_setattr policy %u", o->policy);
  return 0;
}

int order_ioprio(struct run *run, const struct order_ioprio *o)
{
  if (syscall(SYS_ioprio_set, IOPRIO_OF_PROCESS, 0, o->value) < 0)
    return failed(&run->report, "ioprio_set 0x%x", o->value);
  return 0;
}

int order_mempolicy(struct run *run, const struct order_mempolicy *o)
{
  uint64_t nodes[16] = {0};
  if (o->nodes.size > sizeof nodes)
    return fail(&run->report, EINVAL, "a mask of %u bytes", o->nodes.size);
  memcpy(nodes, o->nodes.data, o->nodes.size);
  /* The count is of bits, and one more than they are. */
  unsigned long bits = o->nodes.size ? o->nodes.size * 8ul + 1 : 0;
  if (syscall(SYS_set_mempolicy, (int)o->mode, o->nodes.size ? nodes : NULL, bits) < 0)
    return failed(&run->report, "set_mempolicy 0x%x", o->mode);
  return 0;
}

#define MOST_CPUS 8192

int order_affinity(struct run *run, const struct order_affinity *o)
{
  uint8_t mask[MOST_CPUS / 8];
  if (o->mask.size > sizeof mask)
    return fail(&run->report, EINVAL, "a mask of %u bytes", o->mask.size);
  memset(mask, o->mask.size ? 0 : 0xff, sizeof mask);
  memcpy(mask, o->mask.data, o->mask.size);
  if (syscall(SYS_sched_setaffinity, 0, sizeof mask, mask) < 0)
    return failed(&run->report, "sched_setaffinity");
  return 0;
}

/* The sixth field of the line whose third is `uid` (passwd(5)). */
static bool home_of(const char *text, uint32_t uid, char home[HOME_MAX])
{
  for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
    const char *field[6] = {line};
    size_t size = strcspn(line, "\n");
    int found = 1;
    for (size_t i = 0; i < size && found < 6; i++)
      if (line[i] == ':')
        field[found++] = line + i + 1;
    if (found < 6 || field[2] + strspn(field[2], "0123456789") + 1 != field[3] || strtoul(field[2], NULL, 10) != uid)
      continue;
    size_t length = (size_t)(line + size - field[5]), end = 0;
    while (end < length && field[5][end] != ':')
      end++;
    if (end == 0 || end >= HOME_MAX)
      return false;
    memcpy(home, field[5], end);
    home[end] = 0;
    return true;
  }
  return false;
}

#define PASSWD_MAX (1u << 20)

int order_home(struct run *run, const struct order_home *o)
{
  struct buffer text = {0};
  int root = slot_get(run, o->root);
  if (root < 0)
    return -1;
  strcpy(run->home, "/");
  /* An image without the file, or with something else in its place, is as good as one that does not know the user. */
  int fd = open_regular(root, "/etc/passwd");
  if (fd >= 0 && append_file(&text, fd, PASSWD_MAX) > 0) {
    buffer_append(&text, "", 1);
    home_of((const char *)text.data, o->uid, run->home);
  }
  drop(fd);
  buffer_free(&text);
  return 0;
}
