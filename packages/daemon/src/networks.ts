/** The networks of handlers that have a conf directory of their own, opened when the first pod needs them. */
import type { RuntimeHandler } from "@berth/cri";
import { Cni, type CniOptions } from "@berth/network";

export interface Networks extends Disposable {
  /** Of a handler's pods: the node's own, unless it names another directory. */
  of(handler: Pick<RuntimeHandler, "cniConfDir" | "cniMaxConfNum">): Promise<Cni>;
}

/** `common`: what all have but conf directory and number; results are kept in one place, so that any of them can undo an ADD. */
export function networks(standard: Cni, common: CniOptions, defaultMax: number): Networks {
  const opened = new Map<string, Promise<Cni>>();
  return {
    async of({ cniConfDir, cniMaxConfNum }) {
      if (cniConfDir === undefined) return standard;
      // 0 in a handler's table is "as the node has it" in containerd's default file.
      const maxNetworks = cniMaxConfNum || defaultMax;
      const key = `${maxNetworks} ${cniConfDir}`;
      const found = opened.get(key) ?? Cni.open({ ...common, confDir: cniConfDir, maxNetworks });
      opened.set(key, found);
      return await found;
    },
    [Symbol.dispose]: () => {
      for (const cni of opened.values()) void cni.then((open) => open.close());
    },
  };
}
