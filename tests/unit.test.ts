/** packages/daemon/berthd.service under a real systemd: ready, watched, restarted, reloaded, while containers run on. Run by tests/guest. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { type Client, connect } from "@berth/cli";
import { checkout, IMAGE, run } from "./support/daemon.ts";
import { busyboxArchive } from "./support/image.ts";
import { OWN_PID, containerConfig, runPod, sh, startContainer, status } from "./support/pods.ts";

const UNIT = "berthd.service";
const SOCKET = "/run/berth/berth.sock";
const FILES = "/etc/systemd/system";
const RUNNING = 1;
const table = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";
const config = (level: string): string =>
  `version = 3\n[debug]\nlevel = '${level}'\n[${table}.runc.options]\nSystemdCgroup = true\n`;
const why = !existsSync("/run/systemd/system")
  ? "systemd is not this machine's init"
  : existsSync(`${FILES}/${UNIT}`)
    ? "this machine has a berthd of its own"
    : undefined;

const property = async (unit: string, name: string): Promise<string> =>
  (await run(["systemctl", "show", unit, `--property=${name}`, "--value"])).trim();
const systemctl = (...args: string[]): Promise<string> => run(["systemctl", ...args]);
const mainPid = async (): Promise<number> => Number(await property(UNIT, "MainPID"));

/** systemd tells of no change to who does not speak D-Bus: it is asked. */
async function until(what: string, holds: () => Promise<boolean>, seconds = 120): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !(await holds());) {
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}\n${await journal()}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const journal = (): Promise<string> => run(["journalctl", "--unit", UNIT, "--no-pager", "--lines=60"]);

/** With what a node's owner might add: containers must have none of it. */
const DROP_IN = `[Service]
ExecStart=
ExecStart=${checkout}/bin/berthd
WatchdogSec=60
OOMScoreAdjust=-999
LimitNOFILE=infinity
`;

