/** What scripts/try-gpu does. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { describeGpus, type MachineGpus } from "@berth/gpu/machine";
import { IMAGE, writeImage } from "./gpu/image.ts";
import { allocateOne } from "./gpu/plugin.ts";
import { report } from "./gpu/report.ts";
import { type Ended, type Outcome, REPOSITORY, run, Trial } from "./gpu/trial.ts";

const WORKED = 0;
const FAILED = 1;
const UNUSABLE = 2;
const NO_GPU = 3;

const HOOK = `${REPOSITORY}/.build/native/cdi-hook`;
/** In process; and by the program that stands in nvidia-container-runtime's place. */
const HANDLERS = { own: "nvidia", program: "nvidia-program" } as const;

class TryOut {
  readonly #trial = new Trial();
  readonly #root: string;
  readonly #env: NodeJS.ProcessEnv;
  #left: readonly string[] = [];

  constructor(root: string) {
    this.#root = root;
    this.#env = { ...process.env, NVIDIA_CTK_CONFIG_FILE_PATH: this.#trial.path("nvidia.toml") };
  }

  /** Answers what was tried, and what is left of it on the machine. */
  async all(): Promise<{ readonly outcomes: readonly Outcome[]; readonly left: readonly string[] }> {
    const trial = this.#trial;
    try {
      const programs = await this.#programs();
      await writeImage(trial.path("image.tar"), programs);
      this.#configure();
      await this.#generate();
      await this.#startDaemon();
      await trial.try("nvidia-smi, by CDI", () => this.#smi(["--device", "nvidia.com/gpu=all"]));
      await trial.try("CUDA program, by CDI", () => this.#cuda(["--device", "nvidia.com/gpu=all"]));
      await trial.try("the driver's parameters in the container", () => this.#parameters());
      for (const [what, handler] of [
        ["berth-nvidia-runtime", HANDLERS.program],
        ["berthd's own handler", HANDLERS.own],
      ] as const) {
        const asked = [
          "--runtime",
          handler,
          "-e",
          "NVIDIA_VISIBLE_DEVICES=all",
          "-e",
          "NVIDIA_DRIVER_CAPABILITIES=all",
        ];
        await trial.try(`nvidia-smi, by ${what}`, () => this.#smi(asked));
        await trial.try(`CUDA program, by ${what}`, () => this.#cuda(asked));
      }
      await trial.try("no GPU without asking", () => this.#none());
      await this.#plugin();
    } finally {
      this.#left = await trial.clean();
    }
    return { outcomes: trial.outcomes, left: this.#left };
  }

  async #programs(): Promise<string[]> {
    const program = this.#trial.path("vector-add");
    const source = `${REPOSITORY}/scripts/gpu/vector-add.c`;
    const { status, all } = await run(["cc", "-O1", source, "-o", program, "-ldl"]);
    if (status !== 0) throw new Error(`cc, which builds the CUDA program (Debian: gcc and libc6-dev): ${all.trim()}`);
    return [program];
  }

  #configure(): void {
    const runtimes = "plugins.'io.containerd.cri.v1.runtime'";
    const handler = (name: string, options: string): string =>
      `[${runtimes}.containerd.runtimes.${name}]\nruntime_type = "io.containerd.runc.v2"\n[${runtimes}.containerd.runtimes.${name}.options]\n${options}\n`;
    const { own, program } = HANDLERS;
    writeFileSync(
      this.#trial.path("config.toml"),
      `version = 3\n[${runtimes}]\ncdi_spec_dirs = ["${this.#trial.path("cdi")}"]\n` +
        handler(own, `NvidiaRuntime = true\nNvidiaConfig = "${this.#trial.path("nvidia.toml")}"`) +
        handler(program, `BinaryName = "${REPOSITORY}/bin/berth-nvidia-runtime"`),
    );
    writeFileSync(
      this.#trial.path("nvidia.toml"),
      `[nvidia-container-cli]\nroot = "${this.#root}"\n[nvidia-container-runtime]\nruntimes = ["${REPOSITORY}/bin/berth-runc"]\n[nvidia-ctk]\npath = "${HOOK}"\n`,
    );
  }

  async #generate(): Promise<void> {
    const output = this.#trial.path("cdi/nvidia.yaml");
    mkdirSync(this.#trial.path("cdi"));
    const flags = ["--driver-root", this.#root, "--nvidia-cdi-hook-path", HOOK, "--output", output];
    const ctk = `${REPOSITORY}/bin/berth-ctk`;
    await this.#trial.try("cdi generate", async () => {
      const made = checked(await run([ctk, "cdi", "generate", ...flags], this.#env));
      const { out } = checked(await run([ctk, "cdi", "list", "--spec-dir", this.#trial.path("cdi")], this.#env));
      const names = out.trim().split("\n");
      const shown = {
        command: "berth-ctk cdi generate --output nvidia.yaml && berth-ctk cdi list",
        output: `${made.all}${out}`,
      };
      return { summary: `${names.length} devices`, ms: made.ms, shown };
    });
  }

  async #startDaemon(): Promise<void> {
    const path = (name: string): string => this.#trial.path(name);
    const dirs = ["--root", path("root"), "--state", path("state"), "--netns-dir", path("netns")];
    const network = ["--cni-conf-dir", path("net.d"), "--cni-cache-dir", path("cni")];
    const argv = [`${REPOSITORY}/bin/berthd`, "--config", path("config.toml"), ...dirs, ...network];
    await this.#trial.start("berthd", argv, "berthd is ready", this.#env);
    checked(await this.#berth(["load", "-q", "-i", path("image.tar")]));
  }

  #berth(args: readonly string[]): Promise<Ended> {
    return run([`${REPOSITORY}/bin/berth`, "--address", this.#trial.path("state/berth.sock"), ...args], this.#env);
  }

  /** In a container that asks for GPUs by these flags. */
  async #run(asked: readonly string[], command: readonly string[]): Promise<Ended & { readonly command: string }> {
    const args = ["run", "--rm", "--network", "host", ...asked, IMAGE, ...command];
    return { ...checked(await this.#berth(args)), command: `berth ${args.join(" ")}` };
  }

  async #smi(asked: readonly string[]): Promise<Omit<Outcome, "what" | "works">> {
    const { command, all, ms } = await this.#run(asked, [await this.#smiProgram()]);
    const version = /Driver Version: (\S+)/.exec(all)?.[1];
    if (version === undefined) throw new Error(`it names no driver version: ${all.trim()}`);
    return { summary: `driver ${version}`, ms, shown: { command, output: all } };
  }

  /** Where the machine has it, the container does; its directory need not be on the image's PATH. */
  async #smiProgram(): Promise<string> {
    if (this.#root !== "/") return "nvidia-smi";
    const { status, out } = await run(["sh", "-c", "command -v nvidia-smi"]);
    return status === 0 ? out.trim() : "nvidia-smi";
  }

  async #cuda(asked: readonly string[]): Promise<Omit<Outcome, "what" | "works">> {
    const { command, all, ms } = await this.#run(asked, ["vector-add"]);
    return { summary: all.trim().split("\n").at(-1) ?? "", ms, shown: { command, output: all } };
  }

  /** Made-up drivers have no such file. */
  async #parameters(): Promise<Omit<Outcome, "what" | "works">> {
    const script = "cat /proc/driver/nvidia/params 2>/dev/null || echo none";
    const { out, ms } = await this.#run(["--device", "nvidia.com/gpu=all"], ["sh", "-c", script]);
    const value = /^ModifyDeviceFiles: (\d)/m.exec(out)?.[1];
    if (value !== undefined && value !== "0")
      throw new Error(`ModifyDeviceFiles is ${value}: the container may make nodes`);
    return { summary: value === undefined ? "the driver has none" : "ModifyDeviceFiles: 0", ms };
  }

  async #none(): Promise<Omit<Outcome, "what" | "works">> {
    const { out, ms } = await this.#run([], ["ls", "/dev"]);
    const nodes = out.split("\n").filter((name) => name.startsWith("nvidia"));
    if (nodes.length > 0) throw new Error(`a container that asked for none has ${nodes.join(", ")}`);
    return { summary: "no node of a GPU", ms };
  }

  async #plugin(): Promise<void> {
    const trial = this.#trial;
    let names: readonly string[] = [];
    await trial.try("device plugin: registered, allocated", async () => {
      const root = this.#root;
      const driver = ["--driver-root", root, "--driver-root-ctr-path", root, "--nvidia-cdi-hook-path", HOOK];
      const flags = [...driver, "--device-list-strategy", "cdi-cri", "--cdi-spec-dirs", trial.path("cdi")];
      const allocated = await allocateOne(trial, flags, this.#env);
      names = allocated.cdiDevices;
      const summary = `${allocated.healthy} healthy; Allocate of ${allocated.ids.join()} answers ${names.join()}`;
      return { summary, ms: allocated.registeredMs };
    });
    if (names.length === 0) return;
    const asked = names.flatMap((name) => ["--device", name]);
    await trial.try("nvidia-smi, as the plugin says", () => this.#smi(asked));
    await trial.try("CUDA program, as the plugin says", () => this.#cuda(asked));
  }
}

function checked(ended: Ended): Ended {
  if (ended.status !== 0) throw new Error(ended.err.trim() || ended.all.trim() || `exit status ${ended.status}`);
  return ended;
}

async function revisionOf(): Promise<string> {
  const { status, out } = await run(["git", "-C", REPOSITORY, "rev-parse", "--short", "HEAD"]);
  return status === 0 ? out.trim() : "0.1.0";
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { "driver-root": { type: "string", default: "/" }, output: { type: "string" } },
  });
  const root = join(values["driver-root"], "/");
  let machine: MachineGpus;
  try {
    machine = describeGpus(root);
  } catch (error) {
    process.stderr.write(`try-gpu: no NVIDIA GPU that could be tried: ${(error as Error).message}\n`);
    return NO_GPU;
  }
  if (machine.gpus.length === 0) {
    process.stderr.write(`try-gpu: no NVIDIA GPU that could be tried: the driver, ${machine.driver}, knows none\n`);
    return NO_GPU;
  }
  const { outcomes, left } = await new TryOut(root).all();
  const text = report(machine, outcomes, await revisionOf());
  if (values.output === undefined) process.stdout.write(text);
  else writeFileSync(values.output, text);
  for (const path of left) process.stderr.write(`try-gpu: still mounted: ${path}\n`);
  return outcomes.every(({ works }) => works) && left.length === 0 ? WORKED : FAILED;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`try-gpu: ${(error as Error).message}\n`);
  process.exitCode = UNUSABLE;
}
