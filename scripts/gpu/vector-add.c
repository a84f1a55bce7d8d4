/*
 * Adds two vectors on the first GPU, by CUDA's driver interface alone: libcuda.so.1 is loaded when it runs, and the kernel is PTX that
 * the driver compiles. No part of the CUDA toolkit is needed, to build it or to run it. Says what it did, or which call failed.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define COUNT (1u << 20)
#define BLOCK 256u

typedef unsigned long long address;

static const char *kernel =
  ".version 6.0\n.target sm_50\n.address_size 64\n"
  ".visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 sum, .param .u32 count) {\n"
  ".reg .pred %p; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %d<10>;\n"
  "ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b]; ld.param.u64 %d3, [sum]; ld.param.u32 %r1, [count];\n"
  "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r5, %r2, %r3, %r4;\n"
  "setp.ge.u32 %p, %r5, %r1; @%p bra done;\n"
  "mul.wide.u32 %d4, %r5, 4;\n"
  "cvta.to.global.u64 %d5, %d1; add.s64 %d5, %d5, %d4; ld.global.f32 %f1, [%d5];\n"
  "cvta.to.global.u64 %d6, %d2; add.s64 %d6, %d6, %d4; ld.global.f32 %f2, [%d6];\n"
  "add.f32 %f3, %f1, %f2;\n"
  "cvta.to.global.u64 %d7, %d3; add.s64 %d7, %d7, %d4; st.global.f32 [%d7], %f3;\n"
  "done: ret;\n}\n";

static void *library;

/* The library's function of this name, or the end. */
static void *function(const char *name)
{
  void *found = dlsym(library, name);
  if (!found) {
    fprintf(stderr, "libcuda.so.1: %s\n", dlerror());
    exit(1);
  }
  return found;
}

/* Every function answers 0 when it worked. */
#define CALL(name, types, ...)                                              \
  do {                                                                      \
    int called = ((int(*) types)function(#name))(__VA_ARGS__);              \
    if (called != 0) {                                                      \
      fprintf(stderr, #name ": error %d (cuda.h, CUresult)\n", called);     \
      exit(1);                                                              \
    }                                                                       \
  } while (0)

static double milliseconds(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The first of them is ready for use afterwards. */
static void describe(void)
{
  int version, count, device;
  CALL(cuInit, (unsigned), 0);
  CALL(cuDriverGetVersion, (int *), &version);
  CALL(cuDeviceGetCount, (int *), &count);
  printf("CUDA %d.%d, %d device%s\n", version / 1000, version % 1000 / 10, count, count == 1 ? "" : "s");
  for (int i = 0; i < count; i++) {
    char name[256];
    size_t memory;
    CALL(cuDeviceGet, (int *, int), &device, i);
    CALL(cuDeviceGetName, (char *, int, int), name, sizeof name, device);
    CALL(cuDeviceTotalMem_v2, (size_t *, int), &memory, device);
    printf("%d: %s, %zu MiB\n", i, name, memory >> 20);
  }
  void *context;
  CALL(cuDeviceGet, (int *, int), &device, 0);
  CALL(cuDevicePrimaryCtxRetain, (void **, int), &context, device);
  CALL(cuCtxSetCurrent, (void *), context);
}

static address on_device(const float *values)
{
  address memory;
  CALL(cuMemAlloc_v2, (address *, size_t), &memory, COUNT * sizeof *values);
  if (values)
    CALL(cuMemcpyHtoD_v2, (address, const void *, size_t), memory, values, COUNT * sizeof *values);
  return memory;
}

static double add(address a, address b, address sum)
{
  void *module, *entry;
  unsigned count = COUNT;
  void *parameters[] = {&a, &b, &sum, &count};
  CALL(cuModuleLoadData, (void **, const void *), &module, kernel);
  CALL(cuModuleGetFunction, (void **, void *, const char *), &entry, module, "vector_add");
  double began = milliseconds();
  CALL(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **), entry,
       COUNT / BLOCK, 1, 1, BLOCK, 1, 1, 0, NULL, parameters, NULL);
  CALL(cuCtxSynchronize, (void), );
  return milliseconds() - began;
}

int main(void)
{
  static float a[COUNT], b[COUNT], sum[COUNT];
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  describe();
  for (unsigned i = 0; i < COUNT; i++) {
    a[i] = (float)i;
    b[i] = (float)(2 * i);
  }
  address result = on_device(NULL);
  double took = add(on_device(a), on_device(b), result);
  CALL(cuMemcpyDtoH_v2, (void *, address, size_t), sum, result, sizeof sum);
  for (unsigned i = 0; i < COUNT; i++)
    if (sum[i] != (float)i + (float)(2 * i)) {
      fprintf(stderr, "element %u is %f\n", i, (double)sum[i]);
      return 1;
    }
  printf("%u sums made on device 0 in %.2f ms, all right\n", COUNT, took);
  return 0;
}
