/** berth-vm env: what configuration and node come to, in the format of kata-env 1.0.23 (Kata 1.7). */
import type { Command } from "commander";
import { VmError } from "../errors.ts";
import { kernelCommandLine } from "../hypervisor/choose.ts";
import { hypervisorProgram, isDebug } from "../hypervisor/drivers.ts";
import { findAcceleratorOf, guestFilesOf } from "../sandbox/files.ts";
import type { Context } from "./context.ts";
import { OCI_VERSION, VERSION } from "./version.ts";
import { nodeFacts, versionOf, withHand } from "./node.ts";

const FORMAT = "1.0.23";

type Value = string | number | boolean | { readonly [key: string]: Value };
type Section = Readonly<Record<string, Value>>;

export function addEnv(command: Command, context: Context): void {
  command
    .command("env")
    .alias("kata-env")
    .description("print what the configuration and this node come to")
    .option("-j, --json", "as JSON")
    .action(async (options: { json?: boolean }) => await env(context, options.json === true));
}

async function env(context: Context, asJson: boolean): Promise<void> {
  const document = await describe(context);
  context.print(
    asJson
      ? JSON.stringify(document, undefined, 2)
      : Object.entries(document)
          .map(([name, section]) => table(name, section as Section))
          .join("\n"),
  );
}

async function describe(context: Context): Promise<Section> {
  const settings = await context.settings();
  const { hypervisor, runtime } = settings;
  const program = orNothing(() => hypervisorProgram(settings));
  const files = await guestFilesOf({ image: context.options.image }, settings).catch(nothing);
  const node = await nodeFacts();
  const [version, acceleration] = await withHand(async (hand) => [
    program === undefined ? "" : await versionOf(hand, program),
    program === undefined || files === undefined ? undefined : await findAcceleratorOf({ hand }, settings, files),
  ]);
  return {
    Meta: { Version: FORMAT },
    Runtime: {
      Debug: runtime.enable_debug,
      Trace: runtime.enable_tracing,
      DisableGuestSeccomp: runtime.disable_guest_seccomp,
      DisableNewNetNs: runtime.disable_new_netns,
      Path: process.argv[1] ?? "",
      Version: { Semver: VERSION, Commit: "", OCI: OCI_VERSION },
      Config: { Path: settings.file ?? "" },
    },
    Hypervisor: {
      MachineType: hypervisor.machine_type,
      Version: version,
      Path: program ?? "",
      BlockDeviceDriver: hypervisor.block_device_driver,
      EntropySource: hypervisor.entropy_source,
      Msize9p: hypervisor.msize_9p,
      MemorySlots: hypervisor.memory_slots,
      Debug: isDebug(settings),
      UseVSock: hypervisor.use_vsock,
      SharedFS: hypervisor.shared_fs,
    },
    Image: { Path: files?.image ?? "" },
    Kernel: { Path: files?.kernel ?? "", Parameters: kernelCommandLine(settings, undefined).join(" ") },
    Initrd: { Path: files?.initrd ?? "" },
    Proxy: { Type: "noProxy", Version: "", Path: "", Debug: false },
    Shim: { Type: "berth", Version: VERSION, Path: "", Debug: false },
    Agent: {
      Type: "bosun",
      Debug: settings.agent.enable_debug,
      Trace: settings.agent.enable_tracing,
      TraceMode: "",
      TraceType: "",
    },
    Host: {
      Kernel: node.kernel,
      Architecture: node.architecture,
      VMContainerCapable: acceleration?.accelerator === "kvm",
      SupportVSocks: false,
      Distro: { Name: node.distribution.name, Version: node.distribution.version },
      CPU: { Vendor: node.cpu.vendor, Model: node.cpu.model },
    },
    Netmon: { Version: "", Path: "", Debug: false, Enable: false },
  };
}

function orNothing(work: () => string): string | undefined {
  try {
    return work();
  } catch (error) {
    return nothing(error);
  }
}

/** What is not here is shown as empty. */
function nothing(error: unknown): undefined {
  if (error instanceof VmError) return undefined;
  throw error;
}

/** As kata-env prints TOML: what is in a table stands two spaces in. */
function table(name: string, section: Section, indent = ""): string {
  const entries = Object.entries(section);
  const plain = entries.filter(([, value]) => typeof value !== "object");
  const tables = entries.filter(([, value]) => typeof value === "object");
  return [
    `${indent}[${name}]\n`,
    ...plain.map(([key, value]) => `${indent}  ${key} = ${JSON.stringify(value)}\n`),
    ...tables.map(([key, value]) => table(`${name}.${key}`, value as Section, `${indent}  `)),
  ].join("");
}
