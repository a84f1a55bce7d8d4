/** crictl's parts that need no daemon: its command line, its help, and Go's ways of printing. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { sinceOf } from "../src/crictl/commands/logs.ts";
import { COMMANDS } from "../src/crictl/commands/index.ts";
import { UsageError } from "../src/crictl/errors.ts";
import { bool, duration, int, parse, slice, string } from "../src/crictl/flags.ts";
import { formatDuration } from "../src/crictl/go/duration.ts";
import { goJson } from "../src/crictl/go/json.ts";
import { table } from "../src/crictl/go/table.ts";
import { execute } from "../src/crictl/go/template.ts";
import { humanDuration, humanSize } from "../src/crictl/go/units.ts";
import { goYaml } from "../src/crictl/go/yaml.ts";
import { parsePorts } from "../src/crictl/port-forwarder.ts";
import { crictl } from "../src/crictl/program.ts";
import { testShell } from "./double/shell.ts";

const NAMES =
  "attach checkpoint completion config create events exec imagefsinfo images info inspect inspecti inspectp logs metricdescs " +
  "metricsp pods port-forward ps pull rm rmi rmp run runp runtime-config start stats statsp stop stopp update " +
  "update-runtime-config version";

describe("the command line", () => {
  const flags = [
    bool("interactive", "", { aliases: ["i"] }),
    bool("tty", "", { aliases: ["t"] }),
    int("last", "", { aliases: ["n"], value: 7 }),
    string("output", "", { aliases: ["o"], value: "table", env: "OUT" }),
    slice("label", ""),
    duration("timeout", ""),
  ];
  const read = (argv: string[], env = {}) => parse(flags, argv, { shortOptions: true, env });

  test("one dash or two, values apart or joined, nothing after the first argument", () => {
    const parsed = read([
      "-it",
      "--last=3",
      "-output",
      "json",
      "--label",
      "a=b",
      "-label=c=d,e=f",
      "--timeout",
      "1m30s",
      "id",
      "-n",
      "x",
    ]);
    assert.deepEqual([parsed.bool("interactive"), parsed.bool("tty"), parsed.number("last")], [true, true, 3]);
    assert.deepEqual([parsed.string("output"), parsed.slice("label")], ["json", ["a=b", "c=d", "e=f"]]);
    assert.deepEqual([parsed.number("timeout"), parsed.args], [90_000, ["id", "-n", "x"]]);
  });

  test("defaults, the environment, and what was set", () => {
    const parsed = read(["--tty=false"], { OUT: "yaml" });
    assert.deepEqual([parsed.number("last"), parsed.string("output"), parsed.bool("tty")], [7, "yaml", false]);
    assert.deepEqual(
      ["last", "output", "tty"].map((name) => parsed.isSet(name)),
      [false, true, true],
    );
  });

  test("what is wrong is named", () => {
    for (const [argv, message] of [
      [["--nope"], "flag provided but not defined: -nope"],
      [["-ix"], "flag provided but not defined: -ix"],
      [["-n"], "flag needs an argument: -n"],
      [["-n", "x"], 'invalid value "x" for flag -n: parse error'],
      [["--tty=maybe"], 'invalid boolean value "maybe" for -tty: parse error'],
    ] as const)
      assert.throws(
        () => read([...argv]),
        (error: Error) => error instanceof UsageError && error.message === message,
      );
  });

  test("all 34 commands", () => {
    assert.deepEqual(
      COMMANDS.map(({ name }) => name),
      NAMES.split(" "),
    );
  });
});

describe("without a daemon", () => {
  let dir: string;
  before(() => {
    dir = mkdtempSync(`${tmpdir()}/berth-crictl-`);
  });
  after(() => rmSync(dir, { recursive: true }));
  const run = async (...argv: string[]) => {
    const shell = testShell();
    const code = await crictl(argv, shell);
    return { code, out: shell.stdout.text, err: shell.stderr.text };
  };

  test("help is laid out as crictl's", async () => {
    const { code, out } = await run("stop", "--help");
    assert.equal(code, 0);
    assert.equal(
      out,
      `NAME:
   crictl stop - Stop one or more running containers

USAGE:
   crictl stop [command options] CONTAINER-ID [CONTAINER-ID...]

OPTIONS:
   --all, -a                  Stop all running containers (default: false)
   --timeout value, -t value  Seconds to wait to kill the container after a graceful stop is requested (default: 0)
   --help, -h                 show help
`,
    );
    assert.match((await run()).out, /^NAME:\n {3}crictl - client for CRI\n/);
  });

  test("wrong usage: the help, a log line, exit code 1; an unknown command 3", async () => {
    const wrong = await run("ps", "--foo");
    assert.equal(wrong.code, 1);
    assert.match(wrong.out, /^Incorrect Usage: flag provided but not defined: -foo\n\nNAME:/);
    assert.match(wrong.err, /^time="[^"]+" level=error msg="flag provided but not defined: -foo"\n$/);
    assert.deepEqual(await run("nosuch"), { code: 3, out: "", err: "No help topic for 'nosuch'\n" });
    assert.match((await run("logs")).err, /msg="ID cannot be empty"/);
  });

  test("config: made, set, read, its comments kept, unknown options refused", async () => {
    const file = `${dir}/crictl.yaml`;
    writeFileSync(file, "# mine\nruntime-endpoint: unix:///a.sock\n");
    assert.equal((await run("-c", file, "config", "--set", "timeout=7,debug=true")).code, 0);
    const text = readFileSync(file, "utf8");
    assert.match(text, /^# mine\nruntime-endpoint: unix:\/\/\/a\.sock\n/);
    assert.equal((await run("-c", file, "config", "--get", "timeout")).out, "7\n");
    assert.match((await run("-c", file, "config", "--list")).out, /debug {18}true\n/);
    assert.match((await run("-c", file, "config", "--get", "x")).err, /no configuration option named x/);
    writeFileSync(file, "nonsense: 1\n");
    assert.match((await run("-c", file, "ps")).err, /Config option 'nonsense' is not valid/);
    assert.match((await run("-c", `${dir}/none`, "ps")).err, /no such file or directory/);
  });

  test("the schema of a pod's configuration, and completion", async () => {
    const { out } = await run("runp", "jsonschema");
    const schema = JSON.parse(out) as { $ref: string; $defs: Record<string, { properties: Record<string, unknown> }> };
    assert.equal(schema.$ref, "#/$defs/PodSandboxConfig");
    assert.deepEqual(schema.$defs["PodSandboxConfig"]?.properties["log_directory"], { type: "string" });
    for (const shell of ["bash", "zsh", "fish"])
      assert.match((await run("completion", shell)).out, /update-runtime-config/);
  });

  test("nobody listens: told with the endpoint", async () => {
    const { code, err } = await run("--max-retries", "0", "-r", `unix://${dir}/none.sock`, "ps");
    assert.equal(code, 1);
    assert.match(err, /validate CRI v1 runtime API for endpoint .*none\.sock.*code = Unavailable/);
  });
});

test("Go's durations, ages and sizes", () => {
  assert.deepEqual([0, 2000, 90_000, 3_600_000].map(formatDuration), ["0s", "2s", "1m30s", "1h0m0s"]);
  const hour = 3_600_000;
  assert.deepEqual(
    [500, 1000, 59_000, 60_000, hour, 47 * hour, 72 * hour, 30 * 24 * hour, 90 * 24 * hour].map(humanDuration),
    [
      "Less than a second",
      "1 second",
      "59 seconds",
      "About a minute",
      "About an hour",
      "47 hours",
      "3 days",
      "4 weeks",
      "3 months",
    ],
  );
  assert.deepEqual(
    [0, 999, 1000, 3_128_669, 675_840].map((size) => humanSize(size)),
    ["0B", "999B", "1kB", "3.129MB", "675.8kB"],
  );
  assert.equal(sinceOf("2013-01-02T13:23:37Z"), Date.UTC(2013, 0, 2, 13, 23, 37));
  assert.ok(Math.abs((sinceOf("42m") ?? 0) - (Date.now() - 42 * 60_000)) < 1000);
});

test("Go's tables, JSON and YAML", () => {
  assert.equal(
    table([
      ["A", "LONGER THAN TWENTY CELLS", "B"],
      ["1", "2", "3"],
    ]),
    `A                   LONGER THAN TWENTY CELLS   B\n1                   2                          3\n`,
  );
  assert.equal(goJson({ b: "<&>", a: [], c: {} }), '{\n  "a": [],\n  "b": "\\u003c\\u0026\\u003e",\n  "c": {}\n}');
  assert.equal(
    goYaml({
      b: ["x: y", "1", "yes", "plain"],
      a: { avg300: 1, avg60: 2 },
      long: `${"word ".repeat(20)}end`,
      text: "two\nlines",
    }),
    `a:\n  avg60: 2\n  avg300: 1\nb:\n- 'x: y'\n- "1"\n- "yes"\n- plain\nlong: ${"word ".repeat(15)}word\n  ${"word ".repeat(4)}end\ntext: |-\n  two\n  lines\n`,
  );
});

test("Go's templates", () => {
  const data = { status: { id: "abc", n: [1, 2, 3], state: "RUNNING", empty: {}, map: { k: "v" } } };
  for (const [template, expected] of [
    ["{{.status.id}}", "abc"],
    ["{{range $i, $x := .status.n}}{{$i}}={{$x}} {{end}}", "0=1 1=2 2=3 "],
    ['{{if eq .status.state "RUNNING"}}up{{else if .status.empty}}?{{else}}down{{end}}', "up"],
    ["{{with .status.map}}{{.k}}{{end}}{{with .status.empty}}x{{else}}none{{end}}", "vnone"],
    ['a {{- /* said */ -}} b {{- " c" }}', "ab c"],
    ["{{.status.map}}|{{.status.n}}|{{len .status.n}}", "map[k:v]|[1 2 3]|3"],
    ['{{json .status.map}}{{upper .status.id | printf "%q"}}', '{"k":"v"}\n"ABC"'],
    ["{{$x := index .status.n 1}}{{if and (gt $x 1) (not false)}}{{$x}}{{end}}", "2"],
    ["{{range .status.n}}{{if eq . 2}}{{break}}{{end}}{{.}}{{end}}", "1"],
  ] as const)
    assert.equal(execute(template, data), expected, template);
  assert.throws(() => execute("{{.status.nope}}", data), /map has no entry for key "nope"/);
  assert.throws(() => execute("{{.status", data), /unclosed action/);
  assert.throws(() => execute("{{if true}}", data), /unexpected EOF/);
  assert.throws(() => execute("{{nope 1}}", data), /function "nope" not defined/);
});

test("ports of port-forward", () => {
  assert.deepEqual(parsePorts(["80", "8080:80", ":80"]), [
    { local: 80, remote: 80 },
    { local: 8080, remote: 80 },
    { local: 0, remote: 80 },
  ]);
  for (const wrong of ["0", "x", "1:2:3", "70000"]) assert.throws(() => parsePorts([wrong]), Error, wrong);
});
