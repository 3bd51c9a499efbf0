'use strict'

// Stands in for the original's server: it loads what it serves, and listens once its databases
// are there.

const http = require('node:http')
const api = require('./routes/api')
const apiKeyService = require('./services/apiKeyService')

const server = http.createServer(async (req, res) => {
  let text = ''
  for await (const part of req) text += part
  req.originalUrl = req.url
  req.query = Object.fromEntries(new URL(req.url, 'http://x').searchParams)
  req.body = text === '' ? {} : JSON.parse(text)
  res.status = (status) => Object.assign(res, { statusCode: status })
  res.json = (body) => res.setHeader('content-type', 'application/json').end(JSON.stringify(body))
  if (req.url === '/recorded') return res.json(apiKeyService.recorded)
  if (req.url.startsWith('/service/')) {
    try {
      return res.json({ answer: await apiKeyService[req.url.slice('/service/'.length)](...req.body) })
    } catch (error) {
      return res.status(400).json({ error: error.message })
    }
  }
  return api(req, res)
})
setTimeout(() => server.listen(0, '127.0.0.1', () => console.log(server.address().port)), 50)
