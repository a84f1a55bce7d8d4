/** berth-vm metrics: of one pod's machine, by Kata's names, in the Prometheus text format. */
import { readdir, readFile } from "node:fs/promises";
import { O, type Order, readRecord } from "@berth/kernel";
import { VmError } from "../errors.ts";
import { connectGuest, type Guest } from "../sandbox/guest.ts";
import { machineDirectory, programDirectory } from "../sandbox/host.ts";
import type { Context } from "./context.ts";

const ANSWER_MS = 10_000;
/** A machine's directory is named by so much of its pod's id. */
const ID_LENGTH = 20;

interface Sample {
  readonly item: string;
  readonly value: number;
}

export async function metrics(context: Context, sandbox: string): Promise<void> {
  const directory = machineDirectory({ machines: `${context.options.state}/vm` }, sandbox.slice(0, ID_LENGTH));
  const record = await readRecord(programDirectory(directory, "hypervisor"));
  if (record?.phase !== "running")
    throw new VmError("Missing", `${directory}: no virtual machine runs for pod ${sandbox}`);
  const guest = await connectGuest(directory, { timeoutMs: ANSWER_MS });
  try {
    const families = [...(await hypervisorFamilies(record.pid)), ...(await guestFamilies(guest))];
    context.print(families.map(([name, samples]) => family(name, samples)).join(""));
  } finally {
    await guest.hand.close();
  }
}

function family(name: string, samples: readonly Sample[]): string {
  const lines = samples.map(({ item, value }) => `${name}${item === "" ? "" : `{item="${item}"}`} ${value}\n`);
  return `# TYPE ${name} gauge\n${lines.join("")}`;
}

type Family = readonly [name: string, samples: readonly Sample[]];

async function hypervisorFamilies(pid: number): Promise<Family[]> {
  const text = (name: string): Promise<string> => readFile(`/proc/${pid}/${name}`, "utf8");
  const [status, io, stat, fds] = await Promise.all([
    text("status"),
    text("io"),
    text("stat"),
    readdir(`/proc/${pid}/fd`),
  ]);
  // Behind the name, which may have anything in it: state is field 3.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const at = (number: number): number => Number(fields[number - 3]);
  const known = keyed(status).filter(({ item }) => /^(vm|rss|hugetlb|voluntary|nonvoluntary)/.test(item));
  return [
    ["kata_hypervisor_fds", [{ item: "", value: fds.length }]],
    ["kata_hypervisor_threads", [{ item: "", value: at(20) }]],
    ["kata_hypervisor_proc_status", known],
    [
      "kata_hypervisor_proc_stat",
      [
        ["utime", 14],
        ["stime", 15],
        ["cutime", 16],
        ["cstime", 17],
      ].map(([item, number]) => ({ item: String(item), value: at(Number(number)) })),
    ],
    ["kata_hypervisor_io_stat", keyed(io)],
  ];
}

/** "Name: number" lines. */
function keyed(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, item, value] = /^(\S+?):\s+(\d+)/.exec(line) ?? [];
    return item === undefined ? [] : [{ item: item.toLowerCase().replace(/[()]/g, "_"), value: Number(value) }];
  });
}

async function guestFamilies({ hand }: Guest): Promise<Family[]> {
  const names = ["meminfo", "loadavg", "vmstat", "stat"];
  const orders: Order[] = [
    { order: "open", args: { slot: 0, path: "/proc", flags: BigInt(O.PATH | O.DIRECTORY) } },
    ...names.map((name): Order => ({ order: "read_in", args: { root: 0, path: `/${name}`, max: 1 << 16 } })),
  ];
  const outputs = await hand.run({ orders }, { timeoutMs: ANSWER_MS });
  const [meminfo = "", loadavg = "", vmstat = "", stat = ""] = names.map((_, index) =>
    Buffer.from(outputs.get(index + 1) ?? new Uint8Array()).toString(),
  );
  const [load1, load5, load15, tasks = ""] = loadavg.split(" ");
  const [running, all] = tasks.split("/");
  const cpu = /^cpu\s+(.*)$/m.exec(stat)?.[1]?.split(" ") ?? [];
  return [
    ["kata_guest_meminfo", keyed(meminfo)],
    [
      "kata_guest_load",
      [
        ["load1", load1],
        ["load5", load5],
        ["load15", load15],
      ].map(([item, value]) => ({ item: item ?? "", value: Number(value) })),
    ],
    [
      "kata_guest_tasks",
      [
        { item: "cur", value: Number(running) },
        { item: "max", value: Number(all) },
      ],
    ],
    ["kata_guest_vm_stat", keyed(vmstat.replaceAll(" ", ": "))],
    [
      "kata_guest_cpu_time",
      ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"].map((item, index) => ({
        item,
        value: Number(cpu[index] ?? 0),
      })),
    ],
  ];
}
