/* Device rules on cgroup v2: a BPF program on the cgroup's directory (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE). */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>

#include "orders.h"

#define MOST_PROGRAMS 64
#define LOG_SIZE 4096

static int sys_bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
  return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static int load(struct run *run, const struct order_cgroup_devices *o)
{
  union bpf_attr attributes = {0};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = (uint64_t)(uintptr_t)o->program.data;
  attributes.insn_cnt = o->program.size / (uint32_t)sizeof(struct bpf_insn);
  attributes.license = (uint64_t)(uintptr_t) "Apache";
  int fd = sys_bpf(BPF_PROG_LOAD, &attributes);
  if (fd >= 0)
    return fd;
  /* Again, for what the verifier has to say. */
  char log[LOG_SIZE] = "";
  int err = errno;
  attributes.log_buf = (uint64_t)(uintptr_t)log;
  attributes.log_size = sizeof log;
  attributes.log_level = 1;
  fd = sys_bpf(BPF_PROG_LOAD, &attributes);
  if (fd >= 0)
    return fd;
  log[strcspn(log, "\n")] = 0;
  errno = err;
  return failed(&run->report, "bpf load of %u instructions for %s: %.200s", attributes.insn_cnt, o->path, log);
}

/* The program that is attached to this very cgroup, if it is the only one; -1: none, or several. */
static int attached(int cgroup)
{
  uint32_t programs[MOST_PROGRAMS];
  union bpf_attr attributes = {0};
  attributes.query.target_fd = (uint32_t)cgroup;
  attributes.query.attach_type = BPF_CGROUP_DEVICE;
  attributes.query.prog_ids = (uint64_t)(uintptr_t)programs;
  attributes.query.prog_cnt = MOST_PROGRAMS;
  if (sys_bpf(BPF_PROG_QUERY, &attributes) < 0 || attributes.query.prog_cnt != 1)
    return -1;
  union bpf_attr by_id = {0};
  by_id.prog_id = programs[0];
  return sys_bpf(BPF_PROG_GET_FD_BY_ID, &by_id);
}

static int attach(int cgroup, int program)
{
  union bpf_attr attributes = {0};
  attributes.target_fd = (uint32_t)cgroup;
  attributes.attach_bpf_fd = (uint32_t)program;
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  int old = attached(cgroup), result = -1;
  if (old >= 0) {
    union bpf_attr replacing = attributes;
    replacing.attach_flags |= BPF_F_REPLACE;
    replacing.replace_bpf_fd = (uint32_t)old;
    result = sys_bpf(BPF_PROG_ATTACH, &replacing);
  }
  /* Before 5.6 there is no replacing: the new one is added, then the old one taken away. */
  if (result < 0)
    result = sys_bpf(BPF_PROG_ATTACH, &attributes);
  if (result == 0 && old >= 0) {
    union bpf_attr detaching = {0};
    detaching.target_fd = (uint32_t)cgroup;
    detaching.attach_bpf_fd = (uint32_t)old;
    detaching.attach_type = BPF_CGROUP_DEVICE;
    /* ENOENT: it was replaced. */
    (void)sys_bpf(BPF_PROG_DETACH, &detaching);
  }
  drop(old);
  return result;
}

int order_cgroup_devices(struct run *run, const struct order_cgroup_devices *o)
{
  if (o->program.size == 0 || o->program.size % sizeof(struct bpf_insn))
    return fail(&run->report, EINVAL, "a program of %u bytes", o->program.size);
  int cgroup = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (cgroup < 0)
    return failed(&run->report, "open %s", o->path);
  int program = load(run, o), result = program < 0 ? -1 : 0;
  if (result == 0 && attach(cgroup, program) < 0)
    result = failed(&run->report, "bpf attach to %s", o->path);
  drop(program);
  drop(cgroup);
  if (result < 0 && o->any && (run->report.err == EPERM || run->report.err == ENOSYS || run->report.err == EINVAL)) {
    run->report.err = 0;
    return 0;
  }
  return result;
}
