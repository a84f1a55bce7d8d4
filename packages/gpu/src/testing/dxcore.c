/*
 * A libdxcore.so for machines that are not Windows': its adapters come from the file that FAKE_DXCORE names.
 *
 *   adapter WDDM-VERSION STORE-DIRECTORY        old (D3DKMTEnumAdapters3 fails, as on older Windows)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define MAX 8

struct adapter { unsigned handle, luid_low; int luid_high; unsigned sources, present; };
struct adapters2 { unsigned count; struct adapter *adapters; };
struct adapters3 { unsigned long long filter; unsigned count; struct adapter *adapters; };
struct query { unsigned adapter, type; void *data; unsigned size; };
struct registry { unsigned type, flags; wchar_t name[260]; unsigned value_type, index, size, status; wchar_t value[]; };

static struct { unsigned version; char store[256]; } known[MAX];
static unsigned count;
static int old;

static void read_script(void)
{
  char line[512];
  FILE *file = fopen(getenv("FAKE_DXCORE") ? getenv("FAKE_DXCORE") : "", "r");
  count = 0;
  old = 0;
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, "old", 3) == 0)
      old = 1;
    else if (count < MAX && sscanf(line, "adapter %u %255s", &known[count].version, known[count].store) == 2)
      count++;
  }
  if (file)
    fclose(file);
}

static int fill(unsigned *room, struct adapter *out)
{
  read_script();
  for (unsigned i = 0; out && i < count && i < *room; i++)
    out[i] = (struct adapter){.handle = 0x40000000u + i};
  *room = count;
  return 0;
}
int D3DKMTEnumAdapters2(struct adapters2 *p) { return fill(&p->count, p->adapters); }
int D3DKMTEnumAdapters3(struct adapters3 *p)
{
  read_script();
  return old || p->filter != 1 ? -1 : fill(&p->count, p->adapters);
}

static int store_of(unsigned index, struct registry *out, size_t size)
{
  size_t length = strlen(known[index].store);
  if (size < sizeof *out || out->type != 2)
    return -1;
  if (size < sizeof *out + length * sizeof(wchar_t)) {
    out->size = (unsigned)(length * sizeof(wchar_t));
    out->status = 1;
    return 0;
  }
  for (size_t i = 0; i < length; i++)
    out->value[i] = (unsigned char)known[index].store[i];
  return 0;
}

int D3DKMTQueryAdapterInfo(struct query *q)
{
  unsigned index = q->adapter - 0x40000000u;
  if (index >= count)
    return -1;
  if (q->type == 13 && q->size == sizeof(unsigned))
    return *(unsigned *)q->data = known[index].version, 0;
  return q->type == 48 ? store_of(index, q->data, q->size) : -1;
}
