/* Decoding of plans, apart from carrying them out: what is fuzzed. */
#include <errno.h>

#include "orders.h"

bool plan_begin(const uint8_t *plan, size_t size, uint32_t *count, struct reader *orders, struct report *report)
{
  *orders = (struct reader){.at = plan, .end = size ? plan + size : plan};
  uint32_t version = reader_u32(orders);
  *count = reader_u32(orders);
  if (orders->bad) {
    fail(report, EINVAL, "plan of %zu bytes is too short", size);
    return false;
  }
  if (version != PLAN_VERSION) {
    fail(report, EPROTO, "plan version %u, where %u is spoken here", version, PLAN_VERSION);
    return false;
  }
  return true;
}

bool plan_next(struct reader *orders, uint16_t *code, struct reader *body)
{
  *code = reader_u16(orders);
  uint16_t zero = reader_u16(orders);
  uint32_t size = reader_u32(orders);
  if (orders->bad || zero != 0 || size > (size_t)(orders->end - orders->at)) {
    orders->bad = true;
    return false;
  }
  *body = (struct reader){.at = orders->at, .end = orders->at + size};
  orders->at += size;
  return true;
}

bool plan_decode(uint16_t code, const struct reader *body, union any_order *order)
{
  switch (code) {
#define X(name, NAME, number) \
  case ORDER_##NAME: return order_##name##_decode(body->at, (size_t)(body->end - body->at), &order->name);
    ORDERS(X)
#undef X
  }
  return false;
}

int plan_check(const uint8_t *plan, size_t size, struct report *report)
{
  struct reader orders, body;
  uint32_t count;
  uint16_t code;
  union any_order order;
  report->order = NO_ORDER;
  if (!plan_begin(plan, size, &count, &orders, report))
    return -1;
  for (uint32_t i = 0; i < count; i++) {
    report->order = i;
    if (!plan_next(&orders, &code, &body))
      return fail(report, EINVAL, "order %u of %u is cut short", i, count);
    if (!plan_decode(code, &body, &order))
      return fail(report, EINVAL, "order %u has code %u and fields that do not fit", i, code);
  }
  report->order = NO_ORDER;
  if (orders.at != orders.end)
    return fail(report, EINVAL, "%zu bytes follow the plan's last order", (size_t)(orders.end - orders.at));
  return 0;
}
