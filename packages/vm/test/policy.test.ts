/** Agents' policies: what a request is told, and what of Rego is refused. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { VmError } from "../src/errors.ts";
import { INIT_DATA_ANNOTATION, POLICY_ANNOTATION } from "../src/policy/annotations.ts";
import { DEFAULT_POLICY, PodPolicy } from "../src/policy/pod.ts";
import { AgentPolicy } from "../src/policy/policy.ts";
import type { Value } from "../src/policy/syntax.ts";

const DENIED = /^VmError: ExecProcessRequest is blocked by policy$/;
/** As Kata ships it, with fewer requests. */
const EXCEPT_EXEC = `# who
package agent_policy

default CreateContainerRequest := true
default SetPolicyRequest := true

default ExecProcessRequest := false
`;

const allows = (text: string, request: string, input: Value = {}): boolean => {
  try {
    new AgentPolicy(`package agent_policy\n${text}`, "policy").check(request, input);
    return true;
  } catch (error) {
    if (error instanceof VmError && error.code === "Denied" && error.message.endsWith("is blocked by policy"))
      return false;
    throw error;
  }
};

test("defaults allow and deny; a request that is not named is denied", () => {
  const policy = new AgentPolicy(EXCEPT_EXEC, "policy");
  policy.check("CreateContainerRequest", {});
  assert.throws(() => policy.check("ExecProcessRequest", {}), DENIED);
  assert.throws(() => policy.check("CopyFileRequest", {}), /^VmError: CopyFileRequest is blocked by policy$/);
  new AgentPolicy(`${EXCEPT_EXEC}default AllowRequestsFailingPolicy := true\n`, "policy").check("CopyFileRequest", {});
});

test("rules compare a request with data, in both spellings of Rego", () => {
  const rules = `
import future.keywords.in
import input
policy_data := {
  "common": { "cpath": "/run/kata-containers/shared/containers" },
  "request_defaults": {
    "CopyFileRequest": [ "^$(cpath)/" ],
    "ExecProcessRequest": { "commands": [ "/bin/foo" ], "regex": ["^ls( |$)"] }
  }
}
default ExecProcessRequest := false
CopyFileRequest {
    print("CopyFileRequest: input.path =", input.path, input.absent)

    some regex1 in policy_data.request_defaults.CopyFileRequest
    regex2 := replace(regex1, "$(cpath)", policy_data.common.cpath)
    regex.match(regex2, input.path)
}
ExecProcessRequest {
    i_command = concat(" ", input.process.Args)
    some p_command in policy_data.request_defaults.ExecProcessRequest.commands
    p_command == i_command
}
ExecProcessRequest if {
    i_command = concat(" ", input.process.Args)
    some p_regex in policy_data.request_defaults.ExecProcessRequest.regex
    regex.match(p_regex, i_command)
}
`;
  const exec = (...argv: string[]): boolean => allows(rules, "ExecProcessRequest", { process: { Args: argv } });
  assert.equal(exec("/bin/foo"), true);
  assert.equal(exec("ls", "/"), true);
  assert.equal(exec("/bin/foo", "x"), false);
  assert.equal(exec("lsof"), false);
  assert.equal(allows(rules, "ExecProcessRequest"), false);
  assert.equal(allows(rules, "CopyFileRequest", { path: "/run/kata-containers/shared/containers/a" }), true);
  assert.equal(allows(rules, "CopyFileRequest", { path: "/etc/shadow" }), false);
});

