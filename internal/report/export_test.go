package report

// Piecemeal reads pages from so many keys and days at first, so that tests see pages that need more.
func (r *Reports) Piecemeal(keys int64, days int) *Reports {
	r.firstKeys, r.tagDays = keys, days
	return r
}
