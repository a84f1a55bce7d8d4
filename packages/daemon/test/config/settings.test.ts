import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import {
  ConfigError,
  EMPTY,
  type Flags,
  parseCommandLine,
  readDocument,
  type Settings,
  settingsOf,
} from "@berth/daemon";
import { filesOf } from "./files.ts";

const settingsFrom = async (t: TestContext, text: string, flags: Flags = {}): Promise<Settings> => {
  const dir = filesOf(t, { "config.toml": text });
  return settingsOf(await readDocument(join(dir, "config.toml")), flags, "/bosun").settings;
};

const RUNTIMES = `
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["example.com/*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "/usr/bin/crun"
        SystemdCgroup = true
`;

test("the same settings come from every version of the format", async (t) => {
  const two = await settingsFrom(
    t,
    `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.9"
  max_container_log_line_size = 32768
  stream_server_port = "10010"
  stream_idle_timeout = "1h"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"
${RUNTIMES}
[grpc]
  address = "/run/containerd/containerd.sock"
[metrics]
  address = "127.0.0.1:1338"
`,
  );
  const three = `version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.9'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  max_container_log_line_size = 32768
${RUNTIMES.replaceAll('"io.containerd.grpc.v1.cri"', "'io.containerd.cri.v1.runtime'")}
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_port = '10010'
  stream_idle_timeout = '1h'
`;
  const server = "[grpc]\naddress = '/run/containerd/containerd.sock'\n[metrics]\naddress = '127.0.0.1:1338'\n";
  const plugins =
    "[plugins.'io.containerd.server.v1.grpc']\naddress = '/run/containerd/containerd.sock'\n[plugins.'io.containerd.server.v1.metrics']\naddress = '127.0.0.1:1338'\n";
  assert.deepEqual(await settingsFrom(t, three + server), two);
  assert.deepEqual(await settingsFrom(t, three.replace("version = 3", "version = 4") + plugins), two);

  assert.equal(two.cri.sandboxImage, "registry.k8s.io/pause:3.9");
  assert.equal(two.cri.maxLogLine, 32_768);
  assert.equal(two.cri.streamPort, 10_010);
  assert.equal(two.cri.streamIdleMs, 3_600_000);
  assert.deepEqual(two.registry.hostsDirs, ["/etc/containerd/certs.d", "/etc/docker/certs.d"]);
  assert.deepEqual(two.addresses, ["/run/berth/berth.sock", "/run/containerd/containerd.sock"]);
  assert.equal(two.metricsAddress, "127.0.0.1:1338");
  assert.equal(two.handlers.defaultHandler, "crun");
  const crun = two.handlers.handlers.get("crun");
  assert.deepEqual(crun?.podAnnotations, ["example.com/*"]);
  assert.equal(crun?.options.binary, "/usr/bin/crun");
  assert.equal(crun.options.systemdCgroup, true);
  assert.equal(two.handlers.handlers.get("runc")?.options.systemdCgroup, false);
});

test("what containerd 1.7 calls sandbox_mode is the handler's sandboxer", async (t) => {
  const runtime = 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes';
  const { handlers } = (
    await settingsFrom(
      t,
      `version = 2\n[${runtime}.kata]\nsandbox_mode = "shim"\n[${runtime}.runc]\nsandbox_mode = ""\n`,
    )
  ).handlers;
  assert.deepEqual(
    ["kata", "runc"].map((name) => handlers.get(name)?.sandboxer),
    ["shim", "podsandbox"],
  );
});

test("without a file berth's own defaults hold, and the command line counts more than a file", async (t) => {
  const { settings } = settingsOf(EMPTY, {}, "/bosun");
  assert.equal(settings.root, "/var/lib/berth");
  assert.deepEqual(settings.cni.binDirs, ["/opt/cni/bin", "/usr/lib/cni"]);
  assert.deepEqual([...settings.handlers.handlers.keys()], ["runc", "berth", "berth-vm"]);
  const { flags } = parseCommandLine(["--root", "/other", "--max-log-line", "100"], "0");
  const mixed = await settingsFrom(t, 'version = 2\nroot = "/srv/berth"\nstate = "/run/elsewhere"\n', flags);
  assert.equal(mixed.root, "/other");
  assert.deepEqual(mixed.addresses, ["/run/elsewhere/berth.sock"]);
  assert.equal(mixed.cri.maxLogLine, 100);
});

