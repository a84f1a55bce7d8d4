/* pump.c: two descriptors whose bytes go to one another, in the loop. */
#ifndef PUMP_H
#define PUMP_H

#include "bosun.h"

/* Takes both descriptors, which do not block. `early` has come from `a` already. */
void pump_start(int a, int b, const void *early, size_t early_size);
void pumps_turn(void);
void pumps_end(void);

#endif
