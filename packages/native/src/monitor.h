/* One monitor's state, shared by monitor.c (its life), requests.c (what is asked of it) and clients.c (who asks). */
#ifndef MONITOR_H
#define MONITOR_H

#include "procs.h"

#define UNDO_MS 5000 /* for a killed process to die */

enum phase { PHASE_CREATING, PHASE_CREATED, PHASE_RUNNING, PHASE_EXITED };

struct waiter {
  struct waiter *next;
  struct client *client; /* NULL: answered, or gone */
  uint32_t id, session;
  uint64_t deadline;
};

struct monitor {
  int channel; /* to serve, until it has taken our answer */
  uint32_t request;
  uint32_t refused; /* the errno that the request was ended with */
  bool answered;
  int listener;
  uint64_t accept_after;
  struct record record;
  struct message_state state;
  struct oom_counter oom;
  char *oom_file, *oom_key;
  int oom_event;     /* of cgroup v1; -1: nobody has asked */
  bool oom_happened;
  struct session *sessions, *container;
  uint32_t last_number;
  struct waiter *waiters;
  struct client *starter;
  uint32_t start_id;
  bool starting;
  bool subreaper;
  bool recorded; /* the exit is on disk */
  bool unlinked; /* nobody new can come */
  uint64_t log_limit, record_retry, linger_limit;
};
extern struct monitor self;

struct session *find_session(uint32_t number);
void write_state(struct client *client, uint32_t id);

/* requests.c */
void handle_request(struct client *client, const struct frame_header *header, const uint8_t *body);
void refuse_request(struct client *client, uint32_t id, const char *what);
void requests_turn(void);                     /* answers what can be answered by now; frees the sessions that are done with */
void requests_forget(const struct client *client); /* it has gone: what it waits for is ended or let go */

/* clients.c */
void clients_turn(void);
void listener_turn(void);
bool clients_told(bool late);                 /* nobody is owed anything; `late`: but attached clients, nobody counts any more */

#endif
