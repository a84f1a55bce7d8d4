/** The library's name where the linker knows its place. */
export const NVML_NAME = "libnvidia-ml.so.1";
