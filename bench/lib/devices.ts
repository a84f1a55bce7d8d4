/** The measurements of bench/devices.ts. */
import { mkdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CdiHook, Registry } from "@berth/cdi";
import { FakeKubelet } from "@berth/gpu/testing";
import type { DeviceFigure } from "../devices.ts";
import { checkout, type Ground, HOOK } from "./devices-ground.ts";
import { median } from "./figures.ts";
import { pss } from "./memory.ts";
import { run, startProcess } from "./process.ts";

/** Aims of the project, in the figures' units. */
const AIMS = { injection: 1, hooks: 15, start: 300, memory: 80 } as const;

export async function injectionFigures({ specs }: Ground, rounds: number): Promise<DeviceFigure[]> {
  const wanted = ["v1.com/gpu=d1", "v50.com/gpu=d15", "v99.com/gpu=d0"];
  const spec = { ociVersion: "1.3.0", process: { user: { uid: 0, gid: 0 }, cwd: "/", env: [] } };
  const registry = await Registry.open({ dirs: [specs] });
  const inject = (): Promise<number> => timed(() => registry.inject(spec, wanted));
  await repeated(rounds, inject);
  const changed = await repeated(rounds, async () => {
    const now = new Date();
    utimesSync(join(specs, "f50.json"), now, now);
    return await inject();
  });
  return [
    {
      name: "injecting 3 devices, 100 files of 16, cached",
      unit: "ms",
      berth: median(await repeated(rounds, inject)),
      aim: AIMS.injection,
    },
    { name: "  when one of the files has changed", unit: "ms", berth: median(changed) },
    {
      name: "  the first time",
      unit: "ms",
      berth: await timed(async () => (await Registry.open({ dirs: [specs] })).inject(spec, wanted)),
    },
  ];
}

/** Each alone, and all one after the other as a runtime runs them; a shell starts them, and what that takes is taken off. */
export async function hookFigures(ground: Ground, rounds: number, peer: string | undefined): Promise<DeviceFigure[]> {
  const hooks = [
    ...(ground.nvidia.containerEdits?.hooks ?? []),
    ...(ground.nvidia.devices[0]?.containerEdits.hooks ?? []),
  ];
  const state = join(ground.dir, "state.json");
  const bundle = join(ground.dir, "bundle");
  mkdirSync(bundle, { recursive: true });
  writeFileSync(join(bundle, "config.json"), JSON.stringify({ ociVersion: "1.0.2", root: { path: ground.rootfs } }));
  writeFileSync(
    state,
    JSON.stringify({ ociVersion: "1.0.2", id: "bench", pid: process.pid, status: "creating", bundle }),
  );
  const programs = [HOOK, ...(peer === undefined ? [] : [peer])];
  const measured = (which: readonly CdiHook[]): Promise<number[]> =>
    alternately(programs, (program) => hookTime(which, program, { state, rootfs: ground.rootfs }, rounds));
  const figure = async (name: string, which: readonly CdiHook[], aim?: number): Promise<DeviceFigure> => {
    const [berth = 0, other] = await measured(which);
    return { name, unit: "ms", berth, peer: other, ...(aim !== undefined && { aim }) };
  };
  const all = await figure(
    `the ${hooks.length} hooks of NVIDIA's specification, ${ground.libraries} libraries`,
    hooks,
    AIMS.hooks,
  );
  const each: DeviceFigure[] = [];
  for (const hook of hooks) each.push(await figure(`  ${hook.args?.[1]}`, [hook]));
  const container = { state, rootfs: ground.rootfs };
  const ldconfig = await loopTime([["/sbin/ldconfig", "-r", ground.rootfs]], container, rounds);
  each.push({ name: "  (ldconfig by itself, in that root)", unit: "ms", berth: ldconfig });
  return [all, ...each];
}

interface Container {
  /** A file of its OCI state. */
  readonly state: string;
  /** Bound on itself, as a container's root is a mount. */
  readonly rootfs: string;
}

/** ms for one container. */
async function hookTime(
  hooks: readonly CdiHook[],
  program: string,
  container: Container,
  rounds: number,
): Promise<number> {
  const commands = hooks.map(({ args = [] }) => [program, ...args.slice(1)]);
  const empty = await loopTime(
    hooks.map(() => ["/bin/true"]),
    container,
    rounds,
  );
  return (await loopTime(commands, container, rounds)) - empty;
}

/** ms for one round of the commands, each of which is given the state. */
async function loopTime(
  commands: readonly (readonly string[])[],
  container: Container,
  rounds: number,
): Promise<number> {
  const { state, rootfs } = container;
  const body = commands.map((argv) => `${argv.map((arg) => `'${arg}'`).join(" ")} <'${state}'`).join("; ");
  const script = `mount --bind "$1" "$1"; i=0; while [ $i -lt ${rounds} ]; do i=$((i+1)); ${body}; done`;
  const took = await timed(() => run(["unshare", "-m", "sh", "-ec", script, "sh", rootfs]));
  return took / rounds;
}

