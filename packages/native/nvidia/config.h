#ifndef NVIDIA_CONFIG_H
#define NVIDIA_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

enum { MAX_NAMES = 16, MAX_CONFIG = 64 * 1024 };

/* Of low-level runtimes, in their order. */
struct names {
  size_t count;
  const char *name[MAX_NAMES];
};

/*
 * nvidia-container-runtime.runtimes of the toolkit's config.toml; without a file, its default. False: it is there, but not
 * written in the plain way (a table's header on its own line, and a list of plain strings), or cannot be read.
 */
bool read_runtimes(struct names *names);

#endif