test("expressions", () => {
  const input = { list: [1, 2, 3], text: "a-b", map: { one: 1, two: 2 }, none: null };
  for (const [body, expected] of [
    ["input.list[_] == 3", true],
    ["input.list[_] == 4", false],
    ["some i, x in input.list\n i == x - 1\n x > 2", true],
    ["not input.absent", true],
    ["not input.text", false],
    ["every x in input.list { x < 4 }", true],
    ["every x in input.list { x < 3 }", false],
    ["count([x | x := input.list[_]; x > 1]) == 2", true],
    ["{x | some x in input.list} == {3, 2, 1, 1}", true],
    ["{x | x := input.list[_]} | {4} == {1, 2, 3, 4}", true],
    ["{1, 2} & {2, 3} == {2}; {1, 2} - {2} == {1}", true],
    ['{k: v | some k, v in input.map} == {"two": 2, "one": 1}', true],
    ['[left, right] := split(input.text, "-"); left == "a"; right == "b"', true],
    ['input.map[key] == 2\n key == "two"', true],
    ['"a" in ["b", "a"]', true],
    ["2 * 3 + 1 == 7; 7 / 2 > 3; 7 % 2 == 1", true],
    ["1 / 0 == 1", false],
    ['is_null(input.none); startswith(input.text, `a`); upper(input.text) == "A-B"', true],
    ['to_number("12") == 12; substring("abcd", 1, 2) == "bc"; bits.and(6, 3) == 2', true],
    ['object.get(input.map, "three", 3) == 3; array.concat([1], [2]) == [1, 2]', true],
    ['regex.match("^(?P<x>a+)-b$", input.text)', true],
    ['regex.match("(?i)^A-B", input.text)', true],
    ['regex.match("(", input.text)', false],
    ['regex.match("(?=a)", input.text)', false],
    ['concat(1, ["a"]) == "a"', false],
    ["x := input.list[_]; y := x + 1; y == 4", true],
    ['double(2) == 4; kind(1) == "one"; kind(5) == "other"; pair([1, 2]) == 3', true],
    ["constant; not nothing", true],
    ["data.agent_policy.constant; is_object(data.pstate)", true],
    ["false", false],
  ] as const) {
    const text = `
double(x) := y { y := x * 2 }
kind(x) := "one" if { x == 1 } else := "other" if { x > 1 }
pair([a, b]) := a + b
constant = true
nothing { 1 == 2 }
Request if { ${body} }`;
    assert.equal(allows(text, "Request", input), expected, body);
  }
});

test("answers may put something down for later ones", () => {
  const policy = new AgentPolicy(
    `package agent_policy
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/name", "value": input.name}]} { not data.pstate.name }
StartContainerRequest { data.pstate.name == input.name }
RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/name"}]}
`,
    "policy",
  );
  assert.throws(() => policy.check("StartContainerRequest", { name: "a" }), /is blocked by policy/);
  policy.check("CreateContainerRequest", { name: "a" });
  policy.check("StartContainerRequest", { name: "a" });
  assert.throws(() => policy.check("CreateContainerRequest", { name: "b" }), /is blocked by policy/);
  assert.throws(() => policy.check("RemoveContainerRequest", {}), /operation .*remove.* is not done here/);
});

test("what is not evaluated here is refused, with its line", () => {
  for (const [text, words] of [
    ["package other", /^policy: line 1: package other: must be agent_policy/],
    ["package agent_policy\nimport data.other", /^policy: line 2: import data.other: only/],
    ["package agent_policy\nX { input.a with input as {} }", /line 2: with is not evaluated here/],
    ["package agent_policy\n\nX[x] { x := 1 }", /line 3: X: rules that make a set/],
    ["package agent_policy\nX contains 1 if { true }", /line 2: X: rules that make a set/],
    ["package agent_policy\nX {", /line 2: more must follow, not the end|cannot stand here/],
    ["package agent_policy\nX { 1 2 }", /line 2: ; or a new line must stand between expressions, not "2"/],
    ["package agent_policy\nX { }", /line 2: a body must not be empty/],
    ["package agent_policy\nX", /line 2: X needs a value or a body/],
    ["package agent_policy\ndefault X := input.a", /line 2: default X: must be a constant/],
    ["package agent_policy\nX { § }", /line 2: .* is not Rego/],
    [`package agent_policy\nX { ${"[".repeat(200)} }`, /line 2: brackets more than 100 deep/],
    ['{"json": true}', /line 1: "package" must stand here, not "{"/],
  ] as const)
    assert.throws(
      () => new AgentPolicy(text, "policy"),
      (error) => error instanceof VmError && error.code === "InvalidConfiguration" && words.test(error.message),
      text,
    );
});