describe("the unit", why === undefined ? {} : { skip: why }, () => {
  const served = { dir: mkdtempSync(`${tmpdir()}/berth-unit-`) } as { dir: string; client: Client };
  let pod: Awaited<ReturnType<typeof runPod>>;
  let counter: string;
  before(async () => {
    for (const dir of ["/etc/berth", `${FILES}/${UNIT}.d`]) mkdirSync(dir, { recursive: true });
    writeFileSync(`${FILES}/${UNIT}`, readFileSync(`${checkout}/packages/daemon/${UNIT}`));
    writeFileSync(`${FILES}/${UNIT}.d/test.conf`, DROP_IN);
    writeFileSync("/etc/berth/config.toml", config("info"));
    await systemctl("daemon-reload");
    await systemctl("start", UNIT);
    served.client = connect(SOCKET);
  });
  after(async () => {
    const { runtime } = served.client;
    for (const { id } of (await runtime.listPodSandbox({})).items) await runtime.removePodSandbox({ podSandboxId: id });
    await systemctl("stop", UNIT);
    assert.equal(await property(UNIT, "Result"), "success");
    served.client.close();
    for (const path of [`${FILES}/${UNIT}`, `${FILES}/${UNIT}.d`, served.dir]) rmSync(path, { recursive: true });
    const left = (await run(["ps", "-eo", "comm="])).split("\n").filter((name) => name.startsWith("bosun"));
    assert.deepEqual(left, [], "no monitor outlives its container");
  });

  /** A daemon that has been started anew answers at the same path. */
  const reconnect = (): void => {
    served.client.close();
    served.client = connect(SOCKET);
  };
  const numbers = (): number[] => {
    const dir = pod.config.logDirectory ?? "";
    const [log = ""] = readdirSync(dir).filter((name) => name.startsWith("container-"));
    const lines = readFileSync(`${dir}/${log}`, "utf8").trim().split("\n");
    return lines.map((line) => Number(line.split(" ")[3]));
  };
  /** It is the same process, its log goes on, and no line is missing. */
  const runsOn = async (what: string): Promise<void> => {
    const before = numbers().length;
    await until(`${what}: the log goes on`, () => Promise.resolve(numbers().length > before));
    assert.deepEqual(
      numbers().filter((number, index) => number !== index + 1),
      [],
      what,
    );
  };
  const known = async (what: string): Promise<void> => {
    assert.equal((await status(served, counter)).state, RUNNING, what);
    assert.equal(await sh(served, counter, "echo there"), "there\n", what);
    await runsOn(what);
  };

  test("it is active once berthd serves, and says so", async () => {
    assert.equal(await property(UNIT, "ActiveState"), "active");
    assert.match(await property(UNIT, "StatusText"), /^serves \/run\/berth\/berth\.sock$/);
    assert.equal((await served.client.runtime.version({})).runtimeName, "berth");
    assert.match(readFileSync(`/proc/${await mainPid()}/cmdline`, "utf8"), /packages\/daemon\/src\/main\.ts/);
    await run([`${checkout}/bin/berth`, "load", "-i", await busyboxArchive(served.dir, IMAGE)]);
    pod = await runPod(served);
    counter = await startContainer(served, pod, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done");
    await known("at first");
  });

  test("a container has neither the daemon's OOM score nor its limits", async () => {
    assert.equal(readFileSync(`/proc/${await mainPid()}/oom_score_adj`, "utf8").trim(), "-999");
    const look = "cat /proc/self/oom_score_adj; ulimit -n";
    assert.equal(await sh(served, counter, look), "0\n1048576\n");
    const asked = await startContainer(served, pod, "exec sleep 1000", {
      logPath: "",
      linux: { securityContext: OWN_PID, resources: { oomScoreAdj: 1000n } },
    });
    assert.equal(await sh(served, asked, look), "1000\n1048576\n");
    const { info } = await served.client.runtime.containerStatus({ containerId: asked, verbose: true });
    const { pid } = JSON.parse(info.info ?? "") as { pid: number };
    assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8").trim(), "1000");
    assert.match(readFileSync(`/proc/${pid}/cgroup`, "utf8"), /^0::\/berth\.slice\/cri-containerd-/m);
    await served.client.runtime.removeContainer({ containerId: asked });
  });

  test("reload reads the configuration again; one with an error changes nothing", async () => {
    const pid = await mainPid();
    writeFileSync("/etc/berth/config.toml", config("debug"));
    await systemctl("reload", UNIT);
    await until("the reload", async () => (await journal()).includes("the configuration was read again"));
    writeFileSync("/etc/berth/config.toml", "version = 'x'\n");
    await systemctl("reload", UNIT);
    await until("the refusal", async () => (await journal()).includes("the configuration stays as it was"));
    writeFileSync("/etc/berth/config.toml", config("info"));
    assert.deepEqual([await property(UNIT, "ActiveState"), await mainPid()], ["active", pid]);
    await known("after the reloads");
  });

  test("restart, and a stop for a while: containers run on and lose no line", async () => {
    const pid = await mainPid();
    await systemctl("restart", UNIT);
    reconnect();
    assert.notEqual(await mainPid(), pid);
    await known("after the restart");
    await systemctl("stop", UNIT);
    await runsOn("without a daemon");
    await systemctl("daemon-reload");
    await systemctl("start", UNIT);
    reconnect();
    await known("after the stop");
  });

  test("a daemon that is killed is started anew (Restart=)", async () => {
    const pid = await mainPid();
    process.kill(pid, "SIGKILL");
    await until("another daemon", async () => {
      const now = await mainPid();
      return now !== 0 && now !== pid && (await property(UNIT, "ActiveState")) === "active";
    });
    reconnect();
    await known("after the kill");
  });

  test("a daemon that hangs is started anew (WatchdogSec=)", async () => {
    const pid = await mainPid();
    process.kill(pid, "SIGSTOP");
    await until(
      "another daemon",
      async () => {
        const now = await mainPid();
        return now !== 0 && now !== pid && (await property(UNIT, "ActiveState")) === "active";
      },
      240,
    );
    assert.match(await journal(), /[Ww]atchdog timeout/);
    reconnect();
    await known("after the watchdog");
  });

  test("a reload and a re-execution of systemd leave daemon and containers as they are", async () => {
    const pid = await mainPid();
    for (const how of ["daemon-reload", "daemon-reexec"]) {
      await systemctl(how);
      assert.deepEqual([await property(UNIT, "ActiveState"), await mainPid()], ["active", pid]);
      await known(how);
    }
    const { containerId } = await served.client.runtime.createContainer({
      podSandboxId: pod.id,
      config: containerConfig("exit 0", { logPath: "" }),
      sandboxConfig: pod.config,
    });
    assert.equal(await property(`cri-containerd-${containerId}.scope`, "Slice"), "berth.slice");
    await served.client.runtime.removeContainer({ containerId });
  });
});
