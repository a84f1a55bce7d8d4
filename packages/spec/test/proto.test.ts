/** The CRI as it goes over the wire: the set of calls, and what would break a kubelet without a compile error. */
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { cri } from "../src/index.ts";

const RUNTIME_CALLS = [
  "Version",
  "RunPodSandbox",
  "StopPodSandbox",
  "RemovePodSandbox",
  "PodSandboxStatus",
  "ListPodSandbox",
  "StreamPodSandboxes",
  "CreateContainer",
  "StartContainer",
  "StopContainer",
  "RemoveContainer",
  "ListContainers",
  "StreamContainers",
  "ContainerStatus",
  "UpdateContainerResources",
  "ReopenContainerLog",
  "ExecSync",
  "Exec",
  "Attach",
  "PortForward",
  "ContainerStats",
  "ListContainerStats",
  "StreamContainerStats",
  "PodSandboxStats",
  "ListPodSandboxStats",
  "StreamPodSandboxStats",
  "UpdateRuntimeConfig",
  "Status",
  "CheckpointContainer",
  "GetContainerEvents",
  "ListMetricDescriptors",
  "ListPodSandboxMetrics",
  "StreamPodSandboxMetrics",
  "RuntimeConfig",
  "UpdatePodSandboxResources",
];
const IMAGE_CALLS = ["ListImages", "StreamImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"];

suite("the CRI's protobuf", () => {
  test("has the 41 calls of Kubernetes 1.36, in package runtime.v1", () => {
    const calls = [cri.RuntimeService, cri.ImageService].map((service) => service.methods.map((method) => method.name));
    assert.deepEqual(calls, [RUNTIME_CALLS, IMAGE_CALLS]);
    assert.equal(calls.flat().length, 41);
    assert.deepEqual(
      [cri.RuntimeService.typeName, cri.ImageService.typeName],
      ["runtime.v1.RuntimeService", "runtime.v1.ImageService"],
    );
  });

  test("streams the answers of GetContainerEvents and of the Stream calls, and of nothing else", () => {
    const methods = [...cri.RuntimeService.methods, ...cri.ImageService.methods];
    const streaming = methods.filter((method) => method.methodKind === "server_streaming").map((method) => method.name);
    assert.deepEqual(
      streaming,
      methods.map((method) => method.name).filter((name) => name.startsWith("Stream") || name === "GetContainerEvents"),
    );
    assert(methods.every((method) => method.methodKind === "unary" || method.methodKind === "server_streaming"));
  });

  test("keeps the field numbers that do not follow their order", () => {
    const number = (message: { fields: readonly { name: string; number: number }[] }, field: string) =>
      message.fields.find(({ name }) => name === field)?.number;
    assert.equal(number(cri.ImageSpecSchema, "user_specified_image"), 18);
    assert.equal(number(cri.ImageSpecSchema, "runtime_handler"), 19);
    assert.equal(number(cri.NamespaceSchema, "options"), 2);
    assert.equal(number(cri.LinuxSandboxSecurityContextSchema, "supplemental_groups_policy"), 11);
    assert.equal(number(cri.LinuxContainerSecurityContextSchema, "supplemental_groups_policy"), 17);
    assert.equal(number(cri.LinuxContainerSecurityContextSchema, "run_as_group"), 12);
    assert.equal(number(cri.ContainerConfigSchema, "CDI_devices"), 17);
  });

  test("reads what a newer kubelet sends, and hands on what it does not know", () => {
    const known = toBinary(cri.VersionRequestSchema, create(cri.VersionRequestSchema, { version: "v1" }));
    const newer = Uint8Array.of(...known, 0xfa, 0x3e, 0x02, 0x68, 0x69); // field 1007: "hi"
    const message = fromBinary(cri.VersionRequestSchema, newer);
    assert.equal(message.version, "v1");
    assert.deepEqual(toBinary(cri.VersionRequestSchema, message), newer);
  });

  test("does not show credentials where a message is printed", () => {
    const redacted = cri.AuthConfigSchema.fields
      .filter((field) => field.proto.options?.debugRedact)
      .map((field) => field.name);
    assert.deepEqual(redacted, ["password", "auth", "identity_token", "registry_token"]);
  });
});
