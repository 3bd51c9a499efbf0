'use strict'

// Stands in for the original's service: one instance, with the same methods and shapes.

const { randomUUID } = require('node:crypto')

class ApiKeyService {
  constructor() {
    this.keys = new Map(JSON.parse(process.env.TEST_KEYS || '[]').map((key) => [key.id, key]))
    this.recorded = []
    this.recordUsageMetrics = this.recordUsage // bound when it is loaded, as there
  }

  async generateApiKey(options = {}) {
    const key = { id: randomUUID(), ...options }
    this.keys.set(key.id, key)
    return { ...key, apiKey: `cr_${'0'.repeat(64)}` }
  }

  async validateApiKey() {
    return { valid: false, error: 'the original was asked' }
  }

  async validateApiKeyForStats() {
    return { valid: false, error: 'the original was asked' }
  }

  async updateApiKey(id, updates) {
    if (!this.keys.has(id)) throw new Error('API key not found')
    Object.assign(this.keys.get(id), updates)
    return { success: true }
  }

  async deleteApiKey(id) {
    Object.assign(this.keys.get(id), { isDeleted: true })
    return { success: true }
  }

  async restoreApiKey(id) {
    Object.assign(this.keys.get(id), { isDeleted: false })
    return { success: true, apiKey: this.keys.get(id) }
  }

  async permanentDeleteApiKey(id) {
    this.keys.delete(id)
    return { success: true }
  }

  async recordUsage(keyId, input = 0, output = 0, cacheCreate = 0, cacheRead = 0, model = 'unknown', accountId = null) {
    this.recorded.push({ keyId, input, output, cacheCreate, cacheRead, model, accountId })
    return { realCost: 1, ratedCost: 2 }
  }

  async recordUsageWithDetails(keyId, usage, model = 'unknown', accountId = null) {
    this.recorded.push({ keyId, usage, model, accountId })
    return { realCost: 1, ratedCost: 2 }
  }

  async getUsageStats(id) {
    return { total: { requests: this.recorded.filter((r) => r.keyId === id).length } }
  }

  async getAllApiKeys() {
    return [...this.keys.values()]
  }
}

module.exports = new ApiKeyService()
