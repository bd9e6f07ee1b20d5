// Watches files while another process changes them, and prints what was noticed of each change.
//
// usage: node watch.mjs raw DIR | chokidar DIR | tsc PROJECT | vite PROJECT
//
// DIR holds the tree of the tests of mounts, with chokidar in reach of the working directory; PROJECT the small
// fixture with src/main.ts and src/part.ts. Lines are sorted per change, and the same in any directory.
import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const [what, given] = process.argv.slice(2);
const root = path.resolve(given);
const require = createRequire(path.join(process.cwd(), 'here.js'));
const seen = new Set();
const note = (...words) => seen.add(words.join(' '));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Runs a change in a process of its own, waits until nothing more is noticed of it, and prints what is to be shown of that. */
async function change(script, isAll = () => seen.size > 0, shown = () => [...seen].sort()) {
  seen.clear();
  const { status } = spawnSync('sh', ['-ec', script], { cwd: root, stdio: 'inherit' });
  if (status !== 0) throw new Error(`${script}: ${status}`);
  // A machine that is busy takes its time.
  const deadline = Date.now() + 120_000;
  for (let count = -1; Date.now() < deadline && !(isAll() && count === seen.size); ) {
    count = seen.size;
    await sleep(200);
  }
  if (!isAll()) throw new Error(`${script}: noticed was only: ${[...seen].sort().join('; ')}`);
  console.log(`$ ${script}`);
  for (const line of shown()) console.log(line);
}

const two = () => seen.size > 1;
const CHANGES = [
  ['echo changed > a'],
  ['echo more >> lib/x.js'],
  ['echo new > lib/new'],
  ['mv lib/new lib/moved', two],
  ['rm lib/moved'],
  ['echo saved > a.tmp; mv a.tmp a'],
  ['mkdir lib/folder'],
  ['echo in > lib/folder/in'],
  ['rm -r lib/folder', two],
  ['rm "d e/b"'],
  ['mv lib/deep deeper', two],
  ['echo more >> deeper/er/numbers'],
  ['rm -r deeper', two],
];

async function raw() {
  // inotify(7) itself, one watch per directory.
  for (const folder of ['.', 'lib', 'd e']) {
    fs.watch(path.join(root, folder), (event, name) => note(event, path.join(folder, name)));
  }
  fs.watch(path.join(root, 'bin/x'), (event, name) => note('through a link:', event, name));
  for (const [script] of CHANGES) if (!/numbers|folder\/in/.test(script)) await change(script);
}

async function chokidar() {
  const watcher = require('chokidar').watch('.', { cwd: root });
  await new Promise((ready) => watcher.once('ready', ready));
  watcher.on('all', (event, name) => note(event, name));
  for (const words of CHANGES) await change(...words);
  await watcher.close();
}

async function tsc() {
  const program = path.join(root, 'node_modules/typescript/bin/tsc');
  const child = spawn(process.execPath, [program, '--watch', '--noEmit', '--preserveWatchOutput', '--pretty', 'false'], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  process.on('exit', () => child.kill());
  let rest = '';
  child.stdout.on('data', (text) => {
    rest += text;
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) {
      // One change can make it compile more than once: the last time counts.
      if (/ Starting .*compilation/.test(line)) seen.clear();
      if (line.trim()) note(line.replace(/^\S+( [AP]M)? - /, '').replaceAll(root, 'ROOT'));
    }
  });
  // Each waits for what the one before it can't have led to.
  const says = (...texts) => () => ['Found ', ...texts].every((text) => [...seen].some((line) => line.includes(text)));
  await change('true', says('Found 0'));
  await change('echo "export const part: number = \'text\';" > src/part.ts', says('TS2322'));
  await change('echo "export const part: number = 2;" > src/part.ts', says('Found 0'));
  await change('echo "export const other = 1;" > src/other.ts; echo "import \'./other\'; export * from \'./gone\';" >> src/main.ts', says("'./gone'"));
  await change('echo "export const gone = 1;" > src/gone.ts', says('Found 0'));
  // It says that the file or that the module is gone, by what it looks at first.
  await change('mv src/part.ts src/away.ts', says('part'), () => []);
  await change('echo "declare const broken: Missing;" >> node_modules/@types/react/index.d.ts', says("'Missing'", "'./part'"));
}

async function vite() {
  const { createServer } = await import(path.join(root, 'node_modules/vite/dist/node/index.js'));
  const server = await createServer({ root, logLevel: 'silent', configFile: false, server: { port: 0, host: '127.0.0.1' } });
  await server.listen();
  await sleep(500);
  const names = (event, file) => note(event, path.relative(root, file));
  server.watcher.on('all', names);
  const code = async () => (await server.transformRequest('/src/part.ts'))?.code.split('\n')[0];
  console.log(await code());
  for (const text of ['two', 'three']) {
    await change(`echo "export const part = '${text}';" > src/part.ts`);
    console.log(await code());
  }
  await change('echo "export const part = 4;" > src/tmp; mv src/tmp src/part.ts');
  console.log(await code());
  await change('echo "x" > src/new.ts');
  await change('rm src/new.ts');
  await server.close();
}

await { raw, chokidar, tsc, vite }[what]();
process.exit(0);
