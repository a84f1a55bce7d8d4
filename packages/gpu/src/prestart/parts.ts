/** Which of the driver's files come with which of its capabilities (NVIDIA_DRIVER_CAPABILITIES), as nvidia-container-cli divides them. */
import { basename } from "node:path";

type Capability = "compute" | "graphics" | "ngx" | "utility" | "video";

/** Programs, and libraries without ".so" and what follows. */
const PARTS: Readonly<Record<Capability, readonly string[]>> = {
  utility: ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq"],
  compute: [
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "libcuda",
    "libcudadebugger",
    "libnvidia-allocator",
    "libnvidia-compiler",
    "libnvidia-fatbinaryloader",
    "libnvidia-gpucomp",
    "libnvidia-nvvm",
    "libnvidia-nvvm70",
    "libnvidia-opencl",
    "libnvidia-pkcs11",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler",
    "libnvidia-tileiras",
  ],
  video: ["libvdpau_nvidia", "libnvidia-encode", "libnvidia-opticalflow", "libnvcuvid"],
  graphics: [
    "libEGL_nvidia",
    "libGLESv1_CM_nvidia",
    "libGLESv2_nvidia",
    "libGLX_nvidia",
    "libnvidia-cbl",
    "libnvidia-eglcore",
    "libnvidia-fbc",
    "libnvidia-glcore",
    "libnvidia-glsi",
    "libnvidia-glvkspirv",
    "libnvidia-ifr",
    "libnvidia-rtcore",
    "libnvidia-tls",
    "libnvoptix",
  ],
  ngx: ["libnvidia-ngx"],
};
const CAPABILITY_OF = new Map(
  Object.entries(PARTS).flatMap(([capability, names]) => names.map((name) => [name, capability] as const)),
);

/** A file that is none of these parts comes with every capability, but what is plainly for graphics. */
export function isWanted(path: string, capabilities: readonly string[]): boolean {
  const name = basename(path).split(".so", 1)[0] ?? "";
  const capability = CAPABILITY_OF.get(name) ?? (isForGraphics(path) ? "graphics" : undefined);
  if (capability === undefined) return true;
  return capabilities.includes(capability) || (capability === "graphics" && capabilities.includes("display"));
}

const isForGraphics = (path: string): boolean =>
  /\/(?:egl|glvnd|vulkan|X11|xorg)\/|\/xorg\.conf|egl-|libGL|vulkan|nvidia-xconfig|nvoptix/.test(path);
