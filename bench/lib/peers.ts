/** The two runtimes side by side, each with directories, network and socket of its own. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { busyboxArchive, file, imageArchive } from "../../scripts/busybox-image.ts";
import { type Service, run, startService } from "./process.ts";

export interface Peer {
  readonly name: string;
  readonly socket: string;
  /** Replaced by `restart`. */
  service: Service;
  /** Starts it anew after its end; resolves when its socket is there. */
  restart(): Promise<void>;
  /** Matches every process that stands for a pod or container besides the workload. */
  readonly perPod: RegExp;
  readonly image: string;
  /** The bridge that its CNI network made, for the bench to take away. */
  readonly bridge: string;
}

const checkout = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
export const bosun = `${checkout}/.build/native/bosun`;
export const IMAGE = "localhost/berth-bench/busybox:latest";
export const PAUSE = "localhost/berth-bench/pause:latest";

type Fixed = Omit<Peer, "service" | "restart">;

async function startPeer(peer: Fixed, argv: readonly string[], logFile: string): Promise<Peer> {
  const start = async (): Promise<Service> => {
    // A socket that a killed one has left is not one that answers.
    rmSync(peer.socket, { force: true });
    return await startService(argv, peer.socket, logFile);
  };
  const started: Peer = {
    ...peer,
    service: await start(),
    restart: async () => {
      started.service = await start();
    },
  };
  return started;
}

/** The same plugins with the same options for everyone: bridge with masquerading, host-local, portmap. */
export function networkOf(dir: string, name: string, subnet: string) {
  const ipam = { type: "host-local", ranges: [[{ subnet }]], routes: [{ dst: "0.0.0.0/0" }], dataDir: `${dir}/leases` };
  const plugins: readonly Record<string, unknown>[] = [
    { type: "bridge", bridge: name, isGateway: true, ipMasq: true, hairpinMode: true, ipam },
    { type: "portmap", capabilities: { portMappings: true } },
  ];
  return { cniVersion: "1.0.0", name, plugins };
}

function writeNetwork(dir: string, name: string, subnet: string): void {
  mkdirSync(dir, { recursive: true });
  writeFileSync(`${dir}/10-bench.conflist`, JSON.stringify(networkOf(dir, name, subnet)));
}

export interface Places {
  /** On disk: stores. */
  readonly work: string;
  /** Under /run, as on a node: what must not survive a reboot. */
  readonly run: string;
}

export async function startBerth(
  { work, run: runDir }: Places,
  archive: string,
  more: readonly string[] = [],
): Promise<Peer> {
  const [root, state, cni] = [`${work}/berth/root`, `${runDir}/berth`, `${work}/berth/cni`];
  mkdirSync(state, { recursive: true });
  writeNetwork(cni, "bbench0", "10.201.0.0/20");
  const socket = `${state}/berth.sock`;
  const argv = [
    `${checkout}/bin/berthd`,
    "--root",
    root,
    "--state",
    state,
    "--cni-conf-dir",
    cni,
    "--cni-bin-dir",
    "/usr/lib/cni",
    "--cni-cache-dir",
    `${work}/berth/cni-cache`,
    ...more,
  ];
  const fixed = { name: "berth", socket, perPod: /^bosun-monitor/, image: IMAGE, bridge: "bbench0" };
  const peer = await startPeer(fixed, argv, `${work}/berthd.log`);
  await run([`${checkout}/bin/berth`, "--address", socket, "load", "-i", archive]);
  return peer;
}

export async function startContainerd(
  { work, run: runDir }: Places,
  archive: string,
  pauseArchive: string,
  criKeys: readonly string[] = [],
): Promise<Peer> {
  const [root, state, cni] = [`${work}/containerd/root`, `${runDir}/containerd`, `${work}/containerd/cni`];
  mkdirSync(state, { recursive: true });
  writeNetwork(cni, "cbench0", "10.202.0.0/20");
  const socket = `${state}/containerd.sock`;
  const config = `${work}/containerd/config.toml`;
  writeFileSync(
    config,
    `version = 2
root = "${root}"
state = "${state}"
[grpc]
address = "${socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${PAUSE}"
restrict_oom_score_adj = true
${criKeys.join("\n")}
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${cni}"
`,
  );
  const fixed = { name: "containerd", socket, perPod: /^(containerd-shim|pause )/, image: IMAGE, bridge: "cbench0" };
  const peer = await startPeer(fixed, ["containerd", "--config", config], `${work}/containerd.log`);
  for (const file of [archive, pauseArchive])
    await run(["ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", file]);
  return peer;
}

/** Archives of the machine's busybox, and of a pause program that ends at TERM and reaps. */
export async function makeImages(work: string): Promise<{ busybox: string; pause: string }> {
  const source =
    "#include <signal.h>\n#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\nstatic void done(int s){(void)s;exit(0);}\nstatic void reap(int s){(void)s;while(waitpid(-1,0,WNOHANG)>0);}\nint main(void){signal(SIGINT,done);signal(SIGTERM,done);signal(SIGCHLD,reap);for(;;)pause();}\n";
  await run(["musl-gcc", "-Os", "-static", "-x", "c", "-o", `${work}/pause`, "-"], { input: source });
  const pause = `${work}/pause.tar`;
  const files = [file("pause", readFileSync(`${work}/pause`), 0o755)];
  writeFileSync(pause, imageArchive(PAUSE, files, { Entrypoint: ["/pause"] }));
  return { busybox: await busyboxArchive(work, IMAGE), pause };
}
