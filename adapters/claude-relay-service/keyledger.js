'use strict'

// Lets keyledger decide and keep the ledger inside claude-relay-service, which goes on as it is:
//
//   KEYLEDGER_URL=http://127.0.0.1:8080 KEYLEDGER_TOKEN=... NODE_OPTIONS=--require=/path/to/keyledger.js node src/app.js
//
// It takes the place of the middleware that authenticates keys and of what checks them, and stands
// around what records usage and what the admin's pages write. Nothing of the original is changed
// on disk; without NODE_OPTIONS it is what it was. It needs Node 18 and nothing else.
//
//   KEYLEDGER_URL            where keyledger is
//   KEYLEDGER_TOKEN          an access token of the role relay; of the role admin, changes of keys on the
//                            original's pages reach keyledger too (else they are refused there)
//   KEYLEDGER_SPOOL_DIR      usage that is not recorded yet (./keyledger-spool); one for each process
//   KEYLEDGER_LEASE_SECONDS  how long a slot of concurrency outlives this process (120)

const { AsyncLocalStorage } = require('node:async_hooks')
const { randomUUID } = require('node:crypto')
const fs = require('node:fs')
const http = require('node:http')
const Module = require('node:module')
const path = require('node:path')

const base = (process.env.KEYLEDGER_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '')
const token = process.env.KEYLEDGER_TOKEN || ''
const spoolDir = path.resolve(process.env.KEYLEDGER_SPOOL_DIR || 'keyledger-spool')
const leaseSeconds = Math.min(3600, Math.max(5, Number(process.env.KEYLEDGER_LEASE_SECONDS) || 120))

// How long one question may take, how long the end of a request waits for its usage before its
// admission is released, and how often spooled usage is sent again, in milliseconds.
const ASK_TIMEOUT = 10_000
const USAGE_GRACE = 5_000
const RETRY_EVERY = 5_000

const log = (level, message, more) => console.error(JSON.stringify({ level, source: 'keyledger', message, ...more }))

// requests carries what was admitted from the middleware to where usage is recorded.
const requests = new AsyncLocalStorage()

// --- asking keyledger -------------------------------------------------------------------------

class Away extends Error {}

// ask sends a request. It fails with Away where trying again may help, else answers.
async function ask(method, where, body, headers = {}) {
  let answer
  try {
    answer = await fetch(base + where, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(ASK_TIMEOUT)
    })
    const text = await answer.text()
    const json = text === '' ? {} : JSON.parse(text)
    if (answer.status >= 500 || answer.status === 429) throw new Away(`keyledger answered ${answer.status}`)
    return { status: answer.status, body: json }
  } catch (error) {
    if (error instanceof Away) throw error
    throw new Away(`keyledger cannot be asked: ${error.message}`)
  }
}

// --- the spool: one file for each event, there before it is sent and gone once it is recorded --

async function keep(event) {
  await fs.promises.mkdir(spoolDir, { recursive: true, mode: 0o700 })
  const file = path.join(spoolDir, `${Date.now()}-${randomUUID()}.json`)
  const handle = await fs.promises.open(`${file}.new`, 'w', 0o600)
  try {
    await handle.writeFile(JSON.stringify(event))
    await handle.sync()
  } finally {
    await handle.close()
  }
  await fs.promises.rename(`${file}.new`, file)
  return file
}

// send records one spooled event. What keyledger refuses for good is put aside, and told of.
async function send(file) {
  let event
  try {
    event = JSON.parse(await fs.promises.readFile(file, 'utf8'))
  } catch (error) {
    if (error.code === 'ENOENT') return
    throw error
  }
  let answer = await ask('POST', '/v1/usage', event)
  if (answer.status === 422 && event.admissionId !== undefined && event.keyId !== undefined) {
    // An admission that is remembered no more: the usage happened all the same.
    const { admissionId, ...rest } = event
    answer = await ask('POST', '/v1/usage', { requestId: admissionId, ...rest })
  }
  if (answer.status !== 200 && answer.status !== 400 && answer.status !== 422) throw new Away(`keyledger answered ${answer.status}`)
  if (answer.status !== 200) {
    log('error', 'usage was refused, and is kept beside the others', { status: answer.status, answer: answer.body, file: `${file}.refused` })
    await fs.promises.rename(file, `${file}.refused`)
    return
  }
  await fs.promises.rm(file, { force: true })
}

