#ifndef RUN_H
#define RUN_H

#include "bosun.h"

/* `bosun run`; the exit status. */
int run_main(void);
/* Whether an encoded plan has one of these orders. */
bool plan_has(const struct buffer *plan, const uint16_t *codes, size_t count);
/* As a shell counts: 128+signal for one that was killed. */
int exit_status(int status);

/* `bosun runc`: arguments are the decider's command line (runc.c). The exit status. */
int runc_main(char **arguments);

/* wait_oom.c: returns when something has happened, or the other end of `channel` is gone. 0, or -1 with report. */
struct message_wait_oom;
int wait_oom(const struct message_wait_oom *m, int channel, struct report *report);

/* order_exec.c: the process of a pod whose runtime wants one. Reaps until SIGTERM or SIGINT, then ends with 0. */
void pause_main(void) __attribute__((noreturn));

#endif
