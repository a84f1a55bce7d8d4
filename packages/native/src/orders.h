/* What the orders share. Each `order_NAME` returns 0, or -1 with run->report filled in. */
#ifndef ORDERS_H
#define ORDERS_H

#include <limits.h>

#include "kernel.h"
#include "orders.gen.h"

#define X(name, NAME, code) int order_##name(struct run *run, const struct order_##name *o);
ORDERS(X)
#undef X

union any_order {
#define X(name, NAME, code) struct order_##name name;
  ORDERS(X)
#undef X
};

/* The flag of an order's output: what it was to tell of is absent. */
#define OUTPUT_MISSING 1

/* plan_check.c: walking an encoded plan. */
bool plan_begin(const uint8_t *plan, size_t size, uint32_t *count, struct reader *orders, struct report *report);
bool plan_next(struct reader *orders, uint16_t *code, struct reader *body);
/* False: no such order, or fields that do not fit it. */
bool plan_decode(uint16_t code, const struct reader *body, union any_order *order);

/* plan.c: the descriptor table. */
int slot_get(struct run *run, uint32_t slot);         /* -1 with report: out of range or empty */
int slot_put(struct run *run, uint32_t slot, int fd); /* takes the descriptor in any case; closes what was there */
void drop(int fd);                                    /* close that keeps errno; nothing for -1 */
/* console_socket.c: sends the text with the descriptor (SCM_RIGHTS); 0, or -1 with errno. */
int pass_descriptor(int socket, int fd, const void *text, size_t size);
/* Sends SYNC_FAILED with the report and ends the process. */
void give_up(struct run *run) __attribute__((noreturn));

/*
 * resolve.c: paths inside a root directory that whoever filled it may have booby-trapped. What is used in the end is always
 * opened by a path with neither links nor "..", so that there is nothing to be led out of the root by. All return -1 with
 * errno. `path` may begin with "/" (the root).
 */
int open_beneath(int root, const char *path, uint64_t flags);           /* no link anywhere: ELOOP */
int link_free(int root, const char *path, char result[PATH_MAX]);       /* follows links inside the root; the end may be missing */
int open_in(int root, const char *path, uint64_t flags);                /* both */
struct made { mode_t mode; uid_t uid; gid_t gid; };
int make_directories(int root, const char *link_free_path, struct made last); /* O_PATH of the last one; made parents are 0755 root */
int make_file(int root, const char *link_free_path);                    /* empty, 0644; O_PATH */
/* O_PATH of the directory that holds the last component (made where missing), which goes to `name`. */
int open_parent(int root, const char *path, char name[NAME_MAX + 1]);

/* order_file.c. For reading, inside the root; -1 with errno, EINVAL: it is not a regular file. */
int open_regular(int root, const char *path);
ssize_t append_file(struct buffer *out, int fd, uint32_t max); /* at most `max` bytes; how many, or -1 with errno */

/* order_clone.c and order_process.c, used by the end of a plan. */
int sync_send(struct run *run, const void *data, size_t size);
int load_filter(struct run *run, uint64_t flags, struct bytes filter);
/* Given back where no order has set the limit: it was raised for the plan's own needs alone. Once. */
int restore_descriptor_limit(struct run *run);
/* A vector for execve, or NULL; never freed: the process ends either way. */
char **vector(struct strs items);
/* order_exec.c: what `exec` does to its process, for orders that stay bosun: stdio, descriptors, signals, limits. */
int settle(struct run *run);
/* The same for an environment, with the HOME that the plan had looked up where it has none. */
char **environment_of(const struct run *run, struct strs env);
/* order_exec.c: the monitor's descriptors become 0-2. */
int place_stdio(struct run *run);
/* seal.c: empties this process's command line and environment, which others may read in /proc. */
void forget_arguments(void);
/* order_hook.c: gives the descriptor of a filter's listener to whom the plan named. */
int pass_on_listener(struct run *run, int listener);
/* order_hook.c: runs a program to its end, with bosun's environment; what it said is in the report. */
int run_tool(struct run *run, char **words);
/* order_clone.c: the root of a user namespace that this process has just come into. */
int become_namespace_root(struct run *run, bool groups);
/* order_link.c: of this process's network namespace, to `ns`. */
int move_link(struct run *run, const struct order_move_link *o, int ns);
/* order_stdio.c: a terminal's master, to the monitor. */
int send_terminal(struct run *run, int master);

#endif
