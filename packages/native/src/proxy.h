/* A process in a virtual machine, as a process here: what order_guest.c begins and proxy.c carries on. */
#ifndef PROXY_H
#define PROXY_H

#include "procs.h"

struct proxy {
  struct conn control;  /* to the monitor there */
  uint32_t session;
  uint32_t request;     /* the last number that was given to a request */
  uint32_t waits;       /* whose answer is the exit; 0: an event tells it */
  int in, out[2];       /* to and from the streams there, or -1 */
  bool terminal;
  int oom_fd;           /* told of a kill for memory, or -1 */
};

/* Waits for the frame that answers request `id`. Frames that answer nothing are looked at too. False: the channel has ended. */
bool proxy_answer(struct proxy *p, uint32_t id, struct frame_header *header, const uint8_t **body);
void proxy_done(struct proxy *p, const struct frame_header *header); /* the frame was used */
bool proxy_send(struct proxy *p);                                    /* what is in control.out */
/* Until the process there has ended and said all. */
void proxy_run(struct proxy *p) __attribute__((noreturn));
/* The window's size, to the terminal there; the number of the request, 0 where there is none to tell. */
void proxy_resize(struct proxy *p);

#endif
