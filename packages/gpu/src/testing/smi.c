/* An nvidia-smi for machines without a GPU: what its libnvidia-ml.so.1, which the linker has to find, says of the driver; and the nodes in /dev. */
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
  char path[32], version[80];
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (!library)
    return fprintf(stderr, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system: %s\n", dlerror()), 12;
  int (*init)(void) = (int (*)(void))dlsym(library, "nvmlInit_v2");
  int (*driver)(char *, unsigned) = (int (*)(char *, unsigned))dlsym(library, "nvmlSystemGetDriverVersion");
  if (!init || !driver || init() != 0 || driver(version, sizeof version) != 0)
    return 9;
  printf("NVIDIA-SMI (made up)   Driver Version: %s\n", version);
  for (int i = 0; i < 16; i++) {
    snprintf(path, sizeof path, "/dev/nvidia%d", i);
    if (access(path, F_OK) == 0)
      printf("GPU %d: made-up GPU %d\n", i, i);
  }
  return 0;
}
