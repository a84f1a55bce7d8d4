/**
 * The messages between berth and bosun's long-lived processes, once, as the table of orders is: TypeScript's codec and C's
 * are made from it.
 *
 * A frame is a 16-byte little-endian header and a body: `u32 size` (of the body), `u32 id` (chosen by the requester,
 * repeated in the reply; 0 marks an event that nobody asked for), `u16 type`, `u16 reserved` (0), `u32 timeoutMs`
 * (requests only; 0 = none: past it the receiver kills the work and answers a report with ETIMEDOUT). The body holds the
 * fields in the table's order: integers as they are, `str`/`bytes` as u32 length, the bytes and a NUL that the length
 * does not count, `strs`/`blobs`/`u32s` as u32 count and the items.
 *
 * An encoded plan is `u32 PLAN_VERSION`, `u32 count`, then per order `u16 code`, `u16 0`, `u32 size` and its fields.
 *
 * `serve` listens on <state>/serve.sock, a monitor on <its directory>/monitor.sock; both are stream sockets, mode 0600.
 */
import type { Fields } from "./table.ts";

export interface MessageSpec {
  readonly type: number;
  readonly fields: Fields;
}

/** `attach`'s and `exec`'s stream bits. */
export const STREAM = { stdin: 1, stdout: 2, stderr: 4 } as const;
/** `state`'s phases. */
export const PHASE = { creating: 0, created: 1, running: 2, exited: 3 } as const;
/** The `order` of a report that is not about an order. */
export const NO_ORDER = 0xffffffff;

