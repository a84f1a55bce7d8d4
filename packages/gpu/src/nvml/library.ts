/**
 * NVIDIA's management library, through koffi: the functions that finding GPUs takes (nvml.h, CUDA 12). Where a function has
 * newer editions, the newest that the library has.
 */
import koffi, { type KoffiFunc } from "koffi";

type Call = KoffiFunc<(...values: unknown[]) => unknown>;

const NAME_SIZE = 96;
const NOT_SUPPORTED = 3;
const INVALID_ARGUMENT = 2;
const NOT_FOUND = 6;
const FUNCTION_NOT_FOUND = 13;

/** Of a device that has not what was asked, or of a driver from before it. */
const isMissing = (code: number): boolean => code === NOT_SUPPORTED || code === FUNCTION_NOT_FOUND;
/** NVML_ERROR_GPU_IS_LOST: it has fallen off the bus. */
export const GPU_IS_LOST = 15;

export class NvmlError extends Error {
  override readonly name = "NvmlError";
  /** nvmlReturn_t. */
  readonly code: number;
  constructor(call: string, code: number, text: string) {
    super(`${call}: ${text} (${code})`);
    this.code = code;
  }
}

/** nvmlDevice_t. Good until the library is closed. */
export type Handle = object;

koffi.struct("berth_nvml_pci", {
  busIdLegacy: koffi.array("char", 16, "String"),
  domain: "uint32_t",
  bus: "uint32_t",
  device: "uint32_t",
  pciDeviceId: "uint32_t",
  pciSubSystemId: "uint32_t",
  busId: koffi.array("char", 32, "String"),
});

export interface XidWatch extends Disposable {
  /** Blocks this thread; undefined: none came in time. Throws NvmlError. */
  next(timeoutMs: number): XidEvent | undefined;
}

koffi.struct("berth_nvml_memory", { total: "uint64_t", free: "uint64_t", used: "uint64_t" });
koffi.struct("berth_nvml_attributes", {
  multiprocessors: "uint32_t",
  copyEngines: "uint32_t",
  decoders: "uint32_t",
  encoders: "uint32_t",
  jpegs: "uint32_t",
  opticalFlows: "uint32_t",
  gpuSlices: "uint32_t",
  computeSlices: "uint32_t",
  memoryMib: "uint64_t",
});
koffi.struct("berth_nvml_event", {
  device: "void *",
  type: "uint64_t",
  data: "uint64_t",
  gpuInstance: "uint32_t",
  computeInstance: "uint32_t",
});

koffi.struct("berth_nvml_addressing", { version: "uint32_t", value: "uint32_t" });

/** nvmlDeviceAddressingMode_v1: its size, and the version in the highest byte. */
const ADDRESSING_VERSION = 8 | (1 << 24);
const ADDRESSING_ATS = 2;
const PCI_CALLS = ["nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2"];
const PCI_PARAMETERS = "void *device, _Out_ berth_nvml_pci *out";

export interface BusAddress {
  readonly domain: number;
  readonly bus: number;
  readonly device: number;
}
koffi.struct("berth_nvml_gpu_instance", {
  device: "void *",
  id: "uint32_t",
  profile: "uint32_t",
  placement: koffi.array("uint32_t", 2),
});
koffi.struct("berth_nvml_compute_instance", {
  device: "void *",
  gpuInstance: "void *",
  id: "uint32_t",
  profile: "uint32_t",
  placement: koffi.array("uint32_t", 2),
});
koffi.struct("berth_nvml_gpu_profile", {
  id: "uint32_t",
  others: koffi.array("uint32_t", 9),
  memoryMib: "uint64_t",
});
koffi.struct("berth_nvml_compute_profile", { id: "uint32_t", others: koffi.array("uint32_t", 8) });
koffi.struct("berth_nvml_fabric", {
  cluster: koffi.array("uint8_t", 16, "Typed"),
  status: "uint32_t",
  clique: "uint32_t",
  state: "uint8_t",
});
/** NVML_GPU_INSTANCE_PROFILE_COUNT and NVML_COMPUTE_INSTANCE_PROFILE_COUNT. */
const GPU_PROFILES = 18;
const COMPUTE_PROFILES = 9;
/** nvmlGpuFabricState_t. */
const FABRIC_COMPLETED = 3;

