// The five styles: after the id of the last item, `last_id` as `after`, a cursor in `next`, `page`, and none at all.
import assert from "node:assert/strict";
import { all, client, defaultProject, HONE_MODEL, idsByPage, organization } from "../support.mjs";

async function times(count, make) {
  const ids = [];
  for (let number = 0; number < count; number += 1) ids.push((await make(number)).id);
  return ids.toReversed();
}

function inPairs(ids) {
  return ids.flatMap((_, index) => (index % 2 ? [] : [ids.slice(index, index + 2)]));
}

const project = await defaultProject();
const { adminAPIKeys, invites, projects, roles, usage } = organization;

const purpose = "user_data";
const files = await times(5, (n) => client.files.create({ file: new File(["{}"], `${n}.jsonl`), purpose }));
const firstKey = (await all(adminAPIKeys.list())).map((key) => key.id);
const adminKeys = [...(await times(4, (n) => adminAPIKeys.create({ name: `${n}` }))), ...firstKey];
assert.deepEqual(await idsByPage(client.files.list({ limit: 2 })), inPairs(files));
assert.deepEqual(await idsByPage(adminAPIKeys.list({ limit: 2 })), inPairs(adminKeys));

const made = [...(await times(4, (n) => projects.create({ name: `${n}` }))), project];
const accounts = await times(3, (n) => projects.serviceAccounts.create(project, { name: `${n}` }));
const guests = await times(5, (n) => invites.create({ email: `guest-${n}@example.com`, role: "reader" }));
assert.deepEqual(await idsByPage(projects.list({ limit: 2 })), inPairs(made));
assert.deepEqual(await idsByPage(projects.serviceAccounts.list(project, { limit: 2 })), inPairs(accounts));
assert.deepEqual(await idsByPage(invites.list({ limit: 2 })), inPairs(guests));
assert.equal((await all(projects.apiKeys.list(project, { limit: 1 }))).length, 4);
const types = (await all(organization.auditLogs.list({ limit: 3 }))).map((event) => event.type);
assert.equal(types.filter((type) => type === "invite.sent").length, 5);

const page = await roles.list({ limit: 2 });
assert.deepEqual([page.next, page.hasNextPage()], ["role-admin", true]);
const names = ["owner", "admin", "developer", "billing", "viewer"];
assert.deepEqual((await all(roles.list({ limit: 2 }))).map((role) => role.name), names);

const starts = [];
for (let next; next !== null; ) {
  const buckets = await usage.costs({ start_time: 0, end_time: 9 * 86_400, limit: 4, page: next });
  starts.push(buckets.data.map((bucket) => bucket.start_time / 86_400));
  next = buckets.next_page;
}
assert.deepEqual(starts, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]);

assert.equal((await client.models.list()).hasNextPage(), false);
assert.deepEqual((await all(client.models.list())).map((model) => model.id), [HONE_MODEL]);