let sending = null

// sendAll sends what is spooled, in order, until keyledger is away. One at a time.
function sendAll() {
  sending ??= (async () => {
    try {
      for (const name of (await fs.promises.readdir(spoolDir)).filter((n) => n.endsWith('.json')).sort()) {
        await send(path.join(spoolDir, name))
      }
    } catch (error) {
      if (error.code !== 'ENOENT') log('warn', 'usage waits in the spool', { error: error.message, spoolDir })
    } finally {
      sending = null
    }
  })()
  return sending
}

// record spools an event and sends it. It fails only where it cannot be spooled.
async function record(event) {
  const file = await keep(event)
  try {
    await send(file)
  } catch (error) {
    log('warn', 'usage waits in the spool', { error: error.message })
  }
}

// --- keys -------------------------------------------------------------------------------------

// A key that was made on the original's page while this file was loaded has two ids: keyledger's
// own, and the original's, by which its pages know it, in this tag. Imported keys have one.
const TAG = 'crs:'

const originalID = (key) => (key.tags || []).find((t) => t.startsWith(TAG))?.slice(TAG.length) || key.id

// ids are those of keys with two, by the original's.
const ids = new Map()

function remember(key) {
  const id = originalID(key)
  if (id !== key.id) ids.set(id, key.id)
  return id
}

// ourID is keyledger's id of a key that the original names.
async function ourID(id) {
  if (ids.has(id)) return ids.get(id)
  const { status, body } = await ask('GET', `/v1/keys?limit=1&tag=${encodeURIComponent(TAG + id)}`)
  if (status === 200 && body.data.length > 0) {
    ids.set(id, body.data[0].id)
    return body.data[0].id
  }
  return id
}

// keyData is a key as the original's routes read it.
function keyData(key) {
  const permissions = key.permissions.includes('all') ? [] : key.permissions
  return {
    id: remember(key),
    name: key.name,
    description: key.description || '',
    permissions,
    isActive: key.isActive,
    expiresAt: key.expiresAt,
    createdAt: key.createdAt,
    tags: (key.tags || []).filter((t) => !t.startsWith(TAG)),
    tokenLimit: key.tokenLimit,
    concurrencyLimit: key.concurrencyLimit,
    rateLimitWindow: key.rateLimitWindow,
    rateLimitRequests: key.rateLimitRequests,
    rateLimitCost: 0,
    dailyCostLimit: Number(key.dailyCostLimit),
    totalCostLimit: Number(key.totalCostLimit),
    weeklyOpusCostLimit: 0,
    enableModelRestriction: key.enableModelRestriction,
    restrictedModels: key.restrictedModels,
    enableClientRestriction: key.enableClientRestriction,
    allowedClients: key.allowedClients,
    claudeAccountId: key.claudeAccountId,
    claudeConsoleAccountId: key.claudeConsoleAccountId,
    geminiAccountId: key.geminiAccountId,
    openaiAccountId: key.openaiAccountId,
    bedrockAccountId: key.bedrockAccountId,
    azureOpenaiAccountId: null,
    droidAccountId: null
  }
}

// --- the middleware ---------------------------------------------------------------------------

// services are keyledger's names of what the original serves, by the path of its routes.
const services = [
  [/^\/openai\/(claude|v1\/messages)/, 'claude'],
  [/^\/openai\/gemini/, 'gemini'],
  [/^\/(openai|azure)(\/|$)/, 'openai'],
  [/^\/gemini/, 'gemini'],
  [/^\/droid\/openai/, 'openai'],
  [/^\/(api|claude|droid)(\/|$)/, 'claude']
]

function serviceOf(url) {
  return services.find(([pattern]) => pattern.test(url))?.[1]
}

function secretOf(req) {
  const headers = req.headers
  const bearer = /^bearer\s+(.+)$/i.exec(headers.authorization || '')
  for (const text of [headers['x-api-key'], headers['x-goog-api-key'], bearer?.[1], headers.authorization, headers['api-key'], req.query?.key]) {
    const one = Array.isArray(text) ? text[0] : text
    if (typeof one === 'string' && one.trim() !== '') return one.trim()
  }
  return ''
}

