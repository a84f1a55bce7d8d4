import assert from "node:assert/strict";
import { test } from "node:test";
import { renderTemplate, templateData } from "@berth/network";

/** As containerd's documentation has it (docs/cri/config.md, CNI Config Template). */
const DOCUMENTED = `{
  "ipam": {
    "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
    "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
  }
}`;

test("the documented template, for one family and for two", () => {
  assert.deepEqual(JSON.parse(renderTemplate(DOCUMENTED, templateData("10.0.0.0/24"))), {
    ipam: { ranges: [[{ subnet: "10.0.0.0/24" }]], routes: [{ dst: "0.0.0.0/0" }] },
  });
  assert.deepEqual(JSON.parse(renderTemplate(DOCUMENTED, templateData("10.0.0.0/24,fd00::/64"))), {
    ipam: {
      ranges: [[{ subnet: "10.0.0.0/24" }], [{ subnet: "fd00::/64" }]],
      routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
    },
  });
});

test("single values, else, the item as a dot, and trimmed white space", () => {
  const data = templateData("10.0.0.0/24");
  assert.equal(renderTemplate("{{.PodCIDR}} {{ .PodCIDR }}", data), "10.0.0.0/24 10.0.0.0/24");
  assert.equal(renderTemplate("{{range .Routes}}<{{.}}>{{end}}", data), "<0.0.0.0/0>");
  assert.equal(renderTemplate("{{range $i, $r := .Routes}}{{if $i}}more{{else}}first{{end}}{{end}}", data), "first");
  assert.equal(renderTemplate("a {{- .PodCIDR -}} b", data), "a10.0.0.0/24b");
});

test("what is not understood is shown", () => {
  const data = templateData("10.0.0.0/24");
  assert.throws(() => renderTemplate("{{.Nothing}}", data), /\{\{\.Nothing\}\}: there is no such value/);
  assert.throws(() => renderTemplate('{{printf "%s" .PodCIDR}}', data), /\{\{printf .*\}\} is beyond/);
  assert.throws(() => renderTemplate("{{range .Routes}}x", data), /has no \{\{end\}\}/);
  assert.throws(() => renderTemplate("x{{end}}", data), /\{\{end\}\} without a beginning/);
  assert.throws(() => renderTemplate("{{range .PodCIDR}}x{{end}}", data), /it is no list/);
});
