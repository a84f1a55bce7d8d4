/* AF_VSOCK, which C libraries do not declare: a machine's sockets to its host. */
#ifndef VSOCK_H
#define VSOCK_H

#include <linux/vm_sockets.h>
#include <sys/socket.h>

#ifndef AF_VSOCK
#define AF_VSOCK 40
#endif

/* "CID:PORT" or, with `cid` NULL, "PORT". False: it is no such thing. */
bool vsock_parse(const char *text, unsigned *cid, unsigned *port);

#endif
