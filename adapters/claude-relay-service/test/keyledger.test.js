'use strict'

// Run by node --test with KEYLEDGER_URL and KEYLEDGER_TOKEN (role admin) of a live keyledger.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const path = require('node:path')
const { after, describe, test } = require('node:test')

const base = process.env.KEYLEDGER_URL
const token = process.env.KEYLEDGER_TOKEN
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const running = new Set()
after(() => running.forEach((one) => one.kill('SIGKILL')))

async function keyledger(method, where, body) {
  const answer = await fetch(base + where, { method, headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: body && JSON.stringify(body) })
  const text = await answer.text()
  return text === '' ? {} : JSON.parse(text)
}

const make = (fields) => keyledger('POST', '/v1/keys', { name: 'k', ...fields })

// start starts the original with the adapter; it ends the test where that does not listen.
async function start(env = {}) {
  const spool = env.KEYLEDGER_SPOOL_DIR ?? fs.mkdtempSync(path.join(os.tmpdir(), 'spool-'))
  const child = spawn(process.execPath, [path.join(__dirname, 'src', 'app.js')], {
    env: { ...process.env, NODE_OPTIONS: `--require=${path.join(__dirname, '..', 'keyledger.js')}`, KEYLEDGER_SPOOL_DIR: spool, ...env }
  })
  running.add(child)
  const app = { child, spool, log: '' }
  child.stderr.on('data', (part) => { app.log += part })
  app.exited = once(child, 'exit')
  const [first] = await Promise.race([once(child.stdout, 'data'), app.exited.then(([code]) => [code])])
  app.code = typeof first === 'number' ? first : null
  app.url = `http://127.0.0.1:${String(first).trim()}`
  app.post = async (url, body, headers) => {
    const answer = await fetch(app.url + url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })
    return { status: answer.status, headers: answer.headers, body: await answer.json() }
  }
  app.ask = (key, body, headers) => app.post('/api/v1/messages', { model: 'claude-haiku-4-5', ...body }, { 'x-api-key': key.apiKey, 'user-agent': 'claude-cli/2.0.0 (external)', ...headers })
  app.service = (name, ...args) => app.post(`/service/${name}`, args)
  app.stop = async () => { child.kill('SIGTERM'); await app.exited }
  return app
}

// eventually waits until something holds, and returns it.
async function eventually(what, holds) {
  for (const end = Date.now() + 15000; ;) {
    const got = await holds()
    if (got) return got
    if (Date.now() > end) assert.fail(`never: ${what}`)
    await sleep(50)
  }
}