function modelOf(req, url) {
  if (typeof req.body?.model === 'string') return req.body.model.slice(0, 200)
  return /\/models\/([^/:?]+)/.exec(url)?.[1]
}

// What an image, a sound or a file counts at the most, whose bytes stand in a body as base64.
const MEDIA_TOKENS = 5000

// textOf counts the tokens that the text of a value can come to. A long text without a space is
// no text.
function textOf(value) {
  if (typeof value === 'string') return value.length > 2000 && !value.includes(' ') ? MEDIA_TOKENS : Buffer.byteLength(value) / 3 + 1
  if (value === null || typeof value !== 'object') return 1
  return Object.entries(value).reduce((sum, [name, one]) => sum + name.length / 3 + textOf(one), 0)
}

function estimateOf(body) {
  const bounds = [body?.max_completion_tokens, body?.max_tokens, body?.max_output_tokens, body?.generationConfig?.maxOutputTokens].filter((n) => Number.isInteger(n) && n > 0)
  if (bounds.length === 0) return undefined
  const answers = Number.isInteger(body.n) && body.n > 1 ? body.n : 1
  return { inputTokens: Math.ceil(textOf(body)), outputTokens: Math.max(...bounds) * answers }
}

// Refusals, in the original's own words. Of limit each has what the original's clients read.
const refusals = {
  REQUESTS_EXCEEDED: (d, l) => [429, { error: 'Rate limit exceeded', message: d.message, currentRequests: l.used, requestLimit: l.limit, ...resets(d, l) }],
  TOKENS_EXCEEDED: (d, l) => [429, { error: 'Rate limit exceeded', message: d.message, currentTokens: l.used, tokenLimit: l.limit, ...resets(d, l) }],
  CONCURRENCY_EXCEEDED: (d, l) => [429, { error: 'Concurrency limit exceeded', message: d.message, currentConcurrency: l.used, concurrencyLimit: l.limit }, { 'Retry-After': '1' }],
  DAILY_COST_EXCEEDED: (d, l) => cost(d, l, 'daily_cost_limit_exceeded'),
  WEEKLY_COST_EXCEEDED: (d, l) => cost(d, l, 'weekly_cost_limit_exceeded'),
  MONTHLY_COST_EXCEEDED: (d, l) => cost(d, l, 'monthly_cost_limit_exceeded'),
  TOTAL_COST_EXCEEDED: (d, l) => cost(d, l, 'total_cost_limit_exceeded'),
  SERVICE_NOT_PERMITTED: (d) => [403, { error: { type: 'permission_error', message: d.message } }],
  MODEL_NOT_ALLOWED: (d) => [403, { error: { type: 'forbidden', message: d.message } }],
  MODEL_NOT_PRICED: (d) => [403, { error: { type: 'forbidden', message: d.message } }],
  CLIENT_NOT_ALLOWED: (d, l, req) => [403, { error: 'Client not allowed', message: d.message, allowedClients: d.key?.allowedClients, userAgent: req.headers['user-agent'] }],
  MALFORMED: (d) => [401, { error: 'Invalid API key format', message: d.message }]
}

const limitNames = {
  REQUESTS_EXCEEDED: 'requests', TOKENS_EXCEEDED: 'tokens', CONCURRENCY_EXCEEDED: 'concurrency',
  DAILY_COST_EXCEEDED: 'dailyCost', WEEKLY_COST_EXCEEDED: 'weeklyCost', MONTHLY_COST_EXCEEDED: 'monthlyCost', TOTAL_COST_EXCEEDED: 'totalCost'
}

function resets(d, l) {
  return { resetAt: l.resetsAt, remainingMinutes: Math.ceil((d.retryAfterSeconds ?? 0) / 60) }
}

function cost(d, l, code) {
  return [402, { error: { type: 'insufficient_quota', message: d.message, code }, currentCost: l.used, costLimit: l.limit, ...(l.resetsAt ? { resetAt: l.resetsAt } : {}) }]
}

