'use strict'

// Stands in for the original's middleware, which must never be asked.

module.exports = {
  authenticateApiKey: (req, res) => res.status(500).json({ error: 'the original was asked' })
}
