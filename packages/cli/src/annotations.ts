/** What `berth run` writes on the pods and containers it makes, for what the CRI has no field. Their names are stable. */

/** Label, on pod and container: the name that `--name` gave. Only what `berth run` made has it. */
export const NAME_LABEL = "dev.berth.name";

export const ANNOTATION = {
  /** JSON list: the command line, with the image's entry point. */
  command: "dev.berth.command",
  /** JSON list of published ports, as in "0.0.0.0:8080->80/tcp". */
  ports: "dev.berth.ports",
  /** "true" or "false". */
  tty: "dev.berth.tty",
  stdin: "dev.berth.stdin",
  /** On the pod: berthd removes it when its container has ended. */
  autoRemove: "dev.berth.auto-remove",
  /** On the container: bytes that its writable layer may take. */
  storageSize: "dev.berth.storage-opt.size",
} as const;

type Annotations = Readonly<Record<string, string>>;

/** A list that `berth run` recorded; empty where another client made the container. */
export function recordedList(annotations: Annotations, key: string): readonly string[] {
  const text = annotations[key];
  if (text === undefined) return [];
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
  } catch (error) {
    // Anybody may write any annotation; one that is not berth's is nothing to fail over.
    if (error instanceof SyntaxError) return [];
    throw error;
  }
}