function refuse(req, res, decision) {
  const limit = decision.limits?.find((l) => l.name === limitNames[decision.code]) ?? {}
  const [status, body, headers] = refusals[decision.code]?.(decision, limit, req) ?? [401, { error: 'Invalid API key', message: decision.message }]
  for (const [name, value] of Object.entries(headers ?? {})) res.setHeader(name, value)
  res.status(status).json(body)
}

async function authenticateApiKey(req, res, next) {
  const secret = secretOf(req)
  if (secret === '') {
    return res.status(401).json({ error: 'Missing API key', message: 'Please provide an API key in the x-api-key, x-goog-api-key, or Authorization header' })
  }
  const url = req.originalUrl ?? req.url
  // What asks no model costs nothing, and no limit stands against it: the key must be live.
  const free = req.method === 'GET' || req.method === 'HEAD' || /(\/count_tokens|:countTokens)\/?$/.test(url.split('?')[0])
  let decision
  try {
    const { status, body } = free
      ? await ask('POST', '/v1/keys/verify', { apiKey: secret })
      : await ask('POST', '/v1/admissions', {
        apiKey: secret, service: serviceOf(url), model: modelOf(req, url), userAgent: req.headers['user-agent']?.slice(0, 1000), leaseSeconds, estimate: estimateOf(req.body)
      })
    if (status !== 200) throw new Away(`keyledger answered ${status}: ${body.detail ?? ''}`)
    decision = body
    if (decision.code === 'CLIENT_NOT_ALLOWED') { // a refusal does not show the key, and this one is answered with what it allows
      decision.key = (await ask('POST', '/v1/keys/verify', { apiKey: secret })).body.key
    }
  } catch (error) {
    log('error', 'keyledger was not there to decide', { error: error.message })
    return res.status(503).json({ error: 'Service temporarily unavailable', message: 'The key service is not available at the moment' })
  }
  if (!(free ? decision.valid : decision.allowed)) return refuse(req, res, decision)
  req.headers['x-api-key'] = secret // where the original's routes look
  req.apiKey = keyData(decision.key)
  if (free) return next()
  const admission = { id: decision.admissionId, keyId: decision.key.id, events: 0, ended: false }
  if (res.destroyed || res.closed || req.aborted) return release(admission) // its client left while keyledger was asked
  hold(admission, req, res)
  return requests.run(admission, next)
}

async function release(admission) {
  try {
    await ask('DELETE', `/v1/admissions/${admission.id}`)
  } catch (error) {
    log('warn', 'an admission could not be released, and ends by itself', { error: error.message })
  }
}

// hold keeps an admission's lease while its answer flows, and gives it back when that has ended
// and no usage has.
function hold(admission, req, res) {
  const renew = setInterval(async () => {
    try {
      const { status } = await ask('POST', `/v1/admissions/${admission.id}/renew`, { leaseSeconds })
      if (status !== 200) clearInterval(renew) // it has ended
    } catch (error) {
      log('warn', 'a lease could not be renewed', { error: error.message })
    }
  }, (leaseSeconds * 1000) / 3)
  renew.unref()
  const end = () => {
    if (admission.ended) return
    admission.ended = true
    clearInterval(renew)
    setTimeout(() => {
      if (admission.events === 0) release(admission) // else its usage has ended it, or will from the spool
    }, USAGE_GRACE).unref()
  }
  for (const event of ['close', 'finish', 'error']) res.once(event, end)
  for (const event of ['aborted', 'error']) req.once(event, end)
}

// --- what the original's service does ---------------------------------------------------------

// used is an event, as POST /v1/usage takes it. The first of a request settles its admission;
// others of the same request count beside it.
async function used(keyId, usage, model, accountId, meta) {
  const admission = requests.getStore()
  const event = { model: model || 'unknown', usage, occurredAt: new Date().toISOString() }
  if (accountId) event.accountId = String(accountId).slice(0, 200)
  if (admission !== undefined) {
    const n = admission.events++
    event.requestId = `${admission.id}:${n}`
    event.keyId = admission.keyId
    if (n === 0) event.admissionId = admission.id
  } else {
    event.requestId = meta?.requestId ? `crs:${meta.requestId}`.slice(0, 200) : randomUUID()
    event.keyId = await ourID(keyId).catch(() => keyId)
  }
  await record(event)
}

