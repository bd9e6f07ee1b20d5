// Extracts tarballs with npm's own pacote, as `npm ci` calls it.
// usage: extract.js NPM CASES.json; prints one JSON line per case: {"name", "error"}
const { readFileSync } = require('node:fs');
const [npm, list] = process.argv.slice(2);
const pacote = require(`${npm}/node_modules/pacote`);
(async () => {
  for (const { name, url, integrity, dest, cache } of JSON.parse(readFileSync(list, 'utf8'))) {
    const opts = { cache, integrity, resolved: url, registry: new URL('/', url).href, retry: { retries: 0 } };
    // npm's tar throws some errors outside of any promise, depending on how the bytes come in; npm ends by those too.
    const thrown = new Promise((_, reject) => { process.removeAllListeners('uncaughtException').once('uncaughtException', reject); });
    const extracted = Promise.race([pacote.extract(`p@${url}`, dest, opts), thrown]);
    const error = await extracted.then(() => null, (er) => er.code || er.message);
    console.log(JSON.stringify({ name, error }));
  }
})();