test("a policy that cannot be evaluated, or takes too long, denies", () => {
  for (const [body, words] of [
    ["http.send({})", /line 3: http.send: no such function here/],
    ["unknown == 1", /line 3: unknown: has no value here/],
    ["X", /line 3: X: asks for itself/],
    ["f(1)", /calls more than 200 deep/],
    ["toString(1)", /toString: no such function here/],
    ["n := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]; n[_] + n[_] + n[_] + n[_] + n[_] + n[_] == 99", /takes more than \d+ steps/],
    ["two == 1", /two: has two values at once/],
  ] as const)
    assert.throws(
      () =>
        new AgentPolicy(`package agent_policy\nf(x) { f(x) }\nX { ${body} }\ntwo := 1\ntwo := 2\n`, "policy").check(
          "X",
          {},
        ),
      (error) => error instanceof VmError && error.code === "Denied" && words.test(error.message),
      body,
    );
  // A pattern that goes back and forth for longer than the machine lives.
  assert.equal(allows(`X { regex.match("^(a+)+$", "${"a".repeat(60)}!") }`, "X"), false);
});

test("a pod's policy: the node's, then its annotations' as far as that allows, then what is set; kept beside the machine", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "berth-policy-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const file = join(dir, "default.rego");
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  const open = (annotations: Record<string, string> = {}): Promise<PodPolicy> => PodPolicy.open({ annotations, file });

  const none = await open();
  assert.equal(none.text, undefined);
  none.check("AnyRequest", () => assert.fail("nobody asks for it"));
  assert.equal(DEFAULT_POLICY, "/etc/kata-opa/default-policy.rego");

  const own = await open({ [POLICY_ANNOTATION]: base64(EXCEPT_EXEC) });
  assert.throws(() => own.check("ExecProcessRequest", () => ({})), DENIED);
  const toml = `version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"policy.rego" = '''\n${EXCEPT_EXEC}'''\n`;
  const packed = gzipSync(toml).toString("base64");
  const initData = await open({ [INIT_DATA_ANNOTATION]: packed });
  assert.throws(() => initData.check("ExecProcessRequest", () => ({})), DENIED);

  // What the pod may not change is the node's.
  writeFileSync(file, "package agent_policy\ndefault CreateSandboxRequest := true\n");
  await assert.rejects(
    open({ [POLICY_ANNOTATION]: base64(EXCEPT_EXEC) }),
    /^VmError: SetPolicyRequest is blocked by policy$/,
  );
  (await open()).check("CreateSandboxRequest", () => ({}));

  await own.keepIn(dir);
  await own.set("package agent_policy\ndefault ExecProcessRequest := true\n");
  own.check("ExecProcessRequest", () => ({}));
  await assert.rejects(own.set(EXCEPT_EXEC), /SetPolicyRequest is blocked by policy/);
  const found = await PodPolicy.found(dir);
  found.check("ExecProcessRequest", () => ({}));
  assert.equal(readFileSync(join(dir, "policy.rego"), "utf8"), found.text);

  for (const [annotations, words] of [
    [{ [POLICY_ANNOTATION]: "!" }, /agent.policy: is not base64/],
    [{ [POLICY_ANNOTATION]: base64("package x") }, /agent.policy: line 1: package x/],
    [{ [INIT_DATA_ANNOTATION]: base64(toml) }, /cc_init_data: is no gzipped TOML in base64/],
    [
      { [INIT_DATA_ANNOTATION]: gzipSync(toml.replace("policy.rego", "cdh.toml")).toString("base64") },
      /cc_init_data: \[data\] "cdh.toml": the guest has no service that reads it/,
    ],
    [{ [INIT_DATA_ANNOTATION]: gzipSync(Buffer.alloc(64 << 20)).toString("base64") }, /cc_init_data: is no gzipped/],
  ] as const) {
    rmSync(file, { force: true });
    await assert.rejects(open(annotations), words);
  }
});
