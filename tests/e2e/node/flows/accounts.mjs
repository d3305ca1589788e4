// What was done, used and spent.
import assert from "node:assert/strict";
import { BadRequestError } from "openai";
import { all, ended, HONE_MODEL, organization, refused, rows, submit } from "../support.mjs";

const { auditLogs, usage } = organization;
const done = await ended(await submit(rows(3)));
assert.equal(done.status, "completed");
const made = await organization.projects.create({ name: "Support" });
await organization.projects.archive(made.id);

const events = await all(auditLogs.list({ limit: 2 }));
assert.deepEqual(events.map((event) => event.id), events.map((event) => event.id).toSorted().toReversed());
assert.deepEqual(events.slice(0, 2).map((event) => event.type), ["project.archived", "project.created"]);
const [created] = await all(auditLogs.list({ event_types: ["project.created"] }));
assert.equal(created["project.created"].data.name, "Support");
assert.equal(created.actor.type, "api_key");
assert.deepEqual((await all(auditLogs.list({ resource_ids: [made.id] }))).length, 2);
const before = await auditLogs.list({ before: events[2].id, limit: 1 });
assert.deepEqual(before.data.map((event) => event.id), [events[1].id]);
const later = { gt: created.effective_at + 60 };
assert.deepEqual(await all(auditLogs.list({ effective_at: later })), []);

const start_time = done.created_at - 3_600;
const used = await usage.completions({ start_time, bucket_width: "1h", group_by: ["model", "batch"] });
const results = used.data.flatMap((bucket) => bucket.results);
assert.deepEqual([...new Set(results.map(({ object, model, batch }) => `${object} ${model} ${batch}`))], [
  `organization.usage.completions.result ${HONE_MODEL} true`,
]);
const sum = (name) => results.reduce((total, result) => total + result[name], 0);
assert.deepEqual([sum("num_model_requests"), sum("input_tokens"), sum("output_tokens")], [
  3, done.usage.input_tokens, done.usage.output_tokens,
]);
const none = await usage.embeddings({ start_time });
assert.deepEqual(none.data.flatMap((bucket) => bucket.results), []);
const costs = await usage.costs({ start_time, group_by: ["line_item"] });
const items = costs.data.flatMap((bucket) => bucket.results);
assert.deepEqual(items.map((item) => item.line_item), [
  `${HONE_MODEL}, batch, input_tokens`, `${HONE_MODEL}, batch, output_tokens`,
]);
assert.equal(items.reduce((total, item) => total + item.amount_nanos, 0), done.cost_nanos);

// Pages of buckets.
const span = { start_time: 0, end_time: 8 * 86_400 };
const first = await usage.completions(span);
assert.deepEqual([first.object, first.data.length, first.has_more], ["page", 7, true]);
const last = await usage.completions({ ...span, page: first.next_page });
assert.deepEqual([last.data.map((bucket) => bucket.start_time), last.has_more], [[7 * 86_400], false]);
await refused(usage.completions({ ...span, page: "nowhere" }), BadRequestError, {
  status: 400, code: "invalid_value", param: "page",
});
