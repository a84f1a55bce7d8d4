/**
 * ExecSync of `true`, berthd's and then Debian's containerd + runc's, call by call in one run. With `--v2` in a mount namespace where
 * cgroup v2 is all there is: joining v1 hierarchies is much of an exec. (In a guest under TCG it is Node that is slow.)
 *
 *   sudo bench/run exec [--rounds 40] [--v2]
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { connect } from "@berth/cli";
import { busyboxArchive, file, imageArchive } from "../scripts/busybox-image.ts";
import { callFigure, HEADING, row } from "./lib/aims.ts";
import { disperse } from "./lib/crowd.ts";
import { table } from "./lib/figures.ts";
import { sandboxConfig, type Subject, timed, up } from "./lib/life.ts";
import { bosun, IMAGE, PAUSE, type Peer, startBerth, startContainerd } from "./lib/peers.ts";
import { run } from "./lib/process.ts";

const { values: flags } = parseArgs({
  options: { rounds: { type: "string", default: "40" }, v2: { type: "boolean", default: false } },
});
const rounds = Number(flags.rounds);
if (flags.v2) {
  const hide = 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"';
  const again = [process.execPath, ...process.execArgv, import.meta.filename, "--rounds", flags.rounds];
  const argv = ["--mount", "--propagation", "private", "sh", "-c", hide, "sh", ...again];
  process.exit(spawnSync("unshare", argv, { stdio: "inherit" }).status ?? 1);
}
const CGROUP_V2 = existsSync("/sys/fs/cgroup/cgroup.controllers");

async function measure(peers: readonly Peer[]): Promise<Subject[]> {
  const subjects = peers.map((peer): Subject => ({ peer, client: connect(peer.socket), times: {} }));
  const made = await Promise.all(subjects.map(async (subject) => await up(subject, sandboxConfig(), false)));
  const exec = async (subject: Subject, containerId: string): Promise<void> => {
    const call = subject.client.runtime.execSync({ containerId, cmd: ["/bin/true"], timeout: 60n });
    const { exitCode } = await timed(subject, "ExecSync", call);
    if (exitCode !== 0) throw new Error(`${subject.peer.name}: true ended with ${exitCode}`);
  };
  // The first of each is what has to be loaded.
  for (const [index, subject] of subjects.entries())
    await exec({ ...subject, times: {} }, made[index]?.container ?? "");
  for (let round = 0; round < rounds; round++)
    for (const [index, subject] of subjects.entries()) await exec(subject, made[index]?.container ?? "");
  return subjects;
}

const work = mkdtempSync("/var/tmp/berth-bench-");
const places = { work, run: mkdtempSync("/run/berth-bench-") };
const peers: Peer[] = [];
try {
  const busybox = await busyboxArchive(work, IMAGE);
  const pause = `${work}/pause.tar`;
  // bosun has a word for waiting: no compiler is needed for a program that does.
  writeFileSync(
    pause,
    imageArchive(PAUSE, [file("pause", readFileSync(bosun), 0o755)], { Entrypoint: ["/pause", "pause"] }),
  );
  // Where hidden v1 hierarchies have the controllers, its limits would fail.
  const keys = CGROUP_V2 ? ["disable_cgroup = true"] : [];
  peers.push(await startBerth(places, busybox), await startContainerd(places, busybox, pause, keys));
  const [berth, containerd] = await measure(peers);
  if (!berth || !containerd) throw new Error("both runtimes must have been measured");
  const figure = callFigure("ExecSync", berth.times, containerd.times, { most: CGROUP_V2 ? 0.1 : 0.4 });
  console.log(table([HEADING, row(figure)]));
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  for (const peer of peers) {
    const client = connect(peer.socket);
    await disperse({ peer, client, times: {} });
    client.close();
    await peer.service.stop();
    await run(["ip", "link", "delete", peer.bridge]);
  }
  for (const dir of [work, places.run]) rmSync(dir, { recursive: true, force: true });
}
