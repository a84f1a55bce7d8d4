/*
 * berth-runc: the process that callers of an OCI runtime start. What needs no decision (start, state, kill …) it answers by itself,
 * from what TypeScript has written down of the container (state.flat). All else, and every refusal, is Node's to say: then this
 * becomes `bosun runc` with the decider, before anything has been changed.
 */
#ifndef COMMAND_H
#define COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a verb returns instead of an exit status when it is not for this program. */
#define TO_NODE (-1)
#define PATH_ROOM 4096

/* --- flags.c: as packages/runtime/src/command/flags.ts reads them ------------------------------------------------------------- */

struct flag {
  const char *name, *alias; /* alias NULL: none */
  bool takes_value;
  const char *value; /* the last one given, of a boolean "true" or "false"; NULL: not given */
};
/* Leaves the arguments at `argv` and returns how many there are; TO_NODE for what only the whole parser has words for. */
int parse_flags(struct flag *flags, size_t count, char **argv, int argc, bool stop_at_first);
bool flag_set(const struct flag *flag);

/* --- record.c ------------------------------------------------------------------------------------------------------------------ */

enum freezer { FREEZER_NONE, FREEZER_V1, FREEZER_V2 };

/* state.flat, written by packages/runtime/src/state/flat.ts. */
struct record {
  int directory; /* of the container's state */
  char *text;    /* what all strings point into */
  bool start_needs_node, delete_needs_node;
  pid_t pid;
  uint64_t start;       /* field 22 of /proc/PID/stat */
  bool shares_pids;     /* its PID namespace is not its own */
  enum freezer freezer;
  const char *freezer_directory, *processes_directory;
  const char *oci_version, *id, *bundle, *rootfs, *created;
  size_t cgroup_count;
  const char *cgroups; /* one string after the other */
  size_t annotation_count;
  const char *annotations; /* key, value, key … */
};
bool is_id(const char *text);
/* False: there is none that this program understands; `missing` (may be NULL) tells whether there is no container at all. */
bool record_open(struct record *r, int root, const char *id, bool *missing);
void record_close(struct record *r);
const char *next_string(const char *at);

/* --- status.c ------------------------------------------------------------------------------------------------------------------ */

enum status { CREATED, RUNNING, PAUSED, STOPPED };
const char *status_name(enum status status);
/* False where the kernel's answer is none that was expected. */
bool record_status(const struct record *r, enum status *status);
bool is_frozen(const struct record *r, bool *frozen);
bool is_alive(const struct record *r);
/* By a descriptor, so that no other process of its number is ever meant; -1 with ESRCH: it has ended. */
int open_process(const struct record *r);
int signal_process(int process, int number);

/* --- processes.c, freezer.c ---------------------------------------------------------------------------------------------------- */

struct pids {
  pid_t *list;
  size_t count, room;
};
/* Those of the cgroup and of the cgroups below it; false where it cannot be read. */
bool processes_of(const struct record *r, struct pids *pids);
void pids_free(struct pids *pids);
void kill_each(const struct pids *pids, int number);

bool freeze(const struct record *r);
bool thaw(const struct record *r);

/* --- text.c -------------------------------------------------------------------------------------------------------------------- */

/* DIRECTORY/NAME in a buffer of PATH_ROOM; false where it does not fit. */
bool join(char *path, const char *directory, const char *name);
/* Reads a file into `buffer` with a NUL behind it; the size, or -1. */
ssize_t read_small(int directory, const char *name, char *buffer, size_t room);
bool write_text(int directory, const char *name, const char *text);
/* What is to be printed, all at once, when nothing can go wrong any more. */
void put(const char *text);
void put_number(uint64_t number);
void put_json(const char *text); /* as JSON.stringify */
int put_end(void);               /* 0, or 1 with a message */

/* --- the verbs: an exit status, or TO_NODE ------------------------------------------------------------------------------------- */

/* `root`: the directory of all containers' states, or -1 where there is none. */
int verb_start(int root, char **argv, int argc);
int verb_state(int root, char **argv, int argc);
int verb_list(int root, char **argv, int argc);
int verb_kill(int root, char **argv, int argc);
int verb_delete(int root, char **argv, int argc);
int verb_pause(int root, char **argv, int argc);
int verb_resume(int root, char **argv, int argc);
int verb_ps(int root, char **argv, int argc);
/* One argument, a container's name, and no flags: the record. False: Node's. */
bool only_container(struct record *r, int root, char **argv, int argc);

/* --- decider.c ------------------------------------------------------------------------------------------------------------------ */

/* The texts that were made with the decider, or NULL where it is older than its sources. */
const char *built_version(void);
int print_features(void);
/* Becomes `bosun runc` with Node; returns only where that cannot be started. */
int become_bosun(char **argv);

#endif
