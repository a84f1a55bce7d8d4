import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import { parseConf } from "../src/conf.ts";
import { defaultConflist, ensureDefault, freeSubnet } from "../src/default.ts";
import { Bench, spawningHand } from "./fake.ts";

const HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
const route = (device: string, destination: string, mask: string) =>
  `${device}\t${destination}\t00000000\t0001\t0\t0\t0\t${mask}\t0\t0\t0\n`;
const DEFAULT_ROUTE = route("eth0", "00000000", "00000000");

suite("the default network", () => {
  test("is valid and has what a pod needs", () => {
    const conf = parseConf("/x/10-berth.conflist", JSON.stringify(defaultConflist({ subnet: "10.213.0.0/20" })));
    assert.deepEqual(
      conf.plugins.map((plugin) => plugin.type),
      ["bridge", "portmap"],
    );
    assert(conf.plugins[1]?.capabilities.has("portMappings"));
  });

  test("its subnet overlaps no route of the host, wider or narrower", () => {
    assert.equal(freeSubnet(HEADER + DEFAULT_ROUTE, "berth0"), "10.213.0.0/20");
    assert.equal(freeSubnet(HEADER + route("eth0", "0000D50A", "0000FFFF"), "berth0"), "10.187.64.0/20");
    assert.equal(freeSubnet(HEADER + route("eth0", "0007D50A", "00FFFFFF"), "berth0"), "10.187.64.0/20");
    assert.equal(freeSubnet(HEADER + route("vpn", "0000000A", "000000FF"), "berth0"), "172.29.208.0/20");
    const all = ["0000000A 000000FF", "00001DAC 0000FFFF", "0000A8C0 0000FFFF", "000012C6 0000FEFF"].map((pair) =>
      route("x", ...(pair.split(" ") as [string, string])),
    );
    assert.throws(() => freeSubnet(HEADER + all.join(""), "berth0"), /no free subnet .* write a conf list to/);
  });

  test("keeps the subnet that its bridge already has", () => {
    assert.equal(freeSubnet(HEADER + route("berth0", "0040BB0A", "00F0FFFF"), "berth0"), "10.187.64.0/20");
  });

  test("is written once, by whoever comes first, and never over anything", async () => {
    await using bench = await Bench.make();
    const ensure = () =>
      ensureDefault({ hand: spawningHand(), confDir: join(bench.root, "new", "net.d"), bridge: "br-t" });
    const written = await Promise.all([ensure(), ensure(), ensure()]);
    assert.equal(written.filter((path) => path !== undefined).length, 1);
    const file = join(bench.root, "new", "net.d", "10-berth.conflist");
    assert.equal(parseConf(file, await readFile(file, "utf8")).plugins[0]?.raw["bridge"], "br-t");
    assert.deepEqual(await readdir(join(bench.root, "new", "net.d")), ["10-berth.conflist"]);
    assert.equal(await ensure(), undefined);
  });

  test("is not written beside somebody's broken file", async () => {
    await using bench = await Bench.make();
    await bench.conf("10-mine.conflist", "{");
    assert.equal(await ensureDefault({ hand: spawningHand(), confDir: bench.confDir }), undefined);
  });

  test("a subnet that is none is refused", () => {
    assert.throws(() => defaultConflist({ subnet: "10.0.0.0" }), /subnet "10\.0\.0\.0": must be an IPv4 subnet/);
  });
});
