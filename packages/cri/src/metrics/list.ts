/** ListPodSandboxMetrics: every pod that is ready, with its running containers. */
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { cgroupOf } from "../cgroups.ts";
import { now } from "../clock.ts";
import type { CriContext } from "../context.ts";
import { interfacesOf } from "../sandbox/stats.ts";
import { containersOf } from "../sandbox/stop.ts";
import type { Container, Sandbox } from "../store/records.ts";
import { containerMetrics } from "./container.ts";
import { MetricList } from "./descriptors.ts";

export async function podSandboxMetrics(context: CriContext): Promise<cri.PodSandboxMetrics[]> {
  const ready = context.sandboxes.values().filter(({ record }) => record.phase === "ready");
  return await Promise.all(ready.map((sandbox) => metricsOf(context, sandbox)));
}

async function metricsOf(context: CriContext, sandbox: Sandbox): Promise<cri.PodSandboxMetrics> {
  const containers = containersOf(context, sandbox.record.id);
  const [own, ofContainers] = await Promise.all([
    podMetrics(context, sandbox, containers),
    Promise.all(
      containers.map(async (container) => {
        const metrics = await containerMetrics(context, sandbox, container);
        return metrics && { containerId: container.record.id, metrics };
      }),
    ),
  ]);
  return create(cri.PodSandboxMetricsSchema, {
    podSandboxId: sandbox.record.id,
    metrics: own,
    containerMetrics: ofContainers.filter((metrics) => metrics !== undefined),
  });
}

/** As cAdvisor reports a pod's network: with the pod's name, and no container's. */
async function podMetrics(
  context: CriContext,
  sandbox: Sandbox,
  containers: readonly Container[],
): Promise<cri.Metric[]> {
  const { id, config } = sandbox.record;
  const interfaces = (await interfacesOf(context, sandbox, containers)) ?? [];
  const labels = {
    container: "",
    id: cgroupOf(context, sandbox.record, id).cgroupPath,
    image: "",
    name: id,
    namespace: config.metadata?.namespace ?? "",
    pod: config.metadata?.name ?? "",
  };
  const list = new MetricList(labels, now());
  for (const one of interfaces) {
    list.add("container_network_receive_bytes_total", one.rxBytes, one.name);
    list.add("container_network_receive_packets_total", one.rxPackets, one.name);
    list.add("container_network_receive_packets_dropped_total", one.rxDropped, one.name);
    list.add("container_network_receive_errors_total", one.rxErrors, one.name);
    list.add("container_network_transmit_bytes_total", one.txBytes, one.name);
    list.add("container_network_transmit_packets_total", one.txPackets, one.name);
    list.add("container_network_transmit_packets_dropped_total", one.txDropped, one.name);
    list.add("container_network_transmit_errors_total", one.txErrors, one.name);
  }
  return list.metrics;
}