test("containerd's own directories in its file stay containerd's", async (t) => {
  const settings = await settingsFrom(t, 'version = 2\nroot = "/var/lib/containerd"\nstate = "/run/containerd"\n');
  assert.equal(settings.root, "/var/lib/berth");
  assert.equal(settings.state, "/run/berth");
});

test("registries of containerd 1.x: mirrors, credentials and certificates", async (t) => {
  const registry = 'plugins."io.containerd.grpc.v1.cri".registry';
  const settings = await settingsFrom(
    t,
    `version = 2
[${registry}.mirrors."docker.io"]
  endpoint = ["https://mirror.example", "http://10.0.0.1:5000"]
[${registry}.configs."reg.example:5000".tls]
  insecure_skip_verify = true
  ca_file = "/etc/ca.pem"
[${registry}.configs."reg.example:5000".auth]
  username = "me"
  password = "secret"
[${registry}.auths."https://old.example"]
  auth = "bWU6c2VjcmV0"
`,
  );
  assert.deepEqual(settings.registry, {
    hostsDirs: [],
    mirrors: { "docker.io": ["https://mirror.example", "http://10.0.0.1:5000"] },
    configs: {
      "old.example": { auth: { auth: "bWU6c2VjcmV0" } },
      "reg.example:5000": {
        auth: { username: "me", password: "secret" },
        tls: { skipVerify: true, caFile: "/etc/ca.pem" },
      },
    },
    headers: {},
  });
});

const EROFS = "[plugins.'io.containerd.snapshotter.v1.erofs']";
const DIFFER = "[plugins.'io.containerd.differ.v1.erofs']";

test("how layers are sealed and limited, by containerd's keys of its EROFS snapshotter", async (t) => {
  const layers = async (text: string): Promise<unknown[]> => {
    const { verity, writableLayerSize } = await settingsFrom(t, `version = 3\n${text}`);
    return [verity, writableLayerSize];
  };
  assert.deepEqual(await layers(""), [undefined, undefined]);
  assert.deepEqual(await layers(`${EROFS}\nenable_fsverity = true\n`), ["fsverity", undefined]);
  assert.deepEqual(await layers(`${EROFS}\ndmverity_mode = "on"\n`), ["dmverity", undefined]);
  assert.deepEqual(await layers(`${DIFFER}\nenable_dmverity = true\n`), ["dmverity", undefined]);
  assert.deepEqual(await layers(`${EROFS}\ndmverity_mode = "off"\n${DIFFER}\nenable_dmverity = true\n`), [
    undefined,
    undefined,
  ]);
  assert.deepEqual(await layers(`${EROFS}\ndefault_size = "20GiB"\n`), [undefined, 20 * 2 ** 30]);
  assert.deepEqual(await layers(`${EROFS}\ndefault_size_mb = 100\n`), [undefined, 100 * 2 ** 20]);
  assert.deepEqual(await layers(`${EROFS}\ndefault_size = "0"\n`), [undefined, undefined]);
});

const REFUSED: readonly (readonly [string, RegExp])[] = [
  ['version = 2\ndisabled_plugins = ["cri"]\n', /:2: disabled_plugins: "cri" is all that berthd is there for/],
  [`version = 3\n${EROFS}\ndmverity_mode = "maybe"\n`, /:3: dmverity_mode: "maybe" is none of/],
  [`version = 3\n${EROFS}\ndefault_size = "much"\n`, /:3: default_size: "much" is not a size/],
  [
    `version = 3\n${EROFS}\nenable_fsverity = true\ndmverity_mode = "on"\n`,
    /:3: enable_fsverity and dm-verity exclude each other/,
  ],
  ["version = 9\n", /:1: version: 9 is none of/],
  ['version = 2\nroot = "relative"\n', /:2: root: "relative" is not an absolute path/],
  ['version = 2\n[debug]\nlevel = "loud"\n', /:3: debug\.level: "loud" is none of/],
  [
    'version = 3\n[plugins."io.containerd.cri.v1.runtime".containerd]\ndefault_runtime_name = "kata"\n',
    /:3: containerd\.default_runtime_name: "kata" is not among containerd\.runtimes \(runc, berth, berth-vm\)/,
  ],
  [
    'version = 3\n[plugins."io.containerd.grpc.v1.cri"]\nenable_tls_streaming = true\nx509_key_pair_streaming.tls_cert_file = "/c"\n',
    /:4: x509_key_pair_streaming: name both/,
  ],
  [
    'version = 3\n[plugins."io.containerd.grpc.v1.cri"]\nstream_server_port = "http"\n',
    /:3: stream_server_port: "http" is not a port/,
  ],
  [
    'version = 3\n[plugins."io.containerd.cri.v1.runtime".cni]\nip_pref = "ipv5"\n',
    /:3: cni\.ip_pref: "ipv5" is none of/,
  ],
  ["version = 3\nroot = 1\nstate = 2\n", /:2: error: root: must be .*\n.*:3: error: state: must be/],
];

