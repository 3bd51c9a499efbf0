'use strict'

// Stands in for a route: it has captured the middleware when it was loaded.

const { authenticateApiKey } = require('../middleware/auth')
const apiKeyService = require('../services/apiKeyService')

const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

async function answer(req, res) {
  const { say = { nothing: req.method === 'GET' }, model } = req.body
  if (say.hold) await sleep(say.hold)
  res.status(200).json({ apiKey: req.apiKey, costs: undefined })
  if (say.nothing) return
  if (say.plain) await apiKeyService.recordUsage(req.apiKey.id, 100, 10, 0, 40, model, 'account-1', 'openai', null, { requestId: 'r1' })
  else await apiKeyService.recordUsageWithDetails(req.apiKey.id, { input_tokens: 100, output_tokens: 10, request_anthropic_beta: 'x', speed: 'fast' }, model, 'account-1', 'claude-official', { requestId: 'r1' })
  if (say.twice) await apiKeyService.recordUsage(req.apiKey.id, 1, 1, 0, 0, model, 'account-2')
}

module.exports = (req, res) => authenticateApiKey(req, res, () => answer(req, res))
