/* libFuzzer target of the process that stands for one whose agent is Kata's (order_agent.c): whatever the agent answers. */
#include "fuzz_world.h"

#include "../src/wire.c"
#include "../src/conn.c"
#include "../src/reach.c"
#include "../src/ttrpc.c"
#include "../src/order_agent.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const uint8_t request[TTRPC_HEADER + 4 * NUMBER_BYTES + 2];
  const struct bytes frame = {request, sizeof request};
  if (size < 2)
    return 0;
  world_begin(data, size);
  const struct order_agent_process o = {
    .socket = "/agent", .port = 1024, .path = options & FLAG_OTHER ? "/agent.sock" : "", .stdin_ = options & FLAG_INPUT,
    .terminal = options & FLAG_TERMINAL, .start = frame, .wait = frame, .stdout_ = frame, .stderr_ = frame, .write = frame,
    .close_input = frame, .kill = frame, .resize = frame, .payload = TTRPC_HEADER,
  };
  if (!setjmp(ended))
    if (order_agent_process(&world, &o) != -1 || !world.report.err)
      abort();
  world_end();
  return 0;
}