/** nvmlEventTypeXidCriticalError. */
const XID_EVENT = 8n;
const TIMEOUT = 10;
const MAX_LINKS = 18;
/** Of an event that is about the whole GPU. */
const NO_INSTANCE = 0xffffffff;

/** Of a MIG device: what it has of its GPU. */
export interface MigAttributes {
  readonly multiprocessors: number;
  readonly copyEngines: number;
  readonly decoders: number;
  readonly encoders: number;
  readonly jpegs: number;
  readonly opticalFlows: number;
  readonly gpuSlices: number;
  readonly computeSlices: number;
  readonly memoryMib: number;
}

/** Numbers of NVML's, by which a profile is named: NVML_GPU_INSTANCE_PROFILE_… and NVML_COMPUTE_INSTANCE_PROFILE_… */
export interface MigProfile {
  readonly gpu: number;
  readonly compute: number;
}

/** nvmlComputeMode_t: how many processes may use a GPU at a time. */
export const COMPUTE_MODE = { default: 0, exclusiveProcess: 3 } as const;

/** Of GPUs that are linked by NVSwitches across machines. */
export interface Fabric {
  readonly cluster: string;
  readonly clique: number;
}

export interface XidEvent {
  readonly uuid: string;
  readonly xid: number;
  /** Absent: it is about the whole GPU. */
  readonly instances: { readonly gpu: number; readonly compute: number } | undefined;
}

/** How two GPUs reach each other (nvmlGpuTopologyLevel_t). */
export const TOPOLOGY = { board: 0, switch: 10, switches: 20, hostBridge: 30, node: 40, system: 50 } as const;

function loaded(path: string): ReturnType<typeof koffi.load> {
  try {
    return koffi.load(path);
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`${path}: ${message}: is NVIDIA's driver installed here?`, { cause: error });
  }
}

export class Nvml implements Disposable {
  readonly #library: ReturnType<typeof koffi.load>;
  readonly #functions = new Map<string, Call | undefined>();

  /** Loads and initializes it. Throws where there is no such library, and NvmlError. */
  constructor(path: string) {
    this.#library = loaded(path);
    this.#call(["nvmlInit_v2", "nvmlInit"], "", []);
  }

  [Symbol.dispose](): void {
    this.#call(["nvmlShutdown"], "", []);
    this.#library.unload();
  }

  driverVersion(): string {
    return this.#text(["nvmlSystemGetDriverVersion"], "_Out_ char *out, uint32_t size", []);
  }

