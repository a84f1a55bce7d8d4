/** The manifests: each is whole, what it names is there, and its mounts are where its programs look. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { StrictDocument, type Value } from "@berth/cdi";
import { parseLabelCommand } from "../src/labels/command.ts";
import { parseMpsCommand } from "../src/mps/command.ts";
import { sharedMemory } from "../src/mps/places.ts";
import { choose, parseCommand } from "../src/plugin/command.ts";
import { parseConfig } from "../src/plugin/config.ts";
import { socketDirectory } from "../src/plugin/kubelet.ts";
import { parseSettings } from "../src/plugin/nvidia/file.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;
const DEPLOY = new URL("../deploy/", import.meta.url).pathname;
/** Where the image has this checkout. */
const CHECKOUT = "/opt/berth/";

type Tree = string | Tree[] | { [key: string]: Tree };
interface Mount {
  readonly name: string;
  readonly mountPath: string;
  readonly readOnly?: string;
}
interface Container {
  readonly name: string;
  readonly image: string;
  readonly command: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string; readonly valueFrom?: Tree }[];
  readonly volumeMounts: readonly Mount[];
  readonly securityContext?: Readonly<Record<string, Tree>>;
}
interface Volume {
  readonly name: string;
  readonly hostPath?: { readonly path: string };
  readonly configMap?: { readonly name: string };
  readonly emptyDir?: Tree;
}
interface Pod {
  readonly serviceAccountName?: string;
  readonly automountServiceAccountToken?: string;
  readonly runtimeClassName?: string;
  readonly initContainers?: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly Volume[];
}
interface Manifest {
  readonly file: string;
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly body: Readonly<Record<string, Tree>>;
}

const KINDS: Readonly<Record<string, string>> = {
  ConfigMap: "v1",
  DaemonSet: "apps/v1",
  Role: "rbac.authorization.k8s.io/v1",
  RoleBinding: "rbac.authorization.k8s.io/v1",
  RuntimeClass: "node.k8s.io/v1",
  ServiceAccount: "v1",
};

function tree(value: Value): Tree {
  if (value.absent) return {};
  if (value.isList) return value.list(tree);
  try {
    return value.string();
  } catch {
    return value.map(tree);
  }
}

const manifests: Manifest[] = readdirSync(DEPLOY)
  .filter((name) => name.endsWith(".yaml"))
  .flatMap((file) =>
    readFileSync(join(DEPLOY, file), "utf8")
      .split(/^---$/m)
      .map((text) => {
        const body = tree(StrictDocument.parse(text, file).root()) as unknown as Record<string, Tree>;
        return { file, body, ...(body as unknown as Pick<Manifest, "apiVersion" | "kind" | "metadata">) };
      }),
  );
const named = (kind: string, name: string, namespace?: string): Manifest | undefined =>
  manifests.find((one) => one.kind === kind && one.metadata.name === name && one.metadata.namespace === namespace);
const sets = manifests.filter(({ kind }) => kind === "DaemonSet");
const podOf = ({ body }: Manifest): Pod => (body["spec"] as { template: { spec: unknown } }).template.spec as Pod;
const containersOf = (pod: Pod): Container[] => [...(pod.initContainers ?? []), ...pod.containers];
const configOf = (pod: Pod, path: string): string => {
  const mount = pod.containers[0]?.volumeMounts.find(({ mountPath }) => mountPath === dirname(path));
  const map = pod.volumes.find(({ name }) => name === mount?.name)?.configMap?.name ?? "";
  const content = (named("ConfigMap", map, "kube-system")?.body["data"] as Record<string, string> | undefined)?.[
    "config.yaml"
  ];
  assert.ok(content !== undefined, `${path} is of a ConfigMap`);
  return content;
};
/** With the variables of `container`, which its program reads. */
function withEnv<T>({ env = [] }: Container, parse: () => T): T {
  const set = env.map(({ name, value = "from-the-pod" }) => [name, value] as const);
  const before = set.map(([name]) => [name, process.env[name]] as const);
  for (const [name, value] of set) process.env[name] = value;
  try {
    return parse();
  } finally {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  }
}
/** Throws where `path` is not, or is not below, where something is mounted. */
function mounted(
  pod: Pod,
  container: Container,
  path: string,
): { readonly host: string | undefined; readonly readOnly: boolean } {
  const mount = container.volumeMounts
    .filter(({ mountPath }) => path === mountPath || path.startsWith(`${mountPath}/`))
    .toSorted((a, b) => b.mountPath.length - a.mountPath.length)[0];
  assert.ok(mount, `${container.name}: nothing is mounted at ${path}`);
  const volume = pod.volumes.find(({ name }) => name === mount.name);
  const host = volume?.hostPath && join(volume.hostPath.path, path.slice(mount.mountPath.length));
  return { host, readOnly: mount.readOnly === "true" };
}

