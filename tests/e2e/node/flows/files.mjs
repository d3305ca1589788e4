import assert from "node:assert/strict";
import { NotFoundError, toFile } from "openai";
import { all, client, idsByPage, refused } from "../support.mjs";

const CONTENT = '{"a": 1}\n'.repeat(1_000);

const made = await client.files.create({
  file: await toFile(Buffer.from(CONTENT), "données.jsonl"),
  purpose: "batch",
  expires_after: { anchor: "created_at", seconds: 7_200 },
});
assert.match(made.id, /^file-/);
assert.deepEqual(
  [made.object, made.bytes, made.filename, made.purpose, made.status],
  ["file", CONTENT.length, "données.jsonl", "batch", "processed"],
);
assert.equal(made.expires_at, made.created_at + 7_200);
assert.deepEqual(await client.files.retrieve(made.id), made);
assert.deepEqual(await client.files.waitForProcessing(made.id), made);
assert.equal(await (await client.files.content(made.id)).text(), CONTENT);
const part = await client.files.content(made.id, { headers: { Range: "bytes=0-8" } });
assert.deepEqual([part.status, await part.text()], [206, '{"a": 1}\n']);

const others = [];
for (const number of [1, 2, 3, 4, 5]) {
  others.push((await client.files.create({ file: new File(["{}"], `${number}.jsonl`), purpose: "user_data" })).id);
}
const pages = await idsByPage(client.files.list({ limit: 2, order: "asc", purpose: "user_data" }));
assert.deepEqual(pages, [others.slice(0, 2), others.slice(2, 4), others.slice(4)]);
const newestFirst = await all(client.files.list({ limit: 1 }));
assert.deepEqual(newestFirst.map((file) => file.id), [...others.toReversed(), made.id]);

assert.deepEqual(await client.files.delete(made.id), { id: made.id, object: "file", deleted: true });
const missing = { status: 404, code: "not_found", param: "id" };
await refused(client.files.retrieve(made.id), NotFoundError, missing);
await refused(client.files.content(made.id), NotFoundError, missing);
await refused(client.files.delete(made.id), NotFoundError, missing);
