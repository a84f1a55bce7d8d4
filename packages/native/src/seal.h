#ifndef SEAL_H
#define SEAL_H

#include "bosun.h"

/* Comes back with 0 once this process runs from a sealed copy of its executable; -1 with report where it cannot. */
int seal_self(struct report *report, char **arguments, char **environment);

#endif
