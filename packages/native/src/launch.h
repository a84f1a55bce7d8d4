/* What `bosun runc` holds of the one process that it makes. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "orders.gen.h"
#include "procs.h"

/* ready.c: an announcement that is awaited; -1: none (any more). */
struct ready {
  int listener, host;
  pid_t main; /* what MAINPID= is to say; 0: the launched process */
};

enum launch_step { LAUNCH_NONE, LAUNCH_SETUP, LAUNCH_PARKED, LAUNCH_RUNNING, LAUNCH_FAILED };

struct launch {
  enum launch_step step;
  struct report report;   /* LAUNCH_FAILED: why. Parked: the outputs */
  pid_t stage, pid;       /* 0: none, or reaped */
  bool stage_stays;       /* until it is let go: it is what parks, and not the process that it makes */
  bool dead;              /* `pid` has been reaped, `status` is valid */
  int status;
  int sync_fd;
  int terminal;           /* the master, where nobody else was to have it; else -1 */
  int relay[3];           /* our ends of the process's stdio pipes, or -1 */
  const char *console_socket;
  struct ready ready;
};

/* Forks the stage and follows it until the process is parked, runs, or has failed. */
void launch_make(struct launch *l, const struct message_launch *m);
/* Lets the parked process go; returns when it has exec'd, waits at its FIFO, or has failed. */
void launch_release(struct launch *l);
/* SIGKILL to what is left, and its end. */
void launch_abandon(struct launch *l);
/* Relays stdio, terminal and signals until the process has ended; its exit status. */
int launch_attend(struct launch *l);

/* Binds, and connects; -1 with report. */
int ready_begin(struct ready *r, const struct message_notify *m, struct report *report);
/* Takes one message; when it says that the container is ready hands that on and returns the barrier's pipe, or -1. */
int ready_take(struct ready *r, pid_t process);
/* Until it is ready and that has been read, or has ended. */
void ready_wait(struct ready *r, pid_t process);
void ready_end(struct ready *r);

/* console_socket.c: one descriptor with a name over a unix stream socket. -1 with errno. */
int send_descriptor(const char *socket_path, int fd, const char *name);

#endif
