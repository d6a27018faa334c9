// A program that uses golem-js 3.6.0 as published; arguments: ACTIVITY FRAMES [stream].

import { createRequire } from "node:module";

const { Activity, GolemNetwork, nullLogger } = createRequire(process.env.SDK_HOME + "/")("@golem-sdk/golem-js");

const [activityId, frames] = [process.argv[2], Number(process.argv[3])];
const isStream = process.argv[4] === "stream";
const capture = { stdout: { stream: { format: "string" } }, stderr: { stream: { format: "string" } } };
const script = Array.from({ length: frames }, (_, n) => ({
  run: { entry_point: "mandel", args: ["zoom", String(n + 1), String(frames)], capture },
}));

const api = { key: process.env.YAGNA_APPKEY, url: process.env.YAGNA_API_URL };
const golem = new GolemNetwork({ api, logger: nullLogger() });
// golem-js finds an activity by its id only in the program that made its demand
const agreement = { id: "", provider: { id: "", name: "" } };
const activity = new Activity(activityId, agreement, "Ready", "Initialized", { currentUsage: [] });
const executor = golem.activity.createScriptExecutor(activity);
const batch = await executor.execute({ text: JSON.stringify(script) });
console.log("submitted", batch.batchId);
const tellResult = (result) => console.log("result", result.index, result.result, String(result.stdout).trim());
const tellEvent = (event) => event.stdout && console.log("stdout", event.index, JSON.stringify(event.stdout));
await new Promise((resolve, reject) => {
  executor.getResultsObservable(batch, isStream).subscribe({
    next: isStream ? tellEvent : tellResult,
    error: reject,
    complete: resolve,
  });
});
console.log("complete");
