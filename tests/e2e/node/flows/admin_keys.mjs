import assert from "node:assert/strict";
import { AuthenticationError, NotFoundError } from "openai";
import { all, connect, idsByPage, organization, refused } from "../support.mjs";

const keys = organization.adminAPIKeys;
const [first] = await all(keys.list());
const made = await keys.create({ name: "Robot", expires_in_seconds: 3_600 });
assert.match(made.value, /^hone_ak_/);
assert.deepEqual([made.object, made.name, made.owner.type], ["organization.admin_api_key", "Robot", "user"]);
assert.equal(made.expires_at, made.created_at + 3_600);
const { value, ...shown } = made;
assert.deepEqual(await keys.retrieve(made.id), shown);

const robot = connect({ adminAPIKey: value }).admin.organization;
assert.equal((await robot.adminAPIKeys.retrieve(made.id)).id, made.id);
const second = await robot.adminAPIKeys.create({ name: "Robot's", scopes: ["audit.read"] });
assert.deepEqual(await idsByPage(keys.list({ limit: 2 })), [[second.id, made.id], [first.id]]);
const oldestFirst = await all(keys.list({ limit: 1, order: "asc" }));
assert.deepEqual(oldestFirst.map((key) => key.id), [first.id, made.id, second.id]);

assert.deepEqual(await keys.delete(made.id), {
  id: made.id, object: "organization.admin_api_key.deleted", deleted: true,
});
await refused(keys.retrieve(made.id), NotFoundError, { status: 404, code: "not_found", param: "api_key_id" });
await refused(robot.adminAPIKeys.list(), AuthenticationError, { status: 401, code: "invalid_api_key" });