/** Before the low-level runtime begins, which here is a program that does nothing. */
export async function runtimeFigures(
  ground: Ground,
  rounds: number,
  peer: string | undefined,
): Promise<DeviceFigure[]> {
  const config = join(ground.dir, "config.toml");
  writeFileSync(
    config,
    `[nvidia-container-cli]\nroot = "${ground.driver}"\n[nvidia-container-runtime]\nruntimes = ["/bin/true"]\n[nvidia-ctk]\npath = "${HOOK}"\n`,
  );
  const env = { ...ground.env, NVIDIA_CTK_CONFIG_FILE_PATH: config };
  const bundle = join(ground.dir, "nvidia-bundle");
  mkdirSync(bundle, { recursive: true });
  const spec = JSON.stringify({
    ociVersion: "1.0.2",
    process: { user: { uid: 0, gid: 0 }, cwd: "/", args: ["x"], env: ["NVIDIA_VISIBLE_DEVICES=0"] },
    root: { path: "r" },
  });
  const programs = [`${checkout}/bin/berth-nvidia-runtime`, ...(peer === undefined ? [] : [peer])];
  const verb = (argv: readonly string[]): Promise<number[]> =>
    alternately(programs, async (program) => {
      const own: number[] = [];
      const bare: number[] = [];
      for (let round = 0; round <= rounds; round++) {
        writeFileSync(join(bundle, "config.json"), spec);
        bare.push(await timed(() => run(["/bin/true"])));
        own.push(await timed(() => run([program, ...argv], { env })));
      }
      return median(own.slice(1)) - median(bare.slice(1));
    });
  const [state = 0, peerState] = await verb(["state", "x"]);
  const [create = 0, peerCreate] = await verb(["create", "--bundle", bundle, "x"]);
  return [
    { name: "berth-nvidia-runtime state, before the low-level runtime", unit: "ms", berth: state, peer: peerState },
    { name: "berth-nvidia-runtime create, jit-cdi", unit: "ms", berth: create, peer: peerCreate },
  ];
}

export async function pluginFigures(ground: Ground, rounds: number): Promise<DeviceFigure[]> {
  const generic = join(ground.dir, "resources.yaml");
  writeFileSync(generic, "version: v1\nresources:\n- name: v1.com/gpu\n");
  const driver = ["--driver-root", ground.driver, "--driver-root-ctr-path", ground.driver];
  const kinds = [
    {
      name: "device plugin, 8 GPUs",
      flags: ["--cdi-spec-dirs", join(ground.dir, "cdi"), "--device-list-strategy", "cdi-cri", ...driver],
      resource: "nvidia.com/gpu",
    },
    {
      name: "device plugin, a CDI kind of 16",
      flags: ["--config-file", generic, "--cdi-spec-dirs", ground.oneSpec],
      resource: "v1.com/gpu",
    },
  ];
  const figures: DeviceFigure[] = [];
  for (const { name, flags, resource } of kinds) {
    const starts: number[] = [];
    const sizes: number[] = [];
    // The first start writes the compile cache, and is not counted.
    for (let round = 0; round <= rounds; round++) {
      const { ms, bytes } = await pluginStart(ground, flags, resource);
      if (round === 0) continue;
      starts.push(ms);
      sizes.push(bytes);
    }
    figures.push(
      { name: `${name}: start to registered`, unit: "ms", berth: median(starts), aim: AIMS.start },
      { name: `${name}: memory (PSS)`, unit: "MB", berth: median(sizes) / 2 ** 20, aim: AIMS.memory },
    );
  }
  return figures;
}

async function pluginStart(
  ground: Ground,
  flags: readonly string[],
  resource: string,
): Promise<{ ms: number; bytes: number }> {
  const dir = join(ground.dir, "kubelet");
  mkdirSync(dir);
  const kubelet = new FakeKubelet(dir);
  await kubelet.start();
  const began = performance.now();
  const plugin = startProcess(
    [`${checkout}/bin/berth-device-plugin`, "--kubelet-socket", kubelet.socket, ...flags],
    join(ground.dir, "plugin.log"),
    ground.env,
  );
  try {
    await kubelet.until(() => kubelet.resources.has(resource));
    const ms = performance.now() - began;
    await kubelet.until(() => (kubelet.resources.get(resource)?.lists.length ?? 0) > 0);
    return { ms, bytes: pss(plugin.pid) };
  } finally {
    await plugin.stop();
    await kubelet.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Of each program, in turns, the median of three measurements. */
async function alternately(
  programs: readonly string[],
  measure: (program: string) => Promise<number>,
): Promise<number[]> {
  const times = programs.map((): number[] => []);
  for (let turn = 0; turn < 3; turn++)
    for (const [index, program] of programs.entries()) times[index]?.push(await measure(program));
  return times.map((list) => median(list));
}

async function repeated(rounds: number, measure: () => Promise<number>): Promise<number[]> {
  const times: number[] = [];
  for (let round = 0; round < rounds; round++) times.push(await measure());
  return times;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}
