// Runs lifecycle scripts with npm's own modules and environment, one at a time, as told.
//
// argv: npm's folder, then the words after `npm`. Descriptor 3 brings one JSON request a line,
// descriptor 4 takes one JSON answer a line:
//   {"path", "event", "pkg"?, "env", "foreground"} -> {"ran", "code", "signal", "error"}
// Without "pkg" the package.json at "path" counts, as for the project's own scripts.
'use strict'
const fs = require('fs')
const path = require('path')

const [root, ...words] = process.argv.slice(1)

const answer = value => fs.writeSync(4, JSON.stringify(value) + '\n')

let pending = ''
const request = () => {
  const chunk = Buffer.alloc(65536)
  for (;;) {
    const end = pending.indexOf('\n')
    if (end >= 0) {
      const line = pending.slice(0, end)
      pending = pending.slice(end + 1)
      return JSON.parse(line)
    }
    const read = fs.readSync(3, chunk, 0, chunk.length, null)
    if (read === 0) {
      return null
    }
    pending += chunk.toString('utf8', 0, read)
  }
}

const main = async () => {
  process.argv = [process.execPath, path.join(root, 'bin', 'npm-cli.js'), ...words]
  const Npm = require(path.join(root, 'lib', 'npm.js'))
  const runScript = require(path.join(root, 'node_modules', '@npmcli', 'run-script'))
  const PackageJson = require(path.join(root, 'node_modules', '@npmcli', 'package-json'))
  const npm = new Npm()
  await npm.load()
  process.env.npm_command = npm.command || 'ci'
  const scriptShell = npm.config.get('script-shell') || undefined
  const logs = npm.config.get('logs-dir') || path.join(npm.config.get('cache'), '_logs')
  answer({ logs })
  for (let wanted = request(); wanted; wanted = request()) {
    const { event, env, foreground } = wanted
    const stdio = foreground ? 'inherit' : 'pipe'
    const options = { path: wanted.path, event, env, stdio, scriptShell, args: [] }
    if (wanted.pkg) {
      const { content } = await PackageJson.normalize(wanted.path)
      options.pkg = { ...wanted.pkg, scripts: content.scripts || {}, gypfile: content.gypfile }
    }
    try {
      const { cmd, args, code, signal } = await runScript(options)
      answer({ ran: Boolean(cmd || args), code: code || 0, signal: signal || null, error: null })
    } catch (er) {
      const { code, signal, message } = er
      const status = Number.isInteger(code) ? code : 1
      answer({ ran: true, code: status, signal: signal || null, error: String(message) })
    }
  }
}

main().then(() => process.exit(0), er => {
  answer({ failed: String((er && er.stack) || er) })
  process.exit(1)
})
