/** The commands, by group: what `berth --help` prints, without loading any of them. */
import type { Command } from "commander";
import type { Session } from "./session.ts";

export interface VerbModule {
  /** Adds arguments, options, help and action to a command that has its name and summary. */
  define(command: Command, session: Session): void | Promise<void>;
}

export interface Verb {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly group: string;
  readonly summary: string;
  readonly load: () => Promise<VerbModule>;
}

const RUN = "Run containers:";
const LOOK = "Look at them:";
const END = "Stop and remove:";
const IMAGES = "Images:";
export const BERTH = "berth itself:";

export const VERBS: readonly Verb[] = [
  {
    name: "run",
    group: RUN,
    summary: "make a container from an image and run it",
    load: () => import("./commands/run.ts"),
  },
  {
    name: "exec",
    group: RUN,
    summary: "run one more command in a running container",
    load: () => import("./commands/exec.ts"),
  },
  {
    name: "attach",
    group: RUN,
    summary: "join this terminal to a running container",
    load: () => import("./commands/attach.ts"),
  },
  {
    name: "create",
    group: RUN,
    summary: "make a container without starting it",
    load: () => import("./commands/create.ts"),
  },
  { name: "start", group: RUN, summary: "start containers made by create", load: () => import("./commands/start.ts") },
  {
    name: "wait",
    group: RUN,
    summary: "wait until containers end, and print their exit codes",
    load: () => import("./commands/wait.ts"),
  },

  {
    name: "checkpoint",
    group: RUN,
    summary: "manage checkpoints, which containers go on from",
    load: () => import("./commands/checkpoint.ts"),
  },

  { name: "ps", group: LOOK, summary: "list containers", load: () => import("./commands/ps.ts") },
  {
    name: "logs",
    group: LOOK,
    summary: "print what a container has written",
    load: () => import("./commands/logs.ts"),
  },
  {
    name: "stats",
    group: LOOK,
    summary: "show how much CPU and memory containers use",
    load: () => import("./commands/stats.ts"),
  },
  {
    name: "inspect",
    group: LOOK,
    summary: "print all about containers, pods or images, as JSON",
    load: () => import("./commands/inspect.ts"),
  },
  {
    name: "plan",
    group: LOOK,
    summary: "show every step that makes a container, in words",
    load: () => import("./commands/plan.ts"),
  },
  {
    name: "top",
    group: LOOK,
    summary: "list a container's processes",
    load: () => import("./commands/top.ts"),
  },
  {
    name: "trace",
    group: LOOK,
    summary: "show what a pod's start spent its time on",
    load: () => import("./commands/trace.ts"),
  },
  {
    name: "events",
    group: LOOK,
    summary: "print what happens to containers as it happens",
    load: () => import("./commands/events.ts"),
  },
  { name: "pods", group: LOOK, summary: "list pods", load: () => import("./commands/pods.ts") },

  {
    name: "stop",
    group: END,
    summary: "ask containers to end, and end them after a while",
    load: () => import("./commands/stop.ts"),
  },
  { name: "kill", group: END, summary: "end containers at once", load: () => import("./commands/kill.ts") },
  { name: "rm", group: END, summary: "remove containers", load: () => import("./commands/rm.ts") },
  { name: "pod", group: END, summary: "stop or remove pods", load: () => import("./commands/pod.ts") },
  {
    name: "system",
    group: END,
    summary: "disk usage, verification, removal",
    load: () => import("./commands/system.ts"),
  },

  { name: "images", group: IMAGES, summary: "list images", load: () => import("./commands/images.ts") },
  {
    name: "pull",
    group: IMAGES,
    summary: "download an image from a registry",
    load: () => import("./commands/pull.ts"),
  },
  { name: "push", group: IMAGES, summary: "upload an image to a registry", load: () => import("./commands/push.ts") },
  { name: "tag", group: IMAGES, summary: "give an image another name", load: () => import("./commands/tag.ts") },
  {
    name: "image",
    group: IMAGES,
    summary: "manage images, here and in registries",
    load: () => import("./commands/image.ts"),
  },
  { name: "login", group: IMAGES, summary: "log in to a registry", load: () => import("./commands/login.ts") },
  { name: "logout", group: IMAGES, summary: "forget a login", load: () => import("./commands/logout.ts") },
  { name: "load", group: IMAGES, summary: "import images from an archive", load: () => import("./commands/load.ts") },
  { name: "save", group: IMAGES, summary: "write images to an archive", load: () => import("./commands/save.ts") },
  { name: "rmi", group: IMAGES, summary: "remove images", load: () => import("./commands/rmi.ts") },

  {
    name: "info",
    group: BERTH,
    summary: "show what berthd runs on and whether it is well",
    load: () => import("./commands/info.ts"),
  },
  {
    name: "doctor",
    group: BERTH,
    summary: "look for what this node lacks, and say what mends it",
    load: () => import("./commands/doctor.ts"),
  },
  {
    name: "version",
    group: BERTH,
    summary: "show the versions of berth and berthd",
    load: () => import("./commands/version.ts"),
  },
  {
    name: "crictl",
    group: BERTH,
    summary: "the commands of Kubernetes' crictl",
    load: () => import("./commands/crictl.ts"),
  },
];
