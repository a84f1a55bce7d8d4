/* What serve's fork for a `dial` request runs. */
#ifndef DIAL_H
#define DIAL_H

#include <stdint.h>

/* Connects, answers request `id` on `connection`, closes `starting`, and relays until both sides have ended. */
void dial_main(int connection, int starting, uint32_t id, const char *netns, uint32_t port) __attribute__((noreturn));

#endif
