/*
 * A libnvidia-ml.so for machines without a GPU: what it says comes from the file that FAKE_NVML names, read at nvmlInit.
 *
 *   driver VERSION            cuda 12000          links N    fail FUNCTION CODE
 *   compute MAJOR MINOR       memory MIB                     (of every gpu)
 *   gpu UUID MINOR BUS-ID(- for one that is part of the chip) MIG(0|1|2: it knows none) NAME...
 *   fabric CLUSTER(32 hexadecimal digits) CLIQUE             (of the gpu above)
 *   mig UUID GPU-INSTANCE COMPUTE-INSTANCE [GPU-PROFILE COMPUTE-PROFILE MIB]
 *
 * A line "lost UUID" that is appended later: that GPU has fallen off the bus.
 * What nvmlDeviceSetComputeMode sets is appended to FAKE_NVML.modes: "UUID MODE".
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, UNKNOWN = 999 };
#define MAX 16

struct mig { struct gpu *parent; char uuid[80]; unsigned gi, ci, index, gi_profile, ci_profile, mib; int is_mig; };
struct fabric { unsigned char cluster[16]; unsigned status, clique; unsigned char state; };
struct gpu { struct mig self; unsigned minor, index, mig_mode, count; char bus[32], name[64]; struct fabric fabric; struct mig migs[MAX]; };
struct pci_info { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

static struct gpu gpus[MAX];
static unsigned count, cuda = 12000, links, major = 8, minor_version, memory_mib = 40960;
static char driver[80] = "525.147.05", failing[80];
static int users, failure;

#define CHECK(name) do { if (strcmp(failing, name) == 0) return failure; if (!users) return UNINITIALIZED; } while (0)

static void read_script(void)
{
  char line[512], uuid[80];
  FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
  count = 0;
  failing[0] = 0;
  while (file && fgets(line, sizeof line, file)) {
    struct gpu *gpu = &gpus[count];
    unsigned minor, mode, gi, ci, clique, gi_profile = 0, ci_profile = 0, mib = 4864;
    char bus[32], name[64];
    if (sscanf(line, "driver %79s", driver) == 1 || sscanf(line, "cuda %u", &cuda) == 1 || sscanf(line, "links %u", &links) == 1 || sscanf(line, "compute %u %u", &major, &minor_version) == 2 || sscanf(line, "memory %u", &memory_mib) == 1 || sscanf(line, "fail %79s %d", failing, &failure) == 2)
      continue;
    if (count < MAX && sscanf(line, "gpu %79s %u %31s %u %63[^\n]", uuid, &minor, bus, &mode, name) == 5) {
      *gpu = (struct gpu){.self = {.parent = gpu}, .minor = minor, .index = count, .mig_mode = mode};
      strcpy(gpu->self.uuid, uuid);
      strcpy(gpu->bus, bus);
      strcpy(gpu->name, name);
      count++;
    } else if (count > 0 && sscanf(line, "fabric %79s %u", uuid, &clique) == 2) {
      struct fabric *fabric = &gpus[count - 1].fabric;
      *fabric = (struct fabric){.clique = clique, .state = 3};
      for (int i = 0; i < 16; i++)
        sscanf(uuid + 2 * i, "%2hhx", &fabric->cluster[i]);
    } else if (count > 0 && sscanf(line, "mig %79s %u %u %u %u %u", uuid, &gi, &ci, &gi_profile, &ci_profile, &mib) >= 3 && gpus[count - 1].count < MAX) {
      gpu = &gpus[count - 1];
      struct mig *mig = &gpu->migs[gpu->count];
      *mig = (struct mig){.parent = gpu, .gi = gi, .ci = ci, .index = gpu->count++, .gi_profile = gi_profile, .ci_profile = ci_profile, .mib = mib, .is_mig = 1};
      strcpy(mig->uuid, uuid);
    }
  }
  if (file)
    fclose(file);
}

/* As the real one, it is for several threads: none sees a script that another is reading. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int nvmlInit_v2(void)
{
  int result = SUCCESS;
  pthread_mutex_lock(&lock);
  if (users++ == 0)
    read_script();
  if (strcmp(failing, "nvmlInit_v2") == 0) {
    users--;
    result = failure;
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int nvmlInit(void) { return nvmlInit_v2(); }
int nvmlShutdown(void)
{
  pthread_mutex_lock(&lock);
  int result = users > 0 ? (users--, SUCCESS) : UNINITIALIZED;
  pthread_mutex_unlock(&lock);
  return result;
}
const char *nvmlErrorString(int code) { return code == SUCCESS ? "Success" : code == NOT_FOUND ? "Not Found" : "Unknown Error"; }

static int text(char *out, unsigned size, const char *value)
{
  return (unsigned)snprintf(out, size, "%s", value) < size ? SUCCESS : 7;
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) { CHECK("nvmlSystemGetDriverVersion"); return text(out, size, driver); }
int nvmlSystemGetCudaDriverVersion(int *out) { CHECK("nvmlSystemGetCudaDriverVersion"); *out = (int)cuda; return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { return nvmlSystemGetCudaDriverVersion(out); }
int nvmlDeviceGetCount_v2(unsigned *out) { CHECK("nvmlDeviceGetCount_v2"); *out = count; return SUCCESS; }
int nvmlDeviceGetCount(unsigned *out) { return nvmlDeviceGetCount_v2(out); }
static int is_lost(const char *wanted)
{
  char line[512], uuid[80];
  int found = 0;
  FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
  while (file && fgets(line, sizeof line, file))
    found |= sscanf(line, "lost %79s", uuid) == 1 && strcmp(uuid, wanted) == 0;
  if (file)
    fclose(file);
  return found;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct mig **out)
{
  CHECK("nvmlDeviceGetHandleByIndex_v2");
  if (index >= count)
    return INVALID_ARGUMENT;
  if (is_lost(gpus[index].self.uuid))
    return 15;
  *out = &gpus[index].self;
  return SUCCESS;
}
int nvmlDeviceGetHandleByIndex(unsigned index, struct mig **out) { return nvmlDeviceGetHandleByIndex_v2(index, out); }
int nvmlDeviceGetHandleByUUID(const char *uuid, struct mig **out)
{
  CHECK("nvmlDeviceGetHandleByUUID");
  for (unsigned i = 0; i < count; i++) {
    if (strcmp(gpus[i].self.uuid, uuid) == 0)
      return *out = &gpus[i].self, SUCCESS;
    for (unsigned j = 0; j < gpus[i].count; j++)
      if (strcmp(gpus[i].migs[j].uuid, uuid) == 0)
        return *out = &gpus[i].migs[j], SUCCESS;
  }
  return NOT_FOUND;
}
int nvmlDeviceGetUUID(struct mig *d, char *out, unsigned size) { CHECK("nvmlDeviceGetUUID"); return text(out, size, d->uuid); }
int nvmlDeviceGetName(struct mig *d, char *out, unsigned size) { CHECK("nvmlDeviceGetName"); return text(out, size, d->parent->name); }
int nvmlDeviceGetIndex(struct mig *d, unsigned *out) { CHECK("nvmlDeviceGetIndex"); *out = d->is_mig ? d->index : d->parent->index; return SUCCESS; }
int nvmlDeviceGetMinorNumber(struct mig *d, unsigned *out) { CHECK("nvmlDeviceGetMinorNumber"); *out = d->parent->minor; return SUCCESS; }
int nvmlDeviceGetPciInfo_v3(struct mig *d, struct pci_info *out)
{
  CHECK("nvmlDeviceGetPciInfo_v3");
  if (strcmp(d->parent->bus, "-") == 0)
    return NOT_SUPPORTED;
  memset(out, 0, sizeof *out);
  text(out->bus_id, sizeof out->bus_id, d->parent->bus);
  sscanf(d->parent->bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
  snprintf(out->legacy, sizeof out->legacy, "%04x:%02x:%02x.0", out->domain, out->bus & 0xff, out->device & 0xff);
  return SUCCESS;
}
/* A Grace Hopper's GPU is coherent with its processor (ATS). */
struct addressing { unsigned version, value; };
int nvmlDeviceGetAddressingMode(struct mig *d, struct addressing *out)
{
  CHECK("nvmlDeviceGetAddressingMode");
  if (out->version != (sizeof *out | 1u << 24))
    return INVALID_ARGUMENT;
  out->value = strstr(d->parent->name, "GH200") ? 2 : 0;
  return SUCCESS;
}
int nvmlDeviceGetPciInfo(struct mig *d, struct pci_info *out) { return nvmlDeviceGetPciInfo_v3(d, out); }
int nvmlDeviceGetMigMode(struct mig *d, unsigned *now, unsigned *pending)
{
  CHECK("nvmlDeviceGetMigMode");
  if (d->parent->mig_mode == 2)
    return NOT_SUPPORTED;
  *now = *pending = d->parent->mig_mode;
  return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(struct mig *d, unsigned *out) { (void)d; CHECK("nvmlDeviceGetMaxMigDeviceCount"); *out = 7; return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct mig *d, unsigned index, struct mig **out)
{
  CHECK("nvmlDeviceGetMigDeviceHandleByIndex");
  if (index >= d->parent->count)
    return NOT_FOUND;
  *out = &d->parent->migs[index];
  return SUCCESS;
}
int nvmlDeviceIsMigDeviceHandle(struct mig *d, unsigned *out) { CHECK("nvmlDeviceIsMigDeviceHandle"); *out = (unsigned)d->is_mig; return SUCCESS; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct mig *d, struct mig **out) { CHECK("nvmlDeviceGetDeviceHandleFromMigDeviceHandle"); *out = &d->parent->self; return SUCCESS; }
int nvmlDeviceGetGpuInstanceId(struct mig *d, unsigned *out) { CHECK("nvmlDeviceGetGpuInstanceId"); *out = d->gi; return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(struct mig *d, unsigned *out) { CHECK("nvmlDeviceGetComputeInstanceId"); *out = d->ci; return SUCCESS; }
int nvmlDeviceGetCudaComputeCapability(struct mig *d, int *one, int *other)
{
  (void)d;
  CHECK("nvmlDeviceGetCudaComputeCapability");
  *one = (int)major;
  *other = (int)minor_version;
  return SUCCESS;
}
int nvmlDeviceSetComputeMode(struct mig *d, int mode)
{
  CHECK("nvmlDeviceSetComputeMode");
  char path[512];
  snprintf(path, sizeof path, "%s.modes", getenv("FAKE_NVML"));
  FILE *file = fopen(path, "a");
  if (!file)
    return UNKNOWN;
  fprintf(file, "%s %d\n", d->uuid, mode);
  fclose(file);
  return SUCCESS;
}
int nvmlDeviceGetGpuFabricInfo(struct mig *d, struct fabric *out)
{
  CHECK("nvmlDeviceGetGpuFabricInfo");
  if (d->parent->fabric.state == 0)
    return NOT_SUPPORTED;
  *out = d->parent->fabric;
  return SUCCESS;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(struct mig *d, struct memory *out)
{
  CHECK("nvmlDeviceGetMemoryInfo");
  unsigned long long total = (unsigned long long)(d->is_mig ? d->mib : memory_mib) << 20;
  *out = (struct memory){total, total, 0};
  return SUCCESS;
}
static unsigned slices_of(unsigned profile)
{
  static const unsigned slices[] = {1, 2, 3, 4, 7, 8, 6, 1, 2, 1};
  return profile < sizeof slices / sizeof *slices ? slices[profile] : 1;
}
struct attributes { unsigned multiprocessors, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices; unsigned long long memory_mib; };
int nvmlDeviceGetAttributes_v2(struct mig *d, struct attributes *out)
{
  CHECK("nvmlDeviceGetAttributes_v2");
  if (!d->is_mig)
    return NOT_SUPPORTED;
  unsigned slices = slices_of(d->gi_profile);
  *out = (struct attributes){.multiprocessors = 14 * slices, .copy = slices, .decoder = slices / 2, .jpeg = d->gi_profile == 7,
    .gpu_slices = slices, .compute_slices = slices_of(d->ci_profile), .memory_mib = d->mib};
  return SUCCESS;
}

/* Profiles of an A100, by NVML's numbers of them; an id is ten times the number, and one. */
struct instance { void *device; unsigned id, profile, start, size; };
struct compute_instance { void *device, *gpu_instance; unsigned id, profile, start, size; };
struct gpu_profile { unsigned id, others[9]; unsigned long long mib; };
struct compute_profile { unsigned id, others[8]; };
static struct mig *part(struct mig *from, unsigned gi, long ci)
{
  for (unsigned i = 0; i < from->parent->count; i++) {
    struct mig *mig = &from->parent->migs[i];
    if (mig->gi == gi && (ci < 0 || mig->ci == (unsigned)ci))
      return mig;
  }
  return NULL;
}
int nvmlDeviceGetGpuInstanceById(struct mig *d, unsigned id, struct mig **out) { CHECK("nvmlDeviceGetGpuInstanceById"); return (*out = part(d, id, -1)) ? SUCCESS : NOT_FOUND; }
int nvmlGpuInstanceGetComputeInstanceById(struct mig *gi, unsigned id, struct mig **out) { CHECK("nvmlGpuInstanceGetComputeInstanceById"); return (*out = part(gi, gi->gi, id)) ? SUCCESS : NOT_FOUND; }
int nvmlGpuInstanceGetInfo(struct mig *gi, struct instance *out) { CHECK("nvmlGpuInstanceGetInfo"); *out = (struct instance){&gi->parent->self, gi->gi, gi->gi_profile * 10 + 1, 0, 1}; return SUCCESS; }
int nvmlComputeInstanceGetInfo_v2(struct mig *ci, struct compute_instance *out) { CHECK("nvmlComputeInstanceGetInfo_v2"); *out = (struct compute_instance){&ci->parent->self, ci, ci->ci, ci->ci_profile * 10 + 1, 0, 1}; return SUCCESS; }
int nvmlDeviceGetGpuInstanceProfileInfo(struct mig *d, unsigned number, struct gpu_profile *out)
{
  static const unsigned mib[] = {4864, 9856, 19968, 19968, 40192, 0, 0, 4864, 0, 9856};
  (void)d;
  CHECK("nvmlDeviceGetGpuInstanceProfileInfo");
  if (number >= sizeof mib / sizeof *mib || mib[number] == 0)
    return NOT_SUPPORTED;
  *out = (struct gpu_profile){.id = number * 10 + 1, .mib = mib[number]};
  return SUCCESS;
}
int nvmlGpuInstanceGetComputeInstanceProfileInfo(struct mig *gi, unsigned number, unsigned engines, struct compute_profile *out)
{
  CHECK("nvmlGpuInstanceGetComputeInstanceProfileInfo");
  if (engines != 0 || number > 4 || slices_of(number) > slices_of(gi->gi_profile))
    return NOT_SUPPORTED;
  *out = (struct compute_profile){.id = number * 10 + 1};
  return SUCCESS;
}

/* GPUs 0 and 1, 2 and 3 … are on one switch, and linked by as many NVLinks as "links N" says. */
int nvmlDeviceGetTopologyCommonAncestor(struct mig *one, struct mig *other, int *level)
{
  CHECK("nvmlDeviceGetTopologyCommonAncestor");
  *level = one->parent->index / 2 == other->parent->index / 2 ? 10 : 50;
  return SUCCESS;
}
int nvmlDeviceGetNvLinkState(struct mig *d, unsigned link, int *active)
{
  CHECK("nvmlDeviceGetNvLinkState");
  *active = link < links && (d->parent->index ^ 1u) < count;
  return SUCCESS;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct mig *d, unsigned link, struct pci_info *out)
{
  (void)link;
  return nvmlDeviceGetPciInfo_v3(&gpus[d->parent->index ^ 1u].self, out);
}

/* Events are lines that are appended to the script: "xid UUID CODE [GPU-INSTANCE COMPUTE-INSTANCE]". */
struct event { struct mig *device; unsigned long long type, data; unsigned gi, ci; };
static long seen;
int nvmlEventSetCreate(void **out) { CHECK("nvmlEventSetCreate"); seen = 0; *out = &seen; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(struct mig *d, unsigned long long types, void *set) { (void)d; (void)types; (void)set; CHECK("nvmlDeviceRegisterEvents"); return SUCCESS; }
static int next_event(struct event *out)
{
  char line[512], uuid[80];
  long number = 0;
  FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "", "r");
  int result = 10;
  while (file && result != SUCCESS && fgets(line, sizeof line, file)) {
    unsigned long long xid;
    unsigned gi = ~0u, ci = ~0u;
    if (sscanf(line, "xid %79s %llu %u %u", uuid, &xid, &gi, &ci) < 2 || number++ < seen)
      continue;
    for (unsigned i = 0; i < count; i++)
      if (strcmp(gpus[i].self.uuid, uuid) == 0) {
        *out = (struct event){&gpus[i].self, 8, xid, gi, ci};
        result = SUCCESS;
      }
    seen = number;
  }
  if (file)
    fclose(file);
  return result;
}
int nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout)
{
  (void)set;
  CHECK("nvmlEventSetWait_v2");
  for (unsigned waited = 0;; waited += 10) {
    if (next_event(out) == SUCCESS)
      return SUCCESS;
    if (waited >= timeout)
      return 10;
    usleep(10000);
  }
}