export const MESSAGES = {
  // --- answers -----------------------------------------------------------------------------------------------------
  /**
   * The outcome of a plan or a simple request. errno 0: success. Otherwise `order` is the index of the order that failed
   * (NO_ORDER: none), `detail` says which step of it and on what path, as in "openat2 /etc/resolv.conf". `stage` is 0
   * before `clone`, 1 after. outputs: repeated u32 order index, u32 flags (1 = missing), u32 length, bytes.
   */
  report: { type: 1, fields: { errno: "u32", order: "u32", stage: "u32", detail: "str", outputs: "bytes" } },

  // --- serve ---------------------------------------------------------------------------------------------------------
  /** The first frame on a connection; answered by `welcome`. A version mismatch is answered by a report with EPROTO. */
  hello: { type: 10, fields: { version: "u32" } },
  welcome: { type: 11, fields: { version: "u32", pid: "u32" } },
  /** Carries out a plan without `clone` in a forked worker; answered by `report`. */
  run: { type: 12, fields: { plan: "bytes" } },
  /**
   * Starts an external program in a new session, with only fds 0-2, default signals, in serve's own namespaces; feeds it
   * `stdin`, collects at most `limit` bytes of each output, answers `spawned` when it has exited and its outputs are at
   * their end. Killed (with its process group) at the time-out, on cancel, and when serve ends.
   */
  spawn: { type: 13, fields: { argv: "strs", env: "strs", cwd: "str", stdin: "bytes", limit: "u32" } },
  /** status: exit status, or 128+signal. */
  spawned: { type: 14, fields: { status: "u32", signal: "u32", stdout: "bytes", stderr: "bytes", truncated: "u32" } },
  /**
   * Forks a monitor (own session, outlives serve), which carries out `plan` up to `park` and then answers through serve:
   * `created`, or `report` (nothing is left: the monitor has reaped all and removed its socket and record).
   * dir: the monitor's directory (exists): it makes `monitor.sock` and `record` there. logPath "" = no log. maxLine: bytes
   * of content per CRI log line before it is split with tag P. stdin: keep a stdin pipe (else /dev/null); stdinOnce: close
   * it when the first attached client goes. oomFile/oomKey: file and key ("oom_kill") whose counter, if it grew, marks the
   * exit as an OOM kill; made by the plan, opened after `created`. subreaper: whatever loses its parent below the monitor becomes its
   * child and is reaped (the processes that the order `runtime` leaves behind).
   */
  monitor: {
    type: 15,
    fields: {
      dir: "str",
      logPath: "str",
      maxLine: "u32",
      terminal: "u32",
      rows: "u32",
      columns: "u32",
      stdin: "u32",
      stdinOnce: "u32",
      oomFile: "str",
      oomKey: "str",
      subreaper: "u32",
      plan: "bytes",
    },
  },
  created: { type: 16, fields: { monitorPid: "u32", pid: "u32", pidStart: "u64", createdAt: "u64", outputs: "bytes" } },
  /** Ends the request `id` (its worker or program is killed; its reply is a report with ECANCELED). No reply of its own. */
  cancel: { type: 17, fields: { id: "u32" } },
  /**
   * Turns this connection into a tree stream (see tree.ts) into directory `path`, which exists: answered by `report`
   * (errno 0: go), after which the client sends tree entries, and serve's forked writer, chrooted there, answers one final
   * `report` at `end` or at the first failure. The client sends nothing between the request and "go". The
   * request's time-out is for "go" alone: a stream lasts as long as what it is made from.
   */
  tree: { type: 18, fields: { path: "str" } },
  /**
   * Connects to TCP port `port` of the loopback (127.0.0.1, then ::1) of network namespace `netns` (a path, as pinned):
   * answered by `report`, and with errno 0 this connection is that port's bytes from then on, half-closed as either side is.
   * A reset of the port's side reads as its end. The client sends nothing between the request and the answer.
   */
  dial: { type: 19, fields: { netns: "str", port: "u32" } },

  // --- monitor -------------------------------------------------------------------------------------------------------
  /** Releases the parked process; answered once it has exec'd (`state`) or failed (`report`). */
  start: { type: 30, fields: {} },
  query: { type: 31, fields: {} },
  /**
   * pidStart: field 22 of /proc/PID/stat; times: ns since the epoch, 0 = not yet. code: exit status, or 128+signal.
   * lost: log bytes that could not be written (disk full to the end).
   */
  state: {
    type: 32,
    fields: {
      phase: "u32",
      pid: "u32",
      pidStart: "u64",
      createdAt: "u64",
      startedAt: "u64",
      finishedAt: "u64",
      code: "u32",
      signal: "u32",
      oom: "u32",
      lost: "u64",
    },
  },
  /** Answered by `state` at once; from then on this connection gets a `state` event (id 0) when the container's process has exited and its log is complete. */
  watch: { type: 33, fields: {} },
  /** Signals a session's process (0: the container's); answered by `report` (ESRCH: it has exited). */
  kill: { type: 34, fields: { session: "u32", signal: "u32" } },
  /**
   * A further process by `plan`, with its own stdio. sync 1: answered by `execed` when it has exited and its output is at
   * its end, or drainMs after the exit; at the time-out it is killed and answered by `execed` with timedOut. sync 0:
   * answered by `session` once it has exec'd; its output is not read before it is attached to (`streams` says which will
   * be), so that nothing is lost; sync 2: the same, and the process is killed when this connection ends. A failing plan is answered
   * by `report`.
   */
  exec: {
    type: 35,
    fields: {
      sync: "u32",
      terminal: "u32",
      rows: "u32",
      columns: "u32",
      streams: "u32",
      limit: "u32",
      drainMs: "u32",
      plan: "bytes",
    },
  },
  execed: {
    type: 36,
    fields: { code: "u32", signal: "u32", timedOut: "u32", truncated: "u32", stdout: "bytes", stderr: "bytes" },
  },
  session: { type: 37, fields: { session: "u32", pid: "u32" } },
  /** Answered by `execed` (without outputs) when the session's process has exited and its outputs are delivered. Session numbers are kept until waited for. */
  wait: { type: 38, fields: { session: "u32" } },
  resize: { type: 39, fields: { session: "u32", rows: "u32", columns: "u32" } },
  /** Closes and opens the log file by its path; answered by `report`. */
  reopen_log: { type: 40, fields: {} },
  /**
   * Answered by `report`; then the connection is raw bytes of one stream of the session (stdin: client to process; stdout
   * or stderr: process to client, end of file at the end). With a terminal, stdout is both directions' output.
   */
  attach: { type: 41, fields: { session: "u32", stream: "u32" } },

  /**
   * Answered by `report` when something in the container's cgroup is killed for memory, as soon as the kernel tells of it; errno ESRCH: it
   * has ended, and nothing was.
   */
  oom: { type: 42, fields: {} },

  // --- berth-runc: `bosun runc`, the process that a caller of the OCI command line starts, and the TypeScript that decides for it ------
  /**
   * Makes a process by `plan`, as a child of `bosun runc` itself: there is no monitor, and whoever is the caller's subreaper gets
   * it. Answered by `launched` once it is parked (or, without `park`, runs), or by `report`, with nothing left. stdio 0: the
   * caller's own; 1: pipes, which `attend` relays. A terminal goes to `consoleSocket` (unix stream, SCM_RIGHTS), or without one
   * stays for `attend`. The process's pidfd goes to `pidfdSocket` ("": nowhere) with the text `pidfdName`. keep: descriptors from 3
   * on that the process gets. subreaper 1: bosun becomes one, so that `attend` reaps what the process leaves.
   */
  launch: {
    type: 50,
    fields: {
      plan: "bytes",
      terminal: "u32",
      stdio: "u32",
      consoleSocket: "str",
      pidfdSocket: "str",
      pidfdName: "str",
      keep: "u32",
      subreaper: "u32",
    },
  },
  launched: { type: 51, fields: { pid: "u32", pidStart: "u64", outputs: "bytes" } },
  /** Releases the parked process. Answered by `report` once it has exec'd, failed, or waits at the FIFO (order wait_fifo). */
  release: { type: 52, fields: {} },
  /**
   * Stays as the process's foreground: relays its stdio or terminal and the signals that come, waits for its end, carries out
   * `undo` (empty: nothing) and exits as the process did. Answered by `report`; the decider then ends.
   */
  attend: { type: 53, fields: { undo: "bytes" } },
  /** Kills the launched process and waits for its end; answered by `report`. */
  abandon: { type: 54, fields: {} },
  /**
   * Binds a unix datagram socket at `socket` for the container's sd_notify(3) and hands its READY= on to `host` (as in
   * NOTIFY_SOCKET), with MAINPID= of `pid` (0: the launched process) and BARRIER=1: while it is attended, or, where it is not, before
   * `bosun runc` ends. Answered by `report`.
   */
  notify: { type: 55, fields: { socket: "str", host: "str", pid: "u32" } },
  /** Waits for a kill for memory in the cgroup `memory`, for the end of process `pid`, or for `timeoutMs`; answered by `report`. */
  wait_oom: { type: 56, fields: { memory: "str", pid: "u32", timeoutMs: "u32" } },
  /** The command's exit status. The decider is killed, whose own winding up takes milliseconds; not answered. */
  end: { type: 57, fields: { status: "u32" } },
} as const satisfies Record<string, MessageSpec>;

