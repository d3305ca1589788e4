// What the flows share. A flow is a program that ends with an exception unless Hone does what the unmodified SDK
// expects; pytest runs each with a customer of its own (test_node_sdk.py).

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

export const { HONE_URL, HONE_API_KEY, HONE_ADMIN_KEY, HONE_ORGANIZATION, HONE_MODEL, HONE_MAIL } = process.env;
export const ENDPOINT = "/v1/chat/completions";

export function connect(options = {}) {
  const keys = { apiKey: HONE_API_KEY, adminAPIKey: HONE_ADMIN_KEY, organization: null, project: null };
  return new OpenAI({ baseURL: `${HONE_URL}/v1`, maxRetries: 0, timeout: 30_000, ...keys, ...options });
}

export const client = connect();
export const organization = client.admin.organization;

// Routes that the SDK has no method for, with the project's key: it would choose the admin key otherwise.
export const extra = connect({ adminAPIKey: null });

export async function all(list) {
  return Array.fromAsync(list);
}

export async function idsByPage(list) {
  return Array.fromAsync((await list).iterPages(), (page) => page.getPaginatedItems().map((item) => item.id));
}

export async function defaultProject() {
  return (await all(organization.projects.list())).at(-1).id;
}

// The call is refused with an error of this class, which tells status, code, param and the id of the request.
export async function refused(call, kind, expected) {
  await assert.rejects(call, (error) => {
    assert.equal(error.constructor, kind, error);
    const { status, code, param } = error;
    assert.deepEqual({ status, code, param }, { param: null, ...expected });
    assert.match(error.requestID, /^req_/);
    return true;
  });
}

// Asks until the answer is as wished.
export async function until(ask, isDone, seconds = 60) {
  const giveUpAt = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await ask();
    if (isDone(answer)) return answer;
    assert.ok(Date.now() < giveUpAt, `not in ${seconds} s: ${JSON.stringify(answer)}`);
    await sleep(100);
  }
}

export function rows(count, { maxTokens = 8, prompt = "Say something about the number", ...fields } = {}) {
  const lines = Array.from({ length: count }, (_, index) => ({
    custom_id: `row-${index + 1}`,
    method: "POST",
    url: ENDPOINT,
    body: {
      model: HONE_MODEL,
      messages: [{ role: "user", content: `${prompt} ${index + 1}.` }],
      max_tokens: maxTokens,
      ignore_eos: true,
      ...fields,
    },
  }));
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

export async function submit(text, fields = {}) {
  const file = await client.files.create({ file: new File([text], "rows.jsonl"), purpose: "batch" });
  return client.batches.create({
    input_file_id: file.id, endpoint: ENDPOINT, completion_window: "24h", ...fields,
  });
}

export async function ended(batch, seconds = 300) {
  const open = ["validating", "in_progress", "finalizing", "cancelling"];
  return until(() => client.batches.retrieve(batch.id), (now) => !open.includes(now.status), seconds);
}

export async function linesOf(fileId) {
  const text = await (await client.files.content(fileId)).text();
  return text.trimEnd().split("\n").map((line) => JSON.parse(line));
}

// The last message to an address that holds what is looked for, and that.
export async function mailed(address, pattern) {
  const find = async () => {
    const names = (await readdir(HONE_MAIL)).sort();
    const texts = await Promise.all(names.map((name) => readFile(path.join(HONE_MAIL, name), "utf8")));
    const messages = texts.flatMap((text) => text.split(/^-{79}$/m));
    const theirs = messages.filter((text) => text.includes(`To: ${address}`));
    return theirs.flatMap((text) => text.match(pattern) ?? []).at(-1);
  };
  return until(find, (found) => found !== undefined, 60);
}
