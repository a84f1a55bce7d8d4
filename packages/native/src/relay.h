/* The host's end of a machine's channel. */
#ifndef RELAY_H
#define RELAY_H

#include "bosun.h"

/* Connects to `channel` (a unix socket, or vsock:CID:PORT) and listens on `listen`. 0, or -1 with report. */
int relay_begin(const char *channel, const char *listen, struct report *report);
/* Serves until the channel ends and removes its socket: the exit status. What it has to complain of goes to standard error. */
int relay_serve(void);
/* `bosun relay` */
int relay_main(char **arguments);

/* lines.c: the lines that open a stream. Reads `fd` (not blocking) up to a line end into `line`, which keeps what follows it. */
#define LINE_MAX_SIZE 256
struct line { size_t size; char text[LINE_MAX_SIZE]; };
/* 1: a line, its end replaced by NUL; 0: not whole yet; -1: too long, or the end. */
int line_read(struct line *line, int fd);
void line_next(struct line *line); /* drops the line */
const char *errno_word(int err);   /* "ENOENT"; "EIO" for what has no name here */
int word_errno(const char *word);  /* the other way round */

/* reach.c: connects through `relay`, to a port ("CONNECT"; 0: none) and there to a socket ("PATH"; "": none). -1 with errno. */
int relay_reach(const char *relay, unsigned port, const char *path);
/* The same in two steps, so that several can be under way: connects and asks; hears whether it was granted, and else leaves errno. */
int relay_dial(const char *relay, unsigned port, const char *path);
bool relay_granted(int fd, unsigned port, const char *path);

/* address.c: both -1 with errno. */
int unix_connect(const char *path); /* blocks */
int unix_listen(const char *path);  /* mode 0600, in the place of a socket that was there; does not block */

#endif
