import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { ConfError, parseConf } from "../src/conf.ts";

const valid = {
  cniVersion: "1.0.0",
  name: "net",
  plugins: [{ type: "bridge", capabilities: { portMappings: true, mac: false } }],
};

suite("conf lists", () => {
  test("a list", () => {
    const conf = parseConf("/x/10.conflist", JSON.stringify({ ...valid, disableCheck: "TRUE" }));
    assert.equal(conf.name, "net");
    assert.equal(conf.cniVersion, "1.0.0");
    assert.equal(conf.disableCheck, true);
    assert.deepEqual(
      conf.plugins.map((plugin) => [plugin.type, [...plugin.capabilities]]),
      [["bridge", ["portMappings"]]],
    );
  });

  test("a single plugin's file becomes a list of one, with its own fields only", () => {
    const conf = parseConf("/x/10.conf", `{"cniVersion":"0.4.0","name":"net","type":"ptp","mtu":1400}`);
    assert.deepEqual(conf.plugins[0]?.raw, { type: "ptp", mtu: 1400 });
  });

  test("the highest version both sides know is taken", () => {
    const choose = (versions: object) =>
      parseConf("/x/a.conflist", JSON.stringify({ ...valid, cniVersion: undefined, ...versions })).cniVersion;
    assert.equal(choose({}), "0.1.0");
    assert.equal(choose({ cniVersions: ["0.4.0", "1.1.0", "9.0.0"] }), "1.1.0");
    assert.equal(choose({ cniVersion: "1.0.0", cniVersions: ["0.3.1"] }), "1.0.0");
  });

  const bad: [string, string, string, RegExp][] = [
    ["not JSON", "/x/a.conflist", "{", /^\/x\/a\.conflist: not valid JSON: /],
    ["not an object", "/x/a.conflist", "[]", /: must be a JSON object$/],
    ["no name", "/x/a.conflist", `{"plugins":[{"type":"a"}]}`, /: name: must name the network$/],
    [
      "a name that leaves its folder",
      "/x/a.conflist",
      `{"name":"../x","plugins":[{"type":"a"}]}`,
      /: name: "..\/x" must start with/,
    ],
    ["no plugins", "/x/a.conflist", `{"name":"n","type":"a"}`, /: plugins: missing: .*\*\.conf$/],
    ["an empty list", "/x/a.conflist", `{"name":"n","plugins":[]}`, /: plugins: must be a list of at least one/],
    [
      "a plugin without type",
      "/x/a.conflist",
      `{"name":"n","plugins":[{"type":"a"},{}]}`,
      /: plugins\[1\]\.type: must name/,
    ],
    [
      "a plugin that is a path",
      "/x/a.conflist",
      `{"name":"n","plugins":[{"type":"../../bin/sh"}]}`,
      /: plugins\[0\]\.type: .*plain file name/,
    ],
    [
      "a capability that is no boolean",
      "/x/a.conflist",
      `{"name":"n","plugins":[{"type":"a","capabilities":{"dns":"yes"}}]}`,
      /: plugins\[0\]\.capabilities\.dns: must be true or false/,
    ],
    [
      "ipam that is a path",
      "/x/a.conflist",
      `{"name":"n","plugins":[{"type":"a","ipam":{"type":"/bin/sh"}}]}`,
      /: plugins\[0\]\.ipam\.type: /,
    ],
    [
      "an unknown version",
      "/x/a.conflist",
      `{"name":"n","cniVersion":"2.0.0","plugins":[{"type":"a"}]}`,
      /: cniVersion: 2\.0\.0 is not supported; supported are 0\.1\.0,/,
    ],
    [
      "a version that is none",
      "/x/a.conflist",
      `{"name":"n","cniVersion":"one","plugins":[{"type":"a"}]}`,
      /: cniVersion: must be a version such as/,
    ],
    ["a list in a *.conf", "/x/a.conf", `{"name":"n","plugins":[{"type":"a"}]}`, /: plugins: .*rename this one/],
  ];
  for (const [what, file, text, message] of bad) {
    test(`refused, with file and field: ${what}`, () => {
      assert.throws(
        () => parseConf(file, text),
        (error) => error instanceof ConfError && error.file === file && message.test(error.message),
      );
    });
  }
});
