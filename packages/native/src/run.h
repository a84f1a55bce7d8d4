#ifndef RUN_H
#define RUN_H

/* `bosun run`; the exit status. */
int run_main(void);

#endif
