import assert from "node:assert/strict";
import { NotFoundError } from "openai";
import { all, client, HONE_MODEL, refused } from "../support.mjs";

// The fifth style of paging is none.
const page = await client.models.list();
assert.equal(page.hasNextPage(), false);
assert.deepEqual((await all(client.models.list())).map((model) => model.id), [HONE_MODEL]);
const model = await client.models.retrieve(HONE_MODEL);
assert.deepEqual([model.id, model.object, model.owned_by], [HONE_MODEL, "model", "hone"]);
assert.equal(typeof model.created, "number");
await refused(client.models.retrieve("ft:none:of:these"), NotFoundError, {
  status: 404, code: "model_not_found", param: "model",
});
