package report

// Piecemeal reads so many keys at once and so many days of tags at first, and gives statements so many
// sets of a tag, so that tests see pages that need more.
func (r *Reports) Piecemeal(keys int64, days int, sets int32) *Reports {
	r.fewKeys, r.tagDays, r.mostSets = keys, days, sets
	return r
}
