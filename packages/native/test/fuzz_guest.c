/* libFuzzer target of the process that stands for one in a machine (order_guest.c, proxy.c): whatever the guest's monitor says to it. */
#include "fuzz_world.h"

#include "../src/wire.c"
#include "../src/conn.c"
#include "../src/reach.c"
#include "../src/proxy.c"
#include "../src/order_guest.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size < 2)
    return 0;
  world_begin(data, size);
  memset(ways, 0, sizeof ways);
  exited = false;
  const struct order_guest_exec exec = {
    .relay = "/relay", .monitor = "/monitor", .stdin_ = options & FLAG_INPUT, .terminal = options & FLAG_TERMINAL, .plan = {(const uint8_t *)"", 0}};
  const struct order_guest_process process = {
    .relay = "/relay", .monitor = "/monitor", .stdin_ = options & FLAG_INPUT, .terminal = options & FLAG_TERMINAL, .oom_file = options & FLAG_OOM ? "/oom" : ""};
  if (!setjmp(ended)) {
    int result = options & FLAG_OTHER ? order_guest_exec(&world, &exec) : order_guest_process(&world, &process);
    /* What comes back has failed, and says with what. */
    if (result != -1 || !world.report.err || !world.report.detail[0])
      abort();
  }
  world_end();
  return 0;
}