// counted keeps the members of an Anthropic usage object that count.
function counted(usage) {
  const { input_tokens, output_tokens, cache_creation_input_tokens, cache_read_input_tokens, cache_creation } = usage ?? {}
  return { input_tokens: input_tokens ?? 0, output_tokens, cache_creation_input_tokens, cache_read_input_tokens, cache_creation }
}

async function check(secret, original, more) {
  try {
    const { status, body } = await ask('POST', '/v1/keys/verify', { apiKey: String(secret ?? '') })
    if (status !== 200) throw new Away(`keyledger answered ${status}`)
    if (!body.valid) return { valid: false, error: body.message, ...(body.key ? { keyName: body.key.name } : {}) }
    return { valid: true, keyData: { ...keyData(body.key), ...(await more?.(originalID(body.key))) } }
  } catch (error) {
    log('error', 'keyledger was not there to verify', { error: error.message })
    return { valid: false, error: 'Internal validation error' }
  }
}

// fields are what keyledger calls the members of the original's keys; others it does not have.
const fields = [
  'name', 'description', 'tokenLimit', 'expiresAt', 'isActive', 'concurrencyLimit', 'rateLimitWindow', 'rateLimitRequests', 'dailyCostLimit', 'totalCostLimit',
  'enableModelRestriction', 'restrictedModels', 'enableClientRestriction', 'allowedClients', 'claudeAccountId', 'claudeConsoleAccountId', 'geminiAccountId',
  'openaiAccountId', 'bedrockAccountId'
]

// lacking are limits and bindings that keyledger does not have: a key that uses one would be
// given more than it should.
const lacking = {
  rateLimitCost: (v) => Number(v) > 0,
  weeklyOpusCostLimit: (v) => Number(v) > 0,
  azureOpenaiAccountId: (v) => Boolean(v),
  droidAccountId: (v) => Boolean(v),
  expirationMode: (v, key) => v === 'activation' && !key.expiresAt && !key.activatedAt,
  serviceRates: (v) => Object.values(typeof v === 'string' && v !== '' ? JSON.parse(v) : (v ?? {})).some((rate) => Number(rate) !== 1)
}

function lacks(key) {
  return Object.entries(lacking).filter(([name, uses]) => {
    try {
      return uses(key[name], key)
    } catch {
      return true // it cannot be read, so nobody can say that it means nothing
    }
  }).map(([name]) => name)
}

function translated(options) {
  const missing = lacks(options)
  if (missing.length > 0) throw new Error(`keyledger has no ${missing.join(', ')}`)
  const body = {}
  for (const name of fields) {
    if (options[name] !== undefined) body[name] = options[name] === '' ? null : options[name]
  }
  if (body.isActive !== undefined) body.isActive = body.isActive === true || body.isActive === 'true'
  if (options.permissions !== undefined) {
    const list = [].concat(options.permissions).filter((p) => p !== '')
    body.permissions = list.length === 0 ? ['all'] : list
  }
  return body
}

async function change(method, where, body) {
  const { status, body: answer } = await ask(method, where, body)
  if (status >= 400) {
    const wrong = (answer.errors ?? []).map((e) => `${e.field} ${e.message}`).join(', ')
    throw new Error(`keyledger: ${answer.detail ?? status}${wrong ? ` (${wrong})` : ''}`)
  }
  return answer
}

