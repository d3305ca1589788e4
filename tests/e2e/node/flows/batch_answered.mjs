// Runs with the stand-in engine and with a real one.
import assert from "node:assert/strict";
import { all, client, ended, extra, linesOf, rows, submit } from "../support.mjs";

const ROWS = 6;
const batch = await submit(`${rows(ROWS)}{"custom_id": "broken"\n`, {
  metadata: { team: "support" }, on_invalid: "skip",
});
assert.match(batch.id, /^batch_/);
assert.deepEqual([batch.object, batch.status, batch.endpoint], ["batch", "validating", "/v1/chat/completions"]);
const done = await ended(batch);
assert.equal(done.status, "completed", JSON.stringify(done));
assert.deepEqual(done.request_counts, { total: ROWS + 1, completed: ROWS, failed: 1 });
assert.deepEqual(done.metadata, { team: "support" });
assert.ok(done.created_at <= done.in_progress_at && done.in_progress_at <= done.completed_at);

const answers = await linesOf(done.output_file_id);
assert.deepEqual(answers.map((answer) => answer.custom_id), Array.from({ length: ROWS }, (_, n) => `row-${n + 1}`));
assert.ok(answers.every(({ error, response }) => error === null && response.status_code === 200));
assert.ok(answers.every(({ response }) => response.body.choices[0].message.content.length > 0));
const usages = answers.map(({ response }) => response.body.usage);
const sum = (name) => usages.reduce((total, usage) => total + usage[name], 0);
assert.deepEqual(
  [done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens],
  [sum("prompt_tokens"), sum("completion_tokens"), sum("total_tokens")],
);
assert.equal(done.usage.output_tokens, ROWS * 8);
const [failure] = await linesOf(done.error_file_id);
assert.deepEqual([failure.custom_id, failure.line, failure.error.code], [null, ROWS + 1, "invalid_json_line"]);

const read = (query) => extra.get(`/batches/${batch.id}/results`, { query });
const first = await read({ limit: 4 });
const second = await read({ limit: 4, after: first.last_id });
assert.deepEqual([first.has_more, second.has_more], [true, false]);
const results = [...first.data, ...second.data];
assert.deepEqual(results.map((row) => row.line), Array.from({ length: ROWS + 1 }, (_, n) => n + 1));
assert.deepEqual(results.slice(0, ROWS).map((row) => row.response), answers.map((answer) => answer.response));
assert.deepEqual((await read({ status: "failed" })).data.map((row) => row.line), [ROWS + 1]);

assert.deepEqual((await all(client.batches.list({ limit: 1 }))).map((each) => each.id), [batch.id]);
