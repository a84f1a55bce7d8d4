import assert from "node:assert/strict";
import { test } from "node:test";
import { locateKeys, pathKey } from "../../src/config/locate.ts";

const TEXT = `# a comment
version = 2
"quoted.key" = '''
[not.a.table]
''' # and = more
[plugins."io.containerd.grpc.v1.cri"]
  a = [ # "[
    "x]", '#',
  ]
  b.c = { d = 1, e = "}" }
  long = """a "quoted" \\""" word"""
[ plugins . 'io.x' ]
z=1
[[array]]
k = "esc \\" ="
[[array]]
`;

test("every key and table has the line it is written on", () => {
  const lines = locateKeys(TEXT);
  const at = (...path: string[]) => lines.get(pathKey(path));
  assert.equal(at("version"), 2);
  assert.equal(at("quoted.key"), 3);
  assert.equal(at("not", "a", "table"), undefined);
  const cri = ["plugins", "io.containerd.grpc.v1.cri"];
  assert.equal(at(...cri), 6);
  assert.equal(at(...cri, "a"), 7);
  assert.equal(at(...cri, "b", "c"), 10);
  assert.equal(at(...cri, "long"), 11);
  assert.equal(at("plugins", "io.x"), 12);
  assert.equal(at("plugins", "io.x", "z"), 13);
  assert.equal(at("array"), 14);
  assert.equal(at("array", "k"), 15);
});
