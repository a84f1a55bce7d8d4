import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { Command } from "commander";
import { Failure } from "../src/failure.ts";
import { type CreateFlags, defineCreateOptions } from "../src/run/flags.ts";
import { parseDevice } from "../src/run/devices.ts";
import { checkName, randomName } from "../src/run/name.ts";
import { formatPort, parsePorts } from "../src/run/ports.ts";
import { runRequest } from "../src/run/request.ts";
import { parseStopSignal } from "../src/run/signals.ts";
import { parseVolume } from "../src/run/volumes.ts";

/** The configurations that a command line asks for. */
function configs(...argv: string[]): { pod: cri.PodSandboxConfig; container: cri.ContainerConfig; handler: string } {
  const command = new Command("run")
    .argument("<image>")
    .argument("[args...]")
    .passThroughOptions()
    .helpOption("--help")
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  defineCreateOptions(command);
  command.parse(argv, { from: "user" });
  const [image = "", ...args] = command.args;
  const request = runRequest(
    command.opts<CreateFlags>(),
    image,
    args,
    { env: { FROM_SHELL: "yes" }, cwd: "/cwd" },
    { detach: false },
  );
  return {
    pod: create(cri.PodSandboxConfigSchema, request.pod("/logs/x")),
    container: create(
      cri.ContainerConfigSchema,
      request.container({ id: "sha256:1", entrypoint: ["/entry"], cmd: ["default"] }),
    ),
    handler: request.handler,
  };
}

const fails = (pattern: RegExp, ...argv: string[]): void =>
  assert.throws(
    () => configs(...argv),
    (error) => error instanceof Failure && pattern.test(error.message),
  );

const securityOf = (...argv: string[]): cri.LinuxContainerSecurityContext => {
  const { securityContext } = configs(...argv, "image").container.linux ?? {};
  assert.ok(securityContext);
  return securityContext;
};
const resourcesOf = (...argv: string[]): cri.LinuxContainerResources => {
  const { resources } = configs(...argv, "image").container.linux ?? {};
  assert.ok(resources);
  return resources;
};

test("a plain run: one pod with the container's name, default confinement as the kubelet asks for it", () => {
  const { pod, container, handler } = configs("--name", "web", "image");
  assert.deepEqual([pod.metadata?.name, pod.metadata?.uid, pod.metadata?.namespace], ["web", "web", "berth"]);
  assert.deepEqual([pod.logDirectory, container.logPath], ["/logs/x", "0.log"]);
  assert.deepEqual([container.image?.image, container.image?.userSpecifiedImage], ["sha256:1", "image"]);
  assert.equal(handler, "");
  const { securityContext } = container.linux ?? {};
  assert.equal(securityContext?.seccomp?.profileType, cri.SecurityProfile_ProfileType.RuntimeDefault);
  assert.equal(securityContext?.namespaceOptions?.pid, cri.NamespaceMode.CONTAINER);
  assert.equal(securityContext?.namespaceOptions?.network, cri.NamespaceMode.POD);
  assert.ok(securityContext?.maskedPaths.includes("/proc/kcore"));
  assert.ok(securityContext?.readonlyPaths.includes("/proc/sys"));
  assert.equal(container.labels["dev.berth.name"], "web");
  assert.equal(pod.labels["dev.berth.name"], "web");
  assert.equal(pod.dnsConfig, undefined);
});

test("the command line: arguments, entry point, and what ps will show", () => {
  const line = (...argv: string[]) => {
    const { container } = configs(...argv);
    return [container.command, container.args, JSON.parse(container.annotations["dev.berth.command"] ?? "") as unknown];
  };
  assert.deepEqual(line("image"), [[], [], ["/entry", "default"]]);
  assert.deepEqual(line("image", "a", "-b"), [[], ["a", "-b"], ["/entry", "a", "-b"]]);
  assert.deepEqual(line("--entrypoint", "/bin/x", "image"), [["/bin/x"], [], ["/bin/x"]]);
  assert.deepEqual(line("--entrypoint", "/bin/x", "image", "a"), [["/bin/x"], ["a"], ["/bin/x", "a"]]);
  assert.deepEqual(line("--entrypoint", "", "image", "a", "b"), [["a", "b"], [], ["a", "b"]]);
  fails(/--entrypoint "" leaves nothing to run/, "--entrypoint", "", "image");
});