function patchService(service) {
  const original = {}
  for (const name of ['recordUsage', 'recordUsageWithDetails', 'generateApiKey', 'updateApiKey', 'deleteApiKey', 'restoreApiKey', 'permanentDeleteApiKey', 'getUsageStats', 'getAllApiKeys']) {
    if (typeof service[name] === 'function') original[name] = service[name].bind(service)
  }
  const guarded = (recording, keep) => async (...args) => {
    try {
      await keep(...args)
    } catch (error) {
      log('error', 'usage could not be kept', { error: error.message })
    }
    return recording(...args)
  }
  service.recordUsage = guarded(original.recordUsage, (keyId, input = 0, output = 0, create = 0, read = 0, model, accountId, _type, _tier, meta) =>
    used(keyId, { input_tokens: input, output_tokens: output, cache_creation_input_tokens: create, cache_read_input_tokens: read }, model, accountId, meta))
  service.recordUsageWithDetails = guarded(original.recordUsageWithDetails, (keyId, usage, model, accountId, _type, meta) => used(keyId, counted(usage), model, accountId, meta))
  service.recordUsageMetrics = service.recordUsage
  service.validateApiKey = (secret) => check(secret)
  service.validateApiKeyForStats = (secret) => check(secret, original, async (id) => (original.getUsageStats ? { usage: await original.getUsageStats(id) } : {}))

  service.generateApiKey = async (options = {}) => {
    const body = translated(options)
    const made = await original.generateApiKey(options)
    const tags = [...(options.tags ?? []), TAG + made.id]
    const { apiKey } = await change('POST', '/v1/keys', { ...body, tags })
    return { ...made, apiKey }
  }
  service.createApiKey = service.generateApiKey
  service.updateApiKey = async (id, updates = {}) => {
    const body = translated(updates)
    const our = await ourID(id)
    if (updates.tags !== undefined) body.tags = our === id ? updates.tags : [...updates.tags, TAG + id]
    if (Object.keys(body).length > 0) await change('PATCH', `/v1/keys/${our}`, body)
    return original.updateApiKey(id, updates)
  }
  service.deleteApiKey = async (id, ...by) => {
    await change('DELETE', `/v1/keys/${await ourID(id)}`)
    return original.deleteApiKey(id, ...by)
  }
  service.restoreApiKey = async (id, ...by) => {
    await change('POST', `/v1/keys/${await ourID(id)}/restore`)
    return original.restoreApiKey(id, ...by)
  }
  service.permanentDeleteApiKey = async (id, ...by) => {
    await change('DELETE', `/v1/keys/${await ourID(id)}?purge=true`)
    return original.permanentDeleteApiKey(id, ...by)
  }
  keysOf = original.getAllApiKeys
}

// --- loading ----------------------------------------------------------------------------------

let keysOf // lists the original's keys, once its service is loaded

// A route file captures the middleware when it is loaded, so it is replaced as soon as its own
// module is, before anybody has it.
const patches = [
  [/[\\/]src[\\/]middleware[\\/]auth(\.js)?$/, (exported) => { exported.authenticateApiKey = authenticateApiKey }],
  [/[\\/]src[\\/]services[\\/]apiKeyService(\.js)?$/, patchService]
]
const patched = new WeakSet()
const load = Module._load

Module._load = function (request, parent, ...rest) {
  const exported = load.call(this, request, parent, ...rest)
  if (typeof request !== 'string' || !/(auth|apiKeyService)(\.js)?$/.test(request) || exported === null || typeof exported !== 'object' || patched.has(exported)) return exported
  let file
  try {
    file = Module._resolveFilename(request, parent)
  } catch {
    return exported
  }
  const patch = patches.find(([pattern]) => pattern.test(file))
  if (patch !== undefined) {
    patched.add(exported)
    patch[1](exported)
  }
  return exported
}

// suits tells whether keyledger has all that the original's keys use; else it names the keys.
async function suits() {
  if (keysOf === undefined) return true
  const bad = (await keysOf()).map((key) => ({ key: `${key.name} (${key.id})`, uses: lacks(key) })).filter((one) => one.uses.length > 0)
  for (const one of bad) log('error', 'a key uses what keyledger does not have', one)
  return bad.length === 0
}

// The original listens once its databases are there: that is when its keys can be looked at.
const listen = http.Server.prototype.listen
http.Server.prototype.listen = function (...args) {
  http.Server.prototype.listen = listen
  suits().then(
    (ok) => {
      if (ok) return listen.apply(this, args)
      log('error', 'not started: take these limits off the keys, or do without keyledger')
      process.exit(1)
    },
    (error) => {
      log('error', 'not started: the keys could not be looked at', { error: error.message })
      process.exit(1)
    }
  )
  return this
}

if (token === '') {
  log('error', 'not started: KEYLEDGER_TOKEN is required, an access token of the role relay or admin')
  process.exit(1)
}
sendAll()
setInterval(sendAll, RETRY_EVERY).unref()

module.exports = { serviceOf, lacks, translated, sendAll }