  /** The newest CUDA that the driver knows, as "12.2". */
  cudaVersion(): string {
    const version = this.#number(
      ["nvmlSystemGetCudaDriverVersion_v2", "nvmlSystemGetCudaDriverVersion"],
      "_Out_ int32_t *out",
      [],
    );
    return `${Math.trunc(version / 1000)}.${Math.trunc((version % 1000) / 10)}`;
  }

  name(device: Handle): string {
    return this.#text(["nvmlDeviceGetName"], "void *device, _Out_ char *out, uint32_t size", [device]);
  }

  /** As "8.0". */
  computeCapability(device: Handle): string {
    const [major, minor] = [[0], [0]];
    this.#call(["nvmlDeviceGetCudaComputeCapability"], "void *device, _Out_ int32_t *major, _Out_ int32_t *minor", [
      device,
      major,
      minor,
    ]);
    return `${major[0]}.${minor[0]}`;
  }

  /** Handles of all GPUs, in the order of their indexes. */
  gpus(): Handle[] {
    return Array.from({ length: this.gpuCount() }, (_, index) => this.gpu(index));
  }

  gpuCount(): number {
    return this.#number(["nvmlDeviceGetCount_v2", "nvmlDeviceGetCount"], "_Out_ uint32_t *out", []);
  }

  gpu(index: number): Handle {
    const names = ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetHandleByIndex"];
    return this.#handle(names, "uint32_t index, _Out_ void **out", [index]);
  }

  uuid(device: Handle): string {
    return this.#text(["nvmlDeviceGetUUID"], "void *device, _Out_ char *out, uint32_t size", [device]);
  }

  /** The number in /dev/nvidiaN. */
  minor(device: Handle): number {
    return this.#number(["nvmlDeviceGetMinorNumber"], "void *device, _Out_ uint32_t *out", [device]);
  }

  /** undefined: it is on no bus, as the GPU that is part of a chip. */
  busAddress(device: Handle): BusAddress | undefined {
    const out = {} as { domain?: number; bus?: number; device?: number };
    const code = this.#code(PCI_CALLS, PCI_PARAMETERS, [device, out]);
    if (isMissing(code)) return undefined;
    this.#check(PCI_CALLS[0] ?? "", code);
    return { domain: out.domain ?? 0, bus: out.bus ?? 0, device: out.device ?? 0 };
  }

  /** Whether it and the processors see each other's memory coherently, by address translation (ATS). */
  isCoherent(device: Handle): boolean {
    const mode = { version: ADDRESSING_VERSION, value: 0 };
    const name = "nvmlDeviceGetAddressingMode";
    const code = this.#code([name], "void *device, _Inout_ berth_nvml_addressing *mode", [device, mode]);
    if (isMissing(code)) return false;
    this.#check(name, code);
    return mode.value === ADDRESSING_ATS;
  }

  /** As sysfs names it: "0000:01:00.0". */
  pciBusId(device: Handle): string {
    const out = {} as { busId?: string };
    this.#call(PCI_CALLS, PCI_PARAMETERS, [device, out]);
    // NVML writes the domain with eight digits, the kernel with four.
    return (out.busId ?? "").toLowerCase().replace(/^0000(?=[0-9a-f]{4}:)/, "");
  }

  isMigCapable(device: Handle): boolean {
    return this.#migMode(device) !== undefined;
  }

  isMigEnabled(device: Handle): boolean {
    return this.#migMode(device) === 1;
  }

  #migMode(device: Handle): number | undefined {
    const [now, pending] = [[0], [0]];
    const name = "nvmlDeviceGetMigMode";
    const parameters = "void *device, _Out_ uint32_t *now, _Out_ uint32_t *pending";
    const code = this.#code([name], parameters, [device, now, pending]);
    if (isMissing(code)) return undefined;
    this.#check(name, code);
    return now[0];
  }

  /** MIG devices, with their indexes on the GPU. */
  migDevices(device: Handle): { readonly index: number; readonly handle: Handle }[] {
    const most = this.#number(["nvmlDeviceGetMaxMigDeviceCount"], "void *device, _Out_ uint32_t *out", [device]);
    return Array.from({ length: most }, (_, index) => index).flatMap((index) => {
      const out: (Handle | null)[] = [null];
      const name = "nvmlDeviceGetMigDeviceHandleByIndex";
      const code = this.#code([name], "void *device, uint32_t index, _Out_ void **out", [device, index, out]);
      if (code === NOT_FOUND || code === INVALID_ARGUMENT) return [];
      this.#check(name, code);
      return [{ index, handle: out[0] ?? {} }];
    });
  }

  gpuInstanceId(mig: Handle): number {
    return this.#number(["nvmlDeviceGetGpuInstanceId"], "void *device, _Out_ uint32_t *out", [mig]);
  }

  computeInstanceId(mig: Handle): number {
    return this.#number(["nvmlDeviceGetComputeInstanceId"], "void *device, _Out_ uint32_t *out", [mig]);
  }

  /** Bytes. */
  totalMemory(device: Handle): number {
    const out = {} as { total?: number | bigint };
    this.#call(["nvmlDeviceGetMemoryInfo"], "void *device, _Out_ berth_nvml_memory *out", [device, out]);
    return Number(out.total ?? 0);
  }

  migAttributes(mig: Handle): MigAttributes {
    const out = {} as Omit<MigAttributes, "memoryMib"> & { memoryMib: number | bigint };
    this.#call(["nvmlDeviceGetAttributes_v2"], "void *device, _Out_ berth_nvml_attributes *out", [mig, out]);
    return { ...out, memoryMib: Number(out.memoryMib) };
  }

  /** undefined: the library is too old to tell, or knows none that this is. */
  migProfile(gpu: Handle, gpuInstance: number, computeInstance: number): MigProfile | undefined {
    const byId = "void *from, uint32_t id, _Out_ void **out";
    const found: (Handle | null)[] = [null];
    const code = this.#code(["nvmlDeviceGetGpuInstanceById"], byId, [gpu, gpuInstance, found]);
    if (code === FUNCTION_NOT_FOUND) return undefined;
    this.#check("nvmlDeviceGetGpuInstanceById", code);
    const instance = found[0] ?? {};
    const part = this.#handle(["nvmlGpuInstanceGetComputeInstanceById"], byId, [instance, computeInstance]);
    const of = (name: string, struct: string, handle: Handle): number | undefined => {
      const out = {} as { profile?: number };
      this.#call([name], `void *instance, _Out_ ${struct} *out`, [handle, out]);
      return out.profile;
    };
    const gpuId = of("nvmlGpuInstanceGetInfo", "berth_nvml_gpu_instance", instance);
    const computeId = of("nvmlComputeInstanceGetInfo_v2", "berth_nvml_compute_instance", part);
    const gpuProfile = Array.from({ length: GPU_PROFILES }, (_, index) => index).find((index) => {
      const name = "nvmlDeviceGetGpuInstanceProfileInfo";
      return this.#profileId(name, "uint32_t number, _Out_ berth_nvml_gpu_profile *out", [gpu, index]) === gpuId;
    });
    const computeProfile = Array.from({ length: COMPUTE_PROFILES }, (_, index) => index).find((index) => {
      const name = "nvmlGpuInstanceGetComputeInstanceProfileInfo";
      const parameters = "uint32_t number, uint32_t engines, _Out_ berth_nvml_compute_profile *out";
      return this.#profileId(name, parameters, [instance, index, 0]) === computeId;
    });
    if (gpuProfile === undefined || computeProfile === undefined) return undefined;
    return { gpu: gpuProfile, compute: computeProfile };
  }

  /** undefined: the GPU has no such profile. */
  #profileId(name: string, parameters: string, values: readonly unknown[]): number | undefined {
    const out = {} as { id?: number };
    const code = this.#code([name], `void *from, ${parameters}`, [...values, out]);
    if (code === NOT_SUPPORTED || code === INVALID_ARGUMENT) return undefined;
    this.#check(name, code);
    return out.id;
  }

  /** `mode`: one of COMPUTE_MODE. */
  setComputeMode(device: Handle, mode: number): void {
    this.#call(["nvmlDeviceSetComputeMode"], "void *device, int32_t mode", [device, mode]);
  }

  /** undefined: it is in none, or its place in it is not known yet. */
  fabric(device: Handle): Fabric | undefined {
    const name = "nvmlDeviceGetGpuFabricInfo";
    const out = {} as { cluster?: Uint8Array; status?: number; clique?: number; state?: number };
    const code = this.#code([name], "void *device, _Out_ berth_nvml_fabric *out", [device, out]);
    if (isMissing(code)) return undefined;
    this.#check(name, code);
    const { cluster = new Uint8Array(), status, clique = 0, state } = out;
    if (state !== FABRIC_COMPLETED || status !== 0 || cluster.every((byte) => byte === 0)) return undefined;
    const hex = Buffer.from(cluster).toString("hex");
    return { cluster: hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"), clique };
  }

  /** One of TOPOLOGY; undefined: NVML cannot tell. */
  topology(one: Handle, other: Handle): number | undefined {
    const out = [0];
    const name = "nvmlDeviceGetTopologyCommonAncestor";
    const code = this.#code([name], "void *one, void *other, _Out_ int32_t *out", [one, other, out]);
    return code === 0 ? (out[0] ?? 0) : undefined;
  }

  /** Addresses of what the active NVLinks of a GPU lead to, one for each link. */
  linkedTo(device: Handle): string[] {
    return Array.from({ length: MAX_LINKS }, (_, link) => link).flatMap((link) => {
      const active = [0];
      const state = "nvmlDeviceGetNvLinkState";
      const code = this.#code([state], "void *device, uint32_t link, _Out_ int32_t *out", [device, link, active]);
      if (code !== 0 || active[0] !== 1) return [];
      const out = {} as { busId?: string };
      this.#call(
        ["nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemotePciInfo"],
        "void *device, uint32_t link, _Out_ berth_nvml_pci *out",
        [device, link, out],
      );
      return [(out.busId ?? "").toLowerCase().replace(/^0000(?=[0-9a-f]{4}:)/, "")];
    });
  }

  /** Critical errors of these GPUs from now on. GPUs too old to tell of them are left out. */
  watchXids(devices: readonly Handle[]): XidWatch {
    const set = this.#handle(["nvmlEventSetCreate"], "_Out_ void **out", []);
    for (const device of devices) {
      const name = "nvmlDeviceRegisterEvents";
      const code = this.#code([name], "void *device, uint64_t types, void *set", [device, XID_EVENT, set]);
      if (!isMissing(code)) this.#check(name, code);
    }
    return {
      next: (timeoutMs) => this.#nextXid(set, timeoutMs),
      [Symbol.dispose]: () => this.#call(["nvmlEventSetFree"], "void *set", [set]),
    };
  }

  #nextXid(set: Handle, timeoutMs: number): XidEvent | undefined {
    const out = {} as {
      device?: Handle;
      type?: bigint | number;
      data?: bigint | number;
      gpuInstance?: number;
      computeInstance?: number;
    };
    const names = ["nvmlEventSetWait_v2", "nvmlEventSetWait"];
    const code = this.#code(names, "void *set, _Out_ berth_nvml_event *out, uint32_t timeout", [set, out, timeoutMs]);
    if (code === TIMEOUT) return undefined;
    this.#check("nvmlEventSetWait", code);
    if (BigInt(out.type ?? 0) !== XID_EVENT) return undefined;
    const { gpuInstance = NO_INSTANCE, computeInstance = NO_INSTANCE } = out;
    const whole = gpuInstance === NO_INSTANCE || computeInstance === NO_INSTANCE;
    return {
      uuid: this.uuid(out.device ?? {}),
      xid: Number(out.data ?? 0),
      instances: whole ? undefined : { gpu: gpuInstance, compute: computeInstance },
    };
  }

  #number(names: readonly string[], parameters: string, values: readonly unknown[]): number {
    const out = [0];
    this.#call(names, parameters, [...values, out]);
    return out[0] ?? 0;
  }

  #handle(names: readonly string[], parameters: string, values: readonly unknown[]): Handle {
    const out: (Handle | null)[] = [null];
    this.#call(names, parameters, [...values, out]);
    return out[0] ?? {};
  }

  #text(names: readonly string[], parameters: string, values: readonly unknown[]): string {
    const out = Buffer.alloc(NAME_SIZE);
    this.#call(names, parameters, [...values, out, NAME_SIZE]);
    return out.toString("utf8", 0, out.indexOf(0));
  }

  #call(names: readonly string[], parameters: string, values: readonly unknown[]): void {
    this.#check(names[0] ?? "", this.#code(names, parameters, values));
  }

  #check(name: string, code: number): void {
    if (code === 0) return;
    if (code === FUNCTION_NOT_FOUND) throw new NvmlError(name, code, "the library has no such function");
    const describe = this.#function("nvmlErrorString", "const char *", "int code");
    throw new NvmlError(name, code, describe ? String(describe(code)) : "error");
  }

  /** Of the first function that the library has. */
  #code(names: readonly string[], parameters: string, values: readonly unknown[]): number {
    for (const name of names) {
      const found = this.#function(name, "int", parameters);
      if (found) return found(...values) as number;
    }
    return FUNCTION_NOT_FOUND;
  }

  #function(name: string, result: string, parameters: string): Call | undefined {
    if (!this.#functions.has(name)) this.#functions.set(name, this.#find(name, result, parameters));
    return this.#functions.get(name);
  }

  #find(name: string, result: string, parameters: string): Call | undefined {
    try {
      return this.#library.func(`${result} ${name}(${parameters})`);
    } catch (error) {
      if (/cannot find function/i.test((error as Error).message)) return undefined;
      throw error;
    }
  }
}