test("-i, -t and stdin_once: a pipe's end ends the input, a terminal's detach does not", () => {
  const io = (...argv: string[]) => {
    const { stdin, stdinOnce, tty } = configs(...argv, "image").container;
    return { stdin, stdinOnce, tty };
  };
  assert.deepEqual(io(), { stdin: false, stdinOnce: false, tty: false });
  assert.deepEqual(io("-i"), { stdin: true, stdinOnce: true, tty: false });
  assert.deepEqual(io("-it"), { stdin: true, stdinOnce: false, tty: true });
  assert.deepEqual(io("-t"), { stdin: false, stdinOnce: false, tty: true });
});

test("-e, -w, --hostname, --label, --annotation, --sysctl, --runtime, --stop-signal, --dns", () => {
  const { pod, container, handler } = configs(
    "-e",
    "A=1=2",
    "-e",
    "FROM_SHELL",
    "-e",
    "NOT_SET",
    "-e",
    "EMPTY=",
    "-w",
    "/w",
    "-h",
    "host",
    "-l",
    "k=v",
    "-l",
    "bare",
    "--annotation",
    "a=b",
    "--sysctl",
    "net.core.somaxconn=99",
    "--runtime",
    "runc",
    "--stop-signal",
    "int",
    "--dns",
    "1.1.1.1",
    "--dns-search",
    "x.org",
    "--dns-option",
    "ndots:2",
    "image",
  );
  assert.deepEqual(
    container.envs.map(({ key, value }) => `${key}=${Buffer.from(value).toString()}`),
    ["A=1=2", "FROM_SHELL=yes", "EMPTY="],
  );
  assert.equal(container.workingDir, "/w");
  assert.equal(pod.hostname, "host");
  assert.deepEqual([container.labels["k"], container.labels["bare"]], ["v", ""]);
  assert.deepEqual([container.annotations["a"], pod.annotations["a"]], ["b", "b"]);
  assert.deepEqual(pod.linux?.sysctls, { "net.core.somaxconn": "99" });
  assert.equal(handler, "runc");
  assert.equal(container.stopSignal, cri.Signal.SIGINT);
  assert.deepEqual(
    [pod.dnsConfig?.servers, pod.dnsConfig?.searches, pod.dnsConfig?.options],
    [["1.1.1.1"], ["x.org"], ["ndots:2"]],
  );
  fails(/-e: "=x" is not a variable/, "-e", "=x", "image");
  fails(/--label: "=v" has no key/, "-l", "=v", "image");
  fails(/--env-file: cannot read \/nowhere: ENOENT/, "--env-file", "/nowhere", "image");
});

test("-p in all its forms", () => {
  const show = (text: string): string[] => parsePorts(text).map(formatPort);
  assert.deepEqual(show("8080:80"), ["0.0.0.0:8080->80/tcp"]);
  assert.deepEqual(show("8080:80/UDP"), ["0.0.0.0:8080->80/udp"]);
  assert.deepEqual(show("127.0.0.1:8080:80/sctp"), ["127.0.0.1:8080->80/sctp"]);
  assert.deepEqual(show("[::1]:8080:80"), ["[::1]:8080->80/tcp"]);
  assert.deepEqual(show("8000-8002:80-82"), ["0.0.0.0:8000->80/tcp", "0.0.0.0:8001->81/tcp", "0.0.0.0:8002->82/tcp"]);
  assert.equal(configs("-p", "1:2", "--publish", "3:4/udp", "image").pod.portMappings.length, 2);
  for (const [text, why] of [
    ["80", "it has no host port"],
    ["127.0.0.1::80", "it has no host port"],
    ["8080:80/icmp", '"icmp" is not a protocol'],
    ["x:80", '"x" is not a port'],
    ["1:0", '"0" is not a port'],
    ["1:65536", '"65536" is not a port'],
    ["999.0.0.1:1:2", '"999.0.0.1" is not an IP address'],
    ["1-3:1-2", "the ranges differ in length: 3 and 2 ports"],
    ["3-1:3-1", '"3-1" is not a port'],
    ["", "it is not a port mapping"],
  ] as const) {
    assert.throws(
      () => parsePorts(text),
      (error) => error instanceof Failure && error.message.startsWith(`-p "${text}": ${why}`),
      text,
    );
  }
  fails(/-p makes no sense with --network host/, "-p", "1:2", "--network", "host", "image");
});

