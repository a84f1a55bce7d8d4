/* What processes have in common that stand for another one, of a shim's or of a virtual machine's. */
#ifndef STAND_IN_H
#define STAND_IN_H

#include "bosun.h"

#define LOST_STATUS 137 /* of a process that is known to have gone and not how: as if it were killed */

/* The terminal of the process that is stood for does what a terminal does; this one hands bytes on. 0, or -1 with the run's report. */
int stand_in_raw(struct run *run);
/* A descriptor, not blocking, of whatever may be sent to a container's process; what ends this one at once cannot be passed on. -1: errno. */
int stand_in_signals(void);

#endif
