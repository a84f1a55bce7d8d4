/**
 * The table of orders: everything bosun can be told to do, once. The TypeScript encoder (`encode.ts`) and the words that
 * `berth plan` prints are derived from it here; the C decoder is generated from it at build time
 * (`packages/native/generate.ts` → `orders.gen.h`).
 *
 * A plan is a flat list of orders. Everything before `clone` is carried out by the *stage*: a short-lived process in the
 * host's namespaces. Everything after `clone` is carried out by the new process inside its new namespaces, until `exec`
 * (or `reap`) ends the list. A plan without `clone` simply runs in the stage and ends.
 *
 * Field types: `u32`, `u64`, `i64` (little-endian), `str` (UTF-8 or raw bytes without NUL), `bytes` (anything), `strs`
 * (list of str), `blobs` (list of bytes), `u32s` (list of u32). A `slot` is a u32 that names an entry of the stage's descriptor table (0-4095);
 * descriptors are inherited over `clone`, so what the stage opened the container's process can use. `NO_SLOT` means none.
 */
import { MACHINE_ORDERS } from "./machine.ts";

export const PLAN_VERSION = 1;
export const NO_SLOT = 0xffffffff;
/** Entries of bosun's descriptor table (SLOTS of bosun.h). */
export const SLOTS = 4096;

export type FieldType = "u32" | "u64" | "i64" | "str" | "bytes" | "strs" | "blobs" | "u32s";
export type Fields = Readonly<Record<string, FieldType>>;
export interface OrderSpec {
  /** Wire number. Never reused; a change of fields is a new PLAN_VERSION. */
  readonly code: number;
  readonly fields: Fields;
  /** What `berth plan` and error messages say; `{field}` is replaced by the value. */
  readonly words: string;
}

