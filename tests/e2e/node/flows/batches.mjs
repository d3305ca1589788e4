// Needs the stand-in engine, which never answers some prompts.
import assert from "node:assert/strict";
import { BadRequestError, ConflictError, NotFoundError } from "openai";
import {
  client, ended, ENDPOINT, extra, HONE_MODEL, idsByPage, linesOf, refused, rows, submit, until,
} from "../support.mjs";

const NEVER = { prompt: "__slow__" };

const mixed = await submit(rows(3) + rows(2, NEVER).replaceAll("row-", "never-"));
await until(() => client.batches.retrieve(mixed.id), (now) => now.request_counts.completed === 3);
await refused(client.files.delete(mixed.input_file_id), ConflictError, {
  status: 409, code: "file_in_use", param: "id",
});
const cancelling = await client.batches.cancel(mixed.id);
assert.equal(cancelling.status, "cancelling");
assert.ok(cancelling.cancelling_at >= cancelling.in_progress_at);
const cancelled = await ended(mixed);
assert.equal(cancelled.status, "cancelled");
assert.deepEqual(cancelled.request_counts, { total: 5, completed: 3, failed: 2 });
assert.equal((await linesOf(cancelled.output_file_id)).length, 3);
const stopped = await linesOf(cancelled.error_file_id);
assert.deepEqual(stopped.map((row) => [row.custom_id, row.error.code]), [
  ["never-1", "batch_cancelled"], ["never-2", "batch_cancelled"],
]);
assert.equal((await client.batches.cancel(mixed.id)).status, "cancelled");

const inline = await client.batches.create({
  requests: [{ body: { model: HONE_MODEL, messages: [{ role: "user", content: "Hello" }], max_tokens: 4 } }],
  endpoint: ENDPOINT,
  completion_window: "1h",
});
const again = await extra.post(`/batches/${mixed.id}/retry`);
assert.equal(again.retry_of, mixed.id);
assert.equal((await ended(inline)).status, "completed");
await refused(client.batches.cancel(inline.id), ConflictError, { status: 409, code: "conflict", param: "id" });
await extra.post(`/batches/${again.id}/pause`);
assert.equal((await client.batches.retrieve(again.id)).paused, true);
await client.batches.cancel(again.id);
assert.equal((await ended(again)).status, "cancelled");

const bad = await submit(rows(2, { stream: true }));
const failed = await ended(bad);
assert.equal(failed.status, "failed");
assert.deepEqual(failed.errors.data.map(({ code, line }) => [code, line]), [
  ["stream_not_allowed", 1], ["stream_not_allowed", 2],
]);

const made = [mixed, inline, again, bad].map((batch) => batch.id).toReversed();
assert.deepEqual(await idsByPage(client.batches.list({ limit: 3 })), [made.slice(0, 3), made.slice(3)]);
const ofStatus = extra.get("/batches", { query: { status: "completed" } });
assert.deepEqual((await ofStatus).data.map((batch) => batch.id), [inline.id]);

await refused(client.batches.retrieve(`batch_${"0".repeat(32)}`), NotFoundError, {
  status: 404, code: "not_found", param: "id",
});
await refused(
  client.batches.create({ input_file_id: "file-1", endpoint: ENDPOINT, completion_window: "1 h" }),
  BadRequestError,
  { status: 400, code: "invalid_value", param: "completion_window" },
);
