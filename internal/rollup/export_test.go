package rollup

// InParts makes parts of so many ledger rows, so that tests see chunks that have several.
func (r *Rollup) InParts(rows int64) *Rollup {
	r.partRows = rows
	return r
}
