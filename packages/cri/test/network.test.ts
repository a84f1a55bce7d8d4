import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { cri } from "@berth/spec";
import { CriError } from "../src/errors.ts";
import { capabilitiesOf } from "../src/sandbox/network.ts";

const capabilities = (config: Parameters<typeof create<typeof cri.PodSandboxConfigSchema>>[1]) =>
  capabilitiesOf(create(cri.PodSandboxConfigSchema, config));
const bandwidth = (ingress: string): unknown =>
  capabilities({ annotations: { "kubernetes.io/ingress-bandwidth": ingress } }).bandwidth?.ingressRate;

test("what CNI plugins are told of a pod: what containerd tells them", () => {
  const annotations = { "kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Gi", other: "x" };
  assert.deepEqual(
    capabilities({
      annotations,
      portMappings: [
        { containerPort: 80, hostPort: 8080, hostIp: "10.0.0.1" },
        { containerPort: 53, hostPort: 53, protocol: cri.Protocol.UDP },
        { containerPort: 81 },
      ],
      dnsConfig: { servers: ["10.0.0.10"], searches: ["svc.example"], options: ["ndots:5"] },
      linux: { cgroupParent: "/kubepods/pod1" },
    }),
    {
      portMappings: [
        { hostPort: 8080, containerPort: 80, protocol: "tcp", hostIP: "10.0.0.1" },
        { hostPort: 53, containerPort: 53, protocol: "udp" },
      ],
      bandwidth: {
        ingressRate: 10_000_000,
        ingressBurst: 4_294_967_295,
        egressRate: 1_073_741_824,
        egressBurst: 4_294_967_295,
      },
      dns: { servers: ["10.0.0.10"], searches: ["svc.example"], options: ["ndots:5"] },
      cgroupPath: "/kubepods/pod1",
      "io.kubernetes.cri.pod-annotations": annotations,
    },
  );
  assert.deepEqual(capabilities({}), { portMappings: [] });
});

test("bandwidths are Kubernetes' quantities", () => {
  const rates = {
    "1k": 1000,
    "1500": 1500,
    "1.5M": 1_500_000,
    "2e6": 2_000_000,
    "1Ki": 1024,
    "1000500m": 1001,
    "+5k": 5000,
  };
  for (const [text, rate] of Object.entries(rates)) assert.equal(bandwidth(text), rate, text);
  for (const text of ["", "ten", "10Mbit", "10 M", "1e", "0x10", "$(reboot)", "1k;1k"])
    assert.throws(
      () => bandwidth(text),
      { name: CriError.name, message: /ingress-bandwidth"\]: .* is not a quantity/ },
      text,
    );
  for (const text of ["0", "-5M", "999", "2P", "1e99"])
    assert.throws(() => bandwidth(text), /is not within 1k and 1P/, text);
});
