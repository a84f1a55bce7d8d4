import assert from "node:assert/strict";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { type AddressInfo, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { connect, createServer } from "node:tls";
import { selfSigned } from "../../src/streaming/certificate.ts";

const NAMES = ["node-1.example", "localhost"];
const ADDRESSES = ["127.0.0.1", "::1", "fe80::a:b", "2001:db8:1:2:3:4:5:6"];

test("a certificate of one's own is for every name and address, signed by its key, and valid for years", () => {
  const { cert, key } = selfSigned(NAMES, ADDRESSES);
  const certificate = new X509Certificate(cert);
  assert.ok(certificate.verify(certificate.publicKey));
  assert.ok(certificate.checkPrivateKey(createPrivateKey(key)));
  assert.ok(certificate.ca);
  assert.equal(certificate.subject, "CN=node-1.example");
  assert.equal(certificate.issuer, certificate.subject);
  for (const name of NAMES) assert.equal(certificate.checkHost(name), name);
  for (const address of ADDRESSES) assert.equal(certificate.checkIP(address), address);
  assert.equal(certificate.checkIP("127.0.0.2"), undefined);
  assert.deepEqual(certificate.keyUsage, ["1.3.6.1.5.5.7.3.1"]);
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  assert.ok(from < Date.now() && to > Date.now() + 9 * 365 * 86_400_000);
  assert.notEqual(selfSigned(NAMES, []).cert, selfSigned(NAMES, []).cert);
});

test("dates from 2050 on have their own form", () => {
  const { cert } = selfSigned(["a"], [], new Date("2045-06-01T12:00:00Z"));
  const certificate = new X509Certificate(cert);
  assert.equal(certificate.validFrom, "Jun  1 11:00:00 2045 GMT");
  assert.equal(certificate.validTo, "May 30 12:00:00 2055 GMT");
});

test("a client that trusts it talks to its server, and one that does not refuses", async () => {
  const pair = selfSigned(NAMES, ["127.0.0.1"]);
  const server = createServer(pair, (socket: Socket) => socket.end("hello")).listen(0, "127.0.0.1");
  server.on("tlsClientError", () => undefined);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  try {
    assert.equal(await text(connect({ port, host: "127.0.0.1", ca: pair.cert })), "hello");
    const stranger = connect({ port, host: "127.0.0.1" });
    const [error] = (await once(stranger, "error")) as [NodeJS.ErrnoException];
    assert.equal(error.code, "DEPTH_ZERO_SELF_SIGNED_CERT");
  } finally {
    server.close();
  }
});
