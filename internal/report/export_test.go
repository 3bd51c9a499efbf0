package report

// Piecemeal reads so many rows of keys at once and so many days of tags at first, and gives statements so
// many sets of a tag, so that tests see pages that need more.
func (r *Reports) Piecemeal(rows int64, days int, sets int32) *Reports {
	r.fewRows, r.tagDays, r.mostSets = rows, days, sets
	return r
}
