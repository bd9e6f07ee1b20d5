// Runs `rift-ci.sh close` when the job ends; its status is this one's.
const { spawnSync } = require("node:child_process");
const { join } = require("node:path");

const script = join(__dirname, "..", "rift-ci.sh");
const { error, status } = spawnSync("sh", [script, "close"], { stdio: "inherit" });
if (error) console.error(`::warning title=rift::sh could not be started: ${error.message}`);
process.exitCode = error ? 0 : (status ?? 1);
