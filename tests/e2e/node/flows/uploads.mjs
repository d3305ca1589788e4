import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { BadRequestError, ConflictError } from "openai";
import { client, refused } from "../support.mjs";

const CONTENT = Array.from({ length: 20_000 }, (_, number) => `{"number": ${number}}\n`).join("");
const SIZE = 100_000;
const PIECES = Array.from({ length: Math.ceil(CONTENT.length / SIZE) }, (_, index) =>
  CONTENT.slice(index * SIZE, (index + 1) * SIZE),
);
const md5 = createHash("md5").update(CONTENT).digest("hex");

function announce() {
  return client.uploads.create({
    bytes: CONTENT.length, filename: "rows.jsonl", mime_type: "application/jsonl", purpose: "batch",
  });
}

function send(upload, piece) {
  return client.uploads.parts.create(upload.id, { data: new File([piece], "part") });
}

const upload = await announce();
assert.deepEqual([upload.object, upload.status, upload.bytes], ["upload", "pending", CONTENT.length]);
assert.equal(upload.expires_at, upload.created_at + 3_600);
// All at once, the last one first.
const parts = (await Promise.all(PIECES.toReversed().map((piece) => send(upload, piece)))).toReversed();
assert.ok(parts.every((part) => part.object === "upload.part" && part.upload_id === upload.id));
const part_ids = parts.map((part) => part.id);
await refused(client.uploads.complete(upload.id, { part_ids, md5: "0".repeat(32) }), BadRequestError, {
  status: 400, code: "checksum_mismatch", param: "md5",
});
const done = await client.uploads.complete(upload.id, { part_ids, md5 });
assert.deepEqual([done.id, done.status, done.file.filename], [upload.id, "completed", "rows.jsonl"]);
assert.deepEqual(await client.files.retrieve(done.file.id), done.file);
assert.equal(await (await client.files.content(done.file.id)).text(), CONTENT);

const other = await announce();
await send(other, PIECES[0]);
assert.equal((await client.uploads.cancel(other.id)).status, "cancelled");
await refused(send(other, PIECES[1]), ConflictError, { status: 409, code: "conflict", param: "id" });
