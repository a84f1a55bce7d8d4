/** Labels as a NodeFeature object (nfd.k8s-sigs.io/v1alpha1), of which node-feature-discovery makes labels of the node. */
import { isDeepStrictEqual } from "node:util";
import { type KubeAccess, type KubeAnswer, request } from "./kube.ts";
import type { Labels } from "./resource.ts";

export interface NodeFeatureOptions {
  readonly access: KubeAccess;
  readonly node: string;
  readonly namespace: string;
  /** This process's pod, whose object the labels then are; undefined: they are nobody's. */
  readonly pod: string | undefined;
  readonly warn: (text: string) => void;
}

interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
}
interface Metadata {
  readonly labels?: Labels;
  readonly ownerReferences?: readonly OwnerReference[];
  readonly uid?: string;
}
interface NodeFeature {
  readonly metadata: Metadata;
  readonly spec: { readonly features: object; readonly labels: Labels };
}

const GROUP = "/apis/nfd.k8s-sigs.io/v1alpha1";
const NODE_LABEL = "nfd.node.kubernetes.io/node-name";
const NO_FEATURES = { flags: {}, attributes: {}, instances: {} };

export class NodeFeatureOutput {
  readonly #options: NodeFeatureOptions;
  #owners: readonly OwnerReference[] | undefined;

  constructor(options: NodeFeatureOptions) {
    this.#options = options;
  }

  /** Resolves when the object says so. Rejects where the API server refuses. */
  async write(labels: Labels): Promise<void> {
    const { access, node, namespace } = this.#options;
    const name = `nvidia-features-for-${node}`;
    const all = `${GROUP}/namespaces/${namespace}/nodefeatures`;
    const own: NodeFeature = {
      metadata: { labels: { [NODE_LABEL]: node }, ownerReferences: await this.#ownersOnce() },
      spec: { features: NO_FEATURES, labels },
    };
    const head = { apiVersion: "nfd.k8s-sigs.io/v1alpha1", kind: "NodeFeature" };
    const found = await request(access, "GET", `${all}/${name}`);
    if (found.status === 404) {
      const metadata = { name, namespace, ...own.metadata };
      return expectDone(
        await request(access, "POST", all, { ...head, ...own, metadata }),
        `create NodeFeature ${name}`,
      );
    }
    expectDone(found, `get NodeFeature ${name}`);
    const before = found.body as NodeFeature;
    if (isSame(before, own)) return;
    // What else the server keeps of it, its version among them, goes back as it came.
    const metadata = { ...before.metadata, ...own.metadata };
    const changed = { ...before, spec: own.spec, metadata };
    expectDone(await request(access, "PUT", `${all}/${name}`, changed), `update NodeFeature ${name}`);
  }

  async #ownersOnce(): Promise<readonly OwnerReference[]> {
    try {
      this.#owners ??= await this.#resolveOwners();
    } catch (error) {
      this.#options.warn(`failed to resolve owner references: ${(error as Error).message}`);
      this.#owners = [];
    }
    return this.#owners;
  }

  /** The DaemonSet of this pod, and the pod: with them the object goes. */
  async #resolveOwners(): Promise<OwnerReference[]> {
    const { access, namespace, pod } = this.#options;
    if (pod === undefined || pod === "") return [];
    const answer = await request(access, "GET", `/api/v1/namespaces/${namespace}/pods/${pod}`);
    expectDone(answer, `get pod ${namespace}/${pod}`);
    const { metadata } = answer.body as { readonly metadata: Metadata };
    const set = metadata.ownerReferences?.find(({ kind }) => kind === "DaemonSet");
    if (set === undefined) return [];
    const { apiVersion, kind, name, uid } = set;
    return [
      { apiVersion, kind, name, uid, controller: true },
      { apiVersion: "v1", kind: "Pod", name: pod, uid: metadata.uid ?? "" },
    ];
  }
}

function isSame({ metadata, spec }: NodeFeature, own: NodeFeature): boolean {
  return (
    isDeepStrictEqual(metadata.labels, own.metadata.labels) &&
    isDeepStrictEqual(metadata.ownerReferences ?? [], own.metadata.ownerReferences) &&
    isDeepStrictEqual(spec.labels, own.spec.labels) &&
    isDeepStrictEqual(spec.features, own.spec.features)
  );
}

function expectDone({ status, body }: KubeAnswer, what: string): void {
  if (status >= 200 && status < 300) return;
  const message = (body as { readonly message?: string } | undefined)?.message;
  throw new Error(`failed to ${what}: ${message ?? "no reason given"} (${status})`);
}
