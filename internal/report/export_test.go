package report

// Piecemeal reads pages from so many keys and days at first, and gives statements so many sets of a tag,
// so that tests see pages that need more.
func (r *Reports) Piecemeal(keys int64, days int, sets int32) *Reports {
	r.firstKeys, r.tagDays, r.mostSets = keys, days, sets
	return r
}
