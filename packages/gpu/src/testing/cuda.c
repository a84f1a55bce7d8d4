/*
 * A libcuda.so.1 for machines without a GPU, as far as scripts/gpu/vector-add.c calls one: its devices are the nodes in /dev, which have
 * to be allowed by the container's device rules, and what a kernel named vector_add does is done here.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_PERMITTED = 800 };
typedef unsigned long long address;
static int count;

/* There is no driver behind the node: who may open it is told so (ENXIO), who may not is told that (EPERM). */
static int check(const char *path)
{
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd >= 0)
    return close(fd), SUCCESS;
  return errno == ENXIO || errno == ENODEV ? SUCCESS : errno == ENOENT ? NO_DEVICE : NOT_PERMITTED;
}

int cuInit(unsigned flags)
{
  char path[32];
  int result = flags == 0 ? check("/dev/nvidiactl") : INVALID_VALUE;
  count = 0;
  for (int i = 0; i < 16 && result == SUCCESS; i++) {
    snprintf(path, sizeof path, "/dev/nvidia%d", i);
    if (access(path, F_OK) == 0 && (result = check(path)) == SUCCESS)
      count++;
  }
  return result == SUCCESS && count == 0 ? NO_DEVICE : result;
}
int cuDriverGetVersion(int *out) { *out = 12000; return SUCCESS; }
int cuDeviceGetCount(int *out) { *out = count; return SUCCESS; }
int cuDeviceGet(int *out, int index) { *out = index; return index < count ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetName(char *out, int size, int device) { snprintf(out, (size_t)size, "made-up GPU %d", device); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t *out, int device) { (void)device; *out = 40ull << 30; return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **out, int device) { *out = &count; return device < count ? SUCCESS : INVALID_VALUE; }
int cuCtxSetCurrent(void *context) { return context == &count ? SUCCESS : INVALID_VALUE; }
int cuCtxSynchronize(void) { return SUCCESS; }

/* As the driver does, it has its compiler in a library of its own, which the container's linker has to find. */
int cuModuleLoadData(void **out, const void *image)
{
  *out = dlopen("libnvidia-ptxjitcompiler.so.1", RTLD_NOW);
  return !*out ? NOT_FOUND : strstr(image, ".entry vector_add(") ? SUCCESS : INVALID_IMAGE;
}
int cuModuleGetFunction(void **out, void *module, const char *name) { *out = module; return strcmp(name, "vector_add") == 0 ? SUCCESS : NOT_FOUND; }

int cuMemAlloc_v2(address *out, size_t size) { *out = (address)malloc(size); return *out ? SUCCESS : INVALID_VALUE; }
int cuMemcpyHtoD_v2(address to, const void *from, size_t size) { memcpy((void *)to, from, size); return SUCCESS; }
int cuMemcpyDtoH_v2(void *to, address from, size_t size) { memcpy(to, (void *)from, size); return SUCCESS; }

int cuLaunchKernel(void *entry, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **parameters, void **extra)
{
  (void)entry, (void)shared, (void)stream, (void)extra;
  float *const *const a = parameters[0], *const *const b = parameters[1], *const *const sum = parameters[2];
  unsigned limit = *(unsigned *)parameters[3];
  if (y * z * by * bz != 1)
    return INVALID_VALUE;
  for (unsigned i = 0; i < x * bx && i < limit; i++)
    (*sum)[i] = (*a)[i] + (*b)[i];
  return SUCCESS;
}
