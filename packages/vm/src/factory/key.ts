/** What a template is made of: another kernel, image, bosun, QEMU or setting is another template. */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { cacheProblem } from "../configuration/cache.ts";
import type { VmSettings } from "../configuration/settings.ts";
import type { Hypervisor, Machine } from "../hypervisor/machine.ts";
import { serverOf, sharesOf } from "../sandbox/boot.ts";
import { virtiofsdArguments } from "../sandbox/virtiofsd.ts";

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
const MAKING = 2;
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

/** How many machines wait for a pod. Unsaid: one, where it is a template's copy; one that has to boot would cost more than it is worth. */
export function cacheSize(settings: VmSettings): number {
  const { vm_cache_number: asked } = settings.factory;
  if (asked >= 0) return asked;
  return cacheProblem(settings) === undefined && templateProblem(settings) === undefined ? 1 : 0;
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

/** What a machine that waits for a pod is known by. */
export function cacheDigest(
  { digest }: TemplateKey,
  hypervisor: Hypervisor,
  machine: Machine,
  settings: VmSettings,
): string {
  const shares = sharesOf(settings, IDLE, undefined);
  const { argv } = hypervisor.program({ ...templateMachine(machine, "idle", IDLE), shares });
  const servers = shares.map((share) => virtiofsdArguments(settings, IDLE, serverOf(share)));
  const nics = machine.nics.map(({ queues, vhost }) => [queues, vhost]);
  return createHash("sha256").update(JSON.stringify({ digest, argv, servers, nics })).digest("hex").slice(0, 32);
}

const IDLE = "/idle";

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
