/* A request that serve has a child for, shared by job.c and spawn.c. */
#ifndef JOB_H
#define JOB_H

#include <signal.h>

#include "procs.h"

enum kind { JOB_RUN, JOB_SPAWN, JOB_MONITOR, JOB_TREE, JOB_DIAL };

struct pipe_end { struct job *job; int fd; struct buffer data; bool truncated; };

struct job {
  struct job *next;
  enum kind kind;
  struct peer *peer; /* NULL: gone */
  uint32_t id;
  pid_t pid;
  bool dead; /* exited, but not reaped before the end of the job, so that its process group's number stays its own */
  siginfo_t exit;
  uint32_t why;      /* ETIMEDOUT or ECANCELED once it is being ended */
  uint64_t deadline, give_up; /* ms; 0: none */
  struct pipe_end answer;     /* run, monitor: the frame that answers the request; spawn: why exec failed */
  struct pipe_end out[2];     /* spawn */
  int in;
  struct buffer feed;
  size_t fed;
  uint32_t limit;
};

struct job *job_make(enum kind kind, struct peer *peer, const struct frame_header *header);
void job_end(struct job *job);                                    /* answered, or nobody waits: frees it */
void job_report(struct job *job, int err, const char *detail);
void job_answer_failure(struct job *job);                         /* that it was killed, or how it ended */
void spawn_turn(struct job *job);

#endif
