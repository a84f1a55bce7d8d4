/** Processors and memory that come and go while a QEMU runs. */
import type { Qmp } from "../../qmp/client.ts";
import { VmError } from "../../errors.ts";
import { VIRTIO_MEM } from "./command.ts";

export interface CpuSlot {
  readonly type: string;
  readonly properties: Readonly<Record<string, unknown>>;
  /** Its id, where it was hotplugged; "": there since the start; undefined: free. */
  readonly device: string | undefined;
}

/** query-hotpluggable-cpus lists the last slot first. */
export async function cpuSlots(qmp: Qmp): Promise<CpuSlot[]> {
  const slots =
    await qmp.execute<readonly { type: string; props: Record<string, unknown>; "qom-path"?: string }[]>(
      "query-hotpluggable-cpus",
    );
  return slots.map(({ type, props, "qom-path": path }) => ({
    type,
    properties: props,
    device: path === undefined ? undefined : (/^\/machine\/peripheral\/([^/]+)$/.exec(path)?.[1] ?? ""),
  }));
}

/** How long a guest may take to let go of a processor. */
const UNPLUG_MS = 30_000;

/**
 * Rejects with VmError Guest where the guest keeps it. Under TCG no DEVICE_DELETED comes: what tells is the guest's own word to ACPI, when
 * the processor is gone.
 */
export async function removeCpu(qmp: Qmp, device: string): Promise<void> {
  const told = qmp.event(
    ({ event, data }) => (event === "DEVICE_DELETED" && data["device"] === device) || isCpuStatus(event, data),
    `unplug ${device}`,
    UNPLUG_MS,
  );
  told.catch(() => {});
  await qmp.execute("device_del", { id: device });
  await told;
  if ((await cpuSlots(qmp)).some((slot) => slot.device === device))
    throw new VmError("Guest", `${device}: the guest does not let go of the processor`);
}

/** ACPI 6.5, 6.3.5: _OST of an eject request; the status that it has begun is none of its end. */
const [EJECT_REQUEST, IN_PROGRESS] = [3, 0x84] as const;

function isCpuStatus(event: string, data: Readonly<Record<string, unknown>>): boolean {
  if (event !== "ACPI_DEVICE_OST") return false;
  const { "slot-type": type, source, status } = data["info"] as Readonly<Record<string, unknown>>;
  return type === "CPU" && source === EJECT_REQUEST && status !== IN_PROGRESS;
}

/** Bytes. */
export async function memoryOf(qmp: Qmp): Promise<{ readonly base: number; readonly present: number }> {
  const { "base-memory": base, "plugged-memory": plugged = 0 } = await qmp.execute<{
    "base-memory": number;
    "plugged-memory"?: number;
  }>("query-memory-size-summary");
  return { base, present: base + plugged };
}

/** A DIMM's step: the block that Linux takes memory into use by (x86: 128 MiB). */
const DIMM_STEP = 128 << 20;

/** One DIMM more of at least so many bytes. */
export async function growMemory(qmp: Qmp, bytes: number): Promise<void> {
  const devices = await qmp.execute<readonly { type: string; data: { id?: string } }[]>("query-memory-devices");
  const index = devices.filter(({ type }) => type === "dimm").length;
  const id = `dimm${index}`;
  const size = Math.ceil(bytes / DIMM_STEP) * DIMM_STEP;
  await qmp.execute("object-add", { "qom-type": "memory-backend-memfd", id: `${id}-mem`, size, share: true });
  try {
    await qmp.execute("device_add", { driver: "pc-dimm", id, memdev: `${id}-mem` });
  } catch (error) {
    await qmp.execute("object-del", { id: `${id}-mem` });
    throw error;
  }
}

interface VirtioMem {
  readonly size: number;
  readonly "requested-size": number;
  readonly "max-size": number;
  readonly "block-size": number;
}

/** How long a guest may take to take memory, or to give back what it can. */
const VIRTIO_MEM_MS = 10_000;

/**
 * So many bytes beside the machine's base, in the device's steps. Memory that is in use is not given back: what there is then is asked
 * of memoryOf.
 */
export async function resizeVirtioMem(qmp: Qmp, bytes: number): Promise<void> {
  const devices = await qmp.execute<readonly { type: string; data: VirtioMem }[]>("query-memory-devices");
  const about = devices.find(({ type }) => type === "virtio-mem")?.data;
  if (!about) throw new VmError("Hypervisor", "the machine was started without virtio-mem");
  const step = about["block-size"];
  const wanted = Math.ceil(Math.max(0, bytes) / step) * step;
  if (wanted > about["max-size"])
    throw new VmError(
      "Unsupported",
      `${bytes} bytes more memory: the machine was started for ${about["max-size"]} (default_maxmemory)`,
    );
  if (wanted === about.size && wanted === about["requested-size"]) return;
  const reached = qmp.event(
    ({ event, data }) => event === "MEMORY_DEVICE_SIZE_CHANGE" && data["size"] === wanted,
    `${VIRTIO_MEM} to ${wanted} bytes`,
    VIRTIO_MEM_MS,
  );
  reached.catch(() => {});
  await qmp.execute("qom-set", {
    path: `/machine/peripheral/${VIRTIO_MEM}`,
    property: "requested-size",
    value: wanted,
  });
  if (wanted !== about.size) await reached.catch(onlyLate(qmp));
}

/** A guest that takes its time goes on meanwhile. */
const onlyLate =
  (qmp: Qmp) =>
  (error: unknown): void => {
    if (!qmp.isOpen) throw error;
  };

/** What the guest should hold at most; it gives pages back as it can. */
export async function shrinkBalloon(qmp: Qmp, bytes: number): Promise<void> {
  await qmp.execute("balloon", { value: bytes });
}