for (const [text, expected] of REFUSED) {
  test(`refused: ${expected.source}`, async (t) => {
    await assert.rejects(settingsFrom(t, text), (error: unknown) => {
      assert(error instanceof ConfigError);
      assert.match(error.message, expected);
      return true;
    });
  });
}

test("imports: globs in the order of their names, a later file's value counts, lists of the main table grow", async (t) => {
  const dir = filesOf(t, {
    "config.toml": 'version = 2\nimports = ["conf.d/*.toml"]\noom_score = 1\nrequired_plugins = ["a.b"]\n',
    "conf.d/10-first.toml": 'version = 2\noom_score = 2\nrequired_plugins = ["c.d"]\n',
    "conf.d/20-second.toml": "version = 2\noom_score = 3\n",
    "conf.d/ignored.txt": "not TOML",
  });
  const document = await readDocument(join(dir, "config.toml"));
  assert.equal(settingsOf(document, {}, "").settings.oomScore, 3);
  assert.deepEqual(document.entries.get("required_plugins")?.value, ["a.b", "c.d"]);
  assert.deepEqual(
    document.files.map((file) => file.slice(dir.length + 1)),
    ["config.toml", "conf.d/10-first.toml", "conf.d/20-second.toml"],
  );
});

test("imports: each file once, and none newer than the file that imports it", async (t) => {
  const dir = filesOf(t, {
    "config.toml": 'version = 2\nimports = ["other.toml"]\n',
    "other.toml": 'version = 2\nimports = ["config.toml"]\noom_score = 7\n',
    "new.toml": 'version = 2\nimports = ["three.toml"]\n',
    "three.toml": "version = 3\n",
  });
  const { files } = await readDocument(join(dir, "config.toml"));
  assert.equal(files.length, 2);
  await assert.rejects(readDocument(join(dir, "new.toml")), /three\.toml: version 3 is higher than the 2 of/);
});

test("how layers are kept: containerd's default says nothing, its other names do, and berth's own table counts more", async (t) => {
  const containerd = (name: string): string => `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = '${name}'
`;
  const own = (name: string): string => `[plugins.'io.berth.images.v1']\nsnapshotter = '${name}'\n`;
  const snapshotter = async (text: string, flags: Flags = {}): Promise<unknown> =>
    (await settingsFrom(t, text, flags)).snapshotter;
  assert.equal(await snapshotter("version = 3\n"), undefined);
  assert.equal(await snapshotter(containerd("overlayfs")), undefined);
  assert.equal(await snapshotter(containerd("native")), "native");
  assert.equal(await snapshotter(containerd("erofs")), "erofs");
  assert.equal(await snapshotter(containerd("devmapper")), undefined);
  assert.equal(await snapshotter(containerd("overlayfs") + own("overlayfs")), "overlayfs");
  assert.equal(await snapshotter(containerd("native") + own("erofs")), "erofs");
  assert.equal(await snapshotter(own("erofs"), { snapshotter: "native" }), "native");
  assert.equal(
    await snapshotter('version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"\n'),
    "native",
  );
  await assert.rejects(snapshotter(own("zfs")), /config\.toml:2: .*"zfs" is none of erofs, overlayfs, native/);
});

test("images are collected only where a threshold says so, with the kubelet's defaults beside it", async (t) => {
  const collection = async (...lines: string[]): Promise<unknown> =>
    (await settingsFrom(t, ["version = 3", "[plugins.'io.berth.images.v1']", ...lines, ""].join("\n"))).collection;
  assert.equal(await collection(), undefined);
  assert.equal(await collection("gc_low_threshold_percent = 20"), undefined);
  assert.equal(await collection("gc_high_threshold_percent = 100"), undefined);
  assert.deepEqual(await collection("gc_high_threshold_percent = 85"), {
    highPercent: 85,
    lowPercent: 80,
    minimumAgeMs: 120_000,
    periodMs: 300_000,
  });
  assert.deepEqual(
    await collection(
      "gc_high_threshold_percent = 60",
      "gc_low_threshold_percent = 50",
      'gc_minimum_age = "0s"',
      'gc_period = "10s"',
    ),
    { highPercent: 60, lowPercent: 50, minimumAgeMs: 0, periodMs: 10_000 },
  );
  await assert.rejects(collection("gc_high_threshold_percent = 101"), /config\.toml:3: .*101 is no percentage/);
  await assert.rejects(
    collection("gc_high_threshold_percent = 60", "gc_low_threshold_percent = 60"),
    /config\.toml:4: gc_low_threshold_percent: 60 must be below gc_high_threshold_percent, 60/,
  );
});