test("there are a plugin of each kind, the daemons and the labels", () => {
  assert.deepEqual(
    sets.map(({ metadata }) => metadata.name),
    ["berth-device-plugin", "berth-gpu-feature-discovery", "berth-mps-control-daemon", "berth-nvidia-device-plugin"],
  );
  for (const { file, apiVersion, kind, metadata } of manifests) {
    assert.equal(apiVersion, KINDS[kind], `${file}: ${kind}`);
    assert.match(metadata.name, /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/, file);
    assert.equal(metadata.namespace, kind === "RuntimeClass" ? undefined : "kube-system", `${file}: ${kind}`);
  }
});

describe("a DaemonSet", () => {
  for (const set of sets) {
    const pod = podOf(set);
    test(`${set.metadata.name}: its own pods, volumes, programs, and names that lead somewhere`, () => {
      const spec = set.body["spec"] as { selector: { matchLabels: Tree }; template: { metadata: { labels: Tree } } };
      assert.deepEqual(spec.selector.matchLabels, spec.template.metadata.labels);
      const used = containersOf(pod).flatMap(({ volumeMounts }) => volumeMounts.map(({ name }) => name));
      assert.deepEqual([...new Set(used)].sort(), pod.volumes.map(({ name }) => name).sort(), "mounts and volumes");
      for (const { configMap } of pod.volumes)
        if (configMap) assert.ok(named("ConfigMap", configMap.name, "kube-system"));
      for (const { name, image, command } of containersOf(pod)) {
        assert.equal(image, "berth", name);
        const program = command[0] ?? "";
        assert.ok(program.startsWith(CHECKOUT), program);
        assert.ok((statSync(join(ROOT, program.slice(CHECKOUT.length))).mode & 0o111) !== 0, program);
      }
      if (pod.runtimeClassName !== undefined) assert.ok(named("RuntimeClass", pod.runtimeClassName));
      // Who asks the API server has an account for it; who does not has no token.
      if (pod.serviceAccountName === undefined) assert.equal(pod.automountServiceAccountToken, "false");
      else assert.ok(named("ServiceAccount", pod.serviceAccountName, "kube-system"), pod.serviceAccountName);
    });
  }
});

test("the plugins: their files, sockets and directories are mounted, those that they write to writable", () => {
  for (const set of sets.filter(({ metadata }) => metadata.name.endsWith("device-plugin"))) {
    const pod = podOf(set);
    const [container] = pod.containers;
    assert.ok(container);
    const cache = container.env?.find(({ name }) => name === "NODE_COMPILE_CACHE")?.value;
    assert.equal(cache, `${CHECKOUT}.build/compile-cache`, "where packages/gpu/bundle/warm-up.ts leaves it");
    const options = withEnv(container, () => parseCommand(container.command.slice(1)));
    const content = configOf(pod, options.configFile ?? "");
    const sockets = socketDirectory(options.kubeletSocket);
    assert.deepEqual(mounted(pod, container, sockets), { host: sockets, readOnly: false });
    if (set.metadata.name === "berth-device-plugin") {
      assert.equal(parseConfig(content).resources.length, 1);
      for (const dir of options.cdiSpecDirs) assert.equal(mounted(pod, container, dir).host, dir);
      continue;
    }
    const { flags } = parseSettings(content);
    assert.deepEqual(flags.deviceListStrategy, ["cdi-cri"]);
    const cdi = options.cdiSpecDirs.at(-1) ?? "";
    assert.deepEqual(mounted(pod, container, cdi), { host: cdi, readOnly: false });
    const chosen = withEnv(container, () => choose({ ...options, configFile: undefined }));
    assert.ok(chosen.kind === "nvidia");
    const { containerDriverRoot, nvidiaDriverRoot, mpsContainerRoot, mpsRoot } = chosen.settings.flags;
    assert.deepEqual(mounted(pod, container, containerDriverRoot), { host: nvidiaDriverRoot, readOnly: true });
    assert.deepEqual(mounted(pod, container, mpsContainerRoot), { host: mpsRoot, readOnly: false });
    assert.equal(mounted(pod, container, "/dev/shm").host, sharedMemory(mpsRoot ?? ""));
    const [port] = /\d+$/.exec(options.httpEndpoint ?? "") ?? [];
    const { ports } = container as unknown as { ports: { name: string; containerPort: string }[] };
    assert.deepEqual(ports, [{ name: "metrics", containerPort: port }]);
  }
});

