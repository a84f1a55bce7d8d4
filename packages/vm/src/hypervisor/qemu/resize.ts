/** Processors and memory that come and go while a QEMU runs. */
import type { Qmp } from "../../qmp/client.ts";

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

/** What the guest should hold at most; it gives pages back as it can. */
export async function shrinkBalloon(qmp: Qmp, bytes: number): Promise<void> {
  await qmp.execute("balloon", { value: bytes });
}