export const ORDERS = {
  // --- descriptors -------------------------------------------------------------------------------------------------
  /** open(2) of a host path into a slot; flags are O_* (O_CLOEXEC is always added). */
  open: { code: 1, fields: { slot: "u32", path: "str", flags: "u64" }, words: "open {path}" },
  /** fstat of a slot must show a character device major:minor, else EINVAL (CVE-2025-31133). */
  check_device: {
    code: 2,
    fields: { slot: "u32", major: "u32", minor: "u32" },
    words: "check that fd {slot} is device {major}:{minor}",
  },
  /** open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at a host path. */
  open_tree: { code: 3, fields: { slot: "u32", path: "str", recursive: "u32" }, words: "clone mount tree {path}" },
  close: { code: 4, fields: { slot: "u32" }, words: "close fd {slot}" },
  /** A new user namespace with these maps, kept alive by its descriptor alone: what an id-mapped mount maps by (mount_setattr(2)). */
  userns: {
    code: 5,
    fields: { slot: "u32", uidMap: "str", gidMap: "str" },
    words: "make a user namespace to map ids by ({uidMap})",
  },

  // --- mounts ------------------------------------------------------------------------------------------------------
  /**
   * fsopen, fsconfig per option (`key=value`, or `key` for a flag), fsmount with `attrs` (MOUNT_ATTR_*): a detached
   * mount in a slot. `source` empty: none. fdKeys[i] is set by FSCONFIG_SET_FD to slot fdSlots[i].
   */
  fs_mount: {
    code: 10,
    fields: {
      slot: "u32",
      fstype: "str",
      source: "str",
      options: "strs",
      attrs: "u64",
      fdKeys: "strs",
      fdSlots: "u32s",
    },
    words: "make {fstype} mount ({options})",
  },
  /** mount(2) in the current mount namespace by path: for kernels without what fs_mount needs, and for propagation. */
  mount: {
    code: 11,
    fields: { source: "str", target: "str", fstype: "str", flags: "u64", data: "str" },
    words: "mount {fstype} {source} at {target} ({data})",
  },
  /** mount_setattr(2) on a slot's mount; `recursive` adds AT_RECURSIVE; `usernsSlot` for MOUNT_ATTR_IDMAP. Propagation is MS_PRIVATE etc. or 0. */
  mount_attr: {
    code: 12,
    fields: { slot: "u32", set: "u64", clear: "u64", propagation: "u64", recursive: "u32", usernsSlot: "u32" },
    words: "set mount attributes of fd {slot} (+{set} -{clear} propagation {propagation})",
  },
  /**
   * move_mount(2) of a slot's detached mount onto `target`, resolved inside the directory in slot `root` (openat2
   * RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS, EAGAIN retried); missing components are made one by one without following
   * links (CVE-2021-30465, CVE-2024-45310). `create`: 0 no, 1 directory, 2 file, 3 as the mount's own root is.
   * `strict` is a set of bits. 1: the resolved path must be `target` itself with no symlink anywhere (destinations /proc
   * and /sys, CVE-2019-19921, CVE-2023-27561). 2: the target may be on a procfs; without it one that is, is refused (EPERM),
   * because an image's symlink could have led there (CVE-2019-16884).
   */
  move_mount: {
    code: 13,
    fields: { slot: "u32", root: "u32", target: "str", create: "u32", strict: "u32" },
    words: "attach fd {slot} at {target}",
  },
  /** move_mount(2) to an absolute host path as it stands (no root confinement): host-side mounts only. */
  attach_host: { code: 14, fields: { slot: "u32", target: "str" }, words: "attach fd {slot} at host {target}" },
  /** umount2(2) of an absolute host path; flags MNT_DETACH etc. EINVAL and ENOENT are success (idempotent). */
  unmount: { code: 15, fields: { path: "str", flags: "u64" }, words: "unmount {path}" },
  /** setns into bosun serve's near-empty mount namespace (a read-only tmpfs with one directory, /rootfs). */
  enter_empty_mounts: { code: 16, fields: {}, words: "enter the near-empty mount namespace" },
  /** The slot's detached rootfs is attached at `at`, then re-opened (O_PATH) into slot `root`. */
  attach_root: { code: 17, fields: { slot: "u32", at: "str", root: "u32" }, words: "attach the rootfs at {at}" },
  /** fchdir to the slot, pivot_root(".", "."), detach the old root, chdir "/". */
  pivot: { code: 18, fields: { root: "u32" }, words: "pivot_root into the rootfs" },
  /** Bind of the verified null device (slot) over a file, or of the slot's empty read-only tmpfs over a directory; absent path: nothing. */
  mask: { code: 19, fields: { root: "u32", path: "str", nullSlot: "u32", dirSlot: "u32" }, words: "mask {path}" },
  /** Recursive bind of the path on itself, read-only, keeping its locked flags; absent path: nothing. */
  readonly: { code: 20, fields: { root: "u32", path: "str" }, words: "make {path} read-only" },
  /**
   * Copies what is at `path` in the root into the slot's (detached, fresh) file system: files, directories, links, nodes, with
   * owner, mode, times and xattrs; nothing is followed, no mount is crossed. An absent path or one that is no directory: nothing.
   */
  copy_up: { code: 21, fields: { slot: "u32", root: "u32", path: "str" }, words: "copy {path} up into fd {slot}" },
  /**
   * Instead of `pivot`, where the root cannot be pivoted (an initramfs): what else is mounted of proc and sysfs is unmounted or
   * covered, then the rootfs is moved over "/" and chrooted into.
   */
  move_root: { code: 22, fields: { root: "u32" }, words: "move the rootfs over / and chroot into it" },
  /** As open_tree, of a path inside the root: what an earlier mount of the same container has brought there. */
  clone_in: {
    code: 23,
    fields: { slot: "u32", root: "u32", path: "str", recursive: "u32" },
    words: "clone mount tree {path} of the container",
  },
  /** As fs_mount of a tmpfs; its root gets the mode of the directory at `path` in the root, where there is one. */
  tmpfs_like: {
    code: 24,
    fields: { slot: "u32", source: "str", options: "strs", attrs: "u64", root: "u32", path: "str" },
    words: "make tmpfs mount ({options}) with the mode of {path}",
  },
  /**
   * As mount_attr, for a user namespace: what the mount has of ro, nosuid, nodev, noexec and its access-time setting stays. EPERM where
   * one of these is in `refuse`, or `set` has another access-time setting: that was asked for by name.
   */
  mount_attr_locked: {
    code: 26,
    fields: { slot: "u32", set: "u64", clear: "u64", refuse: "u64" },
    words: "set mount attributes of fd {slot} (+{set} -{clear}), but for those that are locked",
  },
  /** mount_setattr(2) with MOUNT_ATTR_IDMAP by the process set aside: in a user namespace the file system's owner alone may do it. */
  idmap_aside: {
    code: 25,
    fields: { slot: "u32", usernsSlot: "u32", recursive: "u32" },
    words: "map the owners of fd {slot} from the runtime's namespaces",
  },

  // --- files inside the rootfs (all resolved in slot `root`) ---------------------------------------------------------
  mkdev: {
    code: 30,
    fields: { root: "u32", path: "str", mode: "u32", major: "u32", minor: "u32", uid: "u32", gid: "u32" },
    words: "make device {path} {major}:{minor}",
  },
  /** symlinkat; an existing entry of the same name is kept. */
  symlink: { code: 31, fields: { root: "u32", path: "str", target: "str" }, words: "symlink {path} -> {target}" },
  /** Directory and its missing parents, component by component. */
  mkdir_in: {
    code: 32,
    fields: { root: "u32", path: "str", mode: "u32", uid: "u32", gid: "u32" },
    words: "make directory {path}",
  },
  /** Reads a regular file inside the root, at most `max` bytes, as this order's output; absent: empty output with `missing` set. */
  read_in: { code: 33, fields: { root: "u32", path: "str", max: "u32" }, words: "read {path} in the rootfs" },

  // --- host files ----------------------------------------------------------------------------------------------------
  /** mkdir(2); EEXIST is success when `existOk`. Parents are made when `parents`. */
  mkdir: { code: 40, fields: { path: "str", mode: "u32", existOk: "u32", parents: "u32" }, words: "mkdir {path}" },
  /** One open(O_WRONLY), one write(2) of all of `data`. */
  write_file: { code: 41, fields: { path: "str", data: "bytes" }, words: "write {data} to {path}" },
  /**
   * As write_file, beneath a procfs mount's descriptor: openat2(BENEATH|NO_XDEV|NO_MAGICLINKS|NO_SYMLINKS) after checking
   * the file system's magic and that it is procfs's root inode (CVE-2025-52881, CVE-2019-16884). A leading "self/" is
   * replaced by this process's number in its own PID namespace. Used for sysctls, oom_score_adj and LSM labels.
   */
  write_proc: { code: 42, fields: { slot: "u32", path: "str", data: "bytes" }, words: "write {data} to /proc/{path}" },
  /** rm -rf by descriptor, never following links, never crossing mounts; absent: success. */
  remove_tree: { code: 43, fields: { path: "str" }, words: "remove {path}" },
  /**
   * Allocated bytes and inodes of a directory and all beneath, as this order's output (two u64): hard links once, other mounts
   * not, links not followed; what vanishes meanwhile is left out. Absent: empty output with `missing` set.
   */
  disk_usage: { code: 64, fields: { path: "str" }, words: "count what {path} takes on disk" },
  /**
   * Limits what a directory and all that is made in it take to `bytes` (whole KiB, rounded up) by a project quota (quotactl_fd(2),
   * Linux 5.14): the first project from `project` on that nothing uses, told as this order's output (u32). The directory is empty.
   * ESRCH, ENOSYS, ENOTTY or EOPNOTSUPP: the file system is mounted without prjquota, or has no projects.
   */
  project_quota: {
    code: 140,
    fields: { path: "str", project: "u32", bytes: "u64" },
    words: "limit {path} to {bytes} bytes by a project quota",
  },
  /** Takes the limit away that project_quota set, before the directory is removed. Absent, or without a project of its own: success. */
  drop_quota: { code: 141, fields: { path: "str" }, words: "drop the project quota of {path}" },
  /**
   * Mounts an EROFS image read-only by a loop device. With `root` (SHA-256 in hexadecimal) by a dm-verity device above it, whose
   * hash tree (version 1, blocks of 4096, no salt) follows the image's `blocks` blocks. The devices go with the mount.
   */
  mount_image: {
    code: 142,
    fields: { image: "str", target: "str", root: "str", blocks: "u64" },
    words: "mount image {image} at {target}",
  },
  /**
   * The fs-verity digest (SHA-256, blocks of 4096) of a file as this order's output, enabled before where `enable`; a file without:
   * empty output with `missing` set. ENOTTY or EOPNOTSUPP: the kernel or the file system has no fs-verity.
   */
  fs_verity: { code: 143, fields: { path: "str", enable: "u32" }, words: "measure fs-verity of {path}" },
  /** rmdir(2), deepest directory first where `children`; ENOENT is success. For cgroups (EBUSY while a process is inside). */
  rmdir: { code: 46, fields: { path: "str", children: "u32" }, words: "rmdir {path}" },
  /** unlink(2); ENOENT is success. */
  unlink: { code: 44, fields: { path: "str" }, words: "unlink {path}" },
  /** The cpuset seeding of v1: copies each of `files` from the parent directory when the child's is empty. */
  inherit_cpuset: { code: 45, fields: { path: "str", files: "strs" }, words: "inherit {files} in {path}" },
  /**
   * Loads a BPF_PROG_TYPE_CGROUP_DEVICE program (an array of struct bpf_insn) and attaches it to the v2 cgroup at `path`. Where
   * exactly one program is attached there already it is replaced (BPF_F_REPLACE), else it is added (BPF_F_ALLOW_MULTI). `any` 1:
   * EPERM, ENOSYS and EINVAL of the load are success (the rules forbid nothing that matters).
   */
  cgroup_devices: {
    code: 47,
    fields: { path: "str", program: "bytes", any: "u32" },
    words: "attach a device program to {path}",
  },
  /** One write(2) of all of `data` to a slot's file: by a process that its path is out of sight for. */
  write_slot: { code: 65, fields: { slot: "u32", data: "bytes" }, words: "write {data} to fd {slot}" },
  /** EBUSY where the number in the file is above `limit` already (memory.current before memory.max: the kernel would kill instead). */
  check_below: { code: 48, fields: { path: "str", limit: "u64" }, words: "check that {path} is not above {limit}" },
  /** chown(2) of files of `directory` ("" in the list: itself), never through a link; one that is not there is left out. */
  chown: {
    code: 49,
    fields: { directory: "str", files: "strs", uid: "u32", gid: "u32" },
    words: "give {directory} to {uid}:{gid}",
  },

  // --- namespaces and processes --------------------------------------------------------------------------------------
  /** unshare(2), CLONE_NEW*. */
  unshare: { code: 50, fields: { flags: "u64" }, words: "unshare namespaces {flags}" },
  /** setns(2) with a namespace descriptor or pidfd in a slot; `type` is CLONE_NEW* (several with a pidfd). */
  setns: { code: 51, fields: { slot: "u32", type: "u64" }, words: "join namespaces {type} of fd {slot}" },
  /** pidfd_open(2). */
  pidfd: { code: 52, fields: { slot: "u32", pid: "u32" }, words: "open pidfd of {pid}" },
  /** Creates `path` and bind-mounts /proc/thread-self/ns/`name` on it. */
  pin_ns: { code: 53, fields: { name: "str", path: "str" }, words: "pin the {name} namespace at {path}" },
  /** umount2(MNT_DETACH) and unlink; both idempotent. Unlinking frees copies in other mount namespaces too. */
  unpin: { code: 54, fields: { path: "str" }, words: "unpin {path}" },
  /** Writes "0" to a v1 cgroup's `tasks`: moves this single-threaded process without the thread-group lock (0.02 ms instead of an RCU grace period). */
  join_cgroup: { code: 55, fields: { path: "str" }, words: "join cgroup {path}" },
  /**
   * The process boundary. clone3 with `flags` (CLONE_NEW*), as a child of the stage's own parent (the monitor). With
   * `cgroupSlot` the child is born in that v2 cgroup (CLONE_INTO_CGROUP). uidMap/gidMap: contents of the map files,
   * written by the stage before the child goes on ("" = none); `denySetgroups` writes "deny" first.
   */
  clone: {
    code: 56,
    fields: { flags: "u64", cgroupSlot: "u32", uidMap: "str", gidMap: "str", denySetgroups: "u32" },
    words: "clone into new namespaces {flags}",
  },
  setsid: { code: 57, fields: {}, words: "setsid" },
  /** prctl(PR_SET_DUMPABLE) (CVE-2016-9962). */
  dumpable: { code: 58, fields: { value: "u32" }, words: "set dumpable {value}" },
  /** sethostname / setdomainname; empty: left alone. */
  hostname: { code: 59, fields: { hostname: "str", domainname: "str" }, words: "set hostname {hostname}" },
  /** Brings a network interface up in the current network namespace. */
  link_up: { code: 60, fields: { name: "str" }, words: "bring up {name}" },
  /** keyctl(KEYCTL_JOIN_SESSION_KEYRING), then search permission for its owner; ENOSYS, EPERM and EDQUOT are success. */
  keyring: { code: 61, fields: { name: "str" }, words: "join session keyring {name}" },
  /** EPERM where the namespace in the slot is this process's own `name` one: joining it would be staying on the host. */
  check_other_ns: {
    code: 62,
    fields: { slot: "u32", name: "str" },
    words: "check that fd {slot} is not the host's {name} namespace",
  },
  /**
   * Moves a network interface of this process's network namespace to the one in `nsSlot`, or with NO_SLOT to the one that the next
   * `clone` makes (carried out by the stage then): down, renamed to `newName`, moved, its permanent global addresses given back, up.
   */
  move_link: {
    code: 63,
    fields: { name: "str", newName: "str", nsSlot: "u32" },
    words: "move network interface {name} into the container as {newName}",
  },

  /**
   * For who is not root: unshares a user namespace and becomes its root. Its maps are written by a process that stays outside: by
   * itself (which the kernel allows for the own ids alone, `gidMap` with `denySetgroups`), or by `uidHelper` and `gidHelper` where these
   * are not "" (newuidmap(1), newgidmap(1)). Leaves this process dumpable.
   */
  enter_userns: {
    code: 66,
    fields: { uidMap: "str", gidMap: "str", denySetgroups: "u32", uidHelper: "str", gidHelper: "str" },
    words: "enter a new user namespace as its root ({uidMap})",
  },
  /**
   * Sends rtnetlink(7) messages in the present network namespace, one after the other; each is answered before the next. bosun numbers
   * them and asks for the verdict; an errno of `tolerate` is success. Output: what was heard but for verdicts, one message after the
   * other, aligned; at most 1 MiB.
   */
  netlink: {
    code: 153,
    fields: { messages: "blobs", tolerate: "u32s" },
    words: "tell the kernel's networks ({messages})",
  },

  // --- process attributes ---------------------------------------------------------------------------------------------
  /** prlimit(2) on self; RLIMIT_* number, RLIM_INFINITY = 2^64-1. */
  rlimit: {
    code: 70,
    fields: { resource: "u32", soft: "u64", hard: "u64" },
    words: "set rlimit {resource} to {soft}:{hard}",
  },
  umask: { code: 71, fields: { mask: "u32" }, words: "set umask {mask}" },
  /** chdir(2), then getcwd must start with "/" (CVE-2024-21626). `tolerate` 1: EACCES and ENOENT are left for a second chdir after the uid change. */
  chdir: { code: 72, fields: { path: "str", tolerate: "u32" }, words: "chdir {path}" },
  /** PR_CAPBSET_DROP of every capability not in the mask (bit n = capability n). */
  bounding: { code: 73, fields: { mask: "u64" }, words: "limit the bounding set to {mask}" },
  /** PR_SET_KEEPCAPS, setgroups (unless `keepGroups`), setresgid, setresuid; also fchowns fds 0-2 that are pipes or ttys when `chownStdio`. */
  user: {
    code: 74,
    fields: { uid: "u32", gid: "u32", groups: "u32s", keepGroups: "u32", chownStdio: "u32" },
    words: "become {uid}:{gid} (groups {groups})",
  },
  /** capset(2) and the ambient set. */
  caps: {
    code: 75,
    fields: { effective: "u64", permitted: "u64", inheritable: "u64", ambient: "u64" },
    words: "set capabilities effective {effective} permitted {permitted} inheritable {inheritable} ambient {ambient}",
  },
  no_new_privs: { code: 76, fields: {}, words: "set no_new_privs" },
  /** seccomp(SECCOMP_SET_MODE_FILTER): an array of struct sock_filter; flags SECCOMP_FILTER_FLAG_*. */
  seccomp: { code: 77, fields: { flags: "u64", filter: "bytes" }, words: "load the seccomp filter" },
  personality: { code: 79, fields: { value: "u64" }, words: "set personality {value}" },
  scheduler: {
    code: 80,
    fields: {
      policy: "u32",
      flags: "u64",
      nice: "i64",
      priority: "u32",
      runtime: "u64",
      deadline: "u64",
      period: "u64",
    },
    words: "set scheduler {policy}",
  },
  ioprio: { code: 81, fields: { value: "u32" }, words: "set I/O priority {value}" },
  /** set_mempolicy(2): MPOL_* with its flags, and a node mask in little-endian 64-bit words. */
  mempolicy: {
    code: 82,
    fields: { mode: "u32", nodes: "bytes" },
    words: "set memory policy {mode} on nodes {nodes}",
  },
  /** sched_setaffinity(2) with a mask in little-endian 64-bit words; empty: every CPU that the cgroup allows. */
  affinity: { code: 83, fields: { mask: "bytes" }, words: "run on CPUs {mask}" },
  /** Looks `uid` up in /etc/passwd of the root; `exec` then gives HOME, "/" where it is not there. */
  home: { code: 84, fields: { root: "u32", uid: "u32" }, words: "look up the home of {uid}" },

  // --- stdio, and the end of a plan ------------------------------------------------------------------------------------
  /**
   * Only where the monitor was asked for a terminal: opens pts/ptmx inside `root` (devpts, inode 2, 5:2), takes the slave
   * by TIOCGPTPEER, sends the master to the monitor, binds the slave on /dev/console when `bindConsole` (created
   * O_NOFOLLOW, CVE-2025-52565), makes it fds 0-2 and the controlling terminal.
   */
  console: {
    code: 90,
    fields: { root: "u32", rows: "u32", columns: "u32", bindConsole: "u32" },
    words: "open the terminal",
  },
  /** Tells the monitor that all is set up, and waits until it is released (StartContainer). */
  park: { code: 91, fields: {}, words: "wait to be started" },
  /** Closes every fd from 3 on but `keep` preserved ones, resolves argv[0] in PATH of `env`, execve. */
  exec: { code: 92, fields: { argv: "strs", env: "strs", keep: "u32" }, words: "exec {argv}" },
  /**
   * Before `clone`, under a monitor that is a subreaper: runs another OCI runtime's command to its end, with the session's stdio where
   * `stdio` is set. pidFile: holds, when it has ended, the number of the process it left behind, which is the monitor's child from
   * then on; "": it leaves none. consoleSocket: where it sends the terminal that it makes; "": none.
   */
  runtime: {
    code: 120,
    fields: { argv: "strs", env: "strs", stdio: "u32", pidFile: "str", consoleSocket: "str" },
    words: "run {argv}",
  },
  /**
   * After `clone`: becomes the stand-in for a process of a shim's (shim v2) and exits with its code, or 137 when the shim goes. socket:
   * a path, or "@name". The frames are ttRPC requests without their stream's number: `start` is answered before anything else, and what
   * the shim refuses is the order's failure; then `wait`; `kill` ends with 5 bytes for the signal (a padded varint), `resize` with 5 for
   * the columns, a key's byte and 5 for the rows. stdinSlot: the FIFO that is written to, and `closeInput` is sent at the end of the
   * input; stdoutSlot, stderrSlot: FIFOs that are read; NO_SLOT: none. terminal: `console` came before it; it is made raw.
   */
  shim_process: {
    code: 122,
    fields: {
      socket: "str",
      start: "bytes",
      wait: "bytes",
      kill: "bytes",
      closeInput: "bytes",
      resize: "bytes",
      stdinSlot: "u32",
      stdoutSlot: "u32",
      stderrSlot: "u32",
      terminal: "u32",
    },
    words: "stand for the process of the shim at {socket}",
  },
  /** Sends a datagram to a unix socket (a path, or "@name"), and waits until it has been read: sd_notify(3), sd_notify_barrier(3). */
  notify: { code: 121, fields: { socket: "str", text: "str" }, words: "notify {socket}" },
  /** Becomes a reaping PID 1 (the pod's, where a pod shares its PID namespace): reaps until SIGTERM or SIGINT, then exits 0. */
  reap: { code: 93, fields: {}, words: "reap as PID 1" },
  /**
   * Forks a process that stays behind in the stage's present namespaces and cgroups, for the orders that the container's process
   * cannot carry out itself (runtime_hook, seccomp_listener). It ends with that process, or with its exec.
   */
  aside: { code: 94, fields: {}, words: "keep a hand in the runtime's namespaces" },
  /**
   * Runs a program there, feeds it `state` with the container's process id (as that namespace counts) between its parts, and waits.
   * A status other than 0, or `timeoutMs` (0: none) gone by, is a failure. `inheritEnv` 1: the environment is bosun's own; 2: `env`, and
   * HOME as `exec` would give it.
   */
  runtime_hook: {
    code: 95,
    fields: { path: "str", argv: "strs", env: "strs", inheritEnv: "u32", timeoutMs: "u32", state: "strs" },
    words: "run hook {argv} in the runtime's namespaces",
  },
  /** The same by the container's process, in its namespaces. */
  hook: {
    code: 96,
    fields: { path: "str", argv: "strs", env: "strs", inheritEnv: "u32", timeoutMs: "u32", state: "strs" },
    words: "run hook {argv}",
  },
  /**
   * The next `seccomp` gets SECCOMP_FILTER_FLAG_NEW_LISTENER; the process set aside takes its descriptor (pidfd_getfd(2)) and sends
   * it to the unix stream socket `path` with `state`, the container's process id between its parts. The filter must let write(2),
   * read(2) and exit(2) pass until then.
   */
  seccomp_listener: {
    code: 97,
    fields: { path: "str", state: "strs" },
    words: "send the seccomp listener to {path}",
  },
  /** mkfifo(3) of a host path, owned by uid:gid. */
  make_fifo: { code: 112, fields: { path: "str", mode: "u32", uid: "u32", gid: "u32" }, words: "make FIFO {path}" },
  /** Fails as `exec` of this name would for want of a program, so that creating a container fails and not its start. */
  check_program: { code: 110, fields: { name: "str", env: "strs" }, words: "look for program {name}" },
  /**
   * Lets go of whoever carries out the plan, and waits until somebody opens the FIFO `name` of the directory in the slot for
   * reading; writes "0" to it. What fails after it is said on standard error.
   */
  wait_fifo: { code: 111, fields: { slot: "u32", name: "str" }, words: "wait to be started at {name}" },
  /** Descriptors 0-2 that are the host's /dev/null become the container's, so that nothing leads out of its mounts. After `pivot`. */
  reopen_null: { code: 113, fields: {}, words: "reopen /dev/null" },

  // --- CRIU (criu.org) -------------------------------------------------------------------------------------------------
  /**
   * Starts `argv` with the number of a socket behind it and speaks CRIU's RPC there: `request` is an encoded criu_req. The paths of
   * `open` are descriptors 100, 101 … of both processes, by which the request names them. stdio 1: CRIU has the container's, or bosun's
   * own where there is none, else /dev/null. It ends with CRIU's last answer, or at the notification `until` ("": none), which criu_go_on answers.
   * A process that it restores is a child of the stage and then of who is the subreaper above, which is told its number, and given
   * its terminal. `status`: a NUL is written to this file at "status-ready". Past `timeoutMs` (0: none) the next notification is
   * refused: CRIU then undoes what it has done.
   */
  criu: {
    code: 130,
    fields: {
      argv: "strs",
      env: "strs",
      request: "bytes",
      open: "strs",
      stdio: "u32",
      until: "str",
      status: "str",
      timeoutMs: "u32",
    },
    words: "have {argv} work on {open} until {until}",
  },
  /** Answers the notification that `criu` was stopped at. */
  criu_go_on: { code: 131, fields: { until: "str" }, words: "let criu go on until {until}" },

  // --- virtual machines ----------------------------------------------------------------------------------------------------
  ...MACHINE_ORDERS,
} as const satisfies Record<string, OrderSpec>;

export type OrderName = keyof typeof ORDERS;