test("proxies of the file count over the environment's, one by one; files are named absolutely", async (t) => {
  const own = async (...lines: string[]): Promise<Settings> =>
    await settingsFrom(t, ["version = 3", "[plugins.'io.berth.images.v1']", ...lines, ""].join("\n"));
  assert.equal((await own()).registry.proxy, undefined);
  const before = process.env["NO_PROXY"];
  process.env["NO_PROXY"] = ".example";
  t.after(() => {
    if (before === undefined) delete process.env["NO_PROXY"];
    else process.env["NO_PROXY"] = before;
  });
  const { proxy } = (await own('https_proxy = "squid:3128"')).registry;
  assert.deepEqual([proxy?.https, proxy?.no], ["squid:3128", ".example"]);
  assert.equal((await own('no_proxy = "10.0.0.0/8"')).registry.proxy?.no, "10.0.0.0/8");
  await assert.rejects(
    own('http_proxy = "ftp://a"'),
    /config\.toml:3: http_proxy: a proxy of type ftp is not supported/,
  );
  const files = await own('auth_file = "/a/auth.json"', 'signature_policy = "/a/policy.json"');
  assert.deepEqual([files.authFile, files.verification.policyPath], ["/a/auth.json", "/a/policy.json"]);
  await assert.rejects(
    own('auth_file = "auth.json"'),
    /config\.toml:3: auth_file: "auth\.json" is not an absolute path/,
  );
});

test("NRI is on, at the node's socket, unless the file says otherwise", async (t) => {
  const { nri } = await settingsFrom(t, "version = 3\n");
  assert.deepEqual(nri, {
    disable: false,
    socketPath: "/var/run/nri/nri.sock",
    pluginPath: "/opt/nri/plugins",
    pluginConfigPath: "/etc/nri/conf.d",
    pluginRegistrationTimeoutMs: 5_000,
    pluginRequestTimeoutMs: 2_000,
    disableConnections: false,
    defaultValidator: undefined,
  });
  const table = "[plugins.'io.containerd.nri.v1.nri']\n";
  const said = await settingsFrom(
    t,
    `version = 3\n${table}disable = true\nsocket_path = "/run/other.sock"\nplugin_path = "/p"\nplugin_config_path = "/c"
plugin_registration_timeout = "10s"\nplugin_request_timeout = "500ms"\ndisable_connections = true
default_validator = { enable = true, reject_sysctl_adjustment = true, required_plugins = ["a"], tolerate_missing_plugins_annotation = "t" }\n`,
  );
  assert.deepEqual(said.nri, {
    disable: true,
    socketPath: "/run/other.sock",
    pluginPath: "/p",
    pluginConfigPath: "/c",
    pluginRegistrationTimeoutMs: 10_000,
    pluginRequestTimeoutMs: 500,
    disableConnections: true,
    defaultValidator: {
      rejectOciHookAdjustment: false,
      rejectRuntimeDefaultSeccompAdjustment: false,
      rejectUnconfinedSeccompAdjustment: false,
      rejectCustomSeccompAdjustment: false,
      rejectNamespaceAdjustment: false,
      rejectSysctlAdjustment: true,
      requiredPlugins: ["a"],
      tolerateMissingPluginsAnnotation: "t",
    },
  });
});

test("a second daemon's plugins have a socket of its own, whatever a file that was containerd's says", async (t) => {
  const { nri } = await settingsFrom(
    t,
    "version = 3\n[plugins.'io.containerd.nri.v1.nri']\nsocket_path = '/var/run/nri/nri.sock'\n",
    { state: "/run/second" },
  );
  assert.equal(nri.socketPath, "/run/second/nri.sock");
  assert.equal(
    (await settingsFrom(t, "version = 3\ndisabled_plugins = ['io.containerd.nri.v1.nri']\n")).nri.disable,
    true,
  );
});
