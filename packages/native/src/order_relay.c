/* `bosun relay` as the end of a plan: it is started, for its monitor, once it listens. */
#include <sys/prctl.h>

#include "orders.h"
#include "procs.h"
#include "relay.h"

int order_relay(struct run *run, const struct order_relay *o)
{
  if (settle(run) < 0 || relay_begin(o->channel, o->listen, &run->report) < 0)
    return -1;
  prctl(PR_SET_NAME, "bosun-relay");
  fd_close(&run->sync_fd);
  _exit(relay_serve());
}
