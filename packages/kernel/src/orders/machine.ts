/** The part of the table of orders (table.ts) that is for virtual machines: on their host, and about them as a whole. */
import type { OrderSpec } from "./table.ts";

export const MACHINE_ORDERS = {
  // --- virtual machines: ends of a plan on the host, in the place of `exec` ------------------------------------------------
  /**
   * Becomes the host's end of a machine's channel (`bosun relay`): a unix socket that a chardev listens on, or vsock:CID:PORT. Callers
   * come to `listen`. Started once it listens; exits 0 when the machine has ended, 1 when its guest broke the channel's rules.
   */
  relay: { code: 150, fields: { channel: "str", listen: "str" }, words: "relay {channel} at {listen}" },
  /**
   * Stands for the container that a monitor in a virtual machine has made: starts it, hands its streams, signals and terminal on, exits as
   * it does, with 137 where the channel ends first. `relay`: its relay's socket; `monitor`: the monitor's, in the machine. oomFile: gets
   * "oom_kill 1" where it was killed for memory ("": none; it exists). SIGKILL cannot be handed on.
   */
  guest_process: {
    code: 151,
    fields: { relay: "str", monitor: "str", stdin: "u32", terminal: "u32", oomFile: "str" },
    words: "start the guest's process at {monitor} through {relay}",
  },
  /** The same for a further process, by an encoded `plan` that the monitor there carries out. That process is killed where this one ends. */
  guest_exec: {
    code: 152,
    fields: { relay: "str", monitor: "str", stdin: "u32", terminal: "u32", drainMs: "u32", plan: "bytes" },
    words: "run a process in the guest, at {monitor} through {relay}",
  },
  /**
   * Stands for a process of a machine whose agent is Kata's. socket, port, path: the way to the agent, by "CONNECT port" (0: none) and
   * "PATH path" ("": none). The others are whole ttRPC requests, in which bosun puts the stream's number and what was left open: `start`
   * first, whose refusal is the order's failure; stdout and stderr again and again until they come to their end; then `wait`,
   * whose answer is the exit code. `write` ends with 5 bytes for the length of what follows (a padded varint), and has 5 for the length of
   * the payload at `payload`; `kill` ends with 5 for the signal, `resize` with 5 for the rows, a key's byte and 5 for the columns.
   * Without stdin the input is closed at once. terminal: `console` came before it; it is made raw. Exits with 137 where the agent is lost.
   */
  agent_process: {
    code: 154,
    fields: {
      socket: "str",
      port: "u32",
      path: "str",
      start: "bytes",
      wait: "bytes",
      stdout: "bytes",
      stderr: "bytes",
      write: "bytes",
      payload: "u32",
      closeInput: "bytes",
      kill: "bytes",
      resize: "bytes",
      stdin: "u32",
      terminal: "u32",
    },
    words: "stand for the process of the guest's agent at {socket}",
  },

  /** Makes a tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) in this network namespace, which is there as long as the slot's file is open. */
  tap: { code: 173, fields: { slot: "u32", name: "str" }, words: "make tap {name} as fd {slot}" },
  /** A slot's file is open in what `exec` becomes, as descriptor 200 + `number` (of 8). EBUSY where that is open already. */
  inherit: {
    code: 172,
    fields: { slot: "u32", number: "u32" },
    words: "hand fd {slot} on as inherited descriptor {number}",
  },

  // --- a whole machine: what its host tells a virtual one ------------------------------------------------------------------
  /** finit_module(2) of an uncompressed module; one that is loaded already is success. */
  load_module: {
    code: 160,
    fields: { path: "str", parameters: "str" },
    words: "load kernel module {path} {parameters}",
  },
  /** clock_settime(2), in nanoseconds since the epoch. */
  set_clock: { code: 161, fields: { time: "u64" }, words: "set the clock to {time}" },
  /** 1 to 256 bytes of entropy for the kernel's generator, which is reseeded with them at once (RNDADDENTROPY, RNDRESEEDCRNG). */
  reseed_rng: { code: 162, fields: { data: "bytes" }, words: "reseed the random number generator" },
  /** Has PID 1, which must be `bosun guest` (else EPERM), sync and switch the machine off. */
  power_off: { code: 163, fields: {}, words: "switch the machine off" },
  /** Reads at most `max` bytes of a file by its path as it stands, as this order's output; absent: empty output with `missing` set. */
  read_file: { code: 164, fields: { path: "str", max: "u32" }, words: "read {path}" },
  /**
   * The paths that match a pattern (glob(7)), each with a NUL behind it, as this order's output. timeoutMs: waits as long for the first
   * one, looking again whenever the kernel tells of a device (ETIMEDOUT); 0: none is an empty output with `missing` set.
   */
  find: { code: 165, fields: { pattern: "str", timeoutMs: "u32" }, words: "look for {pattern}" },
  /**
   * Brings up to `cpus` processors and `memory` blocks of memory online that are not, the latter as ZONE_MOVABLE where `movable`.
   * Output: u32 processors, u32 blocks.
   */
  online: {
    code: 166,
    fields: { cpus: "u32", memory: "u32", movable: "u32" },
    words: "bring up to {cpus} CPUs and {memory} blocks of memory online",
  },
  /** How fast the processor's time stamp counter runs, in kHz, as u64: measured in 20 ms. ENOTSUP where there is no such counter. */
  tsc_rate: { code: 171, fields: {}, words: "measure the time stamp counter" },
  /**
   * Copies a machine's memory, a file of whole pages (else EINVAL), without the pages that are empty: they are holes. `to` is a file that
   * is not there yet (0600), or "": a memfd, in the slot.
   */
  copy_memory: {
    code: 155,
    fields: { from: "str", to: "str", slot: "u32" },
    words: "copy memory {from} to {to}",
  },
  /** The slot's descriptor becomes number `fd` (3 or more) of the program that `exec` with `keep` is about to start. EBUSY: something else's. */
  hand_over: { code: 156, fields: { slot: "u32", fd: "u32" }, words: "hand the file in {slot} over as {fd}" },
  /** statvfs(3): fragment size, blocks, free, available, inodes, free inodes; six u64 as this order's output. */
  file_system: { code: 167, fields: { path: "str" }, words: "measure the file system of {path}" },
  /**
   * The device of a whole disk by the serial number that its hypervisor gave it (virtio-blk's, SCSI's unit serial number page), as
   * /dev/NAME in this order's output. Waits for it as `find` does (ETIMEDOUT).
   */
  find_disk: {
    code: 168,
    fields: { serial: "str", timeoutMs: "u32" },
    words: "look for the disk with serial number {serial}",
  },
  /** rename(2): what was at `to` is another at once. */
  rename: { code: 169, fields: { from: "str", to: "str" }, words: "rename {from} to {to}" },
  /** Gives an existing regular file another content, in place: whoever has it mounted or open sees that. */
  fill_file: { code: 170, fields: { path: "str", data: "bytes" }, words: "fill {path} with {data}" },
  /**
   * For a monitor's plan: its log file is at most so large; when it is, it becomes FILE.1, in the place of what was that, and another is
   * begun. The process itself does nothing.
   */
  bound_log: { code: 193, fields: { bytes: "u64" }, words: "keep {bytes} bytes of log" },
  /**
   * Gives a tree to a group, as the kubelet and Kata's agent do: files become readable and writable for it (`readonly`: readable),
   * directories are entered by it and pass it on (S_ISGID). No link is followed and no other mount entered. `onMismatch`: only where the
   * directory itself is not like that.
   */
  fs_group: {
    code: 191,
    fields: { path: "str", gid: "u32", readonly: "u32", onMismatch: "u32" },
    words: "give {path} to group {gid}",
  },
  /**
   * Waits until the device has so many bytes (ETIMEDOUT), then has the ext4 or xfs that is mounted at `path` take all of it; another file
   * system: EOPNOTSUPP. ext4 asks for CAP_SYS_RESOURCE.
   */
  grow_file_system: {
    code: 192,
    fields: { path: "str", device: "str", bytes: "u64", timeoutMs: "u32" },
    words: "grow the file system of {path} to {bytes} bytes",
  },
  /** Where the symbolic links lead that match a pattern (glob(7)), each with a NUL behind it, as this order's output; none: empty. */
  links: { code: 180, fields: { pattern: "str" }, words: "read the links {pattern}" },
} as const satisfies Record<string, OrderSpec>;
