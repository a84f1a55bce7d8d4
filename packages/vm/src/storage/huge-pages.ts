/** Volumes of huge pages (the kubelet's emptyDir of medium HugePages): of the guest's own memory, as many as the container may use. */
import { createHash } from "node:crypto";
import { MS, type Order } from "@berth/kernel";
import type { oci } from "@berth/spec";
import { VmError } from "../errors.ts";
import type { PodMachine } from "../sandbox/machine.ts";

export const HUGETLBFS = 0x958458f6;
const PLACES = "/run/berth/h";
const POOLS = "/sys/kernel/mm/hugepages";

export interface HugePages {
  /** On the host. */
  readonly source: string;
  /** Bytes. */
  readonly pageSize: number;
  readonly limits: readonly oci.LinuxHugepageLimit[];
  readonly owner: { readonly mode: number; readonly uid: number; readonly gid: number };
  readonly field: string;
}

/** Answers where it is in the guest; one for all of the pod's containers. Rejects with VmError Unsupported. */
export async function plugHugePages(
  machine: PodMachine,
  { source, pageSize, limits, owner, field }: HugePages,
): Promise<string> {
  const limit = limits.find((one) => bytesOf(one.pageSize) === pageSize)?.limit ?? 0;
  const pages = Math.floor(Number(limit) / pageSize);
  const kib = pageSize / 1024;
  if (pages === 0)
    throw new VmError(
      "Unsupported",
      `${field}: "${source}" is of huge pages of ${kib} KiB, and the container has no limit of such (hugepage_limits): the machine would not know how many to take`,
    );
  const at = `${PLACES}/${createHash("sha256").update(source).digest("hex").slice(0, 12)}`;
  const { hand } = machine.guest;
  const there = await hand.run({ orders: [{ order: "find", args: { pattern: at, timeoutMs: 0 } }] });
  if (there.get(0) !== undefined) return at;
  await reserve(machine, `${POOLS}/hugepages-${kib}kB/nr_hugepages`, pages, field);
  const data = `pagesize=${pageSize},size=${pages * pageSize},mode=${owner.mode.toString(8)},uid=${owner.uid},gid=${owner.gid}`;
  const orders: Order[] = [
    { order: "mkdir", args: { path: at, mode: 0o755, existOk: 1, parents: 1 } },
    {
      order: "mount",
      args: { source: "hugepages", target: at, fstype: "hugetlbfs", flags: MS.NOSUID | MS.NODEV, data },
    },
  ];
  await hand.run({ orders });
  return at;
}

/** On top of those that the guest has for others. */
async function reserve({ guest }: PodMachine, pool: string, pages: number, field: string): Promise<void> {
  const count = async (): Promise<number> => {
    const outputs = await guest.hand.run({ orders: [{ order: "read_file", args: { path: pool, max: 64 } }] });
    const text = outputs.get(0);
    if (text === undefined) throw new VmError("Unsupported", `${field}: the guest's kernel has no ${pool}`);
    return Number(Buffer.from(text).toString());
  };
  const wanted = (await count()) + pages;
  await guest.hand.run({ orders: [{ order: "write_file", args: { path: pool, data: Buffer.from(String(wanted)) } }] });
  if ((await count()) < wanted)
    throw new VmError(
      "Unsupported",
      `${field}: the machine's memory has no room for ${pages} huge pages; raise default_memory`,
    );
}

/** "2MB", as runtime-spec and the CRI have it: powers of 1024. */
function bytesOf(size: string): number {
  const [, number = "0", unit = ""] = /^(\d+)([KMG])B$/.exec(size) ?? [];
  return Number(number) * 1024 ** ("KMG".indexOf(unit) + 1);
}
