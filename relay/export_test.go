package relay

// BreakJournal makes every write of the journal fail, as a full disk does.
func (r *Relay) BreakJournal() {
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	_ = r.journal.file.Close()
}