// between stands between the adapter and keyledger, and lets pass what it is told to.
async function between() {
  const one = { blocked: () => false, seen: [] }
  const server = http.createServer(async (req, res) => {
    const parts = []
    for await (const part of req) parts.push(part)
    one.seen.push(req.url)
    if (one.slow) await sleep(one.slow)
    if (one.blocked(req.url)) return one.onBlocked ? one.onBlocked() : req.socket.destroy()
    const answer = await fetch(base + req.url, { method: req.method, headers: { authorization: req.headers.authorization, 'content-type': 'application/json' }, body: parts.length ? Buffer.concat(parts) : undefined })
    res.writeHead(answer.status).end(await answer.text())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.unref()
  one.url = `http://127.0.0.1:${server.address().port}`
  return one
}

const usageOf = async (key) => (await keyledger('GET', `/v1/keys/${key.id}/usage`)).total
const slots = async (key) => (await keyledger('GET', `/v1/keys/${key.id}`)).currentConcurrency

describe('inside claude-relay-service', { concurrency: 4 }, () => {
  test('a request is admitted, recorded with its admission, and counted by the original too', async () => {
    const app = await start()
    const key = await make({ concurrencyLimit: 1, claudeAccountId: 'claude-main', tags: ['team-a'] })
    const got = await app.ask(key)
    assert.equal(got.status, 200)
    const { apiKey } = got.body
    assert.deepEqual([apiKey.id, apiKey.name, apiKey.permissions, apiKey.claudeAccountId, apiKey.tags, apiKey.concurrencyLimit], [key.id, 'k', [], 'claude-main', ['team-a'], 1])
    await eventually('it is in the ledger', async () => (await usageOf(key)).requests === 1)
    const total = await usageOf(key)
    assert.deepEqual([total.inputTokens, total.outputTokens, total.costUsd], [100, 10, 0.00015])
    assert.equal(await slots(key), 0)
    assert.equal((await (await fetch(`${app.url}/recorded`)).json()).length, 1)
    assert.deepEqual(fs.readdirSync(app.spool), [])

    assert.equal((await app.ask(key, { say: { plain: true, twice: true } })).status, 200)
    await eventually('both events are in the ledger', async () => (await usageOf(key)).requests === 3)
    assert.equal((await usageOf(key)).cacheReadTokens, 40)
    await app.stop()
  })

  test('refusals are the original\'s own', async () => {
    const app = await start()
    const check = async (fields, wanted, { first, body, headers } = {}) => {
      const key = await make(fields)
      for (let i = 0; i < (first ?? 0); i++) {
        assert.equal((await app.ask(key, body)).status, 200)
        await eventually('it is recorded', async () => (await usageOf(key)).requests === i + 1)
      }
      const got = await app.ask(key, body, headers)
      assert.deepEqual([got.status, typeof got.body.error === 'string' ? got.body.error : got.body.error.code ?? got.body.error.type], wanted)
      return got
    }
    await check({ isActive: false }, [401, 'Invalid API key'])
    await check({ expiresAt: '2020-01-01T00:00:00Z' }, [401, 'Invalid API key'])
    await check({ permissions: ['gemini'] }, [403, 'permission_error'])
    await check({ enableModelRestriction: true, restrictedModels: ['claude-haiku-4-5'] }, [403, 'forbidden'])
    const client = await check({ enableClientRestriction: true, allowedClients: ['gemini_cli'] }, [403, 'Client not allowed'])
    assert.deepEqual([client.body.allowedClients, client.body.userAgent], [['gemini_cli'], 'claude-cli/2.0.0 (external)'])
    const windowed = await check({ rateLimitWindow: 60, rateLimitRequests: 1 }, [429, 'Rate limit exceeded'], { first: 1 })
    assert.deepEqual([windowed.body.requestLimit, windowed.body.currentRequests, windowed.headers.get('retry-after')], [1, 1, null])
    assert.ok(windowed.body.remainingMinutes >= 59 && Date.parse(windowed.body.resetAt) > Date.now())
    const daily = await check({ dailyCostLimit: 0.0001 }, [402, 'daily_cost_limit_exceeded'], { first: 1 })
    assert.deepEqual([daily.body.costLimit, daily.body.currentCost], [0.0001, 0.00015])
    await check({ totalCostLimit: 0.0001 }, [402, 'total_cost_limit_exceeded'], { first: 1 })
    assert.deepEqual([(await app.post('/api/v1/messages', {})).status, (await app.post('/api/v1/messages', {})).body.error], [401, 'Missing API key'])
    assert.equal((await app.ask({ apiKey: 'x' })).body.error, 'Invalid API key format')
    assert.equal((await app.ask({ apiKey: `cr_${'0'.repeat(64)}` })).body.message, 'API key not found')

    const key = await make({ concurrencyLimit: 1 })
    const first = app.ask(key, { say: { hold: 1000 } })
    await eventually('the slot is taken', async () => (await slots(key)) === 1)
    const second = await app.ask(key)
    assert.deepEqual([second.status, second.body.error, second.body.concurrencyLimit, second.headers.get('retry-after')], [429, 'Concurrency limit exceeded', 1, '1'])
    assert.equal((await first).status, 200)
    await app.stop()
  })

  test('counting tokens is free, a key in the query is found, and a bound is reserved', async () => {
    const app = await start()
    const key = await make({ totalCostLimit: 0.01 })
    for (let i = 0; i < 3; i++) {
      assert.equal((await app.post('/api/v1/messages/count_tokens?beta=true', { model: 'claude-haiku-4-5', say: { nothing: true } }, { authorization: `Bearer ${key.apiKey}` })).status, 200)
    }
    assert.equal((await usageOf(key)).requests, 0)
    const spent = await make({ totalCostLimit: 0.0001 })
    assert.equal((await app.ask(spent)).status, 200)
    await eventually('it is spent', async () => (await usageOf(spent)).requests === 1)
    assert.equal((await app.ask(spent)).status, 402)
    assert.equal((await app.post('/api/v1/messages/count_tokens', { model: 'claude-haiku-4-5', say: { nothing: true } }, { 'x-api-key': spent.apiKey })).status, 200)
    for (const way of ['/api/v1/messages?x=/count_tokens', '/api/v1/messages?x=:countTokens']) {
      assert.equal((await app.post(way, { model: 'claude-haiku-4-5' }, { 'x-api-key': spent.apiKey })).status, 402)
    }
    const info = await fetch(`${app.url}/api/v1/key-info`, { headers: { 'x-api-key': spent.apiKey } })
    assert.deepEqual([info.status, (await info.json()).apiKey.id], [200, spent.id])
    assert.equal((await fetch(`${app.url}/api/v1/key-info`, { headers: { 'x-api-key': `cr_${'0'.repeat(64)}` } })).status, 401)
    const dear = await app.post(`/api/v1/messages?key=${key.apiKey}`, { model: 'claude-haiku-4-5', max_tokens: 32000 })
    assert.equal(dear.status, 402)
    assert.equal((await app.post(`/api/v1/messages?key=${key.apiKey}`, { model: 'claude-haiku-4-5', max_tokens: 100 })).status, 200)
    await app.stop()
  })

  test('a stream renews its lease, and one that used nothing gives its slot back', async () => {
    const app = await start({ KEYLEDGER_LEASE_SECONDS: '5' })
    const key = await make({ concurrencyLimit: 1 })
    const answer = app.ask(key, { say: { hold: 8000 } })
    await eventually('the slot is taken', async () => (await slots(key)) === 1)
    await sleep(6500) // longer than the lease
    assert.equal(await slots(key), 1)
    assert.equal((await answer).status, 200)
    await eventually('its usage ends it', async () => (await slots(key)) === 0)
    assert.equal((await app.ask(key, { say: { nothing: true } })).status, 200)
    await app.stop()
    const slow = await start()
    assert.equal((await slow.ask(await make({}), { say: { nothing: true } })).status, 200)
    const quick = await make({ concurrencyLimit: 1 })
    assert.equal((await slow.ask(quick, { say: { nothing: true } })).status, 200)
    await eventually('nothing was used, so it is released', async () => (await slots(quick)) === 0)
    await slow.stop()
  })

  test('a client that leaves while keyledger is asked leaves no slot behind', async () => {
    const way = await between()
    const key = await make({ concurrencyLimit: 1 })
    const app = await start({ KEYLEDGER_URL: way.url })
    way.slow = 600
    for (let i = 0; i < 3; i++) await assert.rejects(fetch(`${app.url}/api/v1/messages`, { method: 'POST', headers: { 'x-api-key': key.apiKey }, body: '{"model":"claude-haiku-4-5","say":{"nothing":true}}', signal: AbortSignal.timeout(150) }))
    await sleep(1500)
    way.slow = 0
    await eventually('every slot came back', async () => (await slots(key)) === 0)
    assert.equal((await app.ask(key)).status, 200)
    await app.stop()
  })

  test('a crash between answer and record loses nothing and counts nothing twice', async () => {
    const way = await between()
    const key = await make({ concurrencyLimit: 1 })
    const app = await start({ KEYLEDGER_URL: way.url })
    way.blocked = (url) => url === '/v1/usage'
    way.onBlocked = () => app.child.kill('SIGKILL')
    assert.equal((await app.ask(key)).status, 200)
    await app.exited
    assert.equal((await usageOf(key)).requests, 0)
    assert.equal(fs.readdirSync(app.spool).length, 1)
    // It may have arrived all the same: it comes twice, and counts once.
    const file = path.join(app.spool, fs.readdirSync(app.spool)[0])
    await keyledger('POST', '/v1/usage', JSON.parse(fs.readFileSync(file, 'utf8')))
    const again = await start({ KEYLEDGER_SPOOL_DIR: app.spool })
    await eventually('the spool is empty', () => fs.readdirSync(app.spool).length === 0)
    assert.equal((await usageOf(key)).requests, 1)
    assert.equal(await slots(key), 0)
    await again.stop()
  })

  test('without keyledger nobody is let through, and what was under way waits in the spool', async () => {
    const way = await between()
    const key = await make({})
    const app = await start({ KEYLEDGER_URL: way.url })
    const under = app.ask(key, { say: { hold: 2000 } })
    await eventually('it was admitted', async () => (await slots(key)) === 1)
    way.blocked = () => true
    assert.equal((await under).status, 200)
    await eventually('it is in the spool', () => fs.readdirSync(app.spool).some((n) => n.endsWith('.json')))
    assert.deepEqual([(await app.ask(key)).status, (await app.ask(key)).body.error], [503, 'Service temporarily unavailable'])
    way.blocked = () => false
    await eventually('it is sent again', async () => (await usageOf(key)).requests === 1)
    assert.deepEqual(fs.readdirSync(app.spool), [])
    await app.stop()
  })

  test('the pages of the original validate and change keys through keyledger', async () => {
    const app = await start()
    const made = (await app.service('generateApiKey', { name: 'from the page', dailyCostLimit: 3, permissions: [], tags: ['x'], isActive: true })).body.answer
    assert.match(made.apiKey, /^cr_(?!0{64})/)
    const found = (await keyledger('GET', `/v1/keys?tag=crs:${made.id}`)).data[0]
    assert.deepEqual([found.name, found.dailyCostLimit, found.tags.includes('x')], ['from the page', 3, true])
    const valid = (await app.service('validateApiKey', made.apiKey)).body.answer
    assert.deepEqual([valid.valid, valid.keyData.id, valid.keyData.tags], [true, made.id, ['x']])
    assert.equal((await app.ask(made)).body.apiKey.id, made.id)
    await eventually('it is counted', async () => (await usageOf(found)).requests === 1)
    assert.equal((await app.service('validateApiKeyForStats', made.apiKey)).body.answer.keyData.usage.total.requests, 1)

    await app.service('updateApiKey', made.id, { dailyCostLimit: 7, tags: ['y'], isActive: 'false' })
    const changed = await keyledger('GET', `/v1/keys/${found.id}`)
    assert.deepEqual([changed.dailyCostLimit, changed.isActive, [...changed.tags].sort()], [7, false, [`crs:${made.id}`, 'y']])
    assert.deepEqual((await app.service('validateApiKey', made.apiKey)).body.answer.error, 'API key is disabled')
    assert.match((await app.service('updateApiKey', made.id, { weeklyOpusCostLimit: 5 })).body.error, /keyledger has no weeklyOpusCostLimit/)
    assert.match((await app.service('updateApiKey', made.id, { name: '' })).body.error, /name/)
    await app.service('deleteApiKey', made.id)
    assert.equal((await keyledger('GET', `/v1/keys/${found.id}`)).status, 'deleted')
    await app.service('restoreApiKey', made.id)
    assert.equal((await keyledger('GET', `/v1/keys/${found.id}`)).status, 'disabled')
    await app.stop()
  })

  test('it does not start where a key uses what keyledger lacks, and names it', async () => {
    const ok = { id: 'a', name: 'plain', serviceRates: '{"claude":1}' }
    const bad = [{ id: 'b', name: 'opus', weeklyOpusCostLimit: 5 }, { id: 'c', name: 'windowed', rateLimitCost: '0.5' }, { id: 'd', name: 'droid', droidAccountId: 'x' },
      { id: 'e', name: 'lazy', expirationMode: 'activation' }, { id: 'f', name: 'rated', serviceRates: '{"claude":2}' }]
    const app = await start({ TEST_KEYS: JSON.stringify([ok, ...bad]) })
    assert.equal(app.code, 1)
    for (const key of bad) assert.match(app.log, new RegExp(`${key.name} \\(${key.id}\\)`))
    assert.doesNotMatch(app.log, /plain/)
    const fine = await start({ TEST_KEYS: JSON.stringify([ok]) })
    assert.equal(fine.code, null)
    await fine.stop()
    assert.equal((await start({ KEYLEDGER_TOKEN: '' })).code, 1)
  })
})
