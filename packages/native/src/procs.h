/* What bosun's long-lived processes (serve, monitor) share: the loop, framed connections, children, sessions and the log. */
#ifndef PROCS_H
#define PROCS_H

#include "orders.gen.h"

/* --- loop.c: one thread, one poll(2) set that is built anew for every turn. Handlers mark; what they mark is freed between turns. */
typedef void (*loop_handler)(void *object, short events);
void loop_start(void);                                                      /* also after fork: forgets the parent's */
void loop_on(int fd, short events, loop_handler handler, void *object);     /* for the next turn; fd -1: nothing */
void loop_until(uint64_t at);                                               /* the next turn ends then at the latest; 0: no limit */
void loop_again(void);                                                      /* the next turn does not wait */
void loop_turn(void);
bool loop_children(void);                                                   /* whether SIGCHLD came since the last call */
int loop_stop_signal(void);                                                 /* SIGTERM or SIGINT that came, or 0 */
bool loop_quiet(void);                                                      /* nothing was ready in the last turn */
bool loop_idle(void);                                                       /* true once when nothing has happened for a second */
uint64_t now_ms(void);                                                      /* monotonic */
uint64_t now_ns(void);                                                      /* since the epoch */

/* Where every read(2) goes first. */
#define SCRATCH_SIZE 65536u
extern uint8_t *scratch;
void memory_release(void); /* gives back the pages of scratch and of the unused stack: there are many monitors, and they idle */

