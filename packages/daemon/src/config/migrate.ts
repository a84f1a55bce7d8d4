/** Where the versions of containerd's configuration have the same key: one table, read both ways. */
import { IMAGES, RUNTIME, STREAMING } from "./keys.ts";

export type Version = 1 | 2 | 3 | 4;
type Path = readonly string[];
type Move = readonly [older: Path, newer: Path];

/** containerd 1's short names of plugins. */
const SHORT_NAMES: Readonly<Record<string, string>> = {
  cri: STREAMING,
  cgroups: "io.containerd.monitor.v1.cgroups",
  linux: "io.containerd.runtime.v1.linux",
  scheduler: "io.containerd.gc.v1.scheduler",
  bolt: "io.containerd.metadata.v1.bolt",
  task: "io.containerd.runtime.v2.task",
  opt: "io.containerd.internal.v1.opt",
  restart: "io.containerd.internal.v1.restart",
  tracing: "io.containerd.internal.v1.tracing",
  otlp: "io.containerd.tracing.processor.v1.otlp",
  "diff-service": "io.containerd.service.v1.diff-service",
  ...Object.fromEntries(
    ["aufs", "btrfs", "devmapper", "erofs", "native", "overlayfs", "zfs"].map((name) => [
      name,
      `io.containerd.snapshotter.v1.${name}`,
    ]),
  ),
};

const CRI: Path = ["plugins", STREAMING];
const toImages = (older: string, newer = older): Move => [
  [...CRI, ...older.split(".")],
  ["plugins", IMAGES, ...newer.split(".")],
];
const stays = (name: string): Move => [
  [...CRI, name],
  [...CRI, name],
];

/** Version 2 to 3 (containerd 2.0): the CRI plugin was divided in three. The first that fits counts. */
const MOVES_3: readonly Move[] = [
  ...[
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
  ].map(stays),
  toImages("sandbox_image", "pinned_images.sandbox"),
  toImages("registry"),
  toImages("image_decryption"),
  toImages("max_concurrent_downloads"),
  toImages("image_pull_progress_timeout"),
  toImages("image_pull_with_sync_fs"),
  toImages("stats_collect_period"),
  toImages("containerd.snapshotter", "snapshotter"),
  toImages("containerd.disable_snapshot_annotations", "disable_snapshot_annotations"),
  toImages("containerd.discard_unpacked_layers", "discard_unpacked_layers"),
  [
    [...CRI, "containerd", "runtimes", "*", "sandbox_mode"],
    ["plugins", RUNTIME, "containerd", "runtimes", "*", "sandboxer"],
  ],
  [CRI, ["plugins", RUNTIME]],
];

const server = (section: string, name: string, plugin: string, newer = name): Move => [
  [section, name],
  ["plugins", plugin, newer],
];

/** Version 3 to 4 (containerd 2.3): what the server listens on became plugins. */
const MOVES_4: readonly Move[] = [
  ...["address", "uid", "gid", "max_recv_message_size", "max_send_message_size"].map((name) =>
    server("grpc", name, "io.containerd.server.v1.grpc"),
  ),
  server("grpc", "tcp_address", "io.containerd.server.v1.grpc-tcp", "address"),
  ...["tls_ca", "tls_cert", "tls_key", "tls_common_name"].map((name) =>
    server("grpc", `tcp_${name}`, "io.containerd.server.v1.grpc-tcp", name),
  ),
  ...["address", "uid", "gid"].map((name) => server("ttrpc", name, "io.containerd.server.v1.ttrpc")),
  ...["address", "uid", "gid"].map((name) => server("debug", name, "io.containerd.server.v1.debug")),
  server("metrics", "address", "io.containerd.server.v1.metrics"),
  server("metrics", "grpc_histogram", "io.containerd.metrics.v1.grpc-prometheus"),
];

/** Where version 4 has the key that a file of `version` has at `path`. */
export function toLatest(path: Path, version: Version): Path {
  let at = path;
  if (version < 2 && at[0] === "plugins" && at[1] !== undefined)
    at = ["plugins", SHORT_NAMES[at[1]] ?? at[1], ...at.slice(2)];
  if (version < 3) at = move(at, MOVES_3, 0, 1);
  return version < 4 ? move(at, MOVES_4, 0, 1) : at;
}

/** Where `version` has version 4's key; undefined: nowhere. */
export function fromLatest(path: Path, version: 2 | 3 | 4): Path | undefined {
  let at = path;
  if (version < 4) {
    at = move(at, MOVES_4, 1, 0);
    if (at[1]?.startsWith("io.containerd.server.v1.")) return undefined;
  }
  if (version < 3) {
    at = move(at, MOVES_3, 1, 0);
    if (at[1] === IMAGES || at[1] === RUNTIME) return undefined;
  }
  return at;
}

function move(path: Path, moves: readonly Move[], from: 0 | 1, to: 0 | 1): Path {
  for (const pair of moves) {
    const [prefix, target] = [pair[from], pair[to]];
    if (prefix.length > path.length || !prefix.every((part, index) => part === path[index] || part === "*")) continue;
    // One "*" stands for one name, the same on both sides.
    const name = path[prefix.indexOf("*")];
    return [...target.map((part) => (part === "*" ? (name ?? part) : part)), ...path.slice(prefix.length)];
  }
  return path;
}
