/** Volumes: images with sub paths, recursive read-only, propagation; and what an image or a volume may try to break out by. Needs root. */
import assert from "node:assert/strict";
import {
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { after, before, describe, test } from "node:test";
import { status as codes } from "@grpc/grpc-js";
import { busyboxFiles, file, imageArchive } from "../scripts/busybox-image.ts";
import { TestDaemon, run } from "./support/daemon.ts";
import { assertNothingLeft, inventory } from "./support/leaks.ts";
import { OWN_PID, createContainer, exited, runPod, sh, startContainer } from "./support/pods.ts";

const SLEEP = "while :; do sleep 1000; done";
const [HOST_TO_CONTAINER, BIDIRECTIONAL] = [1, 2] as const;
const directory = (path: string) => ({ path, mode: 0o755 });
const link = (path: string, to: string) => ({ path, mode: 0o777, link: to });

describe("volumes", () => {
  let daemon: TestDaemon;
  let pod: Awaited<ReturnType<typeof runPod>>;
  let serial = 0;
  before(async () => {
    daemon = await TestDaemon.start();
    pod = await runPod(daemon, { linux: { securityContext: { ...OWN_PID, privileged: true } } });
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
  });
  const image = async (files: Parameters<typeof imageArchive>[1], config: object = {}): Promise<string> => {
    const name = `localhost/berth-test/made:${++serial}`;
    writeFileSync(`${daemon.dir}/made.tar`, imageArchive(name, files, config));
    await daemon.load(`${daemon.dir}/made.tar`);
    return name;
  };
  /** A shared mount of the host's, as /var/lib/kubelet is. */
  const shared = async (name: string): Promise<string> => {
    const path = `${daemon.dir}/${name}`;
    mkdirSync(path);
    await run(["mount", "-t", "tmpfs", "tmpfs", path]);
    await run(["mount", "--make-rshared", path]);
    return path;
  };

  test("an image as a volume: whole, a directory, a file; read-only, and nothing of it on the host", async () => {
    const name = await image([
      directory("models/"),
      directory("models/v1/"),
      file("models/v1/weights", Buffer.from("heavy\n")),
      file("tool", Buffer.from("#!/bin/sh\necho ran\n"), 0o755),
      link("models/latest", "v1"),
      link("models/rooted", "/models/v1"),
    ]);
    const nothing = await inventory(daemon);
    const spec = { image: name };
    const id = await startContainer(daemon, pod, SLEEP, {
      mounts: [
        { containerPath: "/all", readonly: true, image: spec },
        { containerPath: "/v1", readonly: true, image: spec, imageSubPath: "models/v1" },
        { containerPath: "/weights", readonly: true, image: spec, imageSubPath: "models/v1/weights" },
        { containerPath: "/latest", readonly: true, image: spec, imageSubPath: "models/latest" },
        { containerPath: "/rooted", readonly: true, image: spec, imageSubPath: "models/rooted" },
      ],
    });
    for (const path of ["/all/models/v1/weights", "/v1/weights", "/weights", "/latest/weights", "/rooted/weights"])
      assert.equal(await sh(daemon, id, `cat ${path}`), "heavy\n", path);
    await assert.rejects(sh(daemon, id, "touch /all/x"), /Read-only file system/);
    assert.equal(await sh(daemon, id, "/all/tool"), "ran\n");
    assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(`${id}/images`));
    const { status } = await daemon.client.runtime.containerStatus({ containerId: id });
    assert.deepEqual(
      status?.mounts.map((mount) => mount.imageSubPath),
      ["", "models/v1", "models/v1/weights", "models/latest", "models/rooted"],
    );
    assert.equal(status?.mounts[0]?.image?.image, name);
    const { image: made } = await daemon.client.images.imageStatus({ image: spec });
    assert.equal(status?.mounts[0]?.image?.imageRef, made?.id);
    // An image that goes is still there for who has mounted it.
    await daemon.client.images.removeImage({ image: spec });
    await daemon.kill("SIGKILL");
    await daemon.startAgain();
    assert.equal(await sh(daemon, id, "cat /weights"), "heavy\n");
    await daemon.client.runtime.removeContainer({ containerId: id });
    await assertNothingLeft(daemon, nothing);
  });

  test("an image's sub path leads out of the image in no way", async () => {
    const name = await image([link("etc", "/etc"), link("up", "../../../../../../etc"), link("loop", "loop")]);
    const nothing = await inventory(daemon);
    const cases: Record<string, RegExp> = {
      "../etc": /image_sub_path: "\.\.\/etc" must be relative, without "\.\."/,
      "/etc": /must be relative/,
      none: /"none" does not exist in the image/,
      loop: /too many symlinks/,
      // Both lead to "/etc" of the image, which leads to itself.
      etc: /too many symlinks/,
      up: /too many symlinks/,
    };
    for (const [imageSubPath, message] of Object.entries(cases)) {
      await assert.rejects(
        createContainer(daemon, pod, "true", {
          mounts: [{ containerPath: "/v", readonly: true, image: { image: name }, imageSubPath }],
        }),
        (error: Error & { code: number }) => {
          assert.equal(error.code, codes.INVALID_ARGUMENT);
          assert.match(error.message, message);
          return true;
        },
        imageSubPath,
      );
    }
    const both = { containerPath: "/v", hostPath: "/tmp", image: { image: name } };
    await assert.rejects(createContainer(daemon, pod, "true", { mounts: [both] }), /host_path: must be empty/);
    const writable = { containerPath: "/v", image: { image: name } };
    await assert.rejects(createContainer(daemon, pod, "true", { mounts: [writable] }), /readonly: must be true/);
    const absent = { containerPath: "/v", readonly: true, image: { image: "localhost/none:1" } };
    await assert.rejects(createContainer(daemon, pod, "true", { mounts: [absent] }), { code: codes.NOT_FOUND });
    await assertNothingLeft(daemon, nothing);
  });

  test("recursive read-only: what is mounted below is read-only too", async () => {
    const dir = `${daemon.dir}/rro`;
    mkdirSync(`${dir}/below`, { recursive: true });
    await run(["mount", "-t", "tmpfs", "tmpfs", `${dir}/below`]);
    try {
      const id = await startContainer(daemon, pod, SLEEP, {
        mounts: [
          { hostPath: dir, containerPath: "/ro", readonly: true },
          { hostPath: dir, containerPath: "/rro", readonly: true, recursiveReadOnly: true },
        ],
      });
      await sh(daemon, id, "touch /ro/below/x");
      await assert.rejects(sh(daemon, id, "touch /ro/x"), /Read-only file system/);
      await assert.rejects(sh(daemon, id, "touch /rro/below/x"), /Read-only file system/);
      await daemon.client.runtime.removeContainer({ containerId: id });
    } finally {
      await run(["umount", `${dir}/below`]);
    }
    for (const [more, message] of [
      [{ recursiveReadOnly: true }, /recursive_read_only: needs readonly/],
      [{ recursiveReadOnly: true, readonly: true, propagation: 1 }, /recursive_read_only: needs private propagation/],
    ] as const)
      await assert.rejects(
        createContainer(daemon, pod, "true", { mounts: [{ hostPath: dir, containerPath: "/v", ...more }] }),
        message,
      );
  });

  test("id-mapped: a volume's owners are whom its own mapping says", async () => {
    const dir = `${daemon.dir}/mapped`;
    mkdirSync(dir);
    writeFileSync(`${dir}/file`, "");
    chownSync(`${dir}/file`, 1000, 1000);
    const mapping = [{ containerId: 0, hostId: 40_000, length: 2000 }];
    const id = await startContainer(daemon, pod, SLEEP, {
      mounts: [{ hostPath: dir, containerPath: "/v", uidMappings: mapping, gidMappings: mapping }],
    });
    assert.equal(await sh(daemon, id, "stat -c %u:%g /v/file"), "41000:41000\n");
  });

  test("propagation: from the host, both ways, and refused where the host's mount is private", async () => {
    const path = await shared("propagates");
    try {
      mkdirSync(`${path}/late`);
      mkdirSync(`${path}/inner`);
      const volume = (propagation: number): object => ({
        mounts: [{ hostPath: path, containerPath: "/v", propagation }],
        linux: { securityContext: { ...OWN_PID, privileged: propagation === BIDIRECTIONAL } },
      });
      const slave = await startContainer(daemon, pod, SLEEP, volume(HOST_TO_CONTAINER));
      const both = await startContainer(daemon, pod, SLEEP, volume(BIDIRECTIONAL));
      const own = await startContainer(daemon, pod, SLEEP, volume(0));
      await run(["mount", "-t", "tmpfs", "tmpfs", `${path}/late`]);
      writeFileSync(`${path}/late/x`, "");
      for (const id of [slave, both]) await sh(daemon, id, "[ -e /v/late/x ]");
      await sh(daemon, own, "[ ! -e /v/late/x ]");
      await sh(daemon, both, "mount -t tmpfs tmpfs /v/inner && touch /v/inner/y");
      assert.ok(existsSync(`${path}/inner/y`));
      await sh(daemon, slave, "[ -e /v/inner/y ]");
      for (const containerId of [slave, both, own]) await daemon.client.runtime.removeContainer({ containerId });
      await run(["mount", "--make-rprivate", path]);
      await assert.rejects(
        createContainer(daemon, pod, "true", volume(HOST_TO_CONTAINER)),
        /mounts\[0\]\.propagation: .* which is not a shared mount; mount --make-rshared/,
      );
    } finally {
      await run(["umount", "-R", path]);
    }
  });

  test("SELinux: relabelling and labels are without effect where there is no SELinux", async (t) => {
    if (existsSync("/sys/fs/selinux/enforce")) return t.skip("this machine has SELinux");
    const id = await startContainer(daemon, pod, SLEEP, {
      mounts: [{ hostPath: daemon.dir, containerPath: "/v", selinuxRelabel: true }],
      linux: { securityContext: { ...OWN_PID, selinuxOptions: { type: "container_t", level: "s0:c1,c2" } } },
    });
    await sh(daemon, id, "ls /v >/dev/null");
  });

  test("an image's WORKDIR that is a symlink, or leads into /proc, stays inside (CVE-2024-21626, CVE-2018-15664)", async () => {
    const busybox = await busyboxFiles();
    const outside = `${daemon.dir}/outside`;
    mkdirSync(outside);
    for (const [to, cwd] of [
      [outside, "/w"],
      ["/../../../../../../../../../..", "/w/made/by/workdir"],
    ] as const) {
      const name = await image([...busybox, link("w", to)], { WorkingDir: cwd });
      const id = await createContainer(daemon, pod, "pwd -P; ls", { image: { image: name } });
      await daemon.client.runtime.startContainer({ containerId: id });
      const { exitCode, logPath } = await exited(daemon, id);
      assert.equal(exitCode, 0, readFileSync(logPath, "utf8"));
    }
    assert.deepEqual(readFileSync("/proc/self/mountinfo", "utf8").includes("made/by/workdir"), false);
    assert.ok(!existsSync("/made") && !existsSync(`${outside}/made`), "nothing was made on the host");
    for (const cwd of ["/proc/self/fd/7", "/proc/self/fd/8", "/proc/1/fd/3"]) {
      const name = await image(busybox, { WorkingDir: cwd });
      const id = await createContainer(daemon, pod, "pwd -P", { image: { image: name } }).catch((error: Error) => {
        assert.match(error.message, /chdir|process\.cwd|ENOENT|EPERM/);
        return undefined;
      });
      if (id === undefined) continue;
      await daemon.client.runtime.startContainer({ containerId: id }).catch(() => undefined);
      const { exitCode, logPath } = await exited(daemon, id);
      if (exitCode === 0) assert.match(readFileSync(logPath, "utf8"), / \/(proc\/.*)?\n$/);
    }
  });

  test("/etc/passwd as a symlink to the host's, or something that is no file, tells nothing (CVE-2021-43784's kin)", async () => {
    const busybox = (await busyboxFiles()).filter(({ path }) => !path.startsWith("etc/passwd"));
    const secret = `${daemon.dir}/secret`;
    writeFileSync(secret, "intruder:x:4242:4242::/:/bin/sh\n");
    for (const target of [secret, `../../../../../../../../..${secret}`]) {
      const name = await image([...busybox, link("etc/passwd", target)]);
      await assert.rejects(
        createContainer(daemon, pod, "true", {
          image: { image: name },
          linux: { securityContext: { ...OWN_PID, runAsUsername: "intruder" } },
        }),
        /unable to find user "intruder"/,
      );
    }
    const inside = await image([
      ...busybox,
      file("etc/real", Buffer.from("app:x:77:78::/:/bin/sh\n")),
      link("etc/passwd", "real"),
    ]);
    const id = await startContainer(daemon, pod, SLEEP, {
      image: { image: inside },
      linux: { securityContext: { ...OWN_PID, runAsUsername: "app" } },
    });
    assert.equal(await sh(daemon, id, "id -u; id -g"), "77\n78\n", "a link inside the image is followed");
    const odd = await image([...busybox, directory("etc/passwd/")]);
    await assert.rejects(
      createContainer(daemon, pod, "true", {
        image: { image: odd },
        linux: { securityContext: { ...OWN_PID, runAsUsername: "app" } },
      }),
      /user "app"|passwd/,
    );
  });

  test("mount targets through an image's symlinks end inside the root file system (CVE-2021-30465, CVE-2019-16884)", async () => {
    const outside = `${daemon.dir}/target`;
    mkdirSync(outside);
    writeFileSync(`${daemon.dir}/payload`, "x");
    const name = await image([...(await busyboxFiles()), link("escape", outside), link("p", "/proc/self")]);
    const id = await startContainer(daemon, pod, SLEEP, {
      image: { image: name },
      mounts: [
        { hostPath: daemon.dir, containerPath: "/escape/made" },
        { hostPath: `${daemon.dir}/payload`, containerPath: "/escape/file" },
      ],
    });
    assert.deepEqual([existsSync(`${outside}/made`), existsSync(`${outside}/file`)], [false, false]);
    assert.equal(await sh(daemon, id, `cat ${outside}/file`), "x", "the link leads to the same path inside");
    for (const containerPath of ["/proc/sys", "/proc", "/p/attr", "/"])
      await assert.rejects(
        startContainer(daemon, pod, "true", {
          image: { image: name },
          mounts: [{ hostPath: daemon.dir, containerPath }],
        }),
        /proc|mount over the root|EPERM|ENOENT|EXDEV/,
        containerPath,
      );
  });

  test("a volume that is swapped for a symlink while containers start is one or the other, and never the host's root (CVE-2021-25741)", async () => {
    const volume = `${daemon.dir}/race`;
    mkdirSync(`${volume}/real`, { recursive: true });
    writeFileSync(`${volume}/real/here`, "");
    const enough = new AbortController();
    const swap = (async () => {
      for (let turn = 0; !enough.signal.aborted; turn++) {
        rmSync(`${volume}/next`, { recursive: true, force: true });
        if (turn % 2) symlinkSync("/", `${volume}/next`);
        else mkdirSync(`${volume}/next`);
        try {
          rmSync(`${volume}/sub`, { recursive: true, force: true });
          renameSync(`${volume}/next`, `${volume}/sub`);
        } catch (error) {
          // A container has made a directory there meanwhile.
          assert.match((error as NodeJS.ErrnoException).code ?? "", /EISDIR|ENOTDIR|ENOTEMPTY|EEXIST/);
        }
        await new Promise(setImmediate);
      }
    })();
    // From inside the container "/v/sub" is whatever it is now: a mount at it must end inside.
    const outcomes = await Promise.allSettled(
      Array.from({ length: 12 }, () =>
        startContainer(daemon, pod, SLEEP, {
          mounts: [
            { hostPath: volume, containerPath: "/v" },
            { hostPath: `${volume}/real`, containerPath: "/v/sub/mounted" },
          ],
        }),
      ),
    );
    enough.abort();
    await swap;
    assert.ok(!existsSync("/mounted"), "nothing was made in the host's root");
    assert.ok(outcomes.some(({ status }) => status === "fulfilled"));
    for (const outcome of outcomes)
      if (outcome.status === "rejected")
        assert.match(String(outcome.reason), /attach|mount|ENOENT|EEXIST|ENOTDIR|EXDEV|ELOOP/);
  });
});
