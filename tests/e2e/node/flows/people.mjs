// Somebody is invited, signs up with the code of one mail, joins with the token of another, works, and is removed.
import assert from "node:assert/strict";
import { ConflictError, NotFoundError } from "openai";
import {
  all, defaultProject, HONE_ORGANIZATION, HONE_URL, idsByPage, mailed, organization, refused,
} from "../support.mjs";

const { invites, projects, users } = organization;
const project_id = await defaultProject();
const [owner] = await all(users.list());
assert.deepEqual([owner.object, owner.role], ["organization.user", "owner"]);

const dora = `dora-${HONE_ORGANIZATION}@example.com`;
const withdrawn = await invites.create({ email: `eve-${HONE_ORGANIZATION}@example.com`, role: "reader" });
const invited = await invites.create({
  email: dora, role: "developer", projects: [{ id: project_id, role: "member" }],
});
assert.deepEqual([invited.object, invited.email, invited.role, invited.status], [
  "organization.invite", dora, "reader", "pending",
]);
assert.deepEqual(await invites.retrieve(invited.id), invited);
assert.deepEqual(await idsByPage(invites.list({ limit: 1 })), [[invited.id], [withdrawn.id]]);
assert.deepEqual(await invites.delete(withdrawn.id), {
  id: withdrawn.id, object: "organization.invite.deleted", deleted: true,
});
await refused(invites.retrieve(withdrawn.id), NotFoundError, { status: 404, code: "not_found", param: "invite_id" });

let session;
async function call(method, path, fields, headers = {}) {
  const token = session ? { "X-Session-Token": session } : {};
  const response = await fetch(`${HONE_URL}${path}`, {
    method,
    headers: { "Content-Type": "application/json", ...token, ...headers },
    body: fields && JSON.stringify(fields),
  });
  const answer = await response.json();
  session = answer.meta?.session_token ?? session;
  return [response.status, answer];
}

const auth = "/_allauth/app/v1/auth";
assert.equal((await call("POST", `${auth}/signup`, { email: dora, password: "correct horse battery" }))[0], 401);
const code = (await mailed(dora, /^ {4}\S+$/m)).trim();
assert.equal((await call("POST", `${auth}/email/verify`, { key: code }))[0], 200);
const token = await mailed(dora, /hone_iv_\w+/);
const [status, joined] = await call("POST", "/v1/invites/accept", { token });
assert.deepEqual([status, joined.organization_id, joined.role], [200, HONE_ORGANIZATION, "developer"]);
assert.equal((await invites.retrieve(invited.id)).status, "accepted");

const [member] = await all(users.list({ emails: [dora] }));
assert.equal(member.role, "developer");
assert.deepEqual(await users.retrieve(member.id), member);
assert.deepEqual(await idsByPage(users.list({ limit: 1 })), [[member.id], [owner.id]]);
assert.deepEqual(await idsByPage(projects.users.list(project_id)), [[member.id]]);

// The session works in the project, and in no other.
const headers = { "OpenAI-Organization": HONE_ORGANIZATION, "OpenAI-Project": project_id };
const other = await projects.create({ name: "Of others" });
assert.deepEqual((await call("GET", "/v1/files", undefined, headers))[1].data, []);
const [hidden] = await call("GET", "/v1/files", undefined, { ...headers, "OpenAI-Project": other.id });
assert.equal(hidden, 404);
const added = await projects.users.create(other.id, { user_id: member.id, role: "member" });
assert.deepEqual([added.object, added.id, added.role], ["organization.project.user", member.id, "member"]);
assert.deepEqual(await projects.users.retrieve(member.id, { project_id: other.id }), added);
assert.equal((await projects.users.update(member.id, { project_id: other.id, role: "owner" })).role, "owner");
assert.equal((await call("GET", "/v1/files", undefined, { ...headers, "OpenAI-Project": other.id }))[0], 200);
assert.equal((await projects.users.delete(member.id, { project_id: other.id })).deleted, true);

assert.equal((await users.update(member.id, { role: "billing" })).role, "billing");
await refused(users.update(owner.id, { role: "reader" }), ConflictError, {
  status: 409, code: "conflict", param: "user_id",
});
assert.equal((await users.delete(member.id)).object, "organization.user.deleted");
assert.equal((await call("GET", "/v1/files", undefined, headers))[0], 404);
assert.deepEqual((await all(users.list())).map((user) => user.id), [owner.id]);
const roles = await all(organization.roles.list());
assert.deepEqual(roles.map((role) => role.name), ["owner", "admin", "developer", "billing", "viewer"]);