test("the MPS control daemons are where the plugin and its clients look for them", () => {
  const [plugin, daemons] = ["berth-nvidia-device-plugin", "berth-mps-control-daemon"].map((name) => {
    const set = named("DaemonSet", name, "kube-system");
    assert.ok(set);
    return podOf(set);
  });
  assert.ok(plugin && daemons);
  const [container] = daemons.containers;
  const [first] = daemons.initContainers ?? [];
  const [other] = plugin.containers;
  assert.ok(container && first && other);
  const command = withEnv(container, () => parseMpsCommand(container.command.slice(1)));
  assert.equal(parseMpsCommand(first.command.slice(1)).verb, "mount-shm");
  assert.equal(command.verb, "run");
  const { host } = mounted(daemons, container, command.mpsRoot);
  assert.equal(host, mounted(plugin, other, "/mps").host);
  assert.equal(mounted(daemons, first, command.mpsRoot).host, host);
  assert.equal(mounted(daemons, container, "/dev/shm").host, sharedMemory(host ?? ""));
  const propagation = first.volumeMounts.find(({ name }) => name === "mps-root") as
    | { mountPropagation?: string }
    | undefined;
  assert.equal(propagation?.mountPropagation, "Bidirectional", "or the tmpfs would be this container's alone");
  assert.equal(first.securityContext?.["privileged"], "true");
  assert.equal(
    configOf(daemons, "/etc/berth-device-plugin/config.yaml"),
    configOf(plugin, "/etc/berth-device-plugin/config.yaml"),
  );
});

test("the labels: the pod's names are told, and the account may do what the program does, and no more", () => {
  const set = named("DaemonSet", "berth-gpu-feature-discovery", "kube-system");
  assert.ok(set);
  const pod = podOf(set);
  const [container] = pod.containers;
  assert.ok(container);
  const command = withEnv(container, () =>
    parseLabelCommand(container.command.slice(1).filter((text) => !text.startsWith("--config-file"))),
  );
  const { kube, flags } = withEnv(container, () => parseLabelCommand([]).readSettings(() => {}));
  assert.ok(command);
  assert.deepEqual(kube, { kubeconfig: "", namespace: "from-the-pod", node: "from-the-pod", pod: "from-the-pod" });
  assert.equal(flags.useNodeFeatureAPI, true);
  assert.ok(configOf(pod, "/etc/berth-device-plugin/config.yaml"));
  const binding = manifests.find(({ kind }) => kind === "RoleBinding")?.body as
    | { roleRef: { kind: string; name: string }; subjects: Tree }
    | undefined;
  assert.deepEqual(binding?.subjects, [
    { kind: "ServiceAccount", name: pod.serviceAccountName, namespace: "kube-system" },
  ]);
  assert.equal(binding?.roleRef.kind, "Role");
  const role = named("Role", binding?.roleRef.name ?? "", "kube-system");
  // What node-feature.ts asks: GET, POST and PUT of its object, GET of its pod.
  assert.deepEqual(role?.body["rules"], [
    { apiGroups: ["nfd.k8s-sigs.io"], resources: ["nodefeatures"], verbs: ["get", "create", "update"] },
    { apiGroups: [""], resources: ["pods"], verbs: ["get"] },
  ]);
});