export type MessageName = keyof typeof MESSAGES;

/**
 * The entries of a tree stream: header `u32 size`, `u16 type`, `u16 0`, then the fields. Paths are relative to the tree's
 * root and resolved inside it (the writer is chrooted there); missing parents are made 0755 root. An existing
 * non-directory at the path is replaced; a directory by a non-directory too. Ownership, mode, xattrs and times are set by
 * the order they need. `mtime` in ns since the epoch.
 */
export const TREE = {
  directory: {
    type: 1,
    fields: {
      path: "str",
      mode: "u32",
      uid: "u32",
      gid: "u32",
      mtime: "i64",
      xattrNames: "strs",
      xattrValues: "blobs",
    },
  },
  /** Followed by `data` entries to `size` bytes in all (sparse: `hole`). */
  file: {
    type: 2,
    fields: {
      path: "str",
      mode: "u32",
      uid: "u32",
      gid: "u32",
      mtime: "i64",
      size: "u64",
      xattrNames: "strs",
      xattrValues: "blobs",
    },
  },
  data: { type: 3, fields: { bytes: "bytes" } },
  hole: { type: 4, fields: { length: "u64" } },
  symlink: {
    type: 5,
    fields: {
      path: "str",
      target: "str",
      uid: "u32",
      gid: "u32",
      mtime: "i64",
      xattrNames: "strs",
      xattrValues: "blobs",
    },
  },
  hardlink: { type: 6, fields: { path: "str", target: "str" } },
  /** mode with S_IFCHR, S_IFBLK or S_IFIFO. An overlayfs whiteout is S_IFCHR 0:0. */
  node: {
    type: 7,
    fields: {
      path: "str",
      mode: "u32",
      uid: "u32",
      gid: "u32",
      mtime: "i64",
      major: "u32",
      minor: "u32",
      xattrNames: "strs",
      xattrValues: "blobs",
    },
  },
  /** Directory times are set last; answered by the final report (outputs: none) after syncfs(2) when `sync`. */
  end: { type: 8, fields: { sync: "u32" } },
} as const satisfies Record<string, MessageSpec>;
