import assert from "node:assert/strict";
import { AuthenticationError, ConflictError, NotFoundError, PermissionDeniedError } from "openai";
import { all, connect, idsByPage, HONE_MODEL, organization, refused } from "../support.mjs";

const { projects } = organization;
const [standard] = await all(projects.list());
const made = await projects.create({ name: "Support" });
assert.deepEqual([made.object, made.name, made.status, made.archived_at], [
  "organization.project", "Support", "active", null,
]);
assert.deepEqual(await projects.retrieve(made.id), made);
assert.equal((await projects.update(made.id, { name: "Sales" })).name, "Sales");
const project = { project_id: made.id };

// Keys.
const account = await projects.serviceAccounts.create(made.id, { name: "CI" });
assert.deepEqual([account.object, account.role, account.api_key.name], [
  "organization.project.service_account", "member", "Secret Key",
]);
const other = await projects.serviceAccounts.apiKeys.create(account.id, {
  ...project, name: "Second", scopes: ["models.read"], expires_in_seconds: 60,
});
const [whole, narrow] = [account.api_key.value, other.value].map((apiKey) => connect({ apiKey }));
assert.deepEqual((await all(whole.models.list())).map((model) => model.id), [HONE_MODEL]);
await narrow.models.list();
await refused(narrow.files.list(), PermissionDeniedError, { status: 403, code: "insufficient_scope" });
assert.deepEqual(await idsByPage(projects.apiKeys.list(made.id, { limit: 1 })), [[other.id], [account.api_key.id]]);
assert.equal((await projects.apiKeys.retrieve(other.id, project)).owner.service_account.name, "CI");
const widened = await projects.apiKeys.update(other.id, { ...project, scopes: ["models.read", "files.read"] });
assert.equal(widened.expires_at, other.expires_at);
assert.deepEqual(await all(narrow.files.list()), []);
assert.equal((await projects.apiKeys.delete(other.id, project)).deleted, true);
await refused(narrow.files.list(), AuthenticationError, { status: 401, code: "invalid_api_key" });
const changed = await projects.serviceAccounts.update(account.id, { ...project, name: "Build", role: "owner" });
assert.deepEqual([changed.name, changed.role], ["Build", "owner"]);
assert.deepEqual(await projects.serviceAccounts.retrieve(account.id, project), changed);
const alone = await projects.serviceAccounts.create(made.id, { name: "Alone", create_service_account_only: true });
assert.equal(alone.api_key, null);
assert.deepEqual(await idsByPage(projects.serviceAccounts.list(made.id, { limit: 1 })), [[alone.id], [account.id]]);
assert.equal((await projects.serviceAccounts.delete(account.id, project)).deleted, true);
await refused(whole.files.list(), AuthenticationError, { status: 401, code: "invalid_api_key" });

// Limits, and what may be used.
const [limits] = await all(projects.rateLimits.listRateLimits(made.id));
assert.deepEqual([limits.object, limits.id, limits.model], ["project.rate_limit", `rl-${HONE_MODEL}`, HONE_MODEL]);
const lowered = await projects.rateLimits.updateRateLimit(limits.id, { ...project, max_requests_per_1_minute: 7 });
assert.deepEqual(lowered, { ...limits, max_requests_per_1_minute: 7 });
assert.deepEqual(await all(projects.rateLimits.listRateLimits(made.id, { limit: 1 })), [lowered]);
assert.deepEqual((await projects.rateLimits.listRateLimits(made.id, { before: limits.id })).data, []);
assert.equal((await projects.modelPermissions.retrieve(made.id)).mode, "deny_list");
await projects.modelPermissions.update(made.id, { mode: "deny_list", model_ids: [HONE_MODEL] });
const left = await projects.serviceAccounts.create(made.id, { name: "Left" });
assert.deepEqual(await all(connect({ apiKey: left.api_key.value }).models.list()), []);
assert.equal((await projects.modelPermissions.delete(made.id)).deleted, true);

// The end.
const archived = await projects.archive(made.id);
assert.equal(archived.status, "archived");
assert.deepEqual(await projects.archive(made.id), archived);
assert.deepEqual((await all(projects.list())).map((each) => each.id), [standard.id]);
assert.deepEqual((await all(projects.list({ include_archived: true, limit: 1 }))).map((each) => each.id), [
  made.id, standard.id,
]);
const conflict = { status: 409, code: "conflict", param: "project_id" };
await refused(projects.update(made.id, { name: "Again" }), ConflictError, conflict);
await refused(projects.retrieve(`proj_${"0".repeat(32)}`), NotFoundError, {
  status: 404, code: "not_found", param: "project_id",
});
