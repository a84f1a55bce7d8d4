/** What plugins want updated of other containers, or of one that is being updated: collected in their order, each field of one plugin's. */
import { clone, create } from "@bufbuild/protobuf";
import {
  type ContainerUpdate,
  ContainerUpdateSchema,
  type LinuxResources,
  LinuxResourcesSchema,
} from "@berth/spec/nri";
import type { Owners } from "./owners.ts";
import { mergeResources } from "./resources.ts";

export class Updates {
  readonly #owners: Owners;
  readonly #updates = new Map<string, ContainerUpdate>();
  /** Of the container whose update is being asked about. */
  #own: { readonly id: string; resources: LinuxResources } | undefined;

  constructor(owners: Owners, own?: { readonly id: string; readonly resources: LinuxResources }) {
    this.#owners = owners;
    this.#own = own;
  }

  /** Throws Conflict, unless the plugin has said that the update may fail: then nothing is taken of it. */
  add(plugin: string, updates: readonly ContainerUpdate[]): void {
    for (const wanted of updates) {
      const update = this.#updateOf(wanted);
      if (!wanted.linux?.resources) continue;
      const own = this.#own?.id === wanted.containerId ? this.#own : undefined;
      // A copy: of one that fails nothing is kept.
      const resources = clone(LinuxResourcesSchema, own?.resources ?? resourcesOf(update));
      try {
        mergeResources(this.#owners, wanted.containerId, plugin, wanted.linux.resources, [resources]);
      } catch (error) {
        if (!wanted.ignoreFailure) throw error;
        continue;
      }
      update.linux = { ...update.linux, resources } as ContainerUpdate["linux"];
      if (own) own.resources = resources;
    }
  }

  /** All but the container's own. */
  get others(): ContainerUpdate[] {
    return [...this.#updates.values()].filter(({ containerId }) => containerId !== this.#own?.id);
  }

  /** What becomes of the container's own update; undefined: nobody wants it changed. */
  get own(): LinuxResources | undefined {
    return this.#own && this.#updates.get(this.#own.id)?.linux?.resources;
  }

  #updateOf({ containerId, ignoreFailure }: ContainerUpdate): ContainerUpdate {
    const before = this.#updates.get(containerId);
    if (before) {
      before.ignoreFailure &&= ignoreFailure;
      return before;
    }
    const update = create(ContainerUpdateSchema, { containerId, ignoreFailure, linux: { resources: {} } });
    this.#updates.set(containerId, update);
    return update;
  }
}

const resourcesOf = (update: ContainerUpdate): LinuxResources =>
  update.linux?.resources ?? create(LinuxResourcesSchema);