test("-v in all its forms", () => {
  const { PROPAGATION_PRIVATE, PROPAGATION_HOST_TO_CONTAINER, PROPAGATION_BIDIRECTIONAL } = cri.MountPropagation;
  const plain = {
    hostPath: "/a",
    containerPath: "/b",
    readonly: false,
    recursiveReadOnly: false,
    selinuxRelabel: false,
    propagation: PROPAGATION_PRIVATE,
  };
  assert.deepEqual(parseVolume("/a:/b", "/cwd"), plain);
  assert.deepEqual(parseVolume("./a:/b:rw", "/cwd"), { ...plain, hostPath: "/cwd/a" });
  assert.deepEqual(parseVolume("/a:/b:ro,rslave", "/cwd"), {
    ...plain,
    readonly: true,
    propagation: PROPAGATION_HOST_TO_CONTAINER,
  });
  assert.deepEqual(parseVolume("/a:/b:shared,z", "/cwd"), {
    ...plain,
    selinuxRelabel: true,
    propagation: PROPAGATION_BIDIRECTIONAL,
  });
  assert.deepEqual(parseVolume("/a:/b:rro", "/cwd"), { ...plain, readonly: true, recursiveReadOnly: true });
  for (const text of ["/a", "named:/b", "/a:b", "/a:/b:ro,rw", "/a:/b:fast", "/a:/b:ro:x", "/a:/b:shared,slave"]) {
    assert.throws(() => parseVolume(text, "/"), Failure, text);
  }
});

test("--device", () => {
  assert.deepEqual(parseDevice("/dev/fuse"), {
    node: { hostPath: "/dev/fuse", containerPath: "/dev/fuse", permissions: "rwm" },
  });
  assert.deepEqual(parseDevice("/dev/a:/dev/b:r"), {
    node: { hostPath: "/dev/a", containerPath: "/dev/b", permissions: "r" },
  });
  assert.deepEqual(parseDevice("/dev/a:rw"), {
    node: { hostPath: "/dev/a", containerPath: "/dev/a", permissions: "rw" },
  });
  assert.deepEqual(parseDevice("nvidia.com/gpu=all"), { cdi: "nvidia.com/gpu=all" });
  for (const text of ["fuse", "/dev/a:/dev/b:x", "/dev/a:b"]) assert.throws(() => parseDevice(text), Failure, text);
  assert.deepEqual(
    configs("--device", "v.org/c=d", "image").container.CDIDevices.map(({ name }) => name),
    ["v.org/c=d"],
  );
});

test("limits", () => {
  assert.equal(resourcesOf("-m", "512m").memoryLimitInBytes, 512n << 20n);
  assert.equal(resourcesOf("--memory-swap=-1").memorySwapLimitInBytes, -1n);
  const cpu = resourcesOf("--cpus", "1.5");
  assert.deepEqual([cpu.cpuPeriod, cpu.cpuQuota], [100_000n, 150_000n]);
  assert.equal(resourcesOf("--cpu-shares", "512").cpuShares, 512n);
  assert.equal(resourcesOf("--cpuset-cpus", "0-2,4").cpusetCpus, "0-2,4");
  assert.deepEqual(resourcesOf("--pids-limit", "100").unified, { "pids.max": "100" });
  assert.deepEqual(resourcesOf("--pids-limit=-1").unified, { "pids.max": "max" });
  assert.equal(resourcesOf("--oom-score-adj=-5").oomScoreAdj, -5n);
  const { container, pod } = configs("--storage-opt", "size=10G", "image");
  assert.equal(container.annotations["dev.berth.storage-opt.size"], String(10 * 2 ** 30));
  assert.equal(pod.annotations["dev.berth.storage-opt.size"], undefined);
  for (const argv of [
    ["-m", "lots"],
    ["--cpus", "0"],
    ["--cpus", "-1"],
    ["--cpus", "x"],
    ["--cpu-shares", "1"],
    ["--cpuset-cpus", "a"],
    ["--pids-limit", "x"],
    ["--oom-score-adj", "2000"],
    ["--storage-opt", "size=much"],
    ["--storage-opt", "overlay.size=1g"],
    ["--cpus", "1", "--cpu-quota", "5"],
  ]) {
    fails(/^--?[a-z-]+/, ...argv, "image");
  }
});

