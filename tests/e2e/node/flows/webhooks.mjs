import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { InvalidWebhookSignatureError, NotFoundError } from "openai";
import { all, client, ended, idsByPage, refused, rows, submit, until } from "../support.mjs";

const received = [];
const receiver = createServer(async (request, response) => {
  received.push({ body: await text(request), headers: request.headers });
  response.writeHead(204).end();
});
receiver.listen(0, "127.0.0.1");
await once(receiver, "listening");
const url = `http://127.0.0.1:${receiver.address().port}/hooks`;

const made = await client.webhooks.create({ name: "Production", url, event_types: ["batch.completed"] });
const secret = made.signing_secret;
assert.match(secret, /^whsec_/);
const shown = await client.webhooks.retrieve(made.id);
assert.deepEqual([shown.object, shown.name, shown.url, shown.signing_secret], [
  "webhook_endpoint", "Production", url, undefined,
]);
assert.ok((await client.webhooks.eventTypes.list()).data.includes("batch.completed"));

const tested = await client.webhooks.test(made.id, { event_type: "batch.completed" });
assert.deepEqual([tested.success, tested.status_code], [true, 204]);
const sample = received.pop();
assert.equal((await client.webhooks.unwrap(sample.body, sample.headers, secret)).type, "batch.completed");

const done = await ended(await submit(rows(1)));
assert.equal(done.status, "completed");
await until(() => received.length, (count) => count === 1);
const { body, headers } = received.pop();
const event = await client.webhooks.unwrap(body, headers, secret);
assert.deepEqual([event.object, event.type, event.data.id], ["event", "batch.completed", done.id]);
assert.equal(event.id, headers["webhook-id"]);
for (const [changed, key] of [[body.replace(done.id, "batch_1"), secret], [body, `whsec_${"A".repeat(43)}=`]]) {
  await assert.rejects(client.webhooks.unwrap(changed, headers, key), InvalidWebhookSignatureError);
}

const changed = await client.webhooks.update(made.id, { name: "Staging", event_types: ["batch.failed"] });
assert.deepEqual([changed.name, changed.url, changed.event_types], ["Staging", url, ["batch.failed"]]);
const rotated = await client.webhooks.rotateSecret(made.id);
await client.webhooks.test(made.id, { event_type: "batch.failed" });
const signed = received.pop();
await client.webhooks.verifySignature(signed.body, signed.headers, rotated.signing_secret);
await assert.rejects(
  client.webhooks.verifySignature(signed.body, signed.headers, secret),
  InvalidWebhookSignatureError,
);

const others = [];
for (const name of ["a", "b"]) {
  others.push((await client.webhooks.create({ name, url, event_types: ["batch.failed"] })).id);
}
assert.deepEqual(await idsByPage(client.webhooks.list({ limit: 2 })), [others.toReversed(), [made.id]]);
for (const id of [made.id, ...others]) {
  assert.deepEqual(await client.webhooks.delete(id), { id, object: "webhook_endpoint.deleted", deleted: true });
}
assert.deepEqual(await all(client.webhooks.list()), []);
await refused(client.webhooks.retrieve(made.id), NotFoundError, { status: 404, code: "not_found", param: "id" });
receiver.close();
