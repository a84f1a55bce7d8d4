/** What a template is made of: another kernel, image, bosun, QEMU or setting is another template. */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import type { VmSettings } from "../configuration/settings.ts";
import type { Hypervisor, Machine } from "../hypervisor/machine.ts";

/** A file that went into a template, as it was then. */
export interface Input {
  readonly path: string;
  /** Device, inode, size and time of change. */
  readonly identity: string;
}

export interface TemplateKey {
  readonly digest: string;
  readonly inputs: readonly Input[];
}

/** Another way of making them is another number. */
const MAKING = 1;
const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/** Why machines of these settings boot each for itself; undefined: they can be copies of a template. */
export function templateProblem({ name, hypervisor, factory }: VmSettings): string | undefined {
  if (!factory.enable_template) return "enable_template = false";
  if (name !== "qemu") return `hypervisor ${name} has no templates here`;
  if (hypervisor.machine_type === "microvm") return "machine_type microvm: devices cannot be added to a copy";
  const set = (["enable_hugepages", "enable_mem_prealloc", "enable_virtio_mem", "rootless"] as const).find(
    (key) => hypervisor[key],
  );
  if (set !== undefined) return `${set}: a copy's memory is a file that root makes, page by page`;
  if (hypervisor.file_mem_backend !== "") return "file_mem_backend: a copy's memory is a file of its own";
  // As Kata's, which are of an initrd alone.
  if (hypervisor.image !== "") return "image: a template is made of an initrd";
  if (hypervisor.pflashes.length > 0) return "pflashes: a flash is one machine's";
  return undefined;
}

/** A machine as a template is: nothing of a pod. What a pod's has more comes after it on the command line. */
export const templateMachine = (machine: Machine, id: string, directory: string): Machine => ({
  ...machine,
  id,
  directory,
  shares: [],
  nics: [],
  disks: [],
  devices: [],
});

/** Rejects where a file cannot be looked at. */
export async function templateKey(hypervisor: Hypervisor, machine: Machine): Promise<TemplateKey> {
  const { argv, env } = hypervisor.program(templateMachine(machine, "template", "/template"));
  const files = [machine.program, machine.kernel, machine.initrd, machine.image?.path];
  const inputs = await Promise.all(files.filter((path) => path !== undefined).map(inputOf));
  const about = { making: MAKING, boot: await readFile(BOOT_ID, "utf8"), argv, env, inputs };
  return { digest: createHash("sha256").update(JSON.stringify(about)).digest("hex").slice(0, 32), inputs };
}

async function inputOf(path: string): Promise<Input> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return { path, identity: [dev, ino, size, mtimeNs, ctimeNs].join(":") };
}

/** Whether what went into it is what is there now. */
export async function isCurrent(inputs: readonly Input[]): Promise<boolean> {
  try {
    const now = await Promise.all(inputs.map(({ path }) => inputOf(path)));
    return now.every(({ identity }, index) => identity === inputs[index]?.identity);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw error;
  }
}