test("users and groups", () => {
  const ids = (...argv: string[]) => {
    const { runAsUser, runAsGroup, runAsUsername, supplementalGroups } = securityOf(...argv);
    return [runAsUser?.value, runAsGroup?.value, runAsUsername, supplementalGroups];
  };
  assert.deepEqual(ids("-u", "1000"), [1000n, undefined, "", []]);
  assert.deepEqual(ids("-u", "0:5", "--group-add", "7"), [0n, 5n, "", [7n]]);
  assert.deepEqual(ids("-u", "nobody:5"), [undefined, 5n, "nobody", []]);
  for (const text of ["", ":5", "a:", "a:b:c", "4294967295"]) fails(/^-u/, "-u", text, "image");
  fails(/-u: "staff" is not a group's number: the CRI takes no group names/, "-u", "me:staff", "image");
});

test("capabilities, privileges, profiles and namespaces", () => {
  const { Unconfined, Localhost, RuntimeDefault } = cri.SecurityProfile_ProfileType;
  const caps = securityOf("--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN", "--cap-drop", "ALL").capabilities;
  assert.deepEqual([caps?.addCapabilities, caps?.dropCapabilities], [["SYS_PTRACE", "NET_ADMIN"], ["ALL"]]);
  const privileged = securityOf("--privileged");
  assert.deepEqual(
    [privileged.privileged, privileged.maskedPaths, privileged.seccomp?.profileType],
    [true, [], Unconfined],
  );
  assert.equal(configs("--privileged", "image").pod.linux?.securityContext?.privileged, true);
  assert.equal(securityOf("--read-only").readonlyRootfs, true);
  const profile = securityOf(
    "--security-opt",
    "seccomp=my.json",
    "--security-opt",
    "apparmor=web",
    "--security-opt",
    "no-new-privileges",
  );
  assert.deepEqual([profile.seccomp?.profileType, profile.seccomp?.localhostRef], [Localhost, "/cwd/my.json"]);
  assert.deepEqual([profile.apparmor?.profileType, profile.apparmor?.localhostRef], [Localhost, "web"]);
  assert.equal(profile.noNewPrivs, true);
  assert.equal(securityOf("--security-opt", "seccomp=unconfined").seccomp?.profileType, Unconfined);
  assert.equal(securityOf("--security-opt", "seccomp=builtin").seccomp?.profileType, RuntimeDefault);
  assert.equal(securityOf("--security-opt", "no-new-privileges:false").noNewPrivs, false);
  const host = securityOf("--net", "host", "--pid", "host", "--ipc", "host").namespaceOptions;
  assert.deepEqual([host?.network, host?.pid, host?.ipc], Array(3).fill(cri.NamespaceMode.NODE));
  assert.equal(
    configs("--network=host", "image").pod.linux?.securityContext?.namespaceOptions?.network,
    cri.NamespaceMode.NODE,
  );
  fails(/--network none is not supported: the CRI has no pod without a network/, "--net", "none", "image");
  fails(/--network mine is not supported/, "--network", "mine", "image");
  fails(/--pid container:x is not supported/, "--pid", "container:x", "image");
  fails(/--security-opt "speed=fast"/, "--security-opt", "speed=fast", "image");
});

test("what docker has and the CRI has not is refused by name, with the reason", () => {
  for (const [option, value] of [
    ["--tmpfs", "/x"],
    ["--restart", "always"],
    ["--ulimit", "nofile=1"],
    ["--mount", "type=bind"],
    ["--gpus", "all"],
    ["--add-host", "a:1.2.3.4"],
    ["--shm-size", "1g"],
    ["--volumes-from", "x"],
  ] as const) {
    fails(new RegExp(`^${option}.* is not supported: `), option, value, "image");
  }
  assert.doesNotThrow(() => configs("--restart", "no", "image"));
});

test("stop signals by name and number", () => {
  assert.equal(parseStopSignal("SIGQUIT"), cri.Signal.SIGQUIT);
  assert.equal(parseStopSignal("term"), cri.Signal.SIGTERM);
  assert.equal(parseStopSignal("9"), cri.Signal.SIGKILL);
  assert.equal(parseStopSignal("37"), cri.Signal.SIGRTMINPLUS3);
  assert.equal(parseStopSignal("RTMIN+3"), cri.Signal.SIGRTMINPLUS3);
  assert.equal(parseStopSignal("SIGRTMAX-1"), cri.Signal.SIGRTMAXMINUS1);
  assert.equal(parseStopSignal("64"), cri.Signal.SIGRTMAX);
  for (const text of ["", "0", "99", "SIGNOTHING", "toString"])
    assert.throws(() => parseStopSignal(text), Failure, text);
});

test("names", () => {
  assert.equal(checkName("a.b_c-1"), "a.b_c-1");
  for (const text of ["", "-a", "a/b", "a b", "x".repeat(129)]) assert.throws(() => checkName(text), Failure, text);
  for (let i = 0; i < 100; i++) assert.equal(typeof checkName(randomName()), "string");
  fails(/--name "a\/b"/, "--name", "a/b", "image");
});