/* --- conn.c: a stream socket with frames, or raw bytes, both ways. */
struct conn {
  int fd; /* -1: gone */
  struct buffer in, out;
  size_t sent;        /* of `out` */
  bool ending;        /* closes once `out` is sent */
  uint64_t moved;     /* `ending`: when the peer last took something, ms */
};
/* Binds and listens on `name` in the current directory (so that no path is too long), mode 0600. The descriptor, or -1. */
int conn_listen(const char *name);
void conn_close(struct conn *c);
/* Reads what there is, at most SCRATCH_SIZE. False: the peer has ended or failed. */
bool conn_read(struct conn *c);
/* The frame at *at of `in`: 1 and *at moved past it, 0 when it is not whole yet, -1 when it cannot be one. */
int conn_frame(struct conn *c, size_t *at, struct frame_header *header, const uint8_t **body);
void conn_flush(struct conn *c);
void conn_end(struct conn *c);                                              /* closes once all is sent, or the peer takes nothing for long */
static inline size_t conn_backlog(const struct conn *c) { return c->out.size - c->sent; }
/* What to poll for; a peer that does not take its answers is not read from. */
short conn_events(const struct conn *c);
void conn_report(struct conn *c, uint32_t id, int err, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* --- child.c: what every fork must do, and what passes between parent and child. */
/* Default signals, nothing blocked, comm `name`, no descriptors but 0-2 and `keep`. */
void child_clean(const char *name, const int *keep, size_t count);
void child_clean_from(unsigned first, const char *name, const int *keep, size_t count); /* and leaves those below `first` alone */
void child_null_stdio(void);
/* The child dies with its parent (not inherited by its own children). Must follow fork at once; `parent` as before it. */
void child_follow(pid_t parent);
bool fd_nonblock(int fd);
void fd_close(int *fd);
bool write_all(int fd, const void *data, size_t size);
/* One SEQPACKET datagram into `message`, with the descriptor that came along or -1. Its size, 0 at the end, -1 with errno. */
ssize_t receive_message(int fd, struct buffer *message, int *passed);
/* A child of this process that is not `known`, or 0: for one whose number was lost with the stage that made it. */
pid_t find_child(bool (*known)(pid_t pid));

/* --- empty_mounts.c: a descriptor of a mount namespace of a read-only tmpfs with /rootfs, /proc and /sys. -1 with `report`. */
int empty_mounts_make(struct report *report);

/* --- job.c: the requests that serve has children for. */
struct peer {
  struct peer *next;
  struct conn conn;
  bool greeted;
  bool streaming; /* a tree stream or a dialled port: its bytes belong to the child */
};
void jobs_run(struct peer *peer, const struct frame_header *header, const struct message_run *message);
void jobs_spawn(struct peer *peer, const struct frame_header *header, const struct message_spawn *message);
void jobs_monitor(struct peer *peer, const struct frame_header *header, const struct message_monitor *message);
void jobs_tree(struct peer *peer, const struct frame_header *header, const struct message_tree *message);
void jobs_dial(struct peer *peer, const struct frame_header *header, const struct message_dial *message);
void jobs_cancel(struct peer *peer, uint32_t id);
void jobs_peer_gone(struct peer *peer);
void jobs_cancel_all(void);
void jobs_turn(void); /* reaps, answers, enforces deadlines, registers with the loop */
bool jobs_any(void);
void jobs_forget(void);          /* in a monitor's fork: frees all */

/* --- serve.c */
extern int serve_empty_mounts;
void serve_forget(struct peer *requester, struct buffer *request); /* in a monitor's fork: frees all but the request's bytes, which move to `request` */

/* --- log.c: the CRI log of one container. */
struct log {
  int fd; /* -1: none */
  char *path;
  uint32_t max_line;
  struct buffer partial[2]; /* of stdout and stderr: a line that has not ended */
  struct buffer out;        /* formatted, not yet in the file; begins at the start of a line */
  uint64_t retry;           /* when to try again, ms; 0: not blocked */
  uint64_t lost;
  uint64_t bound, written;  /* bytes of the file, above which another is begun (0: none), and what was written to it */
};
int log_open(struct log *log, const char *path, uint32_t max_line); /* -1 with errno */
int log_reopen(struct log *log);                                     /* -1 with errno; the old file stays then */
void log_append(struct log *log, int stream, const uint8_t *data, size_t size); /* stream: 0 stdout, 1 stderr */
void log_end_stream(struct log *log, int stream);                    /* an unfinished line is written, with tag P */
void log_flush(struct log *log);
static inline bool log_blocked(const struct log *log) { return log->out.size > 0; }
void log_give_up(struct log *log);                                   /* counts what is left as lost */
void log_idle(struct log *log);                                      /* frees what is not in use */

/* --- session.c: one process that a monitor has made by a plan, and its stdio. */
#define STREAM_STDIN 1u
#define STREAM_STDOUT 2u
#define STREAM_STDERR 4u
/* `sync` of a request to exec. */
enum { EXEC_ATTACHED, EXEC_COLLECTED, EXEC_TIED };

struct session;
struct client {
  struct client *next;
  struct conn conn;
  bool watching;
  bool awaits_oom;
  uint32_t oom_id; /* of the request that is answered then */
  struct session *session; /* attached: the connection is raw bytes of `stream` */
  uint32_t stream;
};

struct output {
  struct session *session;
  int fd;          /* -1: at its end, or none */
  uint32_t stream; /* STREAM_STDOUT or STREAM_STDERR */
  bool awaited;    /* nobody has attached yet; the data waits */
  bool last;       /* draining is over: only the `left` bytes that are in the pipe are still read */
  int left;
  uint64_t retry;  /* a terminal that no process holds open: when to look again, ms */
  struct buffer kept;
};

enum step { STEP_SETUP, STEP_PARKED, STEP_RELEASED, STEP_RUNNING, STEP_FAILED };

struct session {
  struct session *next;
  uint32_t number;      /* 0: the container's own process */
  struct client *owner; /* who asked for it; NULL: gone, or number 0 */
  uint32_t request;
  bool answered;
  bool sync, terminal, stdin_once;
  bool tied;            /* it ends with the connection that asked for it */
  enum step step;
  struct report report; /* STEP_FAILED: why. Parked: the outputs */
  pid_t stage;          /* 0: reaped */
  pid_t pid;            /* the stage's own while `cloned` is false */
  bool cloned, dead;    /* dead: `pid` is reaped and `status` valid */
  bool searched;        /* for a child whose number was lost */
  int status;
  uint64_t began_at, died_at; /* ns since the epoch */
  int sync_fd;
  int in;
  struct buffer rest;   /* of what is to be written to `in` */
  bool in_ends;         /* `in` closes once `rest` is written */
  struct output out[2];
  uint32_t rows, columns; /* of the terminal, before it has come */
  uint32_t limit, drain_ms;
  bool truncated, timed_out;
  uint64_t deadline, killed_at, dead_at; /* ms; 0: none, not yet */
};

struct session_options {
  uint32_t number;
  bool terminal, want_stdin, sync;
  uint32_t rows, columns;
  uint32_t awaited; /* STREAM bits */
  uint32_t limit, drain_ms;
  int empty_mounts;
};
/* Forks the stage. NULL with `report`. */
struct session *session_make(const struct session_options *options, struct bytes plan, struct report *report);
void session_free(struct session *s);
bool session_release(struct session *s);          /* SYNC_GO. False: it has died */
void session_kill(struct session *s);             /* SIGKILL to all that is known of it */
void session_reap(struct session *s);
void session_turn(struct session *s);             /* does what is due, registers with the loop */
bool session_gone(const struct session *s);       /* no process of it is left */
bool session_done(const struct session *s);       /* gone, and its outputs at their end */
bool session_delivered(const struct session *s);  /* done, and no attached client is owed anything */
void session_code(const struct session *s, uint32_t *code, uint32_t *signal);

/* stdio.c */
void stdio_turn(struct session *s);
int session_resize(struct session *s, uint32_t rows, uint32_t columns); /* -1 with errno */
bool session_takes_input(const struct session *s);
void session_feed(struct session *s, const uint8_t *data, size_t size);
void session_input_gone(struct session *s);       /* an attached stdin client has ended */
void session_orphan(struct session *s);           /* nobody will attach any more */
struct output *session_output(struct session *s, uint32_t stream); /* NULL: no such stream */

/* --- record.c: what the monitor leaves on disk. */
struct record { int dir; pid_t monitor; };
int record_write(const struct record *record, const struct message_state *state); /* -1 with errno */
uint64_t process_start(pid_t pid);                                                 /* field 22 of /proc/PID/stat, 0: unknown */
struct oom_counter { int fd; char key[32]; uint64_t before; bool grew; };
void oom_open(struct oom_counter *counter, const char *file, const char *key);
bool oom_grew(struct oom_counter *counter);

/* --- wait_oom.c: a descriptor that is readable when the kernel kills for memory in a cgroup of v1, whose directory this is. -1 with errno. */
int oom_listen(int directory);

/* --- monitor.c */
extern struct log monitor_log;
extern struct client *monitor_clients;
bool monitor_knows(pid_t pid);
void monitor_main(int channel, uint32_t id, const struct message_monitor *message, int empty_mounts, struct buffer *request)
  __attribute__((noreturn));

#endif
