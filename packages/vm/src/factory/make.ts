/** A template: a machine that has booted, without anything of a pod, and without the memory that it does not need. */
import { readdir, readlink, writeFile } from "node:fs/promises";
import { NO_SLOT, type Hand } from "@berth/kernel";
import { VmError } from "../errors.ts";
import type { Hypervisor, Machine } from "../hypervisor/machine.ts";
import type { VmSettings } from "../configuration/settings.ts";
import { connectGuest, guestWords } from "../sandbox/guest.ts";
import { machineDirectory, type VmHost } from "../sandbox/host.ts";
import { launch, writeState } from "../sandbox/launch.ts";
import { endProgram } from "../sandbox/programs.ts";
import { removeMachine } from "../sandbox/remove.ts";
import { templateMachine, type TemplateKey } from "./key.ts";
import { newName } from "./names.ts";
import { addTemplate, type Template } from "./store.ts";

export interface Making {
  readonly place: string;
  readonly key: TemplateKey;
  readonly settings: VmSettings;
  readonly accelerator: "kvm" | "tcg";
  readonly hypervisor: Hypervisor;
  /** That a pod asked for. */
  readonly machine: Machine;
  readonly signal: AbortSignal;
}

export async function makeTemplate(vm: VmHost, making: Making): Promise<Template> {
  const id = newName("tpl");
  try {
    return await addTemplate(making.place, making.key, async (template) => await bootAndSave(vm, id, making, template));
  } finally {
    await removeMachine(vm, id);
  }
}

async function bootAndSave(vm: VmHost, id: string, making: Making, template: Template): Promise<void> {
  const { settings, accelerator, hypervisor, signal } = making;
  const directory = machineDirectory(vm, id);
  const place = { cgroup: `/berth-${id}` };
  const machine = templateMachine(making.machine, id, directory);
  await writeState(directory, { settings, accelerator, cgroup: place.cgroup });
  const { control, failed, link, startRelay } = await launch(vm, { directory, hypervisor, machine, place, signal });
  try {
    const saving = control.template;
    if (!saving) throw new VmError("Unsupported", `${hypervisor.name} cannot save a machine`);
    await startRelay();
    await control.boot();
    const timeoutMs = settings.agent.dial_timeout * 1000;
    const { hand } = await Promise.race([connectGuest(directory, { timeoutMs, signal }), failed]);
    const whole = machine.memory.mib * MIB;
    await writeFile(template.guest, JSON.stringify(await guestWords(hand)));
    const used = await forget(hand, whole);
    await hand.close();
    if (accelerator === "kvm" || whole <= MOST_EMULATED) {
      await saving.inflate(used, signal);
      await saving.inflate(whole, signal);
    }
    await endProgram(directory, "relay");
    await control.pause();
    await saving.save(template.state, signal);
    const { pid } = await link.state();
    const order = {
      order: "copy_memory",
      args: { from: await memoryOf(pid), to: template.memory, slot: NO_SLOT },
    } as const;
    await vm.hand.run({ orders: [order] }, { signal });
  } finally {
    control.close();
    link.close();
  }
}

const MIB = 1 << 20;
/** A balloon takes a tenth of a second for each MiB of an emulated guest's: a large one keeps what it has used for its boot. */
const MOST_EMULATED = 512 * MIB;
/** What the guest keeps of free memory, so that it need not look for any while the rest is taken. */
const MARGIN = 2 * MIB;
const MAX_TEXT = 1 << 16;

/** Has the guest forget what it can read again; answers how many bytes of memory it cannot do without. */
async function forget(guest: Hand, whole: number): Promise<number> {
  const outputs = await guest.run({
    orders: [
      { order: "write_file", args: { path: "/proc/sys/vm/drop_caches", data: Buffer.from("3") } },
      { order: "read_file", args: { path: "/proc/meminfo", max: MAX_TEXT } },
    ],
  });
  const free = /^MemFree: +(\d+) kB$/m.exec(Buffer.from(outputs.get(1) ?? []).toString())?.[1];
  if (free === undefined) throw new VmError("Guest", "the guest does not say how much of its memory is free");
  return Math.min(whole, whole - Number(free) * 1024 + MARGIN);
}

/** The hypervisor's memfd. */
async function memoryOf(pid: number): Promise<string> {
  const directory = `/proc/${pid}/fd`;
  for (const fd of await readdir(directory)) {
    const target = await readlink(`${directory}/${fd}`);
    if (target.startsWith("/memfd:memory-backend-memfd")) return `${directory}/${fd}`;
  }
  throw new VmError("Hypervisor", "the hypervisor has no memory that can be copied");
}
